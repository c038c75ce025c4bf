//! The `Link` port: how an initiator gets one more connection to its peer.

use std::fmt;

use async_trait::async_trait;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::types::{Failure, PeerName};

/// A connection after TLS: bytes in both directions.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A connection and whose certificate answered on it.
pub struct Dialled {
    /// The bytes.
    pub connection: Box<dyn Connection>,
    /// The identity in the peer's certificate.
    pub identity: PeerName,
    /// That certificate, and those that it came with.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Dials one peer.
#[async_trait]
pub trait Link: Send + Sync + fmt::Display {
    /// Connects and authenticates, once. `Display` gives the peer as the operator wrote it.
    ///
    /// # Errors
    /// `Unreachable` (transient) when there is no connection, `NotGranted` when there is no trust.
    async fn dial(&self) -> Result<Dialled, Failure>;
}
