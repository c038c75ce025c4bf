//! What an initiator says to a host about one unit, and what it is told: the questions of [`super::message`], and what the
//! work between them needs to know. Both travel as JSON, so that either side may know fields that the other does not.

use serde::{Deserialize, Serialize};

use super::{
    host::Part,
    leg::{CutoverId, Epoch, Leg, Side},
    message::{Answer, Request},
    record::Saved,
};
use crate::types::{DatasetName, Guid, SnapshotTag};

/// See the module. Each may be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    /// A question to the machine.
    Ask {
        /// This.
        request: Request,
        /// With `Arm`: how to take part.
        setup: Option<Setup>,
    },
    /// What stands there now, by the snapshots of this tag?
    Look {
        /// This.
        tag: SnapshotTag,
    },
    /// What are the datasets like, and of which jobs? The target shall become like the source.
    Describe,
    /// Destroy the snapshots that this cutover made, but for this one.
    Tidy {
        /// The ids of its legs.
        legs: Vec<CutoverId>,
        /// But for this.
        keep: SnapshotTag,
        /// Also those of all legs of this unit that are over here. A host that is older than this leaves them.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        earlier: bool,
    },
    /// Destroy the snapshots that something else took of what is fenced here since the last one of a cutover, if nothing was
    /// written since that: they keep it from coming home, and hold nothing. Hosts of the first release do not know it.
    Shed,
    /// What part does this host play?
    State,
    /// A person there, or here, swears that the target of this leg is destroyed.
    Break {
        /// This.
        leg: Leg,
    },
}

/// What an initiator is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum Told {
    /// To `Ask`; none if the host is still at it.
    Answer {
        /// This.
        answer: Option<Answer>,
        /// What the hooks said last, for people.
        #[serde(default)]
        notes: Vec<String>,
    },
    /// To `Look`.
    Seen(Seen),
    /// To `Describe`, by the names of the datasets there.
    Described {
        /// Of every dataset.
        saved: Vec<Saved>,
    },
    /// To `Tidy`, `Shed` and `Break`.
    Done,
    /// To `State`.
    State(State),
}

/// How a host takes part in a leg.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setup {
    /// The hooks that stop and start what uses the unit there, by their names in that host's configuration; stopped in this
    /// order, started in the other.
    pub hooks: Vec<String>,
    /// End the processes that keep a mount busy.
    pub kill_busy: bool,
    /// Source: the jobs by which its snapshots may be held here, as the target bears them.
    pub jobs: Vec<String>,
    /// The roots at the other host.
    pub other: Vec<DatasetName>,
    /// Target: what its datasets shall be like, by their names there.
    pub manifest: Vec<Saved>,
    /// Source: its datasets when it was armed, so those that the target knows how to bring up. Empty where whoever leads is older
    /// than this.
    pub armed: Vec<DatasetName>,
}

/// What stands at one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The fence that all datasets carry.
    pub fence: Option<Leg>,
    /// Bytes written since the snapshots.
    pub written: u64,
    /// The snapshots' GUIDs by the datasets' places below the roots; `None` where there is none.
    pub guids: Vec<(String, Option<Guid>)>,
    /// The places of those that are volumes.
    #[serde(default)]
    pub volumes: Vec<String>,
}

impl Seen {
    /// The GUIDs of both sides in the order of this one; where one is missing, something that equals nothing on the other.
    pub fn beside(&self, target: &Seen) -> (Vec<Guid>, Vec<Guid>) {
        let of = |seen: &Seen, place: &str, none: u64| {
            let found = seen.guids.iter().find(|(at, _)| at == place);
            found.and_then(|(_, guid)| *guid).unwrap_or(Guid(none))
        };
        let mut places: Vec<&str> = self.guids.iter().map(|(place, _)| place.as_str()).collect();
        places.extend(target.guids.iter().map(|(p, _)| p.as_str()).filter(|p| !self.guids.iter().any(|(q, _)| q == p)));
        (places.iter().map(|p| of(self, p, 0)).collect(), places.iter().map(|p| of(target, p, u64::MAX)).collect())
    }
}

/// A host's part in the moves of a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The last epoch that is known to have begun.
    pub epoch: Epoch,
    /// In which leg.
    pub leg: Option<Leg>,
    /// As what.
    pub side: Option<Side>,
    /// How far, in a word.
    pub stage: String,
    /// True while that leg is under way.
    pub open: bool,
    /// The fence that stands there.
    pub fence: Option<Leg>,
    /// The one question that only a person can answer.
    pub needs: Option<String>,
    /// Other units of that host with datasets of this one, and legs under way.
    #[serde(default)]
    pub overlaps: Vec<DatasetName>,
}

impl Part {
    /// The side, how far it is in a word, and whether the leg is under way.
    pub fn summary(&self) -> (Option<Side>, &'static str, bool) {
        use super::{source::Stage as S, target::Register as R};
        match self {
            Part::None => (None, "none", false),
            Part::UnknownFence(_) => (Some(Side::Source), "unknown fence", true),
            Part::Source(_, stage) => {
                let (word, open) = match stage {
                    S::Armed => ("armed", true),
                    S::Quiescing { .. } => ("quiescing", true),
                    S::Fencing => ("fencing", true),
                    S::Fenced => ("fenced", true),
                    S::Withdrawing => ("withdrawing", true),
                    S::Unfencing => ("unfencing", true),
                    S::Starting => ("starting", true),
                    S::Closed => ("serves", false),
                    S::Released => ("released", false),
                    S::Discarding => ("discarding", true),
                    S::Discarded => ("discarded", false),
                };
                (Some(Side::Source), word, open)
            }
            Part::Target(_, register) => {
                let (word, open) = match register {
                    R::Undecided { .. } => ("undecided", true),
                    R::Promoted { .. } => ("promoted", true),
                    R::Active => ("active", false),
                    R::Aborted => ("aborted", true),
                    R::Settled => ("settled", false),
                };
                (Some(Side::Target), word, open)
            }
        }
    }
}

/// The tag of the snapshot of a cutover's pass.
pub fn pass_tag(id: CutoverId, number: u32) -> String {
    format!("zmigrate_{id}_pass_{number}")
}

/// The tag of the snapshot that a question for the final one makes.
pub fn final_tag(id: CutoverId, number: u32) -> String {
    format!("zmigrate_{id}_final_{number}")
}

/// The leg whose final snapshot bears this tag; `None` for any other snapshot.
pub fn leg_of_final(tag: &str) -> Option<CutoverId> {
    let id = tag.strip_prefix("zmigrate_")?.split('_').next()?.parse().ok()?;
    let number = tag.strip_prefix(&format!("zmigrate_{id}_final_"))?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(id)
}

/// The tag of the hold that keeps the final snapshot of a leg where it was left: the way home starts from it.
pub fn final_hold(id: CutoverId) -> String {
    // No job's: what is newer than this is not what a job has yet to send.
    format!("zmigrate-cutover:{id}")
}

/// Whether a tag is of a snapshot that one of these legs made.
pub fn is_made_by(tag: &str, legs: &[CutoverId]) -> bool {
    let digits = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
    let made = |id: &CutoverId, what: &str| tag.strip_prefix(&format!("zmigrate_{id}_{what}_")).is_some_and(digits);
    legs.iter().any(|id| made(id, "pass") || made(id, "final"))
}

/// Whether a tag is of a snapshot that some cutover makes.
pub fn is_of_a_cutover(tag: &str) -> bool {
    let id = tag.strip_prefix("zmigrate_").and_then(|rest| rest.split('_').next()).and_then(|id| id.parse().ok());
    id.is_some_and(|id| is_made_by(tag, &[id]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_very_cutover_made_is_its_own() {
        let (id, legs) = (CutoverId(0x4f2a), [CutoverId(2), CutoverId(0x4f2a)]);
        assert!(is_made_by(&pass_tag(id, 7), &legs) && is_made_by(&final_tag(id, 7), &legs));
        assert!(!is_made_by(&pass_tag(CutoverId(1), 7), &legs) && !is_made_by(&pass_tag(id, 7), &[]));
        assert!(is_of_a_cutover(&pass_tag(id, 7)) && is_of_a_cutover(&final_tag(id, 7)));
        assert_eq!(leg_of_final(&final_tag(id, 7)), Some(id));
        for other in [pass_tag(id, 7).as_str(), "zmigrate_00004f2a_final_", "zmigrate_00004f2a_final_1x", "daily"] {
            assert_eq!(leg_of_final(other), None, "{other}");
        }
        for other in ["zmigrate_00004f2a_pass_", "zmigrate_00004f2a_pass_1x", "zmigrate_00004f2a_copy_1", "daily"] {
            assert!(!is_made_by(other, &legs), "{other}");
            assert!(!is_of_a_cutover(other), "{other}");
        }
    }

    #[test]
    fn calls_travel_as_json_of_this_shape() {
        let call = Call::Tidy { legs: vec![CutoverId(0x4f2a)], keep: "k".parse().unwrap(), earlier: false };
        let text = serde_json::to_string(&call).unwrap();
        assert_eq!(text, r#"{"call":"tidy","legs":["00004f2a"],"keep":"k"}"#);
        assert_eq!(serde_json::from_str::<Call>(&text).unwrap(), call);
    }
}
