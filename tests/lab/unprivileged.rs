//! A target whose `zmigrated` is not root, with the permissions of docs/unprivileged.md and no more.

use crate::{
    Case,
    world::{DIR, Pair, World},
};

pub const CASES: &[Case] = &[("unprivileged_target", unprivileged_target)];

/// The commands of the documentation that allow a user something on the target, in the trial's own names.
pub fn allow(user: &str, target: &str) -> String {
    let text = include_str!("../../docs/unprivileged.md");
    let commands = text.lines().filter(|line| line.starts_with("zfs allow ") && line.ends_with(" tank/from-dc1"));
    let commands: Vec<_> = commands
        .map(|line| line.replace("-u zmigrate", &format!("-u {user}")).replace("tank/from-dc1", target))
        .collect();
    assert!(!commands.is_empty(), "docs/unprivileged.md names no command");
    commands.join("; ")
}

fn unprivileged_target(w: &World) {
    let pair = Pair { target: "tank/dst/user/in/here".into(), ..w.pair("unprivileged", 20) };
    let (source, target) = (&pair.source, &pair.target);
    let at = "/tmp/zmlab";
    w.two.sh(&format!(
        "useradd --system zmlab; zfs create -o canmount=off tank/dst/user; {}; mkdir -p {at}; cp -r {DIR}/pki {at}/; \
         sed -e 's|{DIR}|{at}|' -e 's|172.31.0.2:8551|172.31.0.2:8552|' {DIR}/zmigrate.toml >{at}/zmigrate.toml; \
         chown -R zmlab: {at}; \
         setsid setpriv --reuid zmlab --regid zmlab --clear-groups zmigrated -v --config {at}/zmigrate.toml \
         >{at}/log 2>&1 </dev/null & echo $! >{DIR}/unprivileged.pid",
        allow("zmlab", "tank/dst/user")
    ));
    w.two.until(std::time::Duration::from_secs(10), &format!("grep 'is ready' {at}/log"));
    assert_eq!(w.two.sh(&format!("ps -o user= -p $(cat {DIR}/unprivileged.pid)")), "zmlab");
    let push = |flags: &str| w.zmigrate(w.one, &format!("push {flags} {source} unprivileged:{target}"));
    w.one.sh(&format!("zfs set compression=lz4 {source}; zfs snapshot {source}@s1"));
    // Placeholders, a full stream that is interrupted and gone on with, protections, what is carried over, a hold.
    let run = w.start(w.one, &format!("push --bwlimit 1M {source} unprivileged:{target}"));
    w.in_flight(w.two, target, 5);
    run.kill();
    assert!(run.join().code != 0);
    crate::kills::went_on(&push("").must_be(0), 20 << 20);
    crate::basic::protected(w.two, target);
    assert_eq!(w.two.properties(target, &["compression"]), ["compression=lz4 local"]);
    w.same(&pair, "s1");
    w.change(&pair, "s2", 300);
    push("").must_be(0);
    w.same(&pair, "s2");
    assert_eq!(w.two.holds(target).len(), 1);
    // A rollback, when it is asked for.
    w.two.sh(&format!("zfs snapshot {target}@own"));
    w.change(&pair, "s3", 10);
    push("").must_be(3);
    push("--rollback").must_be(0);
    w.same(&pair, "s3");
    // A dead token.
    w.change(&pair, "s4", 20 << 10);
    let run = w.start(w.one, &format!("push --bwlimit 1M {source} unprivileged:{target}"));
    w.in_flight(w.two, target, 5);
    run.kill();
    assert!(run.join().code != 0);
    let tag = w.one.holds(source)[0].split(' ').nth(1).unwrap().to_owned();
    let destroy = format!("if zfs release {tag} {source}@s4; then :; fi; zfs destroy {source}@s4");
    w.one.until(std::time::Duration::from_secs(20), &destroy);
    w.change(&pair, "s5", 10);
    let run = push("").must_be(0);
    assert!(run.notes().contains("was thrown away"), "{}", run.out);
    w.same(&pair, "s5");
    // A volume, and an encrypted dataset, raw.
    w.one.sh(&format!(
        "zfs create -V 8M {source}/vol; zfs snapshot {source}/vol@s1; \
         zfs create -o encryption=on -o keyformat=raw -o keylocation=file://{DIR}/key {source}/raw; zfs snapshot {source}/raw@s1"
    ));
    push("-r").must_be(0);
    assert_eq!(w.two.get(&format!("{target}/vol"), "volmode"), "none");
    assert_eq!(w.two.get(&format!("{target}/raw"), "keystatus"), "unavailable");
    // What is not below the dataset is out of reach.
    w.zmigrate(w.one, &format!("push {source} unprivileged:tank/dst/elsewhere")).must_be(6);
    w.two.sh(&format!("kill $(cat {DIR}/unprivileged.pid)"));
}
