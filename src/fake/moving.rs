//! Fake sends and receives: threads that write and read real streams through a pipe.
//!
//! ```text
//! send:     Host ─ job ─▶ Job::stream ─ faults ─▶ pipe ─▶ Sending.stream
//! receive:  Receiving.stream ─▶ pipe ─▶ Parser (checksums) ─▶ Taker ─ END ─▶ Host
//! ```

use std::{
    io::{Read, Write},
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::{
    FakeZfs,
    fault::{Fault, Op},
    inline,
    model::{Host, Partial, fail},
    nvlist::NvWriter,
    pipe::{Killer, PipeReader, PipeWriter, pipe},
    port::refused,
    receiving::Receiver,
    records::{Job, Objects},
};
use crate::{
    port::zfs::{
        Base, Process, ReceiveSpec, Receiving, SendFlags, SendSpec, Sending,
        ZfsErrorKind::{self, *},
        ZfsResult,
    },
    stream::{features::Features, token::ResumeToken},
    types::{Guid, SnapshotName, listing::DatasetKind},
};

/// The token of what an interrupted receive left.
pub(super) fn token(p: &Partial) -> String {
    let list = NvWriter::new();
    let list = match p.from_guid {
        Some(guid) => list.u64("fromguid", guid.0),
        None => list,
    };
    list.u64("object", p.at.0)
        .u64("offset", p.at.1)
        .u64("bytes", p.bytes)
        .u64("toguid", p.to_guid.0)
        .str("toname", &p.to_name)
        .flag("largeblockok", p.features.contains(Features::LARGE_BLOCKS))
        .flag("embedok", p.features.contains(Features::EMBED))
        .flag("compressok", p.features.contains(Features::COMPRESSED))
        .flag("rawok", p.features.contains(Features::RAW))
        .token()
}

/// What is to be sent, and the snapshot that is read. The snapshot is in use from now on if the caller says so.
pub(super) fn job(host: &mut Host, spec: &SendSpec) -> ZfsResult<(Job, SnapshotName)> {
    let what = "send";
    match spec {
        SendSpec::Full { snapshot, flags } => full_or_step(host, what, snapshot, None, *flags),
        SendSpec::Incremental { base, snapshot, flags } => full_or_step(host, what, snapshot, Some(base), *flags),
        SendSpec::Resume { token } => resumed(host, token),
    }
}

fn full_or_step(
    host: &mut Host,
    what: &str,
    snapshot: &SnapshotName,
    base: Option<&Base>,
    flags: SendFlags,
) -> ZfsResult<(Job, SnapshotName)> {
    let can = &host.can;
    let asked = [
        (flags.large_block, can.send_large_block),
        (flags.compressed, can.send_compressed),
        (flags.embed, can.send_embed),
        (flags.raw, can.send_raw),
    ];
    if asked.iter().any(|(asked, can)| *asked && !can) {
        return Err(fail(what, Unsupported, "invalid option"));
    }
    let createtxg = host.need_snap(what, snapshot)?.createtxg;
    let missing = |name: &str| fail(what, NotFound, format!("incremental source ({name}) does not exist"));
    let (from_guid, from_txg, clone) = match base {
        None => (None, None, false),
        Some(Base::Snapshot(name)) => {
            let found = host.snap(name).map(|s| (s.guid, s.createtxg)).ok_or_else(|| missing(name.as_str()))?;
            (Some(found.0), Some(found.1), name.dataset() != snapshot.dataset())
        }
        Some(Base::Bookmark(name)) => {
            let found = host.bookmarked(name).map(|b| (b.guid, b.createtxg)).ok_or_else(|| missing(name.as_str()))?;
            (Some(found.0), Some(found.1), false)
        }
    };
    if from_txg.is_some_and(|from| from >= createtxg) {
        return Err(fail(what, Other, format!("cannot send '{snapshot}': not an earlier snapshot from the same fs")));
    }
    let features = Features::NONE;
    let with = |f: Features, on: bool, bit: Features| if on { f.with(bit) } else { f };
    let features = with(features, host.can.receive_resumable, Features::SA_SPILL);
    let features = with(features, flags.compressed, Features::COMPRESSED.with(Features::LZ4));
    let features = with(features, flags.embed && !flags.raw, Features::EMBED);
    let features = with(features, flags.large_block, Features::LARGE_BLOCKS);
    build(host, what, snapshot, from_guid, clone, features, flags.raw, None)
}

#[allow(clippy::too_many_arguments, reason = "all that a stream is made of, and called twice")]
fn build(
    host: &mut Host,
    what: &str,
    snapshot: &SnapshotName,
    from_guid: Option<Guid>,
    clone: bool,
    features: Features,
    raw: bool,
    resume: Option<(u64, u64)>,
) -> ZfsResult<(Job, SnapshotName)> {
    let (to_guid, creation, objects) =
        host.need_snap(what, snapshot).map(|s| (s.guid, s.creation, s.objects.clone()))?;
    let trailers = host.can.receive_resumable;
    let base: Arc<Objects> = from_guid.and_then(|guid| host.remembered.get(&guid).cloned()).unwrap_or_default();
    let d = host.need(what, &snapshot.dataset())?;
    let raw = match &d.encryption {
        Some(e) if raw => Some(e.suite.clone()),
        Some(e) if !e.key_loaded => {
            return Err(fail(what, Crypto, format!("cannot send '{snapshot}': source key must be loaded")));
        }
        _ => None,
    };
    let volume = d.kind == DatasetKind::Volume;
    let to_name = snapshot.to_string();
    let job =
        Job { to_name, to_guid, from_guid, creation, volume, clone, features, raw, resume, trailers, base, objects };
    Ok((job, snapshot.clone()))
}

fn resumed(host: &mut Host, text: &str) -> ZfsResult<(Job, SnapshotName)> {
    let what = "resume a send";
    let dead = |why: String| fail(what, DeadToken, why);
    if !host.can.send_resume {
        return Err(fail(what, Unsupported, "invalid option 't'"));
    }
    let token = ResumeToken::parse(text).map_err(|e| dead(format!("cannot resume send: {e}")))?;
    let name: SnapshotName = token.to_name.parse().map_err(|e| dead(format!("{e}")))?;
    let gone = || dead(format!("cannot resume send: '{name}' used in the initial send no longer exists"));
    if host.snap(&name).ok_or_else(gone)?.guid != token.to_guid {
        return Err(dead(format!("'{name}' is no longer the same snapshot used in the initial send")));
    }
    let mut clone = false;
    if let Some(from) = token.from_guid {
        let d = host.dataset(&name.dataset()).ok_or_else(gone)?;
        let own = d.snaps.iter().any(|s| s.guid == from) || d.bookmarks.iter().any(|b| b.guid == from);
        let origin = d.origin.clone().filter(|o| host.snap(o).is_some_and(|s| s.guid == from));
        clone = !own && origin.is_some();
        if !own && !clone {
            return Err(dead(format!("incremental source {:#x} no longer exists", from.0)));
        }
    }
    let with = |f: Features, on: bool, bit: Features| if on { f.with(bit) } else { f };
    let features = with(Features::SA_SPILL, token.large_block, Features::LARGE_BLOCKS);
    let features = with(features, token.embed, Features::EMBED);
    let features = with(features, token.compressed, Features::COMPRESSED.with(Features::LZ4));
    build(host, what, &name, token.from_guid, clone, features, token.raw, Some((token.object, token.offset)))
}

/// A fake process: a blocking task and the pipe that it hangs on.
struct FakeProcess {
    what: String,
    killer: Killer,
    task: Option<JoinHandle<ZfsResult<()>>>,
    verdict: ZfsResult<()>,
}

impl FakeProcess {
    fn start(what: String, killer: Killer, work: impl FnOnce() -> ZfsResult<()> + Send + 'static) -> Box<dyn Process> {
        let task = Some(tokio::task::spawn_blocking(work));
        Box::new(Self { what, killer, task, verdict: Ok(()) })
    }
}

#[async_trait]
impl Process for FakeProcess {
    async fn wait(&mut self) -> ZfsResult<()> {
        if let Some(task) = &mut self.task {
            let ended = task.await;
            self.verdict = ended.unwrap_or_else(|e| Err(fail(&self.what, Other, format!("the fake has a bug: {e}"))));
            self.task = None;
        }
        self.verdict.clone()
    }

    fn kill(&mut self) {
        // After the end what lies in the pipe may still be read.
        if self.task.is_some() {
            self.killer.kill();
        }
    }
}

impl Drop for FakeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(super) fn send(zfs: &FakeZfs, spec: &SendSpec) -> ZfsResult<Sending> {
    let fault = zfs.inner.faults.take(Op::Send);
    let (reader, writer, killer) = pipe();
    let prepared = {
        let mut host = zfs.host();
        let found = match refused(fault) {
            Some(kind) => Err(fail("send", kind, "a fault that was asked for")),
            None => job(&mut host, spec),
        };
        if let Ok((_, name)) = &found
            && let Ok(snap) = host.need_snap("send", name)
        {
            snap.users += 1;
        }
        found
    };
    let what = prepared.as_ref().map_or("send".to_owned(), |(_, name)| format!("send {name}"));
    if zfs.inner.inline.load(Ordering::Relaxed) {
        return Ok(inline::send(zfs, what, prepared, fault));
    }
    let (zfs, task_killer) = (zfs.clone(), killer.clone());
    let process = FakeProcess::start(what.clone(), killer, move || {
        let (job, name) = prepared?;
        let verdict = run_send(&zfs, &what, &job, fault, writer, &task_killer);
        release_user(&zfs, &name);
        zfs.tell(Op::Send, &what, &verdict);
        verdict
    });
    Ok(Sending { stream: Box::new(reader), process })
}

/// The snapshot is not in use any more.
pub(super) fn release_user(zfs: &FakeZfs, name: &SnapshotName) {
    if let Ok(snap) = zfs.host().need_snap("send", name) {
        snap.users = snap.users.saturating_sub(1);
    }
}

/// The bytes that are sent in the end, and what the sender fails with after them.
pub(super) fn damaged(job: &Job, fault: Option<Fault>) -> (Vec<u8>, Option<ZfsErrorKind>) {
    let mut bytes = job.stream();
    let len = bytes.len();
    let cut = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(len);
    let (end, failure) = match fault {
        Some(Fault::FailAfter(n, kind)) => (cut(n), Some(kind)),
        Some(Fault::KillAfter(n)) => (cut(n), Some(Killed)),
        Some(Fault::AfterEffect(kind)) => (len, Some(kind)),
        Some(Fault::Truncate(n)) => (cut(n), None),
        _ => (len, None),
    };
    if let Some(Fault::FlipBit(at)) = fault
        && let Some(byte) = usize::try_from(at).ok().and_then(|at| bytes.get_mut(at))
    {
        *byte ^= 1;
    }
    bytes.truncate(end);
    (bytes, failure)
}

fn run_send(
    zfs: &FakeZfs,
    what: &str,
    job: &Job,
    fault: Option<Fault>,
    mut out: PipeWriter,
    killer: &Killer,
) -> ZfsResult<()> {
    let (bytes, failure) = damaged(job, fault);
    let end = bytes.len();
    let cut = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(end);
    let stall = if let Some(Fault::StallAfter(n)) = fault { cut(n) } else { end };
    let sent = out.write_all(&bytes[..stall]).and_then(|()| {
        if stall < end || matches!(fault, Some(Fault::StallAfter(_))) {
            zfs.inner.faults.stall(|| killer.is_killed());
        }
        out.write_all(&bytes[stall..end])
    });
    match (sent, failure) {
        _ if killer.is_killed() => Err(fail(what, Stopped, "stopped by zmigrate")),
        (Err(_), _) => Err(fail(what, Transport, "ended by signal 13")),
        (Ok(()), Some(kind)) => Err(fail(what, kind, "a fault that was asked for")),
        (Ok(()), None) => Ok(()),
    }
}

pub(super) fn receive(zfs: &FakeZfs, spec: &ReceiveSpec) -> ZfsResult<Receiving> {
    let what = format!("receive into {}", spec.snapshot);
    let fault = zfs.inner.faults.take(Op::Receive);
    if zfs.inner.inline.load(Ordering::Relaxed) {
        return Ok(inline::receive(zfs, what, spec, fault));
    }
    let (reader, writer, killer) = pipe();
    let (zfs, spec, task_killer, task_what) = (zfs.clone(), spec.clone(), killer.clone(), what.clone());
    let process = FakeProcess::start(what, killer, move || {
        if let Some(kind) = refused(fault) {
            return Err(fail(&task_what, kind, "a fault that was asked for"));
        }
        let mut receiver = Receiver::new(&zfs, &spec, &task_what);
        let read = read_stream(&zfs, &mut receiver, fault, reader, &task_killer);
        let verdict = receiver.finish(read.map_err(|(kind, why)| fail(&task_what, kind, why)));
        let verdict = match fault {
            Some(Fault::AfterEffect(kind)) => {
                verdict.and(Err(fail(&task_what, kind, "a fault that was asked for, after the effect")))
            }
            _ => verdict,
        };
        zfs.tell(Op::Receive, &task_what, &verdict);
        verdict
    });
    Ok(Receiving { stream: Box::new(writer), process })
}

fn read_stream(
    zfs: &FakeZfs,
    receiver: &mut Receiver,
    fault: Option<Fault>,
    mut input: PipeReader,
    killer: &Killer,
) -> Result<(), (ZfsErrorKind, String)> {
    let asked = || "a fault that was asked for".to_owned();
    let stop_at = match fault {
        Some(Fault::FailAfter(n, _) | Fault::KillAfter(n) | Fault::StallAfter(n)) => Some(n),
        _ => None,
    };
    let (mut taken, mut stalled) = (0u64, false);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let room = stop_at.filter(|_| !stalled).map_or(buffer.len() as u64, |n| (n - taken).min(buffer.len() as u64));
        if room == 0 {
            match fault {
                Some(Fault::FailAfter(_, kind)) => return Err((kind, asked())),
                Some(Fault::StallAfter(_)) => {
                    zfs.inner.faults.stall(|| killer.is_killed());
                    stalled = true;
                    continue;
                }
                _ => return Err((Killed, asked())),
            }
        }
        let n = input.read(&mut buffer[..room as usize]).unwrap_or(0);
        if killer.is_killed() {
            return Err((Stopped, "stopped by zmigrate".to_owned()));
        }
        if n == 0 {
            return receiver.end_of_input();
        }
        taken += n as u64;
        if receiver.feed(&buffer[..n])? {
            return Ok(());
        }
    }
}
