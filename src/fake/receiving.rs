//! What a fake receive does with a stream: where it may go, what it becomes, what is kept when it breaks off.

use std::sync::Arc;

use super::{
    FakeZfs,
    model::{Host, Partial, fail},
    records::{Taker, space},
};
use crate::{
    port::zfs::{
        ReceiveSpec,
        ZfsErrorKind::{self, *},
        ZfsResult,
    },
    stream::{
        features::Features,
        nvlist::{self, Limits},
        parser::{AnyStream, Ending, FaultKind, Parser},
        record::{Begin, RECORD_BYTES, RawRecord, Record},
    },
    types::{
        Guid,
        listing::{DatasetKind, Encryption, PropertySource},
    },
};

type Refusal = (ZfsErrorKind, String);

fn refuse<T>(kind: ZfsErrorKind, why: impl Into<String>) -> Result<T, Refusal> {
    Err((kind, why.into()))
}

/// A receive in progress.
pub struct Receiver {
    zfs: FakeZfs,
    spec: ReceiveSpec,
    what: String,
    parser: Parser<AnyStream>,
    // Bytes from `at` on that have not become records yet.
    bytes: Vec<u8>,
    at: u64,
    begin: Option<Begin>,
    fresh: bool,
    taker: Taker,
}

impl Receiver {
    pub fn new(zfs: &FakeZfs, spec: &ReceiveSpec, what: &str) -> Self {
        let (parser, taker) = (Parser::new(AnyStream), Taker::default());
        let (zfs, spec, what) = (zfs.clone(), spec.clone(), what.to_owned());
        Self { zfs, spec, what, parser, bytes: Vec::new(), at: 0, begin: None, fresh: false, taker }
    }

    /// Takes more of the stream; true at its end.
    pub fn feed(&mut self, input: &[u8]) -> Result<bool, Refusal> {
        self.bytes.extend_from_slice(input);
        let fed = self.parser.feed(input);
        self.take_records()?;
        match fed {
            Ok(_) => Ok(self.parser.is_complete()),
            Err(fault) if fault.kind == FaultKind::Checksum => refuse(Transport, format!("checksum mismatch: {fault}")),
            Err(fault) if self.begin.is_none() => refuse(BadStream, format!("invalid stream: {fault}")),
            Err(fault) => refuse(BadStream, format!("invalid backup stream: {fault}")),
        }
    }

    /// The stream ended before its END.
    pub fn end_of_input(&self) -> Result<(), Refusal> {
        match self.parser.finish() {
            Ending::Complete => Ok(()),
            _ if self.begin.is_none() => refuse(Transport, "cannot receive: failed to read from stream"),
            _ => refuse(Transport, "incomplete stream"),
        }
    }

    fn take_records(&mut self) -> Result<(), Refusal> {
        while let Some(raw) = self.bytes.first_chunk::<RECORD_BYTES>() {
            let raw: RawRecord = *raw;
            let Some(record) = self.parser.byte_order().and_then(|order| Record::decode(&raw, order)) else { break };
            let len = RECORD_BYTES as u64 + record.payload_bytes();
            let end = self.at + len;
            // A payload counts once the next record has confirmed its checksum, as in the kernel.
            let confirmed = matches!(record, Record::Begin(_)) || self.parser.is_complete();
            let needed = if confirmed { end } else { end + RECORD_BYTES as u64 };
            if self.parser.released() < needed {
                break;
            }
            let whole: Vec<u8> = self.bytes.drain(..len as usize).collect();
            self.at = end;
            let payload = &whole[RECORD_BYTES..];
            match &record {
                Record::Begin(begin) => self.start(begin, payload)?,
                _ => self.taker.take(&record, payload),
            }
        }
        Ok(())
    }

    fn start(&mut self, begin: &Begin, payload: &[u8]) -> Result<(), Refusal> {
        let mut host = self.zfs.host();
        let (fresh, taker) = may_start(&mut host, &self.spec, begin, payload)?;
        (self.fresh, self.taker) = (fresh, taker);
        if let Some(d) = host.datasets.get_mut(&self.spec.snapshot.dataset()) {
            d.receiving = true;
        }
        self.begin = Some(begin.clone());
        Ok(())
    }

    /// Makes the snapshot, or puts things back as they were; with `-s` it keeps what has arrived.
    pub fn finish(self, read: ZfsResult<()>) -> ZfsResult<()> {
        let Some(begin) = &self.begin else { return read };
        let name = self.spec.snapshot.dataset();
        let mut host = self.zfs.host();
        let room = host.room(name.pool());
        let before = host.dataset(&name).map_or(0, |d| space(&d.live));
        let read = match space(&self.taker.objects) > room + before {
            true => Err(fail(&self.what, NoSpace, "cannot receive: out of space")),
            false => read,
        };
        let txg = host.next_txg();
        let fresh = self.fresh;
        let Some(d) = host.datasets.get_mut(&name) else {
            return Err(fail(&self.what, NotFound, format!("'{name}' does not exist any more")));
        };
        d.receiving = false;
        match (read, self.taker.at) {
            (Ok(()), _) => {
                d.partial = None;
                d.live = Arc::new(self.taker.objects);
                host.add_snap(&name, &self.spec.snapshot.tag(), begin.to_guid, txg);
                Ok(())
            }
            (Err(e), Some(at)) if self.spec.resumable => {
                d.partial = Some(Partial {
                    to_guid: begin.to_guid,
                    from_guid: Some(begin.from_guid).filter(|g| *g != Guid(0)),
                    to_name: begin.to_name.clone(),
                    features: begin.features(),
                    objects: self.taker.objects,
                    at,
                    bytes: self.taker.bytes,
                    fresh,
                });
                Err(e)
            }
            (Err(e), _) => {
                if fresh {
                    host.datasets.remove(&name);
                } else if begin.features().contains(Features::RESUMING) {
                    d.partial = None;
                }
                Err(e)
            }
        }
    }
}

/// The checks of `dmu_recv_begin` and of libzfs before it. Tells whether the dataset is new, and what to build on.
fn may_start(host: &mut Host, spec: &ReceiveSpec, begin: &Begin, payload: &[u8]) -> Result<(bool, Taker), Refusal> {
    let name = spec.snapshot.dataset();
    let given = spec.origin.is_some() || !spec.set.is_empty();
    if (spec.resumable && !host.can.receive_resumable) || (given && !host.can.receive_properties) {
        return refuse(Unsupported, "invalid option");
    }
    for (property, value) in &spec.set {
        if !host.may_set(property, value) {
            return refuse(Other, format!("invalid property value '{property}={value}'"));
        }
    }
    match name.parent().map(|p| host.dataset(&p).map(|d| (d.kind, d.encryption.clone()))) {
        Some(None) => return refuse(NotFound, format!("parent of '{name}' does not exist")),
        Some(Some((DatasetKind::Volume, _))) => return refuse(NotFound, "parent is not a filesystem"),
        _ => {}
    }
    if host.dataset(&name).is_some_and(|d| d.receiving) {
        return refuse(Busy, format!("destination '{name}' is busy"));
    }
    if begin.features().contains(Features::RESUMING) {
        return resume(host, spec, begin, payload);
    }
    let from = Some(begin.from_guid).filter(|g| *g != Guid(0));
    let verdict = match (host.datasets.contains_key(&name), from) {
        (true, None) => refuse(Exists, format!("destination '{name}' exists\nmust specify -F to overwrite it")),
        (true, Some(from)) => onto(host, spec, begin, from).map(|taker| (false, taker)),
        (false, None) => create(host, spec, begin, None).map(|taker| (true, taker)),
        (false, Some(from)) => create(host, spec, begin, Some(from)).map(|taker| (true, taker)),
    }?;
    if let Some(d) = host.datasets.get_mut(&name) {
        for (property, value) in &spec.set {
            d.properties.insert(property.clone(), (value.clone(), PropertySource::Local));
        }
    }
    Ok(verdict)
}

fn resume(host: &mut Host, spec: &ReceiveSpec, begin: &Begin, payload: &[u8]) -> Result<(bool, Taker), Refusal> {
    let name = spec.snapshot.dataset();
    let list = nvlist::decode(payload, Limits::SMALL).map_err(|e| (BadStream, e.to_string()))?;
    let at = list.u64("resume_object").zip(list.u64("resume_offset"));
    let Some(d) = host.datasets.get_mut(&name) else {
        return refuse(NotFound, format!("destination '{name}' does not exist"));
    };
    match d.partial.take() {
        Some(p) if p.to_guid == begin.to_guid && Some(p.at) == at => {
            let fresh = p.fresh;
            let taker = Taker { objects: p.objects, at: Some(p.at), bytes: p.bytes };
            Ok((fresh, taker))
        }
        other => {
            d.partial = other;
            refuse(Ambiguous, "kernel modules must be upgraded to receive this stream.")
        }
    }
}

/// An increment onto what is there.
fn onto(host: &mut Host, spec: &ReceiveSpec, begin: &Begin, from: Guid) -> Result<Taker, Refusal> {
    let name = spec.snapshot.dataset();
    let modern = host.can.receive_resumable;
    let Some(d) = host.dataset(&name) else { return refuse(NotFound, "destination does not exist") };
    if d.partial.is_some() {
        let why = format!("destination {name} contains partially-complete state from \"zfs receive -s\".");
        return refuse(PartialState, why);
    }
    let raw = begin.features().contains(Features::RAW);
    match &d.encryption {
        None if raw => return refuse(Crypto, "cannot perform raw receive on top of existing unencrypted dataset"),
        Some(e) if !raw && !e.key_loaded => return refuse(Crypto, "inherited key must be loaded"),
        _ => {}
    }
    let base = d.snaps.iter().find(|s| s.guid == from);
    let newest = d.snaps.last().is_some_and(|s| s.guid == from);
    let Some(base) = base.filter(|_| newest || modern) else {
        return refuse(Diverged, format!("most recent snapshot of {name} does not\nmatch incremental source"));
    };
    // A raw receive bears no newer snapshot, changed or not.
    if base.objects != d.live || (raw && !newest) {
        return refuse(DirtyTarget, format!("destination {name} has been modified\nsince most recent snapshot"));
    }
    if d.snap(&spec.snapshot.tag()).is_some() {
        return refuse(Exists, "destination already exists");
    }
    Ok(Taker { objects: (*base.objects).clone(), ..Taker::default() })
}

/// A new dataset: empty, or a clone of its origin.
fn create(host: &mut Host, spec: &ReceiveSpec, begin: &Begin, from: Option<Guid>) -> Result<Taker, Refusal> {
    let name = spec.snapshot.dataset();
    let origin = match from {
        None => None,
        Some(from) => {
            let given = match &spec.origin {
                Some(o) => host.snap(o).filter(|s| s.guid == from).map(|_| o.clone()),
                // Before `-o origin`, and for streams of clones: whoever in the pool has that GUID.
                None if begin.flags & 1 != 0 || !host.can.receive_resumable => {
                    let here = host.datasets.iter().filter(|(n, _)| n.pool() == name.pool());
                    let mut found = here.flat_map(|(n, d)| d.snaps.iter().map(move |s| (n, s)));
                    found.find(|(_, s)| s.guid == from).and_then(|(n, s)| n.snapshot(&s.tag).ok())
                }
                None => return refuse(NotFound, format!("destination '{name}' does not exist")),
            };
            match given {
                Some(origin) => Some(origin),
                None => return refuse(NotFound, format!("local origin for clone {} does not exist", spec.snapshot)),
            }
        }
    };
    let above = name.parent().and_then(|p| host.dataset(&p)?.encryption.clone());
    let encryption = match (begin.features().contains(Features::RAW), above) {
        (true, _) => Some(Encryption { suite: "aes-256-gcm".into(), root: Some(name.clone()), key_loaded: false }),
        (false, Some(e)) if !e.key_loaded => return refuse(Crypto, "inherited key must be loaded"),
        (false, above) => above,
    };
    let objects = origin.as_ref().and_then(|o| host.snap(o)).map(|s| (*s.objects).clone()).unwrap_or_default();
    let kind = if begin.objset_type == 3 { DatasetKind::Volume } else { DatasetKind::Filesystem };
    let mut d = host.new_dataset(kind);
    (d.origin, d.encryption) = (origin, encryption);
    host.pools.entry(name.pool().to_owned()).or_insert(super::POOL_BYTES);
    host.datasets.insert(name, d);
    Ok(Taker { objects, ..Taker::default() })
}
