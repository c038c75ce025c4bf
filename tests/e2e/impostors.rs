//! Peers that are not what they should be: of another version, speaking garbage, or nothing. The other way round, as
//! clients of `zmigrated`, they are in `strangers`.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zmigrate::wire::hello::{RefusalCode, SessionId, Welcome, encode_refusal, encode_welcome, features};

use crate::{
    Case, cases,
    common::noise,
    process::{Done, wait_for},
    site::Site,
    tls::dial,
    zfs::state,
};

pub fn cases() -> Vec<Case> {
    cases![
        a_server_that_is_no_zmigrated,
        a_server_that_speaks_another_version,
        doctor_names_a_server_of_another_version,
        a_server_that_speaks_garbage,
        a_server_that_says_nothing,
        a_client_of_another_version_is_told_so,
    ]
}

/// What a server does with a connection. It says what it has to say; then it holds its tongue until it is hung up on.
#[derive(Clone)]
struct Impostor {
    /// Speaks TLS, with west's certificate.
    tls: bool,
    says: Vec<u8>,
    /// Waits for a hello first.
    listens: bool,
    /// Hangs up at once after what it said.
    leaves: bool,
}

const MUTE: Impostor = Impostor { tls: true, says: Vec::new(), listens: false, leaves: false };

struct Server {
    port: u16,
    met: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

fn answer(impostor: &Impostor, mut stream: impl Read + Write, stop: &AtomicBool) {
    if impostor.listens {
        let _ = stream.read(&mut [0; 4096]);
    }
    let _ = stream.write_all(&impostor.says).and_then(|()| stream.flush());
    while !impostor.leaves && !stop.load(SeqCst) {
        match stream.read(&mut [0; 4096]) {
            Ok(1..) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            _ => return,
        }
    }
}

impl Server {
    fn start(identity: &Path, impostor: Impostor) -> Server {
        let chain = CertificateDer::pem_file_iter(identity.join("node.pem")).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(identity.join("node.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key);
        let mut config = config.unwrap();
        config.alpn_protocols = vec![b"zmigrate/1".to_vec()];
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (met, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&met), Arc::clone(&stop));
        spawn(move || {
            for tcp in listener.incoming() {
                if stopped.load(SeqCst) {
                    return;
                }
                let Ok(tcp) = tcp else { continue };
                counted.fetch_add(1, SeqCst);
                let (impostor, config, stop) = (impostor.clone(), Arc::clone(&config), Arc::clone(&stopped));
                spawn(move || {
                    let _ = tcp.set_read_timeout(Some(Duration::from_secs(2)));
                    if impostor.tls {
                        let tls = ServerConnection::new(config).unwrap();
                        answer(&impostor, StreamOwned::new(tls, tcp), &stop);
                    } else {
                        answer(&impostor, tcp, &stop);
                    }
                });
            }
        });
        Server { port, met, stop }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Runs a push against the impostor: it must end with exit code 5, which takes less than `within_s` seconds, and must have changed nothing.
#[track_caller]
fn meet(impostor: Impostor, within_s: u64, says: &[&str]) -> Done {
    let mut site = Site::quiet();
    site.limits.push_str("\nidle_timeout_s = 5\nlink_lost_after_s = 10");
    let server = Server::start(&site.dir.join("west"), impostor);
    site.write_configs(&site.default_grant(), Some(server.port));
    site.source("db", 1000);
    let before = state(&site.east);
    let since = Instant::now();
    let done = site.start_push("db", "in/db", &[]).wait(within_s);
    assert!(server.met.load(SeqCst) > 0, "nobody came");
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    assert_eq!(state(&site.east), before);
    eprintln!("after {:.1} s: {}", since.elapsed().as_secs_f64(), done.stderr);
    done.must(5).says(says)
}

fn a_server_that_is_no_zmigrated() {
    let http = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec();
    meet(Impostor { tls: false, says: http, leaves: true, ..MUTE }, 15, &["does not speak TLS"]);
    meet(Impostor { tls: false, says: noise(3000, 1), ..MUTE }, 15, &["does not speak TLS"]);
    meet(Impostor { tls: false, leaves: true, ..MUTE }, 15, &["west", "hint: "]);
}

const ANOTHER_VERSION: &str = "this side speaks versions 7 to 9 of the protocol, not 1 to 1";

/// One that says so and hangs up, and one that goes on regardless.
fn of_another_version() -> [Impostor; 2] {
    let refusal = encode_refusal(RefusalCode::Version, ANOTHER_VERSION);
    let welcome = encode_welcome(7, &welcome()).unwrap();
    [Impostor { says: refusal, listens: true, leaves: true, ..MUTE }, Impostor { says: welcome, listens: true, ..MUTE }]
}

fn a_server_that_speaks_another_version() {
    let [refuses, goes_on] = of_another_version();
    let hint = "hint: install a newer zmigrate on the older side";
    meet(refuses, 15, &["refused the connection", ANOTHER_VERSION, hint]);
    meet(goes_on, 15, &["version", hint]);
}

fn doctor_names_a_server_of_another_version() {
    for (impostor, words) in of_another_version().into_iter().zip([ANOTHER_VERSION, "version"]) {
        let site = Site::quiet();
        let server = Server::start(&site.dir.join("west"), impostor);
        site.write_configs("", Some(server.port));
        let done = site.start(&["--output", "json", "doctor", "west"]).wait(60);
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
        let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap();
        let of_peer: Vec<_> = checks.iter().filter(|c| c["topic"].as_str().unwrap().starts_with("peer")).collect();
        // TCP connects, and that is all that can be said of it.
        let [tcp, refused] = of_peer[..] else { panic!("two findings about the peer: {report}") };
        assert_eq!((&tcp["topic"], &tcp["level"]), (&"peer".into(), &"ok".into()), "{report}");
        assert_eq!((&refused["topic"], &refused["level"]), (&"peer".into(), &"fail".into()), "{report}");
        assert!(refused["message"].as_str().unwrap().contains(words), "{refused}");
        assert_eq!(refused["hint"], "install a newer zmigrate on the older side");
        assert_eq!(refused["exit_code"], 5);
        // Other pools of this host are none of this trial's business, and are looked at before the peer is.
        let first = checks.iter().find(|c| c["level"] == "fail").unwrap();
        assert!(first["topic"] == "pool" || first == refused, "{report}");
        assert_eq!((&report["result"], &report["exit_code"]), (&"failed".into(), &first["exit_code"]), "{report}");
        assert_eq!(done.code.map(i64::from), report["exit_code"].as_i64());
    }
}

fn welcome() -> Welcome {
    Welcome {
        agent: "impostor".into(),
        clock_unix_ms: 0,
        features: features::OURS,
        window: 4 << 20,
        session: SessionId(1),
        next: 0,
    }
}

fn a_server_that_speaks_garbage() {
    meet(Impostor { says: noise(3000, 2), ..MUTE }, 15, &["hint: check that the address is that of a zmigrated"]);
    // A hello that announces more than it may, and one whose body is nonsense.
    let mut huge = b"ZMIG\x01\x00\x00\x00".to_vec();
    huge.extend(u32::MAX.to_le_bytes());
    meet(Impostor { says: huge, ..MUTE }, 15, &["error: "]);
    let nonsense = [b"ZMIG\x01\x00\x00\x00\x20\x00\x00\x00".to_vec(), vec![0xff; 32]].concat();
    meet(Impostor { says: nonsense, ..MUTE }, 15, &["error: "]);
    // A right hello, and then no frame, or one that is too large.
    for after in [noise(3000, 3), vec![0xff; 3000]] {
        let says = [encode_welcome(1, &welcome()).unwrap(), after].concat();
        meet(Impostor { says, listens: true, ..MUTE }, 15, &["error: the other side broke the protocol"]);
    }
}

fn a_server_that_says_nothing() {
    // Before TLS, and after it. Both times the handshake's ten seconds and one more try.
    meet(Impostor { tls: false, ..MUTE }, 25, &["within 10 s", "hint: "]);
    meet(MUTE, 25, &["within 10 s"]);
    // A right hello, and then silence, on every connection: idle timeout, then the link is lost for good.
    let says = encode_welcome(1, &welcome()).unwrap();
    let lost = ["was lost for 10 s", "hint: run the same command again when the peer can be reached"];
    meet(Impostor { says, listens: true, ..MUTE }, 40, &lost);
}

fn a_client_of_another_version_is_told_so() {
    let site = Site::new();
    let db = site.source("db", 1000);
    for versions in [[7u16, 9], [0, 0], [9, 7]] {
        let mut client = dial(site.port, Some(&site.dir.join("east")));
        let [oldest, newest] = versions.map(u16::to_le_bytes);
        client.write_all(&[b"ZMIG".as_slice(), &oldest, &newest, &[0; 4]].concat()).unwrap();
        client.flush().unwrap();
        let mut said = Vec::new();
        let _ = client.read_to_end(&mut said);
        assert_eq!(said.get(..4), Some(&b"ZMIG"[..]), "{versions:?}: {said:?}");
        assert_eq!(said[6..8], (RefusalCode::Version as u16).to_le_bytes(), "{versions:?}");
        let text = String::from_utf8_lossy(&said[12..]).into_owned();
        assert!(text.contains("this side speaks versions 1 to 1"), "{versions:?}: {text}");
    }
    wait_for("the reason in the log", 5, || site.log().contains("version"));
    sleep(Duration::from_millis(50));
    site.push("db", "in/db", &[]).must(0);
    site.assert_equal(&db, &site.w("in/db"));
    assert!(!site.log().contains("panicked"), "{}", site.log());
}
