//! The open connections and the certificates that they were opened with, so that those can be cut that would be refused
//! today.
//!
//! A connection is cut, not its session: a node that has a newer certificate dials again with it, and its transfer goes
//! on. One that has none is refused then. So a CA can be taken out of `ca.pem` under a running transfer, and what still
//! lives on that CA ends within a second. Invariant: a connection that is open was judged by the files in use now, or is
//! about to be.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    identity::{HandshakeError, HandshakeRefusal, IdentityStore},
    port::link::Connection,
    types::PeerName,
};

/// See the module.
#[derive(Default)]
pub struct LiveConnections {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Open>>,
}

struct Open {
    identity: PeerName,
    chain: Vec<CertificateDer<'static>>,
    cut: CancellationToken,
}

/// Takes a connection off the list when it ends.
pub struct Entry {
    list: Arc<LiveConnections>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.list.lock().remove(&self.number);
    }
}

/// Why the certificate of an open connection would be refused today; `None` if it would not, or only because its time is
/// over, which is no reason to cut a transfer.
fn refused_today(store: &IdentityStore, chain: &[CertificateDer<'_>]) -> Option<HandshakeRefusal> {
    match store.verify_again(chain, true) {
        Err(HandshakeError::Refused(why @ (HandshakeRefusal::Revoked | HandshakeRefusal::UnknownCa))) => Some(why),
        _ => None,
    }
}

impl LiveConnections {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a connection on the list. It fails from the moment on at which it is cut.
    ///
    /// # Errors
    /// Why it is refused after all: the files may have changed since its handshake.
    pub fn watch(
        self: &Arc<Self>,
        store: &IdentityStore,
        connection: Box<dyn Connection>,
        identity: &PeerName,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<(Box<dyn Connection>, Entry), HandshakeRefusal> {
        let number = self.next.fetch_add(1, Relaxed);
        let cut = CancellationToken::new();
        let open = Open { identity: identity.clone(), chain: chain.clone(), cut: cut.clone() };
        // First on the list, then judged: a reload in between is seen by one of the two.
        self.lock().insert(number, open);
        let entry = Entry { list: Arc::clone(self), number };
        if let Some(refusal) = refused_today(store, &chain) {
            return Err(refusal);
        }
        Ok((Box::new(Cuttable { inner: connection, cut: Box::pin(cut.cancelled_owned()) }), entry))
    }

    /// Cuts every connection whose certificate would be refused today as revoked or of an unknown CA.
    pub fn cut_refused(&self, store: &IdentityStore) {
        for open in self.lock().values().filter(|open| !open.cut.is_cancelled()) {
            if let Some(why) = refused_today(store, &open.chain) {
                tracing::warn!(identity = %open.identity, "a connection is cut: {why}");
                open.cut.cancel();
            }
        }
    }
}

/// A connection that can be made to fail from outside.
struct Cuttable {
    inner: Box<dyn Connection>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Cuttable {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "its certificate counts no more")),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
