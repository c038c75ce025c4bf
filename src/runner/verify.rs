//! Verification on a schedule: at the end of a run that went well, where the job says so and it is time.
//!
//! Invariants: nothing is changed on either side; only a comparison that came to its end is written down, and a difference stays
//! written down until one finds both sides equal.

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
    /// Since when the job is to verify.
    pub since: Option<Timestamp>,
    /// When one came to its end last, whatever it found.
    pub last: Option<Timestamp>,
    /// When both sides were found equal last.
    pub good: Option<Timestamp>,
    /// What the last one found to differ; `None` if nothing.
    pub difference: Option<String>,
}

impl Verified {
    /// Takes in that a run of the job begins.
    pub fn begin(&mut self, job: &Job, now: Timestamp) {
        self.since = job.verify.map(|_| self.since.filter(|since| *since <= now).unwrap_or(now));
    }

    /// True if a verification is to be made now. `by_person`: who mended a copy wants to know.
    pub fn is_due(&self, job: &Job, now: Timestamp, by_person: bool) -> bool {
        let Some(every) = job.verify else { return false };
        let every = match &self.difference {
            Some(_) if by_person => return true,
            Some(_) => every.min(AGAIN_AFTER),
            None => every,
        };
        // One of the future is of a clock that was wrong.
        self.last.is_none_or(|last| last > now || seconds_since(last, now) >= every.as_s())
    }

    /// True if both sides were not found equal for more than twice as long as they should be, by the time since it is asked for.
    pub fn is_overdue(&self, job: &Job, now: Timestamp) -> bool {
        let Some(every) = job.verify else { return false };
        let known = self.good.max(self.since);
        known.is_some_and(|known| seconds_since(known, now) > every.as_s().saturating_mul(2))
    }

    /// Takes in what a comparison found that came to its end.
    fn take(&mut self, difference: Option<String>, now: Timestamp) {
        self.last = Some(now);
        if difference.is_none() {
            self.good = Some(now);
        }
        self.difference = difference;
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
            verified.take(difference.clone(), Timestamp::now());
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

    #[test]
    fn it_is_due_at_once_then_after_its_time_and_sooner_after_a_difference() {
        let (job, mut verified) = (job("verify = \"7d\""), Verified::default());
        verified.begin(&job, at(0));
        assert!(verified.is_due(&job, at(0), false), "none was ever made");
        verified.take(None, at(0));
        assert!(!verified.is_due(&job, at(7 * DAY - 1), true) && verified.is_due(&job, at(7 * DAY), false));
        assert!(verified.is_due(&job, at(-1), false), "a clock was ahead");
        verified.take(Some("t/db differs".into()), at(7 * DAY));
        assert_eq!((verified.good, verified.last), (Some(at(0)), Some(at(7 * DAY))));
        assert!(!verified.is_due(&job, at(8 * DAY - 1), false) && verified.is_due(&job, at(8 * DAY), false));
        assert!(verified.is_due(&job, at(7 * DAY), true), "who mended it wants to know");
        verified.take(None, at(8 * DAY));
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
        verified.take(Some("x".into()), at(14 * DAY));
        assert!(verified.is_overdue(&job, at(14 * DAY + 1)));
        verified.take(None, at(15 * DAY));
        assert!(!verified.is_overdue(&job, at(29 * DAY)) && verified.is_overdue(&job, at(29 * DAY + 1)));
        // Each run of the job leaves the beginning where it is; without the key there is none.
        verified.begin(&job, at(20 * DAY));
        assert_eq!(verified.since, Some(at(0)));
        verified.begin(&super::tests::job(""), at(21 * DAY));
        assert_eq!(verified.since, None);
    }
}
