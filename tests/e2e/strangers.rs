//! Who may do what: grants, certificates, and what is no peer at all.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use zmigrate::{
    limits::{CONTROL_WINDOW, MAX_CHUNK, MAX_REQUEST},
    types::transfer::Depth,
    wire::{
        codec::{self, Use},
        frame::{FLAG_MORE, Frame, FrameKind},
        hello::{self, Hello, PREFACE_LEN, Preface, RefusalCode, Role},
        message::{Call, Request, RoleOfDataset},
    },
};

use crate::{
    Case, cases,
    common::noise,
    pin,
    process::{resident_kib, wait_for},
    proxy::Proxy,
    safety::{SLOW, SLOW_BYTES},
    site::{Site, issue, make_ca},
    tls::{dial, exchange},
    zfs::{create, exists, populate, snapshot, state},
};

pub fn cases() -> Vec<Case> {
    cases![
        only_what_is_granted,
        a_grant_to_one_is_none_to_another,
        a_revoked_certificate,
        a_certificate_of_another_authority,
        an_expired_certificate,
        no_certificate,
        what_is_no_peer_is_refused_and_harms_nobody,
        strangers_who_dial_again_and_again_harm_nobody,
        a_greedy_peer_gets_its_share_and_no_more,
        one_identity_cannot_hold_every_connection,
    ]
}

fn only_what_is_granted() {
    let mut site = Site::quiet();
    let (in_, out) = (site.w("a"), site.w("out"));
    site.write_configs(&format!("[grant.east]\npush = [\"{in_}\"]\npull = [\"{out}\"]\n"), None);
    site.start_daemon();
    site.source("db", 1000);
    for name in ["out", "ab", "a/there"] {
        create(&site.w(name));
        populate(&site.w(name), 1, 1000);
        snapshot(&site.w(name), "s1");
    }
    let before = (state(&site.east), state(&site.west));
    let done = site.push("db", "elsewhere", &[]).must(4);
    pin!(site, done.stderr, @r#"
    error: at west: east is not granted push of WEST/elsewhere
    hint: there, add "WEST/elsewhere" or a dataset above it to `push` under [grant.east]
    "#);
    let done = site.push("db", "ab/db", &[]).must(4);
    pin!(site, done.stderr, @r#"
    error: at west: east is not granted push of WEST/ab/db
    hint: there, add "WEST/ab/db" or a dataset above it to `push` under [grant.east]
    "#);
    site.push("db", "ab", &[]).must(4);
    site.push("db", "", &[]).must(2);
    // A grant to pull is none to push, nor the other way round.
    site.push("db", "out/db", &[]).must(4).says(&["push", "out/db"]);
    site.pull("a/there", "back", &[]).must(4).says(&["pull", "a/there"]);
    site.pull("ab", "back", &[]).must(4).says(&["pull", "/ab"]);
    site.pull("out", "back", &["-n"]).must(0);
    assert_eq!((state(&site.east), state(&site.west)), before);
    site.push("db", "a/db", &[]).must(0);
    site.pull("out", "back", &[]).must(0);
    assert!(exists(&site.w("a/db")) && exists(&site.e("back")));
}

fn a_grant_to_one_is_none_to_another() {
    let site = Site::new();
    site.source("db", 1000);
    let dir = site.dir.join("stranger");
    issue(&site.dir.join("ca"), "stranger", &dir);
    let before = state(&site.west);
    let done = site.push("db", "in/db", &["--identity-dir", &dir.to_string_lossy()]).must(4);
    pin!(site, done.stderr, @r"
    error: west refused the connection: the identity stranger has no grant here
    hint: add a [grant] for this identity at the peer
    ");
    assert_eq!(state(&site.west), before);
}

fn a_revoked_certificate() {
    let site = Site::new();
    site.source("db", 1000);
    site.revoke("east");
    site.reload();
    let done = site.push("db", "in/db", &[]).must(4);
    pin!(site, done.stderr, @r"
    error: the peer refused our certificate: it says it is revoked
    hint: issue a new certificate for this node
    ");
    wait_for("the reason in the log", 2, || {
        site.log().contains("handshake refused: the peer's certificate is revoked")
    });
    assert!(!exists(&site.w("in")));
}

fn a_certificate_of_another_authority() {
    let site = Site::new();
    site.source("db", 1000);
    let dir = site.dir.join("foreign");
    let ca = make_ca(&site.dir, "other-ca");
    issue(&ca, "east", &dir);
    // The initiator itself refuses a peer of another fleet.
    let done = site.push("db", "in/db", &["--identity-dir", &dir.to_string_lossy()]).must(4);
    pin!(site, done.stderr, @r"
    error: west: the peer's certificate was issued by a CA that is not in ca.pem here
    hint: both nodes need a ca.pem that holds the CA of the other; compare `zmigrate ca list` with both directories
    ");
    // One that trusts everybody is refused by the peer.
    assert!(exchange(&mut dial(site.port, Some(&dir)), b"ZMIG").is_err());
    wait_for("the reason in the log", 2, || {
        site.log().contains("handshake refused: the peer's certificate was issued by a CA that is not in ca.pem here")
    });
    // So is one whose ca.pem names the right authority, while its certificate is of the other.
    fs::copy(site.dir.join("ca/ca.pem"), dir.join("ca.pem")).unwrap();
    fs::copy(site.dir.join("ca/crl.pem"), dir.join("crl.pem")).unwrap();
    site.push("db", "in/db", &["--identity-dir", &dir.to_string_lossy()]).must(4);
    assert!(!exists(&site.w("in")));
}

/// An identity of the site's authority whose time was over long ago.
fn expired_identity(site: &Site, name: &str) -> std::path::PathBuf {
    use rcgen::{CertificateParams, Issuer, KeyPair, SanType, date_time_ymd};
    let text = |file: &str| fs::read_to_string(site.dir.join("ca").join(file)).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&text("ca.pem"), KeyPair::from_pem(&text("ca.key")).unwrap()).unwrap();
    let dir = site.dir.join("expired");
    issue(&site.dir.join("ca"), name, &dir);
    let key = KeyPair::from_pem(&fs::read_to_string(dir.join("node.key")).unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(format!("zmigrate://node/{name}").as_str().try_into().unwrap())];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 2, 1));
    fs::write(dir.join("node.pem"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    dir
}

fn an_expired_certificate() {
    let site = Site::new();
    site.source("db", 1000);
    let dir = expired_identity(&site, "east");
    let done = site.push("db", "in/db", &["--identity-dir", &dir.to_string_lossy()]).must(4);
    pin!(site, done.stderr, @r"
    error: the peer refused our certificate: it says it is expired, or not yet valid
    hint: renew it with `zmigrate ca issue NAME --renew`; if it is valid here, the clocks of the two hosts differ
    ");
    wait_for("the reason in the log", 2, || {
        site.log()
            .contains("handshake refused: the peer's certificate expired 2020-02-01T00:00:00Z; the clock here says")
    });
    assert!(!exists(&site.w("in")));
}

fn no_certificate() {
    let site = Site::new();
    let nothing = site.dir.join("nothing");
    site.source("db", 1000);
    let done = site.push("db", "in/db", &["--identity-dir", &nothing.to_string_lossy()]).must(4);
    assert!(done.stderr.contains("this host's identity cannot be used"), "{}", done.stderr);
    assert!(exchange(&mut dial(site.port, None), b"ZMIG").is_err());
    wait_for("the reason in the log", 2, || site.log().contains("handshake refused: the peer showed no certificate"));
}

fn what_is_no_peer_is_refused_and_harms_nobody() {
    let mut site = Site::quiet();
    site.limits = "window_bytes = 4194304\nhandshake_timeout_s = 2\nmax_connections = 40".into();
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    let db = site.source("db", SLOW_BYTES);
    let mut push = site.start_push("db", "in/db", &SLOW);
    push.until_transferred(1 << 20);
    let plain = || TcpStream::connect(("127.0.0.1", site.port)).unwrap();
    let _ = exchange(&mut plain(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_for("the refusal of HTTP", 5, || site.log().contains("the peer does not speak TLS"));
    for seed in 0..5 {
        let _ = exchange(&mut plain(), &noise(70_000, seed));
    }
    // Silence: before TLS, and after it.
    let since = Instant::now();
    let mut silent = plain();
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = silent.read(&mut [0]);
    assert!(since.elapsed() < Duration::from_secs(18), "a silent client was kept for {:?}", since.elapsed());
    wait_for("the end of the silent", 3, || site.log().contains("no handshake within 2 s"));
    let since = Instant::now();
    let mut mute = dial(site.port, Some(&site.dir.join("east")));
    while mute.conn.is_handshaking() {
        mute.conn.complete_io(&mut mute.sock).unwrap();
    }
    let _ = mute.read(&mut [0]);
    assert!(since.elapsed() < Duration::from_secs(40), "a mute peer was kept for {:?}", since.elapsed());
    // A peer that speaks nonsense, and one that announces more than it may.
    for hello in [noise(4000, 9), [b"ZMGR".to_vec(), vec![255; 60]].concat()] {
        let mut peer = dial(site.port, Some(&site.dir.join("east")));
        let _ = peer.write_all(&hello);
        let _ = peer.read(&mut [0; 100]);
    }
    // More connections than are allowed: the running transfer goes on, and new ones are served when they are gone.
    let crowd: Vec<_> = (0..60).map(|_| plain()).collect();
    wait_for("the limit", 5, || site.log().contains("too many connections"));
    drop(crowd);
    push.wait(60).must(0);
    site.assert_equal(&db, &site.w("in/db"));
    site.push("db", "in/db", &[]).must(0);
    assert!(!site.log().contains("panicked"), "{}", site.log());
}

/// Of each kind one, all at once, for most of a transfer.
fn strangers_who_dial_again_and_again_harm_nobody() {
    const BYTES: u64 = 2 * SLOW_BYTES as u64;
    const MOST_MORE_KIB: u64 = 20 << 10;
    const PAUSE: Duration = Duration::from_millis(20);
    let site = Site::new();
    let db = site.source("db", BYTES as usize);
    let (foreign, gone) = (site.dir.join("foreign"), site.dir.join("gone"));
    issue(&make_ca(&site.dir, "other-ca"), "east", &foreign);
    issue(&site.dir.join("ca"), "gone", &gone);
    site.revoke("gone");
    site.reload();
    let expired = expired_identity(&site, "east");
    let kinds = [
        (None, "the peer showed no certificate"),
        (Some(foreign), "the peer's certificate was issued by a CA that is not in ca.pem here"),
        (Some(expired), "the peer's certificate expired 2020-02-01T00:00:00Z"),
        (Some(gone), "the peer's certificate is revoked"),
    ];
    let mut push = site.start_push("db", "in/db", &SLOW);
    push.until_transferred(1 << 20);
    let (daemon, port) = (site.daemon_pid(), site.port);
    let before = resident_kib(daemon);
    let (mut peak, over) = (before, AtomicBool::new(false));
    let dials = thread::scope(|scope| {
        let dialling = kinds.each_ref().map(|(identity, _)| {
            let over = &over;
            scope.spawn(move || {
                let mut dials = 0;
                while !over.load(Ordering::Relaxed) {
                    let answer = exchange(&mut dial(port, identity.as_deref()), b"ZMIG");
                    assert!(answer.is_err(), "{identity:?} was answered: {answer:?}");
                    dials += 1;
                    thread::sleep(PAUSE);
                }
                dials
            })
        });
        while push.transferred() < BYTES / 4 * 3 && !push.has_ended() {
            peak = peak.max(resident_kib(daemon));
            thread::sleep(PAUSE);
        }
        over.store(true, Ordering::Relaxed);
        dialling.map(|one| one.join().unwrap())
    });
    eprintln!("strangers: dialled {dials:?} times; {before} KiB resident before, {peak} KiB at most");
    assert!(!push.has_ended(), "the transfer was over before the strangers were done");
    assert!(dials.iter().all(|dials| *dials >= 10), "they dialled {dials:?} times, which proves nothing");
    // Each has its line, with its own reason.
    let refused = || {
        let log = site.log();
        kinds.each_ref().map(|(_, why)| log.matches(&format!("handshake refused: {why}")).count())
    };
    wait_for("the reasons in the log", 2, || refused() == dials);
    assert!(peak - before < MOST_MORE_KIB, "{} KiB more than before", peak - before);
    push.wait(60).must(0);
    site.assert_equal(&db, &site.w("in/db"));
    assert!(!site.log().contains("panicked"), "{}", site.log());
}

type Peer = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// Opens a session by hand; a refusal's code and text, if that is the answer.
fn open_session(site: &Site, identity: &str) -> Result<Peer, (Option<RefusalCode>, String)> {
    let mut peer = dial(site.port, Some(&site.dir.join(identity)));
    let (agent, host) = ("test".to_owned(), identity.to_owned());
    let hello = Hello { agent, host, clock_unix_ms: 0, features: 1, window: 4 << 20, role: Role::Open };
    peer.write_all(&hello::encode_hello(&hello).unwrap()).unwrap();
    let mut head = [0; PREFACE_LEN];
    peer.read_exact(&mut head).unwrap();
    let preface = Preface::decode(&head).unwrap();
    let mut body = vec![0; preface.body_len as usize];
    peer.read_exact(&mut body).unwrap();
    // Whoever is not read from any more is done here.
    peer.sock.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    peer.sock.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    hello::decode_answer(preface, &body).unwrap().map(|_| peer).map_err(|refusal| (refusal.code, refusal.text))
}

/// Sends a frame up to `times` times, numbered from `first` if it has a number, and reads nothing; the bytes that went out.
fn pour(peer: &mut Peer, first: u64, times: u64, frame: &Frame) -> u64 {
    let mut frame = frame.clone();
    let mut taken = 0;
    for n in 0..times {
        if matches!(frame.header.kind, FrameKind::Data | FrameKind::Message) {
            frame.header.sequence = first + n;
        }
        let bytes = [&frame.header.encode()[..], &frame.payload].concat();
        if peer.write_all(&bytes).is_err() {
            break;
        }
        taken += bytes.len() as u64;
    }
    taken
}

fn a_greedy_peer_gets_its_share_and_no_more() {
    const SESSIONS: u64 = 6;
    // Each session may fill its window in both directions, and have one request as bytes and once decoded.
    const SHARE: u64 = SESSIONS * (2 * CONTROL_WINDOW + 2 * MAX_REQUEST as u64);
    let mut site = Site::quiet();
    site.limits = format!("window_bytes = 4194304\nmax_sessions_per_identity = {SESSIONS}\nidle_timeout_s = 5");
    let out = site.w("out");
    create(&out);
    issue(&site.dir.join("ca"), "greedy", &site.dir.join("greedy"));
    site.write_configs(&format!("{}[grant.greedy]\npull = [\"{out}\"]\n", site.default_grant()), None);
    site.start_daemon();
    let db = site.source("db", 2 * SLOW_BYTES);
    let mut push = site.start_push("db", "in/db", &SLOW);
    push.until_transferred(1 << 20);
    let daemon = site.daemon_pid();
    let before = resident_kib(daemon);
    let (peak, over) = (AtomicU64::new(before), AtomicBool::new(false));

    let open = || open_session(&site, "greedy");
    let mut sessions: Vec<Peer> = (0..SESSIONS).map(|_| open().unwrap()).collect();
    let (code, text) = open().err().unwrap();
    assert_eq!(code, Some(RefusalCode::Busy));
    assert_eq!(text, "greedy has 6 sessions open, which is the limit");

    let full = Bytes::from(noise(MAX_CHUNK, 3));
    let list = Request::List { root: out.parse().unwrap(), depth: Depth::Tree, role: RoleOfDataset::Source };
    let call = codec::encode(&Call { id: 1, request: list }, Use::Request).unwrap();
    let mut announced = Frame::plain(FrameKind::Message, 0, Bytes::from_static(b"x"));
    announced.header.payload_len = u32::MAX;
    let frames = [
        // A message without end; frames that are never in turn, large and empty; requests whose answers are not read;
        // signs of life, not read either; a frame of 4 GiB.
        (0, 300, Frame::plain(FrameKind::Message, FLAG_MORE, full.clone())),
        (1, 300, Frame::plain(FrameKind::Message, 0, full)),
        (1, 400_000, Frame::plain(FrameKind::Message, FLAG_MORE, Bytes::new())),
        (0, 200_000, Frame::plain(FrameKind::Message, 0, call.into())),
        (0, 400_000, Frame::plain(FrameKind::Ping, 0, Bytes::from_static(&[7; 8]))),
        (0, 1000, announced),
    ];
    let taken: Vec<u64> = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                peak.fetch_max(resident_kib(daemon), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        let pouring = sessions
            .iter_mut()
            .zip(&frames)
            .map(|(peer, (first, times, frame))| scope.spawn(move || pour(peer, *first, *times, frame)));
        let pouring: Vec<_> = pouring.collect();
        let taken = pouring.into_iter().map(|one| one.join().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        taken
    });
    let grown = (peak.load(Ordering::Relaxed) - before) << 10;
    eprintln!("strangers: taken {taken:?} bytes; {before} KiB resident before, {grown} bytes more at most");
    assert!(grown <= SHARE, "{grown} bytes more than before, {SHARE} are its share");
    // What is over a bound ends its session, and no more than the bound and what is on its way was taken.
    // Of that, Linux keeps up to 4 MiB at the sender (tcp_wmem) and 6 MiB at the receiver (tcp_rmem); the rest is a margin.
    let on_its_way = 12 << 20;
    assert!(taken[0] <= MAX_REQUEST as u64 + on_its_way && taken[1] <= CONTROL_WINDOW + on_its_way, "{taken:?}");
    assert!(taken[2] < 400_000 * 32 && taken[5] <= on_its_way, "{taken:?}");
    drop(sessions);

    // Garbage after a handshake that went well, and half a frame.
    assert!(!push.has_ended(), "the transfer was over before the peer was done");
    wait_for("sessions to end", 15, || open().is_ok());
    for bytes in [noise(70_000, 1), vec![2, 0, 0]] {
        let mut peer = open().unwrap();
        let _ = peer.write_all(&bytes);
        let _ = peer.read_to_end(&mut Vec::new());
    }
    push.wait(60).must(0);
    site.assert_equal(&db, &site.w("in/db"));
    site.push("db", "in/db", &[]).must(0);
    assert!(!site.log().contains("panicked"), "{}", site.log());
}

/// A transfer of another node whose link breaks meanwhile finds a place when it dials again.
fn one_identity_cannot_hold_every_connection() {
    const MOST: usize = 32;
    let mut site = Site::quiet();
    // Silence does not end those that are held.
    site.limits = format!(
        "window_bytes = 4194304\nmax_connections = {MOST}\nmax_sessions_per_identity = 100\nidle_timeout_s = 120"
    );
    issue(&site.dir.join("ca"), "greedy", &site.dir.join("greedy"));
    let grants = format!("{}[grant.greedy]\npull = [\"{}/out\"]\n", site.default_grant(), site.west);
    site.write_configs(&grants, None);
    site.start_daemon();
    let proxy = Proxy::to(site.port, &[]);
    site.write_configs(&grants, Some(proxy.port));
    let db = site.source("db", 2 * SLOW_BYTES);
    let mut push = site.start_push("db", "in/db", &SLOW);
    push.until_transferred(1 << 20);
    let mut held = Vec::new();
    let (code, text) = loop {
        match open_session(&site, "greedy") {
            Ok(peer) => held.push(peer),
            Err(refused) => break refused,
        }
        assert!(held.len() < MOST, "it has them all");
    };
    // Three quarters, and some for the first connections of sessions.
    assert_eq!((held.len(), code), (28, Some(RefusalCode::Busy)), "{text}");
    assert_eq!(text, "greedy has 28 connections open, which is its share");
    assert!(!push.has_ended(), "the transfer was over before its link was cut");
    let dialled = proxy.accepted();
    proxy.cut_now();
    wait_for("the connections after the cut", 10, || proxy.accepted() > dialled);
    let at = push.transferred();
    push.until_transferred(at + (2 << 20));
    push.wait(60).must(0).says(&["dialing again"]);
    site.assert_equal(&db, &site.w("in/db"));
    // What has ended is room for more.
    drop(held);
    wait_for("a place", 10, || open_session(&site, "greedy").is_ok());
}
