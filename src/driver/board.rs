//! The progress board: what the transfers write on while they run, and displays read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use crate::session::engine::EngineSession;

/// See the module.
#[derive(Default)]
pub struct Board {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    started: Option<Instant>,
    /// Sum of the estimates of all steps of the plan, if each has one.
    planned_bytes: Option<u64>,
    steps_planned: usize,
    steps_done: usize,
    raw_done: u64,
    wire_done: u64,
    active: BTreeMap<u32, Active>,
}

struct Active {
    label: String,
    size: Option<u64>,
    session: Arc<EngineSession>,
}

/// A step that is being transferred.
#[derive(Clone, Debug)]
pub struct ActiveStep {
    /// The snapshot and where it goes.
    pub label: String,
    /// Bytes of the stream so far.
    pub raw_bytes: u64,
    /// The estimate of all of it.
    pub size_bytes: Option<u64>,
}

/// The board at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Since the first step began.
    pub elapsed: Duration,
    /// Bytes of streams so far.
    pub raw_bytes: u64,
    /// Payload bytes on the wire so far.
    pub wire_bytes: u64,
    /// The estimate of the whole run, where there is one.
    pub planned_bytes: Option<u64>,
    /// Steps that are done.
    pub steps_done: usize,
    /// Steps of the plan.
    pub steps_planned: usize,
    /// What is being transferred.
    pub active: Vec<ActiveStep>,
}

impl Board {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A plan was made: so many steps, of so many bytes where that is known, come on top of what is done.
    pub(super) fn planned(&self, steps: usize, bytes: Option<u64>) {
        let mut state = self.state();
        state.started.get_or_insert_with(Instant::now);
        state.steps_planned = state.steps_done + steps;
        state.planned_bytes = bytes.map(|bytes| bytes + state.raw_done);
    }

    pub(super) fn begin(&self, channel: u32, label: String, size: Option<u64>, session: &Arc<EngineSession>) {
        self.state().active.insert(channel, Active { label, size, session: Arc::clone(session) });
    }

    /// Takes the step off the board; `done` has its raw and wire bytes if it went well.
    pub(super) fn end(&self, channel: u32, done: Option<(u64, u64)>) {
        let mut state = self.state();
        state.active.remove(&channel);
        if let Some((raw, wire)) = done {
            state.steps_done += 1;
            state.raw_done += raw;
            state.wire_done += wire;
        }
    }

    /// The board as it is now.
    pub fn read(&self) -> Snapshot {
        let state = self.state();
        let mut snapshot = Snapshot {
            elapsed: state.started.map_or(Duration::ZERO, |started| started.elapsed()),
            raw_bytes: state.raw_done,
            wire_bytes: state.wire_done,
            planned_bytes: state.planned_bytes,
            steps_done: state.steps_done,
            steps_planned: state.steps_planned,
            active: Vec::new(),
        };
        for (channel, active) in &state.active {
            let (raw, wire) = active.session.progress(*channel).unwrap_or_default();
            snapshot.raw_bytes += raw;
            snapshot.wire_bytes += wire;
            snapshot.active.push(ActiveStep { label: active.label.clone(), raw_bytes: raw, size_bytes: active.size });
        }
        snapshot
    }
}
