//! What a rollback promises: the source serves as it did, and the target is as it was, but for snapshots.

use super::bench::{Bench, is_writable, settings};
use crate::zfs::{exists, get, snapshots};

/// Both sides before a cutover.
pub struct Before {
    source: String,
    target: String,
    of_source: Vec<String>,
    /// `None` where there was none.
    of_target: Option<Vec<String>>,
    /// The GUIDs that both had, the oldest first.
    common: Vec<String>,
}

impl Before {
    /// Of a unit that is at east.
    #[track_caller]
    pub fn going_there(bench: &Bench) -> Before {
        Before::of(bench.east(), bench.west())
    }

    /// Of a unit that is at west.
    #[track_caller]
    pub fn going_back(bench: &Bench) -> Before {
        Before::of(bench.west(), bench.east())
    }

    #[track_caller]
    fn of(source: String, target: String) -> Before {
        let of_source = settings(&source);
        let of_target = exists(&target).then(|| kept_at_a_target(&target));
        let common = common(&source, &target);
        assert!(of_target.is_none() || !common.is_empty(), "{source} and {target} share no snapshot");
        Before { source, target, of_source, of_target, common }
    }

    /// After it was rolled back.
    #[track_caller]
    pub fn must_be_back(&self, point: &str) {
        assert!(is_writable(&self.source), "{point}: {} serves", self.source);
        assert_eq!(settings(&self.source), self.of_source, "{point}: {} is as it was", self.source);
        let target = &self.target;
        match &self.of_target {
            Some(before) => {
                assert_eq!(&kept_at_a_target(target), before, "{point}: {target} is as it was");
                // A pass may have brought a newer one, and then the older ones may go.
                let newest = common(&self.source, target).pop();
                let older = &self.common[..self.common.len() - 1];
                assert!(
                    newest.as_ref().is_some_and(|guid| !older.contains(guid)),
                    "{point}: of {:?} the newest common snapshot is {newest:?}",
                    self.common
                );
            }
            // What passes have brought there.
            None if exists(target) => {
                assert_eq!(get(target, "mounted").0, "no", "{point}: {target}");
                assert_eq!(get(target, "readonly"), ("on".into(), "local".into()), "{point}: {target}");
                for mark in ["zmigrate:serving", "zmigrate:fence"] {
                    assert_eq!(get(target, mark).0, "-", "{point}: {mark} of {target}");
                }
            }
            None => {}
        }
    }
}

/// The settings of what is received into that no pass changes: those that protect a copy from its source are set by the first.
#[track_caller]
fn kept_at_a_target(dataset: &str) -> Vec<String> {
    let set_by_passes = [" setuid ", " exec ", " devices ", " snapdir "];
    let mut kept = settings(dataset);
    kept.retain(|line| !set_by_passes.iter().any(|property| line.contains(property)));
    kept
}

/// The GUIDs that both have, in the target's order.
#[track_caller]
fn common(source: &str, target: &str) -> Vec<String> {
    if !exists(target) {
        return Vec::new();
    }
    let guids = |dataset: &str| snapshots(dataset).into_iter().map(|(_, guid)| guid).collect::<Vec<_>>();
    let of_source = guids(source);
    guids(target).into_iter().filter(|guid| of_source.contains(guid)).collect()
}
