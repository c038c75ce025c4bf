//! A new node joins by one command; what is no invitation gets nothing.

use std::{
    fs,
    io::{Read, Write},
    path::PathBuf,
    thread::sleep,
    time::Duration,
};

use zmigrate::identity::JoinToken;

use crate::{
    Case, cases,
    process::{Done, wait_for},
    proxy::Proxy,
    safety::{SLOW, SLOW_BYTES},
    site::{Site, make_ca},
    tls::{dial, dial_as, exchange},
};

pub fn cases() -> Vec<Case> {
    cases![
        a_new_node_joins_and_replicates,
        a_token_that_is_none_is_refused_aloud,
        a_host_without_an_authority_takes_nobody_in,
        another_authority_counts_with_a_reload,
        who_joins_reaches_nothing_else,
        an_authority_without_a_daemon_answers_once,
        a_join_that_breaks_off_leaves_all_or_nothing,
    ]
}

/// West holds the authority's directory, and grants `north` what it grants `east`.
fn with_authority() -> Site {
    let mut site = Site::quiet();
    let grants = format!("[ca]\ndir = \"{}/ca\"\n[grant.north]\npush = [\"{}/in\"]\n", site.dir.display(), site.west);
    site.write_configs(&grants, None);
    site.start_daemon();
    site
}

fn ca_token(site: &Site, name: &str, options: &[&str]) -> Done {
    let (ca, address) = (site.dir.join("ca"), format!("127.0.0.1:{}", site.port));
    let ca = ca.to_string_lossy();
    let all = [&["ca", "token", name, "--dir", &ca, "--address", &address], options].concat();
    site.start(&all).wait(20)
}

fn token(site: &Site, name: &str, options: &[&str]) -> JoinToken {
    ca_token(site, name, options).must(0).stdout.parse().unwrap()
}

fn node_dir(site: &Site, name: &str) -> PathBuf {
    site.dir.join(format!("joined-{name}"))
}

fn join(site: &Site, token: &str, dir: &str, options: &[&str]) -> Done {
    let dir = node_dir(site, dir);
    site.start(&[&["join", token, "--identity-dir", &dir.to_string_lossy()], options].concat()).wait(60)
}

/// It left no trace of an identity.
fn nothing_in(site: &Site, dir: &str) {
    let dir = node_dir(site, dir);
    let left = fs::read_dir(&dir).map(|entries| entries.count()).unwrap_or(0);
    assert_eq!(left, 0, "something is in {}", dir.display());
}

fn a_new_node_joins_and_replicates() {
    let site = with_authority();
    let db = site.source("db", 10_000);
    let made = ca_token(&site, "north", &[]).must(0).says(&["zmigrate join TOKEN", "[ca] dir"]);
    assert!(made.stdout.starts_with("zmj1_") && made.stdout.lines().count() == 1, "{}", made.stdout);
    let text = made.stdout.trim();
    let joined = join(&site, text, "north", &[]).must(0);
    assert!(joined.stdout.starts_with("this host is north now"), "{}", joined.stdout);
    let dir = node_dir(&site, "north");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(dir.join("node.key")).unwrap().mode() & 0o777, 0o600);
    wait_for("the log line", 2, || site.log().contains("a node joined: its token is spent"));
    site.push("db", "in/db", &["--identity-dir", &dir.to_string_lossy()]).must(0);
    site.assert_equal(&db, &site.w("in/db"));

    // The secret is in no file of the authority and in no log.
    let token: JoinToken = text.parse().unwrap();
    let stored = fs::read_to_string(site.dir.join("ca/tokens.json")).unwrap();
    for place in [&stored, &site.log()] {
        assert!(!place.contains(&hex::encode(token.secret.0)) && !place.contains(text));
    }
    // Once.
    join(&site, text, "thief", &[]).must(4).says(&["refused: this token was used", "zmigrate ca revoke north"]);
    nothing_in(&site, "thief");
    wait_for("the log line", 2, || site.log().contains("a node that joins is refused: this token was used"));
    // Neither end overwrites anything unasked.
    ca_token(&site, "north", &[]).must(3).says(&["north holds a certificate", "--renew"]);
    let renewed = token_text(&site, "north", &["--renew", "--output", "json"]);
    join(&site, &renewed, "north", &[]).must(3).says(&["this host has an identity already", "--replace"]);
    let before = fs::read(dir.join("node.key")).unwrap();
    join(&site, &renewed, "north", &["--replace", "--output", "json"]).must(0);
    assert_ne!(fs::read(dir.join("node.key")).unwrap(), before);
    site.push("db", "in/db", &["--identity-dir", &dir.to_string_lossy()]).must(0);
}

/// The token out of `--output json`.
fn token_text(site: &Site, name: &str, options: &[&str]) -> String {
    let object: serde_json::Value = serde_json::from_str(&ca_token(site, name, options).must(0).stdout).unwrap();
    assert_eq!(object["name"], name);
    object["token"].as_str().unwrap().to_owned()
}

fn a_token_that_is_none_is_refused_aloud() {
    let site = with_authority();
    let good = token(&site, "north", &[]);
    let short = token(&site, "late", &["--ttl", "1"]);
    let refused = |token: JoinToken, words: &[&str], log: &str| {
        join(&site, &token.to_string(), "n", &[]).must(4).says(words);
        nothing_in(&site, "n");
        wait_for(log, 2, || site.log().contains(log));
    };
    let mut typo = good.to_string();
    typo.replace_range(40..41, if &typo[40..41] == "a" { "b" } else { "a" });
    join(&site, &typo, "n", &[]).must(2).says(&["mistyped or cut off"]);
    join(&site, "east", "n", &[]).must(2).says(&["no join token"]);
    let mut wrong = good.clone();
    wrong.secret.0[0] ^= 1;
    refused(wrong, &["does not hold the right secret"], "is refused: this token does not hold the right secret");
    let mut unknown = good.clone();
    unknown.id.0[0] ^= 1;
    refused(unknown, &["not known here"], "is refused: this token is not known here");
    let other = JoinToken { name: "west".parse().unwrap(), ..good.clone() };
    refused(other, &["for another name than west"], "is refused: this token is for another name than west");
    let mut foreign = good.clone();
    foreign.ca_fingerprint[0] ^= 1;
    let log = "handshake refused: the peer refused our certificate";
    refused(foreign, &["another fingerprint", "The token was not shown to it"], log);
    sleep(Duration::from_millis(1_100));
    refused(short, &["this token expired"], "is refused: this token expired");
    let nobody = JoinToken { address: "127.0.0.1:1".parse().unwrap(), ..good.clone() };
    join(&site, &nobody.to_string(), "n", &[]).must(5).says(&["cannot reach the authority at 127.0.0.1:1"]);
    nothing_in(&site, "n");
    // None of that has cost the good one anything; and it comes through stdin as well as it should.
    join(&site, &format!(" {good}\n"), "n", &[]).must(0);
    assert!(!site.log().contains("panicked"), "{}", site.log());
}

fn a_host_without_an_authority_takes_nobody_in() {
    let site = Site::new();
    let good = token(&site, "north", &[]);
    let done = join(&site, &good.to_string(), "n", &[]).must(4);
    assert!(done.stderr.contains("has no [ca], or no token that it knows has time left"), "{}", done.stderr);
    nothing_in(&site, "n");
    assert!(exchange(&mut dial_as(site.port, None, "zmigrate-join/1"), b"ZMJN").is_err());
    wait_for("the refusal", 2, || site.log().contains("handshake refused: the peer does not speak zmigrate/1"));
}

/// As when a fleet's authority is replaced: nothing is restarted.
fn another_authority_counts_with_a_reload() {
    let site = Site::new();
    let db = site.source("db", 2 * SLOW_BYTES);
    let mut push = site.start_push("db", "in/db", &SLOW);
    push.until_transferred(1 << 20);
    let new = make_ca(&site.dir, "new-ca");
    let address = format!("127.0.0.1:{}", site.port);
    let made = site.start(&["ca", "token", "north", "--dir", &new.to_string_lossy(), "--address", &address]);
    let token = made.wait(20).must(0).stdout.trim().to_owned();
    join(&site, &token, "n", &[]).must(4).says(&["has no [ca]"]);
    site.write_configs(&format!("[ca]\ndir = \"{}\"\n{}", new.display(), site.default_grant()), None);
    site.reload();
    join(&site, &token, "north", &[]).must(0);
    // Its list is taken over from now on, too.
    wait_for("the new authority's list", 5, || site.log().contains("took over"));
    // And one that is named no more takes nobody in.
    site.write_configs(&site.default_grant(), None);
    site.reload();
    assert!(exchange(&mut dial_as(site.port, None, "zmigrate-join/1"), b"ZMJN").is_err());
    assert!(site.log().contains("no node may join here any more"), "{}", site.log());
    assert!(!push.has_ended(), "the transfer was over before all was done");
    push.wait(60).must(0);
    site.assert_equal(&db, &site.w("in/db"));
}

fn who_joins_reaches_nothing_else() {
    let site = with_authority();
    let refused = |site: &Site| exchange(&mut dial_as(site.port, None, "zmigrate-join/1"), b"ZMJN").is_err();
    assert!(refused(&site), "nobody is invited, and somebody got in");
    let good = token(&site, "north", &[]);
    // Without asking to join, a client needs its certificate as ever.
    assert!(exchange(&mut dial(site.port, None), b"ZMIG").is_err());
    wait_for("the refusal", 2, || site.log().contains("handshake refused: the peer showed no certificate"));
    // A hello of a node, nonsense, and a length that is a lie: each is told no, and that is all.
    let hello = [b"ZMIG\x01\0\x01\0\x10\0\0\0".to_vec(), vec![0; 100]].concat();
    let lie = [b"ZMJN\0\x01\xff\xff\xff\xff".to_vec(), vec![0; 100]].concat();
    let nonsense = crate::common::noise(4000, 1);
    for (n, bytes) in [hello, lie, nonsense].iter().enumerate() {
        let answer = exchange(&mut dial_as(site.port, None, "zmigrate-join/1"), bytes).unwrap_or_default();
        assert!(answer.len() < 100 && (answer.is_empty() || answer.starts_with(b"ZMJN")), "{answer:?}");
        wait_for("the line in the log", 2, || site.log().matches("a node that joins asked nothing").count() > n);
    }
    // Those that ask nothing take the few places there are for a while, and are told apart from those that wait.
    let mut silent: Vec<_> = (0..6).map(|_| dial_as(site.port, None, "zmigrate-join/1")).collect();
    for stream in &mut silent {
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
    }
    wait_for("the limit", 5, || site.log().contains("4 are joining already"));
    join(&site, &good.to_string(), "n", &[]).must(4).says(&["too many nodes are joining", "was not spent"]);
    drop(silent);
    sleep(Duration::from_millis(300));
    join(&site, &good.to_string(), "n", &[]).must(0);
    assert!(!site.log().contains("session opened"), "{}", site.log());
}

fn an_authority_without_a_daemon_answers_once() {
    let site = Site::quiet();
    site.write_configs("", None);
    let ca = site.dir.join("ca");
    let ca = ca.to_string_lossy();
    let mut serving = site.start(&["ca", "token", "north", "--dir", &ca, "--listen", "127.0.0.1:0"]);
    wait_for("the token", 10, || serving.stdout().ends_with('\n'));
    let token: JoinToken = serving.stdout().parse().unwrap();
    // Strangers do not end it.
    let _ = std::net::TcpStream::connect(("127.0.0.1", token.address.port)).unwrap().write(b"GET / HTTP/1.1\r\n\r\n");
    let _ = dial(token.address.port, Some(&site.dir.join("east"))).read(&mut [0]);
    assert!(!serving.has_ended());
    join(&site, &token.to_string(), "north", &[]).must(0);
    let done = serving.wait(10).must(0);
    assert!(done.stderr.contains("north has joined"), "{}", done.stderr);
    // Unused, it ends by itself.
    let serving = site.start(&["ca", "token", "south", "--dir", &ca, "--listen", "127.0.0.1:0", "--ttl", "1"]);
    serving.wait(10).must(4).says(&["nobody used the token for south"]);
}

fn a_join_that_breaks_off_leaves_all_or_nothing() {
    let site = with_authority();
    let mut outcomes = std::collections::BTreeMap::new();
    // Bytes of the node's side that get through: in the hello, between the handshake and the request, in the request.
    for (n, cut) in [0, 100, 300, 400, 500, 600, 700, 5_000].into_iter().enumerate() {
        let proxy = Proxy::to(site.port, &[cut]);
        let good = token(&site, "north", &["--renew"]);
        let through = JoinToken { address: format!("127.0.0.1:{}", proxy.port).parse().unwrap(), ..good.clone() };
        let dir = format!("n{n}");
        let broken = join(&site, &through.to_string(), &dir, &[]);
        // Again, without the bad link: the token is good still, or spent by a join that came through or nearly so.
        let again = match broken.code {
            Some(0) => join(&site, &good.to_string(), "other", &[]).must(4).says(&["was used"]),
            Some(5) => {
                nothing_in(&site, &dir);
                let again = join(&site, &good.to_string(), &dir, &[]);
                assert!(again.code == Some(0) || again.stderr.contains("was used"), "{}", again.stderr);
                again
            }
            _ => panic!("cut after {cut} bytes:\n{}", broken.stderr),
        };
        outcomes.insert(cut, (broken.code, again.code));
    }
    eprintln!("cut after bytes: (code, code of the second try): {outcomes:?}");
    assert_eq!(outcomes[&0], (Some(5), Some(0)), "a token was spent before it was shown");
    assert_eq!(outcomes[&5_000], (Some(0), Some(4)), "no join came through, so this proves little");
}
