//! Holds the tables of docs/protocol.md to what is encoded: numbers, names, and the order of fields.
//!
//! The names come from JSON, which knows them, and which the same derived code writes in the same order; the numbers from the bytes.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{
    codec::{Use, decode, encode},
    hello::{Role, SessionId, features},
    message::*,
    verify::{VerifyAnswer, VerifyAsk, VerifyWhat},
};
use crate::types::{
    Access, CreateTxg, DatasetName, Failure, FailureClass, Guid, JobId, PoolStatus, SnapshotName, ZfsVersion,
    content::{ContentCounts, ContentDigest, ContentHash, ContentPage, Entry, EntryKind, HardLink, Xattr},
    listing::{
        BookmarkInfo, Capabilities, DatasetInfo, DatasetKind, Encryption, Listing, Property, PropertySource,
        SnapshotInfo,
    },
    transfer::{Base, Depth, SendFlags, SendSpec, SnapshotRequest},
};

const PROTOCOL: &str = include_str!("../../docs/protocol.md");

/// JSON with its fields in their order.
enum Tree {
    Fields(Vec<(String, Tree)>),
    Name(String),
    Other,
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Tree, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Tree;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Tree::Fields(fields))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Tree::Other)
            }
            fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
                Ok(Tree::Name(text.to_owned()))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
                Ok(Tree::Other)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
                Ok(Tree::Other)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
                Ok(Tree::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
                Ok(Tree::Other)
            }
            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Other)
            }
        }
        from.deserialize_any(Reader)
    }
}

fn tree(sample: &impl Serialize) -> Tree {
    serde_json::from_str(&serde_json::to_string(sample).unwrap()).unwrap()
}

/// The names of a struct's fields.
fn fields(sample: &impl Serialize) -> Vec<String> {
    match tree(sample) {
        Tree::Fields(fields) => fields.into_iter().map(|(name, _)| name).collect(),
        _ => panic!("no struct"),
    }
}

/// The name of a variant, and those of its fields.
fn variant(sample: &impl Serialize) -> (String, Vec<String>) {
    match tree(sample) {
        Tree::Name(name) => (name, Vec::new()),
        Tree::Fields(mut variant) if variant.len() == 1 => match variant.remove(0) {
            (name, Tree::Fields(fields)) => (name, fields.into_iter().map(|(name, _)| name).collect()),
            (name, _) => (name, Vec::new()),
        },
        _ => panic!("no variant"),
    }
}

/// Every variant in order: that it is every one, the decoder says, which knows how many there are.
fn variants<T: Serialize + DeserializeOwned + fmt::Debug>(samples: &[T]) -> Vec<(String, Vec<String>)> {
    let error = decode::<T>(&[250], Use::Reply).expect_err("nothing has so many variants").to_string();
    assert!(error.contains(&format!("0 <= i < {}", samples.len())), "{error}; there are {} samples", samples.len());
    for (number, sample) in samples.iter().enumerate() {
        assert_eq!(usize::from(encode(sample, Use::Reply).unwrap()[0]), number, "{sample:?}");
    }
    samples.iter().map(variant).collect()
}

/// As a row names them: `0 Full snapshot flags, 1 …`.
fn in_words<T: Serialize + DeserializeOwned + fmt::Debug>(samples: &[T]) -> String {
    let words = variants(samples).into_iter().enumerate().map(|(number, (name, fields))| {
        std::iter::once(format!("{number} {name}")).chain(fields).collect::<Vec<_>>().join(" ")
    });
    words.collect::<Vec<_>>().join(", ")
}

fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A row of several: each name that a number stands before begins the next one.
fn row_in_words(row: &str) -> String {
    let mut words = String::new();
    let parts: Vec<&str> = row.split('`').collect();
    for (i, name) in parts.iter().enumerate().skip(1).step_by(2) {
        let number = parts[i - 1].trim_end().rsplit(' ').next().filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
        let number = number.filter(|n| !n.is_empty()).map(|n| format!("{n} "));
        words += if words.is_empty() {
            ""
        } else if number.is_some() {
            ", "
        } else {
            " "
        };
        words += &number.unwrap_or_default();
        words += name;
    }
    words
}

/// The rows between two lines of the document, as cells.
fn rows(from: &str, to: &str) -> Vec<Vec<&'static str>> {
    let (_, rest) = PROTOCOL.split_once(from).unwrap_or_else(|| panic!("{from}"));
    let (part, _) = rest.split_once(to).unwrap_or_else(|| panic!("{to}"));
    let rows = part.lines().filter(|line| line.starts_with("| "));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

fn snapshot() -> SnapshotName {
    "a@s".parse().unwrap()
}

fn job() -> JobId {
    "j".parse().unwrap()
}

fn send_step() -> SendStep {
    SendStep {
        snapshot: snapshot(),
        to_guid: Guid(7),
        base: None,
        flags: SendFlags::default(),
        resume: None,
        job: job(),
        compression: Compression::Auto,
        bwlimit_bytes_per_s: None,
    }
}

fn receive_step() -> ReceiveStep {
    ReceiveStep {
        snapshot: snapshot(),
        to_guid: Guid(7),
        from_guid: None,
        from: None,
        kind: DatasetKind::Volume,
        creates: false,
        resumes: false,
        origin: None,
        raw: false,
        properties: Vec::new(),
        job: job(),
    }
}

fn probed() -> ProbedStream {
    ProbedStream { to_guid: Guid(5), from_guid: None, raw: false, resumes: false }
}

fn requests() -> Vec<Request> {
    let dataset = "a".parse::<DatasetName>().unwrap();
    let prune = PruneRequest {
        dataset: dataset.clone(),
        job: job(),
        prefix: "p".into(),
        snapshots: Vec::new(),
        dry_run: false,
    };
    let retire = RetireRequest {
        dataset: dataset.clone(),
        job: job(),
        prefix: "p".into(),
        gone: true,
        after_s: 1,
        dry_run: false,
    };
    let request =
        SnapshotRequest { root: dataset.clone(), tag: "s".parse().unwrap(), recursive: true, except: Vec::new() };
    let verify =
        VerifyAsk { snapshot: snapshot(), guid: Guid(7), role: RoleOfDataset::Source, what: VerifyWhat::Changed };
    vec![
        Request::List { root: dataset.clone(), depth: Depth::Tree, role: RoleOfDataset::Target },
        Request::Lock { target: dataset.clone() },
        Request::Snapshot(request),
        Request::CreatePlaceholder { dataset: dataset.clone() },
        Request::RemovePlaceholder { dataset: dataset.clone() },
        Request::Rollback { to: snapshot(), to_guid: Guid(7), destroys: Vec::new() },
        Request::AbortPartial { dataset: dataset.clone() },
        Request::Sizes(Vec::new()),
        Request::OpenReceive { channel: 3, step: receive_step() },
        Request::FinishReceive { channel: 3 },
        Request::OpenSend { channel: 3, step: send_step() },
        Request::FinishSend { channel: 3 },
        Request::Cancel { channel: 3 },
        Request::Acknowledge { snapshot: snapshot(), guid: Guid(7), job: job(), superseded: Vec::new() },
        Request::Bye,
        Request::About,
        Request::OpenProbe { channel: 3, stream: probed() },
        Request::FinishProbe { channel: 3 },
        Request::Cutover { unit: vec![dataset], call: "{}".into() },
        Request::Prune(prune),
        Request::Verify(verify),
        Request::Retire(retire),
        Request::Prepare { channel: 3 },
        Request::Limit { bytes_per_s: Some(7) },
    ]
}

fn replies() -> Vec<Reply> {
    let listed = Listed { listing: Listing::default(), ancestors: Vec::new(), capabilities: Capabilities::default() };
    vec![
        Reply::Done,
        Reply::DoneWith(Vec::new()),
        Reply::Listed(Box::new(listed)),
        Reply::Sizes(Vec::new()),
        Reply::AlreadyReceived,
        Reply::Transferred(Transferred::default()),
        Reply::About(Box::default()),
        Reply::Probed { transferred: Transferred::default(), times: ReceiverTimes::default() },
        Reply::Cutover("{}".into()),
        Reply::Pruned(Vec::new()),
        // What is in these two has rows of its own: the field that JSON shows is the name of one of several.
        Reply::Verified(Box::new(VerifyAnswer::Changed(1))),
        Reply::Retired(Retired::Back),
        Reply::AlreadyReceivedWith(Vec::new()),
    ]
}

#[test]
fn requests_and_replies_are_those_of_the_tables() {
    let documented = rows("### Request\n", "### Reply\n");
    let samples = requests();
    assert_eq!(documented.len() - 1, samples.len());
    for ((row, (number, (name, fields))), sample) in
        documented[1..].iter().zip(variants(&samples).into_iter().enumerate()).zip(&samples)
    {
        let feature = sample.feature().map_or("–".to_owned(), |bit| bit.to_string());
        assert_eq!(row[0], number.to_string());
        assert_eq!((quoted(row[1]), row[3]), (vec![name], feature.as_str()));
        assert_eq!(
            quoted(row[2]).into_iter().filter(|name| !name.contains('/')).collect::<Vec<_>>(),
            fields,
            "{row:?}"
        );
    }
    let documented = rows("### Reply\n", "### What they are made of\n");
    let replies = variants(&replies());
    assert_eq!(documented.len() - 1, replies.len());
    for (row, (number, (name, mut fields))) in documented[1..].iter().zip(replies.into_iter().enumerate()) {
        assert_eq!((row[0], quoted(row[1])), (number.to_string().as_str(), vec![name.clone()]));
        if name == "Verified" {
            fields.clear();
        }
        assert_eq!(quoted(row[2]), fields, "{row:?}");
    }
}

#[test]
fn what_they_are_made_of_is_in_the_tables() {
    let failure = Failure::new(FailureClass::Zfs, "e");
    let hash = ContentHash([0; 32]);
    let dataset = DatasetInfo {
        name: "a".parse().unwrap(),
        kind: DatasetKind::Volume,
        guid: Guid(1),
        createtxg: CreateTxg(1),
        origin: None,
        encryption: None,
        resume_token: None,
        inconsistent: false,
        written: None,
        referenced: 0,
        available: 0,
        properties: Vec::new(),
        snapshots: Vec::new(),
        bookmarks: Vec::new(),
    };
    let (tag, guid, createtxg) = ("s".parse().unwrap(), Guid(1), CreateTxg(1));
    let snapshot = SnapshotInfo { tag, guid, createtxg, creation_unix_s: 0 };
    let bookmark = BookmarkInfo { tag: snapshot.tag.clone(), guid, createtxg, creation_unix_s: 0 };
    let property = Property { name: "p".into(), value: "v".into(), source: PropertySource::Local };
    let status = PoolStatus {
        name: "a".into(),
        health: "ONLINE".into(),
        readonly: None,
        full_percent: None,
        used: None,
        available: None,
    };
    let counts = ContentCounts::default();
    let entry = Entry {
        path: Vec::new(),
        kind: EntryKind::Directory,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        link: None,
        xattrs: Vec::new(),
    };
    let structs = BTreeMap::from([
        ("Call", fields(&Call { id: 1, request: Request::Bye })),
        ("Answer", fields(&Answer { id: 1, result: Ok(Reply::Done) })),
        ("Failure", fields(&failure)),
        ("SendStep", fields(&send_step())),
        ("ReceiveStep", fields(&receive_step())),
        ("SendFlags", fields(&SendFlags::default())),
        ("ProbedStream", fields(&probed())),
        ("Listing", fields(&Listing::default())),
        ("DatasetInfo", fields(&dataset)),
        ("Encryption", fields(&Encryption { suite: "s".into(), root: None, key_loaded: false })),
        ("Property", fields(&property)),
        ("SnapshotInfo", fields(&snapshot)),
        ("BookmarkInfo", fields(&bookmark)),
        ("Capabilities", fields(&Capabilities::default())),
        ("Transferred", fields(&Transferred::default())),
        ("ReceiverTimes", fields(&ReceiverTimes::default())),
        ("ZfsVersion", fields(&ZfsVersion::default())),
        ("AboutPool", fields(&AboutPool { status: status.clone(), capabilities: None })),
        ("PoolStatus", fields(&status)),
        ("Pruned", fields(&Pruned { tag: snapshot.tag.clone(), spared: None })),
        ("ContentDigest", fields(&ContentDigest { digest: hash, counts })),
        ("ContentCounts", fields(&counts)),
        ("ContentPage", fields(&ContentPage::default())),
        ("Entry", fields(&entry)),
        ("HardLink", fields(&HardLink { inode: 1, names: 2 })),
        ("Xattr", fields(&Xattr { name: Vec::new(), size: 0, hash })),
    ]);
    let documented = rows("### What they are made of\n", "| one of several | by number");
    let documented: BTreeMap<&str, Vec<String>> = documented[1..].iter().map(|row| (row[0], quoted(row[1]))).collect();
    assert_eq!(documented, structs);
}

#[test]
fn one_of_several_has_the_number_of_the_table() {
    use FailureClass as C;
    let classes = [
        C::Usage,
        C::Refused,
        C::NotGranted,
        C::Unreachable,
        C::SessionLost,
        C::Protocol,
        C::Zfs,
        C::BadStream,
        C::Locked,
        C::Interrupted,
        C::Partial,
        C::Internal,
    ];
    let failure = || Failure::new(FailureClass::Zfs, "e");
    let (flags, hash) = (SendFlags::default(), ContentHash([0; 32]));
    let base = Base::Snapshot(snapshot());
    let specs = [
        SendSpec::Full { snapshot: snapshot(), flags },
        SendSpec::Incremental { base: base.clone(), snapshot: snapshot(), flags },
        SendSpec::Resume { token: "t".into() },
    ];
    let sources = [
        PropertySource::Local,
        PropertySource::Received,
        PropertySource::Inherited,
        PropertySource::Default,
        PropertySource::Temporary,
    ];
    let whats = [
        VerifyWhat::Changed,
        VerifyWhat::Digest(DatasetKind::Volume),
        VerifyWhat::Page { kind: DatasetKind::Volume, after: None },
    ];
    let answers = [
        VerifyAnswer::Changed(1),
        VerifyAnswer::Digest(ContentDigest { digest: hash, counts: ContentCounts::default() }),
        VerifyAnswer::Page(ContentPage::default()),
    ];
    let kinds = [
        EntryKind::Directory,
        EntryKind::File { size: 0, hash },
        EntryKind::Symlink { target: Vec::new() },
        EntryKind::CharDevice { device: (1, 2) },
        EntryKind::BlockDevice { device: (1, 2) },
        EntryKind::Fifo,
        EntryKind::Socket,
        EntryKind::Volume { size: 0 },
        EntryKind::Extent { size: 0, hash },
    ];
    let retired = [Retired::Waits { since_unix_s: 5 }, Retired::Stays("w".into()), Retired::Destroyed, Retired::Back];
    let said = [StreamMessage::End { raw_bytes: 1, digest: 1 }, StreamMessage::Failed(failure())];
    let roles = [Role::Open, Role::Attach { session: SessionId(1), channel: 0, stripe: 0, next: 0 }];
    let mut expected = BTreeMap::from([
        ("FailureClass", in_words(&classes)),
        ("RoleOfDataset", in_words(&[RoleOfDataset::Source, RoleOfDataset::Target])),
        ("Depth", in_words(&[Depth::Root, Depth::Tree])),
        ("DatasetKind", in_words(&[DatasetKind::Filesystem, DatasetKind::Volume])),
        ("Access", in_words(&Access::ALL)),
        ("Base", in_words(&[base, Base::Bookmark("a#b".parse().unwrap())])),
        ("Compression", in_words(&[Compression::Auto, Compression::Zstd(-1), Compression::None])),
        ("SendSpec", in_words(&specs)),
        ("PropertySource", in_words(&sources)),
        ("VerifyWhat", in_words(&whats)),
        ("VerifyAnswer", in_words(&answers)),
        ("EntryKind", in_words(&kinds)),
        ("Retired", in_words(&retired)),
        ("Role", in_words(&roles)),
    ]);
    // The fields of a failure have a row of their own, and serde's own Result names its variants in another way.
    expected.insert("StreamMessage", in_words(&said).split(" class").next().unwrap().to_owned());
    let results = [Ok(Reply::Done), Err(failure())].map(|result: Result<Reply, Failure>| result);
    for (number, result) in results.iter().enumerate() {
        assert_eq!(usize::from(encode(result, Use::Reply).unwrap()[0]), number);
    }
    expected.insert("Result", "0 Ok, 1 Err".to_owned());
    let documented = rows("| one of several | by number", "## Compatibility\n");
    let documented: BTreeMap<&str, String> = documented.iter().map(|row| (row[0], row_in_words(row[1]))).collect();
    assert_eq!(documented, expected);
}

#[test]
fn the_features_are_those_of_the_table() {
    let documented: Vec<u64> =
        rows("## Features\n", "## Encoding\n").iter().filter_map(|row| row[0].parse().ok()).collect();
    let ours: Vec<u64> = (0..64).map(|bit| 1 << bit).filter(|bit| features::OURS & bit != 0).collect();
    assert_eq!(documented, ours);
}

#[test]
fn the_example_of_the_document_is_what_is_encoded() {
    let list = Request::List { root: "a".parse().unwrap(), depth: Depth::Tree, role: RoleOfDataset::Target };
    let bytes: Vec<String> = encode(&list, Use::Request).unwrap().iter().map(|b| format!("{b:02x}")).collect();
    assert!(PROTOCOL.contains(&format!("role: Target }}` is `{}`", bytes.join(" "))), "{bytes:?}");
}
