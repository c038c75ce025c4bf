//! The run as a whole: which datasets take part, in which order, and what must be made above them.

use std::collections::{HashMap, HashSet};

use super::{
    DatasetPlan, Decision, ExcludePattern, Plan, PlanInput, Refusal, SnapshotRef,
    clones::{self, Edges, Origin},
    dataset::{Decider, Outcome},
    history::Past,
};
use crate::types::{
    DatasetName, SnapshotName,
    listing::{DatasetInfo, DatasetKind, SnapshotInfo},
};

/// A dataset of the source that takes part.
pub(super) struct Member<'a> {
    pub info: &'a DatasetInfo,
    /// Its name below the root; empty for the root.
    pub relative: &'a str,
    /// Its name on the target, or the text that is no name.
    pub target: Result<DatasetName, String>,
    pub past: Past<'a>,
    /// The index of the last snapshot to be sent.
    pub goal: usize,
    /// What stands on the target under that name.
    pub existing: Option<&'a DatasetInfo>,
    pub target_past: Option<Past<'a>>,
    /// Where a clone that is yet to be received starts from, if that is known.
    pub origin: Option<Origin>,
}

impl<'a> Member<'a> {
    /// The last snapshot to be sent.
    pub fn newest(&self) -> &'a SnapshotInfo {
        self.past.snapshots[self.goal]
    }

    /// True if the target has a history to go on from.
    pub fn established(&self) -> bool {
        self.existing.is_some_and(|t| !t.snapshots.is_empty())
    }
}

/// The target's datasets, to be found by name.
pub(super) struct TargetSide<'a> {
    below: HashMap<&'a str, &'a DatasetInfo>,
    above: HashMap<&'a str, &'a DatasetInfo>,
    parents: HashSet<&'a str>,
    /// Clones by the name of their origin.
    pub clones: HashMap<&'a SnapshotName, &'a DatasetName>,
}

impl<'a> TargetSide<'a> {
    fn new(input: &PlanInput<'a>) -> Self {
        let all = &input.target.datasets;
        Self {
            below: by_name(all),
            above: by_name(input.target_ancestors),
            parents: all.iter().filter_map(|d| d.name.as_str().rsplit_once('/')).map(|(parent, _)| parent).collect(),
            clones: all.iter().filter_map(|d| d.origin.as_ref().map(|origin| (origin, &d.name))).collect(),
        }
    }

    /// The dataset of that name, at, below or above the root.
    pub fn get(&self, name: &str) -> Option<&'a DatasetInfo> {
        self.below.get(name).or_else(|| self.above.get(name)).copied()
    }

    /// True if there is a dataset below that one.
    pub fn has_children(&self, name: &str) -> bool {
        self.parents.contains(name)
    }
}

fn by_name(datasets: &[DatasetInfo]) -> HashMap<&str, &DatasetInfo> {
    let mut map = HashMap::with_capacity(datasets.len());
    for dataset in datasets {
        map.entry(dataset.name.as_str()).or_insert(dataset);
    }
    map
}

/// Makes the plan of a run.
///
/// # Errors
/// What concerns the run as a whole: no such source, no such pool, nothing to send, a root of the wrong type
/// or without the wanted snapshot. What concerns one dataset is in the plan.
pub fn plan(input: &PlanInput<'_>) -> Result<Plan, Refusal> {
    let target = TargetSide::new(input);
    check_roots(input, &target)?;

    let mut plan = Plan::default();
    let selected = select(input, &mut plan);
    let mut members = members(input, &target, &selected, &mut plan)?;
    let edges = find_origins(input, &selected, &mut members);
    let wanted = clones::wanted(&members, &edges);
    let by_relative: HashMap<&str, usize> = members.iter().enumerate().map(|(at, m)| (m.relative, at)).collect();

    let mut outcomes: Vec<Option<Outcome>> = members.iter().map(|_| None).collect();
    let mut place = vec![0; members.len()];
    let mut placeholders = HashSet::new();
    for at in edges.order() {
        let decider = Decider {
            input,
            target: &target,
            members: &members,
            by_relative: &by_relative,
            outcomes: &outcomes,
            edges: &edges,
            wanted: &wanted[at],
        };
        let decided = decider.decide(at);
        let member = &members[at];
        let mut after: Vec<usize> = [edges.parent[at], edges.origin[at]]
            .into_iter()
            .flatten()
            .filter(|need| outcomes[*need].as_ref().is_some_and(|o| o.works))
            .map(|need| place[need])
            .collect();
        after.sort_unstable();
        after.dedup();
        place[at] = plan.datasets.len();
        placeholders.extend(decided.placeholders);
        plan.datasets.push(DatasetPlan {
            source: member.info.name.clone(),
            target: member.target.clone().unwrap_or_else(|_| nameable(input.target_root, member.relative)),
            kind: member.info.kind,
            source_guid: member.info.guid,
            after: if matches!(decided.decision, Decision::Work(_)) { after } else { Vec::new() },
            decision: decided.decision,
            notes: decided.notes,
        });
        outcomes[at] = Some(decided.outcome);
    }
    plan.placeholders = placeholders.into_iter().collect();
    // A shorter name sorts before those below it.
    plan.placeholders.sort();
    if input.options.recursive {
        let mapped: HashSet<&str> =
            input.source.datasets.iter().filter_map(|d| d.name.relative_to(input.source_root)).collect();
        let on_target = input.target.datasets.iter().filter_map(|d| d.name.relative_to(input.target_root));
        plan.only_on_target = on_target.filter(|relative| !mapped.contains(relative)).count();
    }
    Ok(plan)
}

fn check_roots(input: &PlanInput<'_>, target: &TargetSide<'_>) -> Result<(), Refusal> {
    let Some(source) = input.source.get(input.source_root) else {
        return Err(Refusal::SourceAbsent { source: input.source_root.clone() });
    };
    if target.get(input.target_root.pool()).is_none() {
        return Err(Refusal::TargetPoolAbsent { target: input.target_root.clone() });
    }
    if let Some(existing) = target.get(input.target_root.as_str())
        && existing.kind != source.kind
    {
        return Err(Refusal::WrongType {
            source: source.name.clone(),
            source_kind: source.kind,
            target: existing.name.clone(),
            target_kind: existing.kind,
        });
    }
    let volume = input
        .target_root
        .ancestors()
        .into_iter()
        .find(|a| target.get(a.as_str()).is_some_and(|d| d.kind == DatasetKind::Volume));
    match volume {
        Some(parent) => Err(Refusal::ParentNotFilesystem { target: input.target_root.clone(), parent }),
        None => Ok(()),
    }
}

/// The datasets of the source that are asked for, each once.
fn select<'a>(input: &PlanInput<'a>, plan: &mut Plan) -> Vec<&'a DatasetInfo> {
    let excluded = |relative: &str| input.options.exclude.iter().any(|p: &ExcludePattern| p.excludes(relative));
    let (mut selected, mut seen, mut left_out) = (Vec::new(), HashSet::new(), 0usize);
    for dataset in &input.source.datasets {
        let Some(relative) = dataset.name.relative_to(input.source_root) else { continue };
        if (!relative.is_empty() && !input.options.recursive) || !seen.insert(relative) {
            continue;
        }
        if excluded(relative) {
            left_out += 1;
        } else {
            selected.push(dataset);
        }
    }
    if left_out > 0 {
        plan.notes.push(format!("{left_out} dataset(s) excluded"));
    }
    selected
}

/// Those of the selected datasets that have something to send.
fn members<'a>(
    input: &PlanInput<'a>,
    target: &TargetSide<'a>,
    selected: &[&'a DatasetInfo],
    plan: &mut Plan,
) -> Result<Vec<Member<'a>>, Refusal> {
    let mut members = Vec::with_capacity(selected.len());
    for info in selected.iter().copied() {
        let Some(relative) = info.name.relative_to(input.source_root) else { continue };
        let past = Past::new(info, &input.options.job);
        let goal = match &input.options.upto {
            None => past.snapshots.len().checked_sub(1),
            Some(tag) => {
                let goal = past.snapshots.iter().position(|s| s.tag == *tag);
                if goal.is_none() && relative.is_empty() {
                    return Err(absent(info, tag, past.snapshots.last().copied()));
                }
                goal
            }
        };
        let Some(goal) = goal else {
            plan.notes.push(match &input.options.upto {
                Some(tag) => format!("{} has no snapshot @{tag} and is left alone", info.name),
                None => format!("{} has no snapshot and is left alone", info.name),
            });
            continue;
        };
        let target_name = input.target_root.join(relative).map_err(|_| format!("{}/{relative}", input.target_root));
        let existing = target_name.as_ref().ok().and_then(|name| target.get(name.as_str()));
        let target_past = existing.map(|t| Past::new(t, &input.options.job));
        members.push(Member { info, relative, target: target_name, past, goal, existing, target_past, origin: None });
    }
    if members.is_empty() {
        return Err(Refusal::NoSnapshots { source: input.source_root.clone() });
    }
    Ok(members)
}

fn absent(info: &DatasetInfo, tag: &crate::types::SnapshotTag, newest: Option<&SnapshotInfo>) -> Refusal {
    let newest = newest.and_then(|s| info.snapshot_name(s).ok().map(|name| SnapshotRef { name, guid: s.guid }));
    match info.name.snapshot(tag) {
        Ok(wanted) => Refusal::SnapshotAbsent { wanted, newest },
        Err(_) => Refusal::NameTooLong { dataset: info.name.clone(), wanted: format!("{}@{tag}", info.name) },
    }
}

/// Fills in where clones start from, and orders the members.
fn find_origins<'a>(input: &PlanInput<'a>, selected: &[&'a DatasetInfo], members: &mut [Member<'a>]) -> Edges {
    let mut origins = clones::origins(&by_name(&input.source.datasets), selected);
    let at: HashMap<&str, usize> = members.iter().enumerate().map(|(at, m)| (m.relative, at)).collect();
    let mut parents = Vec::with_capacity(members.len());
    let mut from = Vec::with_capacity(members.len());
    for member in members.iter() {
        let above = member.relative.rmatch_indices('/').map(|(cut, _)| &member.relative[..cut]);
        let above = above.chain((!member.relative.is_empty()).then_some(""));
        // The nearest that takes part; whether it must come first depends on what stands on the target.
        parents.push(above.filter_map(|name| at.get(name).copied()).next().filter(|p| !members[*p].established()));
        let origin = member.info.origin.as_ref().filter(|_| !member.established());
        let dataset = origin.map(SnapshotName::dataset);
        from.push(
            dataset.and_then(|d| d.relative_to(input.source_root).and_then(|relative| at.get(relative).copied())),
        );
    }
    for member in members.iter_mut().filter(|m| !m.established()) {
        member.origin = member.info.origin.as_ref().and_then(|name| origins.get(name).cloned());
    }
    origins.clear();
    // An origin that the listing lacks orders nothing.
    for (member, from) in members.iter().zip(&mut from) {
        if member.origin.is_none() {
            *from = None;
        }
    }
    Edges::new(parents, from)
}

/// The nearest dataset above `root/relative` whose name is one.
fn nameable(root: &DatasetName, relative: &str) -> DatasetName {
    let above = relative.rmatch_indices('/').map(|(cut, _)| &relative[..cut]);
    above.filter_map(|name| root.join(name).ok()).next().unwrap_or_else(|| root.clone())
}
