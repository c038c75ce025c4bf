//! What a fence meets on a host that is not as simple as a dataset alone: mounts in mounts, mounts of others, datasets that come
//! into being meanwhile, volumes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use zmigrate::{
    cutover::{coordinator::Phase, effect::Command, leg::CutoverId},
    driver::cutover::End,
    fake::{Fault, Op},
    port::{
        busy::{Hold, Holder, Holders},
        hook::HookVerb,
        zfs::{SnapshotRequest, Zfs, ZfsErrorKind},
    },
};

use crate::{
    clock::run,
    cutovers::{DST, SRC, Sides},
    world::ds,
};

const BACK: Command = Command::Back { id: CutoverId(0x77) };

/// Places that run against the datasets' names, and one in another that has nothing to do with it by name.
#[test]
fn mounts_in_mounts_go_and_come_in_the_order_of_their_places() {
    for places in [["/srv/w/conf", "/srv/w"], ["/src/a/deep", "/src/a/deep/er"], ["/srv/w", "/src/a/in"]] {
        run(async {
            let sides = Sides::new(true, false, 1);
            for (below, place) in ["b", "b/c"].into_iter().zip(places) {
                let set = [("mountpoint".to_owned(), place.to_owned())];
                sides.source().set(&ds(&format!("{SRC}/{below}")), &set).await.unwrap();
            }
            let daemon = sides.daemon();
            assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::Done), "{places:?}");
            assert!(sides.judge().await, "{places:?}");
            assert_eq!(sides.lead(&daemon, Some(BACK)).await, (End::Over, Phase::Done), "{places:?}");
            assert!(!sides.judge().await, "{places:?}");
        });
    }
}

#[test]
fn what_is_still_mounted_elsewhere_gives_the_source_back() {
    run(async {
        let sides = Sides::new(true, false, 1);
        let holds = vec![Hold::Mount("/data".into())];
        let container = Holder { pid: 4242, started: 1, command: "postgres".into(), holds };
        *sides.elsewhere.0.lock().unwrap() = Holders { processes: vec![container], ..Holders::default() };
        let daemon = sides.daemon();
        assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::RolledBack));
        assert!(!sides.judge().await);
        assert!(sides.said.lock().unwrap().iter().any(|said| said.contains("postgres (4242) has mounted")));
    });
}

#[test]
fn a_dataset_that_a_stop_hook_makes_gives_the_source_back() {
    run(async {
        let sides = Sides::new(true, false, 1);
        let (zfs, new) = (sides.source().clone(), ds(&format!("{SRC}/new")));
        let made = new.clone();
        *sides.writer.beside.lock().unwrap() = Some(Box::new(move |call| {
            if call.verb == HookVerb::Stop {
                zfs.create(&made);
            }
        }));
        let daemon = sides.daemon();
        assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::RolledBack));
        assert!(!sides.judge().await);
        assert!(sides.source().is_mounted(&new));
        assert!(sides.said.lock().unwrap().iter().any(|said| said.contains("src/a/new came into being")));
    });
}

#[test]
fn writers_are_started_when_the_devices_of_volumes_are_there() {
    run(async {
        let sides = Sides::new(true, false, 1);
        let names = [SRC, DST].map(|root| ds(&format!("{root}/v")));
        sides.source().create_volume(&names[0], 1 << 20);
        let (one, other, starts) = (sides.source().clone(), sides.target().clone(), Arc::new(AtomicU64::new(0)));
        let (at, counted) = (names.clone(), Arc::clone(&starts));
        *sides.writer.beside.lock().unwrap() = Some(Box::new(move |call| {
            if call.verb == HookVerb::Start {
                let there = [one.has_device(&at[0]), other.has_device(&at[1])];
                assert_eq!(there.iter().filter(|is| **is).count(), 1, "devices: {there:?}");
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }));
        let daemon = sides.daemon();
        assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::Done));
        assert!(sides.target().has_device(&names[1]));
        assert_eq!(sides.lead(&daemon, Some(BACK)).await, (End::Over, Phase::Done));
        assert!(sides.source().has_device(&names[0]));
        assert_eq!(starts.load(Ordering::SeqCst), 2);
    });
}

/// What a receive leaves to do when its snapshot is safe may fail, or die with its process: it is done in the end all the same.
#[test]
fn what_a_receive_left_undone_is_done_in_the_end() {
    for op in [Op::Release, Op::Set] {
        for nth in 1..=8 {
            run(async {
                let sides = Sides::new(true, false, 2);
                (1..nth).for_each(|_| sides.target().fail_at(op, Fault::FlipBit(u64::MAX)));
                sides.target().fail_at(op, Fault::Refuse(ZfsErrorKind::Io));
                let daemon = sides.daemon();
                assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::Done), "{op:?} {nth}");
                let all = sides.target().snapshots_below(&ds(DST));
                let tags: Vec<String> = all.into_iter().map(|(name, _)| name.tag().to_string()).collect();
                assert!(tags.iter().all(|tag| !tag.contains("_pass_")), "{op:?} {nth}: {tags:?}");
                for name in ["", "/b", "/b/c"] {
                    let local = sides.target().local_properties(&ds(&format!("{DST}{name}")));
                    let held =
                        local.iter().find(|(property, _)| property == "zmigrate:held").map(|(_, tag)| tag.as_str());
                    let is_there = |tag: &str| tags.iter().any(|there| tag.strip_suffix(" (Local)") == Some(there));
                    assert!(held.is_some_and(is_there), "{op:?} {nth}: {name} {held:?} of {tags:?}");
                }
            });
        }
    }
}

async fn snapshot(sides: &Sides, tag: &str) {
    let request = SnapshotRequest { root: ds(SRC), tag: tag.parse().unwrap(), recursive: true, except: Vec::new() };
    sides.source().snapshot(&request).await.unwrap();
}

#[test]
fn what_something_else_snapshots_at_home_is_no_obstacle_if_it_holds_nothing() {
    run(async {
        let sides = Sides::new(true, false, 1);
        let daemon = sides.daemon();
        assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::Done));
        snapshot(&sides, "hourly-1").await;
        snapshot(&sides, "hourly-2").await;
        assert_eq!(sides.lead(&daemon, Some(BACK)).await, (End::Over, Phase::Done));
        assert!(!sides.judge().await);
    });
}

#[test]
fn snapshots_at_home_stay_where_they_hold_something_or_it_cannot_be_told() {
    for old in [false, true] {
        run(async {
            let sides = Sides::new(true, old, 1);
            let daemon = sides.daemon();
            assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::Done));
            let readonly = |value: &str| [("readonly".to_owned(), value.to_owned())];
            let home = ds(&format!("{SRC}/b"));
            if !old {
                sides.source().set(&home, &readonly("off")).await.unwrap();
                assert!(sides.source().write(&home, 7, 0, b"by hand"));
                sides.source().set(&home, &readonly("on")).await.unwrap();
            }
            snapshot(&sides, "hourly").await;
            assert_eq!(sides.lead(&daemon, Some(BACK)).await.0, End::Question, "old: {old}");
            assert!(sides.judge().await, "the target serves on");
            let there = sides.source().snapshot_content(&format!("{home}@hourly").parse().unwrap());
            assert!(there.is_some(), "old: {old}");
            // What was told last is heard a little later.
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            let said = sides.said.lock().unwrap().join("\n");
            assert!(said.contains("@hourly"), "old: {old}: {said}");
        });
    }
}
