//! What a push prunes on its own side.

use zmigrate::{
    driver::{Direction, UpkeepOptions, upkeep},
    types::listing::JOB,
};

use crate::{
    clock::run,
    world::{SOURCE, World, ds, upkeep_options},
};

/// Another job writes there, and prunes it by its own rules and under its lock.
#[test]
fn the_copy_of_another_job_below_the_source_of_a_push_is_left_alone() {
    run(async {
        let mut world = World::new(Direction::Push).await;
        let copy = ds(&format!("{SOURCE}/in"));
        world.source.zfs.create(&copy);
        for second in 0..3 {
            world.source.zfs.write(&ds(SOURCE), 7, 0, &[second]);
            world.snapshot(&format!("{SOURCE}@db_2026-11-26T04:00:0{second}Z"), true).await;
        }
        assert_eq!(world.run(&world.recursive()).await.exit_code, 0);
        world.source.zfs.set_local(&copy, JOB, "cccccccc33333333");
        world.source.zfs.set_local(&copy, "readonly", "on");
        let options = UpkeepOptions {
            recursive: true,
            keep_source: Some("last 1".parse().unwrap()),
            ..upkeep_options(Direction::Push)
        };
        let found = upkeep(&world.context(), &options, &|_| Ok(())).await.unwrap();
        let left = |name: &str| {
            let all = world.source.zfs.snapshots_below(&ds(name));
            all.iter().filter(|(snapshot, _)| snapshot.dataset() == ds(name)).count()
        };
        assert_eq!((left(SOURCE), left(copy.as_str()), found.failure), (1, 3, None));
        assert!(found.notes.contains(&format!("nothing of {copy} is pruned: another job or host writes there")));
    });
}
