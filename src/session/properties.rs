//! Properties of a target that are set and read back.

use super::engine::EngineSession;
use crate::types::{
    DatasetName, Failure, FailureClass,
    listing::{Property, PropertySource},
};

impl EngineSession {
    /// Sets `wanted` on `dataset` where it is not set on it already, and says what had to be set.
    ///
    /// Setting them in the receive has failed silently in several releases, so they are read back with their sources.
    pub(super) async fn ensure(
        &self,
        dataset: &DatasetName,
        wanted: &[(String, String)],
    ) -> Result<Vec<(String, String)>, Failure> {
        let names: Vec<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
        let found = self.zfs().get(dataset.as_str(), &names).await?;
        self.mend(dataset, &found, wanted).await
    }

    /// The same, of what was `found` already. Each that is set is read back.
    pub(super) async fn mend(
        &self,
        dataset: &DatasetName,
        found: &[Property],
        wanted: &[(String, String)],
    ) -> Result<Vec<(String, String)>, Failure> {
        let missing = |found: &[Property]| -> Vec<(String, String)> {
            let is_set = |name: &str, value: &str| {
                found.iter().any(|p| p.name == name && p.value == value && p.source == PropertySource::Local)
            };
            wanted.iter().filter(|(name, value)| !is_set(name, value)).cloned().collect()
        };
        let unset = missing(found);
        if unset.is_empty() {
            return Ok(unset);
        }
        self.zfs().set(dataset, &unset).await?;
        let names: Vec<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
        let still = missing(&self.zfs().get(dataset.as_str(), &names).await?);
        if let Some((name, value)) = still.first() {
            return Err(Failure::new(FailureClass::Zfs, format!("{dataset} does not take {name}={value}"))
                .hint("it may be mounted with another value: `zfs unmount` it on that host, and run this again"));
        }
        Ok(unset)
    }
}
