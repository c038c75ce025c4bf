//! A private CA in a directory: make it, issue, revoke, list.
//!
//! Purpose: one CA per fleet, without a service; the directory may live on a machine that is mostly off.
//! Invariant: a node's certificate is in the index, on disk, before it leaves the directory, so everything that was
//! ever issued can be revoked. One process works at a time (`flock`), and every file is exchanged as a whole.
//!
//! Keys are ECDSA on P-256 with SHA-256. A CRL names a `nextUpdate`, because RFC 5280 wants one; it is the end
//! of the CA, and nodes do not enforce it (see [`crate::identity`]).

mod enrol;
mod index;
mod report;
#[cfg(test)]
mod tests;
mod tokens;
mod x509;

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

pub use self::{
    enrol::{EnrolClaim, EnrolDirs, EnrolRefusal, EnrolServer, Enrolled, MAX_TOKEN_TTL, TokenMade, TokenRequest},
    report::{CaCreated, CaListing, CertState, Certificate, Issued, KeyOrigin, Revoked},
};
use self::{
    index::{Entry, Index},
    x509::Signer,
};
use super::{
    CA_FILE, CERT_FILE, CRL_FILE, IdentityError, KEY_FILE, Serial, When, files, fingerprint_sha256,
    name::{peer_identity, when},
};
use crate::types::PeerName;

/// The CA's private key, in the CA's directory only.
pub const CA_KEY_FILE: &str = "ca.key";
/// What was issued.
pub const INDEX_FILE: &str = "index.json";
const LOCK_FILE: &str = "lock";

/// The validity of a node's certificate unless told otherwise.
pub const DEFAULT_DAYS: u32 = 365;
/// The validity of a CA unless told otherwise.
pub const DEFAULT_CA_DAYS: u32 = 3_650;
/// The longest validity that is taken.
pub const MAX_DAYS: u32 = 36_500;
/// Certificates begin this long before they are made, for nodes whose clock is behind.
pub const BACKDATED: Duration = Duration::from_secs(10 * 60);
/// Every operation takes well under a second, so this is enough for some that wait in line.
const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// What `ca issue` does where a `node.key` is already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExisting {
    /// Refuse.
    #[default]
    Refuse,
    /// Keep the key and write a new certificate for it. One file changes, so a crash leaves a working node.
    Renew,
    /// Write a new key and certificate. Between the two writes they do not fit each other.
    Replace,
}

/// What `ca issue` is asked for.
#[derive(Clone, Debug)]
pub struct IssueRequest {
    /// The node's name.
    pub name: PeerName,
    /// Where `ca.pem`, `node.pem`, `node.key` and `crl.pem` go. Made if it is missing, mode 0700.
    pub out_dir: PathBuf,
    /// The validity in days from now.
    pub days: u32,
    /// For a `node.key` that is there already.
    pub on_existing: OnExisting,
}

/// A CA directory. `now` is an argument everywhere, so that a test can hold the clock still.
pub struct Ca {
    dir: PathBuf,
    signer: Signer,
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    ca_ends: When,
    index: Index,
    _lock: File,
}

impl Ca {
    /// Makes a CA in `dir`, which is made too.
    ///
    /// # Errors
    /// [`IdentityError::CaExists`] if any part of a CA is there already; files that cannot be written.
    pub fn init(dir: &Path, days: u32, now: When) -> Result<CaCreated, IdentityError> {
        check_days(days)?;
        files::make_dir(dir)?;
        let _lock = lock(dir)?;
        for name in [CA_FILE, CA_KEY_FILE, INDEX_FILE] {
            if files::exists(&dir.join(name))? {
                return Err(IdentityError::CaExists { dir: dir.to_owned() });
            }
        }
        let ends = now.after(Duration::from_secs(u64::from(days) * 86_400));
        let new = x509::new_ca(now.before(BACKDATED), ends)?;
        let signer = Signer::open(&new.cert_pem, &new.key_pem)?;
        let index = Index::default();
        files::write(&dir.join(CA_KEY_FILE), new.key_pem.as_bytes(), 0o600)?;
        index.write(&dir.join(INDEX_FILE))?;
        files::write(&dir.join(CRL_FILE), signer.crl(&index, now, ends)?.as_bytes(), 0o644)?;
        // Last, because this is the file that says there is a CA.
        files::write(&dir.join(CA_FILE), new.cert_pem.as_bytes(), 0o644)?;
        Ok(CaCreated {
            dir: dir.to_owned(),
            written: [CA_FILE, CA_KEY_FILE, CRL_FILE, INDEX_FILE].iter().map(|name| dir.join(name)).collect(),
            valid_until: ends,
            ca_fingerprint_sha256: fingerprint_sha256(&new.cert_der),
        })
    }

    /// Issues a certificate, and writes all that the node needs into `request.out_dir`. Other CAs that are in
    /// its `ca.pem` already stay there, with their CRLs: a fleet that changes its CA trusts both for a while.
    ///
    /// # Errors
    /// A key that would be overwritten, a directory of another node, a validity past that of the CA, and files
    /// that cannot be read or written.
    pub fn issue(dir: &Path, request: &IssueRequest, now: When) -> Result<Issued, IdentityError> {
        check_days(request.days)?;
        let mut ca = Self::open(dir)?;
        let ends = ca.end_of(request.days, now)?;
        let out = &request.out_dir;
        files::make_dir(out)?;
        let kept = kept_key(request)?;
        let key = match (kept, files::exists(&out.join(KEY_FILE))?, request.on_existing) {
            (None, true, OnExisting::Refuse) => {
                return Err(IdentityError::NodeKeyExists { path: out.join(KEY_FILE) });
            }
            (kept, _, _) => kept,
        };
        let key_origin = if key.is_some() { KeyOrigin::Kept } else { KeyOrigin::New };
        let leaf = ca.signer.leaf(&request.name, key, now.before(BACKDATED), ends)?;
        ca.record(&request.name, &leaf.serial, now, ends)?;
        let crl_pem = ca.current_crl(now)?;
        let (ca_bundle, other_cas) = bundle(&ca.ca_pem, &out.join(CA_FILE), files::MAX_PEM_BYTES, |_| false)?;
        let crl_bundle = ca.crl_bundle(&crl_pem, out)?;
        files::write(&out.join(CA_FILE), ca_bundle.as_bytes(), 0o644)?;
        files::write(&out.join(CRL_FILE), crl_bundle.as_bytes(), 0o644)?;
        let mut written = vec![out.join(CA_FILE), out.join(CRL_FILE)];
        if let Some(key_pem) = &leaf.new_key_pem {
            files::write(&out.join(KEY_FILE), key_pem.as_bytes(), 0o600)?;
            written.push(out.join(KEY_FILE));
        }
        files::write(&out.join(CERT_FILE), leaf.cert_pem.as_bytes(), 0o644)?;
        written.push(out.join(CERT_FILE));
        Ok(Issued {
            name: request.name.clone(),
            serial: leaf.serial,
            out_dir: out.clone(),
            written,
            valid_until: ends,
            key: key_origin,
            other_cas_kept: other_cas,
            ca_fingerprint_sha256: fingerprint_sha256(&ca.ca_der),
        })
    }

    /// Revokes every certificate of `name` that has not expired, and writes a new CRL into the CA's directory.
    /// The nodes learn of it when that file is copied to them. Safe to repeat: a CRL is written each time.
    ///
    /// # Errors
    /// [`IdentityError::NothingToRevoke`] for a name without such a certificate; files that cannot be written.
    pub fn revoke(dir: &Path, name: &PeerName, now: When) -> Result<Revoked, IdentityError> {
        let mut ca = Self::open(dir)?;
        let (mut revoked, mut already) = (Vec::new(), Vec::new());
        for entry in ca.index.certificates.iter_mut().filter(|e| e.name == *name && e.not_after >= now) {
            if entry.revoked_at.is_some() {
                already.push(entry.serial.clone());
            } else {
                entry.revoked_at = Some(now);
                revoked.push(entry.serial.clone());
            }
        }
        if revoked.is_empty() && already.is_empty() {
            return Err(IdentityError::NothingToRevoke { name: name.clone(), known: ca.index.holders(now) });
        }
        if !revoked.is_empty() {
            ca.index.crl_number = ca.index.crl_number.saturating_add(1);
            ca.index.write(&dir.join(INDEX_FILE))?;
        }
        let crl = dir.join(CRL_FILE);
        files::write(&crl, ca.signer.crl(&ca.index, now, ca.ca_ends)?.as_bytes(), 0o644)?;
        Ok(Revoked {
            name: name.clone(),
            revoked,
            already_revoked: already,
            crl,
            crl_number: ca.index.crl_number,
            ca_fingerprint_sha256: fingerprint_sha256(&ca.ca_der),
        })
    }

    /// All that was issued, the newest last.
    ///
    /// # Errors
    /// A directory that holds no CA, or that cannot be read.
    pub fn list(dir: &Path, now: When) -> Result<CaListing, IdentityError> {
        let ca = Self::open(dir)?;
        let certificates = ca.index.certificates.iter().map(|entry| Certificate {
            name: entry.name.clone(),
            serial: entry.serial.clone(),
            state: match entry.revoked_at {
                Some(_) => CertState::Revoked,
                None if entry.not_after < now => CertState::Expired,
                None => CertState::Valid,
            },
            not_before: entry.not_before,
            not_after: entry.not_after,
            revoked_at: entry.revoked_at,
        });
        Ok(CaListing {
            dir: dir.to_owned(),
            valid_until: ca.ca_ends,
            ca_fingerprint_sha256: fingerprint_sha256(&ca.ca_der),
            crl_number: ca.index.crl_number,
            certificates: certificates.collect(),
        })
    }

    fn open(dir: &Path) -> Result<Self, IdentityError> {
        for missing in [CA_FILE, CA_KEY_FILE, INDEX_FILE] {
            if !files::exists(&dir.join(missing))? {
                return Err(IdentityError::NoCa { dir: dir.to_owned(), missing });
            }
        }
        let lock = lock(dir)?;
        let ca_path = dir.join(CA_FILE);
        let key_path = dir.join(CA_KEY_FILE);
        let text =
            |path: &Path, bytes| String::from_utf8(bytes).map_err(|_| IdentityError::content(path, "is not text"));
        let ca_pem = text(&ca_path, files::read(&ca_path, files::MAX_PEM_BYTES)?)?;
        let key_pem = text(&key_path, files::read_private(&key_path)?)?;
        let ca_der = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|e| IdentityError::content(&ca_path, format!("is not PEM: {e}")))?;
        let ca_ends = X509Certificate::from_der(&ca_der)
            .map(|(_, cert)| when(cert.validity().not_after))
            .map_err(|e| IdentityError::content(&ca_path, format!("is no certificate: {e}")))?;
        Ok(Self {
            dir: dir.to_owned(),
            signer: Signer::open(&ca_pem, &key_pem)?,
            ca_pem,
            ca_der,
            ca_ends,
            index: Index::read(&dir.join(INDEX_FILE))?,
            _lock: lock,
        })
    }

    /// When a certificate of so many days ends.
    fn end_of(&self, days: u32, now: When) -> Result<When, IdentityError> {
        check_days(days)?;
        let ends = now.after(Duration::from_secs(u64::from(days) * 86_400));
        if ends > self.ca_ends {
            let fits_days = self.ca_ends.since(now).as_secs() / 86_400;
            return Err(IdentityError::OutlivesCa { days, ca_ends: self.ca_ends, fits_days });
        }
        Ok(ends)
    }

    /// Puts a certificate into the index, on disk, before it leaves.
    fn record(&mut self, name: &PeerName, serial: &Serial, now: When, ends: When) -> Result<(), IdentityError> {
        self.index.certificates.push(Entry {
            name: name.clone(),
            serial: serial.clone(),
            not_before: now.before(BACKDATED),
            not_after: ends,
            revoked_at: None,
        });
        self.index.write(&self.dir.join(INDEX_FILE))
    }

    /// `crl_pem`, and the lists of other CAs in `crl.pem` of `beside`.
    fn crl_bundle(&self, crl_pem: &str, beside: &Path) -> Result<String, IdentityError> {
        let ours = |block: &str| x509::crl_issuer(block).is_none_or(|issuer| issuer == self.signer.subject());
        bundle(crl_pem, &beside.join(CRL_FILE), files::MAX_CRL_BYTES, ours).map(|(text, _)| text)
    }

    /// The CRL in the directory, or a new one if a crash kept it from following the index.
    fn current_crl(&self, now: When) -> Result<String, IdentityError> {
        let path = self.dir.join(CRL_FILE);
        if let Some(bytes) = files::read_if_there(&path, files::MAX_CRL_BYTES)?
            && let Ok(text) = String::from_utf8(bytes)
            && x509::crl_number(&text) == Some(self.index.crl_number)
        {
            return Ok(text);
        }
        let pem = self.signer.crl(&self.index, now, self.ca_ends)?;
        files::write(&path, pem.as_bytes(), 0o644)?;
        Ok(pem)
    }
}

fn check_days(days: u32) -> Result<(), IdentityError> {
    if (1..=MAX_DAYS).contains(&days) { Ok(()) } else { Err(IdentityError::BadValidity { days, max: MAX_DAYS }) }
}

/// The key that `--renew` keeps; `None` if a new one is to be made.
fn kept_key(request: &IssueRequest) -> Result<Option<String>, IdentityError> {
    let key_path = request.out_dir.join(KEY_FILE);
    if request.on_existing != OnExisting::Renew || !files::exists(&key_path)? {
        return Ok(None);
    }
    let cert_path = request.out_dir.join(CERT_FILE);
    if let Some(pem) = files::read_if_there(&cert_path, files::MAX_PEM_BYTES)?
        && let Ok(cert) = CertificateDer::from_pem_slice(&pem)
        && let Ok(holder) = peer_identity(&[cert])
        && holder.name != request.name
    {
        return Err(IdentityError::OtherNode { path: cert_path, holder: holder.name, name: request.name.clone() });
    }
    let key = files::read_private(&key_path)?;
    String::from_utf8(key).map(Some).map_err(|_| IdentityError::content(key_path, "is not text"))
}

/// `ours`, and the blocks of the file at `path` that are neither in `ours` nor replaced by it; and how many those are.
fn bundle(
    ours: &str,
    path: &Path,
    max: u64,
    replaced: impl Fn(&str) -> bool,
) -> Result<(String, usize), IdentityError> {
    let before = files::read_if_there(path, max)?.unwrap_or_default();
    let mut blocks = files::pem_blocks(ours);
    let others: Vec<String> = files::pem_blocks(&String::from_utf8_lossy(&before))
        .into_iter()
        .filter(|block| !blocks.contains(block) && !replaced(block))
        .collect();
    let count = others.len();
    blocks.extend(others);
    Ok((blocks.concat(), count))
}

/// Waits for the directory's lock; it is released when the file is closed, also by a crash.
fn lock(dir: &Path) -> Result<File, IdentityError> {
    let path = dir.join(LOCK_FILE);
    let io_error = |cause| IdentityError::Io { doing: "lock", path: path.clone(), cause };
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io_error)?;
    let mut waited = Duration::ZERO;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from) {
            Ok(()) => return Ok(file),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && waited < LOCK_WAIT => {
                thread::sleep(LOCK_POLL);
                waited += LOCK_POLL;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(IdentityError::CaBusy { dir: dir.to_owned() });
            }
            Err(e) => return Err(io_error(e)),
        }
    }
}
