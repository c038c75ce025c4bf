//! Recursion: order, excludes, placeholders, dependence on a parent.

use super::support::*;
use crate::plan::{Dependency, Refusal};

fn names(all: &[crate::types::DatasetName]) -> Vec<&str> {
    all.iter().map(|d| d.as_str()).collect()
}

#[test]
fn parents_come_first_even_if_listed_last() {
    let c = case([ds("tank/db/a/b").snaps("s"), ds("tank/db/a").snaps("s"), ds("tank/db").snaps("s")], []).recursive();
    let plan = c.plan();
    let order: Vec<_> = plan.datasets.iter().map(|d| (d.source.as_str(), d.after.clone())).collect();
    assert_eq!(order, [("tank/db", vec![]), ("tank/db/a", vec![0]), ("tank/db/a/b", vec![1])]);
    assert!(plan.placeholders.is_empty());
}

#[test]
fn a_child_waits_only_for_a_parent_that_is_made() {
    let c = case([ds("tank/db").snaps("s t"), ds("tank/db/a").snaps("s t")], [ds("backup/db").snaps("s")]);
    assert!(c.recursive().plan().datasets.iter().all(|d| d.after.is_empty()));
}

#[test]
fn missing_parents_become_placeholders() {
    let mut c = case([ds("tank/db").snaps("s")], []);
    c.roots.1 = name("backup/from/dc1/db");
    assert_eq!(names(&c.plan().placeholders), ["backup/from", "backup/from/dc1"]);
    c.above.push(ds("backup/from"));
    assert_eq!(names(&c.plan().placeholders), ["backup/from/dc1"]);
}

#[test]
fn a_dataset_without_snapshots_becomes_a_placeholder_only_if_needed() {
    let all = [ds("tank/db").snaps("s"), ds("tank/db/a"), ds("tank/db/a/b").snaps("s"), ds("tank/db/empty")];
    let c = case(all, []).recursive();
    let plan = c.plan();
    assert_eq!(names(&plan.placeholders), ["backup/db/a"]);
    assert_eq!(plan.notes.len(), 2);
    let last = &plan.datasets[1];
    assert_eq!((last.source.as_str(), &last.after), ("tank/db/a/b", &vec![0]), "through the placeholder");
    assert_eq!(plan.placeholders_of(last).count(), 1);
    assert_eq!(plan.placeholders_of(&plan.datasets[0]).count(), 0, "the root is received where nothing is");
}

#[test]
fn a_root_without_snapshots_is_a_placeholder_too() {
    let c = case([ds("tank/db"), ds("tank/db/a").snaps("s")], []).recursive();
    assert_eq!(names(&c.plan().placeholders), ["backup/db"]);
}

#[test]
fn datasets_without_the_wanted_tag_are_left_alone() {
    let c = case([ds("tank/db").snaps("s t"), ds("tank/db/a").snaps("x"), ds("tank/db/a/b").snaps("s")], []);
    let plan = c.recursive().upto("s").plan();
    let sent: Vec<_> = plan.datasets.iter().map(|d| d.source.as_str()).collect();
    assert_eq!(sent, ["tank/db", "tank/db/a/b"]);
    assert_eq!(names(&plan.placeholders), ["backup/db/a"]);
    assert_eq!(plan.notes, ["tank/db/a has no snapshot @s and is left alone"]);
}

#[test]
fn excluded_datasets_take_their_children_with_them() {
    let all = ["", "/scratch", "/scratch/x", "/a", "/a/cache"].map(|n| ds(&format!("tank/db{n}")).snaps("s"));
    let plan = case(all, []).recursive().exclude("scratch").exclude("*/cache").plan();
    let sent: Vec<_> = plan.datasets.iter().map(|d| d.source.as_str()).collect();
    assert_eq!(sent, ["tank/db", "tank/db/a"]);
    assert_eq!(plan.notes, ["3 dataset(s) excluded"]);
}

#[test]
fn without_r_only_the_root_goes() {
    let plan = case([ds("tank/db").snaps("s"), ds("tank/db/a").snaps("s")], []).plan();
    assert_eq!(plan.datasets.len(), 1);
}

#[test]
fn what_is_only_on_the_target_is_counted_and_not_touched() {
    let c = case(
        [ds("tank/db").snaps("s"), ds("tank/db/e")],
        [ds("backup/db").snaps("s"), ds("backup/db/e"), ds("backup/db/own").snaps("q")],
    );
    let plan = c.recursive().plan();
    assert_eq!((plan.only_on_target, plan.datasets.len()), (1, 1));
    assert!(plan.is_up_to_date());
}

#[test]
fn a_child_of_a_refused_new_parent_is_refused_too() {
    let mut parent = ds("tank/db/a").snaps("s").encrypted("tank/db/a", true);
    let c = |parent: &Ds| {
        let mut c = case([ds("tank/db").snaps("s"), parent.clone(), ds("tank/db/a/b/c").snaps("s")], []).recursive();
        c.target_caps.pool_features.remove("encryption");
        c.plan()
    };
    let plan = c(&parent);
    assert!(matches!(plan.datasets[1].refusal(), Some(Refusal::EncryptionLost { .. })));
    assert!(matches!(
        plan.datasets[2].refusal(),
        Some(Refusal::DependsOn { on, as_its: Dependency::Parent, .. }) if on.as_str() == "tank/db/a"
    ));
    assert!(plan.placeholders.is_empty(), "a placeholder must not take a refused dataset's place");
    parent.0.encryption = None;
    assert_eq!(c(&parent).refusals().count(), 0);
}

#[test]
fn a_child_of_a_refused_old_parent_goes_on() {
    let c = case(
        [ds("tank/db").snaps("s t"), ds("tank/db/a").snaps("s t")],
        [ds("backup/db").snaps("s x"), ds("backup/db/a").snaps("s")],
    );
    let plan = c.recursive().plan();
    assert_eq!((plan.totals().refused, plan.totals().with_work), (1, 1));
}

#[test]
fn a_name_too_long_for_the_target_is_refused_alone() {
    let long = format!("tank/db/{}/{}", "x".repeat(120), "y".repeat(100));
    let mut c = case([ds("tank/db").snaps("s"), ds(&long).snaps("s")], []).recursive();
    c.roots.1 = name(&format!("backup/{}", "z".repeat(60)));
    let plan = c.plan();
    assert_eq!((plan.totals().with_work, plan.totals().refused), (1, 1));
    assert!(matches!(plan.datasets[1].refusal(), Some(Refusal::NameTooLong { .. })));
    // The dataset's name fits, but its snapshot's does not.
    let mut c = case([ds("tank/db").snap(&"s".repeat(200), 1)], []);
    c.roots.1 = name(&format!("backup/{}", "z".repeat(60)));
    assert!(matches!(c.refusal(), Refusal::NameTooLong { .. }));
}

#[test]
fn a_pools_root_can_only_be_gone_on_with() {
    let mut c = case([ds("tank/db").snaps("s t")], [ds("backup")]);
    c.above.clear();
    c.roots.1 = name("backup");
    assert!(matches!(c.refusal(), Refusal::TargetExists { .. }));
    c.target = vec![ds("backup").snaps("s")];
    assert_eq!(c.lines(), ["tank/db@t -> backup@t from tank/db@s"]);
}

#[test]
fn nothing_is_made_below_what_an_interrupted_receive_left() {
    let source = [ds("tank/db"), ds("tank/db/a").snaps("s")];
    let c = case(source, [ds("backup/db").inconsistent()]).recursive();
    assert!(matches!(c.refusal(), Refusal::ParentPartial { parent, .. } if parent == name("backup/db")));
}

#[test]
fn a_child_that_was_renamed_is_told() {
    let source = [ds("tank/db").snaps("a"), ds("tank/db/new").snaps("x y")];
    let target = [ds("backup/db").snaps("a"), ds("backup/db/old").snaps("x")];
    let notes = |c: Case| c.recursive().plan().datasets.iter().flat_map(|d| d.notes.clone()).collect::<Vec<_>>();
    let said = notes(case(source.clone(), target.clone()));
    assert!(said.len() == 1 && said[0].contains("`zfs rename backup/db/old backup/db/new`"), "{said:?}");
    // It is still there under its old name: then the other one is something else.
    let source = [source[0].clone(), source[1].clone(), ds("tank/db/old").snaps("x")];
    assert_eq!(notes(case(source, target)), [""; 0]);
}
