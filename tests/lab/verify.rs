//! `zmigrate verify --content` on OpenZFS: snapshots are mounted where they are, volumes are read through a clone's device.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    Case,
    guest::Guest,
    world::{DIR, Pair, Run, World},
};

pub const CASES: &[Case] = &[("verify_content", verify_content), ("verify_volume", verify_volume)];

fn verify(w: &World, pair: &Pair) -> Run {
    w.zmigrate(w.one, &format!("verify --content {} {}:{}", pair.source, w.two.name(), pair.target))
}

/// One trial at a time looks at content, for what each makes for it is to be gone afterwards.
fn alone() -> MutexGuard<'static, ()> {
    static LOOKS: Mutex<()> = Mutex::new(());
    LOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nothing that was made to look is left.
#[track_caller]
fn nothing_left(guest: Guest) {
    let left = guest.sh("zfs list -H -o name | grep zmigrate-view || true; grep /views/ /proc/mounts || true; \
         find / -xdev -path '*/views/*' -not -path '/proc/*' 2>/dev/null || true");
    assert_eq!(left, "", "{}", guest.name());
}

fn verify_content(w: &World) {
    let _alone = alone();
    // An attribute that does not compress: one that does is left out of `zfs send -e` by OpenZFS 2.3, and so refused.
    let pair = w.pair("verify", 4);
    let (source, target) = (&pair.source, &pair.target);
    w.one.sh(&format!(
        "zfs set acltype=posix xattr=sa {source}; cd /{source}; mkfifo pipe; mknod null c 1 3; touch \"$(printf 'odd\\nname')\"; \
         mkdir dirx; python3 -c \"import os; os.setxattr('dirx', 'user.x', os.urandom(3000))\"; \
         zfs snapshot {source}@s1"
    ));
    w.push(&pair, "");
    let run = verify(w, &pair).must_be(0);
    let content = &run.report["datasets"][0]["content"];
    assert!(content["equal"] == true && content["entries"].as_u64() > Some(10), "{}", run.out);
    assert_eq!(run.report["datasets"][0]["target_written_bytes"], 0);
    nothing_left(w.one);
    nothing_left(w.two);
    // Neither side's dataset is touched by it.
    assert_eq!(w.two.get(target, "mounted"), "no");
    // What was written since is told, and it is not in the snapshot.
    w.two.sh(&format!(
        "zfs set readonly=off {target}; zfs mount {target}; echo x >\"$(zfs get -Ho value mountpoint {target})/own\"; \
         zfs umount {target}; zfs set readonly=on {target}; zpool sync"
    ));
    let run = verify(w, &pair).must_be(3);
    assert!(run.report["datasets"][0]["target_written_bytes"].as_u64() > Some(0), "{}", run.out);
    assert_eq!(run.report["datasets"][0]["content"]["equal"], true);
    // A raw copy whose key is not there cannot be read, and that is said.
    let locked = Pair { source: "tank/src/verify-raw".into(), target: "tank/dst/verify-raw".into() };
    w.one.sh(&format!(
        "zfs create -o encryption=aes-256-gcm -o keyformat=raw -o keylocation=file://{DIR}/key {0}; echo x >/{0}/x; zfs snapshot {0}@s1",
        locked.source
    ));
    w.push(&locked, "");
    let run = verify(w, &locked).must_be(6);
    assert!(run.out.contains("the key of tank/dst/verify-raw is not loaded on this host"), "{}", run.out);
    nothing_left(w.two);
}

fn verify_volume(w: &World) {
    let _alone = alone();
    let pair = Pair { source: "tank/src/vvol".into(), target: "tank/dst/vvol".into() };
    let source = &pair.source;
    w.one.sh(&format!(
        "zfs create -V 32M {source}; udevadm settle; for i in $(seq 600); do [ -b /dev/zvol/{source} ] && break; sleep 0.1; done; \
         head -c 3M /dev/urandom | dd of=/dev/zvol/{source} bs=1M seek=4 conv=fsync status=none; zfs snapshot {source}@s1"
    ));
    w.push(&pair, "");
    let run = verify(w, &pair).must_be(0);
    let content = &run.report["datasets"][0]["content"];
    assert_eq!(
        (&content["equal"], &content["bytes"], &content["entries"]),
        (&true.into(), &(32u64 << 20).into(), &4.into())
    );
    assert!(w.two.ask(&format!("[ ! -e /dev/zvol/{} ]", pair.target)).code == 0, "the target has no device of its own");
    nothing_left(w.one);
    nothing_left(w.two);
}
