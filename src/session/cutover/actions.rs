//! The actions of a host's machine, on ZFS and hooks.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{
    Tools, activate,
    fence::{self, is_fenced},
    look::{MOUNTED, datasets, former, is_gone, is_mounted, leg_in, may_be_set, names_of, value},
    unit::Unit,
};
use crate::{
    cutover::{
        call::{Setup, final_hold, final_tag, leg_of_final},
        effect::{Action, Outcome},
        leg::{Leg, Side},
        record::{Former, Saved},
    },
    port::{
        hook::{HookCall, HookName, HookVerb},
        journal::{Entry, Phase},
        zfs::{Depth, SnapshotRequest, ZfsErrorKind},
    },
    session::engine::lock,
    types::{
        DatasetName, Failure, FailureClass, Guid, SnapshotName, SnapshotTag,
        listing::{DatasetInfo, DatasetKind, FENCE, JOB},
        printable,
    },
};

/// How long a stop that was broken off may take when it is made up for: longer than most need, as what is started before it has ended ends with it.
const STOP_AGAIN_WITHIN: Duration = Duration::from_secs(15);
/// Lines of hooks that are kept for people.
const MAX_NOTES: usize = 20;

fn word(side: Side) -> &'static str {
    match side {
        Side::Source => "source",
        Side::Target => "target",
    }
}

/// What an action needs to know beside itself.
pub(super) struct Doer {
    pub tools: Arc<Tools>,
    pub unit: Unit,
    pub setup: Setup,
    /// The leg that is taken part in.
    pub leg: Leg,
    /// As what.
    pub side: Side,
    /// What hooks say, for people.
    pub notes: Arc<Mutex<VecDeque<String>>>,
    /// What the fence that is set here, or being set, changed.
    pub former: Option<Former>,
    /// What the unit's roots inherit, as it was when this side was armed.
    pub above: Arc<Mutex<Option<activate::Above>>>,
    /// This process broke off stopping the writers, or stopping them failed: another stop has little time.
    pub broke_off: bool,
    /// What was broken off was made up for: the writers were seen to be stopped since.
    pub made_up: Arc<AtomicBool>,
}

impl Doer {
    /// Carries out `action`.
    pub async fn act(&self, action: &Action) -> Outcome {
        let done = |result: Result<(), Failure>| match result {
            Ok(()) => Outcome::Done,
            Err(failure) => Outcome::Failed(failure.in_one()),
        };
        let zfs = &*self.tools.zfs;
        match action {
            Action::Prepare(side) => done(self.prepare(*side).await),
            Action::Quiesce => done(self.stop().await),
            Action::ReadFormer(owed) => match self.read_former(owed.as_ref()).await {
                Ok(former) => Outcome::Former(former),
                Err(failure) => Outcome::Failed(failure.in_one()),
            },
            Action::Fence(leg) => done(self.fence(*leg).await),
            Action::Final(leg, number) => match self.take_final(*leg, *number).await {
                Ok(guids) => Outcome::Final(guids.into()),
                Err(failure) => Outcome::Failed(failure.in_one()),
            },
            Action::Unfence(former) => {
                self.tools.looked.forget();
                done(fence::unfence(zfs, &self.unit, former).await)
            }
            Action::Unquiesce { anew } => {
                self.tools.looked.forget();
                self.stop_again(*anew).await;
                done(self.start().await)
            }
            Action::Settle => Outcome::Done,
            Action::Activate { former, anew } => done(self.activate(former.as_ref(), *anew).await),
            Action::Destroy(leg) => done(self.destroy(*leg).await),
        }
    }

    async fn prepare(&self, side: Side) -> Result<(), Failure> {
        self.try_hooks().await?;
        match side {
            Side::Source => {
                let all = datasets(&*self.tools.zfs, &self.unit).await?;
                if let Some(info) = all.iter().find(|d| d.inconsistent) {
                    let text = format!("{} holds an interrupted receive", info.name);
                    return Err(Failure::new(FailureClass::Refused, text));
                }
                let mounted: Vec<&DatasetInfo> = all.iter().filter(|d| is_mounted(d)).collect();
                if let Some(info) = mounted.first() {
                    self.must_be_able_to_mount(&info.name)?;
                }
                // It could be unmounted, and by a rollback not be mounted again.
                let by_hand = |d: &&&DatasetInfo| value(d, "mountpoint").is_some_and(|place| !place.starts_with('/'));
                if let Some(info) = mounted.iter().find(by_hand) {
                    return Err(activate::mounted_by_hand(&info.name));
                }
                self.volumes_can_be_closed(&all).await
            }
            Side::Target => {
                let wanted = self.wanted(self.former.as_ref());
                if let Some(will) = wanted.iter().find(|s| s.property == MOUNTED && s.local.as_deref() == Some("yes")) {
                    self.must_be_able_to_mount(&will.dataset)?;
                }
                let zfs = &*self.tools.zfs;
                let (prepared, above) = tokio::join!(
                    activate::prepare(zfs, &self.unit, &wanted, &self.setup),
                    activate::above(zfs, &self.unit)
                );
                prepared?;
                *lock(&self.above) = Some(above?);
                Ok(())
            }
        }
    }

    /// `owed` is what the side has to become like, if it has not come up yet as it should.
    async fn read_former(&self, owed: Option<&Former>) -> Result<Former, Failure> {
        let since = Instant::now();
        let all = datasets(&*self.tools.zfs, &self.unit).await?;
        let armed = &self.setup.armed;
        // The target was told what each of those shall be like that were there when it was armed, and would not mount another.
        let new = all.iter().find(|d| !armed.is_empty() && !armed.contains(&d.name));
        if let Some(new) = new {
            return Err(Failure::new(
                FailureClass::Refused,
                format!("{} came into being after the target was armed", new.name),
            )
            .hint("begin again, so that the target is told of it"));
        }
        let wanted = owed.map(|owed| self.wanted(Some(owed))).unwrap_or_default();
        let former = former(&all, &wanted).into();
        self.tools.looked.keep(&self.unit, since, all);
        Ok(former)
    }

    /// A filesystem on a volume keeps its device open, frozen or not, and no fence of the volume unmounts it.
    async fn volumes_can_be_closed(&self, all: &[DatasetInfo]) -> Result<(), Failure> {
        let hooks = self.tools.hooks();
        if self.setup.hooks.iter().any(|name| hooks.may_unmount(name)) {
            return Ok(());
        }
        for volume in names_of(all, DatasetKind::Volume) {
            // One that has no device is closed.
            let Ok(found) = self.tools.busy.holders(&volume.device_node()).await else { continue };
            if let Some(place) = found.mounts.first() {
                let text = format!(
                    "{volume} is mounted at {}, which keeps it open, and no hook is named that could unmount that",
                    printable(&place.to_string_lossy())
                );
                return Err(Failure::new(FailureClass::Refused, text).hint(
                    "name a hook of commands, or of a systemd mount unit, that unmounts it when it stops and mounts it when it starts; freezing it is not enough",
                ));
            }
        }
        Ok(())
    }

    fn must_be_able_to_mount(&self, dataset: &DatasetName) -> Result<(), Failure> {
        let Some(why) = &self.tools.cannot_mount else { return Ok(()) };
        let text =
            format!("{dataset} has to be mounted and unmounted on the host of the {}, and {why}", word(self.side));
        Err(Failure::new(FailureClass::Refused, text).hint(
            "run zmigrated there as root, in the mount namespace of the host: docs/packages.md has the drop-in for it",
        ))
    }

    async fn try_hooks(&self) -> Result<(), Failure> {
        for name in &self.setup.hooks {
            self.hook(name, HookVerb::Prepare).await?;
        }
        Ok(())
    }

    /// Stops the writers, in the order in which the hooks were named.
    async fn stop(&self) -> Result<(), Failure> {
        for name in &self.setup.hooks {
            self.hook(name, HookVerb::Stop).await?;
        }
        Ok(())
    }

    /// Before the writers are started `anew`, they are seen to be stopped, so that what an earlier process began ends nothing later on.
    async fn stop_again(&self, anew: bool) {
        if !anew || self.made_up.load(Ordering::Relaxed) {
            return;
        }
        let mut well = true;
        for name in &self.setup.hooks {
            // What this process broke off has ended, and a writer that was told to stop may yet do so: a start would take it for one that
            // runs. But a stop that hung once would hang again, and there is no time to lose, unless somebody else carries it out.
            let again = self.hook(name, HookVerb::Stop);
            let stopped = if self.broke_off && !self.tools.hooks().stops_elsewhere(name) {
                timeout(STOP_AGAIN_WITHIN, again).await.unwrap_or_else(|_| {
                    Err(Failure::new(FailureClass::Interrupted, format!("hook {name} hangs, and was broken off again")))
                })
            } else {
                again.await
            };
            if let Err(failure) = stopped {
                tracing::warn!(unit = %self.unit, "the writers are started although stopping them failed: {failure}");
                well = false;
            }
        }
        // Where the start fails, the next try would stop what is just coming up.
        self.made_up.store(well, Ordering::Relaxed);
    }

    /// Starts the writers, in the other order, and waits until they are well.
    async fn start(&self) -> Result<(), Failure> {
        for verb in [HookVerb::Start, HookVerb::Check] {
            for name in self.setup.hooks.iter().rev() {
                self.hook(name, verb).await?;
            }
        }
        Ok(())
    }

    /// A peer names hooks, and this host's own configuration says what they are.
    async fn hook(&self, name: &str, verb: HookVerb) -> Result<(), Failure> {
        let usage = |e: String| Failure::new(FailureClass::Usage, e);
        let name: HookName = name.parse().map_err(|e| usage(format!("{e}")))?;
        if !self.tools.hooks().declared(&name) {
            let text = format!("the configuration of this host declares no hook {name}");
            return Err(usage(text).hint(format!("add [hook.{name}] to it, on the host of the {}", word(self.side))));
        }
        let datasets = self.unit.roots().to_vec();
        let call = HookCall { name: name.clone(), verb, leg: self.leg, side: self.side, datasets };
        let (lines, result) = match self.tools.hooks().call(&call).await {
            Ok(output) => (output.lines, Ok(())),
            Err(e) => (e.output.lines.clone(), Err(Failure::new(FailureClass::Zfs, e))),
        };
        let mut notes = lock(&self.notes);
        for line in lines {
            if notes.len() >= MAX_NOTES {
                notes.pop_front();
            }
            notes.push_back(format!("{name} ({verb}): {line}"));
        }
        result
    }

    async fn fence(&self, leg: Leg) -> Result<(), Failure> {
        let former: &[Saved] = self.former.as_deref().unwrap_or_default();
        let seen = self.tools.looked.take(&self.unit);
        fence::fence(&self.tools, &self.unit, leg, former, seen, self.setup.kill_busy).await
    }

    /// The final snapshots, one of each dataset; those that an earlier try made for the same question count.
    async fn take_final(&self, leg: Leg, number: u32) -> Result<Vec<Guid>, Failure> {
        let zfs = &*self.tools.zfs;
        let tag: SnapshotTag =
            final_tag(leg.id, number).parse().map_err(|e| Failure::new(FailureClass::Internal, e))?;
        let mut pools: Vec<&str> = self.unit.roots().iter().map(|root| root.pool()).collect();
        pools.dedup();
        for pool in pools {
            zfs.sync(pool).await?;
        }
        for root in self.unit.roots() {
            let request = SnapshotRequest { root: root.clone(), tag: tag.clone(), recursive: true, except: Vec::new() };
            match zfs.snapshot(&request).await {
                Ok(()) => {}
                Err(e) if e.kind == ZfsErrorKind::Exists => {}
                Err(e) => return Err(e.into()),
            }
        }
        let mut made = Vec::new();
        for root in self.unit.roots() {
            let listing = zfs.list(root, Depth::Tree).await?;
            if listing.datasets.is_empty() {
                return Err(is_gone(root));
            }
            if !is_fenced(&listing.datasets, leg) {
                let text = format!("{} is not fenced any more: somebody changed it by hand", self.unit);
                return Err(Failure::new(FailureClass::Zfs, text));
            }
            let of_tag = |info: &DatasetInfo| info.snapshots.iter().find(|s| s.tag == tag).map(|s| s.guid);
            made.extend(listing.datasets.iter().map(|info| (info.name.clone(), of_tag(info))));
            // What is sent is planned by it.
            self.tools.looked.keep_tree(root, listing);
        }
        made.sort();
        let not_made = |name| Failure::new(FailureClass::Zfs, format!("{name}@{tag} was not made"));
        made.into_iter().map(|(name, guid)| guid.ok_or_else(|| not_made(name))).collect()
    }

    async fn activate(&self, former: Option<&Former>, anew: bool) -> Result<(), Failure> {
        self.stop_again(anew).await;
        let wanted = self.wanted(former);
        let seen = (self.tools.looked.take(&self.unit), lock(&self.above).take());
        activate::activate(&*self.tools.zfs, &self.unit, self.leg, &wanted, &self.setup, seen).await?;
        self.start().await
    }

    /// What a target's datasets shall be like: as they were here before, or, what was never here, as it is at the source.
    fn wanted(&self, former: Option<&Former>) -> Vec<Saved> {
        let former = former.map_or(&[][..], |f| f);
        // A peer says what the source is like: only of this unit's datasets, and only what a fence changes.
        let may = |s: &&Saved| self.unit.place(&s.dataset).is_some() && may_be_set(&s.property);
        let new = self.setup.manifest.iter().filter(may).filter(|s| !former.iter().any(|f| f.dataset == s.dataset));
        former.iter().chain(new).cloned().collect()
    }

    /// Destroys what was released, with its snapshots; only what carries the fence of this leg.
    async fn destroy(&self, leg: Leg) -> Result<(), Failure> {
        let zfs = &*self.tools.zfs;
        for root in self.unit.roots() {
            let tree = zfs.list(root, Depth::Tree).await?.datasets;
            if tree.is_empty() {
                continue;
            }
            if let Some(other) = tree.iter().find(|d| leg_in(d, FENCE) != Some(leg)) {
                let text =
                    format!("{} does not carry the fence of {leg}, so nothing below {root} is destroyed", other.name);
                return Err(Failure::new(FailureClass::Refused, text));
            }
            let entry = Entry::DestroyReleased { dataset: root.clone(), leg: leg.to_string() };
            let write = |phase: Phase| {
                self.tools
                    .journal
                    .append("cutover complete", &phase, &entry)
                    .map_err(|e| Failure::new(FailureClass::Usage, format!("the journal cannot be written: {e}")))
            };
            write(Phase::Intent)?;
            let snapshots: Vec<SnapshotName> =
                tree.iter().flat_map(|d| d.snapshots.iter().filter_map(|s| d.snapshot_name(s).ok())).collect();
            if zfs.capabilities(root.pool()).await?.holds {
                // It was a target before it was the source: what was received into it is held for another job.
                let received_for = tree.iter().filter_map(|d| d.local(JOB)).map(str::to_owned);
                let jobs: BTreeSet<String> = self.setup.jobs.iter().cloned().chain(received_for).collect();
                self.release_own(&snapshots, &jobs).await?;
            }
            let result = zfs.destroy_tree(root).await;
            let phase = match &result {
                Ok(()) => Phase::Done,
                Err(e) => Phase::Failed { cause: e.to_string() },
            };
            if let Err(failure) = write(phase) {
                tracing::error!("{failure}");
            }
            result?;
        }
        Ok(())
    }

    /// Takes zmigrate's own holds away; what others hold keeps the dataset.
    async fn release_own(&self, snapshots: &[SnapshotName], jobs: &BTreeSet<String>) -> Result<(), Failure> {
        let zfs = &*self.tools.zfs;
        let held = match zfs.holds(snapshots).await {
            Ok(held) => held,
            // Some have holds and cannot list them; which jobs held them is known.
            Err(e) if e.kind == ZfsErrorKind::Unsupported => {
                for job in jobs {
                    zfs.release(&format!("zmigrate:{job}"), snapshots).await?;
                }
                for snapshot in snapshots {
                    if let Some(id) = leg_of_final(snapshot.tag().as_str()) {
                        zfs.release(&final_hold(id), std::slice::from_ref(snapshot)).await?;
                    }
                }
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        let is_own = |snapshot: &SnapshotName, tag: &str| {
            let of_final = leg_of_final(snapshot.tag().as_str()).map(final_hold);
            tag.starts_with("zmigrate:") || of_final.is_some_and(|own| own == tag)
        };
        for (snapshot, tag) in held.iter().filter(|(snapshot, tag)| is_own(snapshot, tag)) {
            zfs.release(tag, std::slice::from_ref(snapshot)).await?;
        }
        Ok(())
    }
}
