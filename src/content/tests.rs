use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    process::Command,
};

use super::*;
use crate::types::content::{ContentHash, EntryKind, HardLink, Xattr};

/// A directory to look at.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), bytes).unwrap();
    }

    fn entries(&self, after: Option<&[u8]>) -> Entries<'static> {
        open(self.0.path(), DatasetKind::Filesystem, after).unwrap()
    }

    fn all(&self) -> Vec<Entry> {
        all(self.entries(None))
    }

    fn paths(&self, after: Option<&str>) -> Vec<String> {
        let paths = all(self.entries(after.map(str::as_bytes))).into_iter();
        paths.map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).collect()
    }
}

fn open(at: &Path, kind: DatasetKind, after: Option<&[u8]>) -> Result<Entries<'static>, ContentError> {
    Entries::open(at, kind, after, Box::new(|_| ControlFlow::Continue(())))
}

fn all(mut entries: Entries<'_>) -> Vec<Entry> {
    std::iter::from_fn(|| entries.next_entry().unwrap()).collect()
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Both sides' pages, as a peer gives them.
fn compare(first: &Tree, second: &Tree, most: usize) -> (Vec<String>, bool) {
    let mut comparison = Comparison::new("source", "target", most);
    while let Some((which, after)) = comparison.wants() {
        let tree = if which == Which::First { first } else { second };
        let page = tree.entries(after).page().unwrap();
        comparison.take(which, page).unwrap();
    }
    let (found, more) = comparison.finish();
    (found.into_iter().map(|d| format!("{}: {}", d.path, d.what)).collect(), more)
}

/// Gives both trees' entries the same time, but for one.
fn touch(trees: &[&Tree]) {
    for tree in trees {
        let root = tree.0.path().display().to_string();
        assert!(run("find", &[&root, "-exec", "touch", "-h", "-d", "@1000000000", "{}", "+"]));
    }
}

#[test]
fn the_digest_is_pinned_by_its_bytes() {
    let entry = |path: &str, kind| Entry {
        path: path.into(),
        kind,
        mode: 0o644,
        uid: 1,
        gid: 2,
        mtime_ns: -3,
        link: None,
        xattrs: Vec::new(),
    };
    let hash = ContentHash([0xaa; 32]);
    let aa = "aa".repeat(32);
    let dir = entry("", EntryKind::Directory);
    let head = |path: &str, kind: &str| format!("{path}{kind}a40100000100000002000000fdffffffffffffff");
    assert_eq!(hex::encode(fold::encode(&dir)), head("00000000", "01") + "00" + "00000000");
    let file = Entry {
        link: Some(HardLink { inode: 7, names: 2 }),
        xattrs: vec![Xattr { name: b"u.x".into(), size: 4, hash }],
        ..entry("f", EntryKind::File { size: 5, hash })
    };
    let expected = head("0100000066", "02")
        + &format!("0500000000000000{aa}01070000000000000002000000000000000100000003000000752e780400000000000000{aa}");
    assert_eq!(hex::encode(fold::encode(&file)), expected);
    for (kind, tail) in [
        (EntryKind::Symlink { target: b"t".into() }, "030100000074"),
        (EntryKind::CharDevice { device: (1, 2) }, "040100000002000000"),
        (EntryKind::BlockDevice { device: (1, 2) }, "050100000002000000"),
        (EntryKind::Fifo, "06"),
        (EntryKind::Socket, "07"),
        (EntryKind::Volume { size: 9 }, "080900000000000000"),
        (EntryKind::Extent { size: 9, hash }, &format!("090900000000000000{aa}")),
    ] {
        let expected = head("0100000066", &tail[..2]) + &tail[2..] + "0000000000";
        assert_eq!(hex::encode(fold::encode(&entry("f", kind))), expected);
    }
    let mut fold = Fold::new();
    fold.add(&dir);
    fold.add(&file);
    insta::assert_snapshot!(fold.finish(), @"7426ca0313faf2721d25e96b34d9c41829888dd712b2897eb2fc18d22699ef6f");
}

#[test]
fn the_hash_of_a_file_is_pinned_and_a_hole_is_as_zeros() {
    let of = |bytes: &[u8]| hash::stream::<std::io::Error>(bytes, |_| Ok(())).unwrap().1;
    let mut two = vec![0; 2 * hash::BLOCK];
    two.push(7);
    insta::assert_snapshot!(of(b""), @"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    insta::assert_snapshot!(of(b"abc"), @"50ca14987e6d23eb311572eccc84c0df3ebb73e1cc306da92b9f9b310795748a");
    insta::assert_snapshot!(of(&two), @"51fe16ec39674f13d97caffec851a9d75a8ca53675e1303f49bbebaf0168f0a7");
    let tree = Tree::new();
    tree.write("zeros", vec![0; 5 << 20]);
    fs::File::create(tree.at("hole")).unwrap().set_len(5 << 20).unwrap();
    let entries = tree.all();
    assert_eq!(entries[1].kind, entries[2].kind);
    // A block more or less is another file, also if it is all zeros.
    assert_ne!(of(&vec![0; hash::BLOCK]), of(&vec![0; 2 * hash::BLOCK]));
    assert_ne!(of(&[0; 9]), of(&[0; 10]));
}

#[test]
fn names_come_in_order_and_a_walk_can_begin_anywhere() {
    let tree = Tree::new();
    for path in ["b/c/d", "b/c0", "b.x", "a", "b0", "z/y"] {
        tree.write(path, path);
    }
    let paths = tree.paths(None);
    assert_eq!(paths, ["", "a", "b", "b/c", "b/c/d", "b/c0", "b.x", "b0", "z", "z/y"]);
    for (i, path) in paths.iter().enumerate() {
        assert_eq!(tree.paths(Some(path)), paths[i + 1..], "after {path:?}");
    }
    for (gone, next) in [("aa", "b"), ("b/c/d/e", "b/c0"), ("b/c/a", "b/c/d"), ("b/zz", "b.x"), ("zz", "")] {
        assert_eq!(tree.paths(Some(gone)).first().map_or("", String::as_str), next, "after {gone}");
    }
    let sorted = paths.windows(2).all(|two| path_order(two[0].as_bytes(), two[1].as_bytes()).is_lt());
    assert!(sorted, "what is walked and how it is compared agree");
}

#[test]
fn a_directory_with_more_names_than_are_kept_is_read_in_order() {
    let tree = Tree::new();
    // Fewer than the limit would show nothing, so this is as many and some more.
    let n = crate::limits::CONTENT_NAMES + 1000;
    for i in 0..n {
        fs::File::create(tree.at(&format!("{:06}", i * 7919 % n))).unwrap();
    }
    let paths = tree.paths(None);
    assert_eq!(paths.len(), n + 1);
    assert!(paths.windows(2).all(|two| two[0] < two[1]));
}

#[test]
fn nothing_in_a_tree_leads_out_of_it() {
    let tree = Tree::new();
    let outside = Tree::new();
    outside.write("secret", "x");
    symlink(outside.0.path(), tree.at("dir")).unwrap();
    symlink(outside.at("secret"), tree.at("file")).unwrap();
    symlink("nowhere", tree.at("dangling")).unwrap();
    let entries = tree.all();
    assert_eq!(entries.len(), 4);
    assert!(entries[1..].iter().all(|entry| matches!(entry.kind, EntryKind::Symlink { .. })), "{entries:?}");
    assert!(all(tree.entries(Some(b"dir/a"))).iter().all(|entry| entry.path == b"file"));
    // The root itself is no link, either.
    let link = outside.at("link");
    symlink(tree.0.path(), &link).unwrap();
    assert!(open(&link, DatasetKind::Filesystem, None).is_err());
}

#[test]
fn another_filesystem_is_not_entered() {
    let tree = Tree::new();
    fs::create_dir(tree.at("mnt")).unwrap();
    let mount = tree.at("mnt").display().to_string();
    if !run("mount", &["-t", "tmpfs", "zmigrate-test", &mount]) {
        eprintln!("content: a tmpfs cannot be mounted here, so this is not tested");
        return;
    }
    let mut entries = tree.entries(None);
    entries.next_entry().unwrap();
    let refused = entries.next_entry().unwrap_err().to_string();
    assert!(run("umount", &[&mount]));
    assert_eq!(refused, "mnt: another filesystem is mounted there; unmount it");
}

#[test]
fn too_deep_is_an_error_and_no_overflow() {
    let tree = Tree::new();
    let deep = ["d"; crate::limits::CONTENT_DEPTH + 1].join("/");
    fs::create_dir_all(tree.at(&deep)).unwrap();
    let mut entries = tree.entries(None);
    let error = loop {
        match entries.next_entry() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no error"),
            Err(e) => break e.to_string(),
        }
    };
    assert!(error.ends_with("lies deeper than 256 directories"), "{error}");
}

#[test]
fn each_thing_that_can_differ_is_told_and_nothing_else() {
    let (a, b) = (Tree::new(), Tree::new());
    for tree in [&a, &b] {
        for name in ["same", "bytes", "length", "mode", "time", "x\n\u{1b}[2Jy", "dir/in/deep"] {
            tree.write(name, "content");
        }
        symlink("to", tree.at("link")).unwrap();
        fs::hard_link(tree.at("same"), tree.at("same2")).unwrap();
        assert!(run("mkfifo", &[&tree.at("pipe").display().to_string()]));
        assert!(run("setfattr", &["-n", "trusted.k", "-v", "v", &tree.at("same").display().to_string()]) || !root());
    }
    touch(&[&a, &b]);
    // Inode numbers are the same on ZFS only, so those of the hard link differ here.
    let other_links = "same: shares its content with other names than at the other side";
    let (found, more) = compare(&a, &b, 100);
    assert!(found.iter().all(|line| line.ends_with(other_links.split_once(": ").unwrap().1)) && !more, "{found:?}");

    b.write("bytes", "CONTENT");
    b.write("length", "content and more");
    fs::set_permissions(b.at("mode"), fs::Permissions::from_mode(0o4755)).unwrap();
    b.write("x\n\u{1b}[2Jy", "other");
    fs::remove_file(b.at("link")).unwrap();
    symlink("elsewhere", b.at("link")).unwrap();
    fs::remove_file(b.at("same2")).unwrap();
    fs::remove_file(b.at("pipe")).unwrap();
    b.write("pipe", "no pipe");
    fs::remove_dir_all(b.at("dir")).unwrap();
    b.write("new/a/b", "x");
    touch(&[&b]);
    assert!(run("touch", &["-d", "@1.5", &b.at("time").display().to_string()]));
    let (found, more) = compare(&a, &b, 100);
    insta::assert_snapshot!(found.join("\n"), @r"
    bytes: the content differs (7 bytes)
    dir: is only at the source: a directory, with what is in it
    length: 7 bytes at the source, 16 bytes at the target
    link: points to to at the source, elsewhere at the target
    mode: mode 0644 at the source, 4755 at the target
    new: is only at the target: a directory, with what is in it
    pipe: a named pipe at the source, a file at the target
    same: 2 names at the source, one name at the target
    same2: is only at the source: a file
    time: changed at 1000000000.000000000 at the source, 1.500000000 at the target
    x��[2Jy: 7 bytes at the source, 5 bytes at the target
    ");
    assert!(!more);
    let (few, more) = compare(&a, &b, 3);
    assert_eq!((few.as_slice(), more), (&found[..3], true));
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn owners_devices_and_attributes_differ_too() {
    if !root() {
        eprintln!("content: not root, so owners, devices and attributes are not tested");
        return;
    }
    let (a, b) = (Tree::new(), Tree::new());
    for (tree, device, value) in [(&a, "1", "x"), (&b, "2", "y")] {
        let at = |name: &str| tree.at(name).display().to_string();
        tree.write("file", "");
        assert!(run("mknod", &[&at("c"), "c", "1", device]) && run("mknod", &[&at("b"), "b", device, "7"]));
        symlink("x", tree.at("link")).unwrap();
        assert!(run("setfattr", &["-n", "trusted.both", "-v", value, &at("file")]));
        assert!(run("setfattr", &["-n", &format!("trusted.only{device}"), &at("file")]));
        // Of the link itself, not of what it points to.
        assert!(run("setfattr", &["-h", "-n", "trusted.link", "-v", value, &at("link")]));
    }
    assert!(run("chown", &["12:34", &b.at("file").display().to_string()]));
    touch(&[&a, &b]);
    insta::assert_snapshot!(compare(&a, &b, 100).0.join("\n"), @r"
    b: device 1:7 at the source, 2:7 at the target
    c: device 1:1 at the source, 1:2 at the target
    file: owner 0:0 at the source, 12:34 at the target
    file: the attribute trusted.both differs
    file: the attribute trusted.only1 is only at the source
    file: the attribute trusted.only2 is only at the target
    link: the attribute trusted.link differs
    ");
}

#[test]
fn a_volume_is_its_length_and_what_is_not_zeros() {
    let dir = Tree::new();
    let make = |name: &str, size: u64, at: &[(u64, &[u8])]| {
        use std::os::unix::fs::FileExt;
        let file = fs::File::create(dir.at(name)).unwrap();
        file.set_len(size).unwrap();
        at.iter().for_each(|(offset, bytes)| file.write_all_at(bytes, *offset).unwrap());
        dir.at(name)
    };
    let entries =
        |path: &Path, after: Option<&[u8]>| -> Entries<'static> { open(path, DatasetKind::Volume, after).unwrap() };
    let a = make("a", 10 << 20, &[(0, b"x"), (3 << 20, b"y"), ((9 << 20) + 5, b"z")]);
    let b = make("b", 10 << 20, &[(0, b"x"), (3 << 20, b"Y"), (5 << 20, b"n")]);
    let paths: Vec<_> = all(entries(&a, None)).into_iter().map(|e| String::from_utf8(e.path).unwrap()).collect();
    assert_eq!(paths, ["", "0000000000000000", "0000000000300000", "0000000000900000"]);
    assert_eq!(all(entries(&a, Some(b"0000000000000000"))).len(), 2);
    let mut comparison = Comparison::new("source", "target", 9);
    while let Some((which, after)) = comparison.wants() {
        let path = if which == Which::First { &a } else { &b };
        let page = entries(path, after).page().unwrap();
        comparison.take(which, page).unwrap();
    }
    let told: Vec<String> = comparison.finish().0.into_iter().map(|d| d.what).collect();
    assert_eq!(
        told,
        [
            "bytes 3145728 to 4194303 differ",
            "bytes 5242880 to 6291455 are zeros at the source",
            "bytes 9437184 to 10485759 are zeros at the target",
        ]
    );
    let digest = |path: &Path| entries(path, None).digest().unwrap();
    assert_eq!(
        digest(&a),
        digest(&make("c", 10 << 20, &[(0, b"x"), (3 << 20, b"y"), ((9 << 20) + 5, b"z"), (4 << 20, b"\0")]))
    );
    assert_ne!(digest(&a).digest, digest(&b).digest);
    assert_ne!(digest(&make("d", 1 << 20, &[])).digest, digest(&make("e", 2 << 20, &[])).digest);
    assert!(open(&a, DatasetKind::Volume, Some(b"nonsense")).is_err());
}

#[test]
fn what_comes_out_of_order_is_refused() {
    let tree = Tree::new();
    for name in ["a", "b"] {
        tree.write(name, "");
    }
    let whole = tree.entries(None).page().unwrap();
    for change in [
        |page: &mut ContentPage| page.entries.swap(1, 2),
        |page: &mut ContentPage| page.entries[1] = page.entries[0].clone(),
        |page: &mut ContentPage| (page.entries, page.last) = (Vec::new(), false),
    ] {
        let mut page = whole.clone();
        change(&mut page);
        assert!(Comparison::new("source", "target", 9).take(Which::First, page).is_err());
    }
}

#[test]
fn pages_are_bounded_and_make_the_whole() {
    let tree = Tree::new();
    for i in 0..crate::limits::CONTENT_PAGE_ENTRIES + 10 {
        fs::File::create(tree.at(&format!("{i:05}"))).unwrap();
    }
    let first = tree.entries(None).page().unwrap();
    assert_eq!((first.entries.len(), first.last), (crate::limits::CONTENT_PAGE_ENTRIES, false));
    let second = tree.entries(first.entries.last().map(|e| e.path.as_slice())).page().unwrap();
    assert_eq!((second.entries.len(), second.last), (11, true));
    assert_eq!([first.entries, second.entries].concat(), tree.all());
}

#[test]
fn who_is_told_of_progress_can_stop_it() {
    let tree = Tree::new();
    tree.write("a", vec![1; 10 << 20]);
    let mut calls = 0;
    let stop = |counts: ContentCounts| {
        calls += 1;
        if counts.bytes >= 1 << 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let entries = Entries::open(tree.0.path(), DatasetKind::Filesystem, None, Box::new(stop)).unwrap();
    assert!(matches!(entries.digest(), Err(ContentError::Stopped)));
    assert_eq!(calls, 8, "128 KiB at a time");
}
