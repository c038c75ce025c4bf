//! Waiting for ZFS, but not for ever: a pool that is suspended answers nothing at all, and neither does `zfs`.

use std::time::Duration;

use crate::{
    port::zfs::{ZfsError, ZfsErrorKind, ZfsResult},
    types::Failure,
};

/// Waits so long for an answer. A `zfs` that is still at work then is killed.
///
/// # Errors
/// What the answer says, or that there was none in time.
pub async fn in_time<T>(what: &str, within: Duration, answer: impl Future<Output = ZfsResult<T>>) -> ZfsResult<T> {
    tokio::time::timeout(within, answer).await.unwrap_or_else(|_| Err(late(what, within)))
}

/// The same, for what takes several commands.
///
/// # Errors
/// What the work says, or that it did not end in time.
pub async fn done_in_time<T>(
    what: &str,
    within: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(within, work).await.unwrap_or_else(|_| Err(late(what, within).into()))
}

fn late(what: &str, within: Duration) -> ZfsError {
    let detail = format!("no answer within {} s: a pool may be suspended, or a disk may hang", within.as_secs());
    ZfsError { operation: what.to_owned(), kind: ZfsErrorKind::Io, detail }
}
