//! Raw or plain, the keys that are needed, and the flags of a send.

use super::support::*;
use crate::{
    plan::{EncryptionMode, Plan, Refusal, Side},
    types::{
        listing::{FENCE, JOB},
        transfer::SendFlags,
    },
};

fn flags(plan: &Plan) -> SendFlags {
    plan.datasets[0].steps().next().unwrap().flags
}
const RAW: SendFlags = SendFlags { large_block: true, compressed: true, embed: true, raw: true };

fn encrypted(key_loaded: bool) -> Ds {
    ds("tank/db").snaps("a b").encrypted("tank/db", key_loaded)
}

#[test]
fn encrypted_goes_raw_unless_told_otherwise() {
    for mode in [EncryptionMode::Default, EncryptionMode::Raw] {
        assert_eq!(flags(&case([encrypted(false)], []).mode(mode).plan()), RAW);
    }
    let plain = case([encrypted(true)], []).mode(EncryptionMode::Plain).plan();
    assert!(!flags(&plain).raw);
    assert_eq!(plain.datasets[0].notes, ["is encrypted on the source and will be plain text on the target"]);
    assert!(matches!(
        case([encrypted(false)], []).mode(EncryptionMode::Plain).refusal(),
        Refusal::KeyNotLoaded { side: Side::Source, .. }
    ));
}

#[test]
fn raw_says_nothing_about_what_is_not_encrypted() {
    let plan = case([ds("tank/db").snaps("a")], []).mode(EncryptionMode::Raw).plan();
    assert!(!flags(&plan).raw);
    assert_eq!(plan.datasets[0].notes.len(), 1);
}

#[test]
fn encryption_is_never_lost_by_accident() {
    let mut c = case([encrypted(true)], []);
    c.source_caps.send_raw = false;
    assert!(matches!(c.refusal(), Refusal::EncryptionLost { lacking: Side::Source, .. }));
    assert!(c.refusal().hint().contains("--no-raw"));
    let mut c = case([encrypted(true)], []);
    c.target_caps.pool_features.remove("encryption");
    assert!(matches!(c.refusal(), Refusal::EncryptionLost { lacking: Side::Target, .. }));
    // Nothing is lost where nothing is sent.
    c.target = vec![ds("backup/db").snaps("a b")];
    assert!(c.plan().is_up_to_date());
}

#[test]
fn raw_and_plain_are_not_mixed_on_one_chain() {
    let onto = |target: Ds, mode| case([encrypted(true)], [target.snaps("a")]).mode(mode);
    let plain_copy = ds("backup/db");
    assert!(matches!(
        onto(plain_copy.clone(), EncryptionMode::Default).refusal(),
        Refusal::EncryptionMismatch { raw: true, .. }
    ));
    assert!(!flags(&onto(plain_copy, EncryptionMode::Plain).plan()).raw);
    let raw_copy = ds("backup/db").encrypted("backup/db", true);
    assert!(matches!(
        onto(raw_copy.clone(), EncryptionMode::Plain).refusal(),
        Refusal::EncryptionMismatch { raw: false, .. }
    ));
    assert_eq!(flags(&onto(raw_copy, EncryptionMode::Default).plan()), RAW);
    let below_encrypted_parent = ds("backup/db").encrypted("backup", true);
    assert!(!flags(&onto(below_encrypted_parent, EncryptionMode::Plain).plan()).raw);
    // A clone hangs on the chain of its origin.
    let source = [ds("tank/db").snaps("r"), ds("tank/db/t").snaps("a").encrypted("tank/db/t", true)];
    let clone = ds("tank/db/c").origin("tank/db/t@a").snaps("x").encrypted("tank/db/t", true);
    let c = case(source.into_iter().chain([clone]), [ds("backup/db").snaps("r"), ds("backup/db/t").snaps("a")]);
    assert!(matches!(c.recursive().refusal(), Refusal::EncryptionMismatch { raw: true, .. }));
}

/// `zfs change-key -i` at the target hangs a raw copy on the key of the dataset above it.
#[test]
fn a_raw_increment_never_leaves_a_target_that_nothing_opens() {
    let mut c = case([encrypted(true)], [ds("backup/db").snaps("a").encrypted("backup", true)]);
    let refusal = c.refusal();
    assert!(matches!(&refusal, Refusal::KeyOfAnother { root, .. } if *root == name("backup")), "{refusal:?}");
    assert!(refusal.to_string().contains("backup/db hangs on the key of backup: "), "{refusal}");
    // What is nothing but read stays as it is, and so does what hangs on another copy, which gets the same key.
    c.target = vec![ds("backup/db").snaps("a b").encrypted("backup", true)];
    assert!(c.plan().is_up_to_date());
    // A cutover brings home what had that very key when it left.
    c.target = vec![ds("backup/db").snaps("a").encrypted("backup", true).set(FENCE, "c1:2")];
    c.options.enters = Some("c1:2".to_owned());
    assert_eq!(flags(&c.plan()), RAW);
    c.options.enters = None;
    c.target = vec![ds("backup/db").snaps("a").encrypted("backup", true)];
    c.above = vec![ds("backup").set(JOB, "0123456789abcdef")];
    assert_eq!(flags(&c.plan()), RAW);
    let tree = [encrypted(true), ds("tank/db/t").snaps("a b").encrypted("tank/db", true)];
    let copy = [
        ds("backup/db").snaps("a").encrypted("backup/db", true),
        ds("backup/db/t").snaps("a").encrypted("backup/db", true),
    ];
    assert_eq!(flags(&case(tree, copy).recursive().plan()), RAW);
}

#[test]
fn plain_text_below_an_encrypted_parent_needs_its_key_and_takes_no_embedded_data() {
    let below = |loaded| {
        let mut c = case([ds("tank/db").snaps("a b")], []);
        c.above[0] = ds("backup").encrypted("backup", loaded);
        c
    };
    assert!(matches!(below(false).refusal(), Refusal::KeyNotLoaded { side: Side::Target, .. }));
    assert_eq!(flags(&below(true).plan()), SendFlags { large_block: true, compressed: true, embed: false, raw: false });
    let mut onto = case([ds("tank/db").snaps("a b")], [ds("backup/db").snaps("a").encrypted("backup", true)]);
    assert!(!flags(&onto.plan()).embed);
    onto.target = vec![ds("backup/db").snaps("a").encrypted("backup", false)];
    assert!(matches!(onto.refusal(), Refusal::KeyNotLoaded { side: Side::Target, .. }));
}

#[test]
fn a_plain_child_of_a_parent_that_goes_raw_needs_the_key_there() {
    let source = [encrypted(false), ds("tank/db/plain").snaps("a")];
    match case(source, []).recursive().refusal() {
        Refusal::KeyNotLoaded { dataset, side: Side::Target } => assert_eq!(dataset, name("backup/db")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn flags_are_what_both_sides_can_do() {
    let c = case([ds("tank/db").snaps("a")], []);
    // Embedded blocks are never asked for: ZFS loses attributes with them.
    let all = SendFlags { large_block: true, compressed: true, embed: false, raw: false };
    assert_eq!(flags(&c.plan()), all);
    let without = |feature: &str| {
        let mut c = c.clone();
        c.target_caps.pool_features.remove(feature);
        flags(&c.plan())
    };
    assert_eq!(without("large_blocks"), SendFlags { large_block: false, ..all });
    assert_eq!(without("lz4_compress"), SendFlags { compressed: false, ..all });
    assert_eq!(without("zstd_compress"), all, "not in use on the source");
    let mut fuse = c.clone();
    fuse.target_caps = Default::default();
    fuse.source_caps.pool_features_active.clear();
    assert_eq!(flags(&fuse.plan()), SendFlags::default());
    let mut fuse = c;
    fuse.source_caps = Default::default();
    assert_eq!(flags(&fuse.plan()), SendFlags::default());
}
