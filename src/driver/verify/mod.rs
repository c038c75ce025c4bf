//! Comparing both sides' copies: by GUIDs and, if asked to, by what is really in them.
//!
//! Invariant: nothing is changed on either side, but for the temporary views through which content is read. Equal means: every
//! snapshot is on both sides, nothing was written to the target since, and with content both sides' digests of the newest one
//! are the same.

mod content;
mod report;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

#[cfg(test)]
pub(crate) use report::sample as report_sample;
pub use report::{CommonSnapshot, ContentReport, DatasetVerified, DifferenceReport, VerifyReport, VerifyResult};

use super::{
    Direction, RunContext,
    side::{Side, unexpected},
    stopped,
};
use crate::{
    session::{client::Client, engine::EngineSession},
    types::{
        DatasetName, Failure, FailureClass, Guid, SnapshotName,
        content::ContentCounts,
        listing::{DatasetInfo, Listing, SnapshotInfo},
        transfer::Depth,
    },
    wire::{
        hello::features,
        message::{Listed, Reply, Request, RoleOfDataset},
        verify::{VerifyAnswer, VerifyAsk, VerifyWhat},
    },
};

/// After a stop, how long views are waited for to be shut. What is left then is shut by the next one.
const SHUT_WITHIN: Duration = Duration::from_secs(5);

/// A dataset that a job's run saw on both sides.
#[derive(Clone, Debug)]
pub struct Seen {
    /// On the source.
    pub source: DatasetName,
    /// On the target.
    pub target: DatasetName,
    /// The newest snapshot that both had.
    pub common: Guid,
}

/// What to compare.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Where the source is: here for a push, at the peer for a pull.
    pub direction: Direction,
    /// The dataset that was read.
    pub source: DatasetName,
    /// Its copy.
    pub target: DatasetName,
    /// All below as well.
    pub recursive: bool,
    /// Also by what is in the newest common snapshot.
    pub content: bool,
    /// Differences of one dataset's content that are told.
    pub most: usize,
    /// Of a job: what its run saw on both sides just now. Only that is compared. What came to the source since is no difference,
    /// nor is what the target alone has: the copy of a dataset that was deleted at the source.
    pub seen: Option<Vec<Seen>>,
}

impl VerifyOptions {
    /// The newest snapshot that the job's run saw on both sides.
    fn seen_of(&self, source: &DatasetInfo) -> Option<Guid> {
        self.seen.iter().flatten().find(|seen| seen.source == source.name).map(|seen| seen.common)
    }
}

/// What is being looked into on this side, and how far that is.
#[derive(Debug, Default)]
pub struct VerifyProgress(Mutex<Option<(SnapshotName, ContentCounts)>>);

impl VerifyProgress {
    /// Now.
    pub fn now(&self) -> Option<(SnapshotName, ContentCounts)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, to: Option<(SnapshotName, ContentCounts)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }
}

/// Both sides of a comparison.
struct Sides {
    source: Side,
    target: Side,
    progress: Arc<VerifyProgress>,
}

/// Compares. What goes wrong is in the report.
pub async fn verify(context: &RunContext, options: &VerifyOptions, progress: &Arc<VerifyProgress>) -> VerifyReport {
    let started = Instant::now();
    let mut report = VerifyReport::new(options, &context.link.to_string());
    let result = tokio::select! {
        biased;
        client = Client::connect(Arc::clone(&context.link), &context.client) => match client {
            Ok(client) => with_client(context, options, progress, &client, &mut report).await,
            Err(failure) => Err(failure),
        },
        () = context.stop.cancelled() => Err(given_up()),
    };
    report.conclude(result.err(), started.elapsed());
    report
}

fn given_up() -> Failure {
    Failure { hint: None, ..stopped() }
}

async fn with_client(
    context: &RunContext,
    options: &VerifyOptions,
    progress: &Arc<VerifyProgress>,
    client: &Arc<Client>,
    report: &mut VerifyReport,
) -> Result<(), Failure> {
    if !client.has(features::VERIFY) {
        let text = format!("{} ({}) cannot compare", context.link, client.agent());
        return Err(Failure::new(FailureClass::Protocol, text).hint("install a newer zmigrated there"));
    }
    let local =
        Arc::new(EngineSession::new(Arc::clone(&context.engine), "a verification".into(), Arc::clone(client) as _));
    let (here, there) = (Side::Local(Arc::clone(&local)), Side::Remote(Arc::clone(client)));
    let (source, target) = match options.direction {
        Direction::Push => (here, there),
        Direction::Pull => (there, here),
    };
    let sides = Sides { source, target, progress: Arc::clone(progress) };
    let result = tokio::select! {
        biased;
        result = sides.compare(options, report) => result,
        () = context.stop.cancelled() => Err(given_up()),
    };
    local.begin_end();
    local.views_are_shut(SHUT_WITHIN).await;
    local.shut_down().await;
    client.bye().await;
    result
}

impl Sides {
    /// Of the source and of the target.
    async fn listings(&self, options: &VerifyOptions) -> Result<(Listed, Listed), Failure> {
        let depth = if options.recursive { Depth::Tree } else { Depth::Root };
        let list = |root: &DatasetName, role| Request::List { root: root.clone(), depth, role };
        let source = self.source.list(list(&options.source, RoleOfDataset::Source));
        let target = self.target.list(list(&options.target, RoleOfDataset::Target));
        if options.seen.is_some() {
            // One after the other: what came to the source since is known to be newer, what came to the target is not.
            let target = target.await?;
            return Ok((source.await?, target));
        }
        tokio::try_join!(source, target)
    }

    async fn compare(&self, options: &VerifyOptions, report: &mut VerifyReport) -> Result<(), Failure> {
        let (source, target) = self.listings(options).await?;
        for (side, root, listing) in
            [("source", &options.source, &source.listing), ("target", &options.target, &target.listing)]
        {
            if listing.get(root).is_none() {
                let text = format!("the {side} has no dataset {root}");
                return Err(Failure::new(FailureClass::Refused, text).hint("correct the name, or replicate it first"));
            }
        }
        for (source, target) in pairs(options, &source.listing, &target.listing) {
            let mut verified = by_guids(options, source.as_ref(), target.as_ref());
            if let (Some(source), Some(target)) = (&source, &target) {
                self.more(options, source, target, &mut verified).await;
            }
            verified.judge();
            report.datasets.push(verified);
        }
        Ok(())
    }

    /// What the listings do not tell: whether the target was changed, and what is in the snapshots.
    async fn more(
        &self,
        options: &VerifyOptions,
        source: &DatasetInfo,
        target: &DatasetInfo,
        verified: &mut DatasetVerified,
    ) {
        // Of a whole that lacks its common snapshot there is nothing to compare.
        let Some((from, to)) = newest_common(source, target) else { return };
        match self.changed(target).await {
            Ok(changed) => verified.target_written_bytes = changed,
            Err(failure) => verified.error = Some(failure),
        }
        if options.content {
            match self.content(options, source, &from, &to).await {
                Ok(content) => verified.content = Some(content),
                Err(failure) => verified.error = Some(failure),
            }
        }
    }

    /// Bytes that were written to the target since its newest snapshot.
    async fn changed(&self, target: &DatasetInfo) -> Result<Option<u64>, Failure> {
        if target.written.is_some() {
            return Ok(target.written);
        }
        let Some(newest) = target.newest() else { return Ok(None) };
        let snapshot = target.snapshot_name(newest).map_err(|e| Failure::new(FailureClass::Internal, e))?;
        let ask = VerifyAsk { snapshot, guid: newest.guid, role: RoleOfDataset::Target, what: VerifyWhat::Changed };
        match self.target.ask(Request::Verify(ask)).await? {
            Reply::Verified(answer) => match *answer {
                VerifyAnswer::Changed(bytes) => Ok(Some(bytes)),
                _ => Err(unexpected()),
            },
            _ => Err(unexpected()),
        }
    }
}

/// The datasets of both sides that belong to each other, in the order of the source, then those that the target alone has.
fn pairs(
    options: &VerifyOptions,
    source: &Listing,
    target: &Listing,
) -> Vec<(Option<DatasetInfo>, Option<DatasetInfo>)> {
    let place = |name: &DatasetName, from: &DatasetName, to: &DatasetName| match name.relative_to(from) {
        Some("") | None => Some(to.clone()),
        Some(below) => format!("{to}/{below}").parse::<DatasetName>().ok(),
    };
    if let Some(seen) = &options.seen {
        // One that is gone from the source by now is nobody's fault.
        let there = seen.iter().filter_map(|seen| Some((source.get(&seen.source)?, target.get(&seen.target))));
        return there.map(|(source, target)| (Some(source.clone()), target.cloned())).collect();
    }
    let mut all = Vec::new();
    let mut met = HashSet::new();
    for info in &source.datasets {
        let there = place(&info.name, &options.source, &options.target).and_then(|name| target.get(&name));
        met.extend(there.map(|there| there.name.clone()));
        all.push((Some(info.clone()), there.cloned()));
    }
    let alone = target.datasets.iter().filter(|info| !met.contains(&info.name) && !info.is_placeholder());
    all.extend(alone.map(|info| (None, Some(info.clone()))));
    all
}

/// The newest snapshot that both have, by its name on each side.
fn newest_common(source: &DatasetInfo, target: &DatasetInfo) -> Option<((SnapshotName, Guid), SnapshotName)> {
    source.snapshots.iter().rev().find_map(|snapshot| {
        let there = target.snapshot_by_guid(snapshot.guid)?;
        let names = (source.snapshot_name(snapshot).ok()?, target.snapshot_name(there).ok()?);
        Some(((names.0, snapshot.guid), names.1))
    })
}

/// Snapshots that one side alone has.
struct Alone {
    /// Newer than the newest that both have: the sides differ.
    newer: Vec<String>,
    /// How many are older: each side prunes by its own rules.
    older: usize,
}

impl Alone {
    fn of(here: &DatasetInfo, there: &DatasetInfo) -> Alone {
        let is_common = |s: &SnapshotInfo| there.snapshot_by_guid(s.guid).is_some();
        let begin = here.snapshots.iter().rposition(is_common).map_or(0, |at| at + 1);
        let (older, newer) = here.snapshots.split_at(begin);
        Alone {
            newer: newer.iter().map(|s| s.tag.to_string()).collect(),
            older: older.iter().filter(|s| !is_common(s)).count(),
        }
    }
}

/// What the two listings tell.
fn by_guids(options: &VerifyOptions, source: Option<&DatasetInfo>, target: Option<&DatasetInfo>) -> DatasetVerified {
    let name = |info: Option<&DatasetInfo>| info.map(|info| info.name.clone());
    let mut verified = DatasetVerified::new(name(source), name(target), options.content);
    // Of a dataset that one side lacks, that is all there is to say.
    if let (Some(here), Some(there)) = (source, target) {
        let (at_source, at_target) = (Alone::of(here, there), Alone::of(there, here));
        verified.only_at_source = at_source.newer;
        if options.seen.is_some() {
            // Newer than what the run saw is what was taken since.
            let seen = options.seen_of(here).and_then(|guid| here.snapshot_by_guid(guid));
            let kept = |tag: &String| {
                let of = here.snapshots.iter().find(|s| s.tag.as_str() == tag);
                of.zip(seen).is_some_and(|(one, seen)| one.createtxg <= seen.createtxg)
            };
            verified.only_at_source.retain(kept);
        }
        verified.only_at_target = at_target.newer;
        if options.seen.is_some() {
            // What the source has no more but as a bookmark came from there, and so did all before it.
            let marked = |s: &SnapshotInfo| here.bookmarks.iter().any(|b| b.guid == s.guid);
            let sent = there.snapshots.iter().rposition(marked).map_or(0, |at| at + 1);
            let own: HashSet<&str> = there.snapshots.iter().skip(sent).map(|s| s.tag.as_str()).collect();
            verified.only_at_target.retain(|tag| own.contains(tag.as_str()));
        }
        for (side, older) in
            [("source", at_source.older), ("target", at_target.older)].into_iter().filter(|(_, n)| *n > 0)
        {
            verified.notes.push(format!(
                "{older} older snapshots are only at the {side}, as pruning leaves them; that is no difference"
            ));
        }
        verified.common = newest_common(here, there).map(|((snapshot, guid), _)| CommonSnapshot {
            snapshot: snapshot.tag().to_string(),
            guid: guid.to_string(),
        });
        if here.kind != there.kind {
            verified.notes.push(format!("the source is a {}, the target a {}", here.kind, there.kind));
        }
        if there.resume_token.is_some() {
            verified.notes.push("an interrupted receive waits at the target".to_owned());
        }
    }
    verified
}
