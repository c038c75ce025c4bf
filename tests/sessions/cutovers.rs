//! Whole cutovers between two hosts in memory: with a failure at every operation of either side, and with the whole of either
//! host, or both, gone in the middle. After every single operation both sides are looked at: never may both be writable.

mod ends;
mod far;
mod own;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use zmigrate::{
    cutover::{
        coordinator::Phase,
        effect::Command,
        leg::{CutoverId, Epoch, Leg, Millis, Node},
        proof::Means,
        terms::{NotConverging, OnActivateFailure, Pair, Terms},
    },
    driver::{
        Board, RunContext,
        cutover::{Begun, End, Lead, name_of},
    },
    fake::{FakeZfs, Fault, Op},
    port::{
        busy::{Busy, Holder, Holders},
        hook::{HookCall, HookError, HookErrorKind, HookName, HookOutput, HookVerb, Hooks},
        ledger::{Ledger, LedgerError, Ledgers, Opened, Stamp},
        zfs::{Depth, Zfs, ZfsErrorKind as K},
    },
    session::{
        cutover::{Hosts, Looked, Tools},
        engine::Engine,
    },
    types::{Access, DatasetName, transfer::Streams},
    wire::message::Compression,
};

use crate::{
    clock::run,
    wire::{Daemon, Grants, SimLink},
    world::{Host, client_options, ds, limits, peer},
};

pub const SRC: &str = "src/a";
pub const DST: &str = "dst/in/a";
const BELOW: [&str; 3] = ["", "/b", "/b/c"];

/// Lines, and whether somebody owns them.
type Owned = (Vec<String>, bool);

/// Ledgers that outlive their processes, who waits for which, and what was noted beside them.
#[derive(Clone, Default)]
struct MemoryLedgers(
    Arc<Mutex<BTreeMap<String, Owned>>>,
    Arc<Mutex<BTreeMap<String, Arc<()>>>>,
    Arc<Mutex<BTreeMap<String, String>>>,
);

struct MemoryLedger(MemoryLedgers, String);

impl Ledger for MemoryLedger {
    fn append(&mut self, line: &str) -> std::io::Result<()> {
        self.0.0.lock().unwrap().get_mut(&self.1).unwrap().0.push(line.to_owned());
        Ok(())
    }

    fn is_half_full(&self) -> bool {
        false
    }

    fn note(&mut self, line: &str) -> std::io::Result<()> {
        self.0.2.lock().unwrap().insert(self.1.clone(), line.to_owned());
        Ok(())
    }
}

impl Drop for MemoryLedger {
    fn drop(&mut self) {
        if let Some(entry) = self.0.0.lock().unwrap().get_mut(&self.1) {
            entry.1 = false;
        }
    }
}

impl Ledgers for MemoryLedgers {
    fn open(&self, name: &str) -> Result<Opened, LedgerError> {
        let mut all = self.0.lock().unwrap();
        let entry = all.entry(name.to_owned()).or_default();
        if std::mem::replace(&mut entry.1, true) {
            return Err(LedgerError::Owned);
        }
        Ok(Opened { ledger: Box::new(MemoryLedger(self.clone(), name.to_owned())), lines: entry.0.clone() })
    }

    fn read(&self, name: &str) -> Result<Vec<String>, LedgerError> {
        Ok(self.0.lock().unwrap().get(name).map(|e| e.0.clone()).unwrap_or_default())
    }

    fn stamp(&self, name: &str) -> Option<Stamp> {
        self.0.lock().unwrap().get(name).map(|e| Stamp(e.0.len() as u64, None))
    }

    fn noted(&self, name: &str) -> Option<String> {
        self.2.lock().unwrap().get(name).cloned()
    }

    fn is_owned(&self, name: &str) -> bool {
        self.0.lock().unwrap().get(name).is_some_and(|entry| entry.1)
    }

    fn want(&self, name: &str) -> Option<Box<dyn Send + Sync>> {
        Some(Box::new(Arc::clone(self.1.lock().unwrap().entry(name.to_owned()).or_default())))
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.1.lock().unwrap().get(name).is_some_and(|wants| Arc::strong_count(wants) > 1)
    }

    fn names(&self, prefix: &str) -> Result<Vec<String>, LedgerError> {
        Ok(self.0.lock().unwrap().keys().filter(|n| n.starts_with(prefix)).cloned().collect())
    }

    fn place(&self, name: &str) -> String {
        name.to_owned()
    }
}

/// What a hook does beside.
type Beside = Box<dyn Fn(&HookCall) + Send + Sync>;
/// Which calls of a hook fail.
type Refuses = Box<dyn Fn(&HookCall) -> bool + Send + Sync>;

/// One writer for both hosts, which a hook of either stops and starts.
#[derive(Default)]
pub struct Writer {
    runs: AtomicBool,
    pub beside: Mutex<Option<Beside>>,
    /// Calls of hooks until one fails; 0 is never.
    fails_in: AtomicU64,
    refuses: Mutex<Option<Refuses>>,
    /// It cannot unmount a filesystem that lies on a volume.
    freezes: AtomicBool,
}

struct WriterHooks(Arc<Writer>);

#[async_trait]
impl Hooks for WriterHooks {
    fn declared(&self, name: &HookName) -> bool {
        name.as_str() == "writer"
    }

    fn may_unmount(&self, _: &str) -> bool {
        !self.0.freezes.load(Ordering::SeqCst)
    }

    async fn call(&self, call: &HookCall) -> Result<HookOutput, HookError> {
        let is_refused = self.0.refuses.lock().unwrap().as_ref().is_some_and(|refuses| refuses(call));
        if is_refused
            || self.0.fails_in.load(Ordering::SeqCst) > 0 && self.0.fails_in.fetch_sub(1, Ordering::SeqCst) == 1
        {
            let (name, verb, kind) = (call.name.clone(), call.verb, HookErrorKind::Failed);
            return Err(HookError { name, verb, kind, cause: "as asked for".into(), output: HookOutput::default() });
        }
        if let Some(beside) = &*self.0.beside.lock().unwrap() {
            beside(call);
        }
        match call.verb {
            HookVerb::Stop => self.0.runs.store(false, Ordering::SeqCst),
            HookVerb::Start => self.0.runs.store(true, Ordering::SeqCst),
            HookVerb::Prepare | HookVerb::Check => {}
        }
        Ok(HookOutput { lines: vec![format!("told to {}", call.verb)] })
    }
}

/// Who has mounted what was unmounted, and what keeps a device open.
#[derive(Clone, Default)]
pub struct Elsewhere(pub Arc<Mutex<Holders>>, Arc<Mutex<Holders>>);

#[async_trait]
impl Busy for Elsewhere {
    async fn holders(&self, _: &std::path::Path) -> Result<Holders, String> {
        Ok(self.1.lock().unwrap().clone())
    }

    async fn mounted(&self, _: &[DatasetName]) -> Result<Holders, String> {
        Ok(self.0.lock().unwrap().clone())
    }

    async fn end(&self, _: &[Holder]) -> Result<(), String> {
        Ok(())
    }
}

fn is_writable(zfs: &FakeZfs, name: &DatasetName) -> bool {
    zfs.is_mounted(name) && !zfs.reads_only(name)
}

/// Two hosts; the cutover is led from the near one.
pub struct Sides {
    near: Host,
    far: Host,
    ledgers: [MemoryLedgers; 2],
    pub writer: Arc<Writer>,
    pub elsewhere: Elsewhere,
    /// What was acknowledged: object by object, each by one record.
    acknowledged: Arc<AtomicU64>,
    broken: Arc<Mutex<Option<String>>>,
    /// Operations until `gone` is told; 0 is never.
    fuse: Arc<AtomicU64>,
    gone: CancellationToken,
    /// What was told on the way.
    pub said: Arc<Mutex<Vec<String>>>,
    from_near: bool,
    tries: u8,
    hold: bool,
    reverse: bool,
    /// As which cutover it is led.
    id: CutoverId,
    on_activate_failure: OnActivateFailure,
    /// What the peer grants.
    granted: Vec<Access>,
    /// Of the link, in either direction.
    pub latency: Duration,
    /// The clock of the machines is the real one, and the fake may be slow on a busy machine: ten minutes.
    outage_limit: Millis,
}

impl Drop for Sides {
    fn drop(&mut self) {
        self.near.zfs.unwatch();
        self.far.zfs.unwatch();
    }
}

impl Sides {
    pub fn new(from_near: bool, old: bool, tries: u8) -> Sides {
        let make = |seed| if old { FakeZfs::old(seed) } else { FakeZfs::new(seed) };
        Sides::of(from_near, tries, [Host::new(make(1)), Host::new(make(2))])
    }

    /// Two hosts that start no threads.
    pub fn alone(from_near: bool) -> Sides {
        Sides::of(from_near, 1, [1, 2].map(|seed| Host::in_one_thread(FakeZfs::new(seed))))
    }

    fn of(from_near: bool, tries: u8, [near, far]: [Host; 2]) -> Sides {
        let (source, target) = if from_near { (&near, &far) } else { (&far, &near) };
        for below in BELOW {
            source.zfs.create(&ds(&format!("{SRC}{below}")));
        }
        target.zfs.create(&ds("dst/in"));
        let sides = Sides {
            near: near.clone(),
            far: far.clone(),
            ledgers: Default::default(),
            writer: Arc::default(),
            elsewhere: Elsewhere::default(),
            acknowledged: Arc::default(),
            broken: Arc::default(),
            fuse: Arc::default(),
            gone: CancellationToken::new(),
            said: Arc::default(),
            from_near,
            tries,
            hold: false,
            reverse: false,
            id: CutoverId(0x4f2a),
            on_activate_failure: OnActivateFailure::Hold,
            granted: vec![Access::Push, Access::Pull, Access::Cutover],
            latency: Duration::ZERO,
            outage_limit: Millis(600_000),
        };
        sides.writer.runs.store(true, Ordering::SeqCst);
        // The writer writes as often as anything happens, to whichever side lets it.
        for zfs in [&near.zfs, &far.zfs] {
            let (source, target) = (source.zfs.clone(), target.zfs.clone());
            let (writer, count, broken) =
                (Arc::clone(&sides.writer), Arc::clone(&sides.acknowledged), Arc::clone(&sides.broken));
            let (fuse, gone) = (Arc::clone(&sides.fuse), sides.gone.clone());
            zfs.watch(move |op, what, _| {
                if fuse.load(Ordering::SeqCst) > 0 && fuse.fetch_sub(1, Ordering::SeqCst) == 1 {
                    gone.cancel();
                }
                let places = [(&source, SRC), (&target, DST)];
                for below in BELOW {
                    let open = places.iter().filter(|(zfs, at)| is_writable(zfs, &ds(&format!("{at}{below}")))).count();
                    if open > 1 {
                        broken.lock().unwrap().get_or_insert(format!("two sides after {op:?}: {what}"));
                    }
                }
                if writer.runs.load(Ordering::SeqCst) {
                    let n = count.load(Ordering::SeqCst);
                    let took = places.iter().any(|(zfs, at)| {
                        let name = ds(at);
                        is_writable(zfs, &name) && zfs.write(&name, 100 + n, 0, format!("record {n}").as_bytes())
                    });
                    if took {
                        count.store(n + 1, Ordering::SeqCst);
                    }
                }
            });
        }
        sides
    }

    pub fn source(&self) -> &FakeZfs {
        if self.from_near { &self.near.zfs } else { &self.far.zfs }
    }

    pub fn target(&self) -> &FakeZfs {
        if self.from_near { &self.far.zfs } else { &self.near.zfs }
    }

    fn engine(&self, near: bool) -> Arc<Engine> {
        let host = if near { &self.near } else { &self.far };
        let hosts = Hosts::new(Tools {
            zfs: Arc::new(host.zfs.clone()),
            ledgers: Arc::new(self.ledgers[usize::from(!near)].clone()),
            journal: Arc::new(host.journal.clone()),
            hooks: Mutex::new(Arc::new(WriterHooks(Arc::clone(&self.writer)))),
            busy: Arc::new(self.elsewhere.clone()),
            cannot_mount: None,
            looked: Looked::default(),
        });
        let (locks, journal) = (Arc::new(host.locks.clone()), Arc::new(host.journal.clone()));
        let engine = Engine::new(Arc::new(host.zfs.clone()), locks, journal, 1000).with_cutovers(hosts);
        Arc::new(if host.in_one_thread { engine.in_one_thread() } else { engine })
    }

    fn terms(&self) -> Terms {
        Terms {
            leg: Leg { id: self.id, epoch: Epoch(1) },
            return_id: CutoverId(0x4f2b),
            unit: [Pair { source: ds(SRC), target: ds(DST) }].into(),
            source_at: if self.from_near { Node::Here } else { Node::Peer },
            hold: self.hold,
            on_activate_failure: self.on_activate_failure,
            not_converging: NotConverging::Go,
            max_downtime: Millis(600_000),
            outage_limit: self.outage_limit,
            tries: self.tries,
            verify: Means::Digest,
            homeward: false,
            returns_from: None,
        }
    }

    fn context(&self, daemon: &Arc<Daemon>) -> Arc<RunContext> {
        let link = SimLink::new(daemon, &peer("near"), &peer("far"));
        link.is_long(self.latency);
        Arc::new(RunContext {
            link,
            engine: self.engine(true),
            client: client_options(),
            identity: peer("near"),
            board: Arc::new(Board::default()),
            stop: CancellationToken::new(),
            limit: None,
        })
    }

    pub fn daemon(&self) -> Arc<Daemon> {
        let roots = ["src", "dst/in"].map(ds);
        let grants =
            roots.iter().flat_map(|root| self.granted.iter().map(move |access| (*access, root.clone()))).collect();
        Daemon::new(self.engine(false), Grants([(peer("near"), grants)].into()), limits())
    }

    /// Begins it, or takes over what was begun.
    fn leader(&self, daemon: &Arc<Daemon>) -> Lead {
        let (notices, mut heard) = mpsc::unbounded_channel();
        let said = Arc::clone(&self.said);
        tokio::spawn(async move {
            while let Some(notice) = heard.recv().await {
                said.lock().unwrap().push(format!("{notice:?}"));
            }
        });
        let context = self.context(daemon);
        let name = name_of(self.id);
        let begun = self.ledgers[0].read(&name).unwrap().len() >= 2;
        if begun {
            Lead::take_over(context, &self.ledgers[0], &name, notices).unwrap()
        } else {
            let begun = Begun {
                id: self.id,
                peer: "far".into(),
                hooks_here: vec!["writer".into()],
                hooks_there: vec!["writer".into()],
                kill_busy: false,
                reverse: self.reverse,
                jobs: 2,
                compression: Compression::None,
                bwlimit_bytes_per_s: None,
                streams: Streams::Fixed(1).into(),
            };
            Lead::begin(context, &self.ledgers[0], begun, self.terms(), notices).unwrap()
        }
    }

    /// Leads until it is over or asks.
    pub async fn lead(&self, daemon: &Arc<Daemon>, command: Option<Command>) -> (End, Phase) {
        let (_said, mut commands) = mpsc::channel(1);
        let mut lead = self.leader(daemon);
        match command {
            Some(command) => lead.say(command).unwrap().unwrap(),
            None => lead.recover().unwrap(),
        }
        let end = lead.run(&mut commands).await.unwrap();
        (end, lead.coordinator().progress().phase.clone())
    }

    /// What the ledger of the leader says of a kind of lines.
    fn lines_of(&self, entry: &str) -> usize {
        let lines = self.ledgers[0].read(&name_of(CutoverId(0x4f2a))).unwrap();
        lines.iter().filter(|line| line.contains(&format!(r#""entry":"{entry}""#))).count()
    }

    /// Exactly one side serves, has all that was acknowledged, and the writer runs there. Says whether that is the target.
    pub async fn judge(&self) -> bool {
        self.near.zfs.clear_faults();
        self.far.zfs.clear_faults();
        assert_eq!(*self.broken.lock().unwrap(), None);
        let at_source = is_writable(self.source(), &ds(SRC));
        let at_target = is_writable(self.target(), &ds(DST));
        assert!(at_source != at_target, "source writable: {at_source}, target writable: {at_target}");
        let (zfs, root) = if at_target { (self.target(), DST) } else { (self.source(), SRC) };
        assert!(self.writer.runs.load(Ordering::SeqCst), "the writer was not started again");
        for below in BELOW {
            assert!(is_writable(zfs, &ds(&format!("{root}{below}"))), "{root}{below}");
        }
        let content = zfs.content(&ds(root)).unwrap();
        for n in 0..self.acknowledged.load(Ordering::SeqCst) {
            let record = content.get(&(100 + n)).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            assert!(record.is_some_and(|r| r.starts_with(&format!("record {n}"))), "record {n} is missing");
        }
        let before = self.acknowledged.load(Ordering::SeqCst);
        zfs.list(&ds(root), Depth::Root).await.unwrap();
        assert!(self.acknowledged.load(Ordering::SeqCst) > before, "the writer cannot write");
        at_target
    }
}

#[test]
fn there_and_back_again() {
    for (from_near, old) in [(true, false), (false, false), (true, true), (false, true)] {
        run(async {
            let sides = Sides::new(from_near, old, 1);
            sides.source().set_received(&ds(&format!("{SRC}/b")), "exec", "off");
            let marks = |zfs: &FakeZfs, root: &str| BELOW.map(|b| zfs.local_properties(&ds(&format!("{root}{b}"))));
            let before = marks(sides.source(), SRC);
            let daemon = sides.daemon();
            assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::Done));
            assert!(sides.judge().await, "the target serves");
            for round in 0..3u64 {
                let back = Command::Back { id: CutoverId(7 + round) };
                assert_eq!(sides.lead(&daemon, Some(back)).await, (End::Over, Phase::Done));
                assert_eq!(sides.judge().await, round % 2 == 1);
            }
            let mut after = marks(sides.source(), SRC);
            after.iter_mut().for_each(|p| p.retain(|(name, _)| !name.starts_with("zmigrate:")));
            assert_eq!(after, before, "all as it was, but for the marks");
        });
    }
}

/// What a cutover asks of ZFS, pass and outage together.
const CUTOVER_OPS: &[Op] = &[
    Op::List,
    Op::Datasets,
    Op::Snapshot,
    Op::Hold,
    Op::Release,
    Op::Get,
    Op::Set,
    Op::Send,
    Op::Receive,
    Op::Bookmark,
    Op::DestroySnapshot,
    Op::SetAll,
    Op::InheritAll,
    Op::Tree,
    Op::Since,
    Op::Unmount,
    Op::Mount,
    Op::Sync,
];

/// Leads to an end whatever is asked: a person who says `resume` each time.
async fn to_the_end(sides: &Sides, daemon: &Arc<Daemon>) -> Phase {
    let (mut end, mut phase) = sides.lead(daemon, None).await;
    for _ in 0..6 {
        if end == End::Over {
            return phase;
        }
        (end, phase) = sides.lead(daemon, Some(Command::Resume)).await;
    }
    panic!("it does not come to an end: {phase:?}\n{}", sides.said.lock().unwrap().join("\n"));
}

#[test]
fn a_failure_at_every_operation_of_either_side() {
    for (of_source, after) in [(true, false), (false, false), (true, true), (false, true)] {
        for op in CUTOVER_OPS {
            for nth in 1..=12 {
                run(async {
                    let sides = Sides::new(nth % 2 == 0, false, 2);
                    let zfs = if of_source { sides.source() } else { sides.target() };
                    (1..nth).for_each(|_| zfs.fail_at(*op, Fault::FlipBit(u64::MAX)));
                    zfs.fail_at(*op, if after { Fault::AfterEffect(K::Io) } else { Fault::Refuse(K::Io) });
                    let daemon = sides.daemon();
                    let phase = to_the_end(&sides, &daemon).await;
                    let what = format!("{op:?} {nth} of the source: {of_source}, after: {after}");
                    assert!(matches!(phase, Phase::Done | Phase::RolledBack), "{what}: {phase:?}");
                    let at_target = sides.judge().await;
                    assert_eq!(at_target, phase == Phase::Done, "{what}");
                });
            }
        }
    }
}

#[test]
fn hooks_that_fail_once() {
    for from_near in [true, false] {
        for nth in 1..=8 {
            run(async {
                let sides = Sides::new(from_near, false, 1);
                sides.writer.fails_in.store(nth, Ordering::SeqCst);
                let daemon = sides.daemon();
                let phase = to_the_end(&sides, &daemon).await;
                assert_eq!(sides.judge().await, phase == Phase::Done, "hook call {nth}");
            });
        }
    }
}

/// The leader is gone, or the sessions of the daemon, or both, when the n-th operation has ended; then all is started again. What a
/// host was doing it does to its end, as nothing tells it; `e2e` has the processes that die.
#[test]
fn a_leader_or_sessions_gone_at_any_operation() {
    for (from_near, near_dies, far_dies) in
        [(true, true, false), (true, false, true), (false, true, true), (false, false, true), (true, true, true)]
    {
        for nth in (1..240).step_by(7) {
            run(async {
                let sides = Sides::new(from_near, false, 3);
                sides.fuse.store(nth, Ordering::SeqCst);
                let mut daemon = sides.daemon();
                tokio::select! {
                    biased;
                    () = sides.gone.cancelled() => {}
                    _ = sides.lead(&daemon, None) => {}
                }
                if !near_dies && far_dies {
                    // The daemon alone: the leader goes on with the one that comes after it.
                    daemon.restart();
                }
                if near_dies && far_dies {
                    daemon.restart();
                    daemon = sides.daemon();
                }
                // What a process that died was doing has ended with it.
                tokio::time::sleep(std::time::Duration::from_secs(30)).await;
                let phase = to_the_end(&sides, &daemon).await;
                assert_eq!(sides.judge().await, phase == Phase::Done, "operation {nth}");
            });
        }
    }
}
