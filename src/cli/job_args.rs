//! What can be typed about jobs.

use clap::{Args, Subcommand};

use crate::{jobs::span::Span, types::JobName};

#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// List the jobs of the configuration, when each runs next, and how the last run went
    List,
    /// Run a job now
    Run {
        /// The NAME of its [job.NAME]
        name: JobName,
        /// For cron and timers: print nothing if it goes well; do nothing outside its hours or while it is paused
        #[arg(long)]
        cron: bool,
        /// This once, if the target has snapshots or changes of its own, roll it back to the newest common snapshot. This
        /// destroys them
        #[arg(long, conflicts_with = "cron")]
        rollback: bool,
    },
    /// Start no more runs of a job until it is resumed; one that is at work goes on
    Pause {
        /// The NAME of its [job.NAME]
        name: JobName,
    },
    /// Start runs of a job again
    Resume {
        /// The NAME of its [job.NAME]
        name: JobName,
    },
}

#[derive(Debug, Args)]
pub struct Prune {
    /// The NAME of its [job.NAME]
    pub name: JobName,
    /// Explain for each snapshot which rule keeps or drops it, and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Of this job alone
    pub name: Option<JobName>,
    /// So many runs, the newest
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Draw it over again each second, on the whole screen, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

/// Say OK, WARNING or CRITICAL, as monitoring systems want it.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// This job alone [default: all that have a schedule]
    pub name: Option<JobName>,
    /// CRITICAL from this lag on; for a job of this host alone only if it is named [default: max_lag of the job]
    #[arg(long, value_name = "TIME")]
    pub max_lag: Option<Span>,
    /// WARNING from this lag on
    #[arg(long, value_name = "TIME")]
    pub warn_lag: Option<Span>,
}
