//! Real handshakes over an in-memory pipe, with the clock held still.

mod fleet;
mod join;

use std::{fs, path::Path, sync::Arc, time::Duration};

use rcgen::{ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::TlsConnector;

use self::fleet::{DAY, Fleet, START, raw_client};
use super::{
    ca::{Ca, OnExisting},
    *,
};
use crate::types::PeerName;

fn peer(name: &str) -> PeerName {
    name.parse().unwrap()
}

type Seen = Result<Identity, HandshakeError>;

/// Both sides' outcome. The client's includes its first read, where a TLS 1.3 server's refusal arrives.
async fn shake(client: &IdentityStore, server: &IdentityStore, expected: Option<&str>) -> (Seen, Seen) {
    let (a, b) = duplex(1 << 16);
    let expected = expected.map(peer);
    let dial = async {
        let (mut stream, identity) = handshake::connect(client, a, expected.as_ref()).await?;
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await.map_err(HandshakeError::from_io)?;
        Ok(identity)
    };
    let answer = async {
        let (mut stream, identity) = handshake::accept(server, b).await?;
        stream.write_all(b"!").await.unwrap();
        stream.flush().await.unwrap();
        Ok(identity)
    };
    tokio::join!(dial, answer)
}

async fn shake_raw(client: ClientConfig, server: &IdentityStore) -> (Result<(), HandshakeError>, Seen) {
    let (a, b) = duplex(1 << 16);
    let dial = async {
        let name = ServerName::try_from("x").unwrap();
        let mut stream =
            TlsConnector::from(Arc::new(client)).connect(name, a).await.map_err(HandshakeError::from_io)?;
        stream.read_exact(&mut [0; 1]).await.map_err(HandshakeError::from_io)?;
        Ok(())
    };
    let answer = async { handshake::accept(server, b).await.map(|(_, identity)| identity) };
    tokio::join!(dial, answer)
}

fn refused(seen: Seen) -> HandshakeRefusal {
    match seen {
        Err(HandshakeError::Refused(refusal)) => {
            assert!(!refusal.hint().is_empty());
            refusal
        }
        other => panic!("expected a refusal, saw {other:?}"),
    }
}

fn told<T: std::fmt::Debug>(seen: Result<T, HandshakeError>) -> String {
    match seen {
        Err(HandshakeError::RefusedByPeer(refusal)) => refusal.to_string(),
        other => panic!("expected the peer's refusal, saw {other:?}"),
    }
}

#[tokio::test]
async fn two_nodes_of_a_fleet_learn_each_others_names() {
    let fleet = Fleet::new();
    let (dc1, dc2) = (fleet.issue("dc1"), fleet.issue("dc2"));
    for expected in [Some("dc2"), None] {
        let (client, server) = shake(&dc1, &dc2, expected).await;
        assert_eq!(client.unwrap(), dc2.own());
        assert_eq!(server.unwrap(), dc1.own());
    }
}

#[tokio::test]
async fn nothing_is_resumed_and_nothing_but_tls13_is_spoken() {
    let fleet = Fleet::new();
    let (dc1, dc2) = (fleet.issue("dc1"), fleet.issue("dc2"));
    for _ in 0..2 {
        let (a, b) = duplex(1 << 16);
        let dial = async {
            let (mut stream, _) = handshake::connect(&dc1, a, None).await.unwrap();
            stream.read_exact(&mut [0; 1]).await.unwrap();
            let tls = stream.get_ref().1;
            assert_eq!(tls.tls13_tickets_received(), 0);
            assert_eq!(tls.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
            assert_eq!(tls.handshake_kind(), Some(rustls::HandshakeKind::Full));
        };
        let answer = async {
            let (mut stream, _) = handshake::accept(&dc2, b).await.unwrap();
            stream.write_all(b"!").await.unwrap();
            stream.flush().await.unwrap();
        };
        tokio::join!(dial, answer);
    }
}

#[tokio::test]
async fn an_expired_client_is_refused_and_told_so() {
    let fleet = Fleet::new();
    fleet.issue_from("ca", "dc1", 10, START, OnExisting::Refuse);
    let (dc1, dc2) = (fleet.open("dc1"), fleet.issue("dc2"));
    let now = START.after(11 * DAY);
    fleet.clock.set(now);
    let (client, server) = shake(&dc1, &dc2, None).await;
    assert_eq!(refused(server), HandshakeRefusal::Expired { since: START.after(10 * DAY), now });
    assert_eq!(told(client), "the peer refused our certificate: it says it is expired, or not yet valid");
    // The other way round the client is the one that refuses.
    let (client, server) = shake(&dc2, &dc1, None).await;
    assert_eq!(refused(client), HandshakeRefusal::Expired { since: START.after(10 * DAY), now });
    assert_eq!(told(server), "the peer refused our certificate: it says it is expired, or not yet valid");
}

#[tokio::test]
async fn a_clock_that_is_behind_is_named_as_the_cause() {
    let fleet = Fleet::new();
    let (dc1, dc2) = (fleet.issue("dc1"), fleet.issue("dc2"));
    // Backdating covers nine minutes, not an hour.
    fleet.clock.set(START.before(Duration::from_secs(9 * 60)));
    shake(&dc1, &dc2, None).await.1.unwrap();
    let now = START.before(Duration::from_secs(3_600 + 600));
    fleet.clock.set(now);
    let (client, _) = shake(&dc1, &dc2, None).await;
    let refusal = refused(client);
    assert_eq!(refusal, HandshakeRefusal::NotYetValid { from: START.before(ca::BACKDATED), now });
    assert!(refusal.hint().contains("60 min behind"), "{}", refusal.hint());
}

#[tokio::test]
async fn a_node_of_another_fleet_is_refused_by_both_sides() {
    let fleet = Fleet::new();
    let dc2 = fleet.issue("dc2");
    Ca::init(&fleet.ca("other"), 3650, START).unwrap();
    fleet.issue_from("other", "dc1", 365, START, OnExisting::Refuse);
    let stranger = fleet.open("dc1");
    let (client, server) = shake(&stranger, &dc2, None).await;
    assert_eq!(refused(client), HandshakeRefusal::UnknownCa);
    assert_eq!(told(server), "the peer refused our certificate: it says it does not know the CA that issued it");
    // A stranger that believes everyone gets no further.
    let pem = |file: &str| fs::read(fleet.node("dc1").join(file)).unwrap();
    let cert = CertificateDer::from_pem_slice(&pem("node.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&pem("node.key")).unwrap();
    let (client, server) = shake_raw(raw_client(Some((cert, key)), true), &dc2).await;
    assert_eq!(refused(server), HandshakeRefusal::UnknownCa);
    assert_eq!(told(client), "the peer refused our certificate: it says it does not know the CA that issued it");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let fleet = Fleet::new();
    let dc2 = fleet.issue("dc2");
    let (client, server) = shake_raw(raw_client(None, true), &dc2).await;
    assert_eq!(refused(server), HandshakeRefusal::NoClientCertificate);
    assert_eq!(told(client), "the peer refused our certificate: it says it was shown none");
}

#[tokio::test]
async fn another_node_than_the_expected_one_is_refused_by_name() {
    let fleet = Fleet::new();
    let (dc1, dc2) = (fleet.issue("dc1"), fleet.issue("dc2"));
    let (client, server) = shake(&dc1, &dc2, Some("dc3")).await;
    let refusal = refused(client);
    assert_eq!(refusal, HandshakeRefusal::WrongName { expected: peer("dc3"), got: peer("dc2") });
    assert_eq!(refusal.to_string(), "the node at this address is dc2, not dc3");
    assert_eq!(told(server), "the peer refused our certificate: it says it does not name the node that it expects");
}

#[tokio::test]
async fn only_one_well_formed_uri_names_a_node() {
    let fleet = Fleet::new();
    let dc2 = fleet.issue("dc2");
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
    let bad: Vec<Vec<SanType>> = vec![
        vec![], // a common name alone
        vec![dns("dc1")],
        vec![uri("zmigrate://node/")],
        vec![uri("zmigrate://node/a/b")],
        vec![uri("zmigrate://nodes/dc1")],
        vec![uri("https://node/dc1")],
        vec![uri("zmigrate://node/dc1"), uri("zmigrate://node/dc2")],
        vec![uri("zmigrate://node/dc1"), uri("zmigrate://node/dc1")],
        vec![uri("zmigrate://node/dc1"), uri("https://elsewhere")],
    ];
    for names in bad {
        let client = fleet.odd_client(|params| params.subject_alt_names = names.clone());
        let (_, server) = shake_raw(client, &dc2).await;
        let refusal = refused(server);
        assert!(matches!(refusal, HandshakeRefusal::NotANode { .. }), "{names:?}: {refusal:?}");
    }
    let client = fleet.odd_client(|params| params.subject_alt_names = vec![uri("zmigrate://node/dc1"), dns("x.y")]);
    assert_eq!(shake_raw(client, &dc2).await.1.unwrap().name, peer("dc1"));
}

#[tokio::test]
async fn a_certificate_for_servers_alone_cannot_dial() {
    let fleet = Fleet::new();
    let dc2 = fleet.issue("dc2");
    let client = fleet.odd_client(|params| {
        params.subject_alt_names = vec![SanType::URI("zmigrate://node/dc1".try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let (client, server) = shake_raw(client, &dc2).await;
    assert!(matches!(refused(server), HandshakeRefusal::Other(_)));
    assert_eq!(told(client), "the peer refused our certificate: it says it may not be used for this");
}

#[tokio::test]
async fn a_client_that_names_no_protocol_is_refused() {
    let fleet = Fleet::new();
    let dc2 = fleet.issue("dc2");
    fleet.issue_from("ca", "dc1", 365, START, OnExisting::Refuse);
    let pem = |file: &str| fs::read(fleet.node("dc1").join(file)).unwrap();
    let cert = CertificateDer::from_pem_slice(&pem("node.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&pem("node.key")).unwrap();
    let (_, server) = shake_raw(raw_client(Some((cert.clone(), key.clone_key())), false), &dc2).await;
    assert_eq!(refused(server), HandshakeRefusal::OtherProtocol);
    let mut other = raw_client(Some((cert, key)), true);
    other.alpn_protocols = vec![b"h2".to_vec()];
    let (client, server) = shake_raw(other, &dc2).await;
    assert_eq!(refused(server), HandshakeRefusal::OtherProtocol);
    assert_eq!(told(client), "the peer does not speak zmigrate/1 over TLS 1.3");
}

#[tokio::test]
async fn what_is_not_tls_is_called_so() {
    let fleet = Fleet::new();
    let dc2 = fleet.issue("dc2");
    for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.6\r\n", &[0xff; 64]] {
        let (mut a, b) = duplex(1 << 16);
        a.write_all(garbage).await.unwrap();
        let seen = handshake::accept(&dc2, b).await.map(|(_, identity)| identity);
        assert_eq!(refused(seen), HandshakeRefusal::NotTls, "{garbage:?}");
    }
    let (mut a, b) = duplex(1 << 16);
    a.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await.unwrap();
    let seen = handshake::connect(&dc2, b, None).await.map(|(_, identity)| identity);
    assert_eq!(refused(seen), HandshakeRefusal::NotTls);
    // A peer that goes away has refused nobody.
    let (a, b) = duplex(1 << 16);
    drop(a);
    let seen = handshake::accept(&dc2, b).await.map(|(_, identity)| identity);
    assert!(matches!(&seen, Err(e @ HandshakeError::Io(_)) if e.is_transient()), "{seen:?}");
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
}

#[tokio::test]
async fn a_revoked_node_is_refused_after_a_reload_and_its_sessions_can_be_found() {
    let fleet = Fleet::new();
    let (dc1, dc2) = (fleet.issue("dc1"), fleet.issue("dc2"));
    let open = shake(&dc1, &dc2, None).await.1.unwrap();
    assert!(!dc2.is_revoked(&open.serial));
    Ca::revoke(&fleet.ca("ca"), &peer("dc1"), START).unwrap();
    // Not before the list is there.
    shake(&dc1, &dc2, None).await.1.unwrap();
    copy(&fleet.ca("ca").join("crl.pem"), &fleet.node("dc2").join("crl.pem"));
    assert!(!dc2.reload().unwrap().new_certificate);
    assert!(dc2.is_revoked(&open.serial));
    assert!(!dc2.is_revoked(&dc2.own().serial));
    let (client, server) = shake(&dc1, &dc2, None).await;
    assert_eq!(refused(server), HandshakeRefusal::Revoked);
    assert_eq!(told(client), "the peer refused our certificate: it says it is revoked");
    let (client, _) = shake(&dc2, &dc1, None).await;
    assert_eq!(refused(client), HandshakeRefusal::Revoked);
    let chain = CertificateDer::from_pem_slice(&fs::read(fleet.node("dc1").join("node.pem")).unwrap()).unwrap();
    assert_eq!(refused(dc2.verify_again(&[chain], true)), HandshakeRefusal::Revoked);
}

#[tokio::test]
async fn what_has_expired_since_is_judged_by_what_else_there_is() {
    let fleet = Fleet::new();
    let (dc1, dc2) = (fleet.issue("dc1"), fleet.issue("dc2"));
    shake(&dc1, &dc2, None).await.1.unwrap();
    let chain = [CertificateDer::from_pem_slice(&fs::read(fleet.node("dc1").join("node.pem")).unwrap()).unwrap()];
    let list = |name: &str| copy(&fleet.ca(name).join("crl.pem"), &fleet.node("dc2").join("crl.pem"));
    Ca::revoke(&fleet.ca("ca"), &peer("dc1"), START).unwrap();
    fleet.clock.set(START.after(366 * DAY));
    dc2.verify_again(&chain, true).unwrap();
    list("ca");
    dc2.reload().unwrap();
    assert_eq!(refused(dc2.verify_again(&chain, true)), HandshakeRefusal::Revoked);
    // So is one whose authority counts no more.
    Ca::init(&fleet.ca("new"), 3650, START).unwrap();
    fleet.issue_from("new", "dc2", 365, START, OnExisting::Renew);
    copy(&fleet.ca("new").join("ca.pem"), &fleet.node("dc2").join("ca.pem"));
    list("new");
    dc2.reload().unwrap();
    assert_eq!(refused(dc2.verify_again(&chain, true)), HandshakeRefusal::UnknownCa);
}

#[tokio::test]
async fn an_old_list_still_counts_and_stops_nobody() {
    let fleet = Fleet::new();
    let (dc1, dc2, dc3) = (fleet.issue("dc1"), fleet.issue("dc2"), fleet.issue("dc3"));
    let text = |file: &str| fs::read_to_string(fleet.ca("ca").join(file)).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&text("ca.pem"), KeyPair::from_pem(&text("ca.key")).unwrap()).unwrap();
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2026, 1, 1),
        next_update: rcgen::date_time_ymd(2026, 1, 2),
        crl_number: 7.into(),
        issuing_distribution_point: None,
        revoked_certs: vec![rcgen::RevokedCertParams {
            serial_number: rcgen::SerialNumber::from_slice(dc3.own().serial.as_bytes()),
            revocation_time: rcgen::date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    fs::write(fleet.node("dc2").join("crl.pem"), list.signed_by(&issuer).unwrap().pem().unwrap()).unwrap();
    dc2.reload().unwrap();
    // 99 days past its nextUpdate.
    fleet.clock.set(START.after(100 * DAY));
    shake(&dc1, &dc2, None).await.1.unwrap();
    assert_eq!(refused(shake(&dc3, &dc2, None).await.1), HandshakeRefusal::Revoked);
}

#[tokio::test]
async fn a_reload_that_fails_or_goes_back_in_time_changes_nothing() {
    let fleet = Fleet::new();
    let (dc1, dc2) = (fleet.issue("dc1"), fleet.issue("dc2"));
    let old_crl = fs::read(fleet.ca("ca").join("crl.pem")).unwrap();
    Ca::revoke(&fleet.ca("ca"), &peer("dc1"), START).unwrap();
    let crl = fleet.node("dc2").join("crl.pem");
    copy(&fleet.ca("ca").join("crl.pem"), &crl);
    dc2.reload().unwrap();
    let new_crl = fs::read(&crl).unwrap();

    fs::write(&crl, &old_crl).unwrap();
    assert!(matches!(dc2.reload(), Err(IdentityError::OlderCrl { .. })));
    fs::write(&crl, b"").unwrap();
    assert!(matches!(dc2.reload(), Err(IdentityError::Content { .. })));
    fs::remove_file(&crl).unwrap();
    assert!(matches!(dc2.reload(), Err(IdentityError::Io { .. })));
    // A list of that CA's name, signed by someone else.
    let mut forged = new_crl.clone();
    let text = String::from_utf8(forged.clone()).unwrap();
    let at = text.find("-----END").unwrap() - 8;
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    fs::write(&crl, &forged).unwrap();
    assert!(matches!(dc2.reload(), Err(IdentityError::Content { .. })));

    assert!(dc2.is_revoked(&dc1.own().serial));
    assert_eq!(refused(shake(&dc1, &dc2, None).await.1), HandshakeRefusal::Revoked);
    fs::write(&crl, &new_crl).unwrap();
    dc2.reload().unwrap();
}

#[tokio::test]
async fn a_fleet_changes_its_ca_without_a_break() {
    let fleet = Fleet::new();
    let (dc1, dc2) = (fleet.issue("dc1"), fleet.issue("dc2"));
    Ca::init(&fleet.ca("new"), 3650, START).unwrap();
    let both = [fs::read(fleet.ca("ca").join("ca.pem")).unwrap(), fs::read(fleet.ca("new").join("ca.pem")).unwrap()];
    for (name, store) in [("dc1", &dc1), ("dc2", &dc2)] {
        fs::write(fleet.node(name).join("ca.pem"), both.concat()).unwrap();
        store.reload().unwrap();
    }
    shake(&dc1, &dc2, Some("dc2")).await.1.unwrap();
    // dc1 moves to the new CA; its ca.pem keeps the old one.
    fleet.issue_from("new", "dc1", 365, START, OnExisting::Renew);
    assert!(dc1.reload().unwrap().new_certificate);
    let (client, server) = shake(&dc1, &dc2, Some("dc2")).await;
    client.unwrap();
    assert_eq!(server.unwrap(), dc1.own());
    shake(&dc2, &dc1, Some("dc1")).await.1.unwrap();
    // Revocations of either CA count.
    Ca::revoke(&fleet.ca("new"), &peer("dc1"), START).unwrap();
    let lists = [fs::read(fleet.ca("ca").join("crl.pem")).unwrap(), fs::read(fleet.ca("new").join("crl.pem")).unwrap()];
    fs::write(fleet.node("dc2").join("crl.pem"), lists.concat()).unwrap();
    dc2.reload().unwrap();
    assert_eq!(refused(shake(&dc1, &dc2, None).await.1), HandshakeRefusal::Revoked);
    // A node whose own CA was dropped from ca.pem does not load.
    fs::write(fleet.node("dc2").join("ca.pem"), &both[1]).unwrap();
    assert!(matches!(dc2.reload(), Err(IdentityError::NotOurCa { .. })));
}

#[test]
fn files_that_do_not_fit_each_other_do_not_load() {
    use std::os::unix::fs::PermissionsExt;
    let fleet = Fleet::new();
    let (_, dir) = (fleet.issue("dc1"), fleet.node("dc1"));
    fleet.issue("dc2");
    let read = || LoadedIdentity::read(&dir);
    let saved = |file: &str| (dir.join(file), fs::read(dir.join(file)).unwrap());

    let (key, bytes) = saved("node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(read(), Err(IdentityError::OpenKey { mode: 0o640, .. })));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, fs::read(fleet.node("dc2").join("node.key")).unwrap()).unwrap();
    assert!(matches!(read(), Err(IdentityError::KeyMismatch { .. })));
    fs::write(&key, b"junk").unwrap();
    assert!(matches!(read(), Err(IdentityError::Content { .. })));
    fs::write(&key, bytes).unwrap();

    // A node's certificate in ca.pem must not make that node a CA.
    let (ca, bytes) = saved("ca.pem");
    fs::write(&ca, [bytes.clone(), saved("node.pem").1].concat()).unwrap();
    let error = read().expect_err("a leaf is no CA");
    assert!(error.to_string().contains("not a CA's"), "{error}");
    fs::write(&ca, bytes).unwrap();
    for file in [CA_FILE, CERT_FILE, KEY_FILE, CRL_FILE] {
        let (path, bytes) = saved(file);
        fs::remove_file(&path).unwrap();
        let error = read().expect_err(file);
        assert!(error.hint().is_some_and(|hint| hint.contains(file)), "{error}");
        fs::write(&path, bytes).unwrap();
        if file == KEY_FILE {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    read().unwrap();
}
