//! What a peer tells an identity of itself, for `zmigrate doctor`.
//!
//! Invariant: of pools and datasets, only those in which the asking identity has grants.

use super::engine::EngineSession;
use crate::{
    limits::MAX_GRANTS_TOLD,
    types::{Access, DatasetName, Failure},
    wire::message::{About, AboutPool, Reply},
};

impl EngineSession {
    /// `grants` are those of the one who asks.
    pub(super) async fn about(&self, mut grants: Vec<(Access, DatasetName)>) -> Result<Reply, Failure> {
        grants.truncate(MAX_GRANTS_TOLD);
        let zfs = self.zfs();
        let version = zfs.version().await?;
        let mut pools = Vec::new();
        for status in zfs.pools().await? {
            if grants.iter().any(|(_, dataset)| dataset.pool() == status.name) {
                // Asking a pool that does not answer could hang.
                let capabilities = if status.answers() { zfs.capabilities(&status.name).await.ok() } else { None };
                pools.push(AboutPool { status, capabilities });
            }
        }
        Ok(Reply::About(Box::new(About { version, grants, pools })))
    }
}
