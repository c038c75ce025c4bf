//! SIGHUP: grants, certificates and revocations change under a running transfer.

use std::time::Instant;

use crate::{
    Case, cases,
    safety::{SLOW, SLOW_BYTES},
    site::Site,
    zfs::{exists, snapshots},
};

pub fn cases() -> Vec<Case> {
    cases![
        a_new_grant_counts_at_once,
        a_broken_configuration_changes_nothing,
        a_revoked_identity_is_cut_off,
        a_grant_that_is_taken_away,
    ]
}

fn a_new_grant_counts_at_once() {
    let site = Site::new();
    let db = site.source("db", SLOW_BYTES);
    site.source("other", 1000);
    let mut push = site.start_push("db", "in/db", &SLOW);
    push.until_transferred(1 << 20);
    site.push("other", "new/other", &[]).must(4);
    site.write_configs(&format!("[grant.east]\npush = [\"{0}/in\", \"{0}/new\"]\n", site.west), None);
    site.reload();
    site.push("other", "new/other", &[]).must(0);
    assert!(!push.has_ended(), "the transfer ended before anything was reloaded");
    push.wait(60).must(0);
    site.assert_equal(&db, &site.w("in/db"));
}

fn a_broken_configuration_changes_nothing() {
    let site = Site::new();
    let db = site.source("db", 1000);
    for broken in ["[grant.east]\npush = [\"/\"]\n", "[grant.east]\npsh = [\"a\"]\n", "[grant"] {
        site.write_configs(broken, None);
        let log = site.reload();
        assert!(log.contains("the configuration does not load, so it stays as it was"), "{log}");
    }
    site.write_configs(&site.default_grant(), None);
    // Not reloaded: the old grants have been in force all along.
    site.push("db", "in/db", &[]).must(0);
    site.assert_equal(&db, &site.w("in/db"));
    site.push("db", "elsewhere/db", &[]).must(4);
}

fn a_revoked_identity_is_cut_off() {
    let site = Site::new();
    site.source("db", SLOW_BYTES);
    let mut push = site.start_push("db", "in/db", &SLOW);
    push.until_transferred(2 << 20);
    site.revoke("east");
    let since = Instant::now();
    site.signal_daemon(rustix::process::Signal::HUP);
    crate::process::wait_for("the end of the session", 5, || site.log().contains("session closed"));
    eprintln!("a revoked identity's session was cut {} ms after the signal", since.elapsed().as_millis());
    let done = push.wait(20).must(4);
    assert!(done.stderr.contains("revoked"), "{}", done.stderr);
    let target = site.w("in/db");
    assert!(!exists(&target) || snapshots(&target).is_empty(), "it got through all the same");
}

fn a_grant_that_is_taken_away() {
    let site = Site::new();
    site.source("db", 1000);
    site.push("db", "in/db", &[]).must(0);
    site.write_configs("", None);
    site.reload();
    site.push("db", "in/db", &[]).must(4).says(&["east has no grant"]);
}
