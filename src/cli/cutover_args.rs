//! What can be typed after `zmigrate cutover`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::args::Transport;
use crate::types::{DatasetName, Failure, FailureClass, PeerAddress, RemoteDataset};

/// `DATASET` on this host, or `PEER:DATASET`.
#[derive(Clone, Debug)]
pub enum Place {
    Here(DatasetName),
    There(PeerAddress, DatasetName),
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        // A dataset's name may hold a colon, but not before its first slash: no peer's name holds a slash.
        let is_remote = s.starts_with("zm://") || s.split('/').next().is_some_and(|first| first.contains(':'));
        if !is_remote {
            return s.parse().map(Place::Here).map_err(|e| format!("{e}"));
        }
        let remote: RemoteDataset = s.parse().map_err(|e| format!("{e}"))?;
        match remote.snapshot {
            Some(_) => Err(format!("{remote} names a snapshot; write the dataset alone")),
            None => Ok(Place::There(remote.peer, remote.dataset)),
        }
    }
}

impl Place {
    /// Of two places one of which is here: the peer of the other, whether the first is here, and both datasets.
    ///
    /// # Errors
    /// When both are here, or both at a peer.
    pub fn apart(first: &Place, second: &Place) -> Result<(PeerAddress, bool, DatasetName, DatasetName), Failure> {
        match (first, second) {
            (Place::Here(here), Place::There(peer, there)) => Ok((peer.clone(), true, here.clone(), there.clone())),
            (Place::There(peer, there), Place::Here(here)) => Ok((peer.clone(), false, there.clone(), here.clone())),
            (Place::Here(_), Place::Here(_)) | (Place::There(..), Place::There(..)) => {
                Err(Failure::new(FailureClass::Usage, "one of SRC and DST must be here, and the other at a peer")
                    .hint("write PEER:DATASET for the one at the peer"))
            }
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum CutoverCommand {
    /// Begin to move SRC to DST, one of which is at a peer, and stay until it is done, rolled back, or asks a question
    #[command(after_help = "What is seen on the way, and what to do when something fails: docs/cutover.md. \
Ctrl-C before the source is stopped ends the command and changes nothing; `resume` goes on.")]
    Start(Box<CutoverStart>),
    /// Say go to a cutover that waits for it: one with --hold, or one whose passes do not shrink
    Go(CutoverId),
    /// Show all cutovers, or one with its passes and its proof
    Status {
        /// This one
        #[arg(value_name = "ID", value_parser = parse_cutover)]
        id: Option<crate::cutover::leg::CutoverId>,
        /// Show it again every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// End a cutover that is not decided: the source serves
    Abort {
        #[command(flatten)]
        id: CutoverId,
        /// End the part that this host takes in it; for when the host where it was started is lost
        #[arg(long)]
        here: bool,
    },
    /// Go on with a cutover that stands still, or with all of them
    Resume {
        /// This one
        #[arg(value_name = "ID", value_parser = parse_cutover)]
        id: Option<crate::cutover::leg::CutoverId>,
    },
    /// Move home again, with what has been written since
    Back(CutoverId),
    /// Destroy what was left at the source, with its snapshots. There is no way home afterwards
    Complete(CutoverId),
    /// Let a fenced source serve although its target does not answer, because that target is destroyed for ever
    Break {
        #[command(flatten)]
        id: CutoverId,
        /// If this is not so, two sides may be written to, and what one of them gets is lost
        #[arg(long, required = true)]
        i_have_destroyed_the_target: bool,
        /// Let the datasets of this host serve, whatever the cutover's leader says: the other host is the one that is destroyed
        #[arg(long)]
        here: bool,
    },
}

#[derive(Debug, Args)]
pub struct CutoverId {
    /// As `start` and `status` show it
    #[arg(value_name = "ID", value_parser = parse_cutover)]
    pub id: crate::cutover::leg::CutoverId,
}

#[derive(Debug, Args)]
pub struct CutoverStart {
    /// What moves
    #[arg(value_name = "SRC")]
    pub source: Place,
    /// Where to: the dataset that will serve
    #[arg(value_name = "DST")]
    pub target: Place,
    /// With all datasets below. What has some cannot move without them
    #[arg(short)]
    pub recursive: bool,
    /// Another pair of datasets that moves with it, as one: SRC=DST, by their names alone. May be given several times
    #[arg(long, value_name = "SRC=DST")]
    pub also: Vec<String>,
    /// Show what would be done, and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// The source is stopped once the downtime is predicted to be no longer; if it is longer after all, it is rolled back
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_time)]
    pub max_downtime: Duration,
    /// The longest outage before it is rolled back [default: --max-downtime; an hour with --verify content]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub outage_limit: Option<Duration>,
    /// Stop when all is ready, and replicate on until `zmigrate cutover go ID`
    #[arg(long)]
    pub hold: bool,
    /// What to do when the passes do not shrink any more
    #[arg(long, value_enum, default_value_t = NotConverging::Wait)]
    pub not_converging: NotConverging,
    /// What to do when the promoted target does not come up: stay there and ask, or move back
    #[arg(long, value_enum, default_value_t = OnActivateFailure::Hold)]
    pub on_activate_failure: OnActivateFailure,
    /// How both sides are compared before the target is promoted
    #[arg(long, value_enum, default_value_t = Verify::Digest)]
    pub verify: Verify,
    /// Replicate back once it is done, so that the way home is short
    #[arg(long)]
    pub reverse: bool,
    /// Stop and start this hook on both hosts; each declares it in its own configuration. May be given several times
    #[arg(long, value_name = "NAME")]
    pub hook: Vec<String>,
    /// A hook of the source's host alone
    #[arg(long, value_name = "NAME")]
    pub source_hook: Vec<String>,
    /// A hook of the target's host alone
    #[arg(long, value_name = "NAME")]
    pub target_hook: Vec<String>,
    /// End the processes that keep the source's mounts busy, instead of rolling back
    #[arg(long)]
    pub kill_busy: bool,
    /// How often one thing is tried before it is given up
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub tries: u8,
    /// Datasets in parallel
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,
    #[command(flatten)]
    pub transport: Transport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NotConverging {
    /// Ask
    Wait,
    /// Go on all the same, for up to ten times as long
    Go,
    /// Roll back; nothing was changed yet
    Abort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnActivateFailure {
    /// Stay there and ask
    Hold,
    /// Move back
    Return,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    /// By the GUIDs of the final snapshots
    Guid,
    /// And by the digests of the last streams
    Digest,
    /// And by every file and its attributes, or every block
    Content,
}

fn parse_cutover(s: &str) -> Result<crate::cutover::leg::CutoverId, String> {
    s.parse().map_err(|_| "write the id as `zmigrate cutover status` shows it".to_owned())
}

/// `5s`, `500ms`, `2m`, `1h`, or seconds.
fn parse_time(s: &str) -> Result<Duration, String> {
    let at = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    let unit_ms = match &s[at..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let ms = s[..at].parse::<u64>().ok().filter(|n| *n <= 1_000_000_000).map(|n| n * unit_ms);
    ms.filter(|ms| *ms > 0).map(Duration::from_millis).ok_or_else(|| "write 5s, 500ms, 2m or 1h".to_owned())
}
