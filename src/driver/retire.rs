//! Telling a target which of its datasets are gone at the source, where the job has a time for that.
//!
//! Invariants: only what the source's own listing lacks counts as gone, while its root has a snapshot in common with the target:
//! a root that was made anew tells nothing. Nor does one that was brought back from its copy, whose children may still be on their
//! way: it is another dataset than the target was made from. What the job leaves out does not count as gone, nor what lives on
//! under another name, which its GUIDs tell; that is remembered, because pruning takes the last GUID that tells it. The target
//! keeps the time and judges again (`session/retire.rs`), so a decision of this side is only ever a wish.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    Upkeep, UpkeepOptions,
    side::{Side, unexpected},
    upkeep::lock_to_prune,
};
use crate::{
    jobs::{gone::GoneMark, span::Span},
    session::client::Client,
    types::{
        DatasetName, Failure, Guid, JobId, PeerName,
        listing::{DatasetInfo, GONE, JOB, Listing},
    },
    wire::{
        hello::features,
        message::{Reply, Request, RetireRequest, Retired},
    },
};

/// A dataset of the target whose source was deleted.
#[derive(Clone, Debug, Serialize)]
pub struct RetiredReport {
    /// The dataset.
    pub dataset: DatasetName,
    /// `waits`, `stays` or `destroyed` (with a dry run: would be).
    pub result: &'static str,
    /// For people.
    pub why: String,
}

/// One dataset to tell the target of.
struct Wish<'a> {
    info: &'a DatasetInfo,
    what: What<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What<'a> {
    Gone,
    Back,
    /// Its snapshots are those of this dataset now, or were when somebody looked before.
    Renamed(Option<&'a DatasetName>),
}

/// The datasets of the job below the target's root, their places there, and whether their sources are still there.
fn copies<'a>(
    options: &UpkeepOptions,
    source: &Listing,
    target: &'a Listing,
) -> impl Iterator<Item = (&'a DatasetInfo, &'a str, bool)> {
    let job = target.get(&options.target).and_then(|root| root.local(JOB));
    let sources: HashSet<&DatasetName> = source.datasets.iter().map(|info| &info.name).collect();
    target.datasets.iter().filter_map(move |info| {
        let below = info.name.relative_to(&options.target).filter(|below| !below.is_empty())?;
        let there = options.source.join(below).ok().is_none_or(|name| sources.contains(&name));
        (job.is_some() && info.local(JOB) == job).then_some((info, below, there))
    })
}

/// Those of them that were renamed at the source, by their own GUID, and what they are called now as far as that shows still:
/// another dataset of the source or of the target has a snapshot of theirs. What was found so once stays so.
fn renamed<'a>(
    options: &UpkeepOptions,
    source: &'a Listing,
    target: &'a Listing,
) -> HashMap<Guid, Option<&'a DatasetName>> {
    let gone = copies(options, source, target).filter(|(.., there)| !there);
    let without: Vec<&DatasetInfo> = gone.map(|(info, ..)| info).collect();
    if without.is_empty() {
        return HashMap::new();
    }
    let lost: HashSet<Guid> = without.iter().map(|info| info.guid).collect();
    let of = |d: &'a DatasetInfo| {
        let guids = d.snapshots.iter().map(|s| s.guid).chain(d.bookmarks.iter().map(|b| b.guid));
        guids.map(move |guid| (guid, &d.name))
    };
    // Of the target as well: the source may have pruned what the old copy has, and the new one keep it. Who is gone as well tells nothing.
    let kept = target.datasets.iter().filter(|info| !lost.contains(&info.guid));
    let lives_on: HashMap<Guid, &DatasetName> = kept.chain(&source.datasets).flat_map(of).collect();
    let now = |info: &DatasetInfo| info.snapshots.iter().find_map(|s| lives_on.get(&s.guid).copied());
    let known = without.into_iter().map(|info| (info.guid, now(info)));
    known.filter(|(guid, now)| now.is_some() || options.renamed.contains(guid)).collect()
}

/// Why nothing of this target counts as gone; `None` where it may. What a root of the source lacks was deleted only if that is the very
/// dataset that the target was made from: one that was received back has the snapshots of its copy, and not yet its children.
fn tells_nothing(identity: &PeerName, options: &UpkeepOptions, source: Guid, job: &str) -> Option<String> {
    let made = JobId::for_target(identity, source, &options.target).ok();
    if made.is_some_and(|made| made.as_str() == job) {
        return None;
    }
    let (source, target) = (&options.source, &options.target);
    Some(format!(
        "{target} was not made from the {source} that is there now, or was called otherwise then: {source} may be on its way back \
         from its copy, so nothing of {target} counts as gone. Once all is back, `zmigrate state release --job {job} --yes` on both \
         hosts lets the next run begin anew"
    ))
}

/// What the two listings say: what is gone first, deepest first, so that a parent is free when its turn comes.
fn wishes<'a>(
    options: &UpkeepOptions,
    source: &'a Listing,
    target: &'a Listing,
    renamed: &HashMap<Guid, Option<&'a DatasetName>>,
    takes_part: impl Fn(&str) -> bool,
) -> Vec<Wish<'a>> {
    let wish = |(info, below, there): (&'a DatasetInfo, &str, bool)| {
        let what = match (there, options.destroy_deleted, renamed.get(&info.guid)) {
            // Whether or not the job has a time: a mark of then must not count when it is gone again.
            (true, ..) => info.local(GONE).map(|_| What::Back)?,
            (false, Some(_), Some(now)) if takes_part(below) => What::Renamed(*now),
            (false, Some(after), None) if takes_part(below) && may_be_due(info, after, options.now) => What::Gone,
            (false, ..) => return None,
        };
        Some(Wish { info, what })
    };
    let mut all: Vec<Wish<'_>> = copies(options, source, target).filter_map(wish).collect();
    all.reverse();
    all
}

/// False for what was marked too short a time ago, as far as this clock tells: it costs no request.
fn may_be_due(info: &DatasetInfo, after: Span, now: Timestamp) -> bool {
    let mark = info.local(GONE).and_then(|text| GoneMark::read(text, now));
    mark.is_none_or(|mark| now.duration_since(mark.since).as_secs() >= after.as_signed_s())
}

/// Tells the target, and says what came of it. `identity` is the target's host.
pub(super) async fn retire(
    target: &Side,
    (client, identity): (&Client, &PeerName),
    options: &UpkeepOptions,
    listings: (&Listing, &Listing),
    takes_part: impl Fn(&str) -> bool,
    found: &mut Upkeep,
) -> Result<(), Failure> {
    let (source, target_has) = listings;
    let (Some(here), Some(there)) = (source.get(&options.source), target_has.get(&options.target)) else {
        return Ok(());
    };
    if !here.snapshots.iter().any(|s| there.snapshot_by_guid(s.guid).is_some()) {
        return Ok(());
    }
    let renamed = renamed(options, source, target_has);
    // Without the tree there is nothing below to be seen.
    if options.recursive {
        found.renamed = renamed.keys().copied().collect();
    }
    let mut wishes = wishes(options, source, target_has, &renamed, takes_part);
    if wishes.iter().any(|wish| wish.what == What::Gone)
        && let Some(why) = tells_nothing(identity, options, here.guid, there.local(JOB).unwrap_or_default())
    {
        wishes.retain(|wish| wish.what != What::Gone);
        found.notes.push(why);
    }
    if wishes.is_empty() {
        return Ok(());
    }
    if matches!(target, Side::Remote(_)) && !client.has(features::RETIRE) {
        found.notes.push(format!(
            "{} is too old to destroy what is gone at the source; upgrade zmigrate there",
            client.identity()
        ));
        return Ok(());
    }
    lock_to_prune(target, client, options).await?;
    // Of no account where nothing is gone.
    let after = options.destroy_deleted.unwrap_or(Span::seconds(u64::MAX));
    for Wish { info, what } in wishes {
        let dataset = info.name.clone();
        if let What::Renamed(now) = what {
            let why = match now {
                Some(now) => format!("its snapshots are those of {now} now, so it was renamed and not deleted"),
                None => "it was renamed at the source and not deleted, as an earlier run saw".to_owned(),
            };
            if !options.renamed.contains(&info.guid) {
                found.notes.push(format!("{dataset} stays: {why}"));
            }
            found.retired.push(RetiredReport { dataset, result: "stays", why });
            continue;
        }
        let Some(job) = info.local(JOB).and_then(|job| job.parse().ok()) else { continue };
        let request = RetireRequest {
            dataset: dataset.clone(),
            job,
            prefix: options.prefix.to_string(),
            gone: what == What::Gone,
            after_s: after.as_s(),
            dry_run: options.dry_run,
        };
        let Reply::Retired(retired) = target.ask(Request::Retire(request)).await? else { return Err(unexpected()) };
        let (result, why) = match retired {
            Retired::Back => continue,
            Retired::Waits { since_unix_s } => {
                let since = Timestamp::from_second(since_unix_s).unwrap_or(options.now);
                let text = format!("is gone at the source since {since}; its copy stays for {after} from then");
                if info.local(GONE).is_none() {
                    found.notes.push(format!("{dataset} {text}"));
                }
                ("waits", text)
            }
            Retired::Stays(why) => {
                let text = format!("is gone at the source for {after}, and stays: {why}");
                found.notes.push(format!("{dataset} {text}"));
                ("stays", text)
            }
            Retired::Destroyed => {
                let since = info.local(GONE).unwrap_or("an unknown time");
                let text = format!("is gone at the source since {since}, for longer than {after}");
                if !options.dry_run {
                    found.notes.push(format!("{dataset} was destroyed: it {text}"));
                }
                ("destroyed", text)
            }
        };
        found.retired.push(RetiredReport { dataset, result, why });
    }
    Ok(())
}

#[cfg(test)]
#[path = "retire_tests.rs"]
mod tests;
