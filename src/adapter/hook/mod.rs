//! Runs the hooks that the configuration declares.
//!
//! Invariant: a call ends within its hook's limits (and some seconds in which what hangs is ended), and stop and start are
//! believed only when what they act on says so itself: systemd, the Docker Engine, or the exit status of the operator's command.

mod command;
mod docker;
mod systemd;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::{Instant, sleep_until};

use self::{
    command::{Ended, Spot},
    docker::Engine,
};
use crate::{
    hook::{Argv, Hook, HookKind, environment, frozen_already, not_frozen},
    port::hook::{HookCall, HookError, HookErrorKind, HookName, HookOutput, HookVerb, Hooks},
    types::mounts,
};

/// How often a check is repeated.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The programs that hooks are run with, and what must never be frozen.
#[derive(Clone, Debug)]
pub struct HookTools {
    /// `systemctl`.
    pub systemctl: PathBuf,
    /// `fsfreeze`.
    pub fsfreeze: PathBuf,
    /// No filesystem that holds one of these is frozen: zmigrate could not write its journal any more, and would hang.
    pub never_frozen: Vec<PathBuf>,
}

impl HookTools {
    /// Those of the system; `state_dir` is where zmigrate's journals are.
    pub fn of_the_system(state_dir: &Path) -> Self {
        let here = ["/", "/usr", "/var", "/var/log", "/run", "/tmp"].map(PathBuf::from);
        Self {
            systemctl: "systemctl".into(),
            fsfreeze: "fsfreeze".into(),
            never_frozen: here.into_iter().chain([state_dir.to_owned()]).collect(),
        }
    }
}

/// The hooks of this host.
#[derive(Debug)]
pub struct HostHooks {
    declared: BTreeMap<HookName, Hook>,
    tools: HookTools,
}

/// Why a call failed, before it is known which call it was.
#[derive(Debug)]
struct Trouble {
    kind: HookErrorKind,
    cause: String,
    lines: Vec<String>,
}

impl Trouble {
    fn failed(cause: impl ToString) -> Self {
        Self { kind: HookErrorKind::Failed, cause: cause.to_string(), lines: Vec::new() }
    }

    fn missing(cause: impl ToString) -> Self {
        Self { kind: HookErrorKind::Missing, cause: cause.to_string(), lines: Vec::new() }
    }

    fn timed_out(cause: impl ToString) -> Self {
        Self { kind: HookErrorKind::TimedOut, cause: cause.to_string(), lines: Vec::new() }
    }
}

/// What was said, or why it failed.
type Outcome = Result<Vec<String>, Trouble>;

/// One call on its way.
struct Work<'a> {
    hook: &'a Hook,
    tools: &'a HookTools,
    spot: Spot<'a>,
    environment: Vec<(&'static str, String)>,
    /// When it has to be done.
    until: Instant,
}

impl HostHooks {
    /// The hooks of a configuration.
    pub fn new(declared: BTreeMap<HookName, Hook>, tools: HookTools) -> Self {
        Self { declared, tools }
    }
}

#[async_trait]
impl Hooks for HostHooks {
    fn declared(&self, name: &HookName) -> bool {
        self.declared.contains_key(name)
    }

    // systemd starts a unit after a stop that is under way. Docker says of a container which is still up that it is started.
    fn stops_elsewhere(&self, name: &str) -> bool {
        let hook = name.parse::<HookName>().ok().and_then(|name| self.declared.get(&name));
        hook.is_some_and(|hook| matches!(hook.kind, HookKind::Docker { .. }))
    }

    fn may_unmount(&self, name: &str) -> bool {
        let hook = name.parse::<HookName>().ok().and_then(|name| self.declared.get(&name));
        hook.is_some_and(|hook| matches!(hook.kind, HookKind::Commands { .. } | HookKind::Systemd { .. }))
    }

    async fn call(&self, call: &HookCall) -> Result<HookOutput, HookError> {
        let error = |trouble: Trouble| {
            let output = HookOutput { lines: trouble.lines };
            HookError { name: call.name.clone(), verb: call.verb, kind: trouble.kind, cause: trouble.cause, output }
        };
        let Some(hook) = self.declared.get(&call.name) else {
            let cause =
                format!("the configuration of this host has no [hook.{}]; declare it, or leave it out", call.name);
            return Err(error(Trouble { kind: HookErrorKind::Undeclared, cause, lines: Vec::new() }));
        };
        let environment = environment(call).map_err(|e| error(Trouble::failed(e)))?;
        let limit = if call.verb == HookVerb::Check { hook.check_timeout } else { hook.timeout };
        let spot = Spot { hook: call.name.as_str(), verb: call.verb };
        let work = Work { hook, tools: &self.tools, spot, environment, until: Instant::now() + limit };
        tracing::info!(hook = call.name.as_str(), verb = %call.verb, subject = hook.kind.subject(), "hook begins");
        let outcome = match call.verb {
            HookVerb::Prepare => work.prepare().await,
            HookVerb::Stop => work.stop().await,
            HookVerb::Start => work.start().await,
            HookVerb::Check => work.check().await,
        };
        match outcome {
            Ok(lines) => {
                tracing::info!(hook = call.name.as_str(), verb = %call.verb, "hook is done");
                Ok(HookOutput { lines })
            }
            Err(trouble) => {
                let error = error(trouble);
                tracing::warn!("{error}");
                Err(error)
            }
        }
    }
}

impl Work<'_> {
    async fn prepare(&self) -> Outcome {
        for (key, argv) in self.hook.commands() {
            executable(Path::new(argv.program())).map_err(|why| Trouble::missing(format!("{key}: {why}")))?;
        }
        match &self.hook.kind {
            HookKind::Systemd { unit } => self.unit_is_loaded(unit).await,
            HookKind::Docker { container, socket } => {
                let state = Engine::new(socket, self.until).inspect(container).await;
                state.map(|_| Vec::new()).map_err(|e| if e.timed_out { e.trouble() } else { Trouble::missing(e.cause) })
            }
            HookKind::Commands { .. } => Ok(Vec::new()),
            HookKind::Fsfreeze { mountpoint } => {
                may_be_frozen(mountpoint, &self.tools.never_frozen).map(|()| Vec::new()).map_err(Trouble::missing)
            }
        }
    }

    async fn stop(&self) -> Outcome {
        match &self.hook.kind {
            HookKind::Systemd { unit } => self.stop_unit(unit).await,
            HookKind::Docker { container, socket } => self.stop_container(container, socket).await,
            HookKind::Commands { stop, .. } => self.command(stop.as_ref()).await,
            HookKind::Fsfreeze { mountpoint } => {
                may_be_frozen(mountpoint, &self.tools.never_frozen).map_err(Trouble::failed)?;
                self.freeze("-f", mountpoint, frozen_already).await
            }
        }
    }

    async fn start(&self) -> Outcome {
        match &self.hook.kind {
            HookKind::Systemd { unit } => self.start_unit(unit).await,
            HookKind::Docker { container, socket } => self.start_container(container, socket).await,
            HookKind::Commands { start, .. } => self.command(start.as_ref()).await,
            HookKind::Fsfreeze { mountpoint } => self.freeze("-u", mountpoint, not_frozen).await,
        }
    }

    /// First what systemd or Docker says of it, then the operator's command, until it succeeds.
    async fn check(&self) -> Outcome {
        let mut said = match &self.hook.kind {
            HookKind::Systemd { unit } => self.unit_is_active(unit).await?,
            HookKind::Docker { container, socket } => self.container_is_well(container, socket).await?,
            HookKind::Commands { .. } | HookKind::Fsfreeze { .. } => Vec::new(),
        };
        let Some(check) = &self.hook.check else { return Ok(said) };
        let mut before = None;
        loop {
            let began = Instant::now();
            match self.command(Some(check)).await {
                Ok(lines) => {
                    said.extend(lines);
                    return Ok(said);
                }
                // What cannot be run now will not be run in a second.
                Err(trouble) if trouble.kind == HookErrorKind::Missing => return Err(trouble),
                Err(trouble) if began + CHECK_EVERY >= self.until || trouble.kind == HookErrorKind::TimedOut => {
                    let seconds = self.hook.check_timeout.as_secs();
                    let mut cause =
                        format!("the check did not succeed within {seconds} s; the last time: {}", trouble.cause);
                    // The limit came in the middle of this one: the one before may say more.
                    if let Some(said) = before.filter(|_| trouble.kind == HookErrorKind::TimedOut) {
                        cause.push_str(&format!("; the time before: {said}"));
                    }
                    return Err(Trouble { kind: HookErrorKind::TimedOut, cause, lines: trouble.lines });
                }
                Err(trouble) => {
                    before = Some(trouble.cause);
                    sleep_until(began + CHECK_EVERY).await;
                }
            }
        }
    }

    async fn command(&self, argv: Option<&Argv>) -> Outcome {
        let Some(argv) = argv else { return Ok(Vec::new()) };
        self.run(Path::new(argv.program()), argv.args()).await?.successful()
    }

    async fn freeze(&self, flag: &str, mountpoint: &Path, already: fn(&[String]) -> bool) -> Outcome {
        let args = [flag.to_owned(), mountpoint.display().to_string()];
        let ended = self.run(&self.tools.fsfreeze, &args).await?;
        if already(&ended.lines) { Ok(ended.lines) } else { ended.successful() }
    }

    /// Runs a program to its end, with the environment of this call.
    async fn run(&self, program: &Path, args: &[String]) -> Result<Ended, Trouble> {
        command::run(self.spot, program, args, &self.environment, self.until).await
    }
}

/// # Errors
/// What is wrong with the path, and what to do.
fn executable(path: &Path) -> Result<(), String> {
    let meta = fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Err(format!("{} cannot be run; chmod +x it, or name the right file", path.display()));
    }
    Ok(())
}

/// # Errors
/// Why the filesystem at this place cannot or must not be frozen.
fn may_be_frozen(mountpoint: &Path, never_frozen: &[PathBuf]) -> Result<(), String> {
    let shown = mountpoint.display();
    let text = fs::read("/proc/self/mountinfo").map_err(|e| format!("/proc/self/mountinfo: {e}"))?;
    // The last one at a place is the one that is seen there.
    let mounts = mounts::parse(&text);
    let Some(mount) = mounts.iter().rfind(|mount| mount.at == mountpoint) else {
        return Err(format!("nothing is mounted at {shown}; mount the filesystem there, or correct fsfreeze"));
    };
    if mount.kind == "zfs" {
        return Err(format!("{shown} is a ZFS filesystem, which cannot be frozen; stop what writes into it instead"));
    }
    for path in never_frozen {
        let Ok(meta) = fs::metadata(path) else { continue };
        let device = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
        if device == mount.device {
            return Err(format!("{shown} also holds {}: zmigrate itself would hang if it were frozen", path.display()));
        }
    }
    Ok(())
}
