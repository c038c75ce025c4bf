//! Which blows a round has, and what all of them have met.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Case,
    blows::{Blow, Dice, Who, blow, one_of_each},
    cases,
};

/// What needs no ZFS.
pub fn cases() -> Vec<Case> {
    cases![each_kind_of_blow_has_its_turn]
}

/// Rounds, from the first on, in which the kinds of blows are dealt; the dice say the rest, and all of the rounds after them.
pub const DEALT: u64 = 12;

/// What a round is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Full,
    Idle,
    Prune,
}

impl Phase {
    pub const ALL: [Phase; 3] = [Phase::Full, Phase::Idle, Phase::Prune];

    /// What a blow meets there, if it comes at the right moment.
    pub fn word(self) -> &'static str {
        ["transfer", "idle", "prune"][self as usize]
    }
}

/// What the rounds amount to.
#[derive(Default)]
pub struct Tally {
    pub passed: u64,
    pub blows: u32,
    /// What the blows met that met something: `transfer`, `prune`, `idle`, or the `rest` of a run that had something to do.
    met: BTreeMap<&'static str, u32>,
    /// Those that met something, by kind.
    pub kinds: BTreeMap<String, u32>,
}

impl Tally {
    /// A blow fell, and met this, if anything.
    pub fn count(&mut self, blow: Blow, met: Option<&'static str>) {
        self.blows += 1;
        if let Some(met) = met {
            *self.met.entry(met).or_default() += 1;
            *self.kinds.entry(blow.kind()).or_default() += 1;
        }
    }

    pub fn met(&self, phase: Phase) -> u64 {
        self.met.get(phase.word()).copied().unwrap_or(0).into()
    }

    pub fn of_kind(&self, kind: &str) -> u64 {
        self.kinds.get(kind).copied().unwrap_or(0).into()
    }

    /// An eighth of the blows or more, where a third of the rounds have a transfer.
    pub fn has_hit_transfers(&self) -> bool {
        self.met(Phase::Full) * 8 >= u64::from(self.blows)
    }

    /// What has met nothing yet, or too little for so many rounds: what to strike once more, and with which blow, if that matters.
    pub fn lacks(&self, rounds: u64) -> Option<(Phase, Option<Blow>)> {
        if let Some(phase) = Phase::ALL.into_iter().find(|phase| self.met(*phase) < rounds / 12) {
            return Some((phase, None));
        }
        if rounds < DEALT {
            return None;
        }
        let kind = one_of_each().into_iter().find(|blow| self.of_kind(&blow.kind()) < (rounds / 100).max(1));
        let transfers = || (!self.has_hit_transfers()).then_some((Phase::Full, None));
        kind.map(|blow| (Phase::Full, Some(blow))).or_else(transfers)
    }
}

impl Drop for Tally {
    /// Also of a trial that fails: `scripts/soak` counts by it.
    fn drop(&mut self) {
        eprintln!("fleet: what {} blows met: {:?}; by kind: {:?}", self.blows, self.met, self.kinds);
        eprintln!("fleet: {} passed, {} failed", self.passed, u32::from(std::thread::panicking()));
    }
}

/// The blows of a round.
pub fn of_round(n: u64, phase: Phase, dice: &mut Dice) -> Vec<Blow> {
    let mut blows = if n < DEALT { dealt(n, phase, dice) } else { vec![fitting(phase, dice)] };
    if blows.len() < 2 && dice.once_in(2) {
        blows.push(fitting(phase, dice));
    }
    blows
}

/// What a round deals. Where something is sent, four rounds deal each kind but a stop of the run and of the daemon: first what a run gets
/// over, then what may end it. Elsewhere five rounds deal each kind that does not strike a stream.
fn dealt(n: u64, phase: Phase, dice: &mut Dice) -> Vec<Blow> {
    let for_ms = 50 + dice.below(400);
    let stop = |who| Blow::Stop(who, for_ms);
    match phase {
        Phase::Full => match n / 3 % 4 {
            0 => vec![Blow::Kill(Who::Send)],
            1 => vec![stop(Who::Receive), Blow::Kill(Who::Run)],
            2 => vec![stop(Who::Send), Blow::Kill(Who::Daemon)],
            _ => vec![Blow::Cut, Blow::Kill(Who::Receive)],
        },
        Phase::Idle | Phase::Prune => {
            let kills = [Who::Run, Who::Daemon].map(Blow::Kill);
            let turns = [stop(Who::Daemon), kills[0], Blow::Cut, kills[1], stop(Who::Run)];
            // Two of three rounds are of these phases.
            let turn = (n / 3 * 2 + n % 3).saturating_sub(1);
            vec![turns[turn as usize % turns.len()]]
        }
    }
}

/// A blow that can meet something: where nothing is sent, no `zfs send` is there to be struck, and few bytes go.
fn fitting(phase: Phase, dice: &mut Dice) -> Blow {
    loop {
        match blow(dice) {
            any if phase == Phase::Full => return any,
            Blow::CutAfter(bytes) => return Blow::CutAfter(bytes % 4000),
            other if other.is_of_send() || other.is_of_receive() => {}
            other => return other,
        }
    }
}

/// Whatever the dice say, twelve rounds deal each kind that they can give, what strikes a stream where there is one; and they give no other.
fn each_kind_of_blow_has_its_turn() {
    let all: BTreeSet<String> = one_of_each().into_iter().map(Blow::kind).collect();
    let mut dice = Dice(1);
    let given: BTreeSet<String> = (0..2000).map(|_| blow(&mut dice).kind()).collect();
    assert_eq!(given, all);
    for seed in 0..20 {
        let (mut dealt, mut of_transfers) = (BTreeSet::new(), BTreeSet::new());
        for n in 0..DEALT {
            let (phase, mut dice, mut again) = (Phase::ALL[n as usize % 3], Dice(seed + n), Dice(seed + n));
            let blows = of_round(n, phase, &mut dice);
            assert_eq!(
                format!("{blows:?}"),
                format!("{:?}", of_round(n, phase, &mut again)),
                "the same seed, another round"
            );
            // The second may be the dice's.
            dealt.insert(blows[0].kind());
            if phase == Phase::Full {
                of_transfers.extend(blows.iter().map(|blow| blow.kind()));
                dealt.extend(blows.get(1).filter(|_| n > 0).map(|blow| blow.kind()));
            } else {
                assert!(!blows.iter().any(|blow| blow.is_of_send() || blow.is_of_receive()), "{blows:?} in {phase:?}");
            }
        }
        assert_eq!(dealt, all, "seed {seed}");
        assert!(of_transfers.len() >= all.len() - 2, "seed {seed}: {of_transfers:?}");
    }
    // What fell short is asked for again, and nothing once all has met something.
    let mut tally = Tally::default();
    assert!(matches!(tally.lacks(14), Some((Phase::Full, None))));
    for phase in Phase::ALL {
        tally.count(Blow::Cut, Some(phase.word()));
    }
    assert!(matches!(tally.lacks(14), Some((Phase::Full, Some(Blow::Kill(Who::Run))))));
    assert!(tally.lacks(3).is_none(), "too few rounds for each kind");
    for blow in one_of_each() {
        tally.count(blow, Some(Phase::Full.word()));
    }
    assert!(tally.lacks(14).is_none());
    for _ in 0..100 {
        tally.count(Blow::Cut, None);
    }
    assert!(matches!(tally.lacks(14), Some((Phase::Full, None))), "10 of 112 blows hit a transfer");
}
