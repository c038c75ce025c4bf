//! Whom this node believes: the CAs, the revocations, and the judgement over one chain.
//!
//! Invariant: an [`Identity`] comes out of [`Trust::verify`] only for a chain that ends at a CA of `ca.pem`,
//! is valid at the given time, is for the given usage, is not revoked, and names exactly one node.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    path::Path,
    sync::Arc,
};

use rustls::{CertificateError, OtherError, crypto::WebPkiSupportedAlgorithms};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime, pem::PemObject};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList as ParsedCrl,
};

use super::{
    CA_FILE, CRL_FILE, HandshakeRefusal, Identity, IdentityError, Serial, When, files, fingerprint_sha256,
    name::{peer_identity, when},
};

/// More CAs than any fleet has at a time; a chain is tried against each.
const MAX_CAS: usize = 32;

/// One CA of `ca.pem`.
#[derive(Clone, Debug)]
pub struct TrustedCa {
    /// SHA-256 of its certificate, hex.
    pub fingerprint_sha256: String,
    /// The end of its certificate.
    pub not_after: When,
    /// Whether `crl.pem` holds its revocations.
    pub has_crl: bool,
    /// When that list was made.
    pub crl_made: Option<When>,
    subject: Vec<u8>,
}

/// CAs and revocations.
pub struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    cas: Vec<TrustedCa>,
    crls: Vec<CertRevocationList<'static>>,
    revoked: HashSet<Serial>,
    /// By the issuer's name in DER: the CRL number, which only grows.
    crl_numbers: BTreeMap<Vec<u8>, Serial>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("cas", &self.cas).field("revoked", &self.revoked.len()).finish_non_exhaustive()
    }
}

/// What a certificate is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// The other side dialled.
    Client,
    /// The other side answered.
    Server,
}

impl Trust {
    /// Reads `ca.pem` and `crl.pem` in `dir`.
    ///
    /// # Errors
    /// A file that is missing, too long or does not parse; a certificate that is not a CA's; a CRL that none of
    /// the CAs signed.
    pub fn read(dir: &Path) -> Result<Self, IdentityError> {
        let ca_path = dir.join(CA_FILE);
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let mut trust = Self {
            anchors: Vec::new(),
            cas: Vec::new(),
            crls: Vec::new(),
            revoked: HashSet::new(),
            crl_numbers: BTreeMap::new(),
            algorithms,
        };
        let mut keys = Vec::new();
        for der in certificates(&ca_path)? {
            trust.add_ca(&ca_path, &der, &mut keys)?;
        }
        if trust.anchors.is_empty() || trust.anchors.len() > MAX_CAS {
            let why = format!("must hold 1 to {MAX_CAS} certificates and holds {}", trust.anchors.len());
            return Err(IdentityError::content(ca_path, why));
        }
        let crl_path = dir.join(CRL_FILE);
        let pem = files::read(&crl_path, files::MAX_CRL_BYTES)?;
        for der in CertificateRevocationListDer::pem_slice_iter(&pem) {
            let der = der.map_err(|e| IdentityError::content(&crl_path, format!("is not PEM: {e}")))?;
            trust.add_crl(&der, &keys).map_err(|why| IdentityError::content(&crl_path, why))?;
        }
        if trust.crls.is_empty() {
            return Err(IdentityError::content(crl_path, "holds no revocation list; even an empty one must be there"));
        }
        Ok(trust)
    }

    fn add_ca(
        &mut self,
        path: &Path,
        der: &CertificateDer<'static>,
        keys: &mut Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<(), IdentityError> {
        let bad = |why: String| IdentityError::content(path, why);
        let (_, cert) = X509Certificate::from_der(der).map_err(|e| bad(format!("is no certificate: {e}")))?;
        // As an anchor, webpki would let any certificate issue others, a node's too.
        if !cert.is_ca() {
            return Err(bad(format!("holds a certificate that is not a CA's ({})", cert.subject())));
        }
        let anchor =
            webpki::anchor_from_trusted_cert(der).map_err(|e| bad(format!("cannot be trusted: {e}")))?.to_owned();
        if self.anchors.contains(&anchor) {
            return Ok(());
        }
        let subject = cert.subject().as_raw().to_vec();
        keys.push((subject.clone(), cert.public_key().subject_public_key.data.to_vec()));
        self.cas.push(TrustedCa {
            fingerprint_sha256: fingerprint_sha256(der),
            not_after: when(cert.validity().not_after),
            has_crl: false,
            crl_made: None,
            subject,
        });
        self.anchors.push(anchor);
        Ok(())
    }

    fn add_crl(&mut self, der: &CertificateRevocationListDer<'_>, keys: &[(Vec<u8>, Vec<u8>)]) -> Result<(), String> {
        let (_, crl) = ParsedCrl::from_der(der).map_err(|e| format!("does not parse: {e}"))?;
        let issuer = crl.issuer().as_raw().to_vec();
        // A list of a CA that is no longer trusted is of no use, and no harm: the file may be tidied later.
        let Some((_, key)) = keys.iter().find(|(subject, _)| *subject == issuer) else { return Ok(()) };
        let (signed, signature) = (crl.tbs_cert_list.as_ref(), crl.signature_value.data.as_ref());
        // Checked now, so that a damaged list is found on reload and not with the next handshake.
        if !self.algorithms.all.iter().any(|alg| alg.verify_signature(key, signed, signature).is_ok()) {
            return Err("holds a revocation list that the CA of its name did not sign".to_owned());
        }
        let owned = OwnedCertRevocationList::from_der(der).map_err(|e| format!("cannot be used: {e}"))?;
        let number = crl.crl_number().map(|n| Serial::new(&n.to_bytes_be())).unwrap_or_else(|| Serial::new(&[]));
        if self.crl_numbers.insert(issuer.clone(), number).is_some() {
            return Err("holds two revocation lists of one CA".to_owned());
        }
        self.revoked.extend(crl.iter_revoked_certificates().map(|cert| Serial::new(cert.raw_serial())));
        self.crls.push(owned.into());
        for ca in self.cas.iter_mut().filter(|ca| ca.subject == issuer) {
            (ca.has_crl, ca.crl_made) = (true, Some(when(crl.last_update())));
        }
        Ok(())
    }

    /// Judges the chain of a peer at the time `now`.
    ///
    /// # Errors
    /// A `rustls::Error` that sends the right alert, and that [`super::HandshakeError`] turns into a sentence.
    pub fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<Identity, rustls::Error> {
        let crls: Vec<&CertRevocationList<'_>> = self.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls)
            .map_err(|_| rustls::Error::General("no revocation list is loaded".to_owned()))?
            .with_depth(RevocationCheckDepth::Chain)
            // A second CA may join ca.pem before its first list arrives.
            .with_status_policy(UnknownStatusPolicy::Allow)
            // See the module's head: what is listed is enforced, a late list is no reason to stop a fleet.
            .with_expiration_policy(ExpirationPolicy::Ignore)
            .build();
        let usage = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        let cert = EndEntityCert::try_from(end_entity).map_err(rustls_error)?;
        cert.verify_for_usage(self.algorithms.all, &self.anchors, intermediates, now, usage, Some(revocation), None)
            .map_err(rustls_error)?;
        peer_identity(std::slice::from_ref(end_entity)).map_err(refuse)
    }

    /// Whether the newest list names this certificate.
    pub fn is_revoked(&self, serial: &Serial) -> bool {
        self.revoked.contains(serial)
    }

    /// The CAs of `ca.pem`.
    pub fn cas(&self) -> &[TrustedCa] {
        &self.cas
    }

    /// True if, for a CA that both trust, this one knows fewer revocations than `before`.
    pub(super) fn is_older_than(&self, before: &Trust) -> bool {
        before.crl_numbers.iter().any(|(issuer, old)| {
            let still_trusted = self.cas.iter().any(|ca| ca.subject == *issuer);
            let number = |serial: &Serial| (serial.as_bytes().len(), serial.as_bytes().to_vec());
            still_trusted && self.crl_numbers.get(issuer).is_none_or(|new| number(new) < number(old))
        })
    }

    pub(super) fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.algorithms
    }
}

/// A refusal that the TLS library has no word for travels inside its error.
pub(super) fn refuse(refusal: HandshakeRefusal) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(refusal))).into()
}

/// All certificates of a PEM file.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let pem = files::read(path, files::MAX_PEM_BYTES)?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|e| IdentityError::content(path, format!("is not PEM: {e}")))
}

pub(super) fn rustls_error(error: webpki::Error) -> rustls::Error {
    use webpki::Error as E;
    match error {
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        E::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        E::CertRevoked => CertificateError::Revoked,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        other => return refuse(HandshakeRefusal::Other(format!("the peer's certificate: {other}"))),
    }
    .into()
}
