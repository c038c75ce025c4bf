//! A dataset that is to be made: what stands in its way, what is above it, and where a clone starts from.
//!
//! Invariant: only an empty dataset that zmigrate itself made is ever replaced.

use super::{
    Action, Dependency, PlaceholderState, Refusal, StepBase,
    dataset::{Decider, Start, is_partial, may_receive, reference},
    flags::Crypt,
    resume,
    tree::Member,
};
use crate::types::{
    DatasetName, Guid, SnapshotName,
    listing::{DatasetInfo, DatasetKind, PLACEHOLDER, PropertySource},
    transfer::Base,
};

/// What an empty filesystem refers to at most: its few dozen sectors at ashift 13. On coarser pools a
/// placeholder is left for the operator to remove.
const EMPTY_FILESYSTEM_BYTES: u64 = 256 << 10;

impl<'a> Decider<'_, 'a> {
    /// The target has no snapshot: a full stream, or a clone's first from its origin.
    pub(super) fn begin(
        &self,
        at: usize,
        member: &Member<'a>,
        target: &DatasetName,
        notes: &mut Vec<String>,
    ) -> Result<Start, Refusal> {
        let (mut actions, mut abort) = (Vec::new(), None);
        if let Some(existing) = member.existing {
            if is_partial(existing) {
                if resume::present(existing.resume_token.as_deref()).is_none() {
                    abort = Some("an interrupted receive left it incomplete and without a token".to_owned());
                }
            } else {
                self.replaceable(member, existing)?;
                actions.push(Action::ReplacePlaceholder { target: existing.name.clone() });
            }
        }
        let (placeholders, crypt) = self.surroundings(member, target)?;
        let mut start = Start {
            actions,
            base: None,
            base_txg: None,
            origin: None,
            creates: true,
            kept: 0,
            placeholders,
            crypt,
            chain: None,
            abort,
        };
        if let Some(name) = &member.info.origin {
            self.start_at_origin(at, member, name, &mut start, notes)?;
        }
        if member.existing.is_none()
            && start.base.is_none()
            && let Some(copy) = self.copy_of_renamed(member)
        {
            notes.push(format!(
                "was renamed, and is sent again in full: its copy is {copy}. `zfs rename {copy} {target}` there, before a run, saves that"
            ));
        }
        Ok(start)
    }

    /// The copy that a dataset has under the name that it had before, if that is no other's by now.
    fn copy_of_renamed(&self, member: &Member<'a>) -> Option<&'a DatasetName> {
        let is_copy = |other: &&DatasetInfo| {
            let newest = other.snapshots.last();
            newest.is_some_and(|newest| member.past.position(newest.guid).is_some())
        };
        let copy = self.input.target.datasets.iter().find(is_copy)?;
        let old = copy.name.relative_to(self.input.target_root)?;
        let taken = self.input.source_root.join(old).is_ok_and(|name| self.input.source.get(&name).is_some());
        (!taken).then_some(&copy.name)
    }

    /// Checks that what stands in the way is an empty dataset of zmigrate's own making.
    fn replaceable(&self, member: &Member<'a>, existing: &DatasetInfo) -> Result<(), Refusal> {
        let source_newest = reference(&member.info.name, member.newest())?;
        let target = existing.name.clone();
        if !existing.is_placeholder() {
            return Err(Refusal::TargetExists { source_newest, target, referenced: existing.referenced });
        }
        let set_here = |name, value| {
            existing.property(name).is_some_and(|p| p.source == PropertySource::Local && p.value == value)
        };
        let state = if self.target.has_children(existing.name.as_str()) {
            PlaceholderState::HasChildren
        } else if !set_here(PLACEHOLDER, "on")
            || !set_here("canmount", "off")
            || existing.kind != DatasetKind::Filesystem
            || existing.origin.is_some()
        {
            PlaceholderState::Changed
        } else if existing.referenced.max(existing.written.unwrap_or(0)) > EMPTY_FILESYSTEM_BYTES {
            PlaceholderState::HasData
        } else {
            return Ok(());
        };
        Err(Refusal::PlaceholderInUse { source_newest, target, state })
    }

    /// Looks up from a dataset that is to be made: the placeholders that it needs, and what it will inherit.
    fn surroundings(&self, member: &Member<'a>, target: &DatasetName) -> Result<(Vec<DatasetName>, Crypt), Refusal> {
        let mut missing = Vec::new();
        for above in target.ancestors().into_iter().rev() {
            let relative = above.relative_to(self.input.target_root);
            if let Some(at) = relative.and_then(|relative| self.by_relative.get(relative).copied())
                && let Some(outcome) = &self.outcomes[at]
            {
                if !outcome.stands {
                    let (source, on) = (member.info.name.clone(), self.members[at].info.name.clone());
                    return Err(Refusal::DependsOn { source, on, as_its: Dependency::Parent });
                }
                if outcome.works && self.members[at].existing.is_none() {
                    self.check_parent_kind(target, &above, self.members[at].info.kind)?;
                    return Ok((missing, outcome.crypt.clone()));
                }
            }
            let Some(existing) = self.target.get(above.as_str()) else {
                missing.push(above);
                continue;
            };
            self.check_parent_kind(target, &above, existing.kind)?;
            may_receive(existing, self.input.options.enters.as_deref())?;
            let made_anew = relative
                .and_then(|relative| self.by_relative.get(relative))
                .filter(|at| !self.members[**at].established())
                .and_then(|at| self.outcomes[*at].as_ref())
                .filter(|outcome| outcome.works);
            if made_anew.is_none() && is_partial(existing) {
                return Err(Refusal::ParentPartial { target: target.clone(), parent: above });
            }
            return Ok((missing, made_anew.map_or_else(|| Crypt::of(existing), |o| o.crypt.clone())));
        }
        Ok((missing, Crypt::default()))
    }

    fn check_parent_kind(&self, target: &DatasetName, parent: &DatasetName, kind: DatasetKind) -> Result<(), Refusal> {
        match kind {
            DatasetKind::Filesystem => Ok(()),
            DatasetKind::Volume => Err(Refusal::ParentNotFilesystem { target: target.clone(), parent: parent.clone() }),
        }
    }

    /// Lets a clone start from its origin, if the target has that or gets it before.
    fn start_at_origin(
        &self,
        at: usize,
        member: &Member<'a>,
        name: &SnapshotName,
        start: &mut Start,
        notes: &mut Vec<String>,
    ) -> Result<(), Refusal> {
        let mut full = |why: String| notes.push(format!("is a clone of {name} and goes as a full stream: {why}"));
        let Some(origin) = &member.origin else {
            full("its origin is outside this run".into());
            return Ok(());
        };
        if self.edges.cyclic[at] {
            full("its origin is below it, or needs it in another way".into());
            return Ok(());
        }
        let dataset = name.dataset();
        let copy = match self.edges.origin[at] {
            Some(of) => {
                let (outcome, of) = (self.outcomes[of].as_ref(), &self.members[of]);
                let copy = outcome.and_then(|o| o.copy_of(of, origin.guid).map(|copy| (copy, o.crypt.clone())));
                if copy.is_none() && outcome.is_none_or(|o| o.refused) {
                    let source = member.info.name.clone();
                    return Err(Refusal::DependsOn { source, on: dataset, as_its: Dependency::Origin });
                }
                copy
            }
            None => self.standing_copy(&dataset, origin.guid),
        };
        let Some((copy, crypt)) = copy else {
            full("the target has no copy of its origin and gets none in this run".into());
            return Ok(());
        };
        start.base = Some(StepBase { base: Base::Snapshot(origin.name.clone()), guid: origin.guid });
        // A clone is encrypted as its origin is, whatever is above it.
        start.crypt = crypt.clone();
        start.chain = Some((copy.dataset(), crypt));
        start.origin = Some(copy);
        Ok(())
    }

    /// The target's copy of a snapshot whose dataset takes no part in this run.
    fn standing_copy(&self, dataset: &DatasetName, guid: Guid) -> Option<(SnapshotName, Crypt)> {
        let name = self.input.target_root.join(dataset.relative_to(self.input.source_root)?).ok()?;
        let existing = self.target.get(name.as_str())?;
        let copy = existing.snapshot_by_guid(guid)?;
        Some((existing.snapshot_name(copy).ok()?, Crypt::of(existing)))
    }
}
