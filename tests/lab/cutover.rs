//! Cutovers on OpenZFS: filesystems and a volume as one unit, there and back; and the power of either guest cut in the middle.

use std::time::Duration;

use serde_json::Value;

use crate::{
    Case,
    guest::Guest,
    world::{DIR, World},
};

pub const CASES: &[Case] = &[
    ("cutover_of_a_tree_with_a_volume", tree_with_a_volume),
    ("cutover_waits_for_a_key", waits_for_a_key),
    ("cutover_held_with_hooks", held_with_hooks),
    ("cutover_power_cut_of_the_source", power_cut_of_the_source),
    ("cutover_power_cut_of_the_target", power_cut_of_the_target),
];

/// Points at which the power of the source's guest is cut, which leads as well. `ZMIGRATE_EACH_PHASE=1` takes all.
const SOURCE_POINTS: &[&str] = &[
    "host:after:fencing",
    "lead:after:promote",
    "host:after:quiescing",
    "act:after:fence",
    "act:after:final",
    "lead:after:sync",
    "lead:after:verify",
    "lead:after:activate",
    "host:after:released",
];
/// The same for the target's guest.
const TARGET_POINTS: &[&str] =
    &["host:after:promoted", "host:before:promoted", "act:before:activate", "act:after:activate", "host:after:active"];

/// How many of them are tried unless all are.
const TRIED: usize = 2;

fn points(all: &'static [&'static str]) -> &'static [&'static str] {
    if std::env::var_os("ZMIGRATE_EACH_PHASE").is_some() { all } else { &all[..TRIED] }
}

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
    let reload = |guest: Guest| {
        guest.sh(&format!(
            "from=$(wc -l <{DIR}/zmigrated.log); kill -HUP $(cat {DIR}/zmigrated.pid); for i in $(seq 600); do \
             tail -n +$((from + 1)) {DIR}/zmigrated.log | grep -q 'were read again' && exit 0; sleep 0.1; done; exit 1"
        ))
    };
    for guest in [w.one, w.two] {
        guest.sh(&format!(
            "rm -f {DIR}/app; cp {DIR}/zmigrate.toml {DIR}/before.toml; \
             printf '[hook.app]\\nstop = [\"/bin/sh\", \"-c\", \"echo stop >>{DIR}/app\"]\\nstart = [\"/bin/sh\", \"-c\", \"echo start >>{DIR}/app\"]\\n' \
             >>{DIR}/zmigrate.toml"
        ));
        reload(guest);
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
    for guest in [w.one, w.two] {
        guest.sh(&format!("mv {DIR}/before.toml {DIR}/zmigrate.toml"));
        reload(guest);
    }
}

fn cutover(w: &World, args: &str) -> Value {
    w.zmigrate(w.one, &format!("cutover {args}")).must_be(0).report
}

/// Leads from the first guest into a crash of one process at that point.
fn crash_at(w: &World, guest: Guest, point: &str, name: &str) {
    w.one.sh(&format!(
        "zfs create tank/src/{name}; for i in $(seq 200); do echo $i; done >/tank/src/{name}/records; sync /tank/src/{name}/records"
    ));
    let start = format!(
        "zmigrate --config {DIR}/zmigrate.toml cutover start tank/src/{name} node2:tank/dst/{name} --max-downtime 300s"
    );
    if guest == w.one {
        let said = w.one.ask(&format!("ZMIGRATE_CRASH_AT={point} {start}"));
        assert!(matches!(said.code, 137 | 255), "{point} was not passed: {}{}", said.out, said.err);
    } else {
        w.two.sh(&format!(
            "kill $(cat {DIR}/zmigrated.pid); while kill -0 $(cat {DIR}/zmigrated.pid) 2>/dev/null; do sleep 0.1; done"
        ));
        w.two.sh(&format!(
            "export ZMIGRATE_CRASH_AT={point}; setsid zmigrated -v --config {DIR}/zmigrate.toml >>{DIR}/zmigrated.log 2>&1 </dev/null & sleep 2"
        ));
        // It goes on by itself as soon as the target is back.
        w.one.sh(&format!("setsid {start} >{DIR}/start-{name}.log 2>&1 </dev/null & true"));
        w.two.until(Duration::from_secs(120), "! pgrep -x zmigrated");
    }
}

/// Cuts the power, and starts again what an administrator's boot would.
fn reset(w: &World, guest: Guest) {
    guest.lab("crash", &[]);
    guest.lab("boot", &[]);
    guest.sh("zpool list tank >/dev/null 2>&1 || zpool import -f tank");
    w.start_daemon(guest);
}

/// Waits until it is over, and sees that one side serves with every record.
fn settled(w: &World, point: &str, name: &str) {
    let status = format!("zmigrate --config {DIR}/zmigrate.toml cutover status --output json");
    w.one.until(
        Duration::from_secs(180),
        &format!(
            "{status} | python3 -c 'import json, sys; c = [c for c in json.load(sys.stdin)[\"cutovers\"] if c[\"source\"].endswith(\"/{name}\")]; \
             sys.exit(0 if c and c[-1][\"over\"] else 1)'"
        ),
    );
    let serves = |guest: Guest, dataset: &str| {
        guest.ask(&format!("[ \"$(zfs get -H -o value mounted {dataset})\" = yes ] && touch /{dataset}/.probe")).code
            == 0
    };
    let (one, two) = (format!("tank/src/{name}"), format!("tank/dst/{name}"));
    let (here, there) = (serves(w.one, &one), serves(w.two, &two));
    eprintln!("lab:   {point}: node{} serves", if here { 1 } else { 2 });
    assert!(here != there, "{point}: node1 serves: {here}, node2 serves: {there}");
    let (guest, dataset) = if here { (w.one, one) } else { (w.two, two) };
    assert_eq!(guest.sh(&format!("sha256sum </{dataset}/records")), guest.sh("seq 200 | sha256sum"), "{point}");
}

fn power_cut_of_the_source(w: &World) {
    for (n, point) in points(SOURCE_POINTS).iter().enumerate() {
        let name = format!("cut-source-{n}");
        crash_at(w, w.one, point, &name);
        reset(w, w.one);
        settled(w, point, &name);
    }
}

fn power_cut_of_the_target(w: &World) {
    for (n, point) in points(TARGET_POINTS).iter().enumerate() {
        let name = format!("cut-target-{n}");
        crash_at(w, w.two, point, &name);
        reset(w, w.two);
        settled(w, point, &name);
    }
}
