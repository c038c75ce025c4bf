use super::*;
use crate::types::{
    SnapshotTag,
    listing::{DatasetKind, Property, PropertySource, SnapshotInfo},
};

const JOB_A: &str = "aaaaaaaa11111111";
const JOB_B: &str = "bbbbbbbb22222222";

fn snapshot(tag: &str, n: u64) -> SnapshotInfo {
    SnapshotInfo { tag: tag.parse().unwrap(), guid: Guid(n), createtxg: CreateTxg(n), creation_unix_s: 1_000_000 + n }
}

fn bookmark(tag: &str, n: u64) -> BookmarkInfo {
    let tag: SnapshotTag = tag.parse().unwrap();
    BookmarkInfo { tag, guid: Guid(n), createtxg: CreateTxg(n), creation_unix_s: 1_000_000 + n }
}

fn ours(job: &str, n: u64) -> BookmarkInfo {
    bookmark(&format!("zmigrate:{job}:{n}"), n)
}

fn dataset(name: &str, properties: &[(&str, &str, PropertySource)]) -> DatasetInfo {
    let property = |(name, value, source): &(&str, &str, PropertySource)| Property {
        name: (*name).into(),
        value: (*value).into(),
        source: source.clone(),
    };
    DatasetInfo {
        name: name.parse().unwrap(),
        kind: DatasetKind::Filesystem,
        guid: Guid(1),
        createtxg: CreateTxg(1),
        origin: None,
        encryption: None,
        resume_token: None,
        inconsistent: false,
        written: None,
        referenced: 0,
        available: 0,
        properties: properties.iter().map(property).collect(),
        snapshots: (1..=5).map(|n| snapshot(&format!("s{n}"), n)).collect(),
        bookmarks: Vec::new(),
    }
}

fn look(dataset: DatasetInfo, holds: &[(&str, &str)]) -> Vec<Item> {
    let holds: Vec<(SnapshotName, String)> = holds.iter().map(|(s, t)| (s.parse().unwrap(), (*t).into())).collect();
    of(&Listing { datasets: vec![dataset] }, Some(&holds))
}

fn standings(items: &[Item]) -> Vec<(String, Standing)> {
    items.iter().map(|i| (i.name.clone(), i.standing)).collect()
}

#[test]
fn only_what_is_ours_is_an_item() {
    let mut d = dataset(
        "tank/a",
        &[("zmigrate:job", JOB_A, PropertySource::Inherited), ("readonly", "on", PropertySource::Local)],
    );
    d.bookmarks = vec![
        bookmark("mine", 1),
        bookmark("zmigrate", 1),
        bookmark("zmigrate:1", 1),
        // A bookmark that only looks like ours: the GUID in its name is another's.
        bookmark(&format!("zmigrate:{JOB_A}:2"), 1),
        bookmark("zmigrate:bad job!:1".replace('!', "").as_str(), 1),
        bookmark("syncoid_x", 2),
    ];
    let holds =
        [("tank/a@s1", "keep"), ("tank/a@s1", "zmigrate"), ("tank/a@s1", "zmigrate:a b"), ("tank/a@s1", "zrepl:x")];
    assert_eq!(look(d, &holds), Vec::new());
}

#[test]
fn the_newest_bookmark_of_each_job_is_its_base() {
    let mut d = dataset("tank/a", &[]);
    d.bookmarks = vec![ours(JOB_A, 1), ours(JOB_B, 2), ours(JOB_A, 3)];
    let items = look(d, &[]);
    let expected = [(JOB_A, 1, Standing::Stale), (JOB_B, 2, Standing::Base), (JOB_A, 3, Standing::Base)];
    let expected = expected.map(|(job, n, standing)| (format!("tank/a#zmigrate:{job}:{n}"), standing));
    assert_eq!(standings(&items), expected);
    assert!(items.iter().all(|i| i.side == Side::Source && i.kind == Kind::Bookmark));
    assert_eq!((items[0].snapshot.as_deref(), items[0].created_unix_s), (Some("s1"), Some(1_000_001)));
}

/// A step that was never acknowledged leaves a hold on a snapshot newer than the base; the base must not be called stale.
#[test]
fn a_hold_never_makes_the_base_stale() {
    let mut d = dataset("tank/a", &[]);
    d.bookmarks = vec![ours(JOB_A, 3)];
    let tag = format!("zmigrate:{JOB_A}");
    let items = look(d, &[("tank/a@s2", &tag), ("tank/a@s3", &tag), ("tank/a@s5", &tag)]);
    let expected = [Standing::Base, Standing::Stale, Standing::Base, Standing::InFlight];
    assert_eq!(items.iter().map(|i| i.standing).collect::<Vec<_>>(), expected);
    // Without anything acknowledged, none of them is known to be superseded.
    let items = look(dataset("tank/a", &[]), &[("tank/a@s2", &tag), ("tank/a@s5", &tag)]);
    assert!(items.iter().all(|i| i.standing == Standing::Unclear && i.side == Side::Source));
    // What another job acknowledged says nothing of this one.
    let mut d = dataset("tank/a", &[]);
    d.bookmarks = vec![ours(JOB_B, 5)];
    assert_eq!(look(d, &[("tank/a@s2", &tag)])[1].standing, Standing::Unclear);
}

#[test]
fn a_target_holds_what_it_says_it_holds() {
    let marks = [("zmigrate:job", JOB_A, PropertySource::Local), ("zmigrate:held", "s3", PropertySource::Local)];
    let tag = format!("zmigrate:{JOB_A}");
    let items = look(dataset("tank/a", &marks), &[("tank/a@s2", &tag), ("tank/a@s3", &tag), ("tank/a@s4", &tag)]);
    let kinds: Vec<_> = items.iter().map(|i| (i.kind, i.standing)).collect();
    use Standing::{Base, InFlight, Mark, Stale};
    let expected =
        [(Kind::Hold, Stale), (Kind::Hold, Base), (Kind::Hold, InFlight), (Kind::Job, Mark), (Kind::Held, Mark)];
    assert_eq!(kinds, expected);
    assert!(items.iter().all(|i| i.side == Side::Target && i.needs_lock()));
    // A record of a snapshot that is gone proves nothing.
    let marks = [("zmigrate:job", JOB_A, PropertySource::Local), ("zmigrate:held", "gone", PropertySource::Local)];
    assert_eq!(look(dataset("tank/a", &marks), &[("tank/a@s2", &tag)])[0].standing, Standing::Unclear);
}

#[test]
fn where_holds_cannot_be_listed_the_property_tells_of_one() {
    let marks = [("zmigrate:job", JOB_A, PropertySource::Local), ("zmigrate:held", "s3", PropertySource::Local)];
    let items = of(&Listing { datasets: vec![dataset("tank/a", &marks)] }, None);
    assert_eq!((items[0].kind, items[0].name.as_str(), items[0].seen), (Kind::Hold, "tank/a@s3", false));
    assert_eq!(items.len(), 3);
}

#[test]
fn stale_takes_no_base_and_job_takes_no_other_job() {
    let mut d = dataset("tank/a", &[("zmigrate:placeholder", "on", PropertySource::Local)]);
    d.bookmarks = vec![ours(JOB_A, 1), ours(JOB_B, 2), ours(JOB_A, 3)];
    let tag = format!("zmigrate:{JOB_A}");
    let mut items = look(d, &[("tank/a@s1", &tag), ("tank/a@s5", &tag)]);
    items.extend(look(dataset("tank/ab", &[("zmigrate:job", JOB_A, PropertySource::Local)]), &[]));
    let names = |choice: &Choice| -> Vec<String> {
        choice.of(&items).map(|all| all.iter().map(|i| i.name.clone()).collect()).unwrap_or_default()
    };
    let (old, new) = (format!("tank/a#zmigrate:{JOB_A}:1"), format!("tank/a#zmigrate:{JOB_A}:3"));
    assert_eq!(names(&Choice::Stale { job: None, scope: None }), [old.as_str(), "tank/a@s1"]);
    assert_eq!(names(&Choice::Stale { job: Some(JOB_B.parse().unwrap()), scope: None }), Vec::<String>::new());
    let of_job =
        |scope: Option<&str>| Choice::Job { job: JOB_A.parse().unwrap(), scope: scope.map(|s| s.parse().unwrap()) };
    assert_eq!(names(&of_job(None)), [old.as_str(), &new, "tank/a@s1", "tank/a@s5", "tank/ab"]);
    assert_eq!(names(&of_job(Some("tank/a"))), [old.as_str(), &new, "tank/a@s1", "tank/a@s5"]);
    let named = |name: &str| Choice::Named { name: name.into(), job: None };
    assert_eq!(names(&named(&new)), [new.as_str()]);
    assert_eq!(names(&named("tank/a")), ["tank/a"]);
    assert_eq!(named("tank/a").of(&items).unwrap()[0].kind, Kind::Placeholder);
    assert!(names(&named("tank/a@s2")).is_empty() && names(&named("tank")).is_empty());
    for (name, root) in
        [("tank/a#x", "tank/a"), ("tank/a@s", "tank/a"), ("tank/a/%recv", "tank/a"), ("tank/a", "tank/a")]
    {
        assert_eq!(named(name).root().unwrap().as_str(), root);
    }
}

/// Whoever names the dataset means its other properties: a fence is not let go like those.
#[test]
fn marks_of_a_cutover_are_shown_and_no_choice_takes_them() {
    let fence = ("zmigrate:fence", "0000002a:2", PropertySource::Local);
    let marks = [fence.clone(), ("zmigrate:serving", "00000029:1", PropertySource::Local)];
    let items = look(dataset("tank/a", &marks), &[]);
    let told: Vec<_> = items.iter().map(|i| (i.kind, i.side, i.standing, i.leg.as_deref())).collect();
    let expected = [
        (Kind::Fence, Side::Source, Standing::Mark, Some("0000002a:2")),
        (Kind::Serving, Side::Target, Standing::Mark, Some("00000029:1")),
    ];
    assert_eq!(told, expected);
    let table = table(&items, 0);
    assert!(table.contains("zmigrate:fence=0000002a:2 ") && table.contains("zmigrate:serving=00000029:1 "), "{table}");
    let named = Choice::Named { name: "tank/a".into(), job: None };
    for choice in [&named, &Choice::Stale { job: None, scope: None }] {
        assert_eq!(choice.of(&items), Err(NothingChosen));
    }
    // Of a dataset that is a target as well, only that goes.
    let items = look(dataset("tank/a", &[fence, ("zmigrate:job", JOB_A, PropertySource::Local)]), &[]);
    let chosen: Vec<_> = named.of(&items).unwrap().iter().map(|i| i.kind).collect();
    assert_eq!((items.len(), chosen), (2, vec![Kind::Job]));
    // What is inherited is shown where it was set.
    let below = [("zmigrate:fence", "0000002a:2", PropertySource::Inherited)];
    assert_eq!(look(dataset("tank/a/b", &below), &[]), Vec::new());
}

#[test]
fn the_table_fits_into_80_columns() {
    let mut d = dataset(
        "tank/customers/acme/databases/postgres",
        &[("zmigrate:job", JOB_B, PropertySource::Local), ("zmigrate:held", "s2", PropertySource::Local)],
    );
    d.snapshots.push(snapshot("zmigrate_2026-11-24T02:03:04.567Z", 6));
    d.bookmarks = vec![ours(JOB_A, 1), ours(JOB_A, 12_345_678_901_234_567_890)];
    let (a, b) = (format!("zmigrate:{JOB_A}"), format!("zmigrate:{JOB_B}"));
    let held = format!("{}@zmigrate_2026-11-24T02:03:04.567Z", d.name);
    let s2 = format!("{}@s2", d.name);
    let mut items = look(d, &[(&held, &a), (&s2, &b)]);
    let mut half = dataset("tank/half", &[("zmigrate:placeholder", "on", PropertySource::Local)]);
    half.resume_token = Some("1-not-a-token".into());
    items.extend(look(half, &[]));
    let table = table(&items, 1_000_000 + 3 * 86_400);
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    insta::assert_snapshot!(table, @r"
      WHAT      SNAPSHOT                            JOB               AGE  STATE
    tank/customers/acme/databases/postgres
      bookmark  @s1                                 aaaaaaaa11111111  2d   stale
      bookmark  gone, GUID 12345678901234567890     aaaaaaaa11111111  0s   base
      hold      @s2                                 bbbbbbbb22222222  2d   base
      hold      @zmigrate_2026-11-24T02:03:04.567Z  aaaaaaaa11111111  2d   stale
      property  zmigrate:job                        bbbbbbbb22222222  -    mark
      property  zmigrate:held=s2                    bbbbbbbb22222222  2d   mark
    tank/half
      property  zmigrate:placeholder                -                 -    mark
      receive   -                                   -                 -    waits
    ");
}

#[test]
fn each_item_says_what_its_going_means() {
    let marks = [
        ("zmigrate:job", JOB_B, PropertySource::Local),
        ("zmigrate:held", "s2", PropertySource::Local),
        ("zmigrate:placeholder", "on", PropertySource::Local),
    ];
    let mut d = dataset("tank/a", &marks);
    d.bookmarks = vec![ours(JOB_A, 1), ours(JOB_A, 3)];
    (d.resume_token, d.inconsistent) = (Some("1-not-a-token".into()), true);
    let (a, b) = (format!("zmigrate:{JOB_A}"), format!("zmigrate:{JOB_B}"));
    let items = look(d, &[("tank/a@s2", &b), ("tank/a@s5", &a)]);
    let lines: Vec<String> = items.iter().map(|i| format!("{:?}: {}", i.kind, i.meaning())).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    Bookmark: nothing is lost: a newer base of this job stands
    Bookmark: once @s3 is destroyed too, the next run of this job from tank/a needs another common snapshot, or starts over
    Hold: @s2 can then be destroyed; without it the next run into tank/a needs another common snapshot, or starts over
    Hold: a run is at work on it, or one stopped before the other side acknowledged it; the next run holds it again
    Job: zmigrate forgets which job writes tank/a; the next run into it makes the id anew, a different one if a dataset was renamed since, and then finds no bookmark of its own
    Held: the next run into tank/a finishes its last step once more
    Placeholder: tank/a is an ordinary dataset from then on; zmigrate puts nothing received in its place
    Partial: what arrived is thrown away, and tank/a with it, which holds nothing else; the next run sends that stream anew
    ");
}
