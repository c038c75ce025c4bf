//! What the operations on a CA did: for people (`Display`) and for programs (`Serialize`).

use std::{fmt, path::PathBuf};

use serde::Serialize;

use crate::{
    identity::{Serial, When},
    types::PeerName,
};

/// `ca init` made a CA.
#[derive(Clone, Debug, Serialize)]
pub struct CaCreated {
    /// Its directory.
    pub dir: PathBuf,
    /// The files that were written.
    pub written: Vec<PathBuf>,
    /// The end of the CA's certificate.
    pub valid_until: When,
    /// SHA-256 of the CA's certificate in DER, hex.
    pub ca_fingerprint_sha256: String,
}

/// Where the key of an issued certificate came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyOrigin {
    /// It was made.
    New,
    /// It was there.
    Kept,
}

/// `ca issue` wrote an identity.
#[derive(Clone, Debug, Serialize)]
pub struct Issued {
    /// The node.
    pub name: PeerName,
    /// The certificate's serial number.
    pub serial: Serial,
    /// Where the files are.
    pub out_dir: PathBuf,
    /// The files that were written.
    pub written: Vec<PathBuf>,
    /// The end of the certificate.
    pub valid_until: When,
    /// Whether the key is new.
    pub key: KeyOrigin,
    /// How many other CAs were in `ca.pem` there, and still are.
    pub other_cas_kept: usize,
    /// SHA-256 of the CA's certificate in DER, hex.
    pub ca_fingerprint_sha256: String,
}

/// `ca revoke` wrote a revocation list.
#[derive(Clone, Debug, Serialize)]
pub struct Revoked {
    /// The node.
    pub name: PeerName,
    /// The certificates revoked now.
    pub revoked: Vec<Serial>,
    /// Those that were revoked before.
    pub already_revoked: Vec<Serial>,
    /// The list.
    pub crl: PathBuf,
    /// Its number.
    pub crl_number: u64,
    /// SHA-256 of the CA's certificate in DER, hex.
    pub ca_fingerprint_sha256: String,
}

/// The state of an issued certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CertState {
    /// Nodes accept it.
    Valid,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

/// One issued certificate.
#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    /// The node.
    pub name: PeerName,
    /// The serial number.
    pub serial: Serial,
    /// Its state now.
    pub state: CertState,
    /// The begin of its validity.
    pub not_before: When,
    /// The end of its validity.
    pub not_after: When,
    /// When it was revoked.
    pub revoked_at: Option<When>,
}

/// `ca list`.
#[derive(Clone, Debug, Serialize)]
pub struct CaListing {
    /// The CA's directory.
    pub dir: PathBuf,
    /// The end of the CA's certificate.
    pub valid_until: When,
    /// SHA-256 of the CA's certificate in DER, hex.
    pub ca_fingerprint_sha256: String,
    /// The number of the newest revocation list.
    pub crl_number: u64,
    /// All that was issued, the newest last.
    pub certificates: Vec<Certificate>,
}

impl fmt::Display for CaCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "new CA in {}, valid until {}", self.dir.display(), self.valid_until)?;
        writeln!(f, "fingerprint sha256:{}", self.ca_fingerprint_sha256)?;
        write!(f, "keep ca.key in there secret, and keep a copy of the directory: who holds it can join the fleet")
    }
}

impl fmt::Display for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "certificate of {} valid until {}, serial {}", self.name, self.valid_until, self.serial)?;
        for path in &self.written {
            writeln!(f, "wrote {}", path.display())?;
        }
        if self.key == KeyOrigin::Kept {
            writeln!(f, "the key in {} was kept", self.out_dir.display())?;
        }
        if self.other_cas_kept > 0 {
            writeln!(f, "ca.pem there still trusts {} other CA(s)", self.other_cas_kept)?;
        }
        write!(f, "CA fingerprint sha256:{}", self.ca_fingerprint_sha256)
    }
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.revoked.is_empty() {
            writeln!(f, "{} was revoked before; the list was written again", self.name)?;
        }
        for serial in &self.revoked {
            writeln!(f, "revoked {}, serial {serial}", self.name)?;
        }
        writeln!(f, "wrote {} (list number {})", self.crl.display(), self.crl_number)?;
        write!(f, "it counts on each node once this file is its crl.pem; zmigrated notices that by itself")
    }
}

impl fmt::Display for CaListing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "CA in {}, valid until {}", self.dir.display(), self.valid_until)?;
        write!(f, "fingerprint sha256:{}", self.ca_fingerprint_sha256)?;
        if self.certificates.is_empty() {
            return write!(f, "\nnothing was issued yet");
        }
        let width = self.certificates.iter().map(|c| c.name.as_str().len()).max().unwrap_or(0).max(4);
        write!(f, "\n{:width$}  STATE    UNTIL                 SERIAL", "NAME")?;
        for cert in &self.certificates {
            let state = match cert.state {
                CertState::Valid => "valid",
                CertState::Expired => "expired",
                CertState::Revoked => "revoked",
            };
            let name = cert.name.as_str();
            write!(f, "\n{name:width$}  {state:<7}  {:<20}  {}", cert.not_after.to_string(), cert.serial)?;
        }
        Ok(())
    }
}
