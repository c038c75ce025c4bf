//! Enrolment, the authority's half: a token for a node, and the certificate that the token is exchanged for.
//!
//! ```text
//! ca token ─▶ tokens.json: hash of the secret, name, end        the token itself is printed, and kept nowhere
//! join     ─▶ claim: right secret? in time? not used? ─▶ "used" on disk ─▶ index on disk ─▶ certificate
//! ```
//!
//! Invariant: a token is spent, on disk, before the certificate exists, so no crash and no second asker gets two out of
//! it. All under the directory's lock. What asks comes without a certificate, so everything in a claim is checked here.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;

use super::{
    BACKDATED, Ca, bundle,
    tokens::{Record, Tokens, Unusable},
    x509,
};
use crate::{
    identity::{
        CA_FILE, IdentityError, JoinToken, Serial, When, files, fingerprint_sha256, sha256,
        token::{TokenId, TokenSecret},
    },
    types::{Endpoint, PeerName},
};

/// The longest time that a token is good for, and the default: long enough to walk to another machine.
pub const MAX_TOKEN_TTL: Duration = Duration::from_secs(600);
/// How long a certificate for answering enrolments is valid. It never leaves the process that made it.
const ENROL_SERVER_LIFE: Duration = Duration::from_secs(3_600);

/// What `ca token` is asked for.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// The node's name.
    pub name: PeerName,
    /// Where the node finds the authority.
    pub address: Endpoint,
    /// Validity of the certificate in days from its issue.
    pub days: u32,
    /// How long the token is good.
    pub ttl: Duration,
    /// Whether the name may hold a valid certificate already.
    pub renew: bool,
}

/// `ca token` made a token. As text it is the token alone.
#[derive(Clone, Serialize)]
pub struct TokenMade {
    /// What `zmigrate join` takes.
    pub token: String,
    /// The node.
    pub name: PeerName,
    /// Where it will ask.
    pub address: String,
    /// The token's end, by the clock here.
    pub expires: When,
    /// Whether an earlier token for this name is now useless.
    pub replaces_older: bool,
    /// SHA-256 of the CA's certificate in DER, hex.
    pub ca_fingerprint_sha256: String,
}

/// What a node that joins shows.
#[derive(Clone, Debug)]
pub struct EnrolClaim {
    /// Which token.
    pub id: TokenId,
    /// The proof that it knows the token.
    pub secret: TokenSecret,
    /// The name that it asks for.
    pub name: PeerName,
    /// Its certificate signing request in DER.
    pub csr: Vec<u8>,
}

/// A certificate for a node that joined, and what it needs beside.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// The node.
    pub name: PeerName,
    /// The certificate's serial number.
    pub serial: Serial,
    /// Its end.
    pub valid_until: When,
    /// `node.pem`.
    pub cert_pem: String,
    /// `ca.pem`.
    pub ca_pem: String,
    /// `crl.pem`.
    pub crl_pem: String,
}

/// The directories of the side that answers nodes that join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolDirs {
    /// The CA's.
    pub ca: PathBuf,
    /// Of the identity of the same host, for the other CAs that it trusts.
    pub beside: Option<PathBuf>,
}

/// With what the authority answers nodes that join.
pub struct EnrolServer {
    /// A certificate for this alone, then the CA's.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// Why a claim got no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolRefusal {
    /// There is no such token, or none any more.
    #[error("this token is not known here, or ended more than a day ago")]
    Unknown,
    /// The secret is not the token's.
    #[error("this token does not hold the right secret")]
    WrongSecret,
    /// Too many wrong secrets were tried.
    #[error("this token was tried with a wrong secret {} times, and is dead", super::tokens::MAX_WRONG)]
    TooManyWrong,
    /// It was used.
    #[error("this token was used {0}; a token is good once")]
    Used(When),
    /// A later one for the same name took its place.
    #[error("a later token for the same name has taken the place of this one")]
    Replaced,
    /// Its time is over.
    #[error("this token expired {0}")]
    Expired(When),
    /// Another name than the token's.
    #[error("this token is for another name than {0}")]
    WrongName(PeerName),
    /// The signing request is not in order.
    #[error("{0}")]
    BadRequest(String),
    /// The name holds a certificate by now, and the token was not made to renew it.
    #[error("{name} holds a certificate by now, valid until {until}")]
    NameTaken {
        /// The name.
        name: PeerName,
        /// The latest end of its certificates.
        until: When,
    },
    /// The authority failed. The token may be spent.
    #[error("the authority failed: {0}")]
    Authority(#[from] IdentityError),
}

impl From<Unusable> for EnrolRefusal {
    fn from(why: Unusable) -> Self {
        match why {
            Unusable::Unknown => Self::Unknown,
            Unusable::WrongSecret => Self::WrongSecret,
            Unusable::TooManyWrong => Self::TooManyWrong,
            Unusable::Used(at) => Self::Used(at),
            Unusable::Replaced => Self::Replaced,
            Unusable::Expired(at) => Self::Expired(at),
        }
    }
}

/// Proof that a token was spent, on disk.
struct Spent(Record);

impl Ca {
    /// Makes a token for one node; an open one for the same name is useless from now on.
    ///
    /// # Errors
    /// A name that holds a valid certificate, unless `renew` is set; a time or validity out of range; files that
    /// cannot be read or written.
    pub fn token(dir: &Path, request: &TokenRequest, now: When) -> Result<TokenMade, IdentityError> {
        if request.ttl < Duration::from_secs(1) || request.ttl > MAX_TOKEN_TTL {
            let seconds = request.ttl.as_secs();
            return Err(IdentityError::BadTtl { seconds, max_s: MAX_TOKEN_TTL.as_secs() });
        }
        let ca = Self::open(dir)?;
        ca.end_of(request.days, now)?;
        if let (Some(until), false) = (ca.held_until(&request.name, now), request.renew) {
            return Err(IdentityError::NameTaken { name: request.name.clone(), until });
        }
        let token = JoinToken {
            ca_fingerprint: sha256(&ca.ca_der),
            id: TokenId::random()?,
            secret: TokenSecret::random()?,
            expires: now.after(request.ttl),
            name: request.name.clone(),
            address: request.address.clone(),
        };
        let key = (token.id, &token.secret);
        let record = Record::new(key, token.name.clone(), token.expires, request.days, request.renew);
        let mut tokens = Tokens::read(dir)?;
        let replaces_older = tokens.add(record, now)?;
        // Before it is shown to anybody.
        tokens.write(dir)?;
        Ok(TokenMade {
            token: token.to_string(),
            name: token.name,
            address: token.address.to_string(),
            expires: token.expires,
            replaces_older,
            ca_fingerprint_sha256: fingerprint_sha256(&ca.ca_der),
        })
    }

    /// Exchanges a token for a certificate. The node also gets the other CAs, and their lists, of the identity
    /// directory `beside`: a fleet that changes its CA trusts both for a while.
    ///
    /// # Errors
    /// What is wrong with the claim; it costs the token nothing, unless the secret was wrong. If the authority itself
    /// fails, the token is spent.
    pub fn enrol(dir: &Path, claim: &EnrolClaim, beside: Option<&Path>, now: When) -> Result<Enrolled, EnrolRefusal> {
        let mut ca = Self::open(dir)?;
        let mut key = None;
        let spent = ca.spend(claim, now, |token, ca| {
            if token.name != claim.name {
                return Err(EnrolRefusal::WrongName(claim.name.clone()));
            }
            key = Some(x509::requested_key(&claim.csr, &token.name).map_err(EnrolRefusal::BadRequest)?);
            match ca.held_until(&token.name, now) {
                Some(until) if !token.renew => Err(EnrolRefusal::NameTaken { name: token.name.clone(), until }),
                _ => ca.end_of(token.days, now).map(drop).map_err(EnrolRefusal::Authority),
            }
        })?;
        let key = key.ok_or_else(|| EnrolRefusal::BadRequest("no key was asked for".to_owned()))?;
        Ok(ca.certify(&spent, &key, beside, now)?)
    }

    /// Marks the token as used; on disk when it returns.
    fn spend(
        &self,
        claim: &EnrolClaim,
        now: When,
        fits: impl FnOnce(&Record, &Ca) -> Result<(), EnrolRefusal>,
    ) -> Result<Spent, EnrolRefusal> {
        let mut tokens = Tokens::read(&self.dir)?;
        let claimed = tokens.claim(claim.id, &claim.secret, now, |token| fits(token, self));
        // A wrong secret is counted on disk, too. What is not known changes nothing.
        if matches!(claimed, Ok(_) | Err(EnrolRefusal::WrongSecret)) {
            tokens.write(&self.dir)?;
        }
        claimed.map(Spent)
    }

    fn certify(
        &mut self,
        Spent(token): &Spent,
        key: &rcgen::PublicKey,
        beside: Option<&Path>,
        now: When,
    ) -> Result<Enrolled, IdentityError> {
        let ends = self.end_of(token.days, now)?;
        let (cert_pem, serial) = self.signer.leaf_for(&token.name, key, now.before(BACKDATED), ends)?;
        self.record(&token.name, &serial, now, ends)?;
        let crl_pem = self.current_crl(now)?;
        let (ca_pem, crl_pem) = match beside {
            Some(beside) => {
                let (ca_pem, _) = bundle(&self.ca_pem, &beside.join(CA_FILE), files::MAX_PEM_BYTES, |_| false)?;
                (ca_pem, self.crl_bundle(&crl_pem, beside)?)
            }
            None => (self.ca_pem.clone(), crl_pem),
        };
        Ok(Enrolled { name: token.name.clone(), serial, valid_until: ends, cert_pem, ca_pem, crl_pem })
    }

    /// The latest end of the valid certificates of `name`.
    fn held_until(&self, name: &PeerName, now: When) -> Option<When> {
        let valid = |e: &&super::Entry| e.name == *name && e.revoked_at.is_none() && e.not_after >= now;
        self.index.certificates.iter().filter(valid).map(|e| e.not_after).max()
    }

    /// Whether anybody is to be answered: while any token has time left. Reads one small file, without the lock.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn expects_joins(dir: &Path, now: When) -> Result<bool, IdentityError> {
        Tokens::read(dir).map(|tokens| tokens.any_in_time(now))
    }

    /// Whether that token may still be used.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn token_is_open(dir: &Path, id: TokenId, now: When) -> Result<bool, IdentityError> {
        Tokens::read(dir).map(|tokens| tokens.is_open(id, now))
    }

    /// A certificate, of an hour, with which the authority answers nodes that join. Only the holder of `ca.key` can
    /// make one; a node of the fleet cannot pass for the authority and spend the token in another's place.
    ///
    /// # Errors
    /// A directory that holds no CA, or that cannot be read.
    pub fn enrol_server(dir: &Path, now: When) -> Result<EnrolServer, IdentityError> {
        let ca = Self::open(dir)?;
        let ends = now.after(ENROL_SERVER_LIFE).min(ca.ca_ends);
        let (leaf, key) = ca.signer.enrolment_leaf(now.before(BACKDATED), ends)?;
        Ok(EnrolServer { chain: vec![leaf, ca.ca_der.clone()], key })
    }

    /// Gives the identity directory `node` the list of the CA in `dir`, if it has an older one of that CA or none. True if it was written.
    ///
    /// # Errors
    /// Files that cannot be read or written.
    pub fn publish_crl(dir: &Path, node: &Path) -> Result<bool, IdentityError> {
        let path = dir.join(super::CRL_FILE);
        let text = |bytes| String::from_utf8(bytes).map_err(|_| IdentityError::content(&path, "is not text"));
        let ours = text(files::read(&path, files::MAX_CRL_BYTES)?)?;
        let (Some(number), Some(issuer)) = (x509::crl_number(&ours), x509::crl_issuer(&ours)) else {
            return Err(IdentityError::content(&path, "holds no revocation list"));
        };
        let target = node.join(super::CRL_FILE);
        let before = files::read_if_there(&target, files::MAX_CRL_BYTES)?.unwrap_or_default();
        let same_ca = |block: &String| x509::crl_issuer(block).as_ref() == Some(&issuer);
        let known = files::pem_blocks(&String::from_utf8_lossy(&before));
        if known.iter().any(|block| same_ca(block) && x509::crl_number(block) >= Some(number)) {
            return Ok(false);
        }
        let (all, _) = bundle(&ours, &target, files::MAX_CRL_BYTES, |block| same_ca(&block.to_owned()))?;
        files::write(&target, all.as_bytes(), 0o644)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
