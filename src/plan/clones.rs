//! Clones: which snapshots they start from, and which of them can be sent from there.
//!
//! Invariant: the edges "parent first" and "origin first" together have no cycle. An edge to an origin that
//! would close one is dropped, and that clone goes as a full stream.

use std::collections::{HashMap, HashSet};

use super::tree::Member;
use crate::types::{Guid, SnapshotName, SnapshotTag, listing::DatasetInfo};

/// The snapshot that a clone was made from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub name: SnapshotName,
    pub guid: Guid,
}

/// Finds the origins of all datasets of the source, reading each snapshot at most once.
pub(super) fn origins(
    source: &HashMap<&str, &DatasetInfo>,
    datasets: &[&DatasetInfo],
) -> HashMap<SnapshotName, Origin> {
    let mut wanted: HashMap<String, HashSet<SnapshotTag>> = HashMap::new();
    for origin in datasets.iter().filter_map(|d| d.origin.as_ref()) {
        wanted.entry(origin.dataset().as_str().to_owned()).or_default().insert(origin.tag());
    }
    let mut found = HashMap::new();
    for (dataset, tags) in wanted {
        let Some(info) = source.get(dataset.as_str()) else { continue };
        for snapshot in info.snapshots.iter().filter(|s| tags.contains(&s.tag)) {
            if let Ok(name) = info.snapshot_name(snapshot) {
                let origin = Origin { name: name.clone(), guid: snapshot.guid };
                found.insert(name, origin);
            }
        }
    }
    found
}

/// What must be done before what.
pub(super) struct Edges {
    /// By member: its parent, where that is yet to be made.
    pub parent: Vec<Option<usize>>,
    /// By member: the member that its origin belongs to.
    pub origin: Vec<Option<usize>>,
    /// By member: true if the edge to its origin was dropped.
    pub cyclic: Vec<bool>,
}

impl Edges {
    /// Takes the edges to parents as they are, and each edge to an origin that closes no cycle.
    pub fn new(parent: Vec<Option<usize>>, wanted_origin: Vec<Option<usize>>) -> Self {
        let mut edges = Self { origin: vec![None; parent.len()], cyclic: vec![false; parent.len()], parent };
        for (clone, origin) in wanted_origin.into_iter().enumerate() {
            let Some(origin) = origin else { continue };
            if edges.reaches(origin, clone) {
                edges.cyclic[clone] = true;
            } else {
                edges.origin[clone] = Some(origin);
            }
        }
        edges
    }

    /// True if `from` needs `to`, directly or not.
    fn reaches(&self, from: usize, to: usize) -> bool {
        let (mut seen, mut open) = (HashSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            if at == to {
                return true;
            }
            if seen.insert(at) {
                open.extend([self.parent[at], self.origin[at]].into_iter().flatten());
            }
        }
        false
    }

    /// All members, each after those that it needs, otherwise in their own order.
    pub fn order(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.parent.len());
        let mut done = vec![false; self.parent.len()];
        for start in 0..self.parent.len() {
            // A stack of its own: how deep it goes is up to the listing.
            let mut open = vec![start];
            while let Some(&at) = open.last() {
                let needed = [self.parent[at], self.origin[at]].into_iter().flatten().find(|need| !done[*need]);
                match needed {
                    Some(need) => open.push(need),
                    None => {
                        open.pop();
                        if !done[at] {
                            done[at] = true;
                            order.push(at);
                        }
                    }
                }
            }
        }
        order
    }
}

/// For each member, the GUIDs of its snapshots that clones in this run start from.
pub(super) fn wanted(members: &[Member<'_>], edges: &Edges) -> Vec<HashSet<Guid>> {
    let mut wanted = vec![HashSet::new(); members.len()];
    for (clone, member) in members.iter().enumerate() {
        if let (Some(at), Some(origin)) = (edges.origin[clone], &member.origin) {
            wanted[at].insert(origin.guid);
        }
    }
    wanted
}
