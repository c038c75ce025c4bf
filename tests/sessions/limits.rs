//! A limit that changes while a transfer is at work, as a job's does with the hour.

use std::{cell::Cell, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use zmigrate::{
    driver::{Direction, RunContext, RunOptions, run},
    fake::FakeZfs,
};

use crate::{
    clock::{Dice, run_alone},
    world::{Host, SOURCE, World, ds},
};

/// One transfer whose limit changes so long after its first bytes.
struct Transfer {
    direction: Direction,
    bytes: u64,
    /// One way, of the link.
    latency: Duration,
    limits: [Option<u64>; 2],
    changes_after: Duration,
    /// The other side cannot be told.
    is_old: bool,
}

impl Transfer {
    /// Seconds that it takes.
    async fn takes(self) -> f64 {
        self.takes_from_the_change().await.0
    }

    /// The same, and how many of them from the change on.
    async fn takes_from_the_change(self) -> (f64, f64) {
        let [source, target] = [1, 2].map(|seed| Host::in_one_thread(FakeZfs::new(seed)));
        let mut world = World::between(self.direction, source, target).await;
        world.link.is_long(self.latency);
        if self.is_old {
            world.link.of_the_first_release();
        }
        world.source.zfs.write(&ds(SOURCE), 7, 0, &Dice::new(1).bytes(self.bytes));
        world.snapshot(&format!("{SOURCE}@one"), false).await;
        let (tell, limit) = watch::channel(self.limits[0]);
        let context = RunContext { limit: Some(limit), ..world.context() };
        let options = RunOptions { bwlimit_bytes_per_s: self.limits[0], ..world.options() };
        let began = Instant::now();
        let changed = Cell::new(began);
        let changes = async {
            while context.board.read().raw_bytes == 0 {
                sleep(Duration::from_millis(50)).await;
            }
            sleep(self.changes_after).await;
            let _ = tell.send(self.limits[1]);
            changed.set(Instant::now());
            // Until the run ends.
            std::future::pending::<()>().await
        };
        let report = tokio::select! {
            report = run(&context, &options) => report,
            () = changes => unreachable!(),
        };
        assert_eq!(report.exit_code, 0, "{report:?}");
        world.complete(false).await.unwrap();
        (began.elapsed().as_secs_f64(), changed.get().elapsed().as_secs_f64())
    }
}

const BOTH: [Direction; 2] = [Direction::Push, Direction::Pull];

/// 4 MiB at 4,000 bytes a second, which are seventeen minutes, until the limit changes.
fn slow(direction: Direction, then: Option<u64>) -> Transfer {
    Transfer {
        direction,
        bytes: 4 << 20,
        latency: Duration::ZERO,
        limits: [Some(4_000), then],
        changes_after: Duration::from_secs(20),
        is_old: false,
    }
}

#[test]
fn what_was_limited_goes_on_without_a_limit() {
    for direction in BOTH {
        let (took, after) = run_alone(slow(direction, None).takes_from_the_change());
        assert!((20.0..500.0).contains(&took), "{direction:?}: {took} s");
        // A frame that waits already, of up to minutes by the limit of then, hears of it.
        assert!(after < 15.0, "{direction:?}: {after} s after the change");
    }
}

#[test]
fn a_lower_limit_holds_for_what_is_under_way() {
    for direction in BOTH {
        // At 100,000 it would be 42 s.
        let took = run_alone(Transfer { limits: [Some(100_000), Some(4_000)], ..slow(direction, None) }.takes());
        assert!(took > 400.0, "{direction:?}: {took} s");
    }
}

/// As a first run that begins a minute before the hour of its limit. A long link keeps it from being over at once.
#[test]
fn what_had_no_limit_gets_one() {
    for direction in BOTH {
        let took = run_alone(
            Transfer {
                bytes: 32 << 20,
                latency: Duration::from_millis(500),
                limits: [None, Some(20_000)],
                changes_after: Duration::ZERO,
                ..slow(direction, None)
            }
            .takes(),
        );
        assert!(took > 400.0, "{direction:?}: {took} s");
    }
}

/// Its steps say the limit of when the run began, and it keeps to that.
#[test]
fn a_source_of_an_older_release_keeps_to_the_limit_of_its_steps() {
    let took = run_alone(Transfer { is_old: true, ..slow(Direction::Pull, None) }.takes());
    assert!(took > 800.0, "{took} s");
}
