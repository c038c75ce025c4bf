//! The `Link` port over TCP and TLS, and what both sides do to a TCP connection.

use std::{fmt, io, sync::Arc};

use async_trait::async_trait;
use tokio::{io::BufReader, net::TcpStream, time::timeout};

use crate::{
    identity::{HandshakeError, HandshakeRefusal, IdentityStore, handshake},
    limits::HANDSHAKE_TIMEOUT,
    port::link::{Dialled, Link},
    types::{Endpoint, Failure, FailureClass, PeerName},
};

/// Bytes that one read of the socket may bring. The TLS library reads 4 KiB at a time, which would be a system call
/// each; 256 KiB holds 16 full TLS records.
const READ_BUFFER: usize = 256 << 10;

/// What TLS runs over.
pub type Socket = BufReader<TcpStream>;

/// Prepares a connection: no delay for small frames, large reads.
///
/// # Errors
/// When the system refuses the option.
pub fn prepare(stream: TcpStream) -> io::Result<Socket> {
    stream.set_nodelay(true)?;
    Ok(BufReader::with_capacity(READ_BUFFER, stream))
}

fn unreachable(label: &str, endpoint: &Endpoint, why: impl fmt::Display) -> Failure {
    Failure::new(FailureClass::Unreachable, format!("cannot reach {label} at {endpoint}: {why}"))
        .transient()
        .hint("check that zmigrated runs there, the address, and the firewall between")
}

fn late() -> String {
    format!("no answer within {} s", HANDSHAKE_TIMEOUT.as_secs())
}

/// Connects to what listens at `endpoint`; `label` is what the operator calls it.
///
/// # Errors
/// `Unreachable`, transient.
pub async fn dial_tcp(label: &str, endpoint: &Endpoint) -> Result<Socket, Failure> {
    timeout(HANDSHAKE_TIMEOUT, TcpStream::connect((endpoint.host.as_str(), endpoint.port)))
        .await
        .map_err(|_| unreachable(label, endpoint, late()))?
        .and_then(prepare)
        .map_err(|e| unreachable(label, endpoint, e))
}

/// One peer, reached over TCP.
pub struct TlsLink {
    endpoint: Endpoint,
    expected: Option<PeerName>,
    store: Arc<IdentityStore>,
    label: String,
}

impl TlsLink {
    /// A peer at `endpoint` that must be `expected`, or any node of the fleet. `label` is what the operator wrote.
    pub fn new(endpoint: Endpoint, expected: Option<PeerName>, store: Arc<IdentityStore>, label: String) -> TlsLink {
        TlsLink { endpoint, expected, store, label }
    }
}

impl fmt::Display for TlsLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

#[async_trait]
impl Link for TlsLink {
    async fn dial(&self) -> Result<Dialled, Failure> {
        // A transfer of days outlives certificates and lists: what is dialled now is dialled with the files of now.
        let store = Arc::clone(&self.store);
        if let Ok(Some(Err(e))) = tokio::task::spawn_blocking(move || store.refresh()).await {
            tracing::warn!("the files of the identity have changed and do not load, so it stays as it was: {e}");
        }
        let stream = dial_tcp(&self.label, &self.endpoint).await?;
        let late = |_| unreachable(&self.label, &self.endpoint, late());
        let (stream, identity) =
            timeout(HANDSHAKE_TIMEOUT, handshake::connect(&self.store, stream, self.expected.as_ref()))
                .await
                .map_err(late)?
                .map_err(|e| handshake_failed(&self.label, &e))?;
        let chain = handshake::peer_chain(stream.get_ref().1);
        Ok(Dialled { connection: Box::new(stream), identity: identity.name, chain })
    }
}

/// The failure that a TLS handshake's error means for the run.
fn handshake_failed(peer: &str, e: &HandshakeError) -> Failure {
    let class = match e {
        // Nobody was judged: there is no zmigrated at that address.
        HandshakeError::Refused(HandshakeRefusal::NotTls | HandshakeRefusal::OtherProtocol) => FailureClass::Protocol,
        _ if e.is_transient() => FailureClass::Unreachable,
        _ => FailureClass::NotGranted,
    };
    let mut failure = Failure::new(class, format!("{peer}: {e}")).hint(e.hint());
    failure.transient = e.is_transient();
    failure
}
