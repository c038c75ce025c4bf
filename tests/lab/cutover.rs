//! Cutovers on OpenZFS: filesystems and a volume as one unit, there and back, under a writer; a volume with a filesystem on it; and the
//! power of either guest cut in the middle.

mod disk;
mod postgres;
mod power;
pub mod writer;

use std::{
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, Instant},
};

use serde_json::Value;

use self::writer::{Declared, Writer};
use crate::{
    Case,
    guest::{Guest, Said},
    world::{DIR, World},
};

pub const CASES: &[Case] = &[
    ("cutover_of_a_tree_with_a_volume", tree_with_a_volume),
    ("cutover_under_a_writer", under_a_writer),
    ("cutover_rolled_back_gives_values_back", rolled_back_gives_values_back),
    ("cutover_waits_for_a_key", waits_for_a_key),
    ("cutover_held_with_hooks", held_with_hooks),
    ("cutover_of_a_volume_with_ext4", disk::with_ext4),
    ("cutover_of_postgresql_under_pgbench", postgres::moves_under_pgbench),
    ("cutover_power_cut_of_the_source", power::of_the_source),
    ("cutover_power_cut_of_the_target", power::of_the_target),
];

const KEPT: &[&str] = &["readonly", "canmount", "volmode", "snapdev", "setuid", "exec", "devices", "mountpoint"];

fn tree_with_a_volume(w: &World) {
    let (source, target) = ("tank/src/move", "tank/dst/move");
    w.one.sh(&format!(
        "zfs create -o setuid=off {source}; zfs create -o mountpoint=/srv/moved {source}/fs; zfs create -o canmount=noauto {source}/quiet; \
         zfs create -V 16M -o volmode=dev {source}/vol; udevadm settle; \
         for i in $(seq 600); do [ -b /dev/zvol/{source}/vol ] && break; sleep 0.1; done; \
         head -c 4M /dev/urandom >/{source}/noise; head -c 1M /dev/urandom >/srv/moved/noise; \
         head -c 2M /dev/urandom | dd of=/dev/zvol/{source}/vol bs=1M conv=fsync status=none"
    ));
    let names = ["", "/fs", "/quiet", "/vol"];
    let before: Vec<_> = names.iter().map(|n| w.one.properties(&format!("{source}{n}"), KEPT)).collect();
    let sums = "sha256sum <DIR/noise; sha256sum </srv/moved/noise; head -c 2M DEV | sha256sum";
    let sums = |guest: Guest, root: &str| {
        guest.sh(&sums.replace("DIR", &format!("/{root}")).replace("DEV", &format!("/dev/zvol/{root}/vol")))
    };
    let contents = sums(w.one, source);
    let done = cutover(w, &format!("start -r {source} node2:{target} --max-downtime 120s"));
    eprintln!("lab:   downtime {} ms, predicted {} ms", done["downtime_ms"], done["predicted_downtime_ms"]);
    assert_eq!(done["result"], "done", "{done}");
    let id = done["id"].as_str().unwrap();
    // Nobody can write to what was left.
    for name in names {
        assert_eq!(w.one.get(&format!("{source}{name}"), "readonly"), "on");
    }
    w.one.sh(&format!("[ ! -e /dev/zvol/{source}/vol ]"));
    for name in ["", "/fs", "/quiet"] {
        assert_eq!(w.one.get(&format!("{source}{name}"), "mounted"), "no");
    }
    assert_eq!(contents, sums(w.two, target), "the target serves the same");
    w.two.sh(&format!(
        "touch /{target}/new /srv/moved/new; echo changed | dd of=/dev/zvol/{target}/vol conv=notrunc,fsync status=none"
    ));
    let contents = sums(w.two, target);
    let back = cutover(w, &format!("back {id}"));
    assert_eq!(back["result"], "done", "{back}");
    assert_eq!(contents, sums(w.one, source), "home again with what was written meanwhile");
    w.one.sh(&format!("[ -e /{source}/new ] && [ -e /srv/moved/new ]"));
    let after: Vec<_> = names.iter().map(|n| w.one.properties(&format!("{source}{n}"), KEPT)).collect();
    assert_eq!(after, before, "each property is what it was, with its source");
}

/// Without its key a copy could not come up, so nothing is stopped for it: neither a filesystem nor a volume. With them it goes there
/// and comes home.
fn waits_for_a_key(w: &World) {
    let (source, target) = ("tank/src/keyless", "tank/dst/keyless");
    w.one.sh(&format!(
        "zfs create -o encryption=aes-256-gcm -o keyformat=raw -o keylocation=file://{DIR}/key {source}; \
         zfs create -V 8M {source}/vol; head -c 1M /dev/urandom >/{source}/noise; zfs snapshot {source}@first"
    ));
    let asks = |args: &str| {
        let run = w.zmigrate(w.one, &format!("cutover {args}")).must_be(9);
        let needs = run.report["needs"].as_str().unwrap_or_default().to_owned();
        assert!(needs.contains("is not loaded there") && needs.contains("zfs load-key"), "{}", run.out);
        assert!(run.report["downtime_ms"].is_null(), "{}", run.out);
        w.one.sh(&format!("touch /{source}/writable"));
        (run.report["id"].as_str().unwrap().to_owned(), needs)
    };
    let (id, needs) = asks(&format!("start -r {source} node2:{target} --max-downtime 120s --tries 1"));
    assert!(needs.contains(&format!("the key of {target}")), "{needs}");
    let key = w.one.sh(&format!("base64 -w0 {DIR}/key"));
    w.two.sh(&format!("echo {key} | base64 -d >{DIR}/key1; zfs load-key -L file://{DIR}/key1 {target}"));
    // What came raw has a key of its own for each dataset.
    let run = w.zmigrate(w.one, &format!("cutover resume {id}")).must_be(9);
    assert!(
        run.report["needs"].as_str().unwrap_or_default().contains(&format!("the key of {target}/vol")),
        "{}",
        run.out
    );
    w.two.sh(&format!("zfs load-key -L file://{DIR}/key1 {target}/vol"));
    assert_eq!(cutover(w, &format!("resume {id}"))["result"], "done");
    assert_eq!(w.two.sh(&format!("sha256sum </{target}/noise")), {
        w.one.sh(&format!("zfs get -H -o value readonly {source} | grep -qx on"));
        w.two.sh(&format!("[ -e /{target}/writable ] && [ -b /dev/zvol/{target}/vol ] && sha256sum </{target}/noise"))
    });
    // Home again: there the volume inherits its key, and here it has one of its own.
    w.two.sh(&format!("head -c 2M /dev/urandom >/{target}/later; head -c 1M /{target}/later | dd of=/dev/zvol/{target}/vol conv=notrunc,fsync status=none"));
    let sums = |guest: Guest, root: &str| {
        guest.sh(&format!(
            "sha256sum </{root}/noise; sha256sum </{root}/later; head -c 1M /dev/zvol/{root}/vol | sha256sum"
        ))
    };
    let contents = sums(w.two, target);
    assert_eq!(cutover(w, &format!("back {id}"))["result"], "done");
    assert_eq!(sums(w.one, source), contents);
    // And as after a boot, when the keys have to be loaded anew.
    w.one.sh(&format!(
        "zfs unmount {source}; zfs unload-key -r {source}; zfs load-key -r {source}; zfs mount {source}; udevadm settle; \
         for i in $(seq 600); do [ -b /dev/zvol/{source}/vol ] && break; sleep 0.1; done"
    ));
    assert_eq!(sums(w.one, source), contents);
    assert_eq!(w.one.get(&format!("{source}/vol"), "encryptionroot"), source);
}

/// Hooks that were declared while the daemons ran, and a dataset that came into being while it held.
fn held_with_hooks(w: &World) {
    let (source, target) = ("tank/src/held", "tank/dst/held");
    let hook = "[hook.app]\nstop = [\"/bin/sh\", \"-c\", \"echo stop >>DIR/app\"]\nstart = [\"/bin/sh\", \"-c\", \"echo start >>DIR/app\"]\n";
    let _declared = Declared::new(w, &hook.replace("DIR", DIR));
    for guest in [w.one, w.two] {
        guest.sh(&format!("rm -f {DIR}/app"));
    }
    w.one.sh(&format!("zfs create {source}; echo x >/{source}/x"));
    let running =
        w.start(w.one, &format!("cutover start {source} node2:{target} --hook app --hold --max-downtime 120s"));
    let phase = format!(
        "zmigrate --config {DIR}/zmigrate.toml cutover status --output json | python3 -c 'import json, sys; \
         c = [c for c in json.load(sys.stdin)[\"cutovers\"] if c[\"source\"] == \"{source}\"]; print(c[-1][\"id\"], c[-1][\"phase\"])'"
    );
    w.one.until(Duration::from_secs(120), &format!("{phase} | grep -q armed"));
    let id = w.one.sh(&phase).split(' ').next().unwrap().to_owned();
    w.one.sh(&format!("zfs create {source}/late; echo y >/{source}/late/y"));
    assert_eq!(cutover(w, &format!("go {id}"))["result"], "done");
    running.join().must_be(0);
    assert_eq!(
        (w.one.sh(&format!("cat {DIR}/app")), w.two.sh(&format!("cat {DIR}/app"))),
        ("stop".into(), "start".into())
    );
    w.two.sh(&format!("grep -qx x /{target}/x && grep -qx y /{target}/late/y && touch /{target}/late/new"));
    // There is nothing to break where it serves.
    let said =
        w.two.ask(&format!("zmigrate --config {DIR}/zmigrate.toml cutover break {id} --i-have-destroyed-the-target"));
    assert_eq!(said.code, 3, "{}{}", said.out, said.err);
}

/// It goes on at the target, and at home again, without one record missing or doubled.
fn under_a_writer(w: &World) {
    let (source, target) = ("tank/src/story", "tank/dst/story");
    let writer = Writer::declare(w);
    writer.begin(source);
    let done = cutover(w, &format!("start {source} node2:{target} --hook writer --max-downtime 120s"));
    eprintln!("lab:   downtime {} ms, predicted {} ms", done["downtime_ms"], done["predicted_downtime_ms"]);
    assert_eq!(done["result"], "done", "{done}");
    assert_eq!(w.one.get(source, "readonly"), "on");
    assert_eq!(w.one.get(source, "mounted"), "no");
    writer.must_have_it_all("there", w.two, target);
    w.two.sh(&format!("ZMIGRATE_DATASETS={target} {DIR}/writer-start.sh"));
    writer.writes(w.two);
    let back = cutover(w, &format!("back {}", done["id"].as_str().unwrap()));
    assert_eq!(back["result"], "done", "{back}");
    assert_eq!((w.two.get(target, "readonly"), w.two.get(target, "mounted")), ("on".into(), "no".into()));
    writer.must_have_it_all("home again", w.one, source);
}

/// Starts a cutover whose leader waits at a point, and comes there. It goes on once its file is gone, or after a minute.
#[track_caller]
fn held_at(w: &World, point: &str, args: &str) -> JoinHandle<Said> {
    let script = format!(
        "touch {DIR}/pause; ZMIGRATE_PAUSE_AT={point} ZMIGRATE_PAUSE_FILE={DIR}/pause \
         zmigrate --config {DIR}/zmigrate.toml --output json cutover {args} 2>{DIR}/held.log"
    );
    w.one.sh(&format!("rm -f {DIR}/held.log"));
    let guest = w.one;
    let running = spawn(move || guest.ask(&script));
    let deadline = Instant::now() + Duration::from_secs(600);
    while w.one.ask(&format!("grep -q 'waits at {point}' {DIR}/held.log")).code != 0 {
        let log = || w.one.ask(&format!("cat {DIR}/held.log")).out;
        assert!(!running.is_finished() && Instant::now() < deadline, "{point} was not passed: {}", log());
        sleep(Duration::from_millis(200));
    }
    running
}

/// Values that were given, came in a stream, or are inherited, of a volume as well, once the fence was there.
fn rolled_back_gives_values_back(w: &World) {
    let (source, target) = ("tank/src/given", "tank/dst/given");
    w.one.sh(&format!(
        "zfs create -o setuid=off -o canmount=on -o readonly=off tank/src/seed; zfs create tank/src/seed/fs; \
         zfs create -V 16M -o volmode=dev -o readonly=off tank/src/seed/vol; zfs create -V 16M tank/src/seed/plain; \
         zfs snapshot -r tank/src/seed@s; zfs send -R tank/src/seed@s | zfs receive {source}; \
         for f in {source} {source}/fs; do [ $(zfs get -H -o value mounted $f) = yes ] || zfs mount $f; done; \
         zfs set exec=off {source}; zfs set readonly=off {source}/fs; udevadm settle; \
         for v in vol plain; do for i in $(seq 600); do [ -b /dev/zvol/{source}/$v ] && break; sleep 0.1; done; done"
    ));
    let names = ["", "/fs", "/vol", "/plain"];
    let look = || names.map(|n| w.one.properties(&format!("{source}{n}"), KEPT));
    let before = look();
    for (n, line) in [
        (0, "readonly=off received".to_owned()),
        (0, "exec=off local".to_owned()),
        (1, format!("setuid=off inherited from {source}")),
        (1, "readonly=off local".to_owned()),
        (2, "readonly=off received".to_owned()),
        (2, "volmode=dev received".to_owned()),
        (3, format!("readonly=off inherited from {source}")),
    ] {
        assert!(before[n].contains(&line), "no {line}: {:?}", before[n]);
    }
    let running = held_at(w, "lead:after:sync", &format!("start -r {source} node2:{target} --max-downtime 300s"));
    // The fence is set by now.
    for name in names {
        assert_eq!(w.one.properties(&format!("{source}{name}"), &["readonly"]), ["readonly=on local"]);
    }
    w.one.sh(&format!("[ ! -e /dev/zvol/{source}/vol ] && [ ! -e /dev/zvol/{source}/plain ]"));
    let id = w.one.sh(&format!("sed -n 's/.*cutover \\([0-9a-f]*\\): .*/\\1/p' {DIR}/held.log | head -n 1"));
    let abort = w.start(w.one, &format!("cutover abort {id}"));
    // The door itself is one, and who came in another.
    w.one.until(Duration::from_secs(60), &format!("[ $(grep -c 'lead-{id}.sock' /proc/net/unix) -gt 1 ]"));
    sleep(Duration::from_secs(1));
    w.one.sh(&format!("rm {DIR}/pause"));
    assert_eq!(abort.join().must_be(0).report["result"], "rolled_back");
    assert_eq!(running.join().unwrap().code, 8);
    assert_eq!(look(), before, "each property is what it was, with its source");
    w.one.sh(&format!(
        "touch /{source}/new /{source}/fs/new; for v in vol plain; do echo x | dd of=/dev/zvol/{source}/$v conv=notrunc,fsync status=none; done"
    ));
    w.two.sh(&format!("[ \"$(zfs get -H -o value mounted {target})\" = no ]"));
}

fn cutover(w: &World, args: &str) -> Value {
    w.zmigrate(w.one, &format!("cutover {args}")).must_be(0).report
}
