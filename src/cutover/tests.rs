//! What single rules do, where the model checker shows only that they hold; and the texts that a person reads.

use std::sync::Arc;

use super::{
    coordinator::{Coordinator, Phase, Question},
    effect::{Action, Command, Effect, Event, HostEffect, HostEvent, Outcome, Result as Done, Work},
    host::Host,
    leg::{CutoverId, Epoch, Leg, Millis, Node, Side},
    message::{Answer, Ask, Decision, Refusal, Reply, Request, Ruling},
    predict::Pass,
    proof::{Means, Objection, Proof},
    record::{HostRecord, Record},
    status::{host_needs, status},
    terms::{NotConverging, OnActivateFailure, Pair, Terms},
};
use crate::types::Guid;

fn leg(id: u64, epoch: u64) -> Leg {
    Leg { id: CutoverId(id), epoch: Epoch(epoch) }
}

fn proof(leg: Leg) -> Proof {
    let guids: Arc<[Guid]> = Arc::from([Guid(5)]);
    Proof { fence: Some(leg), written: 0, source: guids.clone(), target: guids, means: Means::Digest, equal: true }
}

fn admitted(leg: Leg, side: Side) -> HostRecord {
    HostRecord::Admitted { leg, side, datasets: Arc::from(["p/d".parse().unwrap()]), verify: Means::Digest }
}

fn started(records: &[HostRecord], fence: Option<Leg>) -> (Host, Vec<HostEffect>) {
    Host::read_back(records).step(HostEvent::Recover { fence }, Millis(0))
}

fn ask(host: Host, leg: Leg, number: u32, ask: Ask) -> (Host, Vec<HostEffect>) {
    host.step(HostEvent::Asked(Request { leg, number, ask }), Millis(0))
}

fn reply(effects: &[HostEffect]) -> Option<&Reply> {
    effects.iter().find_map(|e| if let HostEffect::Answer(a) = e { Some(&a.reply) } else { None })
}

fn fenced() -> [HostRecord; 4] {
    let until = Millis(9);
    [
        admitted(leg(1, 1), Side::Source),
        HostRecord::Quiescing { until },
        HostRecord::Fencing { former: Arc::from([]) },
        HostRecord::Fenced,
    ]
}

/// A fenced source whose process has started and has set its fence again.
fn fenced_host() -> Host {
    let (host, effects) = started(&fenced(), Some(leg(1, 1)));
    assert_eq!(effects, [HostEffect::Act(Action::Fence(leg(1, 1)))]);
    host.step(HostEvent::Ended(Outcome::Done), Millis(0)).0
}

#[test]
fn only_the_ruling_on_this_leg_opens_or_closes_a_fence() {
    let good = Ruling { leg: leg(1, 1), decision: Decision::Aborted };
    for bad in [
        Ruling { leg: leg(2, 1), ..good },
        Ruling { leg: leg(1, 2), ..good },
        Ruling { decision: Decision::Promoted, ..good },
    ] {
        let (_, effects) = ask(fenced_host(), leg(1, 1), 9, Ask::Unfence { ruling: bad });
        assert_eq!(reply(&effects), Some(&Reply::Refused { refusal: Refusal::Ruling }), "{bad:?}");
        assert_eq!(effects.len(), 1);
    }
    let (_, effects) = ask(fenced_host(), leg(1, 1), 9, Ask::Release { ruling: good });
    assert_eq!(effects.len(), 1, "{effects:?}");
    assert_eq!(reply(&effects), Some(&Reply::Refused { refusal: Refusal::Ruling }));
    let (_, effects) = ask(fenced_host(), leg(1, 1), 9, Ask::Withdraw);
    assert_eq!(effects.len(), 1);
    assert_eq!(reply(&effects), Some(&Reply::NeedsRuling));
    let (_, effects) = ask(fenced_host(), leg(1, 1), 9, Ask::Unfence { ruling: good });
    assert_eq!(effects[0], HostEffect::Append(HostRecord::Unfencing { broken: false }));
}

#[test]
fn what_is_not_released_is_never_destroyed() {
    let (_, effects) = ask(fenced_host(), leg(1, 1), 9, Ask::Discard);
    assert_eq!(effects.len(), 1);
    assert_eq!(reply(&effects), Some(&Reply::Refused { refusal: Refusal::NotNow }));
}

#[test]
fn a_break_is_logged_before_anything_is_undone_and_ends_the_epoch() {
    let (host, effects) = fenced_host().step(HostEvent::Break(leg(2, 1)), Millis(0));
    assert_eq!(effects, [], "another cutover's name breaks nothing");
    let (host, effects) = host.step(HostEvent::Break(leg(1, 1)), Millis(0));
    assert_eq!(effects[0], HostEffect::Append(HostRecord::Unfencing { broken: true }));
    assert!(matches!(effects[1], HostEffect::Act(Action::Unfence(_))));
    assert_eq!(host.kept().epoch, Epoch(1));
}

#[test]
fn a_fence_that_the_journal_does_not_know_stays() {
    for records in [&[][..], &[admitted(leg(3, 1), Side::Source)]] {
        let (host, effects) = started(records, Some(leg(1, 1)));
        assert_eq!(effects, [HostEffect::Append(HostRecord::UnknownFence { leg: leg(1, 1) })]);
        let ruling = Ruling { leg: leg(1, 1), decision: Decision::Aborted };
        let (host, effects) = ask(host, leg(1, 1), 9, Ask::Unfence { ruling });
        assert_eq!(reply(&effects), Some(&Reply::Refused { refusal: Refusal::UnknownFence { leg: leg(1, 1) } }));
        insta::allow_duplicates! { insta::assert_snapshot!(host_needs(&host).unwrap()) }
    }
}

#[test]
fn the_register_keeps_its_first_decision_and_says_it_again() {
    for (first, then, decided) in [(true, false, Decision::Promoted), (false, true, Decision::Aborted)] {
        let (mut host, _) = started(&[admitted(leg(1, 1), Side::Target)], None);
        let question = |promote| if promote { Ask::Promote { proof: proof(leg(1, 1)) } } else { Ask::Abort };
        let ruled = Reply::Ruled { ruling: Ruling { leg: leg(1, 1), decision: decided } };
        for (number, promote) in [(5, first), (6, then), (7, first)] {
            let (next, effects) = ask(host, leg(1, 1), number, question(promote));
            assert_eq!(reply(&effects), Some(&ruled));
            assert_eq!(matches!(effects[0], HostEffect::Append(_)), number == 5);
            host = if next.doing().is_some() { next.step(HostEvent::Ended(Outcome::Done), Millis(0)).0 } else { next };
        }
    }
}

#[test]
fn no_promotion_on_a_proof_that_does_not_hold() {
    let good = proof(leg(1, 1));
    let other: Arc<[Guid]> = Arc::from([Guid(6)]);
    let none: Arc<[Guid]> = Arc::from([]);
    for (bad, objection) in [
        (Proof { fence: None, ..good.clone() }, Objection::NotFenced),
        (proof(leg(1, 2)), Objection::NotFenced),
        (Proof { written: 1, ..good.clone() }, Objection::Written(1)),
        (Proof { target: other, ..good.clone() }, Objection::Guids),
        (Proof { source: none.clone(), target: none, ..good.clone() }, Objection::Guids),
        (Proof { equal: false, ..good.clone() }, Objection::Content),
        (Proof { means: Means::Guid, ..good.clone() }, Objection::Means),
    ] {
        let (host, _) = started(&[admitted(leg(1, 1), Side::Target)], None);
        let (_, effects) = ask(host, leg(1, 1), 5, Ask::Promote { proof: bad });
        assert_eq!(effects.len(), 1);
        assert_eq!(reply(&effects), Some(&Reply::Objected { objection }));
    }
}

#[test]
fn an_aborted_leg_that_never_began_here_never_will() {
    let (host, _) = started(&[], None);
    let (host, effects) = ask(host, leg(1, 1), 5, Ask::Abort);
    assert_eq!(effects[0], HostEffect::Append(HostRecord::Barred { leg: leg(1, 1) }));
    let arm = Ask::Arm { side: Side::Target, datasets: Arc::from([]), verify: Means::Guid };
    let (host, effects) = ask(host, leg(1, 1), 3, arm.clone());
    assert_eq!(reply(&effects), Some(&Reply::Refused { refusal: Refusal::Closed }));
    let (_, effects) = ask(host, leg(2, 2), 3, arm);
    assert_eq!(reply(&effects), Some(&Reply::Refused { refusal: Refusal::Epoch { known: Epoch(0) } }));
}

#[test]
fn a_source_that_is_not_fenced_in_time_lets_its_writers_go() {
    let quiesced = &fenced()[..2];
    let (host, _) = started(quiesced, None);
    let (host, effects) = host.step(HostEvent::Tick, Millis(9));
    assert_eq!(effects, []);
    let (host, effects) = host.step(HostEvent::Tick, Millis(10));
    assert_eq!(
        effects,
        [HostEffect::Append(HostRecord::Withdrawing), HostEffect::Act(Action::Unquiesce { anew: true })]
    );
    let (host, _) = host.step(HostEvent::Ended(Outcome::Done), Millis(10));
    let (_, effects) = ask(host, leg(1, 1), 9, Ask::Fence);
    assert_eq!(effects.len(), 1, "it is not fenced after that");
    assert_eq!(reply(&effects), Some(&Reply::Serving));
}

#[test]
fn the_same_question_is_answered_again_and_not_done_again() {
    let (host, _) = started(&fenced()[..2], None);
    let quiesce = Ask::Quiesce { within: Millis(9) };
    let (host, _) = ask(host, leg(1, 1), 9, quiesce.clone());
    let (host, effects) = host.step(HostEvent::Ended(Outcome::Failed("no unit".into())), Millis(0));
    assert_eq!(reply(&effects), Some(&Reply::Failed { why: "no unit".into() }));
    let (host, effects) = ask(host, leg(1, 1), 9, quiesce.clone());
    assert_eq!((effects.len(), reply(&effects)), (1, Some(&Reply::Failed { why: "no unit".into() })));
    let (host, effects) = ask(host, leg(1, 1), 8, quiesce.clone());
    assert_eq!(effects, [], "an older question has nobody who waits for it");
    let (_, effects) = ask(host, leg(1, 1), 10, quiesce);
    assert_eq!(effects, [HostEffect::Act(Action::Quiesce)]);
}

fn terms() -> Terms {
    Terms {
        leg: leg(0x4f2a, 1),
        return_id: CutoverId(2),
        unit: Arc::from([Pair { source: "tank/db".parse().unwrap(), target: "pool/db".parse().unwrap() }]),
        source_at: Node::Here,
        hold: true,
        on_activate_failure: OnActivateFailure::Hold,
        not_converging: NotConverging::Wait,
        max_downtime: Millis(5000),
        outage_limit: Millis(60_000),
        tries: 1,
        verify: Means::Digest,
        homeward: false,
        returns_from: None,
    }
}

/// A coordinator, led by what the two hosts would answer.
struct Led {
    it: Coordinator,
    journal: Vec<Record>,
    shown: String,
}

impl Led {
    fn new(terms: Terms) -> Led {
        let (it, record) = Coordinator::begin(terms);
        let mut led = Led { it, journal: vec![record], shown: String::new() };
        led.event(Event::Recover);
        led
    }

    fn event(&mut self, event: Event) -> Vec<Effect> {
        let (it, effects) = self.it.clone().step(event, Millis(1000));
        self.journal
            .extend(effects.iter().filter_map(|e| if let Effect::Append(r) = e { Some(r.clone()) } else { None }));
        let back = Coordinator::read_back(&self.journal).unwrap();
        assert_eq!(back.progress(), it.progress(), "the journal does not tell the state");
        let lines: Vec<String> = self.journal.iter().map(|r| serde_json::to_string(r).unwrap()).collect();
        let read: Vec<Record> = lines.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(read, self.journal);
        self.it = it;
        let predicted = self.it.prediction().map(|p| p.downtime());
        let told = status(&self.it, CutoverId(0x4f2a), predicted, None);
        let needs = told.needs.map_or(String::new(), |needs| format!("\n  NEEDS      {needs}"));
        self.shown += &format!(
            "cutover {}: {}\n  waits for  {}{needs}\n  go         {}\n  abort      {}\n  nothing    {}\n",
            told.id, told.phase, told.waits, told.go, told.abort, told.nothing
        );
        effects
    }

    fn pass(&mut self, left: u64) {
        let pass = Pass { bytes: 1000, sending: Millis(1000), fixed: Millis(700), coming_up: Millis(200), left };
        self.event(Event::Worked(self.it.progress().terms.leg, Done::Passed(pass)));
    }

    fn work(&mut self, done: Done) {
        self.event(Event::Worked(self.it.progress().terms.leg, done));
    }

    fn answer(&mut self, reply: Reply) {
        let p = self.it.progress();
        self.event(Event::Answered(Answer { leg: p.terms.leg, number: p.number, reply }));
    }
}

#[test]
fn what_a_held_cutover_says_of_itself() {
    let mut led = Led::new(terms());
    led.pass(9000);
    led.pass(500);
    led.answer(Reply::Armed);
    led.answer(Reply::Armed);
    led.pass(300);
    led.event(Event::Said(Command::Go));
    // It may have held for days, so both sides are armed once more.
    led.answer(Reply::Armed);
    led.answer(Reply::Armed);
    led.answer(Reply::Quiesced);
    led.answer(Reply::Fenced);
    led.answer(Reply::Final { guids: Arc::from([Guid(5)]) });
    led.work(Done::Synced);
    led.work(Done::Verified(proof(leg(0x4f2a, 1))));
    led.answer(Reply::Ruled { ruling: Ruling { leg: leg(0x4f2a, 1), decision: Decision::Promoted } });
    led.answer(Reply::Failed { why: "health check: connection refused".into() });
    led.event(Event::Said(Command::Resume));
    led.answer(Reply::Active);
    led.answer(Reply::Released);
    insta::assert_snapshot!(led.shown);
}

/// The source is not stopped on the word of a pass that failed, or of a time when another process led it.
#[test]
fn no_source_is_stopped_before_a_pass_of_this_process_went_well() {
    let asks = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Ask(..)));
    let passes = |effects: &[Effect]| effects.contains(&Effect::Work(Work::Pass));
    for by_another in [true, false] {
        let mut led = Led::new(Terms { tries: 2, ..terms() });
        led.pass(9000);
        led.pass(500);
        led.answer(Reply::Armed);
        led.answer(Reply::Armed);
        if by_another {
            led.it = Coordinator::read_back(&led.journal).unwrap();
        } else {
            led.work(Done::Failed("the target has a snapshot of its own".into()));
        }
        let effects = led.event(Event::Said(Command::Go));
        assert!(passes(&effects) && !asks(&effects), "{by_another}: {effects:?}");
        led.work(Done::Failed("the target has a snapshot of its own".into()));
        assert_eq!(led.it.working(), Some(Work::Pass), "it is tried again");
        led.work(Done::Failed("the target has a snapshot of its own".into()));
        assert!(matches!(led.it.progress().question, Some(Question::Failed { .. })), "{:?}", led.it.progress());
        led.event(Event::Said(Command::Resume));
        led.pass(300);
        assert_eq!(led.it.progress().phase, Phase::Arm { side: Side::Source });
    }
}

/// Its leader may be gone, and who says it again leads from now on.
#[test]
fn go_is_heard_also_by_one_that_was_told_already() {
    let mut led = Led::new(terms());
    led.pass(9000);
    led.pass(500);
    led.answer(Reply::Armed);
    led.answer(Reply::Armed);
    led.event(Event::Said(Command::Go));
    led.it = Coordinator::read_back(&led.journal).unwrap();
    let effects = led.event(Event::Said(Command::Go));
    assert!(effects.contains(&Effect::Work(Work::Pass)), "{effects:?}");
    led.pass(300);
    assert_eq!(led.it.progress().phase, Phase::Arm { side: Side::Source });
}

#[test]
fn what_a_cutover_that_is_rolled_back_says_of_itself() {
    let mut led = Led::new(Terms { hold: false, ..terms() });
    for _ in 0..5 {
        led.pass(9000);
    }
    led.event(Event::Said(Command::Go));
    led.answer(Reply::Armed);
    led.answer(Reply::Armed);
    led.answer(Reply::Quiesced);
    led.answer(Reply::Failed { why: "cannot unmount '/tank/db': pool or dataset is busy".into() });
    let ruling = Ruling { leg: leg(0x4f2a, 1), decision: Decision::Aborted };
    led.answer(Reply::Ruled { ruling });
    led.answer(Reply::Failed { why: "zfs set readonly=off tank/db: permission denied".into() });
    led.event(Event::Said(Command::Resume));
    led.answer(Reply::Serving);
    led.answer(Reply::Settled);
    insta::assert_snapshot!(led.shown);
}

#[test]
fn an_outage_that_lasts_too_long_is_rolled_back() {
    let mut led = Led::new(Terms { hold: false, ..terms() });
    (0..2).for_each(|_| led.pass(0));
    (0..2).for_each(|_| led.answer(Reply::Armed));
    // The target needs 200 ms of the 60 s to come up; who leads it anew has measured nothing.
    assert_eq!(led.it.decide_by(), Some(Millis(60_800)));
    assert_eq!(Coordinator::read_back(&led.journal).unwrap().decide_by(), Some(Millis(61_000)));
    assert_eq!(led.it.clone().step(Event::Tick, Millis(60_800)).1.len(), 1, "until then it asks again");
    for (at, why) in [(60_801, "would have taken longer than 60 s"), (61_001, "the outage took longer than 60 s")] {
        let (it, effects) = led.it.clone().step(Event::Tick, Millis(at));
        let withdraws = matches!(&effects[1], Effect::Ask(Node::Here, r) if r.ask == Ask::Withdraw);
        assert!(withdraws && it.progress().why.as_deref().unwrap().contains(why), "{effects:?}");
    }
}

#[test]
fn commands_that_do_not_apply_say_why() {
    let mut led = Led::new(terms());
    for command in [Command::Go, Command::Break, Command::Complete, Command::Back { id: CutoverId(7) }] {
        let effects = led.event(Event::Said(command));
        assert!(matches!(&effects[..], [Effect::Decline(_)]), "{command:?}: {effects:?}");
    }
}

/// A person broke the fence on the source's host although the target was promoted: nobody may go on as if that were nothing.
#[test]
fn a_source_that_serves_again_after_the_promotion_is_a_question() {
    let mut led = Led::new(Terms { hold: false, ..terms() });
    led.pass(0);
    led.pass(0);
    for reply in
        [Reply::Armed, Reply::Armed, Reply::Quiesced, Reply::Fenced, Reply::Final { guids: Arc::from([Guid(5)]) }]
    {
        led.answer(reply);
    }
    led.work(Done::Synced);
    led.work(Done::Verified(proof(leg(0x4f2a, 1))));
    led.answer(Reply::Ruled { ruling: Ruling { leg: leg(0x4f2a, 1), decision: Decision::Promoted } });
    led.answer(Reply::Active);
    led.answer(Reply::Serving);
    let question = led.it.progress().question.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(question.contains("two sides may be written to"), "{question}");
}

/// What was destroyed at the source may come home, and only that way.
#[test]
fn a_source_that_was_discarded_may_be_a_target() {
    let records = [&fenced()[..], &[HostRecord::Released, HostRecord::Discarding, HostRecord::Discarded]].concat();
    let arm = |side| Ask::Arm { side, datasets: Arc::from(["p/d".parse().unwrap()]), verify: Means::Digest };
    let asked = |side| ask(started(&records, None).0, leg(2, 2), 1, arm(side)).1;
    let effects = asked(Side::Target);
    assert!(
        matches!(&effects[..], [HostEffect::Append(HostRecord::Admitted { .. }), HostEffect::Act(_)]),
        "{effects:?}"
    );
    assert_eq!(reply(&asked(Side::Source)), Some(&Reply::Refused { refusal: Refusal::NotNow }));
}

/// A leader whose source is fenced, with a snapshot that cannot be sent.
fn syncing(tries: u8) -> Led {
    let mut led = Led::new(Terms { hold: false, tries, ..terms() });
    led.pass(0);
    led.pass(0);
    let guids: Arc<[Guid]> = Arc::from([Guid(5)]);
    for reply in [Reply::Armed, Reply::Armed, Reply::Quiesced, Reply::Fenced, Reply::Final { guids }] {
        led.answer(reply);
    }
    led
}

#[test]
fn a_fenced_source_waits_for_its_target_and_not_for_a_person() {
    for tries in [1, 3] {
        let mut led = syncing(tries);
        (0..tries).for_each(|_| led.work(Done::Failed("no route".into())));
        assert!(matches!(led.it.progress().phase, super::phase::Phase::Retract { served: false }));
        assert_eq!(led.it.progress().failures, 0, "what was tried in vain before does not count");
        for _ in 0..20 {
            led.answer(Reply::Failed { why: "state_dir is full".into() });
            assert_eq!(led.it.progress().question, None);
            let effects = led.event(Event::Tick);
            assert!(matches!(&effects[..], [Effect::Ask(_, r)] if r.ask == Ask::Abort), "{effects:?}");
        }
        assert!(led.journal.len() < 40, "its journal does not grow for ever");
        led.answer(Reply::Ruled { ruling: Ruling { leg: leg(0x4f2a, 1), decision: Decision::Aborted } });
        led.answer(Reply::Serving);
        led.answer(Reply::Settled);
        assert_eq!(led.it.progress().phase, super::phase::Phase::RolledBack);
    }
}

/// A new final snapshot would hold the same, and all of it would be read again while nobody is served.
#[test]
fn content_that_differs_ends_the_outage_at_once() {
    for (bad, again) in [
        (Proof { equal: false, ..proof(leg(0x4f2a, 1)) }, false),
        (Proof { written: 1, ..proof(leg(0x4f2a, 1)) }, true),
    ] {
        let mut led = syncing(3);
        led.work(Done::Synced);
        led.work(Done::Verified(bad));
        let phase = &led.it.progress().phase;
        assert_eq!(*phase == Phase::Final, again, "{phase:?}");
        assert_eq!(phase.rolls_back(), !again, "{phase:?}");
    }
}

#[test]
fn an_outage_of_unknown_length_is_too_long() {
    let led = syncing(1);
    let (it, _) = led.it.clone().step(Event::Tick, Millis(1000));
    assert!(it.progress().phase.is_outage());
    let (it, _) = it.step(Event::Tick, Millis(999));
    assert!(it.progress().phase.rolls_back(), "the clock was set back while nobody led it");
}

#[test]
fn writers_that_do_not_stop_in_time_are_let_go_meanwhile() {
    let stopping = || {
        let (host, _) = started(&fenced()[..1], None);
        ask(host, leg(1, 1), 3, Ask::Quiesce { within: Millis(9) }).0
    };
    let gone = [HostEffect::Append(HostRecord::Withdrawing), HostEffect::Act(Action::Unquiesce { anew: true })];
    let (host, effects) = stopping().step(HostEvent::Tick, Millis(9));
    assert_eq!(effects, []);
    assert_eq!(host.step(HostEvent::Tick, Millis(10)).1, gone, "at the limit");
    assert_eq!(ask(stopping(), leg(1, 1), 4, Ask::Withdraw).1, gone, "when it is asked to");
    assert_eq!(ask(stopping(), leg(1, 1), 4, Ask::Fence).1, [], "all else waits");
}

/// Of a leg home that is not decided, and of one that is: the side that was left serves, and that leg is over there.
#[test]
fn a_break_works_for_a_side_that_was_to_come_home() {
    let to_come = [&fenced()[..], &[HostRecord::Released, admitted(leg(2, 2), Side::Target)]].concat();
    for more in [&[][..], &[HostRecord::Aborted], &[HostRecord::Aborted, HostRecord::Settled]] {
        for named in [leg(1, 1), leg(2, 2)] {
            let (host, _) = started(&[&to_come[..], more].concat(), Some(leg(1, 1)));
            let (host, effects) = host.step(HostEvent::Break(leg(3, 1)), Millis(0));
            assert_eq!(effects, [], "another cutover's name breaks nothing");
            let (host, effects) = host.step(HostEvent::Break(named), Millis(0));
            assert_eq!(effects[0], HostEffect::Append(HostRecord::Unfencing { broken: true }));
            assert!(matches!(effects[1], HostEffect::Act(Action::Unfence(_))));
            let (host, _) = host.step(HostEvent::Ended(Outcome::Done), Millis(0));
            let (host, effects) = host.step(HostEvent::Ended(Outcome::Done), Millis(0));
            assert_eq!(effects, [HostEffect::Append(HostRecord::Serving)]);
            let arm = Ask::Arm { side: Side::Target, datasets: Arc::from([]), verify: Means::Guid };
            let (_, effects) = ask(host, leg(2, 2), 9, arm);
            assert_eq!(reply(&effects), Some(&Reply::Refused { refusal: Refusal::Closed }));
        }
    }
}
