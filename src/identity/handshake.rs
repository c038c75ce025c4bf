//! The handshake itself, over any byte stream.
//!
//! Invariant: a stream that comes out speaks `zmigrate/1`, and its [`Identity`] is that of the certificate that
//! was verified for it. Time limits are the caller's.

use std::sync::Arc;

use rustls::{CommonState, ServerConfig, server::Acceptor};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, TlsConnector, client, server};

use super::{ALPN, HandshakeError, HandshakeRefusal, Identity, IdentityStore, join::JOIN_ALPN, peer_identity};
use crate::types::PeerName;

/// What dialled.
pub enum Incoming<S> {
    /// A node of the fleet, verified.
    Node(server::TlsStream<S>, Identity),
    /// Somebody without a certificate who asks to join. Nobody was verified.
    Joining(server::TlsStream<S>),
}

/// Answers a peer that dialled.
///
/// # Errors
/// Why this side refused the peer, or the peer this side.
pub async fn accept<S>(store: &IdentityStore, stream: S) -> Result<(server::TlsStream<S>, Identity), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let acceptor = TlsAcceptor::from(store.server_config());
    let stream = acceptor.accept(stream).await.map_err(HandshakeError::from_io)?;
    let identity = authenticated(store, stream.get_ref().1)?;
    Ok((stream, identity))
}

/// Answers what dialled, also a node that asks to join if `joining` gives a configuration for that; it is asked only
/// when somebody does. Otherwise such a one is refused like any other without a certificate.
///
/// # Errors
/// Why this side refused the peer, or the peer this side.
pub async fn accept_or_enrol<S>(
    store: &IdentityStore,
    stream: S,
    joining: impl Future<Output = Option<Arc<ServerConfig>>>,
) -> Result<Incoming<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(HandshakeError::from_io)?;
    let asks_to_join = start.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == JOIN_ALPN));
    if asks_to_join && let Some(config) = joining.await {
        let stream = start.into_stream(config).await.map_err(HandshakeError::from_io)?;
        // The configuration knows no other protocol; nothing else may come out of a handshake without a certificate.
        if stream.get_ref().1.alpn_protocol() != Some(JOIN_ALPN) {
            return Err(HandshakeRefusal::OtherProtocol.into());
        }
        return Ok(Incoming::Joining(stream));
    }
    let stream = start.into_stream(store.server_config()).await.map_err(HandshakeError::from_io)?;
    let identity = authenticated(store, stream.get_ref().1)?;
    Ok(Incoming::Node(stream, identity))
}

/// The certificates that the peer of an open connection showed, its own first.
pub fn peer_chain(connection: &CommonState) -> Vec<CertificateDer<'static>> {
    connection.peer_certificates().unwrap_or_default().iter().map(|cert| cert.clone().into_owned()).collect()
}

/// Dials. With `expected` the peer must be that node; without, any node of the fleet is taken.
///
/// In TLS 1.3 this returns before the peer has judged our certificate: if it refuses, the first read fails, and
/// [`HandshakeError::from_io`] turns that error into a sentence.
///
/// # Errors
/// Why this side refused the peer, or the peer this side.
pub async fn connect<S>(
    store: &IdentityStore,
    stream: S,
    expected: Option<&PeerName>,
) -> Result<(client::TlsStream<S>, Identity), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = store.client_config(expected).map_err(|e| HandshakeRefusal::Other(e.to_string()))?;
    // The library wants a host name. It is neither sent nor compared: the name is in the certificate's URI.
    let unused = ServerName::try_from("zmigrate").map_err(|e| HandshakeRefusal::Other(e.to_string()))?;
    let stream = TlsConnector::from(config).connect(unused, stream).await.map_err(HandshakeError::from_io)?;
    let identity = authenticated(store, stream.get_ref().1)?;
    Ok((stream, identity))
}

fn authenticated(store: &IdentityStore, connection: &CommonState) -> Result<Identity, HandshakeRefusal> {
    // A side that offers no ALPN at all is let through by the library.
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(HandshakeRefusal::OtherProtocol);
    }
    let identity = peer_identity(connection.peer_certificates().unwrap_or_default())?;
    // A reload during the handshake may have brought a newer list.
    if store.is_revoked(&identity.serial) {
        return Err(HandshakeRefusal::Revoked);
    }
    Ok(identity)
}
