//! The datasets of this host that its grants and jobs name: whether they are there, have room, and may be used by this user.

use std::collections::BTreeMap;

use super::{Checks, PATIENCE, Patient, permissions};
use crate::{
    config::Config,
    jobs::{Direction, Job, Remote},
    session::patience::in_time,
    types::{
        Access, DatasetName, Failure, FailureClass, PoolStatus, human_bytes,
        listing::{DatasetInfo, Property},
    },
};

const LOOK: &str = "look at `zpool status` and `dmesg` on that host";
/// A quota that is used up to here is about to stop receives and writers.
const QUOTA_WARN: u64 = 95;

/// One dataset that something is to be done with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// What happens to it here: it is received into (`Push`), or sent.
    pub access: Access,
    /// Its name.
    pub dataset: DatasetName,
    /// Who wants that, as part of a sentence: `` `push` of it ``, `job db`.
    pub by: String,
    /// Snapshots are taken of it as well.
    pub snapshots: bool,
    /// It is looked after on this host alone: nothing is sent.
    pub alone: bool,
}

/// Those of the configuration, each once.
fn places(config: &Config) -> (Vec<Place>, Vec<Place>) {
    let mut granted = Vec::new();
    for (_, grant) in config.grants.iter() {
        for access in [Access::Push, Access::Pull] {
            let by = format!("`{access}` of it");
            let place = |dataset: &DatasetName| Place {
                access,
                dataset: dataset.clone(),
                by: by.clone(),
                snapshots: false,
                alone: false,
            };
            granted.extend(grant.of(access).iter().map(place));
        }
    }
    let of_job = |job: &Job| {
        let (access, dataset, snapshots) = match &job.remote {
            Some(Remote { direction: Direction::Pull, target, .. }) => (Access::Push, target, false),
            _ => (Access::Pull, &job.dataset, job.snapshot),
        };
        let alone = job.remote.is_none();
        Place { access, dataset: dataset.clone(), by: format!("job {}", job.name), snapshots, alone }
    };
    let mut jobs: Vec<_> = config.jobs.values().map(of_job).collect();
    for list in [&mut granted, &mut jobs] {
        list.sort();
        list.dedup();
    }
    (granted, jobs)
}

pub(super) async fn all(checks: &mut Checks, patient: &Patient, pools: &[PoolStatus]) {
    // What lies in a pool that does not answer is not asked for.
    let answers = |place: &Place| !pools.iter().any(|p| p.name == place.dataset.pool() && !p.answers());
    let (mut granted, mut jobs) = places(&patient.config);
    granted.retain(answers);
    jobs.retain(answers);
    let mut names: Vec<DatasetName> = granted.iter().map(|place| place.dataset.clone()).collect();
    for place in &jobs {
        names.push(place.dataset.clone());
        // Where a target is not there yet, what is above it counts.
        names.extend(place.dataset.ancestors());
    }
    names.sort();
    names.dedup();
    let there = match in_time("look at the granted datasets", PATIENCE, patient.zfs.datasets(&names)).await {
        Ok(there) => there,
        Err(e) => return checks.failure("grants", Failure::from(e), LOOK),
    };
    let there: BTreeMap<&DatasetName, &DatasetInfo> = there.iter().map(|info| (&info.name, info)).collect();
    for Place { access, dataset, .. } in granted.iter().filter(|place| !there.contains_key(&place.dataset)) {
        let hint = match access {
            Access::Pull => "correct the name in the configuration, or remove it".to_owned(),
            _ => {
                // Not marked as a placeholder: who replaces one loses the quota and the permissions that were given to it.
                format!(
                    "if datasets are pushed to below it: zfs create -o canmount=off -o readonly=on {dataset} (a push to {dataset} itself makes it, and wants it not to be there); or correct the name in the configuration"
                )
            }
        };
        checks.warn("grants", format!("{access} of {dataset} is granted, and there is no such dataset"), hint);
    }
    granted.retain(|place| there.contains_key(&place.dataset));
    if !granted.is_empty() {
        checks.ok("grants", format!("{} granted datasets are there", granted.len()));
    }
    jobs.retain_mut(|place| of_job(checks, place, &there));
    let all = [granted, jobs].concat();
    let mut looked_at: Vec<&DatasetName> = all.iter().map(|place| &place.dataset).collect();
    looked_at.sort();
    looked_at.dedup();
    for dataset in looked_at {
        if let Some(info) = there.get(dataset)
            && pools.iter().any(|pool| pool.name == dataset.pool() && leaves_less(info.available, pool))
        {
            quota(checks, patient, info).await;
        }
    }
    permissions::all(checks, patient, &all).await;
}

/// Whether a job finds what it needs; the place becomes the one whose permissions count.
fn of_job(checks: &mut Checks, place: &mut Place, there: &BTreeMap<&DatasetName, &DatasetInfo>) -> bool {
    if there.contains_key(&place.dataset) {
        checks.ok("jobs", format!("{}: {} is there", place.by, place.dataset));
        return true;
    }
    let above = place.dataset.ancestors().into_iter().filter(|name| there.contains_key(name));
    let nearest = above.max_by_key(|name| name.as_str().len());
    match (place.access, nearest) {
        (Access::Push, Some(nearest)) => {
            let text =
                format!("{}: {} is not there yet; the first run makes it below {nearest}", place.by, place.dataset);
            checks.ok("jobs", text);
            place.dataset = nearest;
            true
        }
        _ => {
            let hint = "correct the name in the configuration, import the pool, or remove the job";
            checks.warn("jobs", format!("{} names {}, and there is no such dataset", place.by, place.dataset), hint);
            false
        }
    }
}

/// A dataset for which less is free than its pool has: a quota of it or above it, which the pool's own figures do not show.
async fn quota(checks: &mut Checks, patient: &Patient, info: &DatasetInfo) {
    let name = &info.name;
    let asked = in_time("look for quotas", PATIENCE, patient.zfs.get(name.as_str(), &["used"])).await;
    let used = match asked {
        Ok(found) => found.iter().find_map(|Property { value, .. }| value.parse().ok()).unwrap_or(info.referenced),
        Err(e) => return checks.failure("space", Failure::from(e), LOOK),
    };
    left(checks, name, used, info.available);
}

/// True if less is free than in the pool, by more than what is written between two looks.
fn leaves_less(available: u64, pool: &PoolStatus) -> bool {
    pool.available.is_some_and(|of_pool| available < of_pool / 16 * 15)
}

/// Judges what a quota leaves of what is used.
pub(super) fn left(checks: &mut Checks, name: &DatasetName, used: u64, available: u64) {
    let full = used.saturating_mul(100).checked_div(used.saturating_add(available)).unwrap_or(0);
    let text = format!("a quota leaves {name} {} free", human_bytes(available));
    let hint = format!(
        "destroy what is not needed (old snapshots first), or raise it: zfs get -r quota,refquota {}; receives fail when it is used up",
        name.pool()
    );
    match (available, full) {
        (0, _) => checks.fail("space", FailureClass::Zfs, text, hint),
        (_, QUOTA_WARN..) => checks.warn("space", text, hint),
        _ => {}
    }
}
