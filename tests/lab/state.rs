//! `zmigrate state` and `zmigrate doctor` on OpenZFS: bookmarks and holds are listed, and let go of.

use serde_json::Value;

use crate::{Case, guest::Guest, world::World};

pub const CASES: &[Case] = &[
    ("state_lists_and_releases", state_lists_and_releases),
    ("state_stale_spares_the_base", state_stale_spares_the_base),
    ("state_of_an_interrupted_receive", state_of_an_interrupted_receive),
    ("doctor_of_two_guests", doctor_of_two_guests),
];

/// `kind standing name` of each item at and below a dataset.
#[track_caller]
fn items(w: &World, guest: Guest, dataset: &str) -> Vec<String> {
    let run = w.zmigrate(guest, &format!("state list {dataset}")).must_be(0);
    assert_eq!(run.report["holds_listed"], true, "{}", run.out);
    let text = |item: &Value, key: &str| item[key].as_str().unwrap_or("-").to_owned();
    let all = run.report["items"].as_array().into_iter().flatten();
    all.map(|i| format!("{} {} {}", text(i, "kind"), text(i, "standing"), text(i, "name"))).collect()
}

fn state_lists_and_releases(w: &World) {
    let pair = w.pair("state", 2);
    w.change(&pair, "s1", 10);
    w.push(&pair, "");
    w.change(&pair, "s2", 10);
    w.push(&pair, "");
    let job = w.two.get(&pair.target, "zmigrate:job");
    let guid = w.one.get(&format!("{}@s2", pair.source), "guid");
    let (source, target) = (&pair.source, &pair.target);
    let bookmark = format!("{source}#zmigrate:{job}:{guid}");
    assert_eq!(items(w, w.one, source), [format!("bookmark base {bookmark}")]);
    let expected = [format!("hold base {target}@s2"), format!("job mark {target}"), format!("held mark {target}")];
    assert_eq!(items(w, w.two, target), expected);
    // The age is that of the snapshot, also once that is gone.
    w.one.sh(&format!("zfs destroy {source}@s2"));
    let run = w.zmigrate(w.one, &format!("state list {source}")).must_be(0);
    let item = &run.report["items"][0];
    assert!(item["created_unix_s"].as_u64().unwrap() > 1_700_000_000 && item["snapshot"].is_null(), "{}", run.out);
    // Shown, then done; what is not ours stays.
    w.one.sh(&format!("zfs bookmark {source}@s1 {source}#mine; zfs hold keep {source}@s1"));
    w.zmigrate(w.one, &format!("state release --job {job} {source}")).must_be(0);
    assert_eq!(items(w, w.one, source).len(), 1);
    w.zmigrate(w.one, &format!("state release '{bookmark}' --yes")).must_be(0);
    assert_eq!(w.one.bookmarks(source), [format!("{source}#mine")]);
    w.one.sh(&format!("zfs release keep {source}@s1; zfs destroy {source}#mine"));
    w.zmigrate(w.two, &format!("state release --job {job} {target} --yes")).must_be(0);
    assert_eq!(items(w, w.two, target), Vec::<String>::new());
    // Free to go, together with what was written by it.
    w.two.sh(&format!("zfs rollback -r {target}@s1"));
    // Both sides still have @s1, so the next run goes on from there.
    w.change(&pair, "s3", 10);
    let run = w.push(&pair, "");
    assert!(run.steps()[0]["from"].as_str().is_some_and(|from| from.ends_with("@s1")), "{}", run.out);
    w.same(&pair, "s3");
}

fn state_stale_spares_the_base(w: &World) {
    let pair = w.pair("state-stale", 2);
    w.change(&pair, "s1", 10);
    w.change(&pair, "s2", 10);
    w.push(&pair, "");
    let (source, target) = (&pair.source, &pair.target);
    let job = w.two.get(target, "zmigrate:job");
    // As a run leaves it that died between two of its steps.
    let old = w.one.get(&format!("{source}@s1"), "guid");
    w.one.sh(&format!("zfs bookmark {source}@s1 '{source}#zmigrate:{job}:{old}'"));
    w.two.sh(&format!("zfs hold zmigrate:{job} {target}@s1"));
    let stale = w.zmigrate(w.one, &format!("state release --stale {source} --yes")).must_be(0);
    assert_eq!(stale.report["items"].as_array().map(Vec::len), Some(1), "{}", stale.out);
    w.zmigrate(w.two, &format!("state release --stale {target} --yes")).must_be(0);
    assert_eq!(w.two.holds(target), [format!("{target}@s2 zmigrate:{job}")]);
    let base = w.one.get(&format!("{source}@s2"), "guid");
    assert_eq!(w.one.bookmarks(source), [format!("{source}#zmigrate:{job}:{base}")]);
}

fn state_of_an_interrupted_receive(w: &World) {
    let pair = w.pair("state-partial", 10);
    w.change(&pair, "s1", 10);
    let (source, target) = (&pair.source, &pair.target);
    // Without zmigrate: a receive whose stream ends early keeps its state.
    w.one.sh(&format!("zfs send {source}@s1 >/root/zmlab/stream"));
    w.one.sh(&format!("zfs create -p tank/dst; head -c 8M /root/zmlab/stream | zfs receive -s -u {target} || true; rm /root/zmlab/stream"));
    let listed = items(w, w.one, target);
    assert_eq!(listed, [format!("partial waiting {target}/%recv")]);
    w.zmigrate(w.one, &format!("state release '{target}/%recv'")).must_be(0);
    assert_eq!(items(w, w.one, target), listed);
    w.zmigrate(w.one, &format!("state release '{target}/%recv' --yes")).must_be(0);
    w.one.sh(&format!("! zfs list {target} 2>/dev/null"));
}

fn doctor_of_two_guests(w: &World) {
    let run = w.zmigrate(w.one, &format!("doctor {}", w.two.name()));
    let checks = run.report["checks"].as_array().cloned().unwrap_or_default();
    assert!(checks.iter().all(|c| c["level"] != "fail"), "{}", run.out);
    let version = w.one.sh("zfs version | head -n 1");
    assert_eq!(format!("zfs-{}", run.report["facts"]["zfs_userland"].as_str().unwrap_or("")), version);
    let says = |topic: &str, words: &str| {
        checks.iter().any(|c| c["topic"] == topic && c["message"].as_str().is_some_and(|m| m.contains(words)))
    };
    assert!(says("peer zfs", "tools and kernel module") && says("peer pool", "tank is ONLINE"), "{}", run.out);
    assert!(says("zfs", "before 2.2.10, 2.3.8 or 2.4.3") || !version.contains("-2.3.2"), "{}", run.out);
}
