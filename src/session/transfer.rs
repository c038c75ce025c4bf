//! One transfer at one side: what is checked before it starts, the pipe while it runs, and what must be so after it.

use std::{slice::from_ref, sync::Arc, time::Duration};

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    bases::hold_tag,
    engine::EngineSession,
    older::let_older_go,
    properties::is_set_before_data,
    told::{Told, told},
};
use crate::{
    channel::{Channel, RateLimit},
    cutover::call::is_of_a_cutover,
    limits::{MAX_CHUNK, MIN_CHUNK},
    pipe::{
        Counters,
        sink::receive_stream,
        source::{Origin, SourceOptions, send_stream},
    },
    port::zfs::{Base, Depth, ReceiveSpec, SendSpec, ZfsError, ZfsErrorKind, ZfsResult},
    stream::{
        Tap,
        gate::{Gate, GatePolicy},
        token::ResumeToken,
    },
    types::{
        DatasetName, Failure, FailureClass, Guid, JobId, SnapshotName,
        listing::{Capabilities, DatasetKind, HELD, JOB, Listing, MANIFEST_PROPERTIES, Property, PropertySource},
    },
    wire::message::{ReceiveStep, SendStep, Transferred},
};

/// How long [`vanishes`] waits at most.
const VANISHES_WITHIN: Duration = Duration::from_secs(10);

pub(super) type Outcome = Result<Transferred, Failure>;

/// A transfer that runs by itself; whoever asks gets its outcome.
pub(super) struct Transfer {
    outcome: Told<Outcome>,
    cancelled: CancellationToken,
    receiver_ended: CancellationToken,
    counters: Arc<Counters>,
}

impl Transfer {
    pub fn start(
        channel: Channel,
        permit: OwnedSemaphorePermit,
        counters: Arc<Counters>,
        (cancelled, receiver_ended): (CancellationToken, CancellationToken),
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> Transfer {
        let (teller, outcome) = told();
        let watched = async move {
            // A task of its own, so that even a panic in it has an outcome.
            let result = match tokio::spawn(work.in_current_span()).await {
                Ok(result) => result,
                Err(e) => Err(Failure::new(FailureClass::Internal, format!("the transfer ended unexpectedly: {e}"))),
            };
            if let Err(failure) = &result {
                // Whoever has not been told by now learns it from the channel's end.
                channel.close(failure.clone().consequence());
            }
            teller.tell(result);
            drop(permit);
        };
        tokio::spawn(watched.in_current_span());
        Transfer { outcome, cancelled, receiver_ended, counters }
    }

    /// Waits for the end.
    pub async fn outcome(&self) -> Outcome {
        self.outcome.wait().await.unwrap_or_else(|| Err(vanished()))
    }

    /// Gives it up; what `zfs receive -s` has taken is kept.
    pub fn cancel(&self) {
        self.cancelled.cancel();
    }

    /// Tells a send that its receiver is done, so that it waits for nothing more.
    pub fn receiver_has_ended(&self) {
        self.receiver_ended.cancel();
    }

    /// What it counts while it runs.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Raw and wire bytes so far.
    pub fn progress(&self) -> (u64, u64) {
        (self.counters.raw_bytes(), self.counters.wire_bytes())
    }
}

fn vanished() -> Failure {
    Failure::new(FailureClass::Internal, "the transfer's task ended without a result")
}

fn refused(text: impl std::fmt::Display) -> Failure {
    Failure::new(FailureClass::Refused, text)
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What safety rule 2 wants of a dataset that is received into, until a cutover promotes it.
pub(super) fn protections(kind: DatasetKind, capabilities: &Capabilities) -> Vec<(String, String)> {
    match kind {
        DatasetKind::Filesystem => {
            pairs(&[("readonly", "on"), ("canmount", "noauto"), ("setuid", "off"), ("exec", "off"), ("devices", "off")])
        }
        DatasetKind::Volume if capabilities.volmode => {
            pairs(&[("readonly", "on"), ("volmode", "none"), ("snapdev", "hidden")])
        }
        DatasetKind::Volume => pairs(&[("readonly", "on")]),
    }
}

/// The part of a manifest that the allow-list lets through for that kind of dataset.
fn allowed(properties: &[(String, String)], kind: DatasetKind) -> Vec<(String, String)> {
    const VOLUME: &[&str] = &[
        "checksum",
        "compression",
        "copies",
        "logbias",
        "primarycache",
        "redundant_metadata",
        "secondarycache",
        "sync",
    ];
    properties
        .iter()
        .filter(|(name, _)| MANIFEST_PROPERTIES.contains(&name.as_str()))
        .filter(|(name, _)| kind == DatasetKind::Filesystem || VOLUME.contains(&name.as_str()))
        .cloned()
        .collect()
}

/// What came of beginning to receive.
pub(super) enum Opened {
    Runs(Transfer),
    /// The target has the snapshot already; what a person should know of that.
    IsThere(Vec<String>),
}

/// Starts a receive, unless the target has the snapshot already.
pub(super) async fn open_receive(session: &EngineSession, channel: u32, step: ReceiveStep) -> Result<Opened, Failure> {
    let dataset = step.snapshot.dataset();
    session.nothing_is_left_of(&dataset).await;
    let capabilities = session.capabilities(&dataset).await?;
    let from = async {
        match &step.from {
            Some(from) => session.guid_of(from.as_str()).await,
            None => Ok(None),
        }
    };
    let (there, from_there, ()) =
        tokio::try_join!(session.guid_of(step.snapshot.as_str()), from, session.may_receive_into(&dataset))?;
    match there {
        Some(guid) if guid == step.to_guid => {
            // An earlier run's word was lost after the receive had committed. Finish what it had to do.
            hold(session, &step.job, from_ref(&step.snapshot), &capabilities).await?;
            let found = read_back(session, dataset.as_str(), &step, &capabilities).await?;
            return after_receive(session, &dataset, &step, &capabilities, found).await.map(Opened::IsThere);
        }
        Some(_) => return Err(refused(format!("{} exists and is another snapshot", step.snapshot))),
        None => {}
    }
    if let (Some(from), Some(guid)) = (&step.from, step.from_guid)
        && from_there != Some(guid)
    {
        return Err(refused(format!("{from} changed since the run was planned; run it again")));
    }
    let sets_properties = capabilities.receive_properties && step.creates;
    let mut set = Vec::new();
    if sets_properties {
        // The rest is set when the data are there: see `after_receive`.
        let before = |(name, value): &(String, String)| is_set_before_data(name, value, &capabilities.pool_features);
        set.extend(allowed(&step.properties, step.kind).into_iter().filter(before));
        set.extend(protections(step.kind, &capabilities));
        set.push((JOB.to_owned(), step.job.to_string()));
    }
    let spec = ReceiveSpec {
        snapshot: step.snapshot.clone(),
        resumable: capabilities.receive_resumable,
        // Older ZFS finds the origin by its GUID alone.
        origin: step.origin.clone().filter(|_| capabilities.receive_properties),
        set,
    };
    let policy = GatePolicy {
        raw: step.raw,
        resuming: step.resumes,
        kind: Some(step.kind),
        ..GatePolicy::step(step.from_guid, step.to_guid)
    };
    let tap = Tap::new(Gate::new(policy));
    let (permit, link) = session.place(channel)?;
    let receiving = match session.engine.zfs.receive(&spec).await {
        Ok(receiving) => receiving,
        Err(e) => {
            session.channels.close(channel);
            return Err(e.into());
        }
    };
    let counters = Arc::new(Counters::default());
    let cancelled = CancellationToken::new();
    let worker = session.worker();
    let in_one_thread = session.engine.in_one_thread;
    let work = {
        let (link, counters, cancelled) = (link.clone(), Arc::clone(&counters), cancelled.clone());
        async move {
            let received = receive_stream(receiving, tap, link, counters, cancelled, in_one_thread).await;
            if received.is_err() && step.creates && !capabilities.receive_resumable {
                vanishes(&worker, &dataset).await;
            }
            let mut transferred = received?;
            // Whether or not the initiator still lives: what has been received must be protected.
            // Asked for the same, so that one command can tell it of both, and of others. What is held stays what it is meanwhile.
            let (held, made, found) = tokio::join!(
                hold(&worker, &step.job, from_ref(&step.snapshot), &capabilities),
                read_back(&worker, step.snapshot.as_str(), &step, &capabilities),
                read_back(&worker, dataset.as_str(), &step, &capabilities)
            );
            let guid = match made {
                Ok(made) => made.iter().find(|p| p.name == "guid").and_then(|p| p.value.parse::<Guid>().ok()),
                Err(e) if e.kind == ZfsErrorKind::NotFound => None,
                Err(e) => return Err(e.into()),
            };
            match guid {
                Some(guid) if guid == step.to_guid => {}
                other => {
                    let found = other.map_or("nothing".to_owned(), |guid| format!("GUID {guid}"));
                    let text =
                        format!("zfs receive ended well, but {} is {found}, not GUID {}", step.snapshot, step.to_guid);
                    return Err(Failure::new(FailureClass::Zfs, text));
                }
            }
            held?;
            transferred.warnings.extend(after_receive(&worker, &dataset, &step, &capabilities, found?).await?);
            Ok(transferred)
        }
    };
    Ok(Opened::Runs(Transfer::start(link, permit, counters, (cancelled, CancellationToken::new()), work)))
}

/// Waits for what a failed receive has begun to be gone, where nothing of it stays: zfs-fuse undoes it in its daemon, after the `zfs receive`
/// has died, and until then whoever tries again takes it for somebody's data.
async fn vanishes(session: &EngineSession, dataset: &DatasetName) {
    let since = Instant::now();
    // What has a snapshot is whole: that stays, and nobody is kept waiting for it.
    let is_undone = |found: Listing| found.get(dataset).is_some_and(|info| info.snapshots.is_empty());
    while since.elapsed() < VANISHES_WITHIN && session.zfs().list(dataset, Depth::Root).await.is_ok_and(is_undone) {
        sleep(VANISHES_WITHIN / 50).await;
    }
}

/// What a target is to bear by safety rule 2, and in whose name it is received.
fn wanted_of(step: &ReceiveStep, capabilities: &Capabilities) -> Vec<(String, String)> {
    protections(step.kind, capabilities).into_iter().chain([(JOB.to_owned(), step.job.to_string())]).collect()
}

/// What is looked at of a target that was received into: what it bears of that, and which snapshot it names as held; and the GUID, of
/// its new snapshot.
async fn read_back(
    session: &EngineSession,
    name: &str,
    step: &ReceiveStep,
    capabilities: &Capabilities,
) -> ZfsResult<Vec<Property>> {
    let wanted = wanted_of(step, capabilities);
    let names: Vec<&str> = wanted.iter().map(|(name, _)| name.as_str()).chain([HELD, "guid"]).collect();
    session.zfs().get(name, &names).await
}

/// Keeps snapshots for a job, where this ZFS can.
async fn hold(
    session: &EngineSession,
    job: &JobId,
    snapshots: &[SnapshotName],
    capabilities: &Capabilities,
) -> ZfsResult<()> {
    match capabilities.holds {
        true => session.zfs().hold(&hold_tag(job), snapshots).await,
        false => Ok(()),
    }
}

/// Sets what is missing in `found` ([`read_back`]) of what safety rule 2 wants, when the newest common snapshot is held. What is left
/// then, a cutover's outage does not wait for.
async fn after_receive(
    session: &EngineSession,
    dataset: &DatasetName,
    step: &ReceiveStep,
    capabilities: &Capabilities,
    found: Vec<Property>,
) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    let mut wanted = if step.creates { allowed(&step.properties, step.kind) } else { Vec::new() };
    if !wanted.is_empty() {
        // A value that this ZFS or pool does not know is a pity, not a failure.
        for pair in std::mem::take(&mut wanted) {
            if let Err(failure) = session.ensure(dataset, std::slice::from_ref(&pair)).await {
                warnings.push(format!("{}={} was not taken over: {failure}", pair.0, pair.1));
            }
        }
    }
    let protections = protections(step.kind, capabilities);
    let wanted = wanted_of(step, capabilities);
    let mended = session.mend(dataset, &found, &wanted).await?;
    let mended: Vec<String> = mended
        .iter()
        .filter(|pair| protections.contains(pair))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    // Where they could not be set by the receive itself, setting them now is the plan and no news.
    let is_news = !step.creates || (capabilities.receive_properties && !step.resumes);
    if is_news && !mended.is_empty() {
        warnings.push(format!("{dataset} was not protected as it should be; set again: {}", mended.join(" ")));
    }
    let recorded = found.into_iter().find(|p| p.name == HELD && p.source == PropertySource::Local);
    let zfs = Arc::clone(&session.engine.zfs);
    let left = let_older_go(zfs, dataset.clone(), step.clone(), capabilities.holds, recorded.map(|p| p.value));
    match &session.engine.cutovers {
        Some(hosts) if is_of_a_cutover(step.snapshot.tag().as_str()) => {
            let (turn, dataset) = (hosts.later.turn(dataset).await, dataset.clone());
            session.by_itself(turn, async move {
                if let Err(failure) = left.await {
                    tracing::warn!(
                        "{dataset} keeps an older snapshot held, until the next pass or the cutover's end: {failure}"
                    );
                }
            });
        }
        _ => left.await?,
    }
    Ok(warnings)
}

/// Starts a send.
pub(super) async fn open_send(
    session: &EngineSession,
    channel: u32,
    step: SendStep,
    rate: Option<Arc<RateLimit>>,
) -> Result<Transfer, Failure> {
    // Before anything is held: what ends here is not begun.
    session.must_go_on()?;
    let capabilities = session.capabilities(&step.snapshot.dataset()).await?;
    let mut to_hold = vec![step.snapshot.clone()];
    let base = match &step.base {
        Some((Base::Snapshot(snapshot), guid)) => {
            to_hold.push(snapshot.clone());
            Some((snapshot.to_string(), *guid))
        }
        Some((Base::Bookmark(bookmark), guid)) => Some((bookmark.to_string(), *guid)),
        None => None,
    };
    let is_there = async |name: &str, guid: Guid| match session.guid_of(name).await? {
        Some(found) if found == guid => Ok(()),
        _ => Err(refused(format!("{name} was destroyed or replaced since the run was planned; run it again"))),
    };
    let base_is_there = async {
        match &base {
            Some((name, guid)) => is_there(name, *guid).await,
            None => Ok(()),
        }
    };
    if let Some(token) = &step.resume {
        check_token(token, &step)?;
    }
    let are_there = async { tokio::try_join!(is_there(step.snapshot.as_str(), step.to_guid), base_is_there) };
    // What is held stays what it is, so it is looked at meanwhile. Of a step that is refused the hold is left: it may be one that was there, and
    // keep a base; the next step of the dataset lets go of what is no base.
    let (are_there, held) = tokio::join!(are_there, hold(session, &step.job, &to_hold, &capabilities));
    are_there?;
    held.map_err(|e: ZfsError| match e.kind {
        ZfsErrorKind::NotFound => {
            refused(format!("{} was destroyed since the run was planned; run it again", step.snapshot))
        }
        _ => e.into(),
    })?;
    let spec = match (&step.resume, &step.base) {
        (Some(token), _) => SendSpec::Resume { token: token.clone() },
        (None, Some((base, _))) => {
            SendSpec::Incremental { base: base.clone(), snapshot: step.snapshot.clone(), flags: step.flags }
        }
        (None, None) => SendSpec::Full { snapshot: step.snapshot.clone(), flags: step.flags },
    };
    let from_guid = step.base.as_ref().map(|(_, guid)| *guid);
    let policy = GatePolicy {
        raw: step.flags.raw,
        resuming: step.resume.is_some(),
        ..GatePolicy::step(from_guid, step.to_guid)
    };
    let tap = Tap::new(Gate::new(policy));
    let (permit, link) = session.place(channel)?;
    if let Some(rate) = rate {
        link.limit_rate(rate);
    }
    let sending = match session.engine.zfs.send(&spec).await {
        Ok(sending) => sending,
        Err(e) => {
            session.channels.close(channel);
            return Err(e.into());
        }
    };
    let counters = Arc::new(Counters::default());
    let (cancelled, receiver_ended) = (CancellationToken::new(), CancellationToken::new());
    let options = SourceOptions {
        origin: Origin::ZfsSend,
        compression: step.compression,
        chunk_bytes: chunk_size(step.bwlimit_bytes_per_s),
        cancelled: cancelled.clone(),
        receiver_ended: receiver_ended.clone(),
        in_one_thread: session.engine.in_one_thread,
    };
    let work = send_stream(sending, tap, link.clone(), Arc::clone(&counters), options);
    Ok(Transfer::start(link, permit, counters, (cancelled, receiver_ended), work))
}

/// A quarter of a second of a limited link, so that it does not stutter.
pub(super) fn chunk_size(bwlimit_bytes_per_s: Option<u64>) -> usize {
    bwlimit_bytes_per_s.map_or(MAX_CHUNK, |rate| (rate / 4).clamp(MIN_CHUNK as u64, MAX_CHUNK as u64) as usize)
}

/// A token comes from the other side and names what `zfs send -t` opens, so it must name exactly what was granted.
fn check_token(token: &str, step: &SendStep) -> Result<(), Failure> {
    let token = ResumeToken::parse(token).map_err(|e| refused(format!("the resume token cannot be used: {e}")))?;
    let from_guid = step.base.as_ref().map(|(_, guid)| *guid);
    let fits = token.to_name == step.snapshot.as_str()
        && token.to_guid == step.to_guid
        && token.from_guid == from_guid
        && token.raw == step.flags.raw
        && !token.redacted;
    if fits { Ok(()) } else { Err(refused("the resume token is for another stream than the one that was planned")) }
}
