//! Outputs of OpenZFS 2.3.2 and zfs-fuse 0.7.0, and lines that they do not print.

use super::*;

const LIST: &str = "zp\t4450536363901378559\t1\t1795486734\n\
    zp/a\t2661914581047564648\t9\t1795486734\n\
    zp/a@s2\t7434208295458341091\t14\t1795486736\n\
    zp/a@s1\t4955368507391050809\t13\t1795486735\n\
    zp/a@%recv\t1\t1\t1\n\
    zp/a#b1\t4955368507391050809\t13\t1795486735\n\
    zp/a/b c\t14247404500587537143\t10\t1795486735\n\
    zp/a/b c@s1\t4858845946187763491\t13\t1795486735\n\
    zp/a/%recv\t5\t5\t5\n";

fn rows(name: &str, guid: u64, extra: &[(&str, &str, &str)]) -> String {
    let mut text = format!(
        "{name}\ttype\tfilesystem\t-\n{name}\tguid\t{guid}\t-\n{name}\tcreatetxg\t9\t-\n{name}\torigin\t-\t-\n\
         {name}\treferenced\t98304\t-\n{name}\tavailable\t1000\t-\n"
    );
    for (property, value, source) in extra {
        text += &format!("{name}\t{property}\t{value}\t{source}\n");
    }
    text
}

#[test]
fn a_tree_with_everything() {
    let get = rows("zp", 4450536363901378559, &[])
        + &rows(
            "zp/a",
            2661914581047564648,
            &[
                ("encryption", "aes-256-gcm", "-"),
                ("encryptionroot", "zp/a", "-"),
                ("keystatus", "unavailable", "-"),
                ("written", "12", "-"),
                ("inconsistent", "1", "-"),
                ("receive_resume_token", "1-ab-2-cd", "-"),
                ("readonly", "on", "inherited from zp"),
                ("zmigrate:job", "-", "-"),
                ("zmigrate:fence", "-", "local"),
                ("volsize", "-", "-"),
            ],
        )
        + &rows("zp/a/b c", 14247404500587537143, &[]);
    let listing = listing(&objects(LIST).unwrap(), &values(&get).unwrap(), |_| true).unwrap();
    let names: Vec<_> = listing.datasets.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["zp", "zp/a", "zp/a/b c"]);
    let a = &listing.datasets[1];
    let tags: Vec<_> = a.snapshots.iter().map(|s| (s.tag.as_str(), s.createtxg.0, s.creation_unix_s)).collect();
    assert_eq!(tags, [("s1", 13, 1795486735), ("s2", 14, 1795486736)], "sorted by createtxg");
    assert_eq!(a.bookmarks[0].guid, Guid(4955368507391050809));
    assert_eq!(a.resume_token.as_deref(), Some("1-ab-2-cd"));
    assert_eq!((a.inconsistent, a.written), (true, Some(12)));
    let encryption = a.encryption.as_ref().unwrap();
    assert_eq!((encryption.root.as_ref().unwrap().as_str(), encryption.key_loaded), ("zp/a", false));
    assert_eq!(a.property("readonly").unwrap().source, PropertySource::Inherited);
    assert_eq!(a.property("zmigrate:job"), None);
    assert_eq!(a.local("zmigrate:fence"), Some("-"), "a value of its own, though it looks like none");
    assert_eq!(a.property("volsize"), None);
    assert_eq!(listing.datasets[2].snapshots.len(), 1);
}

#[test]
fn what_came_or_went_in_between_is_left_out() {
    let get = rows("zp", 1, &[]) + &rows("zp/new", 2, &[]);
    let listing = listing(&objects(LIST).unwrap(), &values(&get).unwrap(), |_| true).unwrap();
    assert_eq!(listing.datasets.len(), 1);
}

#[test]
fn other_lines_are_errors_with_number_and_text() {
    let error = objects("zp\t1\t1\t1\nzp/a 2 2 2\n").unwrap_err().to_string();
    assert_eq!(error, "line 2 of the output has not 4 columns: \"zp/a 2 2 2\"");
    assert!(objects("zp\t1\t1\tTue Nov 24  2:18 2026\n").is_err());
    assert!(objects("zp\t3.08E\t1\t1\n").is_err());
    assert!(values("zp\ttype\tfilesystem\n").is_err());
    assert!(values("zp\ttype\tfilesystem\tmoon\n").is_err());
    let strange = objects("zp\t1\t1\t1\nzp/ä\t1\t1\t1\n").unwrap();
    assert!(listing(&strange, &[], |_| true).is_err(), "a name that cannot be represented");
    let orphan = objects("zp@s\t1\t1\t1\n").unwrap();
    assert!(listing(&orphan, &[], |_| true).is_err());
}

#[test]
fn small_answers() {
    let found = values("zp/a\tx:y\ta\tb\tlocal\n").unwrap();
    assert_eq!(found[0].properties[0].value, "a\tb");
    assert_eq!(send_size("full\tzp/a@s1\t12912\nsize\t12912\n"), Some(12912));
    assert_eq!(send_size("full\tzp/a@s1\t12912\n"), None);
    let held = holds("zp/a@s1\tzmigrate:x\tTue Nov 24  2:18 2026\n").unwrap();
    assert_eq!((held[0].0.as_str(), held[0].1.as_str()), ("zp/a@s1", "zmigrate:x"));
    assert!(holds("zp/a@s1\tx\n").is_err());
}
