//! A CA and nodes in a temporary directory, under one clock that is held still.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::{ClientConfig, time_provider::TimeProvider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use tempfile::TempDir;

use crate::identity::{
    ALPN, IdentityStore, When,
    ca::{Ca, IssueRequest, OnExisting},
};

/// 2026-01-01.
pub(super) const START: When = When::from_unix_s_const(1_767_225_600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug)]
pub(super) struct HeldClock(AtomicU64);

impl HeldClock {
    fn at(when: When) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(when.unix_s())))
    }
    pub(super) fn set(&self, when: When) {
        self.0.store(when.unix_s(), Ordering::SeqCst);
    }
}

impl TimeProvider for HeldClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::SeqCst))))
    }
}

pub(super) struct Fleet {
    root: TempDir,
    pub(super) clock: Arc<HeldClock>,
}

impl Fleet {
    pub(super) fn new() -> Self {
        let fleet = Self { root: tempfile::tempdir().unwrap(), clock: HeldClock::at(START) };
        Ca::init(&fleet.ca("ca"), 3650, START).unwrap();
        fleet
    }

    pub(super) fn ca(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(super) fn node(&self, name: &str) -> PathBuf {
        self.root.path().join(format!("node-{name}"))
    }

    pub(super) fn issue_from(&self, ca: &str, name: &str, days: u32, now: When, on_existing: OnExisting) {
        let request = IssueRequest { name: name.parse().unwrap(), out_dir: self.node(name), days, on_existing };
        Ca::issue(&self.ca(ca), &request, now).unwrap();
    }

    pub(super) fn issue(&self, name: &str) -> IdentityStore {
        self.issue_from("ca", name, 365, START, OnExisting::Refuse);
        self.open(name)
    }

    pub(super) fn open(&self, name: &str) -> IdentityStore {
        IdentityStore::open_at(&self.node(name), self.clock.clone()).unwrap()
    }

    /// A TLS client with a certificate of the fleet's CA that `ca issue` would not make.
    pub(super) fn odd_client(&self, params: impl FnOnce(&mut CertificateParams)) -> ClientConfig {
        let text = |file: &str| fs::read_to_string(self.ca("ca").join(file)).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&text("ca.pem"), KeyPair::from_pem(&text("ca.key")).unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut cert = CertificateParams::default();
        cert.distinguished_name.push(DnType::CommonName, "dc1");
        cert.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params(&mut cert);
        let cert = cert.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        raw_client(Some((cert.der().clone(), key)), true)
    }
}

/// A client that believes every server: only what the server says of it matters.
pub(super) fn raw_client(
    cert: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    with_alpn: bool,
) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = verifier::TrustAll(provider.signature_verification_algorithms);
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match cert {
        Some((cert, key)) => config.with_client_auth_cert(vec![cert], key).unwrap(),
        None => config.with_no_client_auth(),
    };
    if with_alpn {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    config
}

mod verifier {
    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::WebPkiSupportedAlgorithms,
    };
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    #[derive(Debug)]
    pub struct TrustAll(pub WebPkiSupportedAlgorithms);

    impl ServerCertVerifier for TrustAll {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_schemes()
        }
    }
}
