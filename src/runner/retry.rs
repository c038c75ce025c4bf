//! Which failures a run is tried again for.

use super::report::Started;
use crate::types::{Failure, FailureClass};

/// True for what may pass while a run waits. A person, and whoever reads cron's mail, is told at once who holds the target; a schedule
/// would lose a whole period for what may have been a moment.
pub(super) fn may_pass(failure: &Failure, by: Started) -> bool {
    match failure.class {
        FailureClass::Unreachable => true,
        FailureClass::Locked => by == Started::Schedule,
        _ => failure.transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_told_at_once_that_the_target_is_held() {
        let locked = Failure::new(FailureClass::Locked, "x");
        for (failure, by, expected) in [
            (locked.clone(), Started::Schedule, true),
            (locked.clone(), Started::Cron, false),
            (locked.clone(), Started::Person, false),
            (locked.transient(), Started::Person, false),
            (Failure::new(FailureClass::Unreachable, "x"), Started::Cron, true),
            (Failure::new(FailureClass::Zfs, "x").transient(), Started::Person, true),
            (Failure::new(FailureClass::Zfs, "x"), Started::Schedule, false),
            (Failure::new(FailureClass::Refused, "x"), Started::Schedule, false),
        ] {
            assert_eq!(may_pass(&failure, by), expected, "{failure:?} of {by:?}");
        }
    }
}
