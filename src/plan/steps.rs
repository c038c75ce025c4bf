//! The send streams of one dataset, chained one to the next.

use std::collections::HashMap;

use super::{
    Action, History, Refusal, SnapshotRef, Step, StepBase,
    dataset::{Decider, Start, reference},
    tree::Member,
};
use crate::{
    stream::token::ResumeToken,
    types::{
        DatasetName, Guid, SnapshotName,
        listing::SnapshotInfo,
        transfer::{Base, SendFlags},
    },
};

impl<'a> Decider<'_, 'a> {
    /// The snapshots to send, oldest first: never one that the target keeps.
    pub(super) fn sends(&self, member: &Member<'a>, start: &Start) -> Vec<&'a SnapshotInfo> {
        let first = start.base_txg.map_or(0, |base| member.past.after(base));
        let Some(range) = member.past.snapshots.get(first..=member.goal) else { return Vec::new() };
        let here = |guid| member.target_past.as_ref().and_then(|p| p.position(guid)).is_some_and(|at| at < start.kept);
        let goal = member.newest().guid;
        let all = self.input.options.history == History::All;
        range
            .iter()
            .copied()
            .filter(|s| all || s.guid == goal || self.wanted.contains(&s.guid))
            .filter(|s| !here(s.guid))
            .collect()
    }

    /// Refuses a snapshot whose name another one has on the target.
    pub(super) fn check_names(
        &self,
        member: &Member<'a>,
        sends: &[&SnapshotInfo],
        start: &Start,
    ) -> Result<(), Refusal> {
        let (Some(past), Some(existing)) = (&member.target_past, member.existing) else { return Ok(()) };
        let taken: HashMap<_, _> = past.snapshots[..start.kept].iter().map(|s| (&s.tag, *s)).collect();
        match sends.iter().find_map(|s| taken.get(&s.tag).map(|by| (*s, *by))) {
            None => Ok(()),
            Some((snapshot, by)) => Err(Refusal::SnapshotNameTaken {
                snapshot: reference(&member.info.name, snapshot)?,
                taken_by: reference(&existing.name, by)?,
            }),
        }
    }

    /// Chains the steps: each starts from the one before it.
    pub(super) fn steps(
        &self,
        member: &Member<'a>,
        target: &DatasetName,
        mut sends: Vec<&'a SnapshotInfo>,
        start: &mut Start,
        flags: SendFlags,
        mut resumed: Option<(String, ResumeToken, &'a SnapshotInfo)>,
    ) -> Result<HashMap<Guid, SnapshotName>, Refusal> {
        if let Some((_, _, to)) = &resumed
            && sends.first().is_none_or(|first| first.guid != to.guid)
        {
            sends.insert(0, to);
        }
        let (mut from, mut origin, mut creates_target) = (start.base.take(), start.origin.take(), start.creates);
        let mut sent = HashMap::new();
        for snapshot in sends {
            let mut flags = flags;
            let resume = resumed.take().map(|(text, token, _)| {
                flags.large_block = token.large_block;
                flags.compressed = token.compressed;
                flags.embed = token.embed;
                (text, token)
            });
            let SnapshotRef { name, guid } = reference(&member.info.name, snapshot)?;
            let target_snapshot = reference(target, snapshot)?.name;
            if self.wanted.contains(&guid) {
                sent.insert(guid, target_snapshot.clone());
            }
            let base = StepBase { base: Base::Snapshot(name.clone()), guid };
            start.actions.push(Action::Step(Step {
                snapshot: name,
                to_guid: guid,
                target: target.clone(),
                target_snapshot,
                from: from.replace(base),
                flags,
                resume,
                origin: origin.take(),
                creates_target: std::mem::take(&mut creates_target),
                kind: member.info.kind,
            }));
        }
        Ok(sent)
    }
}
