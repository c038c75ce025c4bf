//! Properties of a target that are set and read back.

use std::collections::BTreeSet;

use super::engine::EngineSession;
use crate::types::{
    DatasetName, Failure, FailureClass,
    listing::{Property, PropertySource},
};

/// The largest block that every pool has.
const MAX_SMALL_BLOCK: u64 = 128 << 10;

/// True for what decides how and where data are written, so that it must be set before they come, if the value is one that
/// every ZFS with `receive -o` takes (0.8 and later), or that a feature of the pool stands for.
///
/// `zfs receive` judges all values before it reads anything, so that one which it does not know would keep the dataset from
/// ever being made. What is left out is set afterwards, each by itself.
pub(super) fn is_set_before_data(name: &str, value: &str, pool_features: &BTreeSet<String>) -> bool {
    let block = || value.parse::<u64>().ok().filter(|bytes| bytes.is_power_of_two() && *bytes >= 512);
    match name {
        "compression" => match value {
            "on" | "off" | "lzjb" | "gzip" | "zle" | "lz4" => true,
            _ if value.starts_with("zstd") => pool_features.contains("zstd_compress"),
            _ => value.strip_prefix("gzip-").is_some_and(|level| matches!(level.as_bytes(), [b'1'..=b'9'])),
        },
        "checksum" => match value {
            "on" | "off" | "fletcher2" | "fletcher4" | "sha256" => true,
            "sha512" | "skein" | "edonr" | "blake3" => pool_features.contains(value),
            _ => false,
        },
        "copies" => matches!(value, "1" | "2" | "3"),
        "redundant_metadata" => matches!(value, "all" | "most"),
        "recordsize" => block().is_some_and(|bytes| bytes <= MAX_SMALL_BLOCK),
        "special_small_blocks" => {
            let fits = value == "0" || block().is_some_and(|bytes| bytes <= MAX_SMALL_BLOCK);
            fits && pool_features.contains("allocation_classes")
        }
        _ => false,
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_every_release_knows_is_set_before_the_data() {
        let (none, all): (BTreeSet<String>, BTreeSet<String>) =
            (BTreeSet::new(), ["zstd_compress", "blake3", "allocation_classes"].map(str::to_owned).into());
        let set = |name, value| (is_set_before_data(name, value, &none), is_set_before_data(name, value, &all));
        for (name, value) in [
            ("compression", "lz4"),
            ("compression", "gzip-9"),
            ("checksum", "sha256"),
            ("copies", "2"),
            ("recordsize", "131072"),
            ("redundant_metadata", "most"),
        ] {
            assert_eq!(set(name, value), (true, true), "{name}={value}");
        }
        for (name, value) in [
            ("compression", "zstd-3"),
            ("checksum", "blake3"),
            ("special_small_blocks", "0"),
            ("special_small_blocks", "32768"),
        ] {
            assert_eq!(set(name, value), (false, true), "{name}={value}");
        }
        for (name, value) in [
            ("compression", "gzip-10"),
            ("compression", "lz5"),
            ("checksum", "skein"),
            ("copies", "4"),
            ("recordsize", "1048576"),
            ("recordsize", "1M"),
            ("redundant_metadata", "none"),
            ("special_small_blocks", "1000"),
            ("dnodesize", "auto"),
            ("atime", "off"),
            ("mountpoint", "/"),
        ] {
            assert_eq!(set(name, value), (false, false), "{name}={value}");
        }
    }
}
