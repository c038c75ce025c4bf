//! The open connections of a process, accepted or dialled, and the certificates that its peers showed, so that those can be cut
//! that would be refused today. A daemon says when; a command looks by itself for as long as it runs.
//!
//! A connection is cut, not its session: a node that has a newer certificate dials again with it, and its transfer goes
//! on. One that has none is refused then. So a CA can be taken out of `ca.pem` under a running transfer, and what still
//! lives on that CA ends within a second. Invariant: a connection that is open was judged by the files in use now, or is
//! about to be.

use std::{
    collections::HashMap,
    fmt, io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::AbortOnDropHandle,
};

use crate::{
    identity::{HandshakeError, HandshakeRefusal, IdentityStore},
    limits::WATCH_EVERY,
    port::link::{Connection, Dialled, Link},
    types::{Failure, FailureClass, PeerName},
};

/// See the module.
#[derive(Default)]
pub struct LiveConnections {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Open>>,
    /// Where nobody else says when the files have changed: the task that looks, once something was dialled.
    looks: Option<OnceLock<AbortOnDropHandle<()>>>,
}

struct Open {
    identity: PeerName,
    shown: Shown,
    cut: CancellationToken,
}

/// What a peer proved itself with.
#[derive(Clone)]
pub struct Shown {
    /// Its certificate, and those that it came with.
    pub chain: Vec<CertificateDer<'static>>,
    /// True if the peer dialled, false if this side did: a certificate has to be good for that.
    pub peer_dialled: bool,
}

/// Takes a connection off the list when it ends.
struct Entry {
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
fn refused_today(store: &IdentityStore, shown: &Shown) -> Option<HandshakeRefusal> {
    match store.verify_again(&shown.chain, shown.peer_dialled) {
        Err(HandshakeError::Refused(why @ (HandshakeRefusal::Revoked | HandshakeRefusal::UnknownCa))) => Some(why),
        _ => None,
    }
}

impl LiveConnections {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A list that looks by itself, from the first dial on, whether the files of the identity have changed, and then cuts.
    pub fn that_looks() -> Arc<LiveConnections> {
        Arc::new(LiveConnections { looks: Some(OnceLock::new()), ..LiveConnections::default() })
    }

    fn begin_to_look(self: &Arc<Self>, store: &Arc<IdentityStore>) {
        if let Some(looks) = &self.looks {
            let task = || AbortOnDropHandle::new(tokio::spawn(look(Arc::downgrade(self), Arc::clone(store))));
            looks.get_or_init(task);
        }
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
        shown: Shown,
    ) -> Result<Box<dyn Connection>, HandshakeRefusal> {
        let number = self.next.fetch_add(1, Relaxed);
        let cut = CancellationToken::new();
        let open = Open { identity: identity.clone(), shown: shown.clone(), cut: cut.clone() };
        // First on the list, then judged: a reload in between is seen by one of the two.
        self.lock().insert(number, open);
        let entry = Entry { list: Arc::clone(self), number };
        if let Some(refusal) = refused_today(store, &shown) {
            return Err(refusal);
        }
        Ok(Box::new(Cuttable { inner: connection, cut: Box::pin(cut.cancelled_owned()), _entry: entry }))
    }

    /// The same link, whose connections are on the list.
    pub fn watched(self: &Arc<Self>, link: Arc<dyn Link>, store: &Arc<IdentityStore>) -> Arc<dyn Link> {
        Arc::new(Watched { link, store: Arc::clone(store), live: Arc::clone(self) })
    }

    /// Cuts every connection whose certificate would be refused today as revoked or of an unknown CA.
    pub fn cut_refused(&self, store: &IdentityStore) {
        for open in self.lock().values().filter(|open| !open.cut.is_cancelled()) {
            if let Some(why) = refused_today(store, &open.shown) {
                tracing::warn!(identity = %open.identity, "a connection is cut: {why}");
                open.cut.cancel();
            }
        }
    }
}

/// See [`LiveConnections::that_looks`].
async fn look(live: Weak<LiveConnections>, store: Arc<IdentityStore>) {
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = store.reloads();
    loop {
        ticks.tick().await;
        let looking = Arc::clone(&store);
        // Files: not for the threads of the runtime.
        let Ok(refreshed) = spawn_blocking(move || looking.refresh()).await else { return };
        if let Some(Err(e)) = refreshed {
            tracing::warn!("the files of the identity have changed and do not load, so it stays as it was: {e}");
        }
        let Some(live) = live.upgrade() else { return };
        // A dial may have read them before us.
        let reloads = store.reloads();
        if reloads != std::mem::replace(&mut seen, reloads) {
            live.cut_refused(&store);
        }
    }
}

/// See [`LiveConnections::watched`].
struct Watched {
    link: Arc<dyn Link>,
    store: Arc<IdentityStore>,
    live: Arc<LiveConnections>,
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.link.fmt(f)
    }
}

#[async_trait]
impl Link for Watched {
    async fn dial(&self) -> Result<Dialled, Failure> {
        self.live.begin_to_look(&self.store);
        let Dialled { connection, identity, chain } = self.link.dial().await?;
        let shown = Shown { chain: chain.clone(), peer_dialled: false };
        let connection = self.live.watch(&self.store, connection, &identity, shown).map_err(|refusal| {
            Failure::new(FailureClass::NotGranted, format!("{self}: {refusal}")).hint(refusal.hint())
        })?;
        Ok(Dialled { connection, identity, chain })
    }
}

/// A connection that can be made to fail from outside.
struct Cuttable {
    inner: Box<dyn Connection>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _entry: Entry,
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustls_pki_types::pem::PemObject;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::*;
    use crate::identity::{
        When,
        ca::{Ca, IssueRequest, OnExisting},
    };

    /// A peer that shows the certificate in a directory.
    struct To(Vec<CertificateDer<'static>>, Mutex<Vec<DuplexStream>>);

    impl fmt::Display for To {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("west")
        }
    }

    #[async_trait]
    impl Link for To {
        async fn dial(&self) -> Result<Dialled, Failure> {
            let (ours, theirs) = duplex(100);
            self.1.lock().unwrap().push(theirs);
            Ok(Dialled { connection: Box::new(ours), identity: "west".parse().unwrap(), chain: self.0.clone() })
        }
    }

    fn issue(ca: &Path, name: &str, out: &Path) {
        let (name, out_dir) = (name.parse().unwrap(), out.join(name));
        Ca::issue(ca, &IssueRequest { name, out_dir, days: 365, on_existing: OnExisting::Refuse }, When::now())
            .unwrap();
    }

    #[tokio::test]
    async fn what_was_dialled_is_cut_when_its_peer_is_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, ca) = (dir.path(), dir.path().join("ca"));
        Ca::init(&ca, 3650, When::now()).unwrap();
        ["east", "west", "north"].iter().for_each(|name| issue(&ca, name, dir));
        let store = Arc::new(IdentityStore::open(&dir.join("east")).unwrap());
        let live = Arc::new(LiveConnections::default());
        let link = |name: &str| {
            let chain = CertificateDer::pem_file_iter(dir.join(name).join("node.pem")).unwrap();
            live.watched(Arc::new(To(chain.map(Result::unwrap).collect(), Mutex::default())), &store)
        };
        let (west, north) = (link("west"), link("north"));
        let (mut to_west, mut to_north) = (west.dial().await.unwrap(), north.dial().await.unwrap());
        live.cut_refused(&store);
        assert_eq!(live.lock().len(), 2);

        Ca::revoke(&ca, &"west".parse().unwrap(), When::now()).unwrap();
        std::fs::copy(ca.join("crl.pem"), dir.join("east/crl.pem")).unwrap();
        store.reload().unwrap();
        live.cut_refused(&store);
        let cut = to_west.connection.read_u8().await.unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::ConnectionAborted);
        let left = tokio::time::timeout(std::time::Duration::from_millis(100), to_north.connection.read_u8()).await;
        assert!(left.is_err(), "the other was cut too");
        let refused = west.dial().await.err().unwrap();
        assert_eq!(refused.class, FailureClass::NotGranted, "{refused}");
        drop((to_west, to_north));
        assert!(live.lock().is_empty(), "what has ended stays on the list");
    }

    #[tokio::test]
    async fn a_command_notices_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, ca) = (dir.path(), dir.path().join("ca"));
        Ca::init(&ca, 3650, When::now()).unwrap();
        ["east", "west"].iter().for_each(|name| issue(&ca, name, dir));
        let store = Arc::new(IdentityStore::open(&dir.join("east")).unwrap());
        let chain = CertificateDer::pem_file_iter(dir.join("west/node.pem")).unwrap().map(Result::unwrap).collect();
        let link = LiveConnections::that_looks().watched(Arc::new(To(chain, Mutex::default())), &store);
        let mut to_west = link.dial().await.unwrap();
        let left = tokio::time::timeout(2 * WATCH_EVERY, to_west.connection.read_u8()).await;
        assert!(left.is_err(), "it was cut without a reason");
        Ca::revoke(&ca, &"west".parse().unwrap(), When::now()).unwrap();
        let list = dir.join("list");
        std::fs::copy(ca.join("crl.pem"), &list).unwrap();
        std::fs::rename(list, dir.join("east/crl.pem")).unwrap();
        let within = std::time::Duration::from_secs(20);
        let cut = tokio::time::timeout(within, to_west.connection.read_u8()).await.expect("nobody looked").unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::ConnectionAborted);
    }
}
