//! A small language for listings, and a short way to plan.

use std::io::Write;

use crate::{
    plan::{Action, DatasetPlan, Decision, EncryptionMode, History, Plan, PlanInput, PlanOptions, Refusal, Step},
    types::{
        CreateTxg, DatasetName, Guid,
        listing::{
            BookmarkInfo, Capabilities, DatasetInfo, DatasetKind, Encryption, Listing, PLACEHOLDER, Property,
            PropertySource, SnapshotInfo,
        },
        transfer::Base,
    },
};

pub fn name(s: &str) -> DatasetName {
    s.parse().unwrap()
}

/// A dataset in the making. A snapshot's createtxg is ten times its place in the order of calls.
#[derive(Clone)]
pub struct Ds(pub DatasetInfo);

pub fn ds(n: &str) -> Ds {
    Ds(DatasetInfo {
        name: name(n),
        kind: DatasetKind::Filesystem,
        guid: Guid(n.bytes().map(u64::from).sum()),
        createtxg: CreateTxg(1),
        origin: None,
        encryption: None,
        resume_token: None,
        inconsistent: false,
        written: Some(0),
        referenced: 96 << 10,
        available: 1 << 40,
        properties: Vec::new(),
        snapshots: Vec::new(),
        bookmarks: Vec::new(),
    })
}

impl Ds {
    pub fn snap(mut self, tag: &str, guid: u64) -> Self {
        let txg = self.0.snapshots.last().map_or(0, |s| s.createtxg.0) + 10;
        self.0.snapshots.push(SnapshotInfo {
            tag: tag.parse().unwrap(),
            guid: Guid(guid),
            createtxg: CreateTxg(txg),
            creation_unix_s: 0,
        });
        self
    }
    /// `a b c`: a snapshot each; the GUID of a tag is its bytes read as a number.
    pub fn snaps(self, tags: &str) -> Self {
        tags.split_whitespace().fold(self, |d, tag| d.snap(tag, guid(tag).0))
    }
    /// A bookmark of a snapshot that stands (or stood) at this createtxg.
    pub fn bookmark(mut self, tag: &str, guid: Guid, txg: u64) -> Self {
        self.0.bookmarks.push(BookmarkInfo {
            tag: tag.parse().unwrap(),
            guid,
            createtxg: CreateTxg(txg),
            creation_unix_s: 0,
        });
        self
    }
    /// Takes a snapshot away; the others keep their createtxg.
    pub fn without(mut self, tag: &str) -> Self {
        self.0.snapshots.retain(|s| s.tag.as_str() != tag);
        self
    }
    pub fn volume(mut self) -> Self {
        self.0.kind = DatasetKind::Volume;
        self
    }
    pub fn origin(mut self, snapshot: &str) -> Self {
        self.0.origin = Some(snapshot.parse().unwrap());
        self
    }
    pub fn encrypted(mut self, root: &str, key_loaded: bool) -> Self {
        self.0.encryption = Some(Encryption { suite: "aes-256-gcm".into(), root: Some(name(root)), key_loaded });
        self
    }
    pub fn token(mut self, token: &str) -> Self {
        self.0.resume_token = Some(token.into());
        self
    }
    pub fn inconsistent(mut self) -> Self {
        self.0.inconsistent = true;
        self
    }
    pub fn written(mut self, bytes: u64) -> Self {
        self.0.written = Some(bytes);
        self
    }
    pub fn referenced(mut self, bytes: u64) -> Self {
        self.0.referenced = bytes;
        self
    }
    pub fn set(self, name: &str, value: &str) -> Self {
        self.property(name, value, PropertySource::Local)
    }
    pub fn property(mut self, name: &str, value: &str, source: PropertySource) -> Self {
        self.0.properties.push(Property { name: name.into(), value: value.into(), source });
        self
    }
    pub fn placeholder(self) -> Self {
        self.set(PLACEHOLDER, "on").set("canmount", "off")
    }
}

pub fn guid(tag: &str) -> Guid {
    Guid(tag.bytes().fold(0, |n, b| n * 256 + u64::from(b)))
}

pub fn openzfs() -> Capabilities {
    let features = ["large_blocks", "embedded_data", "lz4_compress", "zstd_compress", "encryption", "bookmarks"];
    Capabilities {
        send_large_block: true,
        send_compressed: true,
        send_embed: true,
        send_raw: true,
        send_resume: true,
        receive_resumable: true,
        bookmarks: true,
        pool_features: features.map(String::from).into(),
        pool_features_active: ["lz4_compress"].map(String::from).into(),
        ..Capabilities::default()
    }
}

/// One case: `tank/db` to `backup/db` unless told otherwise.
#[derive(Clone)]
pub struct Case {
    pub source: Vec<Ds>,
    pub target: Vec<Ds>,
    pub above: Vec<Ds>,
    pub roots: (DatasetName, DatasetName),
    pub source_caps: Capabilities,
    pub target_caps: Capabilities,
    pub options: PlanOptions,
}

pub fn case(source: impl IntoIterator<Item = Ds>, target: impl IntoIterator<Item = Ds>) -> Case {
    Case {
        source: source.into_iter().collect(),
        target: target.into_iter().collect(),
        above: vec![ds("backup")],
        roots: (name("tank/db"), name("backup/db")),
        source_caps: openzfs(),
        target_caps: openzfs(),
        options: PlanOptions {
            recursive: false,
            exclude: Vec::new(),
            history: History::All,
            upto: None,
            encryption: EncryptionMode::Default,
            rollback: false,
            job: "nightly".parse().unwrap(),
            enters: None,
        },
    }
}

impl Case {
    pub fn recursive(mut self) -> Self {
        self.options.recursive = true;
        self
    }
    pub fn newest(mut self) -> Self {
        self.options.history = History::Newest;
        self
    }
    pub fn rollback(mut self) -> Self {
        self.options.rollback = true;
        self
    }
    pub fn upto(mut self, tag: &str) -> Self {
        self.options.upto = Some(tag.parse().unwrap());
        self
    }
    pub fn mode(mut self, mode: EncryptionMode) -> Self {
        self.options.encryption = mode;
        self
    }
    pub fn exclude(mut self, pattern: &str) -> Self {
        self.options.exclude.push(pattern.parse().unwrap());
        self
    }
    pub fn try_plan(&self) -> Result<Plan, Refusal> {
        let listing = |all: &[Ds]| Listing { datasets: all.iter().map(|d| d.0.clone()).collect() };
        let above: Vec<_> = self.above.iter().map(|d| d.0.clone()).collect();
        crate::plan::plan(&PlanInput {
            source: &listing(&self.source),
            source_root: &self.roots.0,
            source_caps: &self.source_caps,
            target: &listing(&self.target),
            target_root: &self.roots.1,
            target_ancestors: &above,
            target_caps: &self.target_caps,
            options: &self.options,
        })
    }
    pub fn plan(&self) -> Plan {
        self.try_plan().unwrap()
    }
    /// The plan's lines.
    pub fn lines(&self) -> Vec<String> {
        self.plan().datasets.iter().flat_map(lines).collect()
    }
    /// The only refusal.
    pub fn refusal(&self) -> Refusal {
        let plan = self.plan();
        let mut refusals = plan.refusals();
        let (_, refusal) = refusals.next().unwrap_or_else(|| panic!("not refused: {plan:#?}"));
        assert!(refusals.next().is_none(), "refused more than once");
        refusal.clone()
    }
}

/// Each dataset's decision in a few words, independent of how a plan is rendered for people.
pub fn lines(d: &DatasetPlan) -> Vec<String> {
    match &d.decision {
        Decision::UpToDate { newest, .. } => vec![format!("{newest} up to date")],
        Decision::Refused(refusal) => vec![format!("{} refused {refusal:?}", d.source)],
        Decision::Work(actions) => actions.iter().map(line).collect(),
    }
}

fn line(action: &Action) -> String {
    match action {
        Action::AbortPartial { reason } => format!("abort: {reason}"),
        Action::ReplacePlaceholder { target } => format!("replace {target}"),
        Action::Rollback { to, destroys, .. } => {
            format!("rollback {to} {:?}", destroys.iter().map(|s| s.tag().to_string()).collect::<Vec<_>>())
        }
        Action::Step(step) => step_line(step),
    }
}

fn step_line(step: &Step) -> String {
    let from = match step.from.as_ref().map(|f| &f.base) {
        None => "full".into(),
        Some(Base::Snapshot(s)) => format!("from {s}"),
        Some(Base::Bookmark(b)) => format!("from {b}"),
    };
    let origin = step.origin.as_ref().map_or(String::new(), |o| format!(" origin {o}"));
    let resumed = if step.resume.is_some() { " resumed" } else { "" };
    let creates = if step.creates_target { " new" } else { "" };
    format!("{} -> {} {from}{origin}{resumed}{creates}", step.snapshot, step.target_snapshot)
}

/// A resume token as `zfs` would make it (XDR nvlist, zlib, fletcher-4).
pub fn token(to_name: &str, to: Guid, from: Option<Guid>, flags: &[&str]) -> String {
    let mut list = vec![1, 1, 0, 0];
    list.extend([0, 0, 0, 0, 0, 0, 0, 1]);
    let pair = |list: &mut Vec<u8>, name: &str, kind: u32, value: &[u8]| {
        let padded = name.len().div_ceil(4) * 4;
        let size = 8 + 4 + padded + 8 + value.len();
        list.extend((size as u32).to_be_bytes());
        list.extend((size as u32 + 32).to_be_bytes());
        list.extend((name.len() as u32).to_be_bytes());
        list.extend(name.bytes().chain(std::iter::repeat_n(0, padded - name.len())));
        list.extend(kind.to_be_bytes());
        list.extend((u32::from(kind != 1)).to_be_bytes());
        list.extend(value);
    };
    for (key, value) in [("object", 2), ("offset", 4096), ("bytes", 1 << 20), ("toguid", to.0)] {
        pair(&mut list, key, 8, &u64::to_be_bytes(value));
    }
    if let Some(from) = from {
        pair(&mut list, "fromguid", 8, &from.0.to_be_bytes());
    }
    let mut text = (to_name.len() as u32).to_be_bytes().to_vec();
    text.extend(to_name.bytes());
    text.resize(4 + to_name.len().div_ceil(4) * 4, 0);
    pair(&mut list, "toname", 9, &text);
    for flag in flags {
        pair(&mut list, flag, 1, &[]);
    }
    list.extend([0; 8]);
    let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    z.write_all(&list).unwrap();
    let data = z.finish().unwrap();
    let sum: u64 = data.as_chunks::<4>().0.iter().map(|w| u64::from(u32::from_le_bytes(*w))).sum();
    format!("1-{sum:x}-{:x}-{}", list.len(), hex::encode(data))
}
