//! `index.json`: what a CA has issued and revoked. The CRL is made from it, never the other way round.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    identity::{IdentityError, Serial, When, files},
    types::PeerName,
};

/// Some 100 000 certificates of 250 bytes.
const MAX_INDEX_BYTES: u64 = 32 << 20;
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    version: u32,
    /// Rises with every revocation.
    pub crl_number: u64,
    /// In the order of issue.
    pub certificates: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub name: PeerName,
    pub serial: Serial,
    pub not_before: When,
    pub not_after: When,
    pub revoked_at: Option<When>,
}

impl Default for Index {
    fn default() -> Self {
        Self { version: VERSION, crl_number: 1, certificates: Vec::new() }
    }
}

impl Index {
    pub fn read(path: &Path) -> Result<Self, IdentityError> {
        let bytes = files::read(path, MAX_INDEX_BYTES)?;
        let index: Self = serde_json::from_slice(&bytes)
            .map_err(|e| IdentityError::content(path, format!("is not the index of a CA: {e}")))?;
        if index.version != VERSION {
            let why = format!("has version {}; this program knows {VERSION}", index.version);
            return Err(IdentityError::content(path, why));
        }
        Ok(index)
    }

    pub fn write(&self, path: &Path) -> Result<(), IdentityError> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|e| IdentityError::Crypto { doing: "encode the index", why: e.to_string() })?;
        bytes.push(b'\n');
        if bytes.len() as u64 > MAX_INDEX_BYTES {
            // Refused before it is written: an index that cannot be read again would lose the CA.
            return Err(IdentityError::TooLong { path: path.to_owned(), max: MAX_INDEX_BYTES });
        }
        files::write(path, &bytes, 0o600)
    }

    /// The names that hold a valid certificate.
    pub fn holders(&self, now: When) -> Vec<PeerName> {
        let valid = self.certificates.iter().filter(|e| e.revoked_at.is_none() && e.not_after >= now);
        let mut names: Vec<PeerName> = valid.map(|e| e.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }
}
