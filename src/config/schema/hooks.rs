//! `[hook.NAME]`: what stops and starts the programs that write into what is moved.

use std::{path::PathBuf, str::FromStr, time::Duration};

use super::{
    super::{
        Place, Problem,
        document::{Entry, Value},
    },
    Reader,
};
use crate::{
    config::grants::table_header_text,
    hook::{Argv, BadHook, DEFAULT_TIMEOUT_S, DOCKER_SOCKET, Hook, HookKind, HookName, MAX_TIMEOUT_S},
};

/// The keys that say what a hook is. `stop` and `start` are one kind.
const KINDS: [&str; 5] = ["systemd", "docker", "stop", "start", "fsfreeze"];

/// A table that is being read.
pub(super) struct HookDraft {
    at: Place,
    /// The keys of [`KINDS`] that are there, also with a bad value.
    kinds: Vec<&'static str>,
    kind: Option<HookKind>,
    /// Where `docker_socket` is, and what it says.
    socket: Option<(Place, PathBuf)>,
    check: Option<Argv>,
    check_timeout: (Option<Place>, Duration),
    timeout: Duration,
    /// Something in it was told already.
    bad: bool,
}

impl HookDraft {
    pub(super) fn new(at: &Place) -> Self {
        let default = Duration::from_secs(DEFAULT_TIMEOUT_S);
        Self {
            at: at.clone(),
            kinds: Vec::new(),
            kind: None,
            socket: None,
            check: None,
            check_timeout: (None, default),
            timeout: default,
            bad: false,
        }
    }

    /// The hook that it is, or what is wrong with it as a whole. `None` where that was told already.
    fn finish(self, name: &HookName) -> Result<Option<Hook>, Problem> {
        let table = table_header_text("hook", name.as_str());
        let commands = |kind: &&str| matches!(*kind, "stop" | "start");
        let other = self.kinds.iter().find(|kind| !commands(kind));
        let second = self.kinds.iter().find(|kind| Some(*kind) != other && (other.is_some() || !commands(kind)));
        if let (Some(one), Some(two)) = (other, second) {
            let why = format!("{table} is of two kinds, {one} and {two}");
            return Err(Problem::new(&self.at, why).hint("make two hooks of it"));
        }
        if let Some((at, _)) = &self.socket
            && !self.kinds.contains(&"docker")
        {
            return Err(Problem::new(at, format!("{table} has a docker_socket and no docker")));
        }
        if let (Some(at), None, false) = (&self.check_timeout.0, &self.check, self.bad)
            // For these, systemd and Docker are asked, too.
            && !self.kinds.iter().any(|kind| matches!(*kind, "systemd" | "docker"))
        {
            return Err(Problem::new(at, format!("{table} has a check_timeout_s and no check")));
        }
        let (kind, bad) = (self.kind, self.bad);
        let Some(mut kind) = kind else {
            if bad {
                return Ok(None);
            }
            let why = format!("{table} stops and starts nothing");
            return Err(Problem::new(&self.at, why)
                .hint("give it systemd = \"UNIT\", docker = \"CONTAINER\", stop and start = [\"/COMMAND\"], or fsfreeze = \"/MOUNTPOINT\""));
        };
        if let (HookKind::Docker { socket, .. }, Some((_, path))) = (&mut kind, self.socket) {
            *socket = path;
        }
        let check_timeout = self.check_timeout.1;
        Ok(Some(Hook { kind, check: self.check, check_timeout, timeout: self.timeout }))
    }
}

impl Reader {
    pub(super) fn hook_table(&mut self, name: &str, at: &Place) -> bool {
        match name.parse::<HookName>() {
            Ok(name) => {
                self.hooks.insert(name, HookDraft::new(at));
                true
            }
            Err(e) => {
                self.problem(at, format!("the name of a hook {e}, not {name:?}"));
                false
            }
        }
    }

    /// Reads one key of a hook. False if there is no such key.
    pub(super) fn hook(&mut self, name: &str, key: &str, entry: &Entry) -> bool {
        let known = KINDS.into_iter().chain(["docker_socket", "check", "check_timeout_s", "timeout_s"]);
        let Some(key) = known.into_iter().find(|known| *known == key) else { return false };
        // A name that does not parse was reported with its table.
        let Ok(name) = name.parse::<HookName>() else { return true };
        let before = self.problems.len();
        let shown = format!("hook.{name}.{key}");
        // Taken out while its values are read, as those report problems.
        let Some(mut draft) = self.hooks.remove(&name) else { return true };
        if let Some(kind) = KINDS.into_iter().find(|kind| *kind == key) {
            draft.kinds.push(kind);
        }
        match key {
            "systemd" => {
                if let Some(unit) = self.parsed(entry, &shown) {
                    draft.kind = Some(HookKind::Systemd { unit });
                }
            }
            "docker" => {
                if let Some(container) = self.parsed(entry, &shown) {
                    draft.kind = Some(HookKind::Docker { container, socket: DOCKER_SOCKET.into() });
                }
            }
            "docker_socket" => {
                draft.socket = self.absolute(entry, &shown).map(|path| (entry.key_at.clone(), path));
            }
            "fsfreeze" => {
                if let Some(mountpoint) = self.absolute(entry, &shown) {
                    // As `mountinfo` writes it, which it is compared with.
                    let plain: PathBuf = mountpoint.components().collect();
                    if plain.as_os_str() == "/" || plain.components().any(|c| c.as_os_str() == "..") {
                        self.problem(
                            &entry.value_at,
                            format!("{shown} must be a mount point other than /, without .."),
                        );
                    }
                    draft.kind = Some(HookKind::Fsfreeze { mountpoint: plain });
                }
            }
            "check" => draft.check = self.argv(entry, &shown),
            "timeout_s" => draft.timeout = self.seconds(entry, &shown),
            "check_timeout_s" => draft.check_timeout = (Some(entry.key_at.clone()), self.seconds(entry, &shown)),
            _ => {
                let argv = self.argv(entry, &shown);
                let (mut stop, mut start) = match draft.kind.take() {
                    Some(HookKind::Commands { stop, start }) => (stop, start),
                    _ => (None, None),
                };
                *(if key == "stop" { &mut stop } else { &mut start }) = argv;
                draft.kind = Some(HookKind::Commands { stop, start });
            }
        }
        draft.bad |= self.problems.len() > before;
        self.hooks.insert(name, draft);
        true
    }

    pub(super) fn finish_hooks(&mut self) {
        for (name, draft) in std::mem::take(&mut self.hooks) {
            let reported =
                self.reported.iter().any(|path| path.len() > 2 && path[0] == "hook" && path[1] == name.as_str());
            match draft.finish(&name) {
                Ok(Some(hook)) => {
                    self.config.hooks.insert(name, hook);
                }
                Ok(None) => {}
                // What an unknown key was meant to say is not known.
                Err(_) if reported => {}
                Err(problem) => self.problems.push(problem),
            }
        }
    }

    fn parsed<T: FromStr<Err = BadHook>>(&mut self, entry: &Entry, key: &str) -> Option<T> {
        let text = self.text(entry, key)?;
        match text.parse() {
            Ok(it) => Some(it),
            Err(e) => {
                self.problem(&entry.value_at, format!("{key}: {text:?} {e}"));
                None
            }
        }
    }

    fn argv(&mut self, entry: &Entry, key: &str) -> Option<Argv> {
        let Value::List(items) = &entry.value else {
            let why = format!("{key} must be a list of words, not {}", entry.value.kind());
            self.problems.push(Problem::new(&entry.value_at, why).hint("write [\"/path/of/command\", \"argument\"]"));
            return None;
        };
        let mut words = Vec::new();
        for (item, at) in items {
            let Value::Text(word) = item else {
                self.problem(at, format!("{key} must hold strings, not {}", item.kind()));
                return None;
            };
            words.push(word.clone());
        }
        match Argv::new(words) {
            Ok(argv) => Some(argv),
            Err(e) => {
                self.problem(&entry.value_at, format!("{key} {e}"));
                None
            }
        }
    }

    fn seconds(&mut self, entry: &Entry, key: &str) -> Duration {
        let value = match &entry.value {
            Value::Integer(int) => u64::try_from(*int).ok().filter(|s| (1..=MAX_TIMEOUT_S).contains(s)),
            _ => None,
        };
        let Some(seconds) = value else {
            self.problem(
                &entry.value_at,
                format!("{key} must be 1 to {MAX_TIMEOUT_S}; the default is {DEFAULT_TIMEOUT_S}"),
            );
            return Duration::from_secs(DEFAULT_TIMEOUT_S);
        };
        Duration::from_secs(seconds)
    }
}
