//! Commands of a kind that would run side by side are made one.
//!
//! Each command costs a process, and most of them wait until the pool has written; fifty datasets that are received at the same
//! time ask the same of each. So while a command of a kind runs, what else is asked of that kind gathers, and is asked for by one
//! command as soon as it has ended. Whoever is alone waits for nobody.
//!
//! What waits for the pool waits once for each name, so a large group is shared out to some commands that wait together.
//!
//! Invariant: each asker is told what became of its own names, as if it had asked alone. Where a command for several fails in a way
//! that does not say for which, it is taken apart. Every operation of the port may be repeated, so nothing is done twice.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    future::join_all,
    stream::{self, StreamExt},
};
use tokio::sync::oneshot;

use super::{
    ZfsCommand, args, argument_lists,
    listing::ignoring,
    mounts::{COMMANDS_AT_ONCE, shares},
    parse::{self, Values},
    run::error,
};
use crate::port::zfs::{ZfsErrorKind::*, ZfsResult};

/// What may be made one: the same of names in one pool, as a pool that hangs must not keep others waiting.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// These properties of datasets, snapshots or bookmarks.
    Get { pool: String, properties: Vec<String> },
    /// A hold of that tag on snapshots.
    Hold { pool: String, tag: String },
    /// Away with it.
    Release { pool: String, tag: String },
    /// These properties on datasets, in order.
    Set { pool: String, properties: Vec<(String, String)> },
}

/// The pool in a name.
pub(super) fn pool_of(name: &str) -> String {
    name.split(['/', '@', '#']).next().unwrap_or_default().to_owned()
}

/// What was asked for of those that are there; nothing of what was done.
type Told = ZfsResult<Vec<Values>>;

#[derive(Debug)]
struct Asker {
    names: Vec<String>,
    tell: oneshot::Sender<Told>,
}

/// Who waits for the end of a command of a kind; a kind of which none runs is not in it.
#[derive(Debug, Default)]
pub(super) struct Together(Mutex<HashMap<Kind, Vec<Asker>>>);

impl Together {
    fn kinds(&self) -> MutexGuard<'_, HashMap<Kind, Vec<Asker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins those that wait; true if nobody runs a command of that kind, and whoever asks has to.
    fn join(&self, kind: &Kind, asker: Asker) -> bool {
        let mut kinds = self.kinds();
        let is_first = !kinds.contains_key(kind);
        kinds.entry(kind.clone()).or_default().push(asker);
        is_first
    }

    /// Those that wait, or the end of the work on that kind.
    fn next(&self, kind: &Kind) -> Option<Vec<Asker>> {
        let mut kinds = self.kinds();
        let waiting = kinds.get_mut(kind).map(mem::take).unwrap_or_default();
        if waiting.is_empty() {
            kinds.remove(kind);
            return None;
        }
        Some(waiting)
    }
}

/// Lets those go that wait for a command that ended unexpectedly.
struct Turn<'a>(&'a Together, &'a Kind);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.kinds().remove(self.1);
    }
}

impl ZfsCommand {
    /// These properties of each of these names that is there.
    pub(super) async fn look_at(&self, properties: &[&str], names: Vec<String>) -> Told {
        let properties: Vec<String> = properties.iter().map(|name| (*name).to_owned()).collect();
        let mut found = Vec::new();
        for names in names.chunk_by(|a, b| pool_of(a) == pool_of(b)) {
            let kind = Kind::Get { pool: pool_of(&names[0]), properties: properties.clone() };
            found.extend(self.together(kind, names.to_vec()).await?);
        }
        Ok(found)
    }

    /// Does it for these names, which are checked, together with whoever asks for the same.
    pub(super) async fn together(&self, kind: Kind, names: Vec<String>) -> Told {
        let (tell, told) = oneshot::channel();
        if self.together.join(&kind, Asker { names, tell }) {
            let this = self.clone();
            // Of its own, as whoever is first may be gone before the others are served.
            tokio::spawn(async move {
                let turn = Turn(&this.together, &kind);
                while let Some(askers) = this.together.next(&kind) {
                    this.serve(&kind, askers).await;
                }
                // By now somebody else may be first.
                mem::forget(turn);
            });
        }
        told.await.unwrap_or_else(|_| Err(error("run zfs", Other, "its task ended unexpectedly")))
    }

    async fn serve(&self, kind: &Kind, mut askers: Vec<Asker>) {
        askers.retain(|asker| !asker.tell.is_closed());
        if askers.len() > 1 {
            let all: BTreeSet<&String> = askers.iter().flat_map(|asker| &asker.names).collect();
            let all: Vec<String> = all.into_iter().cloned().collect();
            let told = tokio::select! {
                told = self.do_all(kind, &all) => told,
                () = all_gone(&mut askers) => return,
            };
            if let Ok(values) = told {
                for Asker { names, tell } in askers {
                    let of = values.iter().filter(|v| names.contains(&v.name)).cloned().collect();
                    let _ = tell.send(Ok(of));
                }
                return;
            }
        }
        // Alone, or taken apart.
        let each = askers.into_iter().map(|Asker { names, mut tell }| async move {
            let told = tokio::select! {
                told = self.do_one(kind, &names) => told,
                // Its asker's own command would end as well.
                () = tell.closed() => return,
            };
            let _ = tell.send(told);
        });
        stream::iter(each).buffer_unordered(COMMANDS_AT_ONCE).collect::<()>().await;
    }

    /// For several askers: what waits for the pool by some commands side by side.
    async fn do_all(&self, kind: &Kind, names: &[String]) -> Told {
        if let Kind::Get { .. } = kind {
            return self.do_one(kind, names).await;
        }
        let all = join_all(shares(names).map(|share| self.do_one(kind, share))).await;
        all.into_iter().collect::<ZfsResult<Vec<_>>>().map(|all| all.concat())
    }

    /// By one command, for each thing that is changed.
    async fn do_one(&self, kind: &Kind, names: &[String]) -> Told {
        match kind {
            Kind::Get { properties, .. } => return self.values_of(properties, names).await,
            Kind::Hold { tag, .. } => self.each("hold", tag, names, &["tag already exists on this dataset"]).await?,
            Kind::Release { tag, .. } => {
                self.each("release", tag, names, &["no such tag on this dataset", "does not exist"]).await?;
            }
            Kind::Set { properties, .. } => {
                // One command each: `zfs set` with several does not promise an order.
                for (name, value) in properties {
                    let operation = match names {
                        [one] => format!("set {name} of {one}"),
                        _ => format!("set {name} of {} datasets", names.len()),
                    };
                    let assignment = args::assignment(name, value).map_err(|why| error(&operation, Other, why))?;
                    for list in argument_lists(names) {
                        let words = ["set", &assignment].into_iter().chain(list.iter().map(String::as_str));
                        self.zfs(&operation, words).await?.ok(&operation)?;
                    }
                }
            }
        }
        Ok(Vec::new())
    }

    /// These properties of each of these that is there.
    async fn values_of(&self, properties: &[String], names: &[String]) -> Told {
        let operation = match names {
            [one] => format!("look at {one}"),
            _ => format!("look at {} names", names.len()),
        };
        let properties: Vec<&str> = properties.iter().map(String::as_str).collect();
        let mut found = Vec::new();
        let mut lists = argument_lists(names);
        while let Some(list) = lists.pop() {
            let words: Vec<&str> = list.iter().map(String::as_str).collect();
            let out = self.get_known(&operation, &["get", "-Hp"], &properties, &words).await?;
            if out.is_cut() && list.len() > 1 {
                lists.extend(<[_; 2]>::from(list.split_at(list.len() / 2)));
                continue;
            }
            let out = ignoring(&[NotFound], out, &operation)?;
            found.extend(parse::values(&out.stdout).map_err(|e| error(&operation, Unparsable, e))?);
        }
        // Where none of them is known to this ZFS, it was asked for another, to see who is there.
        found.iter_mut().for_each(|v| v.properties.retain(|p| properties.contains(&p.name.as_str())));
        Ok(found)
    }
}

/// Until nobody waits any more.
async fn all_gone(askers: &mut [Asker]) {
    join_all(askers.iter_mut().map(|asker| asker.tell.closed())).await;
}

#[cfg(test)]
#[path = "together_tests.rs"]
mod tests;
