//! What can be wrong with an identity directory or a CA directory, and what to do about it.

use std::{io, path::PathBuf};

use super::When;
use crate::types::PeerName;

/// An operation on the files of a node or of a CA failed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The system said no.
    #[error("{doing} {path}")]
    Io {
        /// `read`, `write`, `create`, `lock`.
        doing: &'static str,
        /// Of which file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: io::Error,
    },
    /// The file is longer than anything it could rightly hold.
    #[error("{path} is longer than {max} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The bound in bytes.
        max: u64,
    },
    /// The file does not hold what its name promises.
    #[error("{path}: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Others than the owner may read a private key.
    #[error("{path} is a private key that others can read (mode {mode:04o})")]
    OpenKey {
        /// The key.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// `node.key` is not the key of `node.pem`.
    #[error("{key} is not the key of the certificate {cert}")]
    KeyMismatch {
        /// The key.
        key: PathBuf,
        /// The certificate.
        cert: PathBuf,
    },
    /// `node.pem` was not issued by a CA in `ca.pem`.
    #[error("{cert} was not issued by a CA in {ca}")]
    NotOurCa {
        /// The certificate.
        cert: PathBuf,
        /// The CA certificates.
        ca: PathBuf,
    },
    /// A CRL that is older than the one in use, or none where there was one: revoked nodes would be let in again.
    #[error("{path} holds an older revocation list than the one in use")]
    OlderCrl {
        /// The file.
        path: PathBuf,
    },
    /// `ca init` where a CA is already.
    #[error("{dir} holds a CA already")]
    CaExists {
        /// The directory.
        dir: PathBuf,
    },
    /// An operation on a CA where there is none.
    #[error("{dir} holds no CA: {missing} is missing")]
    NoCa {
        /// The directory.
        dir: PathBuf,
        /// The first file that is missing.
        missing: &'static str,
    },
    /// Another `zmigrate ca` works there.
    #[error("another process works on the CA in {dir}")]
    CaBusy {
        /// The directory.
        dir: PathBuf,
    },
    /// `ca issue` would overwrite a key.
    #[error("{path} exists")]
    NodeKeyExists {
        /// The key.
        path: PathBuf,
    },
    /// `ca issue --renew` into a directory of another node.
    #[error("{path} is the certificate of {holder}, not of {name}")]
    OtherNode {
        /// The certificate.
        path: PathBuf,
        /// Whose it is.
        holder: PeerName,
        /// Who was named.
        name: PeerName,
    },
    /// The certificate would outlive its CA.
    #[error("a certificate of {days} days would outlive the CA, which ends {ca_ends}")]
    OutlivesCa {
        /// What was asked for.
        days: u32,
        /// When the CA ends.
        ca_ends: When,
        /// The most days that fit.
        fits_days: u64,
    },
    /// A number of days that is not 1 to 36 500.
    #[error("{days} days is not a validity; it must be 1 to {max}")]
    BadValidity {
        /// What was asked for.
        days: u32,
        /// The most.
        max: u32,
    },
    /// `ca revoke` of a name that holds no certificate which is still valid.
    #[error("{name} holds no certificate that could be revoked")]
    NothingToRevoke {
        /// The name.
        name: PeerName,
        /// The names that hold one.
        known: Vec<PeerName>,
    },
    /// `ca token` for a node that holds a valid certificate.
    #[error("{name} holds a certificate that is valid until {until}")]
    NameTaken {
        /// The name.
        name: PeerName,
        /// The latest end of its certificates.
        until: When,
    },
    /// Too many tokens are remembered.
    #[error("{max} tokens were given out within a day, which is the limit")]
    TooManyTokens {
        /// The limit.
        max: usize,
    },
    /// A time for a token that is not 1 s to 10 min.
    #[error("a token may be good for 1 to {max_s} seconds, not for {seconds}")]
    BadTtl {
        /// What was asked for.
        seconds: u64,
        /// The most.
        max_s: u64,
    },
    /// `join` would overwrite an identity.
    #[error("{path} exists: this host has an identity already")]
    HasIdentity {
        /// What would be overwritten.
        path: PathBuf,
    },
    /// What the authority sent is not the identity that was asked for.
    #[error("the authority sent an identity that cannot be used: {why}")]
    BadAnswer {
        /// What is wrong with it.
        why: String,
    },
    /// The cryptographic library refused; not expected.
    #[error("{doing}: {why}")]
    Crypto {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        why: String,
    },
}

impl IdentityError {
    /// What the operator can do, in one sentence.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Io { path, cause, .. } if cause.kind() == io::ErrorKind::NotFound => {
                format!("`zmigrate ca issue NAME --dir CA --out DIR` writes {}", file_name(path))
            }
            Self::Io { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => {
                "run as the user that owns the file".to_owned()
            }
            Self::Io { .. } | Self::Crypto { .. } => return None,
            Self::NameTaken { name, .. } => format!(
                "--renew lets it join again, and its certificates stay valid as well; if its host is lost or was broken \
                 into, first `zmigrate ca revoke {name}`; or choose another name"
            ),
            Self::TooManyTokens { .. } => "wait until older ones are forgotten".to_owned(),
            Self::BadTtl { .. } => "leave --ttl out for ten minutes".to_owned(),
            Self::HasIdentity { .. } => {
                "--replace puts the new identity in its place; an interrupted join may also have left it".to_owned()
            }
            Self::BadAnswer { .. } => "ask for a new token, and look at the log of the authority".to_owned(),
            Self::TooLong { path, .. } | Self::Content { path, .. } => {
                format!("put back {} as `zmigrate ca` wrote it, or issue it again", file_name(path))
            }
            Self::OpenKey { path, .. } => {
                format!("chmod 600 {}; if others may have read it, revoke the node and issue a new one", path.display())
            }
            Self::KeyMismatch { .. } => {
                "an update may have been interrupted; copy both files again, or issue with a new key".to_owned()
            }
            Self::NotOurCa { ca, .. } => {
                format!("add the CA that issued it to {}, or issue it under this CA", ca.display())
            }
            Self::OlderCrl { .. } => "copy the newest crl.pem from the CA directory".to_owned(),
            Self::CaExists { dir } => {
                format!("use another --dir, or issue from this one; to start over, move {} away", dir.display())
            }
            Self::NoCa { dir, .. } => {
                format!(
                    "`zmigrate ca init --dir {0}` makes one; if it was interrupted, remove {0} first",
                    dir.display()
                )
            }
            Self::CaBusy { .. } => "wait for it to end, and try again".to_owned(),
            Self::NodeKeyExists { .. } => {
                "--renew keeps the key and writes a new certificate; --replace replaces the key too".to_owned()
            }
            Self::OtherNode { holder, .. } => format!("renew {holder}, or name another --out"),
            Self::OutlivesCa { fits_days, .. } => {
                format!("ask for at most --days {fits_days}, or make a new CA and add it to every ca.pem")
            }
            Self::BadValidity { .. } => "leave --days out for the default".to_owned(),
            Self::NothingToRevoke { known, .. } if known.is_empty() => "this CA has no valid certificate".to_owned(),
            Self::NothingToRevoke { known, .. } => {
                let known: Vec<&str> = known.iter().take(20).map(PeerName::as_str).collect();
                format!("valid certificates are held by: {}", known.join(", "))
            }
        })
    }

    pub(crate) fn content(path: impl Into<PathBuf>, why: impl Into<String>) -> Self {
        Self::Content { path: path.into(), why: why.into() }
    }
}

fn file_name(path: &std::path::Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
