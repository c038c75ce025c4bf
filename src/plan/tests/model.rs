//! The plan against a model of a target that is as strict as `zfs receive` without `-F`.
//!
//! The model shares no code with the planner: it knows GUID lists, names, and what ZFS refuses.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::support::*;
use crate::{
    plan::{Action, Decision, Plan, Refusal, Step},
    types::{CreateTxg, Guid, transfer::Base},
};

/// The datasets below the root; `c` may be a clone of one of `a`'s snapshots.
const TREE: [&str; 4] = ["", "/a", "/a/b", "/c"];

/// tag, GUID, createtxg
type Point = (String, u64, u64);

#[derive(Clone, Debug, Default)]
struct Source {
    snaps: Vec<Point>,
    marks: Vec<Point>,
    origin: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Target {
    /// Oldest first.
    snaps: Vec<(String, u64)>,
    dirty: bool,
    placeholder: bool,
    /// Someone's data that zmigrate did not bring.
    own: bool,
    /// to, from, name of the snapshot
    partial: Option<(u64, Option<u64>, String)>,
}

#[derive(Clone, Debug, Default)]
struct World {
    sources: [Source; 4],
    targets: BTreeMap<String, Target>,
    clock: u64,
}

/// What, on which dataset, and a number to choose with.
type Op = (u8, usize, usize);

impl World {
    fn after(ops: &[Op]) -> Self {
        let mut world = World::default();
        for op in ops {
            world.act(*op);
        }
        world
    }

    fn act(&mut self, (what, at, pick): Op) {
        self.clock += 1;
        let now = self.clock;
        let tag = format!("t{}", pick % 6);
        let place = format!("backup/db{}", TREE[at]);
        let parent = place.rsplit_once('/').unwrap().0.to_owned();
        let parent_stands = parent == "backup"
            || self.targets.get(&parent).is_some_and(|p| !(p.partial.is_some() && p.snaps.is_empty()));
        let pinned = self.sources[3].origin.filter(|_| at == 1);
        let source = &mut self.sources[at];
        let chosen = (!source.snaps.is_empty()).then(|| pick % source.snaps.len().max(1));
        match (what, chosen) {
            (0..=3, _) if source.snaps.iter().all(|s| s.0 != tag) => source.snaps.push((tag, now * 7, now)),
            (4, Some(i)) if pinned != Some(source.snaps[i].1) => drop(source.snaps.remove(i)),
            (5, Some(i)) => {
                let (_, guid, txg) = source.snaps[i].clone();
                source.marks.push((format!("m{now}"), guid, txg));
            }
            (6, Some(i)) if source.snaps.iter().all(|s| s.0 != tag) => source.snaps[i].0 = tag,
            // A replication of before: all that follows on the target's newest.
            (7..=9, Some(_)) if parent_stands => {
                let source = source.clone();
                let target = self.targets.entry(place.clone()).or_default();
                if target.own || target.placeholder || target.dirty || target.partial.is_some() {
                    return;
                }
                let newest = target.snaps.last().map(|s| s.1);
                let base = newest.map(|g| source.snaps.iter().chain(&source.marks).find(|p| p.1 == g).map(|p| p.2));
                let Some(base) = base.unwrap_or(Some(0)) else { return };
                for (tag, guid, _) in source.snaps.iter().filter(|s| s.2 > base) {
                    if target.snaps.iter().any(|s| s.0 == *tag) {
                        break;
                    }
                    target.snaps.push((tag.clone(), *guid));
                }
            }
            (10, _) => {
                if let Some(t) = self.targets.get_mut(&place)
                    && !t.snaps.is_empty()
                    && t.snaps.iter().all(|s| s.0 != tag)
                {
                    t.snaps.push((tag, now * 7));
                }
            }
            (11, _) => {
                if let Some(t) = self.targets.get_mut(&place)
                    && t.snaps.len() > 1
                {
                    t.snaps.remove(pick % t.snaps.len());
                }
            }
            (12, _) => {
                if let Some(t) = self.targets.get_mut(&place).filter(|t| !t.snaps.is_empty()) {
                    t.dirty = true;
                }
            }
            (13, _) if parent_stands => {
                let fresh = Target { own: pick % 2 == 0, placeholder: pick % 2 == 1, ..Target::default() };
                self.targets.entry(place).or_insert(fresh);
            }
            (14, Some(i)) if parent_stands => {
                let to = source.snaps[i].clone();
                let name = format!("tank/db{}@{}", TREE[at], to.0);
                let target = self.targets.entry(place).or_default();
                if !target.own && !target.placeholder {
                    target.partial = Some((to.1, target.snaps.last().map(|s| s.1), name));
                }
            }
            (15, _) if at == 3 && self.sources[3].snaps.is_empty() && self.sources[3].origin.is_none() => {
                let of = &self.sources[1].snaps;
                self.sources[3].origin = of.get(pick % of.len().max(1)).map(|s| s.1);
            }
            _ => {}
        }
    }

    fn case(&self, root: &str) -> Case {
        let mut source = Vec::new();
        for (s, below) in self.sources.iter().zip(TREE) {
            let mut d = ds(&format!("{root}{below}"));
            for (tag, guid, txg) in &s.snaps {
                d = d.snap(tag, *guid);
                d.0.snapshots.last_mut().unwrap().createtxg = CreateTxg(*txg);
            }
            for (tag, guid, txg) in &s.marks {
                d = d.bookmark(tag, Guid(*guid), *txg);
            }
            if let Some(origin) = s.origin {
                let tag = &self.sources[1].snaps.iter().find(|p| p.1 == origin).unwrap().0;
                d = d.origin(&format!("{root}/a@{tag}"));
            }
            source.push(d);
        }
        let mut target = Vec::new();
        for (place, t) in &self.targets {
            let mut d = t.snaps.iter().fold(ds(place), |d, (tag, guid)| d.snap(tag, *guid));
            d = d.written(if t.dirty { 512 } else { 0 });
            if t.placeholder {
                d = d.placeholder();
            }
            if let Some((to, from, name)) = &t.partial {
                d = d.token(&token(name, Guid(*to), from.map(Guid), &[]));
                d.0.inconsistent = t.snaps.is_empty();
            }
            target.push(d);
        }
        case(source, target).recursive()
    }

    fn has_children(&self, place: &str) -> bool {
        self.targets.keys().any(|k| k.starts_with(&format!("{place}/")))
    }

    /// Does what the plan says, as strictly as ZFS would.
    fn apply(&mut self, plan: &Plan, rollback: bool) -> Result<(), String> {
        for (at, dataset) in plan.datasets.iter().enumerate() {
            for placeholder in plan.placeholders_of(dataset) {
                let stands = self.targets.get(placeholder.as_str());
                if let Some(stands) = stands {
                    check(stands.placeholder, "a placeholder hits a real dataset")?;
                }
                self.check_parent(placeholder.as_str())?;
                let fresh = Target { placeholder: true, ..Target::default() };
                self.targets.entry(placeholder.to_string()).or_insert(fresh);
            }
            check(dataset.after.iter().all(|a| *a < at), "waits for a later one")?;
            let Decision::Work(actions) = &dataset.decision else { continue };
            check(!actions.is_empty(), "work without actions")?;
            let place = dataset.target.to_string();
            for action in actions {
                match action {
                    Action::AbortPartial { .. } => {
                        let t = self.targets.get_mut(&place).ok_or("aborts nothing")?;
                        check(t.partial.take().is_some(), "aborts where nothing is partial")?;
                        if t.snaps.is_empty() {
                            self.targets.remove(&place);
                        }
                    }
                    Action::ReplacePlaceholder { target } => {
                        check(!self.has_children(target.as_str()), "destroys children")?;
                        let t = self.targets.remove(target.as_str()).ok_or("replaces nothing")?;
                        check(t.placeholder && t.snaps.is_empty() && !t.own && t.partial.is_none(), "destroys data")?;
                    }
                    Action::Rollback { to_guid, destroys, .. } => {
                        check(rollback, "rolls back unasked")?;
                        let t = self.targets.get_mut(&place).ok_or("rolls back nothing")?;
                        check(t.partial.is_none(), "rolls back under partial state")?;
                        let at = t.snaps.iter().position(|s| s.1 == to_guid.0).ok_or("rolls back to nothing")?;
                        let gone: Vec<_> = t.snaps.split_off(at + 1).into_iter().map(|s| s.0).collect();
                        let said: Vec<_> = destroys.iter().map(|s| s.tag().to_string()).collect();
                        check(gone == said, "destroys other snapshots than it says")?;
                        check(t.dirty || !gone.is_empty(), "rolls back for nothing")?;
                        t.dirty = false;
                    }
                    Action::Step(step) => self.receive(&place, step)?,
                }
            }
        }
        Ok(())
    }

    fn check_parent(&self, place: &str) -> Result<(), String> {
        let parent = place.rsplit_once('/').unwrap().0;
        let stands =
            parent == "backup" || self.targets.get(parent).is_some_and(|p| p.partial.is_none() || !p.snaps.is_empty());
        check(stands, "has no parent")
    }

    fn receive(&mut self, place: &str, step: &Step) -> Result<(), String> {
        let sent = step.snapshot.to_string();
        let below = sent.split_once('@').unwrap().0.strip_prefix("tank/db").unwrap().to_owned();
        let source = &self.sources[TREE.iter().position(|t| *t == below).unwrap()];
        let is = |points: &[Point], tag: &str, guid: Guid| points.iter().any(|p| p.0 == tag && p.1 == guid.0);
        check(is(&source.snaps, step.snapshot.tag().as_str(), step.to_guid), "sends what is not there")?;
        let from = step.from.as_ref().map(|f| f.guid.0);
        let partial = self.targets.get_mut(place).and_then(|t| t.partial.take());
        match (&partial, &step.resume) {
            (None, None) => {}
            (Some((to, base, name)), Some(_)) => {
                check(*to == step.to_guid.0 && *base == from && *name == sent, "resumes another step")?;
                if self.targets[place].snaps.is_empty() {
                    self.targets.remove(place);
                }
            }
            (Some(_), None) => return Err("receives over partial state".into()),
            (None, Some(_)) => return Err("resumes nothing".into()),
        }
        let of = match step.from.as_ref().map(|f| &f.base) {
            Some(Base::Bookmark(b)) => {
                check(is(&source.marks, b.tag().as_str(), Guid(from.unwrap())), "has no such bookmark")?;
                None
            }
            Some(Base::Snapshot(s)) => {
                let of = s.dataset().to_string();
                let from_origin = of != step.snapshot.dataset().to_string();
                let base = if from_origin { &self.sources[1] } else { source };
                check(is(&base.snaps, s.tag().as_str(), Guid(from.unwrap())), "has no such base")?;
                from_origin.then_some(of)
            }
            None => None,
        };
        let tag = step.target_snapshot.tag().to_string();
        if step.from.is_none() || of.is_some() {
            check(step.creates_target && !self.targets.contains_key(place), "target exists")?;
            self.check_parent(place)?;
            if of.is_some() {
                check(source.origin == from, "starts from what is not its origin")?;
                let origin = step.origin.as_ref().ok_or("names no origin")?;
                let copy = self.targets.get(origin.dataset().as_str()).ok_or("the target has no origin")?;
                let (tag, guid) = (origin.tag().to_string(), from.unwrap());
                check(copy.snaps.contains(&(tag, guid)), "the target has another origin")?;
            }
            let fresh = Target { snaps: vec![(tag, step.to_guid.0)], ..Target::default() };
            self.targets.insert(place.to_owned(), fresh);
            return Ok(());
        }
        let t = self.targets.get_mut(place).ok_or("target does not exist")?;
        check(!step.creates_target, "makes what is there")?;
        check(t.snaps.last().map(|s| s.1) == from, "most recent snapshot does not match incremental source")?;
        check(!t.dirty, "destination has been modified")?;
        check(t.snaps.iter().all(|s| s.0 != tag && s.1 != step.to_guid.0), "destination snapshot exists")?;
        t.snaps.push((tag, step.to_guid.0));
        Ok(())
    }

    /// True if nothing speaks against a run into this dataset, seen by itself.
    fn is_clean(&self, at: usize) -> bool {
        let source = &self.sources[at];
        let Some(t) = self.targets.get(&format!("backup/db{}", TREE[at])) else { return true };
        let Some((_, newest)) = t.snaps.last() else { return !t.own && !t.placeholder };
        let Some(base) = source.snaps.iter().chain(&source.marks).find(|p| p.1 == *newest) else { return false };
        let free = |s: &Point| s.2 <= base.2 || t.snaps.iter().all(|have| have.0 != s.0);
        !t.dirty && source.snaps.iter().all(free)
    }
}

fn check(so: bool, otherwise: &str) -> Result<(), String> {
    if so { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec((0u8..16, 0usize..4, 0usize..100), 0..60)
}

fn newest(points: &[Point]) -> Option<&Point> {
    points.iter().max_by_key(|p| p.2)
}

/// What is sent, by GUIDs: from, to, and whether it is a clone's first.
fn guids(plan: &Plan) -> Vec<(Option<Guid>, Guid, bool)> {
    let steps = plan.datasets.iter().flat_map(|d| d.steps());
    steps.map(|s| (s.from.as_ref().map(|f| f.guid), s.to_guid, s.origin.is_some())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_does_what_it_is_for_and_no_harm(ops in ops(), rollback: bool, newest_only: bool) {
        let before = World::after(&ops);
        let mut case = before.case("tank/db");
        case.options.rollback = rollback;
        if newest_only { case = case.newest(); }
        let plan = match case.try_plan() {
            Ok(plan) => plan,
            Err(Refusal::NoSnapshots { .. }) => {
                prop_assert!(before.sources.iter().all(|s| s.snaps.is_empty()));
                return Ok(());
            }
            Err(other) => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        let mut world = before.clone();
        if let Err(why) = world.apply(&plan, rollback) {
            return Err(TestCaseError::fail(format!("{why}\n{plan:#?}")));
        }
        // No harm.
        for (place, was) in &before.targets {
            let is = world.targets.get(place);
            if was.own { prop_assert_eq!(is, Some(was)); }
            if !rollback && !was.snaps.is_empty() {
                prop_assert!(is.is_some_and(|is| is.snaps.starts_with(&was.snaps)), "{} lost snapshots", place);
            }
        }
        // What it is for.
        for dataset in &plan.datasets {
            let at = TREE.iter().position(|t| dataset.source.as_str() == format!("tank/db{t}")).unwrap();
            let source = &before.sources[at];
            let place = dataset.target.as_str();
            if let Some(refusal) = dataset.refusal() {
                prop_assert_eq!(world.targets.get(place), before.targets.get(place));
                prop_assert!(
                    matches!(refusal, Refusal::DependsOn { .. } | Refusal::ParentPartial { .. }) || !before.is_clean(at),
                    "refused for no reason: {:?}", refusal
                );
                continue;
            }
            let (has, goal) = (&world.targets[place], newest(&source.snaps).unwrap());
            let last = has.snaps.last().unwrap().1;
            let past = source.marks.iter().any(|m| m.1 == last && m.2 > goal.2);
            prop_assert!(last == goal.1 || past, "{} ends at {} and not at {}", place, last, goal.1);
            let from = dataset.steps().next().map(|s| (s.from.as_ref().filter(|_| s.origin.is_none()), s.to_guid));
            if let (Some((from, _)), false) = (from, newest_only) {
                let all = source.snaps.iter().chain(&source.marks);
                let base = from.map_or(0, |f| all.clone().find(|p| p.1 == f.guid.0).unwrap().2);
                for s in source.snaps.iter().filter(|s| s.2 > base) {
                    prop_assert!(has.snaps.iter().any(|h| h.1 == s.1), "{} lacks {}", place, s.0);
                }
            }
        }
        // Nothing is left to do, but for what stays refused, or waits for that.
        let mut again = world.case("tank/db");
        again.options = case.options.clone();
        let again = again.plan();
        for (d, was) in again.datasets.iter().map(|d| (d, plan.datasets.iter().find(|p| p.source == d.source).unwrap())) {
            match &d.decision {
                Decision::UpToDate { .. } => {}
                Decision::Refused(_) => prop_assert!(was.refusal().is_some(), "refused after its own plan: {:?}", d),
                Decision::Work(_) => return Err(TestCaseError::fail(format!("still to do: {d:#?}"))),
            }
        }
    }

    #[test]
    fn names_decide_nothing(ops in ops(), rollback: bool) {
        let ops: Vec<_> = ops.into_iter().filter(|op| op.0 != 14).collect();
        let world = World::after(&ops);
        let mut renamed = world.clone();
        for point in renamed.sources.iter_mut().flat_map(|s| s.snaps.iter_mut().chain(&mut s.marks)) {
            point.0 = format!("now{}", point.0.len() as u64 * 1_000_000 + point.1 * 1000 + point.2);
        }
        let plan = |world: &World, root: &str| {
            let mut c = world.case(root);
            c.roots.0 = name(root);
            c.options.rollback = rollback;
            c.try_plan().ok()
        };
        let (one, moved, other) = (plan(&world, "tank/db"), plan(&world, "pool2/x/y"), plan(&renamed, "tank/db"));
        prop_assert_eq!(one.as_ref().map(guids), moved.as_ref().map(guids));
        // Under fresh names nothing can be taken, so only plans without that refusal are the same.
        let taken = |p: &Plan| p.refusals().any(|(_, r)| matches!(r, Refusal::SnapshotNameTaken { .. } | Refusal::DependsOn { .. }));
        if !one.as_ref().is_some_and(taken) {
            prop_assert_eq!(one.as_ref().map(guids), other.as_ref().map(guids));
        }
    }
}
