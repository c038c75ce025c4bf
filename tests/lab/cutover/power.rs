//! The power of either guest is cut in the middle of a cutover under a writer. One side serves at the end, with each acknowledged record; if
//! that is the source, both are what they were.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{held_at, writer::Writer};
use crate::{
    guest::Guest,
    world::{DIR, World},
};

/// Points at which the power of the source's guest is cut, which leads as well.
const SOURCE_POINTS: &[&str] = &[
    "lead:after:promote",
    "host:after:fencing",
    "host:after:quiescing",
    "act:after:fence",
    "act:after:final",
    "lead:after:sync",
    "lead:after:verify",
    "lead:after:activate",
    "host:after:released",
];
/// The first, which is always tried: the source is fenced, and the target is going to serve. What moves there has a volume.
const WITH_A_VOLUME: &str = SOURCE_POINTS[0];
/// Those before which its fence was set, all of it.
const FENCED: &[&str] = &[
    "lead:after:promote",
    "act:after:fence",
    "act:after:final",
    "lead:after:sync",
    "lead:after:verify",
    "lead:after:activate",
    "host:after:released",
];
/// The same for the target's guest, by what it does itself.
const TARGET_POINTS: &[&str] =
    &["host:after:promoted", "host:before:promoted", "act:before:activate", "act:after:activate", "host:after:active"];
/// And by the phase in which the leader is, who lives.
const TARGET_PHASES: &[&str] = &[
    "lead:after:sync",
    "lead:after:quiesce",
    "lead:after:fence",
    "lead:after:final",
    "lead:after:verify",
    "lead:after:promote",
    "lead:after:release",
];

/// What a rollback gives back, and what no pass changes at a copy.
const GIVEN_BACK: &[&str] = &["readonly", "canmount", "mountpoint", "zmigrate:fence", "zmigrate:serving"];

/// All of them with `ZMIGRATE_EACH_PHASE=1`; else the first, and one more that `ZMIGRATE_CRASH_SEED` (the day) picks.
fn points(all: &'static [&'static str]) -> Vec<&'static str> {
    if std::env::var_os("ZMIGRATE_EACH_PHASE").is_some() {
        return all.to_vec();
    }
    let day = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as usize / 86400;
    let said = std::env::var("ZMIGRATE_CRASH_SEED").ok();
    let seed = said.map_or_else(day, |s| s.parse().expect("ZMIGRATE_CRASH_SEED is a number"));
    let chosen = vec![all[0], all[1 + seed % (all.len() - 1)]];
    eprintln!("lab:   ZMIGRATE_CRASH_SEED={seed}: power cuts: {}", chosen.join(" "));
    chosen
}

/// Leads from the first guest into a crash of one process at that point.
fn crash_at(w: &World, guest: Guest, point: &str, args: &str) {
    let start = format!("zmigrate --config {DIR}/zmigrate.toml cutover {args}");
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
        w.one.sh(&format!("setsid {start} >>{DIR}/start.log 2>&1 </dev/null & true"));
        w.two.until(Duration::from_secs(120), "! pgrep -x zmigrated");
    }
}

fn start(name: &str) -> String {
    format!("start -r tank/src/{name} node2:tank/dst/{name} --hook writer --max-downtime 300s")
}

/// Starts what an administrator's boot would, but for the daemon.
fn boot(guest: Guest) {
    guest.lab("boot", &[]);
    guest.sh("zpool list tank >/dev/null 2>&1 || zpool import -f tank; zfs mount -a || true");
}

/// Nobody can write to what is fenced, before any daemon runs, not even one who mounts it by hand.
#[track_caller]
fn stays_fenced(guest: Guest, point: &str, dataset: &str) {
    let now = guest.properties(dataset, &["mounted", "readonly"]);
    assert_eq!(now, ["mounted=no -", "readonly=on local"], "{point}: after the boot");
    let probe = format!(
        "zfs mount {dataset}; if touch /{dataset}/.probe; then rc=1; else rc=0; fi; zfs unmount {dataset}; exit $rc"
    );
    assert_eq!(guest.ask(&probe).code, 0, "{point}: {dataset} can be written to after the boot");
}

/// Those after which the target has come up, and that is recorded: what it serves is for its host's boot to start.
const IS_UP: &[&str] = &["host:after:active", "lead:after:release"];

/// What a boot of the target's host starts by itself.
fn boot_target(w: &World, point: &str, name: &str) {
    boot(w.two);
    if IS_UP.contains(&point) {
        w.two.sh(&format!("ZMIGRATE_DATASETS=tank/dst/{name} {DIR}/writer-start.sh"));
    }
    w.start_daemon(w.two);
}

/// A new dataset with a writer in it, and its properties.
#[track_caller]
fn begin(w: &World, writer: &Writer<'_>, name: &str) -> Vec<String> {
    let source = format!("tank/src/{name}");
    writer.begin(&source);
    w.one.properties(&source, GIVEN_BACK)
}

/// After a rollback: the source has its properties again, and the target is the copy that passes made, if any did.
#[track_caller]
fn is_given_back(w: &World, point: &str, name: &str, before: &[String]) {
    assert_eq!(w.one.properties(&format!("tank/src/{name}"), GIVEN_BACK), before, "{point}: the source is as it was");
    let target = format!("tank/dst/{name}");
    if w.two.sh("zfs list -H -o name -d 1 tank/dst").lines().any(|line| line == target) {
        let copy =
            w.two.properties(&target, &["mounted", "readonly", "canmount", "zmigrate:fence", "zmigrate:serving"]);
        let expected = [
            "mounted=no -",
            "readonly=on local",
            "canmount=noauto local",
            "zmigrate:fence=- -",
            "zmigrate:serving=- -",
        ];
        assert_eq!(copy, expected, "{point}: the target is no more than a copy");
    }
}

/// A volume below what moves, and one beside it that no fence shuts.
struct Volumes<'a> {
    world: &'a World,
    name: &'a str,
    content: String,
}

impl<'a> Volumes<'a> {
    #[track_caller]
    fn create(world: &'a World, name: &'a str) -> Volumes<'a> {
        let (vol, beside) = (format!("tank/src/{name}/vol"), format!("tank/src/{name}-beside"));
        world.one.sh(&format!("zfs create -V 8M -o volmode=dev {vol}; zfs create -V 8M -o volmode=dev {beside}"));
        has_device(world.one, &beside);
        has_device(world.one, &vol);
        world.one.sh(&format!("head -c 1M /dev/urandom | dd of=/dev/zvol/{vol} bs=1M conv=fsync status=none"));
        let content = first_mib(world.one, &vol);
        Volumes { world, name, content }
    }

    /// The source's has no device, though its pool was imported long enough ago that the one beside it has.
    #[track_caller]
    fn stays_fenced(&self, point: &str) {
        let (one, vol) = (self.world.one, format!("tank/src/{}/vol", self.name));
        has_device(one, &format!("tank/src/{}-beside", self.name));
        let now = one.properties(&vol, &["volmode", "readonly"]);
        assert_eq!(now, ["volmode=none local", "readonly=on local"], "{point}: {vol}");
        assert_eq!(one.ask(&format!("[ ! -e /dev/zvol/{vol} ]")).code, 0, "{point}: {vol} has a device");
    }

    /// The target's copy has one, with what was written at the source.
    #[track_caller]
    fn is_served_by_the_target(&self, point: &str) {
        let vol = format!("tank/dst/{}/vol", self.name);
        has_device(self.world.two, &vol);
        assert_eq!(first_mib(self.world.two, &vol), self.content, "{point}: {vol}");
        self.world.two.sh(&format!("echo new | dd of=/dev/zvol/{vol} conv=notrunc,fsync status=none"));
    }
}

#[track_caller]
fn has_device(guest: Guest, volume: &str) {
    guest.until(Duration::from_secs(60), &format!("udevadm settle; [ -b /dev/zvol/{volume} ]"));
}

#[track_caller]
fn first_mib(guest: Guest, volume: &str) -> String {
    guest.sh(&format!("head -c 1M /dev/zvol/{volume} | sha256sum"))
}

/// Waits until it is over, and sees that one side serves, with every record. `before` is what [`begin`] found.
fn settled(w: &World, writer: &Writer<'_>, point: &str, name: &str, before: &[String]) {
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
    if here {
        is_given_back(w, point, name, before);
    }
    let (guest, dataset) = if here { (w.one, one) } else { (w.two, two) };
    writer.must_have_it_all(point, guest, &dataset);
}

pub fn of_the_source(w: &World) {
    let writer = Writer::declare(w);
    for (n, point) in points(SOURCE_POINTS).iter().enumerate() {
        let name = format!("cut-source-{n}");
        let source = format!("tank/src/{name}");
        let before = begin(w, &writer, &name);
        // One unit with a volume is enough: each takes its time.
        let volumes = (*point == WITH_A_VOLUME).then(|| Volumes::create(w, &name));
        // Until the guest is back the limit of the outage may be over, and then the source would serve again.
        let long = if volumes.is_some() { " --outage-limit 3600s" } else { "" };
        crash_at(w, w.one, point, &(start(&name) + long));
        w.one.lab("crash", &[]);
        boot(w.one);
        if FENCED.contains(point) {
            stays_fenced(w.one, point, &source);
        }
        if let Some(volumes) = &volumes {
            volumes.stays_fenced(point);
        }
        w.start_daemon(w.one);
        settled(w, &writer, point, &name, &before);
        if let Some(volumes) = &volumes {
            volumes.stays_fenced(point);
            volumes.is_served_by_the_target(point);
        }
    }
}

pub fn of_the_target(w: &World) {
    let writer = Writer::declare(w);
    for (n, point) in points(TARGET_POINTS).iter().enumerate() {
        let name = format!("cut-target-{n}");
        let before = begin(w, &writer, &name);
        crash_at(w, w.two, point, &start(&name));
        w.two.lab("crash", &[]);
        boot_target(w, point, &name);
        settled(w, &writer, point, &name, &before);
    }
    for (n, point) in points(TARGET_PHASES).iter().enumerate() {
        let name = format!("cut-phase-{n}");
        let before = begin(w, &writer, &name);
        let running = held_at(w, point, &start(&name));
        w.two.lab("crash", &[]);
        // It finds nobody there.
        w.one.sh(&format!("rm {DIR}/pause"));
        boot_target(w, point, &name);
        drop(running.join());
        settled(w, &writer, point, &name, &before);
    }
}
