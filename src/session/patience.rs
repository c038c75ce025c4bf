//! Waiting for ZFS, but not for ever: a pool that is suspended answers nothing at all, and neither does `zfs`.

use std::time::Duration;

use crate::port::zfs::{ZfsError, ZfsErrorKind, ZfsResult};

/// Waits so long for an answer. A `zfs` that is still at work then is killed.
///
/// # Errors
/// What the answer says, or that there was none in time.
pub async fn in_time<T>(what: &str, within: Duration, answer: impl Future<Output = ZfsResult<T>>) -> ZfsResult<T> {
    match tokio::time::timeout(within, answer).await {
        Ok(result) => result,
        Err(_) => {
            let detail =
                format!("no answer within {} s: a pool may be suspended, or a disk may hang", within.as_secs());
            Err(ZfsError { operation: what.to_owned(), kind: ZfsErrorKind::Io, detail })
        }
    }
}
