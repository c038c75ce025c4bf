//! `tokens.json`: which tokens a CA has given out, and what became of them.
//!
//! Invariant: the secret itself is in no file, and a token that was used, was tried with too many wrong secrets or has
//! ended is never open again. Ended ones are kept for a while, so that their owner learns which of these it was.

use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    identity::{
        IdentityError, When, files, sha256,
        token::{TokenId, TokenSecret},
    },
    types::PeerName,
};

/// Its name in the CA's directory.
pub(super) const TOKENS_FILE: &str = "tokens.json";
/// Tokens that are remembered: open ones, and those that ended within [`REMEMBERED`].
const MAX_TOKENS: usize = 1_000;
/// 1 000 records of 400 bytes, twice over.
const MAX_TOKENS_BYTES: u64 = 1 << 20;
/// How long a token that has ended is remembered.
const REMEMBERED: Duration = Duration::from_secs(86_400);
/// Wrong secrets after which a token is dead. Guessing one of 2^160 takes more; a broken client needs no more.
pub(super) const MAX_WRONG: u32 = 10;
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tokens {
    version: u32,
    tokens: Vec<Record>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// [`TokenId`], hex.
    id: String,
    /// SHA-256 of the secret, hex.
    secret_sha256: String,
    pub name: PeerName,
    pub expires: When,
    /// Validity of the certificate.
    pub days: u32,
    /// Whether the node may hold a valid certificate already.
    pub renew: bool,
    wrong: u32,
    used_at: Option<When>,
    /// A later token for the same name has taken its place.
    replaced: bool,
}

/// What stands against the use of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    Unknown,
    WrongSecret,
    TooManyWrong,
    Used(When),
    Replaced,
    Expired(When),
}

impl Record {
    pub fn new((id, secret): (TokenId, &TokenSecret), name: PeerName, expires: When, days: u32, renew: bool) -> Self {
        let secret_sha256 = hex::encode(sha256(&secret.0));
        Self {
            id: hex::encode(id.0),
            secret_sha256,
            name,
            expires,
            days,
            renew,
            wrong: 0,
            used_at: None,
            replaced: false,
        }
    }

    fn is_open(&self, now: When) -> bool {
        self.used_at.is_none() && !self.replaced && self.wrong < MAX_WRONG && now < self.expires
    }

    /// Compares in constant time: how long it takes says nothing of how much was right.
    fn has_secret(&self, secret: &TokenSecret) -> bool {
        let stored = hex::decode(&self.secret_sha256).unwrap_or_default();
        aws_lc_rs::constant_time::verify_slices_are_equal(&stored, &sha256(&secret.0)).is_ok()
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self { version: VERSION, tokens: Vec::new() }
    }
}

impl Tokens {
    /// The tokens of the CA in `dir`; a CA that never gave one out has no file.
    pub fn read(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(TOKENS_FILE);
        let Some(bytes) = files::read_if_there(&path, MAX_TOKENS_BYTES)? else { return Ok(Self::default()) };
        let tokens: Self = serde_json::from_slice(&bytes)
            .map_err(|e| IdentityError::content(&path, format!("is not the list of a CA's tokens: {e}")))?;
        if tokens.version != VERSION {
            let why = format!("has version {}; this program knows {VERSION}", tokens.version);
            return Err(IdentityError::content(path, why));
        }
        Ok(tokens)
    }

    /// On disk, for good, when it returns.
    pub fn write(&self, dir: &Path) -> Result<(), IdentityError> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|e| IdentityError::Crypto { doing: "encode the tokens", why: e.to_string() })?;
        bytes.push(b'\n');
        files::write(&dir.join(TOKENS_FILE), &bytes, 0o600)
    }

    /// Adds one, in place of an open one for the same name, and forgets those that ended long ago. True if there was
    /// such a one; an error if there are too many.
    pub fn add(&mut self, record: Record, now: When) -> Result<bool, IdentityError> {
        self.tokens.retain(|t| now < t.expires.after(REMEMBERED));
        if self.tokens.len() >= MAX_TOKENS {
            return Err(IdentityError::TooManyTokens { max: MAX_TOKENS });
        }
        let mut replaced = false;
        for older in self.tokens.iter_mut().filter(|t| t.name == record.name && t.is_open(now)) {
            older.replaced = true;
            replaced = true;
        }
        self.tokens.push(record);
        Ok(replaced)
    }

    /// Judges a use, and counts it: as the one use, or as a wrong secret. [`Tokens::write`] must follow in any case.
    pub fn claim(
        &mut self,
        id: TokenId,
        secret: &TokenSecret,
        now: When,
        fits: impl FnOnce(&Record) -> Result<(), super::EnrolRefusal>,
    ) -> Result<Record, super::EnrolRefusal> {
        let id = hex::encode(id.0);
        let token = self.tokens.iter_mut().find(|t| t.id == id).ok_or(Unusable::Unknown)?;
        // Before the comparison: a dead token answers no more guesses.
        if token.wrong >= MAX_WRONG {
            return Err(Unusable::TooManyWrong.into());
        }
        if !token.has_secret(secret) {
            token.wrong += 1;
            return Err(Unusable::WrongSecret.into());
        }
        if let Some(at) = token.used_at {
            return Err(Unusable::Used(at).into());
        }
        if token.replaced {
            return Err(Unusable::Replaced.into());
        }
        if now >= token.expires {
            return Err(Unusable::Expired(token.expires).into());
        }
        fits(token)?;
        token.used_at = Some(now);
        Ok(token.clone())
    }

    /// Whether enrolment is served at all: while a token has time left, used or not, so that whoever comes late is told
    /// what became of it.
    pub fn any_in_time(&self, now: When) -> bool {
        self.tokens.iter().any(|t| now < t.expires)
    }

    /// Whether that token may still be used.
    pub fn is_open(&self, id: TokenId, now: When) -> bool {
        let id = hex::encode(id.0);
        self.tokens.iter().any(|t| t.id == id && t.is_open(now))
    }
}
