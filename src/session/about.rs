//! What a peer tells an identity of itself, for `zmigrate doctor`.
//!
//! Invariant: of pools and datasets, only those in which the asking identity has grants.

use tokio::time::timeout;

use super::engine::EngineSession;
use crate::{
    limits::{ABOUT_WITHIN, MAX_GRANTS_TOLD},
    types::{Access, DatasetName, Failure, FailureClass, ZfsVersion},
    wire::message::{About, AboutPool, Reply},
};

impl EngineSession {
    /// `grants` are those of the one who asks.
    pub(super) async fn about(&self, mut grants: Vec<(Access, DatasetName)>) -> Result<Reply, Failure> {
        grants.truncate(MAX_GRANTS_TOLD);
        match timeout(ABOUT_WITHIN, self.look(&grants)).await {
            Ok(Ok((version, pools))) => Ok(Reply::About(Box::new(About { version, grants, pools }))),
            Ok(Err(failure)) => Err(failure),
            Err(_) => {
                let text = format!("its ZFS gave no answer within {} s", ABOUT_WITHIN.as_secs());
                Err(Failure::new(FailureClass::Zfs, text)
                    .hint("look at `zpool status` and `dmesg` there: a pool may be suspended"))
            }
        }
    }

    async fn look(&self, grants: &[(Access, DatasetName)]) -> Result<(ZfsVersion, Vec<AboutPool>), Failure> {
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
        Ok((version, pools))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fake::FakeZfs, session::bare};

    #[tokio::test]
    async fn only_pools_with_grants_are_told() {
        let (zfs, dir) = (FakeZfs::new(1), tempfile::tempdir().unwrap());
        for name in ["tank/in", "tank2/secret", "other/pool"] {
            zfs.create(&name.parse().unwrap());
        }
        let session = bare::session(&bare::engine(&zfs, dir.path()), "me");
        let ask = async |grants: &[&str]| {
            let grants = grants.iter().map(|name| (Access::Push, name.parse().unwrap())).collect();
            match session.about(grants).await.unwrap() {
                Reply::About(about) => *about,
                other => panic!("{other:?}"),
            }
        };
        let about = ask(&["tank/in", "tank/gone", "missing/x"]).await;
        assert_eq!(about.pools.iter().map(|p| p.status.name.as_str()).collect::<Vec<_>>(), ["tank"]);
        assert!(about.version.kernel.is_some() && about.pools[0].capabilities.is_some() && about.grants.len() == 3);
        assert!(ask(&[]).await.pools.is_empty());
        let many = vec!["tank/in"; MAX_GRANTS_TOLD + 1];
        assert_eq!(ask(&many).await.grants.len(), MAX_GRANTS_TOLD);
    }
}
