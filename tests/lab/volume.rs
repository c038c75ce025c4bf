//! Volumes, compared by the bytes of their devices.

use crate::{
    Case,
    world::{Pair, Way, World},
};

pub const CASES: &[Case] = &[("volume", volume)];

fn volume(w: &World) {
    let pair = Pair { source: "tank/src/vol".into(), target: "tank/dst/vol".into() };
    let (source, target) = (&pair.source, &pair.target);
    w.one.sh(&format!(
        "zfs create -V 24M -o volblocksize=8K -o compression=lz4 {source}; udevadm settle; \
         for i in $(seq 600); do [ -b /dev/zvol/{source} ] && break; sleep 0.1; done; \
         head -c 8M /dev/urandom | dd of=/dev/zvol/{source} bs=1M seek=4 conv=fsync status=none; zfs snapshot {source}@s1"
    ));
    w.push(&pair, "");
    let set =
        w.two.properties(target, &["type", "readonly", "volmode", "snapdev", "volsize", "volblocksize", "compression"]);
    assert_eq!(
        set,
        [
            "type=volume -",
            "readonly=on local",
            "volmode=none local",
            "snapdev=hidden local",
            &format!("volsize={} local", 24 << 20),
            "volblocksize=8192 -",
            "compression=lz4 local"
        ]
    );
    assert!(w.two.ask(&format!("[ ! -e /dev/zvol/{target} ]")).code == 0, "the target has a device");
    w.same(&pair, "s1");
    w.one.sh(&format!(
        "head -c 300K /dev/urandom | dd of=/dev/zvol/{source} bs=4K seek=77 conv=notrunc,fsync status=none; zfs snapshot {source}@s2; \
         zfs set volsize=32M {source}; echo tail | dd of=/dev/zvol/{source} bs=1M seek=28 conv=notrunc,fsync status=none; \
         zfs snapshot {source}@s3"
    ));
    let (guest, args) = w.replicate(Way::Pull, &pair, "");
    let run = w.zmigrate(guest, &args).must_be(0);
    assert_eq!(run.steps().len(), 2, "{}", run.out);
    for tag in ["s1", "s2", "s3"] {
        w.same(&pair, tag);
    }
    assert_eq!(w.two.get(target, "volsize"), (32u64 << 20).to_string());
    assert_ne!(
        w.one.digest(&format!("{source}@s1")),
        w.one.digest(&format!("{source}@s2")),
        "the digest tells contents apart"
    );
}
