use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Barrier, thread, time::Duration};

use super::*;
use crate::identity::{LoadedIdentity, Serial, Trust};

const DAY: Duration = Duration::from_secs(86_400);

fn start() -> When {
    When::from_unix_s(1_767_225_600)
}

fn peer(name: &str) -> PeerName {
    name.parse().unwrap()
}

fn request(name: &str, out_dir: &Path) -> IssueRequest {
    IssueRequest { name: peer(name), out_dir: out_dir.to_owned(), days: DEFAULT_DAYS, on_existing: OnExisting::Refuse }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn a_ca_and_a_node_from_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (dir, out) = (root.path().join("a/ca"), root.path().join("out"));
    let made = Ca::init(&dir, DEFAULT_CA_DAYS, start()).unwrap();
    assert_eq!(made.valid_until, start().after(3650 * DAY));
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join(CA_KEY_FILE)), 0o600);
    assert_eq!(made.ca_fingerprint_sha256.len(), 64);
    assert!(made.written.iter().all(|path| path.is_file()));

    let issued = Ca::issue(&dir, &request("dc1", &out), start()).unwrap();
    assert_eq!((issued.key, issued.other_cas_kept), (KeyOrigin::New, 0));
    assert_eq!(mode(&out.join(KEY_FILE)), 0o600);
    assert_eq!(issued.ca_fingerprint_sha256, made.ca_fingerprint_sha256);
    let id = LoadedIdentity::read(&out).unwrap();
    assert_eq!((id.own.name.as_str(), &id.own.serial), ("dc1", &issued.serial));
    assert_eq!((id.own.not_before, id.own.not_after), (start().before(BACKDATED), start().after(365 * DAY)));
    assert_eq!(id.trust.cas()[0].fingerprint_sha256, made.ca_fingerprint_sha256);
    assert!(id.trust.cas()[0].has_crl);
    assert_eq!(issued.serial.as_bytes().len(), 16);
}

#[test]
fn what_is_there_is_not_overwritten_unless_told() {
    let root = tempfile::tempdir().unwrap();
    let (dir, out) = (root.path().join("ca"), root.path().join("out"));
    Ca::init(&dir, DEFAULT_CA_DAYS, start()).unwrap();
    assert!(matches!(Ca::init(&dir, DEFAULT_CA_DAYS, start()), Err(IdentityError::CaExists { .. })));
    Ca::issue(&dir, &request("dc1", &out), start()).unwrap();
    let key = fs::read(out.join(KEY_FILE)).unwrap();
    let error = Ca::issue(&dir, &request("dc1", &out), start()).expect_err("there is a key");
    assert!(matches!(error, IdentityError::NodeKeyExists { .. }) && error.hint().unwrap().contains("--renew"));
    assert_eq!(Ca::list(&dir, start()).unwrap().certificates.len(), 1, "a refusal issues nothing");

    let later = start().after(300 * DAY);
    let renew = IssueRequest { on_existing: OnExisting::Renew, ..request("dc1", &out) };
    let renewed = Ca::issue(&dir, &renew, later).unwrap();
    assert_eq!(renewed.key, KeyOrigin::Kept);
    assert!(!renewed.written.contains(&out.join(KEY_FILE)));
    assert_eq!(fs::read(out.join(KEY_FILE)).unwrap(), key);
    assert_eq!(LoadedIdentity::read(&out).unwrap().own.not_after, later.after(365 * DAY));
    let other = IssueRequest { name: peer("dc2"), ..renew };
    assert!(matches!(Ca::issue(&dir, &other, later), Err(IdentityError::OtherNode { .. })));

    let replace = IssueRequest { on_existing: OnExisting::Replace, ..request("dc1", &out) };
    assert_eq!(Ca::issue(&dir, &replace, later).unwrap().key, KeyOrigin::New);
    assert_ne!(fs::read(out.join(KEY_FILE)).unwrap(), key);
    LoadedIdentity::read(&out).unwrap();
}

#[test]
fn renewing_where_nothing_is_makes_a_key() {
    let root = tempfile::tempdir().unwrap();
    let (dir, out) = (root.path().join("ca"), root.path().join("out"));
    Ca::init(&dir, DEFAULT_CA_DAYS, start()).unwrap();
    let renew = IssueRequest { on_existing: OnExisting::Renew, ..request("dc1", &out) };
    assert_eq!(Ca::issue(&dir, &renew, start()).unwrap().key, KeyOrigin::New);
    LoadedIdentity::read(&out).unwrap();
}

#[test]
fn revoking_takes_all_that_is_valid_and_the_number_grows() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("ca");
    Ca::init(&dir, DEFAULT_CA_DAYS, start()).unwrap();
    let issue = |name: &str, out: &str, days, now| {
        let request = IssueRequest { days, ..request(name, &root.path().join(out)) };
        Ca::issue(&dir, &request, now).unwrap().serial
    };
    let expired = issue("dc1", "a", 1, start());
    let now = start().after(2 * DAY);
    let (one, two, other) = (issue("dc1", "b", 365, now), issue("dc1", "c", 365, now), issue("dc2", "d", 365, now));

    let error = Ca::revoke(&dir, &peer("dc3"), now).expect_err("nobody of that name");
    assert_eq!(error.hint().unwrap(), "valid certificates are held by: dc1, dc2");

    let done = Ca::revoke(&dir, &peer("dc1"), now).unwrap();
    assert_eq!((done.revoked, done.crl_number), (vec![one.clone(), two.clone()], 2));
    let again = Ca::revoke(&dir, &peer("dc1"), now).unwrap();
    assert_eq!((again.revoked.len(), again.already_revoked.len(), again.crl_number), (0, 2, 2));
    assert_eq!(Ca::revoke(&dir, &peer("dc2"), now).unwrap().crl_number, 3);
    // What the CA's directory holds reads as trust: it has ca.pem and crl.pem.
    let trust = Trust::read(&dir).unwrap();
    assert_eq!([&expired, &one, &two, &other].map(|s: &Serial| trust.is_revoked(s)), [false, true, true, true]);

    // A node that is issued again is as good as new, and brings the newest list with it.
    let fresh = issue("dc1", "e", 365, now);
    let id = LoadedIdentity::read(&root.path().join("e")).unwrap();
    assert!(!id.trust.is_revoked(&fresh) && id.trust.is_revoked(&one));
    let states: Vec<_> = Ca::list(&dir, now).unwrap().certificates.iter().map(|c| c.state).collect();
    use CertState::{Expired, Revoked, Valid};
    assert_eq!(states, [Expired, Revoked, Revoked, Revoked, Valid]);
}

#[test]
fn a_crash_between_index_and_list_is_mended() {
    let root = tempfile::tempdir().unwrap();
    let (dir, out) = (root.path().join("ca"), root.path().join("out"));
    Ca::init(&dir, DEFAULT_CA_DAYS, start()).unwrap();
    let before = fs::read(dir.join(CRL_FILE)).unwrap();
    let serial = Ca::issue(&dir, &request("dc1", &root.path().join("a")), start()).unwrap().serial;
    Ca::revoke(&dir, &peer("dc1"), start()).unwrap();
    for crash in [Some(before), None] {
        match crash {
            Some(bytes) => fs::write(dir.join(CRL_FILE), bytes).unwrap(),
            None => fs::remove_file(dir.join(CRL_FILE)).unwrap(),
        }
        let _ = fs::remove_dir_all(&out);
        Ca::issue(&dir, &request("dc2", &out), start()).unwrap();
        assert!(LoadedIdentity::read(&out).unwrap().trust.is_revoked(&serial));
        assert!(Trust::read(&dir).unwrap().is_revoked(&serial));
    }
}

#[test]
fn a_certificate_does_not_outlive_its_ca() {
    let root = tempfile::tempdir().unwrap();
    let (dir, out) = (root.path().join("ca"), root.path().join("out"));
    Ca::init(&dir, 400, start()).unwrap();
    let error = Ca::issue(&dir, &request("dc1", &out), start().after(100 * DAY)).expect_err("the CA ends first");
    assert!(error.hint().unwrap().contains("--days 300"), "{error}");
    assert!(!out.exists());
    for days in [0, MAX_DAYS + 1] {
        let request = IssueRequest { days, ..request("dc1", &out) };
        assert!(matches!(Ca::issue(&dir, &request, start()), Err(IdentityError::BadValidity { .. })));
    }
    // The end of time does not overflow either.
    let end = When::from_unix_s(u64::MAX);
    Ca::init(&root.path().join("late"), MAX_DAYS, end).unwrap_or_else(|e| panic!("{e}: {:?}", e.hint()));
}

#[test]
fn a_directory_without_a_ca_says_what_is_missing() {
    let root = tempfile::tempdir().unwrap();
    let error = Ca::list(root.path(), start()).expect_err("it is empty");
    assert!(matches!(error, IdentityError::NoCa { missing: "ca.pem", .. }), "{error}");
    assert!(error.hint().unwrap().contains("zmigrate ca init"));
    let dir = root.path().join("ca");
    Ca::init(&dir, DEFAULT_CA_DAYS, start()).unwrap();
    fs::write(dir.join(INDEX_FILE), "{\"version\":2,\"crl_number\":1,\"certificates\":[]}").unwrap();
    assert!(Ca::list(&dir, start()).expect_err("a later version").to_string().contains("version 2"));
}

#[test]
fn two_at_once_lose_nothing() {
    const THREADS: usize = 4;
    const EACH: usize = 5;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("ca");
    Ca::init(&dir, DEFAULT_CA_DAYS, start()).unwrap();
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for t in 0..THREADS {
            let (dir, root, barrier) = (&dir, root.path(), &barrier);
            scope.spawn(move || {
                barrier.wait();
                for i in 0..EACH {
                    let name = format!("n{t}-{i}");
                    Ca::issue(dir, &request(&name, &root.join(&name)), start()).unwrap();
                    if i == 0 {
                        Ca::revoke(dir, &peer(&name), start()).unwrap();
                    }
                }
            });
        }
    });
    let listing = Ca::list(&dir, start()).unwrap();
    assert_eq!(listing.certificates.len(), THREADS * EACH);
    assert_eq!(listing.certificates.iter().filter(|c| c.state == CertState::Revoked).count(), THREADS);
    assert_eq!(listing.crl_number, 1 + THREADS as u64);
    let trust = Trust::read(&dir).unwrap();
    for cert in &listing.certificates {
        assert_eq!(trust.is_revoked(&cert.serial), cert.state == CertState::Revoked, "{}", cert.name);
    }
}

#[test]
fn what_people_and_programs_see() {
    let root = tempfile::tempdir().unwrap();
    let (dir, out) = (root.path().join("ca"), root.path().join("out"));
    let made = Ca::init(&dir, DEFAULT_CA_DAYS, start()).unwrap();
    let issued = Ca::issue(&dir, &request("dc1", &out), start()).unwrap();
    let shown = |text: String| {
        text.replace(&root.path().display().to_string(), "ROOT")
            .replace(&made.ca_fingerprint_sha256, "FINGERPRINT")
            .replace(&issued.serial.to_string(), "SERIAL")
    };
    insta::assert_snapshot!(shown(made.to_string()), @r"
    new CA in ROOT/ca, valid until 2035-12-30T00:00:00Z
    fingerprint sha256:FINGERPRINT
    keep ca.key in there secret, and keep a copy of the directory: who holds it can join the fleet
    ");
    insta::assert_snapshot!(shown(issued.to_string()), @r"
    certificate of dc1 valid until 2027-01-01T00:00:00Z, serial SERIAL
    wrote ROOT/out/ca.pem
    wrote ROOT/out/crl.pem
    wrote ROOT/out/node.key
    wrote ROOT/out/node.pem
    CA fingerprint sha256:FINGERPRINT
    ");
    insta::assert_snapshot!(shown(Ca::revoke(&dir, &peer("dc1"), start()).unwrap().to_string()), @r"
    revoked dc1, serial SERIAL
    wrote ROOT/ca/crl.pem (list number 2)
    it counts on each node once this file is its crl.pem; zmigrated notices that by itself
    ");
    let listing = Ca::list(&dir, start()).unwrap();
    insta::assert_snapshot!(shown(listing.to_string()), @r"
    CA in ROOT/ca, valid until 2035-12-30T00:00:00Z
    fingerprint sha256:FINGERPRINT
    NAME  STATE    UNTIL                 SERIAL
    dc1   revoked  2027-01-01T00:00:00Z  SERIAL
    ");
    insta::assert_snapshot!(shown(serde_json::to_string_pretty(&listing).unwrap()), @r#"
    {
      "dir": "ROOT/ca",
      "valid_until": "2035-12-30T00:00:00Z",
      "ca_fingerprint_sha256": "FINGERPRINT",
      "crl_number": 2,
      "certificates": [
        {
          "name": "dc1",
          "serial": "SERIAL",
          "state": "revoked",
          "not_before": "2025-12-31T23:50:00Z",
          "not_after": "2027-01-01T00:00:00Z",
          "revoked_at": "2026-01-01T00:00:00Z"
        }
      ]
    }
    "#);
}
