//! A limit that changes while a run is at work.

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::side::Side;
use crate::{
    session::client::Client,
    types::Failure,
    wire::{hello::features, message::Request},
};

/// Has the source keep to the limit of the moment, from before its first step until what comes back is dropped; `None` where the source is
/// too old to be told, and keeps to what each step says.
///
/// # Errors
/// When the session is lost.
pub(super) async fn keep_to(
    limit: &watch::Receiver<Option<u64>>,
    source: &Side,
    client: &Client,
) -> Result<Option<AbortOnDropHandle<()>>, Failure> {
    if matches!(source, Side::Remote(_)) && !client.has(features::LIMIT) {
        return Ok(None);
    }
    let (mut limit, source) = (limit.clone(), source.clone());
    let bytes_per_s = *limit.borrow_and_update();
    source.tell(Request::Limit { bytes_per_s }).await?;
    Ok(Some(AbortOnDropHandle::new(tokio::spawn(async move {
        while limit.changed().await.is_ok() {
            let bytes_per_s = *limit.borrow_and_update();
            if let Err(failure) = source.tell(Request::Limit { bytes_per_s }).await {
                // Then the session is over, and the next one is told anew.
                tracing::warn!("the source could not be told its new limit: {failure}");
                return;
            }
        }
    }))))
}
