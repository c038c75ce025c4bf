//! Connections that break, at random bytes and many times; a peer that is restarted; two runs at one target.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use zmigrate::{
    driver::{Direction, run as replicate},
    fake::{Fault, Op},
    limits::YIELD_AFTER,
    session::client::ClientOptions,
    types::transfer::Streams,
};

use crate::{
    clock::{Dice, run},
    transfers::history,
    wire::Trouble,
    world::{SOURCE, World, ds},
};

/// One dataset that takes about 500 kB on the wire.
async fn large(direction: Direction) -> World {
    let mut world = World::new(direction).await;
    world.source.zfs.write(&ds(SOURCE), 7, 0, &Dice::new(9).bytes(500_000));
    world.snapshot("src/a@1", false).await;
    world
}

async fn ended_well(world: &World, report: &zmigrate::driver::Report, sends: u64) -> Result<(), String> {
    world.safe(&BTreeSet::new()).await?;
    if report.exit_code != 0 {
        return Err(format!("{report:?}"));
    }
    world.complete(false).await?;
    let done = (world.source.zfs.count(Op::Send), world.target.zfs.count(Op::Receive));
    if done == (sends, sends) { Ok(()) } else { Err(format!("{done:?} sends and receives instead of {sends}")) }
}

/// Every connection but the last few breaks somewhere.
fn cut(direction: Direction, seed: u64, delayed: bool) -> Result<(), String> {
    run(async {
        let world = large(direction).await;
        let mut dice = Dice::new(seed);
        let troubles: Vec<_> = (0..12)
            .map(|_| {
                let at = dice.below(120_000);
                let trouble = match dice.below(5) {
                    0 | 1 => Trouble::cut_sent(at),
                    2 | 3 => Trouble::cut_heard(at),
                    _ => Trouble { silent_after: Some(at), ..Trouble::default() },
                };
                Trouble { delay: delayed.then(|| Duration::from_millis(dice.below(200))), ..trouble }
            })
            .collect();
        world.link.expect(troubles);
        let report = world.run(&world.options()).await;
        // A handshake that breaks may have left a session behind that nobody knows of; a run that could not even begin
        // is tried again by hand.
        let report = match report.error {
            Some(ref e) if e.transient => {
                world.link.heal();
                world.run(&world.options()).await
            }
            _ => report,
        };
        ended_well(&world, &report, 1).await
    })
}

#[test]
fn cut_links_are_dialled_again() {
    for direction in [Direction::Push, Direction::Pull] {
        for seed in 0..25 {
            cut(direction, seed, seed % 5 == 4).unwrap_or_else(|why| panic!("{direction:?} seed {seed}: {why}"));
        }
    }
}

#[test]
fn ten_cuts_in_one_transfer() {
    for direction in [Direction::Push, Direction::Pull] {
        run(async {
            let world = large(direction).await;
            let mut dice = Dice::new(77);
            // The first connection is the control channel's.
            let mut troubles = vec![Trouble::default()];
            troubles.extend((0..10).map(|_| {
                let at = 30_000 + dice.below(10_000);
                if direction == Direction::Push { Trouble::cut_sent(at) } else { Trouble::cut_heard(at) }
            }));
            world.link.expect(troubles);
            let report = world.run(&world.options()).await;
            ended_well(&world, &report, 1).await.unwrap();
            assert_eq!(world.link.left(), 0);
            assert!(world.link.dials() >= 12, "{} dials", world.link.dials());
        });
    }
}

/// Runs until the transfer has stopped at half of its bytes, then does something to it.
async fn in_mid_transfer(world: &World, act: impl AsyncFnOnce()) -> zmigrate::driver::Report {
    world.source.zfs.fail_at(Op::Send, Fault::StallAfter(250_000));
    let options = world.options();
    let (report, ()) = tokio::join!(world.run(&options), async {
        while world.source.zfs.count(Op::Send) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        act().await;
        world.source.zfs.release_stalled();
    });
    report
}

#[test]
fn a_run_survives_a_restart_of_the_peer() {
    for direction in [Direction::Push, Direction::Pull] {
        run(async {
            let world = large(direction).await;
            let report = in_mid_transfer(&world, async || {
                world.daemon.restart();
                tokio::time::sleep(Duration::from_secs(1)).await;
            })
            .await;
            ended_well(&world, &report, 2).await.unwrap();
        });
    }
}

/// One that is stopped lets its transfers save what they have, and is then started again.
#[test]
fn a_run_waits_for_a_peer_that_takes_its_time_to_come_back() {
    for direction in [Direction::Push, Direction::Pull] {
        run(async {
            let world = large(direction).await;
            let report = in_mid_transfer(&world, async || {
                world.daemon.restart();
                // Long enough to learn that the session is not known any more.
                tokio::time::sleep(Duration::from_millis(400)).await;
                world.link.vanish();
                tokio::time::sleep(Duration::from_secs(60)).await;
                world.link.heal();
            })
            .await;
            ended_well(&world, &report, 2).await.unwrap();
        });
    }
}

/// The peer takes so many connections and no more, for instance.
#[test]
fn a_stripe_that_never_comes_about_does_not_end_what_the_others_carry() {
    run(async {
        let world = large(Direction::Push).await;
        // The control channel's, and the first stripe's.
        world.link.expect([Trouble::default(), Trouble::default()]);
        world.link.expect(std::iter::repeat_n(Trouble::cut_sent(0), 1000));
        world.source.zfs.fail_at(Op::Send, Fault::StallAfter(250_000));
        let mut context = world.context();
        context.client =
            ClientOptions { streams: Streams::Fixed(2), lost_after: Duration::from_secs(30), ..context.client };
        let options = world.options();
        let (report, ()) = tokio::join!(replicate(&context, &options), async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            world.source.zfs.release_stalled();
        });
        assert!(world.link.dials() > 20, "{} dials", world.link.dials());
        ended_well(&world, &report, 1).await.unwrap();
    });
}

/// Connections of a run with one large transfer, that of its session included: on one processor there is nothing to gain from a second.
fn connections_of_a_large_one() -> u64 {
    if thread::available_parallelism().is_ok_and(|n| n.get() > 1) { 3 } else { 2 }
}

/// A dataset of that many bytes, whose last megabyte comes some time after that many connections were dialled, which meet the
/// `troubles`; how many it were in the end.
async fn with_any_streams(direction: Direction, bytes: u64, dials: u64, troubles: Vec<Trouble>) -> u64 {
    let mut world = World::new(direction).await;
    world.source.zfs.write(&ds(SOURCE), 7, 0, &Dice::new(9).bytes(bytes));
    world.snapshot("src/a@1", false).await;
    world.link.expect(troubles);
    world.source.zfs.fail_at(Op::Send, Fault::StallAfter(bytes - (1 << 20)));
    let mut context = world.context();
    context.client = ClientOptions { streams: Streams::Auto, ..context.client };
    let options = world.options();
    let go_on = async {
        while world.link.dials() < dials {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        loop {
            tokio::time::sleep(Duration::from_secs(20)).await;
            world.source.zfs.release_stalled();
        }
    };
    let report = tokio::select! {
        report = replicate(&context, &options) => report,
        () = go_on => unreachable!("it has no end"),
    };
    ended_well(&world, &report, 1).await.unwrap();
    world.link.dials()
}

#[test]
fn a_large_transfer_gets_a_second_connection_and_a_small_one_does_not() {
    let large = connections_of_a_large_one();
    for direction in [Direction::Push, Direction::Pull] {
        run(async {
            assert_eq!(with_any_streams(direction, 36 << 20, large, Vec::new()).await, large, "{direction:?}");
            assert_eq!(with_any_streams(direction, 4 << 20, 2, Vec::new()).await, 2, "{direction:?}");
        });
    }
}

#[test]
fn a_large_transfer_goes_on_without_a_second_connection() {
    run(async {
        let other = Trouble { somebody_else: true, ..Trouble::default() };
        let troubles = vec![Trouble::default(), Trouble::default(), other];
        with_any_streams(Direction::Push, 36 << 20, connections_of_a_large_one(), troubles).await;
    });
}

/// The target has it for good, and the peer is restarted before it can say so.
#[test]
fn what_arrived_without_a_word_is_in_the_report() {
    run(async {
        let world = large(Direction::Push).await;
        let (daemon, restarted) = (Arc::clone(&world.daemon), AtomicBool::new(false));
        world.target.zfs.watch(move |op, _, _| {
            if op == Op::Hold && !restarted.swap(true, Ordering::SeqCst) {
                daemon.restart();
            }
        });
        let report = world.run(&world.options()).await;
        ended_well(&world, &report, 1).await.unwrap();
        assert_eq!(report.result, "done", "{report:?}");
        let steps = &report.datasets[0].steps;
        assert_eq!(steps.len(), 1, "{report:?}");
        assert!(!steps[0].resumed && steps[0].raw_bytes > 500_000, "{report:?}");
        assert_eq!(report.raw_bytes, steps[0].raw_bytes);
    });
}

#[test]
fn silence_of_a_minute_is_survived() {
    run(async {
        let world = large(Direction::Push).await;
        world.link.expect([Trouble::default(), Trouble { silent_after: Some(100_000), ..Trouble::default() }]);
        let report = world.run(&world.options()).await;
        ended_well(&world, &report, 1).await.unwrap();
    });
}

#[test]
fn of_two_runs_at_once_one_is_told_who_has_the_target() {
    for direction in [Direction::Push, Direction::Pull] {
        run(async {
            let mut world = World::new(direction).await;
            history(&mut world).await;
            world.source.zfs.fail_at(Op::Send, Fault::StallAfter(10_000));
            let first = world.context();
            let second = world.context();
            let options = world.recursive();
            let (first, second) = tokio::join!(replicate(&first, &options), async {
                while world.source.zfs.count(Op::Send) == 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let report = replicate(&second, &options).await;
                world.source.zfs.release_stalled();
                report
            });
            assert_eq!((first.exit_code, second.exit_code), (0, 75), "{first:?} {second:?}");
            world.safe(&BTreeSet::new()).await.unwrap();
            world.complete(true).await.unwrap();
        });
    }
}

/// The link comes back, and another run dials first: it is not for that one to say that the first is dead.
#[test]
fn who_comes_first_after_an_outage_does_not_push_out_who_comes_back() {
    for outage_s in [7, 20, 31] {
        run(async {
            let world = large(Direction::Push).await;
            world.source.zfs.fail_at(Op::Send, Fault::StallAfter(250_000));
            let (first, second, options) = (world.context(), world.context(), world.options());
            let (first, second) = tokio::join!(replicate(&first, &options), async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                world.link.vanish();
                tokio::time::sleep(Duration::from_secs(outage_s)).await;
                world.link.heal();
                let report = replicate(&second, &options).await;
                world.source.zfs.release_stalled();
                report
            });
            assert_eq!((first.exit_code, second.exit_code), (0, 75), "{outage_s} s: {first:?} {second:?}");
            ended_well(&world, &first, 1).await.unwrap();
        });
    }
}

#[test]
fn a_vanished_initiator_yields_to_the_next_run() {
    run(async {
        let world = large(Direction::Push).await;
        world.source.zfs.fail_at(Op::Send, Fault::StallAfter(250_000));
        let (context, options) = (world.context(), world.options());
        let gone = tokio::spawn(async move { replicate(&context, &options).await });
        while world.source.zfs.count(Op::Send) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        gone.abort();
        world.link.vanish();
        let _ = gone.await;
        world.heal();
        let began = tokio::time::Instant::now();
        let report = world.run(&world.options()).await;
        let took = began.elapsed();
        ended_well(&world, &report, 2).await.unwrap();
        assert!(took < YIELD_AFTER + Duration::from_secs(6), "the next run took {took:?}");
    });
}
