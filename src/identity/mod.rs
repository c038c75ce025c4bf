//! Who a node is, and how two nodes prove it to each other: mutual TLS 1.3 under one private CA per fleet.
//!
//! Purpose: a connection that comes out of [`handshake`] belongs to a node whose name was verified, and a
//! handshake that fails says why. Invariants: the name is the certificate's URI SAN `zmigrate://node/NAME`,
//! never a host name; every connection is verified anew (no resumption, no tickets) against the newest
//! revocations; a private key that others may read is never used.
//!
//! ```text
//! ca (operator's machine)              node
//! ca.key ca.pem index.json crl.pem     ca.pem node.pem node.key crl.pem
//!        └── issue, revoke ──────────────▶ loaded ─▶ trust + tls ─▶ store (swapped by reload) ─▶ handshake
//! ```
//!
//! **Joining.** A new node makes its key itself and asks the authority with a one-time token ([`join`], [`ca`]); what
//! answers it is the holder of `ca.key`, never another node.
//!
//! **Revocation.** Revocations that are listed are enforced, whatever the age of the list: a CRL past its
//! `nextUpdate` is still used, because a fleet that stops for want of a renewed list is a worse failure than
//! a list that is late. A list that goes back in time (a smaller CRL number) is refused on reload.

pub mod ca;
mod crypto;
mod error;
mod files;
pub mod handshake;
pub mod join;
mod loaded;
mod name;
mod refusal;
mod stamps;
mod store;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod trust;
mod when;

/// How long before its end a certificate is warned of: time enough to notice, and to renew one node.
pub const RENEW_NODE: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);

pub use error::IdentityError;
pub use loaded::LoadedIdentity;
pub use name::{Identity, NODE_URI_PREFIX, Serial, node_uri, peer_identity};
pub use refusal::{HandshakeError, HandshakeRefusal, PeerRefusal};
pub use store::{IdentityStore, Reloaded};
pub use tls::{ALPN, client_config, server_config};
pub use token::{JoinToken, TOKEN_PREFIX, TokenError, TokenId, TokenSecret};
pub use trust::{Trust, TrustedCa, Usage};
pub use when::When;

/// CA certificates of the fleet. Several are allowed, so that a CA can be replaced while the fleet runs.
pub const CA_FILE: &str = "ca.pem";
/// This node's certificate.
pub const CERT_FILE: &str = "node.pem";
/// This node's private key, PKCS#8, mode 0600.
pub const KEY_FILE: &str = "node.key";
/// Revocations: one CRL for each CA in [`CA_FILE`].
pub const CRL_FILE: &str = "crl.pem";

/// SHA-256 of a certificate in DER, as lower case hex: how a CA is recognised by a person.
pub fn fingerprint_sha256(der: &[u8]) -> String {
    hex::encode(sha256(der))
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}
