//! One identity directory, read and checked as a whole.

use std::{path::Path, sync::Arc};

use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};

use super::{
    CA_FILE, CERT_FILE, HandshakeRefusal, Identity, IdentityError, KEY_FILE, Trust, files,
    name::peer_identity,
    trust::{Usage, certificates},
};

/// What a node needs to shake hands. Invariant: the key belongs to the certificate, and a CA of `ca.pem` issued it.
#[derive(Clone, Debug)]
pub struct LoadedIdentity {
    /// This node.
    pub own: Identity,
    /// Whom it believes.
    pub trust: Arc<Trust>,
    pub(super) key: Arc<CertifiedKey>,
}

impl LoadedIdentity {
    /// Reads `ca.pem`, `node.pem`, `node.key` and `crl.pem` in `dir`. A certificate that is expired, not yet
    /// valid or revoked is loaded all the same, so that the node runs and the peers say what is wrong.
    ///
    /// # Errors
    /// A file that is missing, does not parse or does not fit the others; a key that others may read.
    pub fn read(dir: &Path) -> Result<Self, IdentityError> {
        let trust = Trust::read(dir)?;
        let cert_path = dir.join(CERT_FILE);
        let key_path = dir.join(KEY_FILE);
        let chain = certificates(&cert_path)?;
        let own = peer_identity(&chain).map_err(|refusal| {
            let why = match refusal {
                HandshakeRefusal::NotANode { why } => format!("names no node: {why}"),
                _ => "holds no certificate".to_owned(),
            };
            IdentityError::content(&cert_path, why)
        })?;
        let pem = files::read_private(&key_path)?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|e| IdentityError::content(&key_path, format!("is no private key: {e}")))?;
        let (leaf, intermediates) =
            chain.split_first().ok_or_else(|| IdentityError::content(&cert_path, "holds no certificate"))?;
        // Judged in the middle of its validity: what the clock says is not the question here.
        let middle = own.not_before.after(own.not_after.since(own.not_before) / 2);
        for usage in [Usage::Client, Usage::Server] {
            match trust.verify(leaf, intermediates, usage, middle.into()) {
                Ok(_) | Err(rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked)) => {}
                Err(rustls::Error::InvalidCertificate(
                    rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
                )) => return Err(IdentityError::NotOurCa { cert: cert_path, ca: dir.join(CA_FILE) }),
                Err(other) => {
                    return Err(IdentityError::content(cert_path, format!("no peer would take it: {other}")));
                }
            }
        }
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => IdentityError::KeyMismatch { key: key_path, cert: cert_path },
            other => IdentityError::content(key_path, format!("cannot be used: {other}")),
        })?;
        Ok(Self { own, trust: Arc::new(trust), key: Arc::new(key) })
    }
}
