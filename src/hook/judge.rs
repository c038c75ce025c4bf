//! What the answers of `systemctl` and `fsfreeze` mean. They run with `LC_ALL=C`.

/// What `systemctl is-active` prints, see systemctl(1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitState {
    /// It runs.
    Active,
    /// Nothing of it runs. A unit that failed has ended as well.
    Stopped,
    /// It is on its way from one to the other.
    Changing,
    /// No such unit, or nothing that is understood.
    Unknown,
}

impl UnitState {
    /// Of what was printed.
    pub fn parse(printed: &str) -> Self {
        match printed.trim() {
            "active" => UnitState::Active,
            "inactive" | "failed" => UnitState::Stopped,
            "activating" | "deactivating" | "reloading" | "refreshing" | "maintenance" => UnitState::Changing,
            _ => UnitState::Unknown,
        }
    }
}

/// Whether `fsfreeze -f` failed because the filesystem is frozen already: the kernel says `EBUSY` (`freeze_super` in
/// `fs/super.c`).
pub fn frozen_already(said: &[String]) -> bool {
    said.iter().any(|line| line.contains("freeze failed: Device or resource busy"))
}

/// Whether `fsfreeze -u` failed because the filesystem is not frozen: the kernel says `EINVAL` (`thaw_super`).
pub fn not_frozen(said: &[String]) -> bool {
    said.iter().any(|line| line.contains("unfreeze failed: Invalid argument"))
}
