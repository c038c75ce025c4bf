//! Notices by itself when the files of the identity change: a revocation must count within a second of being there, and
//! nobody should have to remember a signal.
//!
//! What does not load, for instance because it is half written, leaves in place what was there, is logged once, and is
//! tried again. On the host of the authority, its revocation list is taken over as soon as `zmigrate ca revoke` has
//! written it. Grants are not read here: they come with SIGHUP.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

use super::Daemon;
use crate::{
    identity::{
        CRL_FILE, IdentityStore, RENEW_NODE, When,
        ca::{Ca, EnrolDirs},
    },
    limits::WATCH_EVERY,
};

/// How soon a list that could not be taken over is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How often it is said that a certificate is about to end.
const TELL_EVERY: Duration = Duration::from_secs(86_400);

/// A certificate that ends stops everything at once, so it is said early, and each day.
fn tell_of_the_end(store: &IdentityStore) {
    let (own, now) = (store.own(), When::now());
    if now.after(RENEW_NODE) > own.not_after {
        let hint = format!("renew it: `zmigrate ca issue {} --renew` where the CA is, see docs/authority.md", own.name);
        tracing::warn!(hint, "the certificate of {} expires {}", own.name, own.not_after);
    }
}

/// Looks, for as long as the daemon lives.
pub(super) async fn watch(daemon: Arc<Daemon>) {
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut list: Option<AuthorityList> = None;
    let mut told: Option<Instant> = None;
    let mut seen = daemon.store.reloads();
    loop {
        ticks.tick().await;
        if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            tell_of_the_end(&daemon.store);
        }
        // A reload may have named another authority.
        let dirs = daemon.enrolment.load().as_ref().map(|enrolment| enrolment.dirs().clone());
        if list.as_ref().map(|list| &list.dirs) != dirs.as_ref() {
            list = dirs.map(AuthorityList::new);
        }
        let store = Arc::clone(&daemon.store);
        // Files: not for the threads of the runtime.
        let looked = tokio::task::spawn_blocking(move || {
            if let Some(list) = &mut list {
                list.look(&store);
            }
            (list, store.refresh())
        });
        let Ok((same_list, refreshed)) = looked.await else { return };
        list = same_list;
        match refreshed {
            None => {}
            Some(Ok(reloaded)) => {
                tracing::info!(identity = %reloaded.own.name, new = reloaded.new_certificate, "the files of the identity have changed: certificates and revocations were read again");
            }
            Some(Err(e)) => tracing::error!(
                hint = e.hint(),
                "the files of the identity have changed and do not load, so it stays as it was: {e}"
            ),
        }
        // A job that dials may have read them before us.
        let reloads = daemon.store.reloads();
        if reloads != std::mem::replace(&mut seen, reloads) {
            daemon.cut_refused();
        }
    }
}

/// The revocation list in the authority's directory.
struct AuthorityList {
    ca_list: PathBuf,
    dirs: EnrolDirs,
    seen: Option<std::fs::Metadata>,
    failed_at: Option<Instant>,
}

impl AuthorityList {
    fn new(dirs: EnrolDirs) -> AuthorityList {
        AuthorityList { ca_list: dirs.ca.join(CRL_FILE), dirs, seen: None, failed_at: None }
    }

    /// Takes the list over into the identity directory if it is newer than what is there.
    fn look(&mut self, store: &IdentityStore) {
        let now = std::fs::metadata(&self.ca_list).ok();
        let same = match (&now, &self.seen) {
            (Some(now), Some(seen)) => same_file(now, seen),
            (now, seen) => now.is_none() && seen.is_none(),
        };
        if same && self.failed_at.is_none_or(|at| at.elapsed() < RETRY) {
            return;
        }
        self.seen = now;
        match Ca::publish_crl(&self.dirs.ca, store.dir()) {
            Ok(written) => {
                self.failed_at = None;
                if written {
                    tracing::info!("took over {}", self.ca_list.display());
                }
            }
            Err(e) => {
                if !same || self.failed_at.is_none() {
                    tracing::error!("cannot take over the authority's revocation list: {e}");
                }
                self.failed_at = Some(Instant::now());
            }
        }
    }
}

fn same_file(a: &std::fs::Metadata, b: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let of = |m: &std::fs::Metadata| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime_nsec());
    of(a) == of(b)
}
