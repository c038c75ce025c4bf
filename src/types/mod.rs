//! Parsing newtypes. A value of one of these types is proof that its text was checked,
//! so nothing below the edge of the program takes a bare string for a name.

pub mod content;
mod failure;
mod guid;
pub mod listing;
pub mod mounts;
mod name;
mod peer;
mod pool;
mod size;
mod text;
pub mod transfer;

pub use failure::{Failure, FailureClass};
pub use guid::{CreateTxg, Guid};
pub use name::{BookmarkName, DatasetName, MAX_NAME_BYTES, NameError, SnapshotName, SnapshotTag};
pub use peer::{Access, DEFAULT_PORT, Endpoint, JobId, JobName, PeerAddress, PeerName, RemoteDataset};
pub use pool::{Delegate, Delegation, PoolStatus, ZfsVersion};
pub use size::{ByteSize, human_bytes, human_rate};
pub use text::{paragraph, printable, printable_lines};
