//! Verification on a schedule: at the end of a run that went well, where the job says so and it is time.
//!
//! Invariants: nothing is changed on either side; only a comparison that came to its end is written down, and a difference stays
//! written down until one finds both sides equal that looks as closely as the one that found it.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    report::JobReport,
    run::{Run, direction},
};
use crate::{
    driver::verify::{Seen, VerifyOptions, VerifyReport, VerifyResult, verify},
    jobs::{Job, Remote, lag::Lag, span::Span},
    types::{Failure, FailureClass},
};

/// Differences of one dataset's content that are looked for: one is enough for an alarm, and `zmigrate verify` shows all.
const MOST: usize = 20;
/// What differs is looked at again after so long at most, so that a copy that was mended is not long taken for a bad one.
const AGAIN_AFTER: Span = Span::seconds(86_400);

/// What is known of a job's verifications.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verified {
    /// Since when the job is to verify as it does.
    pub since: Option<Timestamp>,
    /// Since then by content as well.
    pub since_content: bool,
    /// When one came to its end last, whatever it found.
    pub last: Option<Timestamp>,
    /// When both sides were found equal last.
    pub good: Option<Timestamp>,
    /// Their content was compared then.
    pub good_content: bool,
    /// What differs, as it was found last; `None` if nothing.
    pub difference: Option<String>,
    /// That was found in the content: no comparison without can tell that it is gone.
    pub difference_content: bool,
}

/// What a comparison found that came to its end.
#[derive(Clone, Debug, Default)]
struct Found {
    /// What differs; `None` if nothing.
    difference: Option<String>,
    /// Something differs in the content.
    in_content: bool,
    /// The content of all datasets was compared.
    content: bool,
}

impl Verified {
    /// Takes in that a run of the job begins.
    pub fn begin(&mut self, job: &Job, now: Timestamp) {
        let asks_more = job.verify_content && !self.since_content;
        self.since = job.verify.map(|_| self.since.filter(|since| *since <= now && !asks_more).unwrap_or(now));
        self.since_content = job.verify_content;
    }

    /// True if a verification is to be made now. `by_person`: who mended a copy wants to know.
    pub fn is_due(&self, job: &Job, now: Timestamp, by_person: bool) -> bool {
        let Some(every) = job.verify else { return false };
        let every = match &self.difference {
            Some(_) if by_person => return true,
            Some(_) => every.min(AGAIN_AFTER),
            None if job.verify_content && !self.good_content => return true,
            None => every,
        };
        // One of the future is of a clock that was wrong.
        self.last.is_none_or(|last| last > now || seconds_since(last, now) >= every.as_s())
    }

    /// True if both sides were not found equal for more than twice as long as they should be, by the time since it is asked for.
    pub fn is_overdue(&self, job: &Job, now: Timestamp) -> bool {
        let Some(every) = job.verify else { return false };
        // One of the future is of a clock that was wrong. What is asked for anew by content is so from the next run on.
        let good = self.good.filter(|good| *good <= now && (self.good_content || !job.verify_content));
        let since = self.since.filter(|_| self.since_content || !job.verify_content);
        let known = good.max(since);
        known.is_some_and(|known| seconds_since(known, now) > every.as_s().saturating_mul(2))
    }

    /// Takes in what a comparison found that came to its end.
    fn take(&mut self, found: Found, now: Timestamp) {
        self.last = Some(now);
        if self.difference_content && !found.content && !found.in_content {
            return;
        }
        if found.difference.is_none() {
            (self.good, self.good_content) = (Some(now), found.content);
        }
        (self.difference, self.difference_content) = (found.difference, found.in_content);
    }
}

/// Never negative.
fn seconds_since(then: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.as_second() - then.as_second()).unwrap_or_default()
}

impl Run<'_> {
    /// Compares both sides, of what this run has seen at its end, and takes in what came out.
    ///
    /// # Errors
    /// `Refused` when something differs; else what kept it from finding out.
    pub(super) async fn verify(
        &self,
        remote: &Remote,
        report: &mut JobReport,
        verified: &mut Verified,
    ) -> Result<(), Failure> {
        let job = self.job;
        let seen: Vec<Seen> = report.lags.iter().filter_map(seen).collect();
        if seen.is_empty() {
            // No dataset has a snapshot yet: that is no verification, and is told once it is overdue.
            return Ok(());
        }
        let options = VerifyOptions {
            direction: direction(remote),
            source: job.dataset.clone(),
            target: remote.target.clone(),
            recursive: job.recursive,
            content: job.verify_content,
            most: MOST,
            seen: Some(seen),
        };
        tracing::info!(content = job.verify_content, "both sides are compared");
        let found = verify(&self.run_context(remote, None)?, &options, &Arc::default()).await;
        let outcome = judged(&found);
        if let Ok(difference) = &outcome {
            verified.take(taken(&found, difference.clone()), Timestamp::now());
        }
        report.verification = Some(found);
        match outcome? {
            None => Ok(()),
            Some(difference) => {
                let hint = "the copy is not what its source is; `zmigrate verify`, also with --content, shows all of it, and docs/jobs.md what to do";
                let text = format!("verification: {difference}");
                Err(Failure::new(FailureClass::Refused, text).hint(hint))
            }
        }
    }
}

/// What was replicated: what has nothing in common with its target was not, and is told as that.
fn seen(lag: &Lag) -> Option<Seen> {
    let common = lag.common.as_ref()?.guid;
    Some(Seen { source: lag.source.clone(), target: lag.target.clone(), common })
}

fn taken(found: &VerifyReport, difference: Option<String>) -> Found {
    let contents = || found.datasets.iter().map(|dataset| dataset.content.as_ref());
    Found {
        difference,
        in_content: contents().flatten().any(|content| !content.equal),
        content: contents().all(|content| content.is_some()),
    }
}

/// What differs, if anything does. With a dataset of which nobody knows nothing is known of the whole, unless another one differs.
fn judged(found: &VerifyReport) -> Result<Option<String>, Failure> {
    let differ: Vec<String> = found.datasets.iter().filter_map(|dataset| dataset.difference()).collect();
    if let Some(first) = differ.first() {
        let more = if differ.len() > 1 { format!(" (and {} datasets more)", differ.len() - 1) } else { String::new() };
        return Ok(Some(format!("{first}{more}")));
    }
    if found.result == VerifyResult::Equal {
        return Ok(None);
    }
    let failed = found.error.as_ref().or_else(|| found.datasets.iter().find_map(|dataset| dataset.error.as_ref()));
    Err(match failed {
        Some(failure) => Failure { message: format!("verification: {failure}"), ..failure.clone() },
        None => Failure::new(FailureClass::Internal, "verification: nothing was compared"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;

    fn job(keys: &str) -> Job {
        let head = "[job.db]\ndirection = \"push\"\ndataset = \"t/db\"\npeer = \"b\"\ntarget = \"t/x\"\n";
        Config::parse(&format!("{head}{keys}\n"), "z").unwrap().jobs.into_values().next().unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_795_665_600 + seconds).unwrap()
    }

    /// By GUIDs alone.
    fn equal() -> Found {
        Found::default()
    }

    fn differs() -> Found {
        Found { difference: Some("t/db differs".into()), ..Found::default() }
    }

    #[test]
    fn it_is_due_at_once_then_after_its_time_and_sooner_after_a_difference() {
        let (job, mut verified) = (job("verify = \"7d\""), Verified::default());
        verified.begin(&job, at(0));
        assert!(verified.is_due(&job, at(0), false), "none was ever made");
        verified.take(equal(), at(0));
        assert!(!verified.is_due(&job, at(7 * DAY - 1), true) && verified.is_due(&job, at(7 * DAY), false));
        assert!(verified.is_due(&job, at(-1), false), "a clock was ahead");
        verified.take(differs(), at(7 * DAY));
        assert_eq!((verified.good, verified.last), (Some(at(0)), Some(at(7 * DAY))));
        assert!(!verified.is_due(&job, at(8 * DAY - 1), false) && verified.is_due(&job, at(8 * DAY), false));
        assert!(verified.is_due(&job, at(7 * DAY), true), "who mended it wants to know");
        verified.take(equal(), at(8 * DAY));
        assert_eq!((verified.difference.as_ref(), verified.good), (None, Some(at(8 * DAY))));
        let never = super::tests::job("");
        assert!(!Verified::default().is_due(&never, at(0), true) && !verified.is_overdue(&never, at(1000 * DAY)));
    }

    #[test]
    fn it_is_overdue_after_twice_its_time_since_it_was_good_or_asked_for() {
        let job = job("verify = \"7d\"");
        let mut verified = Verified { good: Some(at(-100 * DAY)), ..Verified::default() };
        verified.begin(&job, at(0));
        assert!(!verified.is_overdue(&job, at(14 * DAY)) && verified.is_overdue(&job, at(14 * DAY + 1)));
        // One that only finds differences is not good.
        verified.take(differs(), at(14 * DAY));
        assert!(verified.is_overdue(&job, at(14 * DAY + 1)));
        verified.take(equal(), at(15 * DAY));
        assert!(!verified.is_overdue(&job, at(29 * DAY)) && verified.is_overdue(&job, at(29 * DAY + 1)));
        // Each run of the job leaves the beginning where it is; without the key there is none.
        verified.begin(&job, at(20 * DAY));
        assert_eq!(verified.since, Some(at(0)));
        verified.begin(&super::tests::job(""), at(21 * DAY));
        assert_eq!(verified.since, None);
    }

    #[test]
    fn content_that_was_not_compared_is_due_and_is_overdue_since_it_is_asked_for() {
        let (by_guids, by_content) = (job("verify = \"7d\""), job("verify = \"7d\"\nverify_content = true"));
        let mut verified = Verified::default();
        verified.begin(&by_guids, at(0));
        verified.take(equal(), at(30 * DAY));
        assert!(!verified.is_due(&by_guids, at(31 * DAY), false) && verified.is_due(&by_content, at(31 * DAY), false));
        // Not at once, and not because it was asked for less closely long ago; but also if GUIDs go on to be equal.
        assert!(!verified.is_overdue(&by_content, at(31 * DAY)));
        verified.begin(&by_content, at(31 * DAY));
        verified.take(equal(), at(44 * DAY));
        assert!(!verified.is_overdue(&by_content, at(45 * DAY)) && verified.is_overdue(&by_content, at(45 * DAY + 1)));
        assert!(!verified.is_overdue(&by_guids, at(45 * DAY + 1)));
        verified.take(Found { content: true, ..equal() }, at(46 * DAY));
        verified.begin(&by_content, at(47 * DAY));
        assert_eq!(verified.since, Some(at(31 * DAY)));
        assert!(!verified.is_due(&by_content, at(47 * DAY), false) && !verified.is_overdue(&by_content, at(60 * DAY)));
    }

    #[test]
    fn a_difference_of_content_is_cleared_by_a_comparison_of_content_alone() {
        let content = Found { difference: Some("t/db: the content differs".into()), in_content: true, content: true };
        let mut verified = Verified { good: Some(at(0)), good_content: true, ..Verified::default() };
        verified.take(content, at(DAY));
        let stays = |verified: &Verified| verified.difference.as_deref() == Some("t/db: the content differs");
        for found in [equal(), differs()] {
            verified.take(found, at(2 * DAY));
            assert!(stays(&verified) && verified.good == Some(at(0)) && verified.last == Some(at(2 * DAY)));
        }
        verified.take(Found { content: true, ..equal() }, at(3 * DAY));
        assert_eq!((verified.difference.as_ref(), verified.good), (None, Some(at(3 * DAY))));
        // One that GUIDs tell of, they clear.
        verified.take(differs(), at(4 * DAY));
        verified.take(equal(), at(5 * DAY));
        assert_eq!((verified.difference, verified.good_content), (None, false));
    }

    #[test]
    fn a_comparison_of_the_future_is_none() {
        let job = job("verify = \"7d\"");
        let mut verified = Verified::default();
        verified.begin(&job, at(0));
        verified.take(equal(), at(1000 * DAY));
        assert!(!verified.is_overdue(&job, at(14 * DAY)) && verified.is_overdue(&job, at(14 * DAY + 1)));
    }
}
