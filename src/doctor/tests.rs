use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::{
    fake::{FakeZfs, Op},
    identity::ca::{Ca, IssueRequest, OnExisting},
    types::{Delegate, listing::Capabilities},
};

struct Ward {
    patient: Patient,
    zfs: FakeZfs,
    dir: tempfile::TempDir,
}

/// A host that is well: an identity, a current ZFS, one pool, one grant, root.
fn ward(userland: Option<&str>, kernel: Option<&str>) -> Ward {
    let dir = tempfile::tempdir().unwrap();
    let (ca, now) = (dir.path().join("ca"), When::now());
    Ca::init(&ca, 3650, now).unwrap();
    let out_dir = dir.path().join("pki");
    let request = IssueRequest { name: "east".parse().unwrap(), out_dir, days: 365, on_existing: OnExisting::Refuse };
    Ca::issue(&ca, &request, now).unwrap();
    let text = format!(
        "state_dir = \"{0}\"\nruntime_dir = \"{0}\"\n[identity]\ndir = \"{0}/pki\"\n[zfs]\ncommand = \"/bin/true\"\n[grant.west]\npush = [\"tank/in\"]\npull = [\"tank/db\"]\n",
        dir.path().display()
    );
    let config = Config::parse(&text, "z.toml").unwrap();
    let mut can: Capabilities = FakeZfs::new(1).can();
    (can.userland_version, can.kernel_version) = (userland.map(str::to_owned), kernel.map(str::to_owned));
    let zfs = FakeZfs::with_capabilities(1, can);
    zfs.create(&"tank/in".parse().unwrap());
    zfs.create(&"tank/db".parse().unwrap());
    let patient = Patient { config, zfs: Arc::new(zfs.clone()), now, user: User::default() };
    Ward { patient, zfs, dir }
}

fn well() -> Ward {
    ward(Some("2.4.4-1"), Some("2.4.4-1"))
}

async fn report(ward: &Ward) -> Report {
    examine(&ward.patient, None).await
}

/// The checks that are not OK.
fn bad(report: &Report) -> Vec<(&'static str, Level, &str)> {
    let bad = report.checks.iter().filter(|c| c.level != Level::Ok);
    bad.map(|c| (c.topic, c.level, c.message.as_str())).collect()
}

#[tokio::test]
async fn a_host_that_is_well() {
    let ward = well();
    let report = report(&ward).await;
    assert_eq!(bad(&report), []);
    assert_eq!((report.result, report.exit_code), ("ok", 0));
    let topics: std::collections::BTreeSet<_> = report.checks.iter().map(|c| c.topic).collect();
    assert_eq!(topics, ["allow", "clock", "config", "dirs", "grants", "identity", "pool", "zfs"].into());
    let json = serde_json::to_value(&report).unwrap();
    let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["checks", "exit_code", "facts", "peer", "result"]);
    let check: Vec<&str> = json["checks"][0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(check, ["exit_code", "hint", "level", "message", "topic"]);
    assert_eq!(json["checks"][0]["level"], "ok");
    assert_eq!(json["facts"], serde_json::json!({"zfs_userland": "2.4.4-1", "zfs_kernel": "2.4.4-1"}));
}

#[tokio::test]
async fn known_bugs_and_halves_of_an_update_are_warnings() {
    let old = report(&ward(Some("2.3.7-1~bpo12+1"), Some("2.3.7-1~bpo12+1"))).await;
    assert_eq!((old.result, old.exit_code), ("warnings", WARNINGS));
    assert!(bad(&old).iter().any(|(.., m)| m.starts_with("before 2.2.10, 2.3.8 or 2.4.3:")), "{:?}", bad(&old));
    let half = report(&ward(Some("2.4.4-1"), Some("2.4.5-1"))).await;
    assert_eq!(bad(&half), [("zfs", Level::Warn, "the tools are 2.4.4-1 and the kernel module is 2.4.5-1")]);
    let none = report(&ward(Some("2.4.4-1"), None)).await;
    assert_eq!((bad(&none)[0].1, none.exit_code), (Level::Fail, 6));
    assert!(bad(&report(&ward(None, None)).await)[0].2.contains("zfs-fuse"));
    assert!(bad(&report(&ward(Some("x"), Some("x"))).await)[0].2.contains("not understood"));
}

#[tokio::test]
async fn a_pool_that_does_not_answer_is_told_and_not_asked() {
    let ward = well();
    ward.zfs.set_health("tank", "SUSPENDED");
    let report = report(&ward).await;
    assert_eq!(bad(&report), [("pool", Level::Fail, "tank is SUSPENDED")]);
    assert_eq!(report.exit_code, 6);
    assert_eq!(ward.zfs.count(Op::Capabilities), 0);
    let none = FakeZfs::new(1);
    let patient = Patient { zfs: Arc::new(none), ..ward.patient };
    assert!(bad(&examine(&patient, None).await).iter().any(|(.., m)| *m == "no pool is imported"));
}

#[test]
fn health_and_space_of_pools() {
    let look = |health: &str, used: u64, readonly: bool| {
        let mut checks = Checks::default();
        let (name, health) = ("p".to_owned(), health.to_owned());
        let (used, available) = (Some(used), Some(100 - used));
        let readonly = Some(readonly);
        let pool = crate::types::PoolStatus { name, health, readonly, full_percent: None, used, available };
        zfs::pool(&mut checks, "pool", &pool);
        checks.list.iter().map(|c| c.level).collect::<Vec<_>>()
    };
    use Level::{Fail, Ok, Warn};
    assert_eq!(look("ONLINE", 89, false), [Ok]);
    assert_eq!(look("ONLINE", 90, false), [Warn]);
    assert_eq!(look("ONLINE", 98, false), [Fail]);
    assert_eq!(look("DEGRADED", 1, false), [Warn, Ok]);
    assert_eq!(look("FAULTED", 1, false), [Fail]);
    assert_eq!(look("ONLINE", 1, true), [Warn, Ok]);
}

#[tokio::test]
async fn a_key_that_others_read_and_an_end_that_is_near() {
    let ward = well();
    let key = ward.dir.path().join("pki/node.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let found = report(&ward).await;
    assert_eq!((bad(&found).len(), bad(&found)[0].0, found.exit_code), (1, "identity", 4));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let later = |days: u64| Patient {
        now: ward.patient.now.after(Duration::from_secs(days * 86_400)),
        config: ward.patient.config.clone(),
        zfs: Arc::clone(&ward.patient.zfs),
        user: User::default(),
    };
    let soon = examine(&later(340), None).await;
    assert_eq!((bad(&soon)[0].0, bad(&soon)[0].1, soon.exit_code), ("identity", Level::Warn, WARNINGS));
    let over = examine(&later(366), None).await;
    assert_eq!((bad(&over)[0].0, bad(&over)[0].1, over.exit_code), ("identity", Level::Fail, 4));
    let past = Patient { now: When::from_unix_s(1000), ..later(0) };
    let past = examine(&past, None).await;
    // The first to be mended decides: the certificate is not valid yet, because the clock is wrong.
    assert!(bad(&past).iter().any(|(topic, level, _)| (*topic, *level) == ("clock", Level::Fail)));
    assert_eq!(past.exit_code, past.checks.iter().find(|c| c.level == Level::Fail).unwrap().exit_code);
}

/// Nobody can write to what a verification has mounted read-only, and nobody is to be given it. Here a link to nowhere stands for
/// it, which not even root can write to.
#[tokio::test]
async fn what_a_verification_lays_open_is_nobody_elses_file() {
    let ward = well();
    let views = ward.dir.path().join("views");
    std::fs::create_dir(&views).unwrap();
    std::os::unix::fs::symlink("nowhere", views.join("0123456789abcdef.at")).unwrap();
    assert_eq!(bad(&report(&ward).await), []);
    std::os::unix::fs::symlink("nowhere", views.join("0123456789abcdef")).unwrap();
    let found = report(&ward).await;
    assert_eq!((bad(&found).len(), bad(&found)[0].0), (1, "dirs"));
}

/// What the hint makes must not be in the way of the push that it is for.
#[tokio::test]
async fn a_place_that_is_missing_may_be_made_by_the_push_itself() {
    let ward = well();
    ward.zfs.destroy(&"tank/in".parse().unwrap());
    let found = report(&ward).await;
    let check = found.checks.iter().find(|c| c.topic == "grants" && c.level == Level::Warn).unwrap();
    let hint = check.hint.as_deref().unwrap();
    assert!(hint.contains("below it: zfs create") && hint.contains("a push to tank/in itself makes it"), "{hint}");
}

#[tokio::test]
async fn a_user_that_may_not_do_what_is_granted() {
    let mut ward = well();
    ward.patient.user = User { uid: 900, names: vec!["zm".into(), "900".into()], groups: vec!["staff".into()] };
    let found = report(&ward).await;
    assert_eq!(found.exit_code, 6);
    assert_eq!(bad(&found).len(), 2);
    assert_eq!(
        bad(&found)[1].2,
        "zm may not do send, hold, release, bookmark, destroy on tank/db, which `pull` of it needs"
    );
    let hint = found.checks.iter().filter_map(|c| c.hint.as_deref()).find(|h| h.contains("tank/db")).unwrap();
    assert_eq!(hint, "as root: zfs allow -u zm send,hold,release,bookmark,destroy tank/db");
    let (db, into) = ("tank/db".parse().unwrap(), "tank/in".parse().unwrap());
    ward.zfs.allow(&db, Delegate::Group("staff".into()), &["send", "hold", "release"]);
    ward.zfs.allow(&db, Delegate::User("900".into()), &["bookmark", "destroy"]);
    ward.zfs.allow(&db, Delegate::User("other".into()), &["rollback"]);
    ward.zfs.allow(
        &into,
        Delegate::Everyone,
        &[
            "create", "mount", "receive", "hold", "release", "userprop", "readonly", "canmount", "setuid", "exec",
            "devices", "destroy", "volmode", "snapdev",
        ],
    );
    let found = report(&ward).await;
    assert_eq!(bad(&found), [("allow", Level::Warn, "zm may not do rollback on tank/in; what needs it will fail")]);
}

#[tokio::test]
async fn a_grant_of_nothing_that_is_there() {
    let ward = well();
    ward.zfs.destroy(&"tank/db".parse().unwrap());
    let found = report(&ward).await;
    assert_eq!(bad(&found), [("grants", Level::Warn, "pull of tank/db is granted, and there is no such dataset")]);
}

#[tokio::test]
async fn the_report_fits_into_80_columns_and_carries_no_control_characters() {
    let mut checks = Checks::default();
    checks.ok("peer grant", "push of a\x1b[2Jb");
    checks.fail("peer", FailureClass::Unreachable, "word ".repeat(40), "do ".repeat(60));
    checks.warn("zfs", "short", "and what to do");
    let report = checks.report(Some("west".into()));
    let text = text(&report, false);
    assert!(text.lines().all(|line| line.chars().count() <= 80) && !text.contains('\x1b'), "{text}");
    assert_eq!((report.result, report.exit_code), ("failed", 5));
    assert!(text.ends_with("1 failed, 1 warnings, 1 OK; mend what failed first first"), "{text}");
    let quiet = super::text(&report, true);
    assert!(!quiet.contains("peer grant") && quiet.contains("short"));
}

/// Not the highest code: what failed later may be only a consequence of what failed first.
#[test]
fn the_first_failure_decides_and_warnings_only_where_nothing_failed() {
    let ends = |found: &[Option<FailureClass>]| {
        let mut checks = Checks::default();
        checks.ok("a", "as it should be");
        for class in found {
            match class {
                Some(class) => checks.fail("b", *class, "does not work", "mend it"),
                None => checks.warn("c", "works for now", "look at it"),
            }
        }
        let report = checks.report(None);
        (report.result, report.exit_code)
    };
    let (zfs, far) = (Some(FailureClass::Zfs), Some(FailureClass::Unreachable));
    assert_eq!(ends(&[zfs, far]), ("failed", 6));
    assert_eq!(ends(&[far, zfs]), ("failed", 5));
    assert_eq!(ends(&[None, far, None, zfs]), ("failed", 5));
    assert_eq!(ends(&[zfs, None]), ("failed", 6));
    assert_eq!(ends(&[None, None]), ("warnings", WARNINGS));
    assert_eq!(ends(&[]), ("ok", 0));
}

#[tokio::test]
async fn what_jobs_name_is_looked_at_as_what_is_granted_is() {
    let ward = well();
    let jobs = |text: &str| {
        let dir = ward.dir.path().display();
        let head = format!(
            "state_dir = \"{dir}\"\nruntime_dir = \"{dir}\"\n[identity]\ndir = \"{dir}/pki\"\n[zfs]\ncommand = \"/bin/true\"\n"
        );
        let config = Config::parse(&format!("{head}[peer.far]\naddress = \"far.example\"\n{text}"), "z.toml").unwrap();
        let user = User { uid: 900, names: vec!["zm".into()], groups: Vec::new() };
        Patient { config, zfs: Arc::clone(&ward.patient.zfs), now: ward.patient.now, user }
    };
    let none = examine(&jobs(""), None).await;
    let allow: Vec<_> = none.checks.iter().filter(|c| c.topic == "allow").map(|c| c.message.as_str()).collect();
    assert_eq!(allow, ["no permission was checked: no grant and no job names a dataset that is there"]);

    let push = "[job.db]\ndirection = \"push\"\ndataset = \"tank/db\"\npeer = \"far\"\ntarget = \"x/db\"\n";
    let found = examine(&jobs(push), None).await;
    assert_eq!(
        bad(&found).last().unwrap().2,
        "zm may not do send, hold, release, bookmark, destroy, snapshot on tank/db, which job db needs"
    );
    let gone = examine(&jobs(&push.replace("tank/db", "tank/gone")), None).await;
    assert!(bad(&gone).iter().any(|(topic, level, text)| (*topic, *level) == ("jobs", Level::Warn)
        && *text == "job db names tank/gone, and there is no such dataset"));
    // The first run of a pull makes its target, so what is above it has to be allowed.
    let pull = "[job.db]\ndirection = \"pull\"\ndataset = \"x/db\"\npeer = \"far\"\ntarget = \"tank/in/new/db\"\n";
    let found = examine(&jobs(pull), None).await;
    let last = bad(&found).last().unwrap().2;
    assert!(
        last.starts_with("zm may not do create, mount,") && last.ends_with("on tank/in, which job db needs"),
        "{last}"
    );
}

#[test]
fn a_quota_that_is_used_up_is_found_though_the_pool_has_room() {
    let look = |used: u64, available: u64| {
        let mut checks = Checks::default();
        places::left(&mut checks, &"tank/in".parse().unwrap(), used, available);
        checks.list.into_iter().map(|check| (check.level, check.message)).collect::<Vec<_>>()
    };
    assert_eq!(look(94 << 20, 6 << 20), []);
    assert_eq!(look(95 << 20, 5 << 20), [(Level::Warn, "a quota leaves tank/in 5.00 MiB free".to_owned())]);
    assert_eq!(look(100 << 20, 0), [(Level::Fail, "a quota leaves tank/in 0 B free".to_owned())]);
    assert_eq!(look(0, 0)[0].0, Level::Fail);
}
