//! From a certificate to the node it names.
//!
//! Invariant: the name comes from exactly one URI SAN. The subject's common name is for people and proves nothing.

use std::fmt;

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};

use super::{HandshakeRefusal, When};
use crate::types::PeerName;

/// What stands before the name in the URI SAN.
pub const NODE_URI_PREFIX: &str = "zmigrate://node/";

/// The URI SAN of a node.
pub fn node_uri(name: &PeerName) -> String {
    format!("{NODE_URI_PREFIX}{name}")
}

/// The serial number of a certificate: big-endian, without leading zeros, so that two spellings compare equal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(Vec<u8>);

impl Serial {
    /// From the bytes of the DER integer.
    pub fn new(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        Self(bytes.get(zeros..).unwrap_or_default().to_vec())
    }

    /// Big-endian, without leading zeros.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<String> for Serial {
    type Error = hex::FromHexError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        hex::decode(text).map(|bytes| Self::new(&bytes))
    }
}
impl From<Serial> for String {
    fn from(serial: Serial) -> String {
        serial.to_string()
    }
}
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}
impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who a certificate names. From a connection it is proof only after the handshake has verified the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The NAME in `zmigrate://node/NAME`.
    pub name: PeerName,
    /// The certificate's serial number.
    pub serial: Serial,
    /// The certificate is valid from here on.
    pub not_before: When,
    /// The certificate is valid until here.
    pub not_after: When,
}

/// Reads who the first of `certs` names. It does not verify the chain: that is the handshake's part.
///
/// # Errors
/// [`HandshakeRefusal::NoClientCertificate`] for none, [`HandshakeRefusal::NotANode`] for a certificate that
/// does not hold exactly one URI SAN, of the form `zmigrate://node/NAME`.
pub fn peer_identity(certs: &[CertificateDer<'_>]) -> Result<Identity, HandshakeRefusal> {
    let cert = certs.first().ok_or(HandshakeRefusal::NoClientCertificate)?;
    let not_a_node = |why: String| HandshakeRefusal::NotANode { why };
    let (rest, cert) = X509Certificate::from_der(cert).map_err(|e| not_a_node(format!("it does not parse: {e}")))?;
    if !rest.is_empty() {
        return Err(not_a_node("bytes follow the certificate".to_owned()));
    }
    let san = cert.subject_alternative_name().map_err(|e| not_a_node(format!("its names do not parse: {e}")))?;
    let names = san.map(|san| san.value.general_names.as_slice()).unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(not_a_node(format!(
            "it must hold exactly one URI name, {NODE_URI_PREFIX}NAME, and holds {}",
            names.iter().filter(|name| matches!(name, GeneralName::URI(_))).count()
        )));
    };
    let name = uri
        .strip_prefix(NODE_URI_PREFIX)
        .ok_or_else(|| not_a_node(format!("its URI name does not begin with {NODE_URI_PREFIX}")))?;
    let name = name.parse().map_err(|e| not_a_node(format!("{e}")))?;
    Ok(Identity {
        name,
        serial: Serial::new(cert.raw_serial()),
        not_before: when(cert.validity().not_before),
        not_after: when(cert.validity().not_after),
    })
}

/// A time before 1970 counts as 1970.
pub(super) fn when(time: ASN1Time) -> When {
    When::from_unix_s(u64::try_from(time.timestamp()).unwrap_or(0))
}
