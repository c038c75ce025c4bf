//! Clones start from their origin wherever the target has it, or gets it before.

use super::support::*;
use crate::plan::{Dependency, Plan, Refusal};

fn tree() -> [Ds; 3] {
    [
        ds("tank/db").snaps("r"),
        // Listed before its origin.
        ds("tank/db/clone").origin("tank/db/tpl@b").snaps("x y"),
        ds("tank/db/tpl").snaps("a b c"),
    ]
}

fn of<'p>(plan: &'p Plan, source: &str) -> (usize, &'p crate::plan::DatasetPlan) {
    plan.datasets.iter().enumerate().find(|(_, d)| d.source.as_str() == source).unwrap()
}

#[test]
fn the_origin_goes_first_and_the_clone_starts_from_it() {
    let plan = case(tree(), []).recursive().plan();
    let (origin, _) = of(&plan, "tank/db/tpl");
    let (at, clone) = of(&plan, "tank/db/clone");
    assert!(origin < at && clone.after.contains(&origin) && clone.after.contains(&0));
    assert_eq!(
        lines(clone),
        [
            "tank/db/clone@x -> backup/db/clone@x from tank/db/tpl@b origin backup/db/tpl@b new",
            "tank/db/clone@y -> backup/db/clone@y from tank/db/clone@x"
        ]
    );
    assert!(clone.notes.is_empty());
}

#[test]
fn with_newest_alone_the_origins_snapshot_is_sent_as_well() {
    let plan = case(tree(), []).recursive().newest().plan();
    assert_eq!(
        lines(of(&plan, "tank/db/tpl").1),
        ["tank/db/tpl@b -> backup/db/tpl@b full new", "tank/db/tpl@c -> backup/db/tpl@c from tank/db/tpl@b"]
    );
    assert_eq!(
        lines(of(&plan, "tank/db/clone").1),
        ["tank/db/clone@y -> backup/db/clone@y from tank/db/tpl@b origin backup/db/tpl@b new"]
    );
}

#[test]
fn the_targets_own_name_of_the_origin_is_used() {
    let target = [ds("backup/db").snaps("r"), ds("backup/db/tpl").snaps("a").snap("renamed", guid("b").0).snaps("c")];
    let plan = case(tree(), target.clone()).recursive().plan();
    let (_, clone) = of(&plan, "tank/db/clone");
    assert!(lines(clone)[0].ends_with("origin backup/db/tpl@renamed new"), "{:?}", lines(clone));
    assert!(clone.after.is_empty(), "nothing to wait for");
    // The same where the origin's dataset takes no part.
    let plan = case(tree(), target).recursive().exclude("tpl").plan();
    assert!(lines(of(&plan, "tank/db/clone").1)[0].ends_with("origin backup/db/tpl@renamed new"));
}

#[test]
fn without_the_origin_a_clone_goes_in_full_and_says_so() {
    let outside = case([ds("tank/db").origin("tank/other@s").snaps("x")], []);
    assert_eq!(outside.lines(), ["tank/db@x -> backup/db@x full new"]);
    assert_eq!(outside.plan().datasets[0].notes.len(), 1);
    let excluded = case(tree(), []).recursive().exclude("tpl").plan();
    let (_, clone) = of(&excluded, "tank/db/clone");
    assert_eq!(lines(clone)[0], "tank/db/clone@x -> backup/db/clone@x full new");
    assert_eq!(clone.notes.len(), 1);
    // The target's copy of the origin's dataset no longer has that snapshot.
    let target = [ds("backup/db").snaps("r"), ds("backup/db/tpl").snaps("a b c").without("b")];
    let pruned = case(tree(), target).recursive().plan();
    assert_eq!(lines(of(&pruned, "tank/db/clone").1)[0], "tank/db/clone@x -> backup/db/clone@x full new");
}

#[test]
fn an_origin_that_goes_only_so_far_is_not_sent_further() {
    let source = [
        ds("tank/db").snaps("x"),
        ds("tank/db/clone").origin("tank/db/tpl@b").snap("x", 77),
        ds("tank/db/tpl").snap("x", 5).snaps("b"),
    ];
    let plan = case(source, []).recursive().upto("x").plan();
    assert_eq!(lines(of(&plan, "tank/db/tpl").1), ["tank/db/tpl@x -> backup/db/tpl@x full new"]);
    assert_eq!(lines(of(&plan, "tank/db/clone").1), ["tank/db/clone@x -> backup/db/clone@x full new"]);
}

#[test]
fn a_parent_that_is_a_clone_of_its_child_goes_in_full() {
    let source = [ds("tank/db").origin("tank/db/a@s").snaps("x"), ds("tank/db/a").snaps("s")];
    let plan = case(source, []).recursive().plan();
    assert_eq!(lines(&plan.datasets[0]), ["tank/db@x -> backup/db@x full new"]);
    assert_eq!(plan.datasets[0].notes.len(), 1);
    assert_eq!(plan.datasets[1].after, [0]);
}

#[test]
fn clones_of_each_other_end() {
    let source = [
        ds("tank/db").snaps("r"),
        ds("tank/db/a").origin("tank/db/b@s").snaps("t"),
        ds("tank/db/b").origin("tank/db/a@t").snaps("s"),
        ds("tank/db/c").origin("tank/db/c@u").snaps("u"),
    ];
    let plan = case(source, []).recursive().plan();
    assert_eq!(plan.totals().steps, 4);
    assert!(plan.datasets.iter().enumerate().all(|(at, d)| d.after.iter().all(|a| *a < at)));
}

#[test]
fn a_clone_of_a_refused_origin_waits_for_the_operator() {
    let target = [ds("backup/db").snaps("r"), ds("backup/db/tpl").snaps("own")];
    let plan = case(tree(), target).recursive().plan();
    assert!(matches!(
        of(&plan, "tank/db/clone").1.refusal(),
        Some(Refusal::DependsOn { as_its: Dependency::Origin, .. })
    ));
}

#[test]
fn a_rollback_that_takes_the_origin_away_sends_it_again() {
    // The target's tpl has @b, but newer than its newest common snapshot's place: after the rollback it is sent anew.
    let target = [ds("backup/db").snaps("r"), ds("backup/db/tpl").snaps("a own")];
    let plan = case(tree(), target).recursive().rollback().plan();
    let (origin, tpl) = of(&plan, "tank/db/tpl");
    assert_eq!(lines(tpl)[0], r#"rollback backup/db/tpl@a ["own"]"#);
    assert!(of(&plan, "tank/db/clone").1.after.contains(&origin));
}

#[test]
fn a_clone_that_stands_goes_on_by_its_own_snapshots() {
    let target = [ds("backup/db").snaps("r"), ds("backup/db/clone").snaps("x"), ds("backup/db/tpl").snaps("a b c")];
    let plan = case(tree(), target).recursive().plan();
    assert_eq!(lines(of(&plan, "tank/db/clone").1), ["tank/db/clone@y -> backup/db/clone@y from tank/db/clone@x"]);
}
