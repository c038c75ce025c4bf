//! After a run: how far the target is behind, and which snapshots of the job may go on both sides.
//!
//! Invariants: what is known of the target is recorded before anything is destroyed on the source; whoever destroys judges
//! again (`session/prune.rs`), so a decision of this side is only ever a wish.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{
    Direction, RunContext,
    attempt::lock,
    local::stranded,
    prune::{PruneHere, undone, wanted},
    retire::{RetiredReport, retire},
    side::{Side, unexpected},
    stopped,
};
use crate::{
    jobs::{
        lag::{Lag, lags},
        names::Prefix,
        retention::Retention,
        span::Span,
        spare::{Decision, KeptFor, Need, Subject},
    },
    limits::{MAX_PRUNED, MAX_SIZES},
    plan::ExcludePattern,
    session::{client::Client, engine::EngineSession, prune::correct},
    types::{
        DatasetName, Failure, FailureClass, Guid, JobId, JobName, SnapshotTag,
        listing::{DatasetInfo, JOB},
        transfer::{Depth, SendSpec},
    },
    wire::{
        hello::features,
        message::{Listed, PruneRequest, Reply, Request, RoleOfDataset},
    },
};

/// Clocks that are less than this apart agree: rules keep hours and days, and a snapshot of this moment is to be none of the future.
const CLOCKS_AGREE: SignedDuration = SignedDuration::from_mins(5);

/// What is looked after.
#[derive(Clone, Debug)]
pub struct UpkeepOptions {
    /// The job.
    pub name: JobName,
    /// Which way.
    pub direction: Direction,
    /// The dataset that is read.
    pub source: DatasetName,
    /// The dataset that is written.
    pub target: DatasetName,
    /// All below as well.
    pub recursive: bool,
    /// Left out, each with all below it.
    pub exclude: Vec<ExcludePattern>,
    /// Which snapshots are the job's.
    pub prefix: Prefix,
    /// Which of them stay on the source; `None` for all. Of a push alone.
    pub keep_source: Option<Retention>,
    /// Which of them stay on the target; `None` for all.
    pub keep_target: Option<Retention>,
    /// How long a copy stays whose source was deleted; `None` for ever.
    pub destroy_deleted: Option<Span>,
    /// Datasets of the target that were found to be renamed at the source, by their GUIDs: they are not deleted.
    pub renamed: BTreeSet<Guid>,
    /// By which ages are reckoned.
    pub now: Timestamp,
    /// Destroy nothing.
    pub dry_run: bool,
}

/// The snapshots of one dataset on one side.
#[derive(Clone, Debug, Serialize)]
pub struct PruneReport {
    /// The dataset.
    pub dataset: DatasetName,
    /// `source` or `target`; `local` of a job of this host alone.
    pub side: &'static str,
    /// One for each snapshot, oldest first.
    pub snapshots: Vec<SnapshotReport>,
}

/// One snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotReport {
    /// Its name.
    pub tag: SnapshotTag,
    /// It stays.
    pub keep: bool,
    /// The rule.
    pub why: String,
}

/// What was found and done.
#[derive(Clone, Debug, Default)]
pub struct Upkeep {
    /// As [`lags`] tells them.
    pub lags: Vec<Lag>,
    /// Both sides of each dataset, where there are rules.
    pub pruned: Vec<PruneReport>,
    /// Datasets of the target that are gone at the source, where the job has a time for them.
    pub retired: Vec<RetiredReport>,
    /// Datasets of the target that are known to be renamed at the source, as in [`UpkeepOptions`].
    pub renamed: BTreeSet<Guid>,
    /// What stays on the source for a target that may have been given up, and what to do about it.
    pub kept_for: Option<String>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// The first that could not be destroyed; what came after it was judged all the same.
    pub failure: Option<Failure>,
}

impl Upkeep {
    /// Snapshots that went, or would go.
    pub fn destroyed(&self) -> usize {
        self.pruned.iter().flat_map(|p| &p.snapshots).filter(|s| !s.keep).count()
    }
}

impl Upkeep {
    /// Keeps a failure of one dataset; one of the session ends everything.
    pub(super) fn unless_it_ends_all(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        match result {
            Err(failure) if matches!(failure.class, FailureClass::Zfs | FailureClass::Refused) => {
                self.failure.get_or_insert(failure);
                Ok(())
            }
            result => result,
        }
    }
}

/// Looks at both sides, tells `record` how far the target is, then prunes.
///
/// # Errors
/// When a side cannot be reached or looked at, the target is locked, it cannot be recorded what was seen, or something
/// could not be destroyed.
pub async fn upkeep(
    context: &RunContext,
    options: &UpkeepOptions,
    record: &(dyn Fn(&[Lag]) -> Result<(), Failure> + Sync),
) -> Result<Upkeep, Failure> {
    let client = tokio::select! {
        biased;
        client = Client::connect(Arc::clone(&context.link), &context.client) => client?,
        () = context.stop.cancelled() => return Err(stopped()),
    };
    let holder = format!("a job on this host (pid {})", std::process::id());
    let local = Arc::new(EngineSession::new(Arc::clone(&context.engine), holder, Arc::clone(&client) as _));
    let result = tokio::select! {
        biased;
        result = with_session(context, options, record, &client, &local) => result,
        () = context.stop.cancelled() => Err(stopped()),
    };
    local.shut_down().await;
    client.bye().await;
    result
}

async fn with_session(
    context: &RunContext,
    options: &UpkeepOptions,
    record: &(dyn Fn(&[Lag]) -> Result<(), Failure> + Sync),
    client: &Arc<Client>,
    local: &Arc<EngineSession>,
) -> Result<Upkeep, Failure> {
    let options = &UpkeepOptions { now: judged_at(options.now, client.clock_skew_ms()), ..options.clone() };
    let (here, there) = (Side::Local(Arc::clone(local)), Side::Remote(Arc::clone(client)));
    let (source, target, identity) = match options.direction {
        Direction::Push => (here, there, client.identity()),
        Direction::Pull => (there, here, &context.identity),
    };
    if options.keep_target.is_some() {
        lock_to_prune(&target, client, options).await?;
    }
    let depth = if options.recursive { Depth::Tree } else { Depth::Root };
    let list = |root: &DatasetName, role| Request::List { root: root.clone(), depth, role };
    let (source_has, target_has) = tokio::try_join!(
        source.list(list(&options.source, RoleOfDataset::Source)),
        target.list(list(&options.target, RoleOfDataset::Target))
    )?;
    let takes_part = |below: &str| !options.exclude.iter().any(|pattern| pattern.excludes(below));
    let mut found = Upkeep {
        lags: lags((&source_has.listing, &options.source), (&target_has.listing, &options.target), takes_part),
        renamed: options.renamed.clone(),
        ..Upkeep::default()
    };
    estimate(&source, &source_has, &mut found.lags).await?;
    record(&found.lags)?;
    let own = target_has.listing.get(&options.target).and_then(|root| root.local(JOB));
    if let Some(root) = target_has.listing.get(&options.target).filter(|_| own.is_some()) {
        let has_rules = options.keep_source.is_some() || options.keep_target.is_some();
        found.notes.extend(stranded(root, &options.prefix, &options.name).filter(|_| has_rules));
    }
    let of_source = options.keep_source.as_ref().filter(|_| options.direction == Direction::Push);
    let mut here = of_source.map(|rules| PruneHere {
        session: local,
        root: &options.source,
        root_job: source_has.listing.get(&options.source).and_then(|root| root.local(JOB)),
        prefix: &options.prefix,
        rules,
        dry_run: options.dry_run,
        side: "source",
        own,
        kept_for: Vec::new(),
        of_others: Vec::new(),
    });
    for lag in found.lags.clone() {
        let (Some(from), to) = (source_has.listing.get(&lag.source), target_has.listing.get(&lag.target)) else {
            continue;
        };
        if let Some(here) = &mut here {
            let mut needs = context.engine.needs().of(&lag.source, Some(&options.name));
            needs.push(need(options, lag.common.as_ref().map(|c| c.guid)));
            here.dataset(from, &needs, options.now, &mut found).await?;
        }
        if let (Some(rules), Some(to)) = (&options.keep_target, to) {
            let needs = [need(options, lag.common.as_ref().map(|c| c.guid))];
            let subject = Subject { dataset: to, holds: &[], needs: &needs, prefix: &options.prefix };
            let mut decided = subject.decide(Some(rules), options.now);
            let pruned = prune_target(&target, client, options, to, &mut decided, &mut found.notes).await;
            found.pruned.push(report(&lag.target, "target", decided));
            found.unless_it_ends_all(pruned)?;
        }
    }
    if let Some(here) = here {
        here.conclude(&mut found);
    }
    let listings = (&source_has.listing, &target_has.listing);
    let retired = retire(&target, (client, identity), options, listings, takes_part, &mut found).await;
    found.unless_it_ends_all(retired)?;
    Ok(found)
}

/// Keeps runs away from the target while it is pruned. A dry run keeps away nobody, but at a peer that answers only who does.
pub(super) async fn lock_to_prune(target: &Side, client: &Client, options: &UpkeepOptions) -> Result<(), Failure> {
    let answers_anybody = matches!(target, Side::Local(_)) || client.has(features::DRY);
    if options.dry_run && answers_anybody { Ok(()) } else { lock(target, &options.target).await }
}

/// One line for the target that keeps most of what would go but for it.
pub(super) fn given_up(root: &DatasetName, kept: &[(KeptFor, &DatasetName)]) -> Option<String> {
    // By job: snapshots, seconds, and the datasets.
    let mut all: BTreeMap<&str, (usize, u64, Vec<&DatasetName>)> = BTreeMap::new();
    for (kept, dataset) in kept {
        let (snapshots, behind_s, datasets) = all.entry(&kept.job).or_default();
        *snapshots += kept.snapshots;
        *behind_s = kept.behind_s.max(*behind_s);
        datasets.push(dataset);
    }
    let (job, (snapshots, behind_s, datasets)) = all.into_iter().max_by_key(|(_, (snapshots, ..))| *snapshots)?;
    let place = match datasets.as_slice() {
        [one] => one.to_string(),
        more => format!("{} datasets at or below {root}", more.len()),
    };
    let days = behind_s / 86_400;
    Some(format!(
        "{snapshots} snapshots of {place} stay only for the target of job {job}, which has got nothing newer for {days} days; if it was \
         given up, `zmigrate state release {root} --job {job}` shows what keeps them, and with --yes lets go of it"
    ))
}

/// By which ages are reckoned: the earlier of both hosts' clocks where they are far apart, because one that jumps ahead for a
/// moment must not make all snapshots old. `skew_ms` is how far the peer's is ahead of `now`.
fn judged_at(now: Timestamp, skew_ms: i64) -> Timestamp {
    let skew = SignedDuration::from_millis(skew_ms);
    if skew > -CLOCKS_AGREE { now } else { now.checked_add(skew).unwrap_or(Timestamp::MIN) }
}

fn need(options: &UpkeepOptions, has: Option<Guid>) -> Need {
    Need { by: format!("job {}", options.name), has }
}

async fn prune_target(
    target: &Side,
    client: &Client,
    options: &UpkeepOptions,
    info: &DatasetInfo,
    decided: &mut [Decision],
    notes: &mut Vec<String>,
) -> Result<(), Failure> {
    let wanted = wanted(decided);
    if wanted.is_empty() {
        return Ok(());
    }
    let keep_all = |decided: &mut [Decision], why: &str| {
        for decision in decided.iter_mut().filter(|d| !d.keep) {
            (decision.keep, decision.why) = (true, why.to_owned());
        }
    };
    if matches!(target, Side::Remote(_)) && !client.has(features::PRUNE) {
        let note = format!("{} is too old to prune; upgrade zmigrate there", client.identity());
        if !notes.contains(&note) {
            notes.push(note);
        }
        keep_all(decided, "the peer is too old to prune");
        return Ok(());
    }
    let Some(job) = info.local(JOB).and_then(|job| job.parse::<JobId>().ok()) else {
        keep_all(decided, "the dataset is no target of a job (it has no zmigrate:job)");
        return Ok(());
    };
    for (at, batch) in wanted.chunks(MAX_PRUNED).enumerate() {
        let request = PruneRequest {
            dataset: info.name.clone(),
            job: job.clone(),
            prefix: options.prefix.to_string(),
            snapshots: batch.to_vec(),
            dry_run: options.dry_run,
        };
        match target.ask(Request::Prune(request)).await {
            Ok(Reply::Pruned(pruned)) if pruned.len() == batch.len() => correct(decided, pruned),
            Ok(_) => return Err(unexpected()),
            Err(failure) => {
                undone(decided, &wanted[at * MAX_PRUNED..], &failure);
                return Err(failure);
            }
        }
    }
    Ok(())
}

/// Asks how long the streams would be that are missing, where that is few and can be said.
async fn estimate(source: &Side, has: &Listed, lags: &mut [Lag]) -> Result<(), Failure> {
    let spec = |lag: &Lag| lag.missing(has.listing.get(&lag.source)?);
    let (places, specs): (Vec<usize>, Vec<SendSpec>) =
        lags.iter().enumerate().filter_map(|(at, lag)| Some((at, spec(lag)?))).take(MAX_SIZES).unzip();
    if specs.is_empty() || !has.capabilities.send_estimate {
        return Ok(());
    }
    let Reply::Sizes(sizes) = source.ask(Request::Sizes(specs)).await? else { return Err(unexpected()) };
    for (at, size) in places.into_iter().zip(sizes) {
        let written = has.listing.get(&lags[at].source).and_then(|info| info.written).unwrap_or_default();
        lags[at].unsent_bytes = size.map(|size| size.saturating_add(written));
    }
    Ok(())
}

pub(super) fn report(dataset: &DatasetName, side: &'static str, decided: Vec<Decision>) -> PruneReport {
    let snapshots = decided.into_iter().map(|d| SnapshotReport { tag: d.tag, keep: d.keep, why: d.why }).collect();
    PruneReport { dataset: dataset.clone(), side, snapshots }
}

#[cfg(test)]
#[path = "upkeep_tests.rs"]
mod tests;
