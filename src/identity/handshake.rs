//! The handshake itself, over any byte stream.
//!
//! Invariant: a stream that comes out speaks `zmigrate/1`, and its [`Identity`] is that of the certificate that
//! was verified for it. Time limits are the caller's.

use rustls::CommonState;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{ALPN, HandshakeError, HandshakeRefusal, Identity, IdentityStore, peer_identity};
use crate::types::PeerName;

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
