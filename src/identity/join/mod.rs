//! TLS between a node that joins and the authority: the node has no certificate yet, and knows of the authority only the
//! fingerprint in its token.
//!
//! Invariant: the node sends nothing before the server has proved that it holds the key of a certificate that the CA
//! of the token issued for enrolment alone ([`ENROL_URI`]). No node of the fleet has such a one. The other way round, a
//! connection of this kind comes out as a bare TLS stream, with which nothing can be reached but enrolment.

mod pending;

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature},
    server::NoServerSessionStorage,
    time_provider::TimeProvider,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

pub use self::pending::{Joined, NewIdentity, PendingIdentity};
use super::{
    HandshakeError, HandshakeRefusal, IdentityError,
    ca::EnrolServer,
    sha256,
    tls::{crypto, tls12},
    trust::{refuse, rustls_error},
};

/// The protocol's name in TLS' ALPN extension.
pub const JOIN_ALPN: &[u8] = b"zmigrate-join/1";
/// The only name in the certificate of the side that answers. It is no node's.
pub const ENROL_URI: &str = "zmigrate://enrol";

/// The configuration of the authority: it shows its certificate and asks for none.
///
/// # Errors
/// Only if the TLS library refuses its own defaults.
pub fn enrol_server_config(server: EnrolServer) -> Result<ServerConfig, IdentityError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(crypto)?
        .with_no_client_auth()
        .with_single_cert(server.chain, server.key)
        .map_err(crypto)?;
    config.alpn_protocols = vec![JOIN_ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Answers a node that joins, where nothing else is answered.
///
/// # Errors
/// Why this side refused the peer, or the peer this side.
pub async fn accept<S>(config: Arc<ServerConfig>, stream: S) -> Result<server::TlsStream<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = TlsAcceptor::from(config).accept(stream).await.map_err(HandshakeError::from_io)?;
    if stream.get_ref().1.alpn_protocol() != Some(JOIN_ALPN) {
        return Err(HandshakeRefusal::OtherProtocol.into());
    }
    Ok(stream)
}

/// Dials the authority whose CA has that fingerprint.
///
/// # Errors
/// Why this side refused the peer, or the peer this side.
pub async fn connect<S>(
    ca_fingerprint: [u8; 32],
    time: Arc<dyn TimeProvider>,
    stream: S,
) -> Result<client::TlsStream<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let other = |e: String| HandshakeError::Refused(HandshakeRefusal::Other(e));
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_details(Arc::new(aws_lc_rs::default_provider()), time)
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| other(e.to_string()))?
        .dangerous() // rustls' word for any verifier but its own, which knows host names only
        .with_custom_certificate_verifier(Arc::new(AuthorityVerifier { ca_fingerprint, algorithms }))
        .with_no_client_auth();
    config.alpn_protocols = vec![JOIN_ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    let unused = ServerName::try_from("zmigrate").map_err(|e| other(e.to_string()))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(unused, stream).await.map_err(HandshakeError::from_io)?;
    if stream.get_ref().1.alpn_protocol() != Some(JOIN_ALPN) {
        return Err(HandshakeRefusal::OtherProtocol.into());
    }
    Ok(stream)
}

#[derive(Debug)]
struct AuthorityVerifier {
    ca_fingerprint: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AuthorityVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _host_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|cert| sha256(cert) == self.ca_fingerprint)
            .ok_or_else(|| refuse(HandshakeRefusal::OtherAuthority))?;
        let anchor = webpki::anchor_from_trusted_cert(ca).map_err(rustls_error)?;
        EndEntityCert::try_from(end_entity)
            .and_then(|cert| {
                let usage = KeyUsage::server_auth();
                cert.verify_for_usage(self.algorithms.all, &[anchor], &[], now, usage, None, None).map(drop)
            })
            .map_err(|e| match e {
                // It shows our CA's certificate, which is public, and has none that this CA issued.
                webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                    refuse(HandshakeRefusal::OtherAuthority)
                }
                other => rustls_error(other),
            })?;
        if !is_for_enrolment(end_entity) {
            return Err(refuse(HandshakeRefusal::NotTheAuthority));
        }
        Ok(ServerCertVerified::assertion())
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
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// True if the certificate holds one name, [`ENROL_URI`].
fn is_for_enrolment(cert: &CertificateDer<'_>) -> bool {
    let Ok((_, cert)) = X509Certificate::from_der(cert) else { return false };
    let Ok(Some(names)) = cert.subject_alternative_name() else { return false };
    matches!(names.value.general_names.as_slice(), [GeneralName::URI(uri)] if *uri == ENROL_URI)
}
