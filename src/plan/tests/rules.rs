//! Matching, divergence, rollback, placeholders and what stands in the way.

use super::support::*;
use crate::{
    plan::{Decision, PlaceholderState, Plan, Refusal},
    types::listing::{FENCE, JOB, PropertySource, SERVING},
};

#[test]
fn a_new_target_gets_the_oldest_in_full_and_then_each() {
    let c = case([ds("tank/db").snaps("a b c")], []);
    assert_eq!(
        c.lines(),
        [
            "tank/db@a -> backup/db@a full new",
            "tank/db@b -> backup/db@b from tank/db@a",
            "tank/db@c -> backup/db@c from tank/db@b"
        ]
    );
    assert_eq!(c.clone().newest().lines(), ["tank/db@c -> backup/db@c full new"]);
    assert_eq!(c.upto("b").newest().lines(), ["tank/db@b -> backup/db@b full new"]);
}

#[test]
fn an_old_target_goes_on_from_the_newest_common() {
    let c = case([ds("tank/db").snaps("a b c d")], [ds("backup/db").snaps("a b")]);
    assert_eq!(c.lines(), ["tank/db@c -> backup/db@c from tank/db@b", "tank/db@d -> backup/db@d from tank/db@c"]);
    assert_eq!(c.clone().newest().lines(), ["tank/db@d -> backup/db@d from tank/db@b"]);
    assert_eq!(c.clone().upto("c").lines(), ["tank/db@c -> backup/db@c from tank/db@b"]);
    assert_eq!(c.clone().upto("b").lines(), ["tank/db@b up to date"]);
    let older = c.upto("a");
    assert_eq!(older.lines(), ["tank/db@a up to date"]);
    let base = |plan: Plan| match plan.datasets[0].decision.clone() {
        Decision::UpToDate { common, .. } => common.map(|common| common.guid),
        other => panic!("{other:?}"),
    };
    assert_eq!(base(older.plan()), Some(guid("b")), "what was asked for is not the base of what comes next");
    let same = case([ds("tank/db").snaps("a b")], [ds("backup/db").snaps("a b")]);
    assert!(same.plan().is_up_to_date());
}

#[test]
fn names_and_the_listings_order_decide_nothing() {
    // The target's copies have other names, and the source lists its snapshots backwards.
    let mut source = ds("tank/db").snaps("c b a");
    source.0.snapshots.reverse();
    let target = ds("backup/db").snap("zzz", guid("c").0);
    let c = case([source], [target]);
    assert_eq!(c.lines(), ["tank/db@b -> backup/db@b from tank/db@c", "tank/db@a -> backup/db@a from tank/db@b"]);
}

#[test]
fn the_same_name_is_not_the_same_snapshot() {
    let c = case([ds("tank/db").snap("a", 1)], [ds("backup/db").snap("a", 2)]);
    assert!(matches!(c.refusal(), Refusal::NoCommonSnapshot { .. }));
    assert!(matches!(c.rollback().refusal(), Refusal::NoCommonSnapshot { .. }), "a rollback cannot help");
}

#[test]
fn a_bookmark_is_a_base_where_the_snapshot_is_gone() {
    let source = ds("tank/db").snaps("a b c").bookmark("zmigrate:x:1", guid("b"), 20).bookmark("old", guid("a"), 10);
    let gone = source.clone().without("b").without("a");
    let target = ds("backup/db").snaps("a b");
    assert_eq!(case([gone.clone()], [target.clone()]).lines(), ["tank/db@c -> backup/db@c from tank/db#zmigrate:x:1"]);
    assert_eq!(case([source], [target.clone()]).lines(), ["tank/db@c -> backup/db@c from tank/db@b"]);
    let own = gone.bookmark("zmigrate:nightly:1", guid("b"), 20);
    assert_eq!(
        case([own], [target]).lines(),
        ["tank/db@c -> backup/db@c from tank/db#zmigrate:nightly:1"],
        "the job's own bookmark stays as long as the job needs it"
    );
}

#[test]
fn a_bookmark_newer_than_all_snapshots_means_up_to_date() {
    let source = ds("tank/db").snaps("a b c").without("c").bookmark("c", guid("c"), 30);
    let c = case([source], [ds("backup/db").snaps("a c")]);
    assert_eq!(c.lines(), ["tank/db@b up to date"]);
    assert_eq!(c.plan().datasets[0].notes.len(), 1);
    assert!(
        matches!(&c.plan().datasets[0].decision, Decision::UpToDate { common: None, .. }),
        "the bookmark is all there is"
    );
    assert!(matches!(c.upto("b").refusal(), Refusal::TargetPastSnapshot { .. }));
}

#[test]
fn what_the_target_has_is_not_sent_again_whatever_its_place_there() {
    let c = case([ds("tank/db").snaps("b c d")], [ds("backup/db").snaps("c b")]);
    assert_eq!(c.lines(), ["tank/db@d -> backup/db@d from tank/db@b"]);
}

#[test]
fn a_diverged_target_is_rolled_back_only_on_request() {
    let c = case([ds("tank/db").snaps("a b c")], [ds("backup/db").snaps("a x y")]);
    match c.refusal() {
        Refusal::TargetDiverged { source_newest, target_newest, common, newer } => {
            assert_eq!(source_newest.name.as_str(), "tank/db@c");
            assert_eq!(target_newest.name.as_str(), "backup/db@y");
            assert_eq!((common.name.as_str(), common.guid, newer), ("backup/db@a", guid("a"), 2));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        c.rollback().lines(),
        [
            r#"rollback backup/db@a ["x", "y"]"#,
            "tank/db@b -> backup/db@b from tank/db@a",
            "tank/db@c -> backup/db@c from tank/db@b"
        ]
    );
}

#[test]
fn a_modified_target_is_rolled_back_only_on_request() {
    let c = case([ds("tank/db").snaps("a")], [ds("backup/db").snaps("a").written(4096)]);
    assert!(matches!(c.refusal(), Refusal::TargetModified { written: 4096, .. }));
    assert_eq!(c.rollback().lines(), ["rollback backup/db@a []"]);
}

#[test]
fn a_rollback_spares_what_a_clone_lives_on() {
    let clone = ds("backup/db/clone").origin("backup/db@x").snaps("q");
    let c = case([ds("tank/db").snaps("a b")], [ds("backup/db").snaps("a x"), clone]).rollback();
    assert!(matches!(c.refusal(), Refusal::RollbackBlocked { .. }));
}

#[test]
fn own_data_is_never_received_over() {
    let c = case([ds("tank/db").snaps("a")], [ds("backup/db").referenced(1 << 30)]).rollback();
    assert!(matches!(c.refusal(), Refusal::TargetExists { referenced: 0x4000_0000, .. }));
}

#[test]
fn an_empty_placeholder_gives_way_and_no_other() {
    let with = |target: Ds| case([ds("tank/db").snaps("a")], [target]);
    let state = |c: Case| match c.refusal() {
        Refusal::PlaceholderInUse { state, .. } => state,
        other => panic!("{other:?}"),
    };
    assert_eq!(with(ds("backup/db").placeholder()).lines(), ["replace backup/db", "tank/db@a -> backup/db@a full new"]);
    assert_eq!(state(with(ds("backup/db").placeholder().referenced(1 << 20))), PlaceholderState::HasData);
    assert_eq!(state(with(ds("backup/db").placeholder().written(1 << 20))), PlaceholderState::HasData);
    let mut c = with(ds("backup/db").placeholder());
    c.target.push(ds("backup/db/child"));
    assert_eq!(state(c), PlaceholderState::HasChildren);
    let mounted = ds("backup/db").set("zmigrate:placeholder", "on").set("canmount", "on");
    assert_eq!(state(with(mounted)), PlaceholderState::Changed);
    let received =
        ds("backup/db").property("zmigrate:placeholder", "on", PropertySource::Received).set("canmount", "off");
    assert_eq!(state(with(received)), PlaceholderState::Changed);
    let inherited = ds("backup/db").property("zmigrate:placeholder", "on", PropertySource::Inherited);
    assert!(matches!(with(inherited).refusal(), Refusal::TargetExists { .. }));
    let with_snapshot = ds("backup/db").placeholder().snaps("own");
    assert!(matches!(with(with_snapshot).refusal(), Refusal::NoCommonSnapshot { .. }));
}

#[test]
fn a_name_that_another_snapshot_has_is_refused() {
    // @a was renamed on the source, and a new @a taken; the target still has the old one under that name.
    let source = ds("tank/db").snap("old", 1).snap("b", 2).snap("a", 3);
    let target = ds("backup/db").snap("a", 1).snap("b", 2);
    match case([source.clone()], [target]).refusal() {
        Refusal::SnapshotNameTaken { snapshot, taken_by } => {
            assert_eq!((snapshot.guid.0, taken_by.guid.0), (3, 1));
            assert_eq!(taken_by.name.as_str(), "backup/db@a");
        }
        other => panic!("{other:?}"),
    }
    // A name that the rollback frees is free.
    let target = ds("backup/db").snap("old", 1).snap("b", 2).snap("a", 9);
    let lines = case([source], [target]).rollback().lines();
    assert_eq!(lines, [r#"rollback backup/db@b ["a"]"#, "tank/db@a -> backup/db@a from tank/db@b"]);
}

#[test]
fn a_fence_stops_a_run_into_it_and_below_it() {
    let fenced = ds("backup/db").snaps("a").set(FENCE, "c1:2");
    assert!(matches!(case([ds("tank/db").snaps("a b")], [fenced]).refusal(), Refusal::Fenced { .. }));
    let mut c = case([ds("tank/db").snaps("a b")], []);
    c.above[0] = ds("backup").set(FENCE, "c1:2");
    assert!(matches!(c.refusal(), Refusal::Fenced { target, .. } if target == name("backup")));
}

#[test]
fn the_cutover_that_moves_back_receives_into_its_own_fence_and_no_other_does() {
    let fenced = ds("backup/db").snaps("a").set(FENCE, "c1:2").set(SERVING, "c0:1");
    let mut c = case([ds("tank/db").snaps("a b")], [fenced]);
    c.options.enters = Some("c1:2".into());
    assert!(c.try_plan().is_ok());
    c.options.enters = Some("c2:2".into());
    assert!(matches!(c.refusal(), Refusal::Fenced { .. }));
}

#[test]
fn nothing_is_received_into_what_serves_nor_below_it() {
    let serving = ds("backup/db").snaps("a").set(SERVING, "c1:2");
    assert!(matches!(case([ds("tank/db").snaps("a b")], [serving]).refusal(), Refusal::Serves { .. }));
    let mut c = case([ds("tank/db").snaps("a b")], []);
    c.above[0] = ds("backup").set(SERVING, "c1:2");
    assert!(matches!(c.refusal(), Refusal::Serves { target, .. } if target == name("backup")));
}

#[test]
fn types_do_not_mix() {
    let c = case([ds("tank/db").volume().snaps("a")], [ds("backup/db")]);
    assert!(matches!(c.try_plan(), Err(Refusal::WrongType { .. })));
    let mut c = case([ds("tank/db").snaps("a")], []);
    c.above[0] = ds("backup").volume();
    assert!(matches!(c.try_plan(), Err(Refusal::ParentNotFilesystem { .. })));
    let c = case(
        [ds("tank/db").snaps("a"), ds("tank/db/v").volume().snaps("a")],
        [ds("backup/db").snaps("a"), ds("backup/db/v").snaps("a")],
    );
    assert!(matches!(c.recursive().refusal(), Refusal::WrongType { .. }));
    // Also a volume that this very run would make.
    let volume = ds("tank/db/v").volume().snaps("a");
    let c = case([ds("tank/db").snaps("a"), volume, ds("tank/db/v/x").snaps("a")], []).recursive();
    assert!(matches!(c.refusal(), Refusal::ParentNotFilesystem { parent, .. } if parent == name("backup/db/v")));
}

#[test]
fn the_run_as_a_whole_can_be_refused() {
    let refused = |c: Case| c.try_plan().unwrap_err();
    assert!(matches!(refused(case([ds("tank/x").snaps("a")], [])), Refusal::SourceAbsent { .. }));
    assert!(matches!(refused(case([ds("tank/db")], [])), Refusal::NoSnapshots { .. }));
    let c = case([ds("tank/db").snaps("a")], []).upto("zz");
    assert!(matches!(refused(c), Refusal::SnapshotAbsent { newest: Some(_), .. }));
    let mut c = case([ds("tank/db").snaps("a")], []);
    c.above.clear();
    assert!(matches!(refused(c), Refusal::TargetPoolAbsent { .. }));
}

#[test]
fn another_jobs_target_is_noted() {
    let target = ds("backup/db").snaps("a").set(JOB, "weekly");
    let plan = case([ds("tank/db").snaps("a b")], [target]).plan();
    assert_eq!(plan.datasets[0].notes, ["was last written on the target by the job weekly"]);
}

#[test]
fn every_refusal_speaks_and_survives_the_way_to_a_peer() {
    let c = case([ds("tank/db").snaps("a b c")], [ds("backup/db").snaps("a x y")]);
    let refusal = c.refusal();
    assert!(!refusal.hint().is_empty());
    let json = serde_json::to_string(&refusal).unwrap();
    assert_eq!(serde_json::from_str::<Refusal>(&json).unwrap(), refusal);
    let plan = c.rollback().plan();
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<crate::plan::Plan>(&json).unwrap(), plan);
    let config = bincode::config::standard();
    let bytes = bincode::serde::encode_to_vec(&plan, config).unwrap();
    assert_eq!(bincode::serde::decode_from_slice::<crate::plan::Plan, _>(&bytes, config).unwrap().0, plan);
}
