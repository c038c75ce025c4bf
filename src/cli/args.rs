//! What can be typed. The help texts here are the reference that a person reads first.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::job_args::{CheckArgs, HistoryArgs, JobCommand, Prune, StatusArgs};
use crate::{
    plan::ExcludePattern,
    types::{
        ByteSize, DatasetName, Endpoint, JobId, PeerAddress, PeerName, RemoteDataset, SnapshotName, SnapshotTag,
        transfer::Streams,
    },
    wire::message::Compression,
};

/// Replicate ZFS datasets between hosts over mutual TLS.
#[derive(Debug, Parser)]
#[command(name = "zmigrate", version, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, or nothing to do · 2 usage or configuration · 3 refused, a person must decide · \
4 not authenticated or not granted · 5 peer unreachable or link lost · 6 zfs failed or stream damaged · \
7 some datasets failed, the rest done · 8 a cutover was rolled back, the source serves · 9 a cutover waits for a person · \
75 another run holds the target"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Global {
    /// Configuration file [default: /etc/zmigrate/zmigrate.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory with ca.pem, node.pem, node.key and crl.pem, instead of the configured one
    #[arg(long, global = true, value_name = "DIR")]
    pub identity_dir: Option<PathBuf>,
    /// What stdout carries
    #[arg(long, global = true, value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
    /// Say more on stderr; twice for every detail
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Sentences
    Text,
    /// One JSON object
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// A bar on a terminal, else plain
    Auto,
    /// A line that is drawn over
    Bar,
    /// A line now and then
    Plain,
    /// A JSON object a second
    Json,
    /// Nothing
    None,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send a dataset of this host to a peer
    Push(Push),
    /// Fetch a dataset of a peer to this host
    Pull(Pull),
    /// Move a dataset to a peer, or from it, for good: seconds of downtime, and never two writable sides
    #[command(subcommand)]
    Cutover(super::cutover_args::CutoverCommand),
    /// Compare a dataset with its copy at a peer, or here
    Verify(super::verify::Verify),
    /// Measure how fast data get to a peer, and what holds them back
    Probe(Probe),
    /// Look into send streams and resume tokens
    #[command(subcommand)]
    Stream(StreamCommand),
    /// Keep the fleet's certificate authority
    #[command(subcommand)]
    Ca(CaCommand),
    /// Make this host a node of a fleet: with a token of its authority, and a key that is made here and stays here
    Join(Join),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Find out what is wrong on this host, and on the way to a peer; says what to do about each thing
    #[command(after_help = "Exit codes: 0 all is well · 1 warnings only · else that of the first check that failed: \
2 configuration, clock or directories · 4 identity or grants · 5 the way to the peer · 6 ZFS, pools or permissions")]
    Doctor {
        /// Also look at this peer: a name in the configuration, a host, or zm://host:port
        #[arg(value_name = "PEER", value_parser = parse_peer)]
        peer: Option<PeerAddress>,
    },
    /// See what zmigrate left in the ZFS of this host, and let go of it
    #[command(subcommand)]
    State(StateCommand),
    /// Run, pause and list the jobs of the configuration
    #[command(subcommand)]
    Job(JobCommand),
    /// Destroy the snapshots that a job's rules no longer keep, here and at the peer; -n explains
    Prune(Prune),
    /// Show the runs of jobs
    History(HistoryArgs),
    /// Show how far each job is, and how it went
    Status(StatusArgs),
    /// Check the lag of jobs, for a monitoring system
    #[command(after_help = "Exit codes: 0 OK · 1 WARNING · 2 CRITICAL · 3 UNKNOWN, as monitoring plugins use them")]
    Check(CheckArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages
    #[command(hide = true)]
    Man {
        /// Where to
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Join {
    /// What `zmigrate ca token` printed; - reads it from stdin, where `ps` does not show it
    #[arg(value_name = "TOKEN")]
    pub token: String,
    /// Put the new identity in the place of the one that is there
    #[arg(long)]
    pub replace: bool,
}

#[derive(Debug, Args)]
pub struct Push {
    /// What to send: a dataset, or one of its snapshots to go no further than
    #[arg(value_name = "DATASET[@SNAP]")]
    pub source: LocalDataset,
    /// Where to: the dataset that will exist. PEER is a name in the configuration or a host;
    /// zm://host:port/DATASET also names a port
    #[arg(value_name = "PEER:DATASET")]
    pub target: RemoteDataset,
    #[command(flatten)]
    pub options: Replicate,
}

#[derive(Debug, Args)]
pub struct Pull {
    /// What to fetch: a dataset of a peer, or one of its snapshots to go no further than
    #[arg(value_name = "PEER:DATASET[@SNAP]")]
    pub source: RemoteDataset,
    /// Where to: the dataset that will exist here
    #[arg(value_name = "DATASET")]
    pub target: DatasetName,
    #[command(flatten)]
    pub options: Replicate,
}

#[derive(Debug, Args)]
pub struct Replicate {
    /// All datasets below as well
    #[arg(short)]
    pub recursive: bool,
    /// Show what would be done, with sizes, and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Send every snapshot, oldest first (the default)
    #[arg(short = 'I', conflicts_with = "newest")]
    pub all: bool,
    /// Send only the newest snapshot
    #[arg(short = 'i')]
    pub newest: bool,
    /// With -r: leave out what matches, and all below it. A glob on the name below the root, such as scratch or */cache.
    /// May be given several times
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<ExcludePattern>,
    /// Take a snapshot first, atomic over the whole tree; named by the time unless a name is given
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true)]
    pub snapshot: Option<Option<SnapshotTag>>,
    /// Datasets in parallel
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,
    #[command(flatten)]
    pub transport: Transport,
    /// If the target has snapshots or changes of its own, roll it back to the newest common snapshot. This destroys them
    #[arg(long)]
    pub rollback: bool,
    /// Send encrypted datasets raw, as they are on disk (the default for them)
    #[arg(long, conflicts_with = "no_raw")]
    pub raw: bool,
    /// Send the plain text of encrypted datasets; the target then has it in plain text, or under a key of its own
    #[arg(long)]
    pub no_raw: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbeData {
    /// Bytes that do not compress
    Random,
    /// Rows of words and numbers, which shrink to about a third
    Text,
}

/// Sends bytes the whole way that a transfer takes: parsed, checked, compressed, encrypted, and judged again by the peer,
/// which throws them away. Needs no dataset, and any grant at the peer.
#[derive(Debug, Args)]
pub struct Probe {
    /// Where to: a name in the configuration, a host, or zm://host:port
    #[arg(value_name = "PEER")]
    pub peer: PeerAddress,
    /// Send this file: a send stream as it is, anything else inside one; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bytes", "data"])]
    pub input: Option<PathBuf>,
    /// How much to make up and send
    #[arg(long, value_name = "N", default_value = "256M")]
    pub bytes: ByteSize,
    /// What to make up
    #[arg(long, value_enum, default_value_t = ProbeData::Random)]
    pub data: ProbeData,
    #[command(flatten)]
    pub transport: Transport,
}

/// How data travel.
#[derive(Debug, Args)]
pub struct Transport {
    /// Bytes per second on the wire, all transfers together, such as 100M
    #[arg(long, value_name = "RATE")]
    pub bwlimit: Option<ByteSize>,
    /// auto decides chunk by chunk; zstd:N is always that level (-7 to 19) where a chunk shrinks; none
    #[arg(long, default_value = "auto", value_name = "auto|zstd[:N]|none")]
    pub compress: Compression,
    /// Connections for each transfer; auto is one, and a second for one that turns out to be large
    #[arg(long, default_value = "auto", value_name = "auto|N")]
    pub streams: Streams,
    /// How progress is shown on stderr
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto)]
    pub progress: ProgressMode,
}

#[derive(Debug, Subcommand)]
pub enum StreamCommand {
    /// Say what a send stream holds, and whether it is whole
    Inspect {
        /// The stream; - is stdin
        file: PathBuf,
    },
    /// Say what a resume token holds
    Token {
        /// The value of receive_resume_token
        token: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make a new certificate authority
    Init {
        #[command(flatten)]
        ca: CaDir,
        /// Validity in days
        #[arg(long, default_value_t = 3650)]
        days: u32,
    },
    /// Issue a node's certificate, and write all that the node needs into a directory
    Issue {
        /// The node's name
        name: PeerName,
        #[command(flatten)]
        ca: CaDir,
        /// Where ca.pem, node.pem, node.key and crl.pem go
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Validity in days
        #[arg(long, default_value_t = 365)]
        days: u32,
        /// Keep the key that is there and renew its certificate
        #[arg(long, conflicts_with = "replace")]
        renew: bool,
        /// Replace key and certificate that are there
        #[arg(long)]
        replace: bool,
    },
    /// Revoke all certificates of a node
    Revoke {
        /// The node's name
        name: PeerName,
        #[command(flatten)]
        ca: CaDir,
    },
    /// Print a token with which one new node can join the fleet, once: `zmigrate join TOKEN`
    Token {
        /// The node's name
        name: PeerName,
        #[command(flatten)]
        ca: CaDir,
        /// Where the new node finds the authority [default: this host's name, and the port that zmigrated listens on]
        #[arg(long, value_name = "HOST:PORT")]
        address: Option<Endpoint>,
        /// Answer the node here, where no zmigrated with [ca] runs, and end when it has joined
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<SocketAddr>,
        /// Validity of the node's certificate in days
        #[arg(long, default_value_t = 365)]
        days: u32,
        /// How many seconds the token is good for, at most 600
        #[arg(long, default_value_t = 600, value_name = "SECONDS")]
        ttl: u64,
        /// Let a node join again that holds a valid certificate; that one stays valid
        #[arg(long)]
        renew: bool,
    },
    /// List what was issued
    List {
        #[command(flatten)]
        ca: CaDir,
    },
}

#[derive(Debug, Args)]
pub struct CaDir {
    /// The authority's directory
    #[arg(long, value_name = "CA")]
    pub dir: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration and what it names on this host
    Check,
}

/// Answer zmigrate's peers: receive into, and send from, what they are granted.
#[derive(Debug, Parser)]
#[command(name = "zmigrated", version, max_term_width = 100)]
#[command(
    after_help = "SIGHUP reads grants, hooks, jobs, [ca], certificates and revocations again; changed certificates and revocations are \
noticed without it. SIGTERM lets running transfers go on \
for a minute, then saves their state and ends."
)]
pub struct Daemon {
    /// Configuration file [default: /etc/zmigrate/zmigrate.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory with ca.pem, node.pem, node.key and crl.pem, instead of the configured one
    #[arg(long, value_name = "DIR")]
    pub identity_dir: Option<PathBuf>,
    /// Say more on stderr
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Log JSON objects
    #[arg(long)]
    pub log_json: bool,
}

/// `DATASET` or `DATASET@SNAP` on this host.
#[derive(Clone, Debug)]
pub struct LocalDataset {
    pub dataset: DatasetName,
    pub upto: Option<SnapshotTag>,
}

impl std::str::FromStr for LocalDataset {
    type Err = crate::types::NameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.contains('@') {
            let snapshot: SnapshotName = s.parse()?;
            return Ok(Self { dataset: snapshot.dataset(), upto: Some(snapshot.tag()) });
        }
        Ok(Self { dataset: s.parse()?, upto: None })
    }
}

#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// List bookmarks, holds, properties and interrupted receives that zmigrate left on this host
    #[command(
        after_help = "STATE: base, the next run starts from it · stale, a newer one of the same job was acknowledged \
· in use, a run is at work, or stopped before its step was acknowledged · unclear, it cannot be told which is the base \
· mark, says what the dataset is; zmigrate:fence and zmigrate:serving, which a cutover set, cannot be let go · waits, data of an interrupted receive. The other host of a job has a list of its own."
    )]
    List {
        /// This dataset and all below it [default: all pools]
        #[arg(value_name = "DATASET")]
        dataset: Option<DatasetName>,
    },
    /// Show what would be let go, and what that means; --yes does it
    Release(ReleaseArgs),
}

#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// One thing by its name (`name` in the JSON of the list): a bookmark, a snapshot whose holds go, a dataset whose
    /// zmigrate properties go, or DATASET/%recv for an interrupted receive. With --job or --stale: a dataset, and all
    /// below it
    #[arg(value_name = "NAME|DATASET")]
    pub name: Option<String>,
    /// All of this job: bookmarks, holds, and the properties that name it
    #[arg(long, value_name = "JOB")]
    pub job: Option<JobId>,
    /// Only what a newer one of the same job has superseded; never a base
    #[arg(long)]
    pub stale: bool,
    /// Do it
    #[arg(long)]
    pub yes: bool,
    /// Only show it, even with --yes (the default without)
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// `NAME` or `zm://host[:port]`.
fn parse_peer(s: &str) -> Result<PeerAddress, String> {
    match s.strip_prefix("zm://") {
        Some(at) => at.trim_end_matches('/').parse().map(PeerAddress::Direct).map_err(|e| format!("{e}")),
        None => s.parse().map(PeerAddress::Name).map_err(|e| format!("{e}")),
    }
}
