//! An ext4 on a volume moves under a writer. It keeps its volume's device open while it is mounted, so a hook unmounts it when it stops,
//! after the hook that stops the writer, and mounts it when it starts, before the writer.

use super::{cutover, writer::Writer};
use crate::{
    guest::Guest,
    world::{DIR, World},
};

/// udev takes its time on a busy machine, and may take the link to the device away once more for a moment: so it is tried again.
const HOOK: &str = r#"[hook.disk]
stop = ["/bin/sh", "-c", "! mountpoint -q DIR/disk || umount DIR/disk"]
start = ["/bin/sh", "-c", "! mountpoint -q DIR/disk || exit 0; for i in $(seq 600); do mount -t ext4 /dev/zvol/${ZMIGRATE_DATASETS%% *} DIR/disk && exit 0; sleep 0.1; done; exit 1"]
timeout_s = 300
"#;

/// Ends the writer and unmounts, when dropped: what is mounted keeps its pool.
struct Mounts<'a>(&'a World);

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        for guest in [self.0.one, self.0.two] {
            let _ = guest.ask(&format!("{DIR}/writer-stop.sh; ! mountpoint -q {DIR}/disk || umount {DIR}/disk"));
        }
    }
}

/// No device, and no write to it by whoever gives it one.
#[track_caller]
fn is_fenced(guest: Guest, volume: &str) {
    assert_eq!(guest.properties(volume, &["volmode", "readonly"]), ["volmode=none local", "readonly=on local"]);
    guest.sh(&format!("[ ! -e /dev/zvol/{volume} ] && ! mountpoint -q {DIR}/disk"));
}

/// The writer has ended: what it left is all there, and the filesystem is whole.
#[track_caller]
fn is_whole(w: &World, writer: &Writer<'_>, what: &str, guest: Guest, volume: &str) {
    assert_eq!(guest.sh(&format!("findmnt -n -o FSTYPE {DIR}/disk")), "ext4", "{what}");
    writer.must_have_it_all_at(what, guest, &format!("{DIR}/disk"));
    let noise = format!("sha256sum <{DIR}/disk/noise");
    assert_eq!(guest.sh(&noise), w.one.sh(&format!("cat {DIR}/disk.sum")), "{what}");
    // While it is mounted it changes beneath the look.
    guest.sh(&format!("umount {DIR}/disk; udevadm settle; fsck.ext4 -f -n /dev/zvol/{volume}"));
}

pub fn with_ext4(w: &World) {
    let (source, target) = ("tank/src/disk", "tank/dst/disk");
    let writer = Writer::declare_with(w, &HOOK.replace("DIR", DIR));
    for guest in [w.one, w.two] {
        guest.sh(&format!("mkdir -p {DIR}/disk"));
    }
    let _mounts = Mounts(w);
    let make = format!(
        "zfs create -V 64M {source}; udevadm settle; for i in $(seq 600); do [ -b /dev/zvol/{source} ] && break; sleep 0.1; done; \
         mkfs.ext4 -q /dev/zvol/{source}; udevadm settle; mount -t ext4 /dev/zvol/{source} {DIR}/disk; \
         head -c 8M /dev/urandom >{DIR}/disk/noise; sha256sum <{DIR}/disk/noise >{DIR}/disk.sum"
    );
    writer.begin_in(source, &make);
    // Where nothing unmounts it the volume is open, and all is given back.
    let before = w.one.properties(source, &["volmode", "readonly"]);
    let args = format!("cutover start {source} node2:{target} --hook writer --tries 1 --max-downtime 600s");
    let run = w.zmigrate(w.one, &args).must_be(8);
    assert_eq!(run.report["result"], "rolled_back", "{}", run.out);
    assert!(run.err.contains(&format!("mounted at {DIR}/disk")), "{}", run.err);
    assert_eq!(w.one.properties(source, &["volmode", "readonly"]), before);
    writer.writes(w.one);
    let done = cutover(w, &format!("start {source} node2:{target} --hook writer --hook disk --max-downtime 600s"));
    eprintln!("lab:   downtime {} ms, predicted {} ms", done["downtime_ms"], done["predicted_downtime_ms"]);
    assert_eq!(done["result"], "done", "{done}");
    is_fenced(w.one, source);
    is_whole(w, &writer, "there", w.two, target);
    // As the hooks would.
    w.two.sh(&format!("mount -t ext4 /dev/zvol/{target} {DIR}/disk; ZMIGRATE_DATASETS={target} {DIR}/writer-start.sh"));
    writer.writes(w.two);
    let back = cutover(w, &format!("back {}", done["id"].as_str().unwrap()));
    assert_eq!(back["result"], "done", "{back}");
    is_fenced(w.two, target);
    is_whole(w, &writer, "home again", w.one, source);
}
