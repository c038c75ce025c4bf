//! Cutovers that do not simply go through: what neither comes up nor gets home, a person's word, stops and holds, and passes home.

use jiff::{SignedDuration, Timestamp};
use zmigrate::{
    cutover::leg::Side,
    driver::cutover::{BrokenHere, Said, abort_here, break_here, leads, read, standing},
};

use super::*;

/// What never came up and does not get home comes up after all; and what it is like then is what it is like the next time, too.
#[test]
fn what_neither_comes_up_nor_gets_home_comes_up() {
    for from_near in [true, false] {
        run(async {
            let sides = Sides::new(from_near, false, 1);
            let daemon = sides.daemon();
            sides.target().fail_at(Op::Mount, Fault::Refuse(K::Io));
            assert_eq!(sides.lead(&daemon, None).await, (End::Question, Phase::Activate));
            sides.source().fail_at(Op::Receive, Fault::Refuse(K::Io));
            let back = |id| Some(Command::Back { id: CutoverId(id) });
            assert_eq!(sides.lead(&daemon, back(7)).await, (End::Over, Phase::RolledBack));
            assert!(sides.judge().await, "it serves where it was promoted");
            for round in 0..2 {
                assert_eq!(sides.lead(&daemon, back(8 + round)).await, (End::Over, Phase::Done));
                assert_eq!(sides.judge().await, round == 1);
            }
        });
    }
}

/// The side that serves is lost on the way home, or after a way home that failed.
#[test]
fn a_side_that_was_to_come_home_serves_by_a_persons_word() {
    run(async {
        let sides = Sides::new(true, false, 1);
        let daemon = sides.daemon();
        assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::Done));
        sides.target().fail_at(Op::Unmount, Fault::Refuse(K::Io));
        let back = Some(Command::Back { id: CutoverId(7) });
        assert_eq!(sides.lead(&daemon, back).await, (End::Over, Phase::RolledBack));
        sides.near.zfs.unwatch();
        let engine = sides.engine(true);
        let broken = break_here(&engine, &[CutoverId(0x4f2a)]).await.unwrap();
        assert_eq!(broken.unwrap().0, BrokenHere::Serves);
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        for below in BELOW {
            assert!(is_writable(sides.source(), &ds(&format!("{SRC}{below}"))), "{below}");
        }
        let (_, host) = engine.cutovers.as_ref().unwrap().units().unwrap().remove(0);
        assert_eq!(host.kept().part.summary().1, "serves");
    });
}

#[test]
fn no_pass_goes_home_from_what_has_moved_on() {
    run(async {
        let mut sides = Sides::new(true, false, 1);
        sides.reverse = true;
        let daemon = sides.daemon();
        assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::Done));
        let (_said, mut commands) = mpsc::channel::<Said>(1);
        let passes = || sides.target().snapshots_below(&ds(DST));
        let before = passes();
        sides.leader(&daemon).pass_home(&mut commands).await.unwrap();
        assert!(passes() != before, "a pass goes home");
        // Somebody else, who has another ledger, moves it on.
        let name = name_of(CutoverId(0x4f2a));
        let done = sides.ledgers[0].read(&name).unwrap();
        let back = Some(Command::Back { id: CutoverId(7) });
        assert_eq!(sides.lead(&daemon, back).await, (End::Over, Phase::Done));
        sides.ledgers[0].0.lock().unwrap().get_mut(&name).unwrap().0 = done;
        let before = passes();
        sides.leader(&daemon).pass_home(&mut commands).await.unwrap();
        assert_eq!(passes(), before);
        assert!(!sides.judge().await);
    });
}

#[test]
fn a_person_who_stops_a_command_stops_the_cutover() {
    run(async {
        let sides = Sides::new(true, false, 1);
        let daemon = sides.daemon();
        let (_said, mut commands) = mpsc::channel::<Said>(1);
        let stopped = || read(&sides.ledgers[0].read(&name_of(CutoverId(0x4f2a))).unwrap(), "x").unwrap().0.stopped;
        for by_person in [false, true] {
            let mut lead = sides.leader(&daemon);
            if by_person {
                lead.by_command();
            }
            lead.stop_token().cancel();
            lead.recover().unwrap();
            assert_eq!(lead.run(&mut commands).await.unwrap(), End::Stopped);
            assert_eq!(stopped(), by_person, "a daemon that ends stops nothing");
        }
        assert_eq!(sides.lead(&daemon, Some(Command::Resume)).await, (End::Over, Phase::Done));
        assert!(!stopped());
    });
}

#[test]
fn a_cutover_that_is_held_writes_little() {
    run(async {
        let mut sides = Sides::new(true, false, 1);
        sides.hold = true;
        let daemon = sides.daemon();
        let (say, mut commands) = mpsc::channel::<Said>(1);
        let mut lead = sides.leader(&daemon);
        lead.recover().unwrap();
        let held = async {
            tokio::time::sleep(std::time::Duration::from_secs(1500)).await;
            let (tell, told) = tokio::sync::oneshot::channel();
            say.send((Command::Abort, tell)).await.unwrap();
            told.await.unwrap().unwrap();
        };
        let (end, ()) = tokio::join!(lead.run(&mut commands), held);
        assert_eq!(end.unwrap(), End::Over);
        let said = sides.said.lock().unwrap().iter().filter(|n| n.starts_with("Passed")).count();
        assert!(said > 120, "{said} passes");
        let (passing, passed) = (sides.lines_of("passing"), sides.lines_of("passed"));
        assert!(passing < 40 && passed < 40, "{passing} and {passed} lines in 25 minutes");
        assert!(!sides.judge().await);
    });
}

#[test]
fn a_ledger_that_cannot_be_read_hides_no_other_one() {
    run(async {
        let sides = Sides::new(true, false, 1);
        drop(sides.leader(&sides.daemon()));
        let dir = tempfile::tempdir().unwrap();
        let ledgers = zmigrate::adapter::ledger::FileLedgers::new(dir.path());
        let lines = sides.ledgers[0].read(&name_of(CutoverId(0x4f2a))).unwrap();
        let place = dir.path().join("cutover");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("lead-1.jsonl"), b"\xff\xfe\n\xff\n").unwrap();
        std::fs::write(place.join("lead-2.jsonl"), "{}\n{}\n").unwrap();
        std::fs::write(place.join("lead-3.jsonl"), lines.join("\n") + "\n").unwrap();
        let all = leads(&ledgers).unwrap();
        let read: Vec<(&str, bool)> = all.iter().map(|(name, told)| (name.as_str(), told.is_ok())).collect();
        assert_eq!(read, [("lead-1", false), ("lead-2", false), ("lead-3", true)]);
    });
}

/// The next way home would set what was noted of it, too.
#[test]
fn what_was_destroyed_meanwhile_keeps_nothing_from_coming_home() {
    run(async {
        let sides = Sides::new(true, false, 1);
        let daemon = sides.daemon();
        assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::Done));
        for (zfs, root) in [(sides.target(), DST), (sides.source(), SRC)] {
            let gone = ds(&format!("{root}/b/c"));
            zfs.destroy(&gone);
        }
        let back = Some(Command::Back { id: CutoverId(7) });
        assert_eq!(sides.lead(&daemon, back).await, (End::Over, Phase::Done));
        for below in ["", "/b"] {
            assert!(is_writable(sides.source(), &ds(&format!("{SRC}{below}"))), "{below}");
        }
    });
}

/// Leads one that is held until all is ready, and then no more.
async fn is_left_when_ready(sides: &Sides, daemon: &Arc<Daemon>) {
    let (_said, mut commands) = mpsc::channel::<Said>(1);
    let mut lead = sides.leader(daemon);
    lead.recover().unwrap();
    let stop = lead.stop_token();
    let held = async {
        while !sides.said.lock().unwrap().iter().any(|n| n.starts_with("Ready")) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stop.cancel();
    };
    assert_eq!(tokio::join!(lead.run(&mut commands), held).0.unwrap(), End::Stopped);
}

/// Nobody knows what an outage would take, nor whether the target takes anything at all, where nobody led it for days.
#[test]
fn go_begins_with_a_pass_where_nobody_led_it() {
    run(async {
        let mut sides = Sides::new(true, false, 1);
        sides.hold = true;
        let daemon = sides.daemon();
        is_left_when_ready(&sides, &daemon).await;
        let before = sides.lines_of("passed");
        assert_eq!(sides.lead(&daemon, Some(Command::Go)).await, (End::Over, Phase::Done));
        assert!(sides.lines_of("passed") > before, "the source was stopped without a pass");
        assert!(sides.judge().await);
    });
}

#[test]
fn what_is_declined_goes_on_with_nothing() {
    run(async {
        let sides = Sides::new(true, false, 1);
        let daemon = sides.daemon();
        let (_said, mut commands) = mpsc::channel::<Said>(1);
        let mut lead = sides.leader(&daemon);
        lead.by_command();
        lead.stop_token().cancel();
        lead.recover().unwrap();
        assert_eq!(lead.run(&mut commands).await.unwrap(), End::Stopped);
        drop(lead);
        for command in [Command::Go, Command::Complete, Command::Back { id: CutoverId(7) }] {
            let mut lead = sides.leader(&daemon);
            assert!(lead.say(command).unwrap().is_err(), "{command:?} is not declined");
        }
        let lines = sides.ledgers[0].read(&name_of(CutoverId(0x4f2a))).unwrap();
        assert!(read(&lines, "x").unwrap().0.stopped, "the next zmigrated would go on with it");
    });
}

/// The leader is lost for ever; what is left ends its part by a person's word, and can take part in other cutovers again.
#[test]
fn a_part_whose_leader_is_lost_is_ended_where_it_is() {
    for from_near in [true, false] {
        run(async {
            let mut sides = Sides::new(from_near, false, 1);
            sides.hold = true;
            let daemon = sides.daemon();
            is_left_when_ready(&sides, &daemon).await;
            let id = CutoverId(0x4f2a);
            let far = sides.engine(false);
            let stage = || {
                let (_, host) = far.cutovers.as_ref().unwrap().units().unwrap().remove(0);
                let (_, stage, open) = host.kept().part.summary();
                (stage, open)
            };
            assert!(stage().1);
            assert_eq!(abort_here(&far, CutoverId(1)).await.unwrap(), None);
            let side = if from_near { Side::Target } else { Side::Source };
            assert_eq!(abort_here(&far, id).await.unwrap(), Some(side));
            assert_eq!(stage(), (if from_near { "settled" } else { "serves" }, false));
            // Whoever leads after all learns of it, and nothing moves.
            sides.lead(&daemon, Some(Command::Go)).await;
            assert!(!sides.judge().await, "it moved");
            for below in BELOW {
                assert!(is_writable(sides.source(), &ds(&format!("{SRC}{below}"))), "{below}");
            }
        });
    }
}

/// Monitoring of the host that is down, where the one that led it is lost.
#[test]
fn a_fenced_source_whose_leader_is_lost_is_told_of() {
    run(async {
        let sides = Sides::new(false, false, 1);
        let daemon = sides.daemon();
        let (target, (stops, stopped)) = (sides.target().clone(), mpsc::unbounded_channel());
        let (_said, mut commands) = mpsc::channel::<Said>(1);
        *sides.writer.beside.lock().unwrap() = Some(Box::new(move |call| {
            if call.verb == HookVerb::Stop {
                // The final sync takes for ever.
                target.fail_at(Op::Receive, Fault::StallAfter(0));
                let _ = stops.send(());
            }
        }));
        let mut lead = sides.leader(&daemon);
        lead.recover().unwrap();
        let fenced = async {
            let mut stopped = stopped;
            stopped.recv().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(sides.source().reads_only(&ds(SRC)));
        };
        tokio::select! {
            _ = lead.run(&mut commands) => panic!("it ended"),
            () = fenced => {}
        }
        drop(lead);
        let now = Timestamp::now();
        let told = |later| standing(&sides.ledgers[1], now + SignedDuration::from_secs(later)).unwrap();
        assert_eq!((told(1).down, told(1).waiting.len()), (0, 0), "an outage is no news at once");
        let later = told(120);
        assert_eq!((later.down, later.waiting.len()), (1, 1));
        assert!(later.waiting[0].needs.contains("cutover break"), "{}", later.waiting[0].needs);
    });
}
