//! The files of a node that joins: its key before anything is asked, all four when the answer is there.
//!
//! Invariant: the key is made here and never leaves; what is put in place loads as a whole, and is the node and the
//! authority that the token names. The files go from a directory beside them to their places one by one, `node.pem`
//! last, so a crash leaves either no identity or a key without its certificate, never a wrong one.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use serde::Serialize;
use tempfile::TempDir;

use crate::{
    identity::{
        CA_FILE, CERT_FILE, CRL_FILE, IdentityError, JoinToken, KEY_FILE, LoadedIdentity, Serial, When, files, node_uri,
    },
    types::PeerName,
};

/// What the authority answers.
#[derive(Clone, Debug)]
pub struct NewIdentity {
    /// `node.pem`.
    pub cert_pem: String,
    /// `ca.pem`.
    pub ca_pem: String,
    /// `crl.pem`.
    pub crl_pem: String,
}

/// A key that waits for its certificate.
#[derive(Debug)]
pub struct PendingIdentity {
    dir: PathBuf,
    /// Beside the final places, on the same filesystem. Gone when this is dropped.
    staging: TempDir,
    name: PeerName,
    ca_fingerprint: [u8; 32],
    csr: Vec<u8>,
}

/// This host has joined.
#[derive(Clone, Debug, Serialize)]
pub struct Joined {
    /// Its name.
    pub name: PeerName,
    /// The certificate's serial number.
    pub serial: Serial,
    /// Where the files are.
    pub identity_dir: PathBuf,
    /// The end of the certificate.
    pub valid_until: When,
    /// SHA-256 of the CA's certificate in DER, hex.
    pub ca_fingerprint_sha256: String,
}

fn failed<E: std::fmt::Display>(doing: &'static str) -> impl FnOnce(E) -> IdentityError {
    move |e| IdentityError::Crypto { doing, why: e.to_string() }
}

fn io_error<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> IdentityError + 'a {
    move |cause| IdentityError::Io { doing, path: path.to_owned(), cause }
}

impl PendingIdentity {
    /// Makes a key for the node of `token`, on disk in `dir`: what cannot be written there is found before the token
    /// is spent.
    ///
    /// # Errors
    /// [`IdentityError::HasIdentity`] if a key or certificate is there, unless `replace` is set; a directory that
    /// cannot be written.
    pub fn prepare(dir: &Path, token: &JoinToken, replace: bool) -> Result<Self, IdentityError> {
        files::make_dir(dir)?;
        for path in [KEY_FILE, CERT_FILE].map(|name| dir.join(name)) {
            if !replace && files::exists(&path)? {
                return Err(IdentityError::HasIdentity { path });
            }
        }
        let staging = tempfile::Builder::new().prefix(".joining-").tempdir_in(dir).map_err(io_error("create", dir))?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make the node's key"))?;
        files::write(&staging.path().join(KEY_FILE), key.serialize_pem().as_bytes(), 0o600)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, token.name.as_str());
        let uri = node_uri(&token.name).as_str().try_into().map_err(failed("write the node's name"))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let csr = params.serialize_request(&key).map_err(failed("make a signing request"))?;
        Ok(Self {
            dir: dir.to_owned(),
            staging,
            name: token.name.clone(),
            ca_fingerprint: token.ca_fingerprint,
            csr: csr.der().to_vec(),
        })
    }

    /// The certificate signing request (RFC 2986) in DER, signed by the new key and bound to the name.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// Puts the identity in place, if it is the one that was asked for.
    ///
    /// # Errors
    /// [`IdentityError::BadAnswer`] if it is not; files that cannot be written.
    pub fn install(self, new: &NewIdentity) -> Result<Joined, IdentityError> {
        let staged = |name: &str| self.staging.path().join(name);
        files::write(&staged(CA_FILE), new.ca_pem.as_bytes(), 0o644)?;
        files::write(&staged(CRL_FILE), new.crl_pem.as_bytes(), 0o644)?;
        files::write(&staged(CERT_FILE), new.cert_pem.as_bytes(), 0o644)?;
        let bad = |why: String| IdentityError::BadAnswer { why };
        let loaded = LoadedIdentity::read(self.staging.path()).map_err(|e| bad(e.to_string()))?;
        if loaded.own.name != self.name {
            return Err(bad(format!("its certificate is that of {}, not of {}", loaded.own.name, self.name)));
        }
        let fingerprint = hex::encode(self.ca_fingerprint);
        if !loaded.trust.cas().iter().any(|ca| ca.fingerprint_sha256 == fingerprint) {
            return Err(bad("its ca.pem does not hold the authority of the token".to_owned()));
        }
        for name in [CA_FILE, CRL_FILE, KEY_FILE, CERT_FILE] {
            let path = self.dir.join(name);
            fs::rename(staged(name), &path).map_err(io_error("write", &path))?;
        }
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io_error("write", &self.dir))?;
        Ok(Joined {
            name: loaded.own.name,
            serial: loaded.own.serial,
            identity_dir: self.dir.clone(),
            valid_until: loaded.own.not_after,
            ca_fingerprint_sha256: fingerprint,
        })
    }
}

impl std::fmt::Display for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "this host is {} now, until {}, serial {}", self.name, self.valid_until, self.serial)?;
        writeln!(f, "wrote {CA_FILE}, {CRL_FILE}, {KEY_FILE} and {CERT_FILE} in {}", self.identity_dir.display())?;
        write!(f, "CA fingerprint sha256:{}", self.ca_fingerprint_sha256)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::identity::ca::{Ca, EnrolClaim, TokenRequest};

    /// A key of `east` with the certificate that the authority made for it.
    fn answered(root: &Path) -> (PendingIdentity, NewIdentity) {
        let (ca, now) = (root.join("ca"), When::now());
        Ca::init(&ca, 100, now).unwrap();
        let request = TokenRequest {
            name: "east".parse().unwrap(),
            address: "ca.example".parse().unwrap(),
            days: 10,
            ttl: Duration::from_secs(60),
            renew: false,
        };
        let token: JoinToken = Ca::token(&ca, &request, now).unwrap().token.parse().unwrap();
        let pending = PendingIdentity::prepare(&root.join("pki"), &token, false).unwrap();
        let claim = EnrolClaim { id: token.id, secret: token.secret, name: token.name, csr: pending.csr().to_vec() };
        let new = Ca::enrol(&ca, &claim, None, now).unwrap();
        (pending, NewIdentity { cert_pem: new.cert_pem, ca_pem: new.ca_pem, crl_pem: new.crl_pem })
    }

    #[test]
    fn a_certificate_of_another_name_for_the_right_key_is_not_taken() {
        let root = tempfile::tempdir().unwrap();
        let (mut pending, new) = answered(root.path());
        pending.name = "west".parse().unwrap();
        let error = pending.install(&new).unwrap_err().to_string();
        assert!(error.contains("that of east, not of west"), "{error}");
        assert_eq!(fs::read_dir(root.path().join("pki")).unwrap().count(), 0);
    }

    #[test]
    fn trust_without_the_authority_of_the_token_is_not_taken() {
        let root = tempfile::tempdir().unwrap();
        let (mut pending, new) = answered(root.path());
        pending.ca_fingerprint[0] ^= 1;
        let error = pending.install(&new).unwrap_err().to_string();
        assert!(error.contains("does not hold the authority of the token"), "{error}");
        assert_eq!(fs::read_dir(root.path().join("pki")).unwrap().count(), 0);
    }
}
