//! Revocations and a whole new authority reach running transfers by themselves: no signal is sent here.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Case, cases,
    process::{await_zfs_child, wait_for, zfs_child},
    proxy::Proxy,
    safety::{SLOW, SLOW_BYTES},
    site::{Site, issue, make_ca, zmigrate},
    tls::{dial, exchange},
    zfs::{exists, snapshots},
};

pub fn cases() -> Vec<Case> {
    cases![
        a_revoked_identity_is_cut_within_a_second_and_others_are_not,
        on_the_authoritys_host_revoking_is_enough,
        a_revoked_peer_is_cut_from_the_command_that_dialled_it,
        a_ca_is_replaced_under_a_running_transfer,
    ]
}

/// `north` may do what `east` may.
fn grants(site: &Site) -> String {
    format!("{}[grant.north]\npush = [\"{}/in\"]\n", site.default_grant(), site.west)
}

/// As a careful person copies: the whole file or nothing.
fn put(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("new");
    fs::write(&beside, bytes).unwrap();
    fs::rename(&beside, path).unwrap();
}

fn concat(paths: &[&Path]) -> Vec<u8> {
    paths.iter().flat_map(|path| fs::read(path).unwrap()).collect()
}

fn revoke(ca: &Path, name: &str) {
    zmigrate(&["ca", "revoke", name, "--dir", &ca.to_string_lossy()]).must(0);
}

/// How long it takes from the moment when an authority's list is there until the session of one whom it names is closed.
fn time_to_the_cut(site: &Site, list: &[u8], target: &Path) -> Duration {
    let (log, since) = (site.log().len(), Instant::now());
    fs::write(target, list).unwrap();
    wait_for("the end of the session", 15, || site.log()[log..].contains("session closed"));
    since.elapsed()
}

fn a_revoked_identity_is_cut_within_a_second_and_others_are_not() {
    // It looks four times a second. A machine that does much else may be late once, so some more are revoked if need be.
    const OTHERS: [&str; 2] = ["south", "far-south"];
    let mut site = Site::quiet();
    let more = OTHERS.map(|name| format!("[grant.{name}]\npush = [\"{}/in\"]\n", site.west)).concat();
    site.write_configs(&(grants(&site) + &more), None);
    site.start_daemon();
    let (ca, north) = (site.dir.join("ca"), site.dir.join("north"));
    issue(&ca, "north", &north);
    site.source("db", SLOW_BYTES);
    let other = site.source("other", 2 * SLOW_BYTES);
    let mut push = site.start_push("db", "in/db", &SLOW);
    // Slower still: it is to last longer than all that happens to the other one.
    let slower = SLOW.map(|word| if word == "3M" { "1M" } else { word });
    let mut theirs =
        site.start_push("other", "in/other", &[&slower[..], &["--identity-dir", &north.to_string_lossy()]].concat());
    push.until_transferred(1 << 20);
    theirs.until_transferred(1 << 20);
    let log = site.log();
    revoke(&ca, "east");
    // Half of the list first: it changes nothing, and is told once.
    let (list, target) = (fs::read(ca.join("crl.pem")).unwrap(), site.dir.join("west/crl.pem"));
    fs::write(&target, &list[..list.len() / 2]).unwrap();
    sleep(Duration::from_millis(800));
    let said = site.log()[log.len()..].to_owned();
    assert_eq!(said.matches("have changed and do not load").count(), 1, "{said}");
    assert!(!push.has_ended() && !said.contains("session closed"), "{said}");

    let mut took = vec![time_to_the_cut(&site, &list, &target)];
    push.wait(20).must(4).says(&["revoked"]);
    assert!(!exists(&site.w("in/db")) || snapshots(&site.w("in/db")).is_empty(), "it got through all the same");
    for name in OTHERS {
        if took.iter().any(|took| *took < Duration::from_secs(1)) {
            break;
        }
        let identity = site.dir.join(name);
        issue(&ca, name, &identity);
        let to = format!("in/of-{name}");
        let mut push =
            site.start_push("db", &to, &[&SLOW[..], &["--identity-dir", &identity.to_string_lossy()]].concat());
        push.until_transferred(1 << 20);
        revoke(&ca, name);
        took.push(time_to_the_cut(&site, &fs::read(ca.join("crl.pem")).unwrap(), &target));
        push.wait(20).must(4).says(&["revoked"]);
    }
    eprintln!("a revoked identity's session was cut so long after its list was there: {took:?}");
    assert!(took.iter().any(|took| *took < Duration::from_secs(1)), "never within a second: {took:?}");
    assert!(!theirs.has_ended(), "the other transfer ended too early:\n{}", theirs.stderr());
    let done = theirs.wait(60).must(0);
    assert!(!done.stderr.contains("dialing again"), "the other transfer was disturbed:\n{}", done.stderr);
    site.assert_equal(&other, &site.w("in/other"));
}

fn on_the_authoritys_host_revoking_is_enough() {
    let mut site = Site::quiet();
    let ca = site.dir.join("ca");
    site.write_configs(&format!("[ca]\ndir = \"{}\"\n{}", ca.display(), site.default_grant()), None);
    site.start_daemon();
    site.source("db", SLOW_BYTES);
    let mut push = site.start_push("db", "in/db", &SLOW);
    push.until_transferred(1 << 20);
    let since = Instant::now();
    revoke(&ca, "east");
    wait_for("the end of the session", 5, || site.log().contains("session closed"));
    eprintln!("a revoked identity's session was cut after {} ms", since.elapsed().as_millis());
    assert!(site.log().contains("took over"), "{}", site.log());
    push.wait(20).must(4).says(&["revoked"]);
    site.push("db", "in/db", &[]).must(4).says(&["revoked"]);
}

fn a_revoked_peer_is_cut_from_the_command_that_dialled_it() {
    let site = Site::new();
    site.source("db", SLOW_BYTES);
    let mut push = site.start_push("db", "in/db", &SLOW);
    push.until_transferred(1 << 20);
    revoke(&site.dir.join("ca"), "west");
    let since = Instant::now();
    // At the sender alone: nothing that the receiver does ends it.
    put(&site.dir.join("east/crl.pem"), &fs::read(site.dir.join("ca/crl.pem")).unwrap());
    let done = push.wait(20).must(4);
    eprintln!("a revoked peer was cut, and the command ended, after {} ms", since.elapsed().as_millis());
    done.says(&["west: the peer's certificate is revoked", "a connection is cut: the peer's certificate is revoked"]);
    assert!(!exists(&site.w("in/db")) || snapshots(&site.w("in/db")).is_empty(), "it got through all the same");
}

/// Waits until west has read its files again since its log had this length.
fn until_read_again(site: &Site, before: usize) {
    wait_for("west to read its files again", 5, || site.log()[before..].contains("were read again"));
    // A change in the middle of that is read a moment later.
    sleep(Duration::from_millis(400));
}

fn a_ca_is_replaced_under_a_running_transfer() {
    let mut site = Site::quiet();
    site.write_configs(&grants(&site), None);
    site.start_daemon();
    let proxy = Proxy::to(site.port, &[]);
    site.write_configs(&grants(&site), Some(proxy.port));
    let (old, east, west) = (site.dir.join("ca"), site.dir.join("east"), site.dir.join("west"));
    // One node is forgotten, and nobody renews its certificate.
    let north = site.dir.join("north");
    issue(&old, "north", &north);
    let (db, slow) = (site.source("db", 3 * SLOW_BYTES), &SLOW[..]);
    site.source("left", 3 * SLOW_BYTES);
    let mut push = site.start_push("db", "in/db", slow);
    push.until_transferred(1 << 20);
    let send = await_zfs_child(push.pid(), "send");
    let receive = await_zfs_child(site.daemon_pid(), "receive");
    let mut left = site.start_push("left", "in/left", &[slow, &["--identity-dir", &north.to_string_lossy()]].concat());
    left.until_transferred(1 << 20);
    let former = site.dir.join("former-east");
    fs::create_dir(&former).unwrap();
    for file in ["ca.pem", "crl.pem", "node.pem", "node.key"] {
        fs::copy(east.join(file), former.join(file)).unwrap();
    }

    // 1: a new authority. 2: every node trusts both.
    let new = make_ca(&site.dir, "new-ca");
    let before = site.log().len();
    for node in [&east, &west, &north] {
        put(&node.join("crl.pem"), &concat(&[&old.join("crl.pem"), &new.join("crl.pem")]));
        put(&node.join("ca.pem"), &concat(&[&old.join("ca.pem"), &new.join("ca.pem")]));
    }
    until_read_again(&site, before);
    // 3: every node but one gets a certificate of the new one.
    let before = site.log().len();
    for (name, node) in [("east", &east), ("west", &west)] {
        let (ca, out) = (new.to_string_lossy().into_owned(), node.to_string_lossy().into_owned());
        zmigrate(&["ca", "issue", name, "--dir", &ca, "--out", &out, "--renew"]).must(0);
    }
    until_read_again(&site, before);
    assert!(!site.log().contains("a connection is cut"), "{}", site.log());
    assert!(!push.has_ended() && !left.has_ended(), "the transfers ended before the old authority was removed");
    // 4: nobody trusts the old one any more.
    let (before, dialled) = (site.log().len(), proxy.accepted());
    for node in [&east, &west] {
        put(&node.join("ca.pem"), &fs::read(new.join("ca.pem")).unwrap());
        put(&node.join("crl.pem"), &fs::read(new.join("crl.pem")).unwrap());
    }
    until_read_again(&site, before);
    // Connections of the old certificates are cut; who has a new one dials again with it and goes on, who has none ends.
    wait_for("the new connections", 10, || proxy.accepted() > dialled);
    assert!(
        site.log()[before..].contains("a connection is cut: the peer's certificate was issued by a CA that is not")
    );
    left.wait(20).must(4).says(&["does not know the CA that issued it"]);
    let at = push.transferred();
    push.until_transferred(at + (2 << 20));
    // And so it does after a lost link.
    let dialled = proxy.accepted();
    proxy.cut_now();
    wait_for("the connections after the cut", 10, || proxy.accepted() > dialled);
    push.until_transferred(at + (5 << 20));
    assert_eq!(zfs_child(push.pid(), "send"), Some(send), "zfs send was started again");
    assert_eq!(zfs_child(site.daemon_pid(), "receive"), Some(receive), "zfs receive was started again");
    push.wait(60).must(0);
    site.assert_equal(&db, &site.w("in/db"));
    // The old authority's certificates are refused now, by both sides.
    let before = site.log().len();
    assert!(exchange(&mut dial(site.port, Some(&former)), b"ZMIG").is_err());
    wait_for("the refusal", 2, || site.log()[before..].contains("issued by a CA that is not in ca.pem here"));
    site.push("db", "in/db", &["--identity-dir", &former.to_string_lossy()]).must(4).says(&["issued by a CA"]);
    site.push("db", "in/db", &[]).must(0);
}
