//! What a host does by itself beside a command, what it tells of that, and what a cutover leaves behind.

use jiff::{SignedDuration, Timestamp};
use zmigrate::{
    cutover::{call::final_tag, leg::Side},
    driver::cutover::{read, standing},
    session::cutover::units,
    types::{SnapshotName, SnapshotTag},
};

use super::*;
use crate::clock::run_alone;

/// The target of the first leg does not come up.
fn does_not_come_up(sides: &Sides) {
    let refuses = |call: &HookCall| (call.verb, call.side, call.leg.epoch) == (HookVerb::Start, Side::Target, Epoch(1));
    *sides.writer.refuses.lock().unwrap() = Some(Box::new(refuses));
}

/// A `zmigrated` beside the command, on one of the hosts.
fn daemon_on(sides: &Sides, near: bool) -> tokio::task::JoinHandle<()> {
    let engine = sides.engine(near);
    tokio::spawn(async move {
        loop {
            engine.cutovers.as_ref().unwrap().look_after(false).unwrap();
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    })
}

fn is_owned(ledgers: &MemoryLedgers) -> bool {
    ledgers.names("host-").unwrap().iter().any(|name| ledgers.is_owned(name))
}

/// zmigrated tries again and again to bring the target up, and is its host when a person says that it goes home.
#[test]
fn a_command_gets_a_unit_that_the_daemon_tries_to_bring_up() {
    run(async {
        let sides = Sides::new(false, false, 1);
        let daemon = sides.daemon();
        does_not_come_up(&sides);
        assert_eq!(sides.lead(&daemon, None).await, (End::Question, Phase::Activate));
        let own = daemon_on(&sides, true);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(is_owned(&sides.ledgers[0]), "nobody tries to bring it up");
        let back = sides.lead(&daemon, Some(Command::Back { id: CutoverId(7) }));
        let end = tokio::time::timeout(Duration::from_secs(600), back).await.expect("both sides are down for ever");
        assert_eq!(end, (End::Over, Phase::Done));
        assert!(!sides.judge().await, "it is home");
        own.abort();
    });
}

/// The leader is lost after the promotion: who is there has to learn that the target does not come up, and why.
#[test]
fn a_promoted_target_that_does_not_come_up_is_told_of_where_it_is() {
    run(async {
        let sides = Sides::new(true, false, 1);
        let daemon = sides.daemon();
        does_not_come_up(&sides);
        assert_eq!(sides.lead(&daemon, None).await, (End::Question, Phase::Activate));
        let now = Timestamp::now();
        let told = |later| standing(&sides.ledgers[1], now + SignedDuration::from_secs(later)).unwrap();
        assert_eq!((told(1).down, told(1).waiting.len()), (0, 0), "it may be coming up");
        let later = told(120);
        assert_eq!((later.down, later.waiting.len()), (1, 1));
        let needs = &later.waiting[0].needs;
        assert!(needs.contains("not up") && needs.contains("as asked for"), "{needs}");
        *sides.writer.refuses.lock().unwrap() = None;
        assert_eq!(sides.lead(&daemon, Some(Command::Resume)).await, (End::Over, Phase::Done));
        assert!(sides.judge().await);
        let later = told(120);
        assert_eq!((later.down, later.waiting.len()), (0, 0));
    });
}

/// Also of a hook that went well, on either host, by whoever led it.
#[test]
fn what_hooks_said_is_kept() {
    run(async {
        let sides = Sides::new(true, false, 1);
        let daemon = sides.daemon();
        assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::Done));
        let (story, _) = read(&sides.ledgers[0].read(&name_of(sides.id)).unwrap(), "x").unwrap();
        for said in ["writer (prepare): told to prepare", "writer (stop): told to stop"] {
            assert!(story.said.iter().any(|line| line == said), "{said}: {:?}", story.said);
        }
        for (ledgers, said) in [(&sides.ledgers[0], "told to stop"), (&sides.ledgers[1], "told to start")] {
            let told = units(ledgers).unwrap().remove(0).unwrap().said;
            assert!(told.hooks.iter().any(|line| line.contains(said)), "{said}: {told:?}");
            assert_eq!(told.failed, None);
        }
    });
}

/// The fence takes longer than the limit, and all that follows takes far less than a second, after which the leader looks in any case.
#[test]
fn an_outage_ends_at_its_limit_and_not_a_tick_later() {
    run_alone(async {
        let mut sides = Sides::alone(true);
        (sides.outage_limit, sides.latency) = (Millis(300), Duration::from_millis(5));
        let elsewhere = sides.elsewhere.clone();
        // Where the source is mounted is looked at once its writers have stopped; the answer takes that long.
        let slow_fence = move |call: &HookCall| {
            if call.verb != HookVerb::Stop {
                return;
            }
            let (held, is_held) = std::sync::mpsc::channel();
            let elsewhere = elsewhere.clone();
            std::thread::spawn(move || {
                let _held = elsewhere.0.lock().unwrap();
                held.send(()).unwrap();
                std::thread::sleep(Duration::from_millis(500));
            });
            is_held.recv().unwrap();
        };
        *sides.writer.beside.lock().unwrap() = Some(Box::new(slow_fence));
        let daemon = sides.daemon();
        assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::RolledBack));
        assert!(!sides.judge().await, "the source serves");
    });
}

/// What the newest final snapshot of the cutover is called, of each dataset at that side.
fn finals(sides: &Sides, root: &str) -> Vec<SnapshotName> {
    let (story, it) = read(&sides.ledgers[0].read(&name_of(sides.id)).unwrap(), "x").unwrap();
    let tag: SnapshotTag = final_tag(it.progress().terms.leg.id, story.final_number).parse().unwrap();
    BELOW.iter().map(|below| ds(&format!("{root}{below}")).snapshot(&tag).unwrap()).collect()
}

/// What prunes at the side that was left does not know what the way home starts from.
#[test]
fn what_the_way_home_starts_from_is_held_where_it_was_left() {
    for from_near in [true, false] {
        run(async {
            let sides = Sides::new(from_near, false, 1);
            let daemon = sides.daemon();
            assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::Done));
            let first = finals(&sides, SRC);
            for name in &first {
                let pruned = sides.source().destroy_snapshot(name).await;
                assert_eq!(pruned.unwrap_err().kind, K::Busy, "{name}");
            }
            let back = Some(Command::Back { id: CutoverId(7) });
            assert_eq!(sides.lead(&daemon, back).await, (End::Over, Phase::Done));
            assert!(!sides.judge().await);
            let left = sides.source().snapshots_below(&ds(SRC));
            assert!(left.iter().all(|(name, _)| !first.contains(name)), "it is let go of at home: {left:?}");
            // The other side was left now.
            for name in finals(&sides, DST) {
                assert_eq!(sides.target().destroy_snapshot(&name).await.unwrap_err().kind, K::Busy, "{name}");
            }
        });
    }
}

#[test]
fn what_is_held_keeps_nobody_from_destroying_what_was_left() {
    run(async {
        let sides = Sides::new(true, false, 1);
        let daemon = sides.daemon();
        assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::Done));
        assert_eq!(sides.lead(&daemon, Some(Command::Complete)).await, (End::Over, Phase::Completed));
        assert!(sides.source().snapshots_below(&ds(SRC)).is_empty());
    });
}

/// One snapshot stays where a cutover was rolled back, from which the next one starts; and that one takes it away.
#[test]
fn a_cutover_that_is_rolled_back_leaves_one_snapshot() {
    run(async {
        let mut sides = Sides::new(true, false, 1);
        let daemon = sides.daemon();
        let refuses = |call: &HookCall| call.verb == HookVerb::Stop;
        *sides.writer.refuses.lock().unwrap() = Some(Box::new(refuses));
        let ours = |zfs: &FakeZfs, root: &str| {
            let all = zfs.snapshots_below(&ds(root)).into_iter();
            all.filter(|(name, _)| name.tag().as_str().starts_with("zmigrate_"))
                .map(|(_, guid)| guid)
                .collect::<Vec<_>>()
        };
        for id in [0x4f2a, 0x4f2c] {
            sides.id = CutoverId(id);
            assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::RolledBack));
            let (source, target) = (ours(sides.source(), SRC), ours(sides.target(), DST));
            assert_eq!(source.len(), BELOW.len(), "one of each dataset stays: {source:?}");
            assert_eq!(source, target, "and it is on both sides");
        }
        *sides.writer.refuses.lock().unwrap() = None;
        sides.id = CutoverId(0x4f2e);
        assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::Done));
        assert!(sides.judge().await);
        assert_eq!(ours(sides.source(), SRC).len(), BELOW.len());
        assert_eq!(ours(sides.target(), DST).len(), BELOW.len());
    });
}

/// Before the source is stopped, not when the target is down already.
#[test]
fn who_may_not_go_home_is_told_before_anything_is_stopped() {
    for (from_near, missing) in [(true, Access::Pull), (false, Access::Push)] {
        for returns in [true, false] {
            run(async {
                let mut sides = Sides::new(from_near, false, 1);
                sides.granted.retain(|access| *access != missing);
                sides.on_activate_failure = if returns { OnActivateFailure::Return } else { OnActivateFailure::Hold };
                let stops = Arc::new(AtomicU64::new(0));
                let seen = Arc::clone(&stops);
                *sides.writer.beside.lock().unwrap() = Some(Box::new(move |call| {
                    seen.fetch_add(u64::from(call.verb == HookVerb::Stop), Ordering::SeqCst);
                }));
                let daemon = sides.daemon();
                let end = sides.lead(&daemon, None).await;
                if returns {
                    assert!(matches!(end, (End::Question, Phase::Arm { side: Side::Source })), "{end:?}");
                    assert_eq!(stops.load(Ordering::SeqCst), 0, "the source was stopped");
                    assert!(sides.said.lock().unwrap().iter().any(|said| said.contains("the way back")));
                } else {
                    assert_eq!(end, (End::Over, Phase::Done));
                }
            });
        }
    }
}

/// A frozen filesystem keeps the volume open all the same: that is told before anything is stopped.
#[test]
fn a_filesystem_on_a_volume_has_to_be_unmounted_by_a_hook() {
    for (freezes, mounted) in [(true, true), (true, false), (false, true)] {
        run(async {
            let sides = Sides::new(true, false, 1);
            sides.source().create_volume(&ds(&format!("{SRC}/v")), 1 << 20);
            sides.writer.freezes.store(freezes, Ordering::SeqCst);
            if mounted {
                sides.elsewhere.1.lock().unwrap().mounts = vec!["/srv/ext4".into()];
            }
            let daemon = sides.daemon();
            let end = sides.lead(&daemon, None).await;
            if freezes && mounted {
                assert!(matches!(end, (End::Question, Phase::Arm { side: Side::Source })), "{end:?}");
                assert!(sides.said.lock().unwrap().iter().any(|said| said.contains("/srv/ext4")));
            } else {
                assert_eq!(end, (End::Over, Phase::Done));
            }
        });
    }
}
