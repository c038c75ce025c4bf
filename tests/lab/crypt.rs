//! Encrypted sources: raw by default, plain only on request.

use crate::{
    Case,
    world::{DIR, Pair, World},
};

pub const CASES: &[Case] = &[
    ("encrypted_raw", encrypted_raw),
    ("encrypted_plain_on_request", encrypted_plain_on_request),
    ("encryption_key_changed", encryption_key_changed),
];

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

/// A raw copy takes over the key of its source with its next increment, whatever opened it before, and nobody has to have a key
/// loaded for that. What it holds stays as it was, for its own key was always within.
fn encryption_key_changed(w: &World) {
    let pair = encrypted(w, "rekeyed");
    let (source, target) = (&pair.source, &pair.target);
    let child = Pair { source: format!("{source}/child"), target: format!("{target}/child") };
    w.one.sh(&format!("zfs create {0}; echo text >/{0}/text; zfs snapshot {0}@s1", child.source));
    let first = w.one.sh(&format!("base64 -w0 {DIR}/key"));
    for guest in [w.one, w.two] {
        let own = "0123456789abcdef".repeat(4);
        guest.sh(&format!(
            "cd {DIR}; echo {first} | base64 -d >key-first; printf 'another passphrase' >key-second; printf {own} >key-own"
        ));
    }
    let opens =
        |dataset: &str, key: &str| w.two.ask(&format!("zfs load-key -n -L file://{DIR}/key-{key} {dataset}")).code == 0;
    let load = |dataset: &str, key: &str| w.two.sh(&format!("zfs load-key -L file://{DIR}/key-{key} {dataset}"));
    let unload = || w.two.sh(&format!("zfs unload-key -r {target}"));
    let snapshot = |tag: &str| w.one.sh(&format!("date +%N >>/{source}/text; zfs snapshot -r {source}@{tag}"));
    w.push(&pair, "-r");
    assert!(opens(target, "first") && opens(&child.target, "first"));

    // What comes with the increment is the key of now, not that of the snapshot's time.
    snapshot("s2");
    w.one.sh(&format!(
        "zfs change-key -o keyformat=passphrase -o pbkdf2iters=100000 -o keylocation=file://{DIR}/key-second {source}"
    ));
    assert!(opens(target, "first"), "nothing was sent yet");
    w.push(&pair, "-r");
    let format = ["keyformat=passphrase -", "keylocation=prompt local"];
    assert_eq!(w.two.properties(target, &["keyformat", "keylocation"]), format);
    assert_eq!(w.two.properties(&child.target, &["keyformat", "keylocation"]), format);
    // Each try of a passphrase takes seconds in a guest.
    load(target, "second");

    // Where it is loaded meanwhile, ZFS goes on showing it as that, but cannot mount with it.
    snapshot("s3");
    w.one.sh(&format!("zfs change-key -o keyformat=raw -o keylocation=file://{DIR}/key-first {source}"));
    w.push(&pair, "-r");
    assert_eq!(w.two.get(target, "keystatus"), "available");
    let mounted = w.two.ask(&format!("zfs mount {target}"));
    assert!(mounted.code != 0 && mounted.err.contains("Permission denied"), "{}{}", mounted.out, mounted.err);
    unload();
    load(target, "first");
    load(&child.target, "first");
    for tag in ["s1", "s2", "s3"] {
        w.same(&pair, tag);
    }

    // A key that a person gave the copy goes with the next increment, and who took it from the copy above follows that one.
    w.two.sh(&format!(
        "zfs change-key -o keyformat=hex -o keylocation=file://{DIR}/key-own {target}; zfs change-key -i {}",
        child.target
    ));
    unload();
    snapshot("s4");
    w.push(&pair, "-r");
    assert!(!opens(target, "own"));
    load(target, "first");
    assert_eq!(w.two.get(&child.target, "encryptionroot"), *target);
    w.same(&pair, "s4");
    w.same(&child, "s4");

    // But no copy may hang on the key of what the run does not write: an increment would bring it a key that is not that one, and
    // then nothing could open it any more.
    let outside = "tank/dst/rekeyed-above";
    let below = Pair { source: child.source.clone(), target: format!("{outside}/copy") };
    w.two.sh(&format!(
        "zfs create -o canmount=off -o encryption=on -o keyformat=hex -o keylocation=file://{DIR}/key-own {outside}"
    ));
    w.push(&below, "");
    load(&below.target, "first");
    w.two.sh(&format!("zfs change-key -i {}", below.target));
    snapshot("s5");
    let (guest, args) = w.replicate(crate::world::Way::Push, &below, "");
    let run = w.zmigrate(guest, &args).must_be(3);
    assert!(run.out.contains(&format!("hangs on the key of {outside}")), "{}", run.out);
    w.same(&below, "s4");
    // As the hint says.
    w.two.sh(&format!("zfs change-key -o keyformat=hex -o keylocation=file://{DIR}/key-own {}", below.target));
    w.push(&below, "");
    w.two.sh(&format!("zfs unload-key {}", below.target));
    load(&below.target, "first");
    w.same(&below, "s5");
    unload();
    w.two.sh(&format!("zfs unload-key -r {outside}"));
}
