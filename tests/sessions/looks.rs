//! What only looks keeps nobody away, and waits for nobody.

use zmigrate::{
    driver::{Direction, UpkeepOptions, upkeep},
    jobs::lag::Lag,
    port::locks::Locks,
    types::FailureClass,
    wire::hello::features,
};

use crate::{
    clock::run,
    world::{SOURCE, TARGET, World, ds, upkeep_options},
};

/// A target with three snapshots of the job, of which the rules keep one.
async fn world(direction: Direction) -> (World, UpkeepOptions) {
    let mut world = World::new(direction).await;
    for second in 0..3 {
        world.source.zfs.write(&ds(SOURCE), 7, 0, &[second]);
        world.snapshot(&format!("{SOURCE}@db_2026-11-26T04:00:0{second}Z"), false).await;
    }
    assert_eq!(world.run(&world.options()).await.exit_code, 0);
    let options =
        UpkeepOptions { keep_target: Some("last 1".parse().unwrap()), dry_run: true, ..upkeep_options(direction) };
    (world, options)
}

#[test]
fn a_dry_run_of_pruning_needs_no_lock() {
    for direction in [Direction::Push, Direction::Pull] {
        run(async {
            let (world, options) = world(direction).await;
            let before = world.guids().await;
            let at_work = world.target.locks.acquire(&ds(TARGET), "a run that is at work").unwrap();
            let found = upkeep(&world.context(), &options, &|_| Ok(())).await.unwrap();
            assert_eq!((found.destroyed(), found.failure), (2, None), "{direction:?}");
            drop(at_work);
            // Nor does it take one: a run that is due meanwhile begins.
            let is_free = |_: &[Lag]| {
                assert!(!world.target.locks.holds(&ds(TARGET)), "{direction:?}: it keeps runs away");
                Ok(())
            };
            upkeep(&world.context(), &options, &is_free).await.unwrap();
            assert_eq!(world.guids().await, before);
        });
    }
}

/// One that would ask for the lock gets it, and what is in the way is said.
#[test]
fn a_peer_that_answers_only_who_has_the_lock_is_asked_so() {
    run(async {
        let (world, options) = world(Direction::Push).await;
        world.link.lacks(features::DRY);
        let is_held = |_: &[Lag]| {
            assert!(world.target.locks.holds(&ds(TARGET)));
            Ok(())
        };
        let found = upkeep(&world.context(), &options, &is_held).await.unwrap();
        assert_eq!(found.destroyed(), 2);
        let _at_work = world.target.locks.acquire(&ds(TARGET), "a run that is at work").unwrap();
        let failure = upkeep(&world.context(), &options, &|_| Ok(())).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Locked, "{failure:?}");
    });
}

#[test]
fn pruning_that_acts_takes_the_lock() {
    run(async {
        let (world, options) = world(Direction::Push).await;
        let options = UpkeepOptions { dry_run: false, ..options };
        let at_work = world.target.locks.acquire(&ds(TARGET), "a run that is at work").unwrap();
        let failure = upkeep(&world.context(), &options, &|_| Ok(())).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Locked, "{failure:?}");
        drop(at_work);
        let found = upkeep(&world.context(), &options, &|_| Ok(())).await.unwrap();
        assert_eq!(found.destroyed(), 2);
        assert_eq!(world.guids().await.len(), 1);
    });
}
