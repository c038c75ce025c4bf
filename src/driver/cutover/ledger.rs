//! What the ledger of a cutover's leader holds, and what it tells: the machine's records, and what was measured.

use std::{collections::VecDeque, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    cutover::{
        coordinator::{Coordinator, Phase},
        effect::Command,
        leg::{CutoverId, Millis},
        predict::{Meter, Pass},
        record::Record,
        status::{Status, status},
        terms::Terms,
    },
    types::{Failure, FailureClass, transfer::Streams},
    wire::message::Compression,
};

/// Lines of hooks and comparisons that are kept for people.
pub(super) const MAX_SAID: usize = 20;

/// What was asked for when the cutover began, beside its terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Which.
    pub id: CutoverId,
    /// The peer, as the operator wrote it.
    pub peer: String,
    /// Hooks of this host, by name.
    pub hooks_here: Vec<String>,
    /// Hooks of the peer, by name.
    pub hooks_there: Vec<String>,
    /// End the processes that keep a mount busy.
    pub kill_busy: bool,
    /// Go on replicating back, so that the way home is short.
    pub reverse: bool,
    /// Datasets in parallel.
    pub jobs: usize,
    /// How to compress.
    pub compression: Compression,
    /// Wire bytes per second, for all transfers together.
    pub bwlimit_bytes_per_s: Option<u64>,
    /// Connections for each transfer.
    #[serde(flatten)]
    pub streams: NotedStreams,
}

/// [`Streams`] as an older release reads them, too: it knows numbers alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotedStreams {
    #[serde(default = "one")]
    streams: u16,
    #[serde(default)]
    streams_auto: bool,
}

/// Of a ledger that says nothing of it.
fn one() -> u16 {
    1
}

impl From<Streams> for NotedStreams {
    fn from(streams: Streams) -> Self {
        match streams {
            Streams::Auto => NotedStreams { streams: 1, streams_auto: true },
            Streams::Fixed(streams) => NotedStreams { streams, streams_auto: false },
        }
    }
}

impl From<NotedStreams> for Streams {
    fn from(noted: NotedStreams) -> Self {
        if noted.streams_auto { Streams::Auto } else { Streams::Fixed(noted.streams) }
    }
}

/// One pass, as it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PassReport {
    /// From 1.
    pub number: u32,
    /// Bytes of the streams.
    pub bytes: u64,
    /// Payload bytes on the wire.
    pub wire_bytes: u64,
    /// For all of it.
    pub seconds: f64,
    /// Of that, for the bytes.
    pub sending_ms: u64,
    /// What an outage needs beside the bytes.
    pub fixed_ms: u64,
    /// Written on the source since the pass' snapshot.
    pub left_bytes: u64,
}

/// A line of the ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// When, for people.
    pub at: String,
    /// The same, by this host's clock.
    pub at_ms: Millis,
    /// By which process.
    pub pid: u32,
    /// What hooks, or a comparison, have said since the line before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<String>,
    /// What.
    #[serde(flatten)]
    pub entry: Entry,
}

/// See [`Line`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// The first line.
    Begun {
        /// With this.
        begun: Begun,
    },
    /// A record of the coordinator.
    Record {
        /// This.
        of: Record,
    },
    /// A pass begins; its number, and those before it, are never used again.
    Passing {
        /// This, or a later one: while it is held many are announced at once.
        number: u32,
    },
    /// A pass has ended well.
    Passed {
        /// Measured so.
        pass: PassReport,
    },
    /// A pass has failed while it is held. In the note beside the ledger alone.
    Missed {
        /// Because of this.
        why: String,
    },
    /// How far the work under way has come. In the note beside the ledger alone.
    Doing {
        /// In words.
        what: String,
    },
    /// The source is about to be quiesced.
    Predicted {
        /// For as long as this.
        downtime: Millis,
    },
    /// A person said so.
    Said {
        /// This.
        command: Command,
    },
    /// A person stopped the command that led it, while the source served.
    Stopped,
}

impl Line {
    /// A line of this process, at that time of its leader.
    pub fn new(entry: Entry, at_ms: Millis) -> Line {
        Line { at: jiff::Timestamp::now().to_string(), at_ms, pid: std::process::id(), said: Vec::new(), entry }
    }
}

impl Entry {
    /// For the names of crash points: of a record its phase.
    pub fn name(&self) -> String {
        match self {
            Entry::Begun { .. } => "begun".into(),
            Entry::Record { of: Record::Begun { .. } } => "leg".into(),
            Entry::Record { of: Record::Moved { phase, .. } } => {
                let value = serde_json::to_value(phase).unwrap_or_default();
                value["phase"].as_str().unwrap_or("phase").to_owned()
            }
            Entry::Record { of: Record::Asked { .. } } => "asked".into(),
            Entry::Passing { .. } => "passing".into(),
            Entry::Passed { .. } => "passed".into(),
            Entry::Missed { .. } => "missed".into(),
            Entry::Doing { .. } => "doing".into(),
            Entry::Predicted { .. } => "predicted".into(),
            Entry::Said { .. } => "said".into(),
            Entry::Stopped => "stopped".into(),
        }
    }
}

/// What has happened in a cutover: the whole, and the leg under way or the last one.
#[derive(Clone, Debug)]
pub struct Story {
    /// How it began.
    pub begun: Begun,
    /// Passes that were begun, so many names of snapshots are used.
    pub passes_begun: u32,
    /// Passes of this leg that ended well.
    pub passes: Vec<PassReport>,
    /// How many more there were, and their bytes, as far as this process led it.
    pub others: (usize, u64),
    /// The number of the question that made the newest final snapshot.
    pub final_number: u32,
    /// The same, with the leg that made it; `None` before the first.
    pub last_final: Option<(CutoverId, u32)>,
    /// The outage that was predicted when it began.
    pub predicted: Option<Millis>,
    /// When the source was asked to quiesce.
    pub quiesced_at: Option<Millis>,
    /// When its writers had stopped.
    quiet_at: Option<Millis>,
    /// When one side served again, so far as is known here.
    pub served_at: Option<Millis>,
    /// The ids of its legs.
    pub legs: Vec<CutoverId>,
    /// A person stopped it, and has said nothing since.
    pub stopped: bool,
    /// Why the target was left again, if it was.
    pub left_because: Option<String>,
    /// Why the newest pass failed, if it did.
    pub missed: Option<String>,
    /// How far the work under way had come when it was last noted.
    pub doing: Option<String>,
    /// What hooks, and comparisons, said last.
    pub said: VecDeque<String>,
    /// When the newest pass that went well was written down.
    passed_at: Millis,
    /// When the newest line was.
    heard_at: Millis,
    /// Of records.
    count: u32,
}

impl Story {
    /// Nothing yet.
    pub fn new(begun: Begun) -> Story {
        Story {
            begun,
            passes_begun: 0,
            passes: Vec::new(),
            others: (0, 0),
            final_number: 0,
            last_final: None,
            predicted: None,
            quiesced_at: None,
            quiet_at: None,
            served_at: None,
            legs: Vec::new(),
            stopped: false,
            left_because: None,
            missed: None,
            doing: None,
            said: VecDeque::new(),
            passed_at: Millis(0),
            heard_at: Millis(0),
            count: 0,
        }
    }

    /// Takes a line into account.
    pub fn hear(&mut self, line: &Line) {
        (self.doing, self.heard_at) = (None, line.at_ms);
        self.said.extend(line.said.iter().cloned());
        self.said.drain(..self.said.len().saturating_sub(MAX_SAID));
        match &line.entry {
            Entry::Begun { .. } => {}
            Entry::Doing { what } => self.doing = Some(what.clone()),
            Entry::Said { .. } => self.stopped = false,
            Entry::Stopped => self.stopped = true,
            Entry::Passing { number } => self.passes_begun = self.passes_begun.max(*number),
            Entry::Passed { pass } => {
                self.passes.push(pass.clone());
                (self.missed, self.passed_at) = (None, line.at_ms);
            }
            Entry::Missed { why } => self.missed = Some(why.clone()),
            Entry::Predicted { downtime } => self.predicted = Some(*downtime),
            Entry::Record { of } => {
                // As the coordinator numbers its questions.
                self.count += 1;
                match of {
                    Record::Begun { terms, .. } => {
                        self.legs.push(terms.leg.id);
                        // What returns by itself goes on with the same outage.
                        if !returned(terms) {
                            (self.predicted, self.quiesced_at, self.quiet_at, self.left_because) =
                                (None, None, None, None);
                        }
                        self.served_at = None;
                        self.passes.clear();
                        self.others = (0, 0);
                    }
                    Record::Moved { phase: Phase::Final, .. } => {
                        self.final_number = self.count;
                        self.last_final = self.legs.last().map(|leg| (*leg, self.count));
                    }
                    Record::Moved { phase: Phase::Quiesce, .. } => {
                        self.quiesced_at = self.quiesced_at.or(Some(line.at_ms));
                    }
                    Record::Moved { phase: Phase::Fence, .. } => self.quiet_at = self.quiet_at.or(Some(line.at_ms)),
                    Record::Moved { phase: Phase::Release { back: None }, .. } => {
                        self.served_at = self.served_at.or(Some(line.at_ms));
                    }
                    Record::Moved { phase: Phase::Settle | Phase::RolledBack | Phase::Broken, .. } => {
                        self.served_at = self.served_at.or(Some(line.at_ms));
                    }
                    Record::Moved { phase: Phase::Release { back: Some(_) }, why: Some(why), .. } => {
                        self.left_because.get_or_insert_with(|| why.clone());
                    }
                    Record::Moved { phase: Phase::Retract { served: true }, .. } => {
                        self.served_at = self.served_at.or(Some(line.at_ms));
                    }
                    Record::Moved { .. } | Record::Asked { .. } => {}
                }
            }
        }
    }

    /// Takes the newest pass into account, where it is not in the ledger but noted beside it.
    pub(super) fn hear_note(&mut self, note: &str) {
        let Ok(line) = serde_json::from_str::<Line>(note) else { return };
        let counts = match (&line.entry, self.passes.last()) {
            (Entry::Passed { pass }, Some(last)) => pass.number > last.number,
            (Entry::Missed { .. }, Some(_)) => line.at_ms > self.passed_at,
            (Entry::Doing { .. }, _) => line.at_ms >= self.heard_at,
            _ => false,
        };
        if counts {
            self.hear(&line);
        }
    }

    /// The outage if it began now, as this leg's passes measured it.
    pub fn prediction(&self) -> Option<Millis> {
        let mut meter = Meter::default();
        for pass in &self.passes {
            let (sending, fixed) = (Millis(pass.sending_ms), Millis(pass.fixed_ms));
            meter.add(Pass { bytes: pass.bytes, sending, fixed, coming_up: Millis(0), left: pass.left_bytes });
        }
        meter.predict().map(|p| p.downtime())
    }

    /// What a person is told.
    pub fn status(&self, it: &Coordinator) -> Status {
        status(it, self.begun.id, self.prediction(), self.missed.as_deref())
    }

    /// From the moment when the source was asked to quiesce to the one when a side served again, as far as is known here;
    /// `None` while there is or was no outage.
    pub fn downtime(&self) -> Option<Millis> {
        let (from, to) = (self.quiesced_at?, self.served_at?);
        // The clock was set back between two processes that led it: nobody knows.
        to.0.checked_sub(from.0).map(Millis)
    }

    /// How much of the outage the writers of the source took to stop, which no pass can measure beforehand.
    pub fn stopping(&self) -> Option<Millis> {
        let (from, to) = (self.quiesced_at?, self.quiet_at?);
        to.0.checked_sub(from.0).map(Millis)
    }
}

/// Whether this leg began by itself, because the target did not come up.
pub fn returned(terms: &Terms) -> bool {
    terms.returns_from.is_some() && terms.leg.id == terms.return_id
}

/// The name of a cutover's ledger.
pub fn name_of(id: CutoverId) -> String {
    format!("lead-{id}")
}

/// The story and the machine that a ledger's lines tell.
///
/// # Errors
/// A line that does not read, with its number.
pub fn read(lines: &[String], place: &str) -> Result<(Story, Coordinator), Failure> {
    let bad = |line: usize, why: &str| {
        Failure::new(FailureClass::Usage, format!("{place}: line {line} cannot be read: {why}; nothing was changed"))
            .hint("restore the file from a backup; the hosts' own ledgers say who may be written to")
    };
    let (mut story, mut records) = (None::<Story>, Vec::new());
    for (i, text) in lines.iter().enumerate() {
        let line: Line = serde_json::from_str(text).map_err(|e| bad(i + 1, &e.to_string()))?;
        if let (None, Entry::Begun { begun }) = (&story, &line.entry) {
            story = Some(Story::new(begun.clone()));
        }
        let Some(story) = &mut story else { return Err(bad(i + 1, "it does not begin with a beginning")) };
        story.hear(&line);
        if let Entry::Record { of } = line.entry {
            records.push(of);
        }
    }
    let machine = Coordinator::read_back(&records);
    match (story, machine) {
        (Some(story), Some(machine)) => Ok((story, machine)),
        // The process died between its first two lines: nothing was begun.
        _ => Err(bad(lines.len().max(1), "the cutover never began")),
    }
}

/// The terms of a leg of a cutover whose ledger does not read as a whole, if their line does: all its legs move the same datasets.
pub fn terms_of(lines: &[String]) -> Option<Arc<Terms>> {
    let mut entries = lines.iter().filter_map(|line| Some(serde_json::from_str::<Line>(line).ok()?.entry));
    entries.find_map(|e| if let Entry::Record { of: Record::Begun { terms, .. } } = e { Some(terms) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> Begun {
        Begun {
            id: CutoverId(1),
            peer: "west".into(),
            hooks_here: Vec::new(),
            hooks_there: Vec::new(),
            kill_busy: false,
            reverse: false,
            jobs: 1,
            compression: Compression::Auto,
            bwlimit_bytes_per_s: None,
            streams: Streams::Auto.into(),
        }
    }

    /// A release that does not know what hooks said reads the line all the same, and so does this one a line of that.
    #[test]
    fn what_hooks_said_is_kept_with_a_line_and_bounded() {
        let mut line = Line::new(Entry::Stopped, Millis(5));
        let bare = serde_json::to_value(&line).unwrap();
        assert!(bare.get("said").is_none(), "{bare}");
        assert!(serde_json::from_value::<Line>(bare).unwrap().said.is_empty());
        line.said = vec!["db (stop): 3 clients".into()];
        let text = serde_json::to_string(&line).unwrap();
        let mut story = Story::new(begun());
        (0..2 * MAX_SAID).for_each(|_| story.hear(&serde_json::from_str(&text).unwrap()));
        assert_eq!((story.said.len(), story.said[0].as_str()), (MAX_SAID, "db (stop): 3 clients"));
    }

    #[test]
    fn how_far_it_is_counts_until_something_is_written_down() {
        let doing = |at| Line::new(Entry::Doing { what: "1 GiB".into() }, Millis(at));
        let mut story = Story::new(begun());
        story.hear(&Line::new(Entry::Stopped, Millis(5)));
        story.hear_note(&serde_json::to_string(&doing(4)).unwrap());
        assert_eq!(story.doing, None, "it is older");
        story.hear_note(&serde_json::to_string(&doing(6)).unwrap());
        assert_eq!(story.doing.as_deref(), Some("1 GiB"));
        story.hear(&Line::new(Entry::Stopped, Millis(7)));
        assert_eq!(story.doing, None);
    }

    #[test]
    fn a_note_counts_only_if_it_is_newer_than_the_ledger() {
        let line = |number| {
            let (bytes, wire_bytes, seconds, sending_ms, fixed_ms, left_bytes) = (1, 1, 0.1, 1, 1, 0);
            let pass = PassReport { number, bytes, wire_bytes, seconds, sending_ms, fixed_ms, left_bytes };
            Line::new(Entry::Passed { pass }, Millis(5))
        };
        let note = |number| serde_json::to_string(&line(number)).unwrap();
        let mut story = Story::new(begun());
        // Of another leg, which has no pass yet.
        story.hear_note(&note(7));
        assert!(story.passes.is_empty());
        story.hear(&line(8));
        for (heard, newest) in [(note(7), 8), (note(8), 8), (note(9), 9), ("torn".to_owned(), 9)] {
            story.hear_note(&heard);
            assert_eq!(story.passes.last().unwrap().number, newest, "{heard}");
        }
    }
}
