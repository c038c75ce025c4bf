//! One dataset: what stands on the target, what both have in common, and so what to do.
//!
//! Invariant: a rollback is planned only with the operator's flag, and every step's base is what the target
//! has as its newest snapshot when the step begins.

use std::collections::{HashMap, HashSet};

use super::{
    Action, Decision, PlanInput, Refusal, SnapshotRef, StepBase,
    clones::Edges,
    flags::{self, Crypt},
    history::{Common, Past},
    resume::{self, Intended},
    tree::{Member, TargetSide},
};
use crate::types::{
    CreateTxg, DatasetName, Guid, SnapshotName,
    listing::{DatasetInfo, FENCE, JOB, SERVING, SnapshotInfo},
    transfer::Base,
};

/// What those that come later need to know of a dataset.
#[derive(Default)]
pub(super) struct Outcome {
    /// True if something is done.
    pub works: bool,
    /// True if nothing is done before the operator decides.
    pub refused: bool,
    /// True if the target stands, whole, when its turn is over.
    pub stands: bool,
    /// How many of the target's snapshots stay, counted from the oldest.
    pub kept: usize,
    /// The snapshots sent that clones start from, by their names on the target.
    pub sent: HashMap<Guid, SnapshotName>,
    pub crypt: Crypt,
}

pub(super) struct Decided {
    pub decision: Decision,
    pub notes: Vec<String>,
    pub placeholders: Vec<DatasetName>,
    pub outcome: Outcome,
}

/// All that a decision looks at.
pub(super) struct Decider<'p, 'a> {
    pub input: &'p PlanInput<'a>,
    pub target: &'p TargetSide<'a>,
    pub members: &'p [Member<'a>],
    pub by_relative: &'p HashMap<&'a str, usize>,
    /// Of those that were decided before.
    pub outcomes: &'p [Option<Outcome>],
    pub edges: &'p Edges,
    /// The snapshots of this dataset that clones start from.
    pub wanted: &'p HashSet<Guid>,
}

/// Where the first step starts, and what comes before it.
pub(super) struct Start {
    /// Done before the first step.
    pub actions: Vec<Action>,
    pub base: Option<StepBase>,
    /// The base's place in the history of this very dataset; `None` before a full stream or a clone's first.
    pub base_txg: Option<CreateTxg>,
    pub origin: Option<SnapshotName>,
    pub creates: bool,
    pub kept: usize,
    pub placeholders: Vec<DatasetName>,
    /// What the target is, or is going to be, apart from raw steps.
    pub crypt: Crypt,
    /// What must be in the same mode, raw or not: the target itself, or the target's copy of the origin.
    pub chain: Option<(DatasetName, Crypt)>,
    /// Why partial state, if there is any, cannot be used whatever it is.
    pub abort: Option<String>,
}

impl<'a> Decider<'_, 'a> {
    pub fn decide(&self, at: usize) -> Decided {
        let member = &self.members[at];
        let mut notes = Vec::new();
        match self.try_decide(at, member, &mut notes) {
            Ok((decision, placeholders, outcome)) => Decided { decision, notes, placeholders, outcome },
            Err(refusal) => {
                let whole = member.existing.filter(|t| !is_partial(t));
                let outcome = Outcome {
                    refused: true,
                    stands: whole.is_some(),
                    kept: member.target_past.as_ref().map_or(0, |p| p.snapshots.len()),
                    crypt: whole.map(Crypt::of).unwrap_or_default(),
                    ..Outcome::default()
                };
                Decided { decision: Decision::Refused(refusal), notes, placeholders: Vec::new(), outcome }
            }
        }
    }

    fn try_decide(
        &self,
        at: usize,
        member: &Member<'a>,
        notes: &mut Vec<String>,
    ) -> Result<(Decision, Vec<DatasetName>, Outcome), Refusal> {
        let source = member.info;
        let target = member
            .target
            .as_ref()
            .map_err(|wanted| Refusal::NameTooLong { dataset: source.name.clone(), wanted: wanted.clone() })?;
        if let Some(existing) = member.existing {
            self.check_existing(source, existing, notes)?;
        }
        let mut start = match (member.existing, &member.target_past) {
            (Some(existing), Some(past)) if !existing.snapshots.is_empty() => self.go_on(member, existing, past)?,
            _ => self.begin(at, member, target, notes)?,
        };
        let sends = self.sends(member, &start);
        let token = member.existing.and_then(|t| resume::present(t.resume_token.as_deref()));
        if sends.is_empty() {
            return self.nothing_to_send(member, start, token.is_some(), notes);
        }
        self.check_names(member, &sends, &start)?;

        let raw = flags::raw(self.input, source, target, notes)?;
        if let Some((copy, crypt)) = &start.chain {
            flags::same_mode(self.input, source, copy, crypt, raw)?;
        }
        flags::key_at_target(&start.crypt, raw)?;
        if !raw && source.encryption.is_some() && !start.crypt.encrypted {
            notes.push("is encrypted on the source and will be plain text on the target".into());
        }
        let flags = flags::flags(self.input, raw);

        let mut resumed = None;
        if let Some(text) = token {
            let judged = match start.abort.take() {
                Some(reason) => Err(reason),
                None => resume::judge(
                    text,
                    &Intended {
                        source: &source.name,
                        past: &member.past,
                        from: start.base.as_ref().map(|b| b.guid),
                        from_txg: start.base_txg,
                        first: sends[0],
                        raw,
                        can_resume: self.input.source_caps.send_resume,
                    },
                ),
            };
            match judged {
                // With the newest alone, the token may be for an older snapshot, which was not looked at above.
                Ok((_, to)) if self.check_names(member, &[to], &start).is_err() => {
                    let reason = format!("the target has another snapshot that is called @{}", to.tag);
                    start.actions.insert(0, Action::AbortPartial { reason });
                }
                Ok((token, to)) => resumed = Some((text.to_owned(), token, to)),
                Err(reason) => start.actions.insert(0, Action::AbortPartial { reason }),
            }
        } else if let Some(reason) = start.abort.take().filter(|_| start.creates) {
            start.actions.insert(0, Action::AbortPartial { reason });
        }

        let sent = self.steps(member, target, sends, &mut start, flags, resumed)?;
        let outcome = Outcome {
            works: true,
            refused: false,
            stands: true,
            kept: start.kept,
            sent,
            crypt: if start.creates && raw { Crypt::raw(target) } else { start.crypt },
        };
        Ok((Decision::Work(start.actions), start.placeholders, outcome))
    }

    /// What is so whatever the snapshots are.
    fn check_existing(
        &self,
        source: &DatasetInfo,
        existing: &DatasetInfo,
        notes: &mut Vec<String>,
    ) -> Result<(), Refusal> {
        if existing.kind != source.kind {
            return Err(Refusal::WrongType {
                source: source.name.clone(),
                source_kind: source.kind,
                target: existing.name.clone(),
                target_kind: existing.kind,
            });
        }
        may_receive(existing, self.input.options.enters.as_deref())?;
        if let Some(job) = existing.local(JOB).filter(|job| *job != self.input.options.job.as_str()) {
            notes.push(format!("was last written on the target by the job {job}"));
        }
        Ok(())
    }

    /// The target has snapshots: finds the base, and rolls back to it where that is needed and allowed.
    fn go_on(&self, member: &Member<'a>, existing: &DatasetInfo, past: &Past<'a>) -> Result<Start, Refusal> {
        let source_newest = reference(&member.info.name, member.newest())?;
        // Not empty: the caller looked.
        let newest = past.snapshots.last().copied().unwrap_or(member.newest());
        let target_newest = reference(&existing.name, newest)?;
        let Some((at, common)) = past.newest_common(&member.past) else {
            return Err(Refusal::NoCommonSnapshot { source_newest, target_newest });
        };
        let to = reference(&existing.name, past.snapshots[at])?;
        let newer = &past.snapshots[at + 1..];
        let written = existing.written.unwrap_or(0);
        let (mut actions, mut abort) = (Vec::new(), None);
        // A ZFS that cannot tell would refuse the stream later, so what --rollback allows is done beforehand.
        let may_be_written = existing.written.is_none() && self.input.options.rollback;
        if !newer.is_empty() || written > 0 || may_be_written {
            if !self.input.options.rollback {
                return Err(if newer.is_empty() {
                    Refusal::TargetModified { source_newest, common: to, written }
                } else {
                    Refusal::TargetDiverged { source_newest, target_newest, common: to, newer: newer.len() }
                });
            }
            let mut destroys = Vec::with_capacity(newer.len());
            for snapshot in newer {
                let name = reference(&existing.name, snapshot)?.name;
                if let Some(clone) = self.target.clones.get(&name) {
                    return Err(Refusal::RollbackBlocked { to, snapshot: name, clone: (*clone).clone() });
                }
                destroys.push(name);
            }
            abort = Some("the target is rolled back to before what it belongs to".to_owned());
            actions.push(Action::Rollback { to: to.name, to_guid: to.guid, destroys });
        }
        let base = match common {
            Common::Snapshot(s) => Base::Snapshot(reference(&member.info.name, s)?.name),
            Common::Bookmark(b) => Base::Bookmark(member.info.bookmark_name(b).map_err(|_| Refusal::NameTooLong {
                dataset: member.info.name.clone(),
                wanted: format!("{}#{}", member.info.name, b.tag),
            })?),
        };
        let crypt = Crypt::of(existing);
        Ok(Start {
            actions,
            base: Some(StepBase { base, guid: to.guid }),
            base_txg: Some(common.createtxg()),
            origin: None,
            creates: false,
            kept: at + 1,
            placeholders: Vec::new(),
            chain: Some((existing.name.clone(), crypt.clone())),
            crypt,
            abort,
        })
    }

    fn nothing_to_send(
        &self,
        member: &Member<'a>,
        start: Start,
        token: bool,
        notes: &mut Vec<String>,
    ) -> Result<(Decision, Vec<DatasetName>, Outcome), Refusal> {
        let newest = reference(&member.info.name, member.newest())?;
        let kept = member.target_past.as_ref().map(|p| &p.snapshots[..start.kept]).unwrap_or_default();
        let target = member.existing.map_or(&member.info.name, |t| &t.name);
        let works = !start.actions.is_empty();
        let has_goal =
            member.target_past.as_ref().and_then(|p| p.position(newest.guid)).is_some_and(|at| at < start.kept);
        if !has_goal && let Some(last) = kept.last() {
            let last = reference(target, last)?;
            if self.input.options.upto.is_some() {
                return Err(Refusal::TargetPastSnapshot { wanted: newest, target_newest: last });
            }
            // The source has only a bookmark left of what the target has as its newest.
            notes.push(format!("lacks {newest} on the target, which is already at the newer {last}"));
        }
        if token && !works {
            notes.push(
                "has the state of an interrupted receive on the target, kept until there is a step to send".into(),
            );
        }
        let outcome =
            Outcome { works, refused: false, stands: true, kept: start.kept, sent: HashMap::new(), crypt: start.crypt };
        let decision = if works {
            let mut actions = start.actions;
            if let Some(reason) = start.abort.filter(|_| token) {
                actions.insert(0, Action::AbortPartial { reason });
            }
            Decision::Work(actions)
        } else {
            let common = start.base.and_then(|base| match base.base {
                Base::Snapshot(name) => Some(SnapshotRef { name, guid: base.guid }),
                Base::Bookmark(_) => None,
            });
            Decision::UpToDate { newest: newest.name, guid: newest.guid, common }
        };
        Ok((decision, Vec::new(), outcome))
    }
}

impl Outcome {
    /// The name of the target's copy of a snapshot, once this dataset's turn is over.
    pub fn copy_of(&self, member: &Member<'_>, guid: Guid) -> Option<SnapshotName> {
        if let Some(name) = self.sent.get(&guid) {
            return Some(name.clone());
        }
        let past = member.target_past.as_ref()?;
        let at = past.position(guid).filter(|at| *at < self.kept)?;
        member.existing?.snapshot_name(past.snapshots[at]).ok()
    }
}

/// True for what an interrupted first receive left: no data of anyone's own.
pub(super) fn is_partial(dataset: &DatasetInfo) -> bool {
    dataset.snapshots.is_empty() && (dataset.inconsistent || resume::present(dataset.resume_token.as_deref()).is_some())
}

/// `enters` is the fence into which the cutover that this run is part of sends back.
///
/// # Errors
/// When a cutover fenced or promoted the dataset, or one above it: user properties are inherited.
pub(super) fn may_receive(dataset: &DatasetInfo, enters: Option<&str>) -> Result<(), Refusal> {
    let mark = |property| dataset.property(property).map(|p| p.value.as_str()).filter(|v| !matches!(*v, "" | "-"));
    let target = dataset.name.clone();
    match (mark(FENCE), mark(SERVING)) {
        (Some(fence), _) if Some(fence) == enters => Ok(()),
        (Some(fence), _) => Err(Refusal::Fenced { target, fence: fence.to_owned() }),
        (None, Some(leg)) => Err(Refusal::Serves { target, leg: leg.to_owned() }),
        (None, None) => Ok(()),
    }
}

/// # Errors
/// When the full name would be too long.
pub(super) fn reference(dataset: &DatasetName, snapshot: &SnapshotInfo) -> Result<SnapshotRef, Refusal> {
    match dataset.snapshot(&snapshot.tag) {
        Ok(name) => Ok(SnapshotRef { name, guid: snapshot.guid }),
        Err(_) => Err(Refusal::NameTooLong { dataset: dataset.clone(), wanted: format!("{dataset}@{}", snapshot.tag) }),
    }
}
