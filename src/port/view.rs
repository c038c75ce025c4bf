//! The `Views` port: a snapshot's content, laid open for reading, and shut again whatever happens.

use std::path::Path;

use async_trait::async_trait;

use super::zfs::ZfsResult;
use crate::types::{SnapshotName, listing::DatasetKind};

/// A snapshot that lies open. Dropped without [`View::close`], it is shut in the background, and if the process dies, by whoever
/// opens a view of the same state directory next.
#[async_trait]
pub trait View: Send + Sync {
    /// A directory for a filesystem, a device for a volume. For reading.
    fn path(&self) -> &Path;

    /// Shuts it.
    ///
    /// # Errors
    /// When something of it is left; the next one tries again.
    async fn close(self: Box<Self>) -> ZfsResult<()>;
}

/// Opens views.
#[async_trait]
pub trait Views: Send + Sync {
    /// Lays a snapshot open. Nothing of its dataset is changed. Where ZFS cannot show a snapshot by itself, a temporary clone is
    /// made in its pool: `POOL/zmigrate-view-ID` with the property `zmigrate:clone`.
    ///
    /// # Errors
    /// `Crypto` while its key is not loaded, `Unsupported` where this ZFS has no way to show it.
    async fn open(&self, snapshot: &SnapshotName, kind: DatasetKind) -> ZfsResult<Box<dyn View>>;
}
