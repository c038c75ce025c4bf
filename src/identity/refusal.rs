//! Why a handshake failed, in sentences.
//!
//! Two sides see different things. The one that refuses knows the reason: [`HandshakeRefusal`]. The other one
//! is told a TLS alert: [`PeerRefusal`]. Both have a hint.

use std::io;

use rustls::{AlertDescription, CertificateError, PeerIncompatible};

use super::{When, when::rough};
use crate::types::PeerName;

/// Why this side refused the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeRefusal {
    /// Its certificate has ended.
    #[error("the peer's certificate expired {since}; the clock here says {now}")]
    Expired {
        /// The end of its validity.
        since: When,
        /// The clock of this host.
        now: When,
    },
    /// Its certificate begins in the future: mostly a clock that is wrong.
    #[error("the peer's certificate is valid only from {from}; the clock here says {now}")]
    NotYetValid {
        /// The begin of its validity.
        from: When,
        /// The clock of this host.
        now: When,
    },
    /// No CA in `ca.pem` issued it.
    #[error("the peer's certificate was issued by a CA that is not in ca.pem here")]
    UnknownCa,
    /// It is in the revocation list.
    #[error("the peer's certificate is revoked")]
    Revoked,
    /// It showed none.
    #[error("the peer showed no certificate")]
    NoClientCertificate,
    /// It is a node of the fleet, but not the one that was called.
    #[error("the node at this address is {got}, not {expected}")]
    WrongName {
        /// Who was called.
        expected: PeerName,
        /// Who answered.
        got: PeerName,
    },
    /// A certificate of the fleet's CA that names no node.
    #[error("the peer's certificate names no node: {why}")]
    NotANode {
        /// What is wrong with its names.
        why: String,
    },
    /// While joining: the CA of the token is not the one of the server.
    #[error("what answers there does not hold the authority of this token: its CA has another fingerprint")]
    OtherAuthority,
    /// While joining: a certificate of the right CA, but not the authority's own.
    #[error("what answers there is not the authority of this token, but something that it issued a certificate to")]
    NotTheAuthority,
    /// It does not speak TLS.
    #[error("the peer does not speak TLS")]
    NotTls,
    /// TLS, but not TLS 1.3 with ALPN `zmigrate/1`.
    #[error("the peer does not speak zmigrate/1 over TLS 1.3")]
    OtherProtocol,
    /// Anything else, as the TLS library puts it.
    #[error("the handshake failed: {0}")]
    Other(String),
}

impl HandshakeRefusal {
    /// What the operator can do, in one sentence.
    pub fn hint(&self) -> String {
        match self {
            Self::Expired { since, now } => format!(
                "issue it again with `zmigrate ca issue NAME --renew`; if it should be valid, compare the clocks \
                 (it ended {} ago by the clock here)",
                rough(now.since(*since))
            ),
            Self::NotYetValid { from, now } => format!(
                "the clocks differ: certificates are backdated, so the clock here is at least {} behind that of the CA",
                rough(from.since(*now))
            ),
            Self::UnknownCa => "both nodes need a ca.pem that holds the CA of the other; \
                                compare `zmigrate ca list` with both directories"
                .to_owned(),
            Self::Revoked => {
                "if it was revoked by mistake, issue a new certificate; revocation is not undone".to_owned()
            }
            Self::NoClientCertificate => "the peer is no zmigrate, or its identity directory is empty".to_owned(),
            Self::WrongName { expected, got } => format!(
                "correct the address of {expected}, or set identity = \"{got}\" in its [peer] table if that is meant"
            ),
            Self::NotANode { .. } => "issue its certificate with `zmigrate ca issue NAME`".to_owned(),
            Self::OtherAuthority | Self::NotTheAuthority => {
                "do not go on: somebody may stand between, or the address is \
                 that of another fleet. The token was not shown to it"
                    .to_owned()
            }
            Self::NotTls => "check the address and port; zmigrated listens on 8551 unless told otherwise".to_owned(),
            Self::OtherProtocol => "check the address and port, and that both sides run a current zmigrate".to_owned(),
            Self::Other(_) => "run `zmigrate config check` on both sides".to_owned(),
        }
    }

    fn from_rustls(error: &rustls::Error) -> Self {
        use rustls::Error as E;
        match error {
            E::InvalidCertificate(error) => Self::from_certificate(error),
            E::NoCertificatesPresented => Self::NoClientCertificate,
            E::NoApplicationProtocol => Self::OtherProtocol,
            E::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls13RequiredForQuic
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::OtherProtocol,
            E::InvalidMessage(_) | E::InappropriateMessage { .. } | E::PeerSentOversizedRecord => Self::NotTls,
            other => Self::Other(other.to_string()),
        }
    }

    fn from_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::ExpiredContext { time, not_after } => {
                Self::Expired { since: (*not_after).into(), now: (*time).into() }
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                Self::NotYetValid { from: (*not_before).into(), now: (*time).into() }
            }
            CertificateError::Revoked => Self::Revoked,
            // A foreign CA with the same name, or a damaged certificate: either way none of ours signed it.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownCa,
            CertificateError::Other(other) => match other.0.downcast_ref::<HandshakeRefusal>() {
                Some(refusal) => refusal.clone(),
                None => Self::Other(error.to_string()),
            },
            other => Self::Other(other.to_string()),
        }
    }
}

/// The peer refused this side; all it tells is a TLS alert (RFC 8446, 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRefusal(pub AlertDescription);

impl PeerRefusal {
    /// What the operator can do, in one sentence.
    pub fn hint(&self) -> &'static str {
        match self.0 {
            AlertDescription::CertificateExpired => {
                "renew it with `zmigrate ca issue NAME --renew`; if it is valid here, the clocks of the two hosts differ"
            }
            AlertDescription::CertificateRevoked => "issue a new certificate for this node",
            AlertDescription::UnknownCA => "add the CA of this node to ca.pem there",
            AlertDescription::CertificateRequired => "put an identity into the identity directory of this node",
            AlertDescription::NoApplicationProtocol | AlertDescription::ProtocolVersion => {
                "check the address and port, and that both sides run a current zmigrate"
            }
            _ => "the log of the peer says why",
        }
    }
}

impl std::fmt::Display for PeerRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let says = match self.0 {
            AlertDescription::CertificateExpired => "it says it is expired, or not yet valid",
            AlertDescription::CertificateRevoked => "it says it is revoked",
            AlertDescription::UnknownCA => "it says it does not know the CA that issued it",
            AlertDescription::CertificateRequired => "it says it was shown none",
            AlertDescription::CertificateUnknown => "it says it does not name the node that it expects",
            AlertDescription::BadCertificate | AlertDescription::DecryptError => "it says it is damaged",
            AlertDescription::UnsupportedCertificate => "it says it may not be used for this",
            AlertDescription::AccessDenied => "it says access is denied",
            AlertDescription::NoApplicationProtocol | AlertDescription::ProtocolVersion => {
                return f.write_str("the peer does not speak zmigrate/1 over TLS 1.3");
            }
            other => return write!(f, "the peer ended the handshake: TLS alert {other:?}"),
        };
        write!(f, "the peer refused our certificate: {says}")
    }
}

impl std::error::Error for PeerRefusal {}

/// A handshake that did not end in a connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// This side refused.
    #[error(transparent)]
    Refused(#[from] HandshakeRefusal),
    /// The peer refused.
    #[error(transparent)]
    RefusedByPeer(#[from] PeerRefusal),
    /// The connection broke before either side said anything.
    #[error("the connection broke during the handshake")]
    Io(#[source] io::Error),
}

impl HandshakeError {
    /// What an error of a TLS stream means. Use it also for the first read of a client: in TLS 1.3 the client
    /// is through before the server has judged its certificate, so a refusal arrives with the first read.
    pub fn from_io(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => Self::RefusedByPeer(PeerRefusal(*alert)),
            Some(error) => Self::Refused(HandshakeRefusal::from_rustls(error)),
            None => Self::Io(error),
        }
    }

    /// What the operator can do, in one sentence.
    pub fn hint(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.hint(),
            Self::RefusedByPeer(refusal) => refusal.hint().to_owned(),
            Self::Io(_) => "check that the peer runs, and the network between".to_owned(),
        }
    }

    /// Whether dialling again may help: only if nobody refused.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Io(_))
    }
}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        Self::from_io(io::Error::new(io::ErrorKind::InvalidData, error))
    }
}
