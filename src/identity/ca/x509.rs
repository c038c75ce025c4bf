//! Making certificates and CRLs (RFC 5280) with rcgen.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKey, PublicKeyData, RevocationReason, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, CertificateSigningRequestDer, PrivateKeyDer, pem::PemObject,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList};

use super::index::Index;
use crate::{
    identity::{IdentityError, Serial, When, join::ENROL_URI, node_uri},
    types::PeerName,
};

fn failed<E: std::fmt::Display>(doing: &'static str) -> impl FnOnce(E) -> IdentityError {
    move |e| IdentityError::Crypto { doing, why: e.to_string() }
}

/// rcgen speaks the `time` crate; [`When`] ends with the year 9999, as that does, so the sum cannot overflow.
macro_rules! date {
    ($when:expr) => {
        date_time_ymd(1970, 1, 1) + Duration::from_secs($when.unix_s())
    };
}

pub(super) struct NewCa {
    pub cert_pem: String,
    pub cert_der: CertificateDer<'static>,
    pub key_pem: String,
}

pub(super) fn new_ca(begins: When, ends: When) -> Result<NewCa, IdentityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make the CA's key"))?;
    let serial = random_serial()?;
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    // Unique, because a CRL finds its CA by this name: two CAs in one ca.pem must not share it.
    subject.push(DnType::CommonName, format!("zmigrate fleet CA {}", hex::encode(&serial[..8])));
    params.distinguished_name = subject;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date!(begins);
    params.not_after = date!(ends);
    let cert = params.self_signed(&key).map_err(failed("sign the CA's certificate"))?;
    Ok(NewCa { cert_pem: cert.pem(), cert_der: cert.der().clone(), key_pem: key.serialize_pem() })
}

pub(super) struct Leaf {
    pub cert_pem: String,
    /// `None` if the key was given.
    pub new_key_pem: Option<String>,
    pub serial: Serial,
}

/// The CA's certificate and key.
pub(super) struct Signer {
    issuer: Issuer<'static, KeyPair>,
    subject: Vec<u8>,
}

impl Signer {
    pub fn open(ca_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pem(key_pem).map_err(failed("read ca.key"))?;
        let der = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(failed("read ca.pem"))?;
        let (_, cert) = X509Certificate::from_der(&der).map_err(failed("read ca.pem"))?;
        if cert.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(IdentityError::Crypto {
                doing: "open the CA",
                why: "ca.key is not the key of the first certificate in ca.pem".to_owned(),
            });
        }
        let subject = cert.subject().as_raw().to_vec();
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(failed("read ca.pem"))?;
        Ok(Self { issuer, subject })
    }

    /// The CA's name in DER.
    pub fn subject(&self) -> &[u8] {
        &self.subject
    }

    pub fn leaf(&self, name: &PeerName, key: Option<String>, begins: When, ends: When) -> Result<Leaf, IdentityError> {
        let (key, is_new) = match key {
            Some(pem) => (KeyPair::from_pem(&pem).map_err(failed("read node.key"))?, false),
            None => (KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make the node's key"))?, true),
        };
        let (serial, params) = node_params(name, begins, ends)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(failed("sign the certificate"))?;
        Ok(Leaf { cert_pem: cert.pem(), new_key_pem: is_new.then(|| key.serialize_pem()), serial })
    }

    /// A certificate for a key that only its node has.
    pub fn leaf_for(
        &self,
        name: &PeerName,
        key: &PublicKey,
        begins: When,
        ends: When,
    ) -> Result<(String, Serial), IdentityError> {
        let (serial, params) = node_params(name, begins, ends)?;
        let cert = params.signed_by(key, &self.issuer).map_err(failed("sign the certificate"))?;
        Ok((cert.pem(), serial))
    }

    /// A certificate with which this CA answers nodes that join, and its key. It names no node, so no node takes it for
    /// one, and it never leaves the process: that is why it is in no index.
    pub fn enrolment_leaf(
        &self,
        begins: When,
        ends: When,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make a key"))?;
        let serial = random_serial()?;
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, "zmigrate enrolment");
        params.distinguished_name = subject;
        params.subject_alt_names =
            vec![SanType::URI(ENROL_URI.try_into().map_err(failed("write the name of the enrolment"))?)];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = date!(begins);
        params.not_after = date!(ends);
        let cert = params.signed_by(&key, &self.issuer).map_err(failed("sign the certificate"))?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(failed("make a key"))?;
        Ok((cert.der().clone(), key))
    }

    /// The CRL of all that `index` says is revoked. Expired certificates stay listed: a node whose clock is far
    /// behind must refuse them too.
    pub fn crl(&self, index: &Index, now: When, next_update: When) -> Result<String, IdentityError> {
        let revoked = index.certificates.iter().filter_map(|entry| {
            Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(entry.serial.as_bytes()),
                revocation_time: date!(entry.revoked_at?),
                reason_code: Some(RevocationReason::Unspecified),
                invalidity_date: None,
            })
        });
        // rcgen wants a nextUpdate after thisUpdate, also of a CA that has ended.
        let this_update = now.before(super::BACKDATED);
        let next_update = next_update.max(this_update.after(Duration::from_secs(1)));
        CertificateRevocationListParams {
            this_update: date!(this_update),
            next_update: date!(next_update),
            crl_number: SerialNumber::from(index.crl_number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .and_then(|crl| crl.pem())
        .map_err(failed("sign the revocation list"))
    }
}

fn node_params(name: &PeerName, begins: When, ends: When) -> Result<(Serial, CertificateParams), IdentityError> {
    let serial = random_serial()?;
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    // For people who look at it with other tools; the name that counts is the URI.
    subject.push(DnType::CommonName, name.as_str());
    params.distinguished_name = subject;
    let uri = node_uri(name).as_str().try_into().map_err(failed("write the node's name"))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A node dials and answers with the same certificate.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date!(begins);
    params.not_after = date!(ends);
    Ok((Serial::new(&serial), params))
}

/// The key of a certificate signing request (RFC 2986) that its own key has signed and that names `name` and nothing
/// else. Whatever else it asks for is not looked at: what a node's certificate says is decided here.
pub(super) fn requested_key(csr: &[u8], name: &PeerName) -> Result<PublicKey, String> {
    let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
        .map_err(|e| format!("the signing request cannot be used: {e}"))?;
    let uri = node_uri(name);
    let [SanType::URI(asked)] = request.params.subject_alt_names.as_slice() else {
        return Err(format!("the signing request does not name {uri} alone"));
    };
    if asked.as_str() != uri {
        return Err(format!("the signing request names {}, not {uri}", asked.as_str().escape_default()));
    }
    // An uncompressed point has 65 bytes: the algorithm alone would let another curve pass.
    if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 || request.public_key.der_bytes().len() != 65 {
        return Err("the key is not one of ECDSA on P-256".to_owned());
    }
    Ok(request.public_key)
}

/// The number of the first CRL of a PEM text.
pub(super) fn crl_number(pem: &str) -> Option<u64> {
    let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, crl) = CertificateRevocationList::from_der(&der).ok()?;
    crl.crl_number()?.to_u64_digits().first().copied()
}

/// The issuer's name, in DER, of the first CRL of a PEM text.
pub(super) fn crl_issuer(pem: &str) -> Option<Vec<u8>> {
    let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, crl) = CertificateRevocationList::from_der(&der).ok()?;
    Some(crl.issuer().as_raw().to_vec())
}

/// 16 random bytes; the first is 0x40 to 0x7f, so the number is positive and always of the same length.
fn random_serial() -> Result<[u8; 16], IdentityError> {
    let mut serial = [0; 16];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut serial).map_err(|_| IdentityError::Crypto {
        doing: "choose a serial number",
        why: "the system gave no randomness".to_owned(),
    })?;
    serial[0] = (serial[0] & 0x3f) | 0x40;
    Ok(serial)
}
