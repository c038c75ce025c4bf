//! Runs without trouble: both directions, old and new ZFS, and that nothing is done twice.

use std::collections::BTreeSet;

use zmigrate::{
    driver::Direction,
    fake::{Fault, Op},
    plan::EncryptionMode,
    port::zfs::{Zfs, ZfsErrorKind},
    types::listing::HELD,
};

use crate::{
    clock::{Dice, run},
    world::{SOURCE, TARGET, World, ds, sn},
};

/// A first history: three datasets, one of them a clone, two snapshots.
pub async fn history(world: &mut World) {
    let zfs = world.source.zfs.clone();
    zfs.create(&ds("src/a/b"));
    zfs.write(&ds(SOURCE), 7, 0, &Dice::new(1).bytes(40_000));
    zfs.write(&ds("src/a/b"), 8, 100, &Dice::new(2).bytes(20_000));
    world.snapshot("src/a@1", true).await;
    zfs.write(&ds(SOURCE), 7, 10_000, &Dice::new(3).bytes(20_000));
    zfs.clone_snapshot(&sn("src/a/b@1"), &ds("src/a/c"));
    zfs.write(&ds("src/a/c"), 8, 300, b"of the clone");
    world.snapshot("src/a@2", true).await;
}

/// What happens after it: changes, and a new dataset.
pub async fn more_history(world: &mut World) {
    let zfs = world.source.zfs.clone();
    zfs.write(&ds(SOURCE), 9, 0, &Dice::new(4).bytes(30_000));
    zfs.write(&ds("src/a/b"), 8, 0, b"changed");
    world.snapshot("src/a@3", true).await;
    zfs.create(&ds("src/a/new"));
    zfs.write(&ds("src/a/new"), 1, 0, &Dice::new(5).bytes(5_000));
    world.snapshot("src/a@4", true).await;
}

async fn tree(mut world: World) {
    history(&mut world).await;
    let options = world.recursive();
    let report = world.run(&options).await;
    assert_eq!(report.exit_code, 0, "{report:?}");
    world.safe(&BTreeSet::new()).await.unwrap();
    world.complete(true).await.unwrap();
    more_history(&mut world).await;
    let before = world.guids().await;
    let report = world.run(&options).await;
    assert_eq!((report.exit_code, report.result), (0, "done"), "{report:?}");
    world.safe(&before).await.unwrap();
    world.complete(true).await.unwrap();
    let sends = world.source.zfs.count(Op::Send);
    let report = world.run(&options).await;
    assert_eq!((report.exit_code, report.result), (0, "up_to_date"), "{report:?}");
    assert_eq!(world.source.zfs.count(Op::Send), sends);
    assert!(world.target.journal.0.lock().unwrap().is_empty(), "something was destroyed");
}

/// A daemon runs for years, and its peers come each minute.
#[test]
fn nothing_of_a_session_stays_in_memory() {
    run(async {
        for direction in [Direction::Push, Direction::Pull] {
            let mut world = World::new(direction).await;
            history(&mut world).await;
            let (holders, links) = (world.daemon.holders_of_the_engine(), std::sync::Arc::strong_count(&world.link));
            for _ in 0..3 {
                assert_eq!(world.run(&world.recursive()).await.exit_code, 0);
            }
            // The answer to Bye is sent by a session that is about to end.
            for _ in 0..100 {
                let held = (world.daemon.holders_of_the_engine(), std::sync::Arc::strong_count(&world.link));
                if held == (holders, links) {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            assert_eq!(world.daemon.holders_of_the_engine(), holders, "sessions that are over hold the engine");
            assert_eq!(std::sync::Arc::strong_count(&world.link), links, "runs that are over hold the link");
        }
    });
}

#[test]
fn a_tree_is_pushed() {
    run(async { tree(World::new(Direction::Push).await).await });
}

#[test]
fn a_tree_is_pulled() {
    run(async { tree(World::new(Direction::Pull).await).await });
}

#[test]
fn a_tree_is_pushed_between_old_ones() {
    run(async { tree(World::old(Direction::Push).await).await });
}

#[test]
fn a_tree_is_pulled_between_old_ones() {
    run(async { tree(World::old(Direction::Pull).await).await });
}

/// The target's ZFS is older: what it cannot keep of a dataset's properties is told, and does not keep the dataset away.
#[test]
fn a_value_that_the_target_does_not_know_keeps_no_dataset_away() {
    for direction in [Direction::Push, Direction::Pull] {
        run(async {
            let mut world = World::new(direction).await;
            for (name, value) in [("compression", "zstd-3"), ("copies", "2"), ("acltype", "nfsv4"), ("sync", "always")]
            {
                world.source.zfs.set_local(&ds(SOURCE), name, value);
            }
            history(&mut world).await;
            let report = world.run(&world.recursive()).await;
            assert_eq!((report.exit_code, report.result), (0, "done"), "{report:?}");
            world.complete(true).await.unwrap();
            let notes: Vec<&String> = report.datasets.iter().flat_map(|d| &d.notes).collect();
            for left_out in ["compression=zstd-3 was not taken over", "acltype=nfsv4 was not taken over"] {
                assert_eq!(notes.iter().filter(|note| note.starts_with(left_out)).count(), 1, "{left_out}: {notes:?}");
            }
            let has = world.target.zfs.local_properties(&ds(TARGET));
            for (name, value) in [("copies", "2"), ("sync", "always")] {
                assert!(has.contains(&(name.to_owned(), format!("{value} (Local)"))), "{name}: {has:?}");
            }
        });
    }
}

#[test]
fn raw_goes_without_a_key() {
    for direction in [Direction::Push, Direction::Pull] {
        run(async {
            let mut world = World::new(direction).await;
            world.source.zfs.destroy(&ds(SOURCE));
            world.source.zfs.create_encrypted(&ds(SOURCE));
            for tag in ["1", "2"] {
                world.source.zfs.set_key_loaded(&ds(SOURCE), true);
                world.source.zfs.write(&ds(SOURCE), 7, 500, &Dice::new(tag.len() as u64).bytes(30_000));
                world.snapshot(&format!("{SOURCE}@{tag}"), false).await;
                world.source.zfs.set_key_loaded(&ds(SOURCE), false);
                let report = world.run(&world.options()).await;
                assert_eq!(report.exit_code, 0, "{report:?}");
                world.safe(&BTreeSet::new()).await.unwrap();
                world.complete(false).await.unwrap();
            }
            let plain = zmigrate::driver::RunOptions { encryption: EncryptionMode::Plain, ..world.options() };
            world.source.zfs.set_key_loaded(&ds(SOURCE), true);
            world.source.zfs.write(&ds(SOURCE), 7, 0, b"more");
            world.snapshot("src/a@3", false).await;
            let before = world.guids().await;
            let report = world.run(&plain).await;
            assert_ne!(report.exit_code, 0, "plain onto raw: {report:?}");
            world.safe(&before).await.unwrap();
        });
    }
}

/// The newest common snapshot is what the next step starts from, whatever a run in between was asked for.
#[test]
fn an_idle_run_moves_no_base_back() {
    use zmigrate::port::zfs::Zfs;
    async fn replicated(direction: Direction, old: bool) -> World {
        let mut world = if old { World::old(direction).await } else { World::new(direction).await };
        for n in 1..=3 {
            world.source.zfs.write(&ds(SOURCE), 7, 0, &Dice::new(n).bytes(9_000));
            world.snapshot(&format!("src/a@{n}"), false).await;
            assert_eq!(world.run(&world.options()).await.exit_code, 0);
        }
        world
    }
    async fn goes_on(mut world: World) {
        world.source.zfs.write(&ds(SOURCE), 7, 0, b"later");
        world.snapshot("src/a@4", false).await;
        let report = world.run(&world.options()).await;
        assert_eq!((report.exit_code, report.result), (0, "done"), "{report:?}");
        world.complete(false).await.unwrap();
    }
    for direction in [Direction::Push, Direction::Pull] {
        run(async {
            // Somebody destroys the newest, of which the bookmark is left.
            let world = replicated(direction, false).await;
            world.source.zfs.destroy_snapshot(&sn("src/a@3")).await.unwrap();
            assert_eq!(world.run(&world.options()).await.result, "up_to_date");
            goes_on(world).await;
            // Somebody asks for an older one, which is there.
            let world = replicated(direction, false).await;
            let older = zmigrate::driver::RunOptions { upto: Some("2".parse().unwrap()), ..world.options() };
            assert_eq!(world.run(&older).await.result, "up_to_date");
            world.source.zfs.destroy_snapshot(&sn("src/a@3")).await.unwrap();
            goes_on(world).await;
            // Where there are no bookmarks, the hold stays on the newest.
            let world = replicated(direction, true).await;
            let older = zmigrate::driver::RunOptions { upto: Some("2".parse().unwrap()), ..world.options() };
            assert_eq!(world.run(&older).await.result, "up_to_date");
            world.source.zfs.destroy_snapshot(&sn("src/a@3")).await.expect_err("it is held");
            goes_on(world).await;
        });
    }
}

/// A target that is up to date and was seeded by other means, or that somebody has let go of, is protected; and that is said,
/// unless the other side is too old to hear it.
#[test]
fn what_is_up_to_date_is_protected_aloud() {
    for (direction, old, said) in
        [(Direction::Push, false, true), (Direction::Pull, false, true), (Direction::Push, true, false)]
    {
        run(async {
            let mut world = World::new(direction).await;
            world.snapshot("src/a@1", false).await;
            assert_eq!(world.run(&world.options()).await.exit_code, 0);
            world.target.zfs.inherit(&ds(TARGET), HELD).await.unwrap();
            world.target.zfs.set(&ds(TARGET), &[("readonly".to_owned(), "off".to_owned())]).await.unwrap();
            if old {
                world.link.of_the_first_release();
            }
            let report = world.run(&world.options()).await;
            assert_eq!((report.exit_code, report.result), (0, "up_to_date"), "{report:?}");
            let part = "was not protected as it should be; set again: readonly=on";
            assert_eq!(report.datasets[0].notes.iter().any(|note| note.contains(part)), said, "{report:?}");
            world.complete(false).await.unwrap();
        });
    }
}

/// Steps that fail after their snapshot is held, so that none records it: the next good one lets go of all of them.
#[test]
fn steps_that_broke_off_one_after_the_other_leave_no_hold() {
    for direction in [Direction::Push, Direction::Pull] {
        run(async {
            let mut world = World::new(direction).await;
            world.snapshot("src/a@1", false).await;
            assert_eq!(world.run(&world.options()).await.exit_code, 0);
            for (n, code) in [(2, 6), (3, 6), (4, 0)] {
                world.source.zfs.write(&ds(SOURCE), 7, 0, &[n]);
                world.snapshot(&format!("src/a@{n}"), false).await;
                if code != 0 {
                    world.target.zfs.fail_at(Op::Release, Fault::Refuse(ZfsErrorKind::Io));
                }
                let report = world.run(&world.options()).await;
                assert_eq!(report.exit_code, code, "{report:?}");
            }
            world.complete(false).await.unwrap();
        });
    }
}

#[test]
fn a_bookmark_is_base_enough() {
    run(async {
        let mut world = World::new(Direction::Push).await;
        world.source.zfs.write(&ds(SOURCE), 7, 0, &Dice::new(1).bytes(50_000));
        world.snapshot("src/a@1", false).await;
        assert_eq!(world.run(&world.options()).await.exit_code, 0);
        world.source.zfs.destroy_snapshot(&sn("src/a@1")).await.unwrap();
        world.source.zfs.write(&ds(SOURCE), 7, 0, b"later");
        world.snapshot("src/a@2", false).await;
        let before = world.guids().await;
        let report = world.run(&world.options()).await;
        assert_eq!(report.exit_code, 0, "{report:?}");
        world.safe(&before).await.unwrap();
        world.complete(false).await.unwrap();
    });
}

/// Where a hold is all that keeps a base, the clone that starts from that very snapshot must not take it off.
#[test]
fn a_clone_leaves_its_origin_held_where_that_is_a_base() {
    for direction in [Direction::Push, Direction::Pull] {
        run(async {
            let mut world = World::old(direction).await;
            world.source.zfs.create(&ds("src/a/b"));
            world.source.zfs.write(&ds("src/a/b"), 1, 0, b"of the origin");
            world.snapshot("src/a@1", true).await;
            world.source.zfs.clone_snapshot(&sn("src/a/b@1"), &ds("src/a/c"));
            world.source.zfs.write(&ds("src/a/c"), 1, 7, b"of the clone");
            world.snapshot("src/a/c@2", false).await;
            assert_eq!(world.run(&world.recursive()).await.exit_code, 0);
            // It looks for a base of each dataset, of src/a/b as well.
            world.complete(true).await.unwrap();
            assert_eq!(world.run(&world.recursive()).await.exit_code, 0);
            world.complete(true).await.unwrap();
            world.tidy().await.unwrap();
        });
    }
}
