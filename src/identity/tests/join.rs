//! TLS between a node that joins and the authority, and what neither lets through.

use std::{fs, sync::Arc};

use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::fleet::{Fleet, START};
use crate::identity::{
    ALPN, HandshakeError, HandshakeRefusal, IdentityStore, PeerRefusal,
    ca::{Ca, EnrolServer, OnExisting},
    handshake::{self, Incoming},
    join::{JOIN_ALPN, connect, enrol_server_config},
    sha256,
};

fn ca_der(fleet: &Fleet, ca: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(fleet.ca(ca).join("ca.pem")).unwrap()
}

fn config_of(server: EnrolServer) -> Arc<ServerConfig> {
    Arc::new(enrol_server_config(server).unwrap())
}

fn authority(fleet: &Fleet, ca: &str) -> Arc<ServerConfig> {
    config_of(Ca::enrol_server(&fleet.ca(ca), START).unwrap())
}

/// What the node and the daemon see when the node dials with the fingerprint of `ca`.
async fn join(
    fleet: &Fleet,
    store: &IdentityStore,
    ca: &str,
    joining: Option<Arc<ServerConfig>>,
) -> (Result<(), HandshakeError>, Result<&'static str, HandshakeError>) {
    let (a, b) = duplex(1 << 16);
    let dial = async {
        let mut stream = connect(sha256(&ca_der(fleet, ca)), fleet.clock.clone(), a).await?;
        stream.write_all(b"?").await.map_err(HandshakeError::from_io)?;
        stream.flush().await.map_err(HandshakeError::from_io)?;
        stream.read_exact(&mut [0]).await.map(drop).map_err(HandshakeError::from_io)
    };
    let answer = async {
        Ok(match handshake::accept_or_enrol(store, b, async { joining }).await? {
            Incoming::Node(..) => "node",
            Incoming::Joining(mut stream) => {
                stream.read_exact(&mut [0]).await.map_err(HandshakeError::from_io)?;
                stream.write_all(b"!").await.map_err(HandshakeError::from_io)?;
                stream.flush().await.map_err(HandshakeError::from_io)?;
                "joining"
            }
        })
    };
    tokio::join!(dial, answer)
}

fn refusal<T: std::fmt::Debug>(seen: Result<T, HandshakeError>) -> HandshakeRefusal {
    match seen {
        Err(HandshakeError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_that_joins_is_answered_by_the_authority_alone() {
    let fleet = Fleet::new();
    let west = fleet.issue("west");
    let (node, daemon) = join(&fleet, &west, "ca", Some(authority(&fleet, "ca"))).await;
    node.unwrap();
    assert_eq!(daemon.unwrap(), "joining");
    // Nobody is to be let in: as without an authority.
    let (node, daemon) = join(&fleet, &west, "ca", None).await;
    assert_eq!(refusal(daemon), HandshakeRefusal::OtherProtocol);
    let told = node.unwrap_err();
    let expected = rustls::AlertDescription::NoApplicationProtocol;
    assert!(matches!(told, HandshakeError::RefusedByPeer(PeerRefusal(alert)) if alert == expected), "{told}");
}

#[tokio::test]
async fn another_fingerprint_is_a_man_in_the_middle() {
    let fleet = Fleet::new();
    let west = fleet.issue("west");
    Ca::init(&fleet.ca("other"), 3650, START).unwrap();
    let (node, daemon) = join(&fleet, &west, "ca", Some(authority(&fleet, "other"))).await;
    assert_eq!(refusal(node), HandshakeRefusal::OtherAuthority);
    assert!(daemon.is_err());
    // Who shows the right CA's certificate, which is public, beside one of its own.
    let forged = Ca::enrol_server(&fleet.ca("other"), START).unwrap();
    let chain = vec![forged.chain[0].clone(), ca_der(&fleet, "ca")];
    let (node, _) = join(&fleet, &west, "ca", Some(config_of(EnrolServer { chain, key: forged.key }))).await;
    assert_eq!(refusal(node), HandshakeRefusal::OtherAuthority);
}

#[tokio::test]
async fn a_node_of_the_fleet_cannot_pass_for_the_authority() {
    let fleet = Fleet::new();
    let west = fleet.issue("west");
    let chain = vec![CertificateDer::from_pem_file(fleet.node("west").join("node.pem")).unwrap(), ca_der(&fleet, "ca")];
    let key = PrivateKeyDer::from_pem_file(fleet.node("west").join("node.key")).unwrap();
    let (node, _) = join(&fleet, &west, "ca", Some(config_of(EnrolServer { chain, key }))).await;
    assert_eq!(refusal(node), HandshakeRefusal::NotTheAuthority);
}

#[tokio::test]
async fn the_authoritys_certificate_is_no_nodes_and_ends_soon() {
    let fleet = Fleet::new();
    let west = fleet.issue("west");
    let server = Ca::enrol_server(&fleet.ca("ca"), START).unwrap();
    // As a server of the fleet.
    let mut config = (*authority(&fleet, "ca")).clone();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let (a, b) = duplex(1 << 16);
    let (dialled, _) = tokio::join!(handshake::connect(&west, a, None), async {
        tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(b).await.map(drop)
    });
    assert!(matches!(refusal(dialled.map(drop)), HandshakeRefusal::NotANode { .. }));
    assert!(west.verify_again(&server.chain, true).is_err(), "it may not dial at all");
    let config = config_of(server);
    fleet.clock.set(START.after(std::time::Duration::from_secs(3_601)));
    let (node, _) = join(&fleet, &west, "ca", Some(config)).await;
    assert!(matches!(refusal(node), HandshakeRefusal::Expired { .. }));
}

#[tokio::test]
async fn where_joins_are_served_nodes_are_judged_as_ever() {
    let fleet = Fleet::new();
    let (east, west) = (fleet.issue("east"), fleet.issue("west"));
    let open = || async { Some(authority(&fleet, "ca")) };
    let (a, b) = duplex(1 << 16);
    let (dialled, arrived) =
        tokio::join!(handshake::connect(&east, a, None), handshake::accept_or_enrol(&west, b, open()));
    dialled.unwrap();
    assert!(matches!(arrived, Ok(Incoming::Node(_, identity)) if identity == east.own()));
    // Without a certificate and without asking to join: refused, and also with both protocols there is only enrolment.
    for (names, joins) in [(vec![ALPN], false), (vec![ALPN, JOIN_ALPN], true), (vec![], false)] {
        let mut client = super::fleet::raw_client(None, false);
        client.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
        let (a, b) = duplex(1 << 16);
        let dial = async {
            let name = "zmigrate".try_into().unwrap();
            let mut stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, a).await?;
            stream.read_exact(&mut [0]).await.map(drop)
        };
        let (_, arrived) = tokio::join!(dial, async {
            match handshake::accept_or_enrol(&west, b, open()).await {
                Ok(Incoming::Joining(_)) => Ok(()),
                Ok(Incoming::Node(..)) => panic!("{names:?} came out as a node"),
                Err(e) => Err(e),
            }
        });
        match joins {
            true => arrived.unwrap(),
            false => assert_eq!(refusal(arrived), HandshakeRefusal::NoClientCertificate, "{names:?}"),
        }
    }
    // What is not TLS is called so here as well.
    let (mut a, b) = duplex(1 << 16);
    a.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(refusal(handshake::accept_or_enrol(&west, b, open()).await.map(drop)), HandshakeRefusal::NotTls);
}

#[test]
fn changed_files_are_noticed_and_bad_ones_are_told_once() {
    let fleet = Fleet::new();
    let (east, west) = (fleet.issue("east"), fleet.issue("west"));
    assert!(west.refresh().is_none(), "nothing has changed");
    let crl = fleet.node("west").join("crl.pem");
    let good = fs::read(&crl).unwrap();
    fs::write(&crl, &good[..good.len() / 2]).unwrap();
    assert!(matches!(west.refresh(), Some(Err(_))));
    assert!(west.refresh().is_none(), "it was told");
    fs::write(&crl, b"").unwrap();
    assert!(matches!(west.refresh(), Some(Err(_))), "another change is another line");
    Ca::revoke(&fleet.ca("ca"), &"east".parse().unwrap(), START).unwrap();
    fs::copy(fleet.ca("ca").join("crl.pem"), &crl).unwrap();
    assert!(!west.is_revoked(&east.own().serial));
    assert!(matches!(west.refresh(), Some(Ok(_))));
    assert!(west.is_revoked(&east.own().serial));
    fleet.issue_from("ca", "west", 365, START, OnExisting::Renew);
    assert!(matches!(west.refresh(), Some(Ok(reloaded)) if reloaded.new_certificate));
    assert!(west.refresh().is_none());
}
