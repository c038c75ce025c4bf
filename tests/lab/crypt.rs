//! Encrypted sources: raw by default, plain only on request.

use crate::{
    Case,
    world::{DIR, Pair, World},
};

pub const CASES: &[Case] =
    &[("encrypted_raw", encrypted_raw), ("encrypted_plain_on_request", encrypted_plain_on_request)];

#[track_caller]
fn encrypted(w: &World, name: &str) -> Pair {
    let pair = Pair { source: format!("tank/src/{name}"), target: format!("tank/dst/{name}") };
    let source = &pair.source;
    w.one.sh(&format!(
        "zfs create -o encryption=aes-256-gcm -o keyformat=raw -o keylocation=file://{DIR}/key {source}; \
         head -c 8M /dev/urandom >/{source}/noise; yes secret-words | head -c 2M >/{source}/text; zfs snapshot {source}@s1"
    ));
    pair
}

fn encrypted_raw(w: &World) {
    let pair = encrypted(w, "raw");
    let (source, target) = (&pair.source, &pair.target);
    // Not even the source's key is needed.
    w.one.sh(&format!("zfs umount {source}; zfs unload-key {source}"));
    w.push(&pair, "");
    let keys = ["encryption", "keystatus", "encryptionroot", "mounted"];
    let locked =
        ["encryption=aes-256-gcm -", "keystatus=unavailable -", &format!("encryptionroot={target} -"), "mounted=no -"];
    assert_eq!(w.two.properties(target, &keys), locked);
    w.one.sh(&format!("zfs load-key {source}; zfs mount {source}"));
    w.change(&pair, "s2", 700);
    w.change(&pair, "s3", 700);
    let run = w.push(&pair, "");
    assert_eq!(run.steps().len(), 2, "{}", run.out);
    assert_eq!(w.two.properties(target, &keys), locked);
    crate::basic::protected(w.two, target);
    assert_eq!(w.one.snapshots(source), w.two.snapshots(target));
    // From a bookmark, raw.
    w.one.sh(&format!("zfs destroy {source}@s3"));
    w.change(&pair, "s4", 100);
    let run = w.push(&pair, "");
    assert!(run.steps()[0]["from"].as_str().is_some_and(|from| from.contains('#')), "{}", run.out);
    // A chain is raw or not: plain text is not mixed into it.
    w.change(&pair, "s5", 10);
    let (guest, args) = w.replicate(crate::world::Way::Push, &pair, "--no-raw");
    w.zmigrate(guest, &args).must_be(3);
    w.push(&pair, "");
    // With the source's own key the target's content opens, and is the same.
    let key = w.one.sh(&format!("base64 -w0 {DIR}/key"));
    w.two.sh(&format!("echo {key} | base64 -d >{DIR}/key1; zfs load-key -L file://{DIR}/key1 {target}"));
    let same = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for tag in ["s1", "s2", "s4", "s5"] {
            w.same(&pair, tag);
        }
    }));
    w.two.sh(&format!("zfs unload-key {target}"));
    same.unwrap();
}

fn encrypted_plain_on_request(w: &World) {
    let pair = encrypted(w, "plain");
    let (source, target) = (&pair.source, &pair.target);
    let (guest, args) = w.replicate(crate::world::Way::Push, &pair, "--no-raw");
    let run = w.zmigrate(guest, &args).must_be(0);
    assert!(run.notes().contains("plain text on the target"), "{}", run.out);
    assert_eq!(w.two.get(target, "encryption"), "off");
    w.same(&pair, "s1");
    w.change(&pair, "s2", 100);
    // Without the flag it would go raw, which cannot follow.
    let (guest, raw) = w.replicate(crate::world::Way::Push, &pair, "");
    w.zmigrate(guest, &raw).must_be(3);
    w.zmigrate(guest, &args).must_be(0);
    w.same(&pair, "s2");
    // Plain text needs the key.
    w.one.sh(&format!("zfs snapshot {source}@s3; zfs umount {source}; zfs unload-key {source}"));
    let run = w.zmigrate(guest, &args).must_be(3);
    assert!(run.out.contains("is not loaded"), "{}", run.out);
}
