//! A plan as `--dry-run` shows it: a line for each thing that would be done.

use std::fmt::Write;

use super::{Action, Decision, Plan, Step};
use crate::types::{human_bytes, transfer::Base};

/// A rollback's line names this many snapshots; the JSON form of a plan has them all.
const NAMED: usize = 8;

/// What the rendering adds to a plan.
#[derive(Clone, Copy)]
pub struct RenderOptions<'a> {
    /// Set before names of the source, for instance `dc2:`.
    pub source_prefix: &'a str,
    /// Set before names of the target.
    pub target_prefix: &'a str,
    /// The estimated size of a step in bytes, where it is known.
    pub size: &'a dyn Fn(&Step) -> Option<u64>,
}

impl Default for RenderOptions<'_> {
    fn default() -> Self {
        Self { source_prefix: "", target_prefix: "", size: &|_| None }
    }
}

impl Plan {
    /// The plan as text, each line ended.
    pub fn render(&self, options: &RenderOptions<'_>) -> String {
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = self.write(&mut text, options);
        text
    }

    fn write(&self, to: &mut String, options: &RenderOptions<'_>) -> std::fmt::Result {
        let RenderOptions { source_prefix: here, target_prefix: there, .. } = options;
        for placeholder in &self.placeholders {
            writeln!(to, "{there}{placeholder}  make a placeholder")?;
        }
        for dataset in &self.datasets {
            let (source, target) = (&dataset.source, &dataset.target);
            match &dataset.decision {
                Decision::UpToDate { newest, .. } => writeln!(to, "{here}{newest} → {there}{target}  up to date")?,
                Decision::Refused(refusal) => {
                    writeln!(to, "{here}{source} → {there}{target}  refused: {refusal}")?;
                    writeln!(to, "    hint: {}", refusal.hint())?;
                }
                Decision::Work(actions) => {
                    for action in actions {
                        match action {
                            Action::AbortPartial { reason } => {
                                writeln!(to, "{there}{target}  abort the interrupted receive: {reason}")?;
                            }
                            Action::ReplacePlaceholder { target } => {
                                writeln!(to, "{there}{target}  remove the empty placeholder")?;
                            }
                            Action::Rollback { to: snapshot, destroys, .. } => {
                                write!(to, "{there}{target}  roll back to @{}, which destroys ", snapshot.tag())?;
                                for name in destroys.iter().take(NAMED) {
                                    write!(to, "@{}, ", name.tag())?;
                                }
                                if let Some(more) = destroys.len().checked_sub(NAMED).filter(|more| *more > 0) {
                                    write!(to, "{more} more snapshots, ")?;
                                }
                                writeln!(
                                    to,
                                    "{}all that was written since",
                                    if destroys.is_empty() { "" } else { "and " }
                                )?;
                            }
                            Action::Step(step) => write_step(to, step, options)?,
                        }
                    }
                }
            }
            for note in &dataset.notes {
                writeln!(to, "    note: {source} {note}")?;
            }
        }
        for note in &self.notes {
            writeln!(to, "note: {note}")?;
        }
        if self.only_on_target > 0 {
            writeln!(to, "note: {} dataset(s) only on the target are left alone", self.only_on_target)?;
        }
        Ok(())
    }
}

fn write_step(to: &mut String, step: &Step, options: &RenderOptions<'_>) -> std::fmt::Result {
    write!(to, "{}{} → {}{}  ", options.source_prefix, step.snapshot, options.target_prefix, step.target)?;
    match &step.from {
        None => write!(to, "full")?,
        Some(from) => match (&from.base, &step.origin) {
            (Base::Snapshot(base), Some(_)) => write!(to, "clone of {base}")?,
            (Base::Snapshot(base), None) => write!(to, "incremental from @{}", base.tag())?,
            (Base::Bookmark(base), _) => write!(to, "incremental from #{}", base.tag())?,
        },
    }
    if step.flags.raw {
        write!(to, ", raw")?;
    }
    if let Some((_, token)) = &step.resume {
        write!(to, ", resumed after {}", human_bytes(token.bytes))?;
    }
    if let Some(bytes) = (options.size)(step) {
        write!(to, "  {}", human_bytes(bytes))?;
    }
    writeln!(to)
}
