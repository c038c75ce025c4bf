//! Encryption and the flags of a send: what both sides can do, and what must not be mixed.

use super::{EncryptionMode, PlanInput, Refusal, Side};
use crate::types::{
    DatasetName,
    listing::{DatasetInfo, Encryption, JOB},
    transfer::SendFlags,
};

/// The features that hold compressed blocks: with `-c`, the target needs those that the source's pool uses.
const COMPRESSION_FEATURES: [&str; 2] = ["lz4_compress", "zstd_compress"];

/// Whether a dataset of the target is encrypted, now or after its first step.
#[derive(Clone, Debug, Default)]
pub(super) struct Crypt {
    pub encrypted: bool,
    pub key_loaded: bool,
    /// What the key is asked for.
    pub of: Option<DatasetName>,
    /// The dataset that holds the wrapping key.
    pub root: Option<DatasetName>,
}

impl Crypt {
    pub fn of(dataset: &DatasetInfo) -> Self {
        match &dataset.encryption {
            None => Self::default(),
            Some(Encryption { root, key_loaded, .. }) => {
                let of = root.clone().unwrap_or_else(|| dataset.name.clone());
                Self { encrypted: true, key_loaded: *key_loaded, of: Some(of), root: root.clone() }
            }
        }
    }

    /// A dataset that was just received raw: nobody has loaded its key there.
    pub fn raw(name: &DatasetName) -> Self {
        Self { encrypted: true, key_loaded: false, of: Some(name.clone()), root: Some(name.clone()) }
    }
}

/// Decides whether `source` goes raw.
///
/// # Errors
/// When it would have to go raw and cannot, or in plain text and its key is not there.
pub(super) fn raw(
    input: &PlanInput<'_>,
    source: &DatasetInfo,
    target: &DatasetName,
    notes: &mut Vec<String>,
) -> Result<bool, Refusal> {
    let mode = input.options.encryption;
    let Some(encryption) = &source.encryption else {
        if mode == EncryptionMode::Raw {
            notes.push("is not encrypted, so --raw changes nothing".into());
        }
        return Ok(false);
    };
    if mode == EncryptionMode::Plain {
        if !encryption.key_loaded {
            let dataset = encryption.root.clone().unwrap_or_else(|| source.name.clone());
            return Err(Refusal::KeyNotLoaded { dataset, side: Side::Source });
        }
        return Ok(false);
    }
    let lost = |lacking| Refusal::EncryptionLost { source: source.name.clone(), target: target.clone(), lacking };
    if !input.source_caps.send_raw {
        return Err(lost(Side::Source));
    }
    if !input.target_caps.pool_features.contains("encryption") {
        return Err(lost(Side::Target));
    }
    Ok(true)
}

/// Checks a chain that goes on: `target` is the existing dataset, or the target's copy of a clone's origin.
///
/// A target whose key is held outside the target's root was probably received as plain text below an encrypted
/// parent, and one whose key is held within was received raw. The listing cannot tell for sure, so only what is
/// certain to fail or to spoil the chain is refused.
///
/// # Errors
/// When raw and plain would be mixed, or nothing could open the target after it.
pub(super) fn same_mode(
    input: &PlanInput<'_>,
    source: &DatasetInfo,
    target: &DatasetName,
    crypt: &Crypt,
    raw: bool,
) -> Result<(), Refusal> {
    let mismatch = || Refusal::EncryptionMismatch { source: source.name.clone(), target: target.clone(), raw };
    if raw && !crypt.encrypted {
        return Err(mismatch());
    }
    // ZFS takes plain increments onto a raw copy, and then no raw one ever again: the IV sets differ.
    let held_within = crypt.root.as_ref().is_none_or(|root| root.is_at_or_below(input.target_root));
    if !raw && source.encryption.is_some() && crypt.encrypted && held_within {
        return Err(mismatch());
    }
    // A raw increment brings the source's wrapped key, and ZFS goes on looking for what opens it in the root (`zfs change-key -i`):
    // nothing opens it any more, and OpenZFS 2.3.2 panics if the root's key is changed. A root that is a copy itself gets the same.
    let is_copy =
        |root: &&DatasetName| input.target_ancestors.iter().any(|d| d.name == **root && d.local(JOB).is_some());
    // What a cutover left comes home with the key that it went with.
    let strange = raw && !held_within && input.options.enters.is_none();
    let outside = crypt.root.as_ref().filter(|root| strange && *root != target);
    match outside.filter(|root| !is_copy(root)) {
        Some(root) => {
            Err(Refusal::KeyOfAnother { source: source.name.clone(), target: target.clone(), root: root.clone() })
        }
        None => Ok(()),
    }
}

/// Checks that plain text can be received where the target is, or will be, encrypted.
///
/// # Errors
/// When its key is not loaded there.
pub(super) fn key_at_target(crypt: &Crypt, raw: bool) -> Result<(), Refusal> {
    match &crypt.of {
        Some(dataset) if !raw && crypt.encrypted && !crypt.key_loaded => {
            Err(Refusal::KeyNotLoaded { dataset: dataset.clone(), side: Side::Target })
        }
        _ => Ok(()),
    }
}

/// The flags that both sides can do. Where the target's features are not known, none.
pub(super) fn flags(input: &PlanInput<'_>, raw: bool) -> SendFlags {
    if raw {
        // `zfs send -w` sets all of them itself (zfs_main.c).
        return SendFlags { large_block: true, compressed: true, embed: true, raw: true };
    }
    let (source, target) = (input.source_caps, &input.target_caps.pool_features);
    let compressions_known = COMPRESSION_FEATURES
        .iter()
        .all(|feature| !source.pool_features_active.contains(*feature) || target.contains(*feature));
    SendFlags {
        large_block: source.send_large_block && target.contains("large_blocks"),
        compressed: source.send_compressed && !target.is_empty() && compressions_known,
        // Never: OpenZFS up to 2.3 sends the block in which a file's larger attributes are as if it were data, where it is
        // compressed enough to be embedded, and the receiver drops it without a word. Without -e such a block is sent whole.
        embed: false,
        raw: false,
    }
}
