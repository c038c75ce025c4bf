//! From an identity to TLS configurations: TLS 1.3 only, both sides show certificates, no session is resumed.
//!
//! The crypto provider is named here and no process-wide default is read or set.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{aws_lc_rs, verify_tls13_signature},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::SingleCertAndKey,
    time_provider::TimeProvider,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{
    HandshakeRefusal, IdentityError, LoadedIdentity, Trust,
    trust::{Usage, refuse},
};
use crate::types::PeerName;

/// The protocol's name in TLS' ALPN extension (RFC 7301).
pub const ALPN: &[u8] = b"zmigrate/1";

/// The configuration of the side that answers.
///
/// # Errors
/// Only if the TLS library refuses its own defaults.
pub fn server_config(id: &LoadedIdentity, time: Arc<dyn TimeProvider>) -> Result<ServerConfig, IdentityError> {
    let mut config = ServerConfig::builder_with_details(Arc::new(aws_lc_rs::default_provider()), time)
        .with_protocol_versions(&[&TLS13])
        .map_err(crypto)?
        .with_client_cert_verifier(Arc::new(Verifier { trust: id.trust.clone(), expected: None }))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(id.key.clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Each connection is judged anew, so a revocation counts for the very next one.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The configuration of the side that dials. With `expected` the server must be that node; without, any node
/// of the fleet will do, and the caller reports which it was.
///
/// # Errors
/// Only if the TLS library refuses its own defaults.
pub fn client_config(
    id: &LoadedIdentity,
    expected: Option<PeerName>,
    time: Arc<dyn TimeProvider>,
) -> Result<ClientConfig, IdentityError> {
    let mut config = ClientConfig::builder_with_details(Arc::new(aws_lc_rs::default_provider()), time)
        .with_protocol_versions(&[&TLS13])
        .map_err(crypto)?
        .dangerous() // rustls' word for any verifier but its own, which knows host names only
        .with_custom_certificate_verifier(Arc::new(Verifier { trust: id.trust.clone(), expected }))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(id.key.clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    // The name is in the certificate's URI; a host name would only tell listeners something.
    config.enable_sni = false;
    Ok(config)
}

pub(super) fn crypto(error: rustls::Error) -> IdentityError {
    IdentityError::Crypto { doing: "set up TLS 1.3", why: error.to_string() }
}

#[derive(Debug)]
struct Verifier {
    trust: Arc<Trust>,
    expected: Option<PeerName>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _host_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let got = self.trust.verify(end_entity, intermediates, Usage::Server, now)?.name;
        match &self.expected {
            Some(expected) if *expected != got => {
                Err(refuse(HandshakeRefusal::WrongName { expected: expected.clone(), got }))
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, self.trust.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A node has one certificate: there is nothing to choose, and no need to tell strangers our CA's name.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.trust.verify(end_entity, intermediates, Usage::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, self.trust.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms().supported_schemes()
    }
}

pub(super) fn tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken here".to_owned())
}
