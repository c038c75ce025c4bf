//! Each operation that moves no stream, and its idempotence.

use zmigrate::{
    port::zfs::{Depth, ZfsErrorKind::*},
    types::listing::{DatasetKind, PropertySource},
};

use crate::{
    case,
    case::{Case, bookmarks, holds},
    world::{World, assert_fails, mark, request, snap},
};

pub fn cases() -> Vec<Case> {
    vec![
        case!(capabilities_are_kept),
        case!(an_absent_root_is_an_empty_listing),
        case!(a_listing_shows_what_there_is),
        case!(a_root_is_listed_without_what_is_below),
        case!(absent_datasets_are_left_out),
        case!(a_snapshot_is_taken_once),
        case!(a_bookmark_is_made_once, bookmarks),
        case!(no_bookmark_is_destroyed_twice),
        case!(exactly_one_snapshot_is_destroyed),
        case!(holds_keep_a_snapshot, holds),
        case!(properties_are_set_read_and_inherited),
        case!(a_filesystem_is_created_unmounted),
        case!(what_was_written_since_a_snapshot_is_told_whatever_came_after_it),
        case!(rollback_goes_back),
        case!(rollback_waits_for_an_unmount),
        case!(rollback_spares_what_is_newer),
        case!(aborting_nothing_is_fine),
        case!(the_host_tells_of_itself),
    ]
}

async fn capabilities_are_kept(w: &World) {
    let first = w.zfs.capabilities(w.root.pool()).await.unwrap();
    let ran = w.host.commands_run();
    assert_eq!(w.zfs.capabilities(w.root.pool()).await.unwrap(), first);
    assert_eq!(w.host.commands_run(), ran, "the second answer runs no command");
    assert_eq!(first.pool_features_active.difference(&first.pool_features).next(), None);
    assert_fails(w.zfs.capabilities("zmigrate-no-such-pool").await, &[NotFound]);
}

async fn an_absent_root_is_an_empty_listing(w: &World) {
    for depth in [Depth::Root, Depth::Tree] {
        assert!(w.zfs.list(&w.ds("none"), depth).await.unwrap().datasets.is_empty());
        assert!(w.zfs.list(&w.ds("none/below"), depth).await.unwrap().datasets.is_empty());
        assert!(w.zfs.list(&"zmigrate-no-such-pool/x".parse().unwrap(), depth).await.unwrap().datasets.is_empty());
    }
}

async fn a_listing_shows_what_there_is(w: &World) {
    let (a, spaced) = (w.create("a"), w.create("a/b c"));
    let empty = w.create("z");
    for tag in ["zulu", "alpha", "mike"] {
        w.fill(&a, 1, 64, tag.len() as u64);
        w.snapshot(&a, tag).await;
    }
    w.snapshot(&spaced, "with space").await;
    // Not `readonly`: where it is mounted, zfs-fuse goes on showing what the mount has, as temporary.
    w.zfs.set(&a, &[("compression".into(), "gzip".into()), ("zmigrate:job".into(), "j 1".into())]).await.unwrap();
    let listing = w.zfs.list(&w.root, Depth::Tree).await.unwrap();
    let names: Vec<_> = listing.datasets.iter().map(|d| d.name.clone()).collect();
    assert_eq!(names, [w.root.clone(), a.clone(), spaced.clone(), empty.clone()]);
    let found = listing.get(&a).unwrap();
    let tags: Vec<_> = found.snapshots.iter().map(|s| s.tag.as_str()).collect();
    assert_eq!(tags, ["zulu", "alpha", "mike"], "by age, not by name");
    assert!(found.snapshots.is_sorted_by(|a, b| a.createtxg < b.createtxg && a.guid != b.guid));
    assert!(found.snapshots.iter().all(|s| s.creation_unix_s > 1_000_000_000));
    assert_eq!(found.kind, DatasetKind::Filesystem);
    assert!(found.referenced > 0 && found.available > 0 && !found.inconsistent && found.origin.is_none());
    assert_eq!(found.resume_token, None);
    assert_eq!(found.local("compression"), Some("gzip"));
    assert_eq!(found.local("zmigrate:job"), Some("j 1"));
    let below = listing.get(&spaced).unwrap();
    assert_eq!(below.property("compression").map(|p| &p.source), Some(&PropertySource::Inherited));
    assert_eq!(below.property("zmigrate:job").map(|p| &p.source), Some(&PropertySource::Inherited));
    assert_eq!(below.snapshots[0].tag.as_str(), "with space");
    let other = listing.get(&empty).unwrap();
    assert_eq!(other.property("zmigrate:job"), None);
    assert_eq!(other.property("compression").map(|p| &p.source), Some(&PropertySource::Default));
    assert!(other.snapshots.is_empty() && other.bookmarks.is_empty());
}

async fn a_root_is_listed_without_what_is_below(w: &World) {
    let a = w.create("a");
    w.snapshot(&w.create("a/below"), "hidden").await;
    let shown = w.snapshot(&a, "shown").await;
    if w.can.bookmarks {
        w.zfs.bookmark(&shown, &mark(&a, "marked")).await.unwrap();
    }
    let listing = w.zfs.list(&a, Depth::Root).await.unwrap();
    assert_eq!(listing.datasets.len(), 1);
    assert_eq!(listing.datasets[0].snapshots.len(), 1);
    assert_eq!(listing.datasets[0].bookmarks.len(), usize::from(w.can.bookmarks));
}

async fn absent_datasets_are_left_out(w: &World) {
    let (b, a) = (w.create("b"), w.create("a"));
    w.snapshot(&a, "one").await;
    let found = w.zfs.datasets(&[b.clone(), w.ds("none"), a.clone()]).await.unwrap();
    assert_eq!(found.iter().map(|d| d.name.clone()).collect::<Vec<_>>(), [b, a.clone()]);
    assert!(found[1].snapshots.is_empty(), "snapshots are not asked for");
    let listed = w.look(&a).await.unwrap();
    assert_eq!((found[1].guid, &found[1].properties), (listed.guid, &listed.properties));
    assert!(w.zfs.datasets(&[w.ds("none")]).await.unwrap().is_empty());
    assert!(w.zfs.datasets(&[]).await.unwrap().is_empty());
}

async fn a_snapshot_is_taken_once(w: &World) {
    let a = w.create("a");
    w.snapshot(&a, "s").await;
    assert_fails(w.zfs.snapshot(&request(&a, "s")).await, &[Exists]);
    assert_fails(w.zfs.snapshot(&request(&w.ds("none"), "s")).await, &[NotFound]);
    assert_eq!(w.tags(&a).await, ["s"]);
}

async fn a_bookmark_is_made_once(w: &World) {
    let a = w.create("a");
    let (s, t) = (w.snapshot(&a, "s").await, w.snapshot(&a, "t").await);
    w.zfs.bookmark(&s, &mark(&a, "m")).await.unwrap();
    w.zfs.bookmark(&s, &mark(&a, "m")).await.unwrap();
    assert_fails(w.zfs.bookmark(&t, &mark(&a, "m")).await, &[Exists]);
    assert_fails(w.zfs.bookmark(&snap(&a, "none"), &mark(&a, "n")).await, &[NotFound]);
    let found = w.look(&a).await.unwrap();
    assert_eq!(found.bookmarks.len(), 1);
    assert_eq!(found.bookmarks[0].guid, found.snapshots[0].guid);
    assert_eq!(found.bookmarks[0].createtxg, found.snapshots[0].createtxg);
    w.zfs.destroy_snapshot(&s).await.unwrap();
    assert_eq!(w.look(&a).await.unwrap().bookmarks, found.bookmarks, "a bookmark outlives its snapshot");
    w.zfs.destroy_bookmark(&mark(&a, "m")).await.unwrap();
    assert!(w.look(&a).await.unwrap().bookmarks.is_empty());
}

async fn no_bookmark_is_destroyed_twice(w: &World) {
    let a = w.create("a");
    w.zfs.destroy_bookmark(&mark(&a, "none")).await.unwrap();
    w.zfs.destroy_bookmark(&mark(&w.ds("none"), "none")).await.unwrap();
}

async fn exactly_one_snapshot_is_destroyed(w: &World) {
    let (a, below) = (w.create("a"), w.create("a/below"));
    for name in [&a, &below] {
        w.snapshot(name, "s").await;
        w.snapshot(name, "t").await;
    }
    w.zfs.destroy_snapshot(&snap(&a, "s")).await.unwrap();
    w.zfs.destroy_snapshot(&snap(&a, "s")).await.unwrap();
    w.zfs.destroy_snapshot(&snap(&w.ds("none"), "s")).await.unwrap();
    assert_eq!(w.tags(&a).await, ["t"]);
    assert_eq!(w.tags(&below).await, ["s", "t"]);
    w.host.clone_snapshot(&snap(&a, "t"), &w.ds("clone"));
    assert_fails(w.zfs.destroy_snapshot(&snap(&a, "t")).await, &[Busy]);
    assert_eq!(w.look(&w.ds("clone")).await.unwrap().origin, Some(snap(&a, "t")));
}

async fn holds_keep_a_snapshot(w: &World) {
    let a = w.create("a");
    let (s, t) = (w.snapshot(&a, "s").await, w.snapshot(&a, "t").await);
    let both = [s.clone(), t.clone()];
    w.zfs.hold("zmigrate:x", std::slice::from_ref(&s)).await.unwrap();
    w.zfs.hold("zmigrate:x", &both).await.unwrap();
    assert_fails(w.zfs.hold("zmigrate:x", &[s.clone(), snap(&a, "none")]).await, &[NotFound]);
    assert_fails(w.zfs.destroy_snapshot(&t).await, &[Busy]);
    match w.zfs.holds(&both).await {
        Ok(mut held) => {
            held.sort();
            assert_eq!(held, [(s.clone(), "zmigrate:x".into()), (t.clone(), "zmigrate:x".into())]);
            assert!(w.zfs.holds(&[snap(&a, "none")]).await.unwrap().is_empty());
        }
        // zfs-fuse as Debian packages it holds, but cannot list.
        Err(e) => assert_eq!(e.kind, Unsupported, "{e}"),
    }
    w.zfs.release("zmigrate:x", std::slice::from_ref(&t)).await.unwrap();
    w.zfs.release("zmigrate:x", &[t.clone(), snap(&a, "none"), snap(&w.ds("none"), "none")]).await.unwrap();
    w.zfs.release("zmigrate:y", &both).await.unwrap();
    w.zfs.destroy_snapshot(&t).await.unwrap();
    assert_fails(w.zfs.destroy_snapshot(&s).await, &[Busy]);
    w.zfs.release("zmigrate:x", &both).await.unwrap();
    w.zfs.destroy_snapshot(&s).await.unwrap();
    assert!(w.tags(&a).await.is_empty());
    w.zfs.hold("zmigrate:x", &[]).await.unwrap();
    w.zfs.release("zmigrate:x", &[]).await.unwrap();
    assert!(w.zfs.hold("-r", &both).await.is_err());
}

async fn properties_are_set_read_and_inherited(w: &World) {
    let a = w.create("a");
    let value = |found: &[zmigrate::types::listing::Property], name: &str| {
        found.iter().find(|p| p.name == name).map(|p| (p.value.clone(), p.source.clone()))
    };
    let pairs = [("zmigrate:one", "a=b c"), ("atime", "off"), ("canmount", "noauto")];
    let pairs: Vec<_> = pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    w.zfs.set(&a, &pairs).await.unwrap();
    w.zfs.set(&a, &pairs).await.unwrap();
    let names = ["zmigrate:one", "atime", "canmount", "zmigrate:none", "type"];
    let found = w.zfs.get(a.as_str(), &names).await.unwrap();
    assert_eq!(value(&found, "zmigrate:one"), Some(("a=b c".into(), PropertySource::Local)));
    assert_eq!(value(&found, "atime"), Some(("off".into(), PropertySource::Local)));
    assert_eq!(value(&found, "zmigrate:none"), None);
    assert_eq!(value(&found, "type"), Some(("filesystem".into(), PropertySource::Default)));
    for name in ["atime", "zmigrate:one", "zmigrate:one", "zmigrate:none"] {
        w.zfs.inherit(&a, name).await.unwrap();
    }
    let found = w.zfs.get(a.as_str(), &names).await.unwrap();
    assert_ne!(value(&found, "atime").unwrap().1, PropertySource::Local);
    assert_eq!(value(&found, "zmigrate:one"), None);
    let s = w.snapshot(&a, "s").await;
    let guid = w.look(&a).await.unwrap().snapshots[0].guid;
    assert_eq!(w.zfs.get(s.as_str(), &["guid"]).await.unwrap()[0].value, guid.to_string());
    assert!(w.zfs.get(a.as_str(), &["nosuchproperty", "type"]).await.unwrap().len() == 1);
    assert!(w.zfs.get(a.as_str(), &["nosuchproperty"]).await.unwrap().is_empty());
    for names in [&["type"][..], &["nosuchproperty"], &["zmigrate:one"]] {
        assert_fails(w.zfs.get(w.ds("none").as_str(), names).await, &[NotFound]);
    }
    assert_fails(w.zfs.set(&w.ds("none"), &pairs[..1]).await, &[NotFound]);
    assert!(w.zfs.set(&a, &[("compression".into(), "sardines".into())]).await.is_err());
    for bad in ["-r", "a b", "", "a=b"] {
        assert!(w.zfs.set(&a, &[(bad.into(), "x".into())]).await.is_err(), "{bad:?} was taken");
        assert!(w.zfs.inherit(&a, bad).await.is_err(), "{bad:?} was taken");
        assert!(w.zfs.get(a.as_str(), &[bad]).await.is_err(), "{bad:?} was taken");
        assert!(w.zfs.get(bad, &["type"]).await.is_err(), "{bad:?} was taken");
    }
}

async fn a_filesystem_is_created_unmounted(w: &World) {
    let properties = [("canmount".to_owned(), "off".to_owned()), ("zmigrate:placeholder".to_owned(), "on".to_owned())];
    w.zfs.create_filesystem(&w.ds("p"), &properties).await.unwrap();
    assert!(w.look(&w.ds("p")).await.unwrap().is_placeholder());
    w.zfs.create_filesystem(&w.ds("q"), &[]).await.unwrap();
    assert!(!w.look(&w.ds("q")).await.unwrap().is_placeholder());
    for name in ["p", "q"] {
        assert!(!w.host.is_mounted(&w.ds(name)), "{name} is mounted");
        assert_fails(w.zfs.create_filesystem(&w.ds(name), &[]).await, &[Exists]);
    }
    assert_fails(w.zfs.create_filesystem(&w.ds("none/x"), &[]).await, &[NotFound]);
}

async fn what_was_written_since_a_snapshot_is_told_whatever_came_after_it(w: &World) {
    let (a, b) = (w.create("a"), w.create("b"));
    w.fill(&a, 1, 64, 1);
    let (s, other) = (w.snapshot(&a, "s").await, w.snapshot(&b, "s").await);
    let told = w.zfs.since(&[s.clone(), snap(&a, "none"), other.clone()]).await.unwrap();
    let guids: Vec<bool> = told.iter().map(Option::is_some).collect();
    assert_eq!(guids, [true, false, true]);
    assert_eq!(told.iter().flatten().map(|since| since.written).sum::<u64>(), 0);
    w.fill(&a, 2, 64, 2);
    let later = w.snapshot(&a, "later").await;
    let told = w.zfs.since(&[s, later, other]).await.unwrap();
    let written: Vec<bool> = told.iter().map(|since| since.unwrap().written > 0).collect();
    assert_eq!(written, [true, false, false]);
}

async fn rollback_goes_back(w: &World) {
    let a = w.create("a");
    w.fill(&a, 1, 64, 1);
    let s = w.snapshot(&a, "s").await;
    let before = w.host.read(&s);
    w.fill(&a, 1, 64, 2);
    let t = w.snapshot(&a, "t").await;
    w.fill(&a, 2, 64, 3);
    if w.can.bookmarks {
        w.zfs.bookmark(&t, &mark(&a, "t")).await.unwrap();
    }
    assert_ne!(w.host.read(&t), before);
    w.zfs.destroy_snapshot(&t).await.unwrap();
    if w.can.bookmarks {
        w.zfs.destroy_bookmark(&mark(&a, "t")).await.unwrap();
    }
    w.zfs.rollback(&s).await.unwrap();
    w.zfs.rollback(&s).await.unwrap();
    assert_eq!(w.tags(&a).await, ["s"]);
    let again = w.snapshot(&a, "again").await;
    assert_eq!(w.host.read(&again), before);
    assert_fails(w.zfs.rollback(&snap(&a, "none")).await, &[NotFound]);
}

/// An unmount may go on when its command has ended; what is rolled back then fails for a moment.
async fn rollback_waits_for_an_unmount(w: &World) {
    let a = w.create("a");
    let s = w.snapshot(&a, "s").await;
    for round in 0..5 {
        w.fill(&a, 1, 64, round);
        w.zfs.unmount(&a).await.unwrap();
        w.zfs.rollback(&s).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
        w.zfs.mount(&a).await.unwrap();
    }
}

async fn rollback_spares_what_is_newer(w: &World) {
    let a = w.create("a");
    let s = w.snapshot(&a, "s").await;
    let t = w.snapshot(&a, "t").await;
    assert_fails(w.zfs.rollback(&s).await, &[Diverged]);
    assert_eq!(w.tags(&a).await, ["s", "t"]);
    if w.can.bookmarks {
        w.zfs.bookmark(&t, &mark(&a, "t")).await.unwrap();
        w.zfs.destroy_snapshot(&t).await.unwrap();
        assert_fails(w.zfs.rollback(&s).await, &[Diverged]);
        assert_eq!(w.look(&a).await.unwrap().bookmarks.len(), 1);
    }
}

async fn aborting_nothing_is_fine(w: &World) {
    let a = w.create("a");
    w.zfs.abort_receive(&a).await.unwrap();
    w.zfs.abort_receive(&w.ds("none")).await.unwrap();
    assert!(w.look(&a).await.is_some());
}

async fn the_host_tells_of_itself(w: &World) {
    let version = w.zfs.version().await.unwrap();
    assert_eq!((&version.userland, &version.kernel), (&w.can.userland_version, &w.can.kernel_version));
    let before = w.host.commands_run();
    let pools = w.zfs.pools().await.unwrap();
    let ran = w.host.commands_run().zip(before).map(|(after, before)| after - before);
    assert!(ran.is_none_or(|n| n <= 3), "{ran:?} commands, whatever the number of pools");
    assert!(pools.iter().all(|p| pools.iter().filter(|other| other.name == p.name).count() == 1));
    let own = pools.iter().find(|p| p.name == w.root.pool()).unwrap();
    assert_eq!((own.health.as_str(), own.answers()), ("ONLINE", true));
    assert_ne!(own.readonly, Some(true));
    let available = w.zfs.get(w.root.pool(), &["available"]).await.unwrap()[0].value.parse::<u64>().unwrap();
    let free = own.available.unwrap();
    assert!(free.abs_diff(available) < available / 10 && own.used.is_some(), "{free} and {available}");
    assert!(own.full_percent.is_some_and(|n| n < 90));
    match w.zfs.delegations(&w.root).await {
        Ok(found) => assert!(found.is_empty(), "{found:?}"),
        // zfs-fuse as Debian packages it.
        Err(e) => assert_eq!(e.kind, Unsupported, "{e}"),
    }
}
