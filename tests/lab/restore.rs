//! What docs/restore.md says, typed as it stands there: copies of a tree and of a volume take the place of a lost source, which
//! then becomes the copy.

use crate::{
    Case,
    guest::{Guest, Said},
    jobs,
    world::{DIR, Pair, World},
};

pub const CASES: &[Case] = &[("restore_as_it_is_written", as_it_is_written)];

const TEXT: &str = include_str!("../../docs/restore.md");
const SOURCE: &str = "tank/src/restore";
const COPY: &str = "tank/dst/restore";
const BELOW: [&str; 3] = ["", "/logs", "/vol"];

/// The block of commands of a section whose first line begins so, in the trial's own names.
#[track_caller]
fn block(section: &str, first: &str) -> String {
    let text = TEXT.split("\n## ").find(|part| part.starts_with(section)).expect("a section");
    let lines = text.lines().skip_while(|line| !(line.starts_with("    ") && line.trim_start().starts_with(first)));
    let lines: Vec<&str> = lines.take_while(|line| line.starts_with("    ")).collect();
    assert!(!lines.is_empty(), "docs/restore.md has no {first}");
    named(&lines.join("\n"))
}

fn named(text: &str) -> String {
    let vm = format!("{COPY}-vm");
    [
        ("tank/from-east/db", COPY),
        ("tank/from-east/vm", &vm),
        ("tank/db", SOURCE),
        ("/srv/db", "/srv/restored"),
        ("east:", "node1:"),
        ("zmigrate push", &format!("zmigrate --config {DIR}/restore.toml push")),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

fn as_it_is_written(w: &World) {
    w.pair("restore", 1);
    w.one.sh(&format!(
        "zfs create {SOURCE}/logs; zfs create -V 8M -o volmode=dev {SOURCE}/vol; zfs create -V 8M -o volmode=dev {SOURCE}-vm; udevadm settle; \
         for v in {SOURCE}/vol {SOURCE}-vm; do for i in $(seq 600); do [ -b /dev/zvol/$v ] && break; sleep 0.1; done; \
         head -c 1M /dev/urandom | dd of=/dev/zvol/$v conv=fsync status=none; done; \
         printf '#!/bin/sh\\necho it runs\\n' >/{SOURCE}/program; chmod 755 /{SOURCE}/program; echo old >/{SOURCE}/logs/log; \
         zfs snapshot -r {SOURCE}@s1; zfs snapshot {SOURCE}-vm@s1"
    ));
    let pull = |name: &str, from: &str, to: &str| {
        format!(
            "[job.{name}]\ndirection = \"pull\"\ndataset = \"{from}\"\nrecursive = true\npeer = \"node1\"\ntarget = \"{to}\"\nretries = 0\n"
        )
    };
    let jobs_here = pull("db", SOURCE, COPY) + &pull("vm", &format!("{SOURCE}-vm"), &format!("{COPY}-vm"));
    jobs::configure(w.two, "restore", &jobs_here);
    let zmigrate = |args: &str| jobs::zmigrate(w.two, "restore", args);
    let silent = |said: Said| assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "", ""));
    silent(zmigrate("job run db --cron"));
    silent(zmigrate("job run vm --cron"));
    // The source goes on for a while, and what it writes then is lost.
    w.one.sh(&format!("echo lost >/{SOURCE}/lost; zfs snapshot -r {SOURCE}@lost"));

    // Looked into, a copy stays one.
    let protected = ["readonly", "canmount", "mounted", "zmigrate:job"];
    let before = w.two.properties(COPY, &protected);
    let seen = w.two.sh(&block("Look into a copy", "zfs mount"));
    assert_eq!(seen, "s1");
    assert_eq!(w.two.properties(COPY, &protected), before);

    // 1: nothing writes into it any more. 2: what it has.
    for name in ["db", "vm"] {
        assert!(TEXT.contains("`zmigrate job pause NAME`"));
        assert_eq!(zmigrate(&format!("job pause {name}")).code, 0);
    }
    silent(zmigrate("job run db --cron"));
    let list = "zfs list -t snapshot -r tank/from-east/db";
    assert!(TEXT.contains(&format!("`{list}`")) && TEXT.contains("`zmigrate state list`"));
    let has = w.two.sh(&named(list));
    assert!(BELOW.iter().all(|below| has.contains(&format!("{COPY}{below}@s1 "))) && !has.contains("@lost"), "{has}");
    let state = zmigrate("state list").out;
    assert!(state.contains(&format!("{COPY}/vol\n  hold      @s1 ")), "{state}");

    // 3: the tree, with its root's mountpoint; and a volume by itself.
    let section = "Let a copy serve";
    w.two.sh(&block(section, "zfs list -H -o name,type -r"));
    w.two.sh(block(section, "zfs set mountpoint=").lines().next().unwrap());
    w.two.sh(&block(section, "zfs inherit zmigrate:job tank/from-east/vm"));
    serves(w.two);

    // Replicate back. The old source comes to life again.
    let section = "Replicate back";
    w.one.sh(&block(section, "zfs unmount"));
    let pushes = block(section, "zmigrate push");
    let [refused, done] = *pushes.lines().collect::<Vec<_>>() else { panic!("two commands: {pushes}") };
    let said = w.two.ask(refused);
    assert_eq!(said.code, 3, "{}{}", said.out, said.err);
    assert!(said.err.contains("@lost") || said.out.contains("@lost"), "{}{}", said.out, said.err);
    assert_eq!(w.one.snapshots(SOURCE).len(), 2, "what is refused changes nothing");
    let said = w.two.ask(done);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    for below in BELOW {
        let (home, copy) = (format!("{SOURCE}{below}"), format!("{COPY}{below}"));
        let here = w.one.snapshots(&home);
        assert_eq!(here, w.two.snapshots(&copy), "{below}");
        assert!(here.len() > 1 && !here.iter().any(|s| s.starts_with("lost ")), "{below}: {here:?}");
        let tag = here.last().unwrap().split(' ').next().unwrap();
        w.same(&Pair { source: home.clone(), target: copy }, tag);
        assert_eq!(w.one.get(&home, "readonly"), "on", "{below}");
    }
    assert_eq!(w.one.get(SOURCE, "mounted"), "no");
    w.one.sh(&format!("[ ! -e /dev/zvol/{SOURCE}/vol ] && [ ! -e /{SOURCE}/lost ]"));
}

/// All of it can be used as the source was, with what it held.
fn serves(guest: Guest) {
    for (name, properties, expected) in [
        ("", "readonly,canmount,mounted,exec,setuid,devices,mountpoint", "off on yes on on on /srv/restored"),
        ("/logs", "readonly,canmount,mounted,exec,setuid,devices,mountpoint", "off on yes on on on /srv/restored/logs"),
        ("/vol", "readonly,snapdev,volmode", "off hidden default"),
        ("-vm", "readonly,snapdev,volmode", "off hidden default"),
    ] {
        let has = guest.sh(&format!("zfs get -H -o value {properties} {COPY}{name} | xargs"));
        assert_eq!(has, expected, "{name}: {properties}");
        assert_eq!(guest.get(&format!("{COPY}{name}"), "zmigrate:job"), "-", "{name} is no target any more");
    }
    assert_eq!(
        guest.sh("/srv/restored/program; cat /srv/restored/logs/log; [ ! -e /srv/restored/lost ]"),
        "it runs\nold"
    );
    guest.sh("echo new >/srv/restored/new; echo new >>/srv/restored/logs/log");
    for name in ["/vol", "-vm"] {
        let (device, first) = (format!("/dev/zvol/{COPY}{name}"), "head -c 1M");
        guest.sh(&format!("for i in $(seq 600); do [ -b {device} ] && break; sleep 0.1; done; [ -b {device} ]"));
        let sum = |guest: Guest, device: &str| guest.sh(&format!("{first} {device} | sha256sum"));
        assert_eq!(sum(guest, &device), sum(Guest(1), &device.replace(COPY, SOURCE)), "{name}");
        guest.sh(&format!("echo new | dd of={device} conv=notrunc,fsync status=none"));
    }
}
