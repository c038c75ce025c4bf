//! The `Hooks` port: the programs that write into what a cutover moves, stopped and started by what the operator declared.

use async_trait::async_trait;

pub use crate::hook::{HookCall, HookError, HookErrorKind, HookName, HookOutput, HookVerb};

/// The hooks of one host.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// Whether the configuration of this host has a hook of that name.
    fn declared(&self, name: &HookName) -> bool;

    /// Whether a stop that was broken off goes on all the same, because another program carries it out, and ends what is started
    /// meanwhile.
    fn stops_elsewhere(&self, _name: &str) -> bool {
        false
    }

    /// Whether its stop may unmount what is mounted: a frozen filesystem stays where it is, and a container's engine unmounts nothing of the
    /// host's.
    fn may_unmount(&self, _name: &str) -> bool {
        true
    }

    /// Does what is asked, within the hook's own limits. Every call may be repeated: stopping what is stopped and starting
    /// what runs succeed. Dropped on the way, it ends what it began.
    ///
    /// # Errors
    /// Why it is not so now; for all but `Prepare` it may be so in part.
    async fn call(&self, call: &HookCall) -> Result<HookOutput, HookError>;
}
