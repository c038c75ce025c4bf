//! `zmigrate:gone`, the mark on a copy whose source was deleted.

use std::fmt;

use jiff::Timestamp;

/// Since when a source is gone, and when it was found to be so for long enough. Written `TIME` or `TIME TIME`, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoneMark {
    /// Since when, by the clock of the copy's host.
    pub since: Timestamp,
    /// When the job's time was over first.
    pub due: Option<Timestamp>,
}

impl GoneMark {
    /// `None` for what is no mark, and for one of the future: the clock was wrong then, or is now.
    pub fn read(text: &str, now: Timestamp) -> Option<GoneMark> {
        let mut times = text.split(' ').map(|time| time.parse::<Timestamp>().ok().filter(|at| *at <= now));
        let (since, due) = (times.next()??, times.next());
        // Without the second, the first still counts.
        Some(GoneMark { since, due: due.flatten().filter(|due| *due >= since) })
    }
}

impl fmt::Display for GoneMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |at: &Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        f.write_str(&time(&self.since))?;
        self.due.iter().try_for_each(|due| write!(f, " {}", time(due)))
    }
}
