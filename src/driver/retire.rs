//! Telling a target which of its datasets are gone at the source, where the job has a time for that.
//!
//! Invariants: only what the source's own listing lacks counts as gone, while its root has a snapshot in common with the target:
//! a root that was made anew tells nothing. What the job leaves out does not, nor what lives on under another name, which its
//! GUIDs tell. The target keeps the time and judges again (`session/retire.rs`), so a decision of this side is only ever a wish.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;

use super::{
    Upkeep, UpkeepOptions,
    attempt::lock,
    side::{Side, unexpected},
};
use crate::{
    jobs::{gone::GoneMark, span::Span},
    session::client::Client,
    types::{
        DatasetName, Failure, Guid,
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum What<'a> {
    Gone,
    Back,
    /// Its snapshots are those of this dataset of the source now.
    Renamed(&'a DatasetName),
}

/// What the two listings say: what is gone first, deepest first, so that a parent is free when its turn comes.
fn wishes<'a>(
    options: &UpkeepOptions,
    source: &'a Listing,
    target: &'a Listing,
    takes_part: impl Fn(&str) -> bool,
) -> Vec<Wish<'a>> {
    let job = target.get(&options.target).and_then(|root| root.local(JOB));
    let of = |d: &'a DatasetInfo| {
        let guids = d.snapshots.iter().map(|s| s.guid).chain(d.bookmarks.iter().map(|b| b.guid));
        guids.map(move |guid| (guid, &d.name))
    };
    let lives_on: HashMap<Guid, &DatasetName> = source.datasets.iter().flat_map(of).collect();
    let wish = |info: &'a DatasetInfo| {
        let below = info.name.relative_to(&options.target).filter(|below| !below.is_empty())?;
        if job.is_none() || info.local(JOB) != job {
            return None;
        }
        let there = options.source.join(below).ok().is_none_or(|name| source.get(&name).is_some());
        let renamed = info.snapshots.iter().find_map(|s| lives_on.get(&s.guid));
        let what = match (there, options.destroy_deleted, renamed) {
            // Whether or not the job has a time: a mark of then must not count when it is gone again.
            (true, ..) => info.local(GONE).map(|_| What::Back)?,
            (false, Some(_), Some(now)) if takes_part(below) => What::Renamed(now),
            (false, Some(after), None) if takes_part(below) && may_be_due(info, after, options.now) => What::Gone,
            (false, ..) => return None,
        };
        Some(Wish { info, what })
    };
    let mut all: Vec<Wish<'_>> = target.datasets.iter().filter_map(wish).collect();
    all.reverse();
    all
}

/// False for what was marked too short a time ago, as far as this clock tells: it costs no request.
fn may_be_due(info: &DatasetInfo, after: Span, now: Timestamp) -> bool {
    let mark = info.local(GONE).and_then(|text| GoneMark::read(text, now));
    mark.is_none_or(|mark| now.duration_since(mark.since).as_secs() >= after.as_signed_s())
}

/// Tells the target, and says what came of it.
pub(super) async fn retire(
    target: &Side,
    client: &Client,
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
    let wishes = wishes(options, source, target_has, takes_part);
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
    lock(target, &options.target).await?;
    // Of no account where nothing is gone.
    let after = options.destroy_deleted.unwrap_or(Span::seconds(u64::MAX));
    for Wish { info, what } in wishes {
        let dataset = info.name.clone();
        if let What::Renamed(now) = what {
            let why = format!("its snapshots are those of {now} on the source now, so it was renamed and not deleted");
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
