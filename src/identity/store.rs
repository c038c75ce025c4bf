//! The identity in use, exchanged as a whole when its files change.
//!
//! Invariant: what is in use always loaded completely. A reload that fails leaves the old identity in place and
//! says why; a reload never forgets a revocation.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, ClientConfig, ServerConfig,
    time_provider::{DefaultTimeProvider, TimeProvider},
};
use rustls_pki_types::CertificateDer;

use super::{
    CRL_FILE, HandshakeRefusal, Identity, IdentityError, LoadedIdentity, Serial,
    refusal::HandshakeError,
    stamps::Stamps,
    tls::{client_config, server_config},
    trust::Usage,
};
use crate::types::PeerName;

/// How soon files that do not load are tried again although nothing about them has changed.
const RETRY: Duration = Duration::from_secs(5);

struct InUse {
    id: LoadedIdentity,
    server: Arc<ServerConfig>,
}

/// An identity directory, and the TLS configurations made of it.
pub struct IdentityStore {
    dir: PathBuf,
    time: Arc<dyn TimeProvider>,
    in_use: ArcSwap<InUse>,
    /// One reload at a time, else the slower one could put back the older files.
    reloading: Mutex<Seen>,
    reloads: AtomicU64,
}

/// What the last reload found. Taken before the files are read: what changes in between is seen the next time.
struct Seen {
    stamps: Stamps,
    failed_at: Option<Instant>,
}

impl fmt::Debug for IdentityStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityStore").field("dir", &self.dir).field("own", &self.own()).finish_non_exhaustive()
    }
}

/// What a reload found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// This node, as its certificate now says.
    pub own: Identity,
    /// Whether it has another certificate than before.
    pub new_certificate: bool,
}

impl IdentityStore {
    /// Reads `dir`; time is the system's clock.
    ///
    /// # Errors
    /// As [`LoadedIdentity::read`].
    pub fn open(dir: &Path) -> Result<Self, IdentityError> {
        Self::open_at(dir, Arc::new(DefaultTimeProvider))
    }

    /// Reads `dir`; certificates are judged at the time that `time` gives.
    ///
    /// # Errors
    /// As [`LoadedIdentity::read`].
    pub fn open_at(dir: &Path, time: Arc<dyn TimeProvider>) -> Result<Self, IdentityError> {
        let stamps = Stamps::of(dir);
        let in_use = make(LoadedIdentity::read(dir)?, &time)?;
        let reloading = Mutex::new(Seen { stamps, failed_at: None });
        Ok(Self {
            dir: dir.to_owned(),
            time,
            in_use: ArcSwap::from_pointee(in_use),
            reloading,
            reloads: AtomicU64::new(0),
        })
    }

    /// Reads the files again. New connections use what they hold; those that are open go on, and the caller asks
    /// [`IdentityStore::is_revoked`] for each.
    ///
    /// # Errors
    /// As [`LoadedIdentity::read`], and for a revocation list older than the one in use. What is in use stays.
    pub fn reload(&self) -> Result<Reloaded, IdentityError> {
        let mut seen = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = Stamps::of(&self.dir);
        self.reload_seen(&mut seen, stamps)
    }

    /// As [`IdentityStore::reload`], but only if the files have changed since they were last read; `None` if not. Files
    /// that do not load are tried again after a while; that they still do not is said once.
    pub fn refresh(&self) -> Option<Result<Reloaded, IdentityError>> {
        let mut seen = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = Stamps::of(&self.dir);
        if stamps != seen.stamps {
            return Some(self.reload_seen(&mut seen, stamps));
        }
        if seen.failed_at.is_some_and(|at| at.elapsed() >= RETRY) {
            return self.reload_seen(&mut seen, stamps).ok().map(Ok);
        }
        None
    }

    fn reload_seen(&self, seen: &mut Seen, stamps: Stamps) -> Result<Reloaded, IdentityError> {
        let result = self.read_again();
        *seen = Seen { stamps, failed_at: result.is_err().then(Instant::now) };
        result
    }

    fn read_again(&self) -> Result<Reloaded, IdentityError> {
        let id = LoadedIdentity::read(&self.dir)?;
        let before = self.in_use.load_full();
        if id.trust.is_older_than(&before.id.trust) {
            return Err(IdentityError::OlderCrl { path: self.dir.join(CRL_FILE) });
        }
        let own = id.own.clone();
        self.in_use.store(Arc::new(make(id, &self.time)?));
        self.reloads.fetch_add(1, SeqCst);
        Ok(Reloaded { new_certificate: own.serial != before.id.own.serial, own })
    }

    /// How often other files than before have come into use, whoever asked for it: a dial does, too.
    pub fn reloads(&self) -> u64 {
        self.reloads.load(SeqCst)
    }

    /// The directory that it reads.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// For the next connection that is accepted. Take it anew for each one.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.in_use.load().server.clone()
    }

    /// For the next connection that is dialled; see [`client_config`].
    ///
    /// # Errors
    /// As [`client_config`].
    pub fn client_config(&self, expected: Option<&PeerName>) -> Result<Arc<ClientConfig>, IdentityError> {
        client_config(&self.in_use.load().id, expected.cloned(), self.time.clone()).map(Arc::new)
    }

    /// This node.
    pub fn own(&self) -> Identity {
        self.in_use.load().id.own.clone()
    }

    /// Whether the newest revocation list names this certificate: its live sessions are to be cut.
    pub fn is_revoked(&self, serial: &Serial) -> bool {
        self.in_use.load().id.trust.is_revoked(serial)
    }

    /// Judges the chain of an open connection again, by the files in use now: this also finds a CA that was
    /// removed from `ca.pem`. That its time is over since is no reason to cut a transfer, so a certificate that has expired is judged
    /// as of its last moment; the next connection is refused.
    ///
    /// # Errors
    /// Why else the peer would be refused today.
    pub fn verify_again(&self, chain: &[CertificateDer<'_>], peer_dialled: bool) -> Result<Identity, HandshakeError> {
        let (leaf, intermediates) = chain.split_first().ok_or(HandshakeRefusal::NoClientCertificate)?;
        let now = self.time.current_time().ok_or(rustls::Error::FailedToGetCurrentTime)?;
        let usage = if peer_dialled { Usage::Client } else { Usage::Server };
        let in_use = self.in_use.load();
        let judge = |at| in_use.id.trust.verify(leaf, intermediates, usage, at);
        match judge(now) {
            Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
                Ok(judge(not_after)?)
            }
            result => Ok(result?),
        }
    }
}

fn make(id: LoadedIdentity, time: &Arc<dyn TimeProvider>) -> Result<InUse, IdentityError> {
    let server = Arc::new(server_config(&id, time.clone())?);
    Ok(InUse { id, server })
}
