//! The points at which processes end, and which of them this run takes.
//!
//! `ZMIGRATE_EACH_PHASE=1` takes all. Else of each list the first ones, which are most likely to go wrong, and as many of the others, picked
//! by `ZMIGRATE_CRASH_SEED` (the day); seeds that follow each other go through all of them.

use std::time::{SystemTime, UNIX_EPOCH};

/// The leader's own records on the way forward, of any leg.
pub const LEAD: &[&str] = &[
    "lead:after:promote",
    "lead:after:verify",
    "lead:before:activate",
    "lead:after:quiesce",
    "lead:after:leg",
    "lead:after:arm",
    "lead:after:arm@2",
    "lead:before:quiesce",
    "lead:before:fence",
    "lead:after:fence",
    "lead:before:final",
    "lead:after:final",
    "lead:before:sync",
    "lead:after:sync",
    "lead:before:verify",
    "lead:before:promote",
    "lead:after:activate",
    "lead:before:release",
    "lead:after:release",
    "lead:before:done",
    "lead:after:done",
];
/// Of the first leg alone: a way home begins with catching up.
pub const CATCH_UP: &[&str] = &["lead:before:catch_up", "lead:after:catch_up"];
/// The records and actions of the host that is left.
pub const SOURCE: &[&str] = &[
    "host:after:fencing",
    "act:after:fence",
    "act:after:quiesce",
    "host:after:released",
    "host:before:admitted",
    "host:after:admitted",
    "act:before:prepare",
    "act:after:prepare",
    "host:before:quiescing",
    "host:after:quiescing",
    "act:before:quiesce",
    "act:before:readformer",
    "act:after:readformer",
    "host:before:fencing",
    "act:before:fence",
    "host:before:fenced",
    "host:after:fenced",
    "act:before:final",
    "act:after:final",
    "host:before:released",
];
/// The records and actions of the host that becomes writable.
pub const TARGET: &[&str] = &[
    "host:after:promoted",
    "host:before:promoted",
    "act:after:activate",
    "act:before:activate",
    "host:before:admitted",
    "host:after:admitted",
    "act:before:prepare",
    "act:after:prepare",
    "host:before:active",
    "host:after:active",
];

/// Of a rollback whose source was fenced.
pub const LEAD_UNFENCES: &[&str] = &[
    "lead:after:retract",
    "lead:after:unfence",
    "lead:before:retract",
    "lead:before:unfence",
    "lead:before:settle",
    "lead:after:settle",
    "lead:before:rolled_back",
    "lead:after:rolled_back",
];
pub const SOURCE_UNFENCES: &[&str] = &[
    "host:after:unfencing",
    "act:after:unfence",
    "host:before:unfencing",
    "act:before:unfence",
    "host:before:unfenced",
    "host:after:unfenced",
    "act:before:unquiesce",
    "act:after:unquiesce",
    "host:before:serving",
    "host:after:serving",
];
/// Of a rollback whose writers did not stop.
pub const LEAD_WITHDRAWS: &[&str] = &[
    "lead:after:withdraw",
    "lead:after:retract",
    "lead:before:withdraw",
    "lead:before:retract",
    "lead:before:settle",
    "lead:after:settle",
    "lead:before:rolled_back",
    "lead:after:rolled_back",
];
pub const SOURCE_WITHDRAWS: &[&str] = &[
    "host:after:withdrawing",
    "act:after:unquiesce",
    "host:before:withdrawing",
    "act:before:unquiesce",
    "host:before:serving",
    "host:after:serving",
];
/// Of either.
pub const TARGET_SETTLES: &[&str] = &[
    "host:after:aborted",
    "host:before:settled",
    "host:before:aborted",
    "act:before:settle",
    "act:after:settle",
    "host:after:settled",
];
/// Of a leg that is ended before a host took part in it.
pub const BARS: &[&str] = &["host:after:barred", "host:before:barred"];
/// Of what holds until a person says go.
pub const HOLDS: &[&str] = &[
    "lead:after:armed",
    "lead:after:armed@2",
    "lead:before:armed",
    "lead:before:armed@2",
    "lead:before:said",
    "lead:after:said",
];
/// Of a target that does not come up, and is left again by itself: the first leg's end, and all of the second.
pub const LEAD_RETURNS: &[&str] = &[
    "lead:after:release",
    "lead:after:promote@2",
    "lead:before:release",
    "host:before:released",
    "host:after:released",
    "lead:before:leg@2",
    "lead:after:leg@2",
    "lead:after:arm@3",
    "lead:after:quiesce@2",
    "lead:after:fence@2",
    "lead:after:sync@2",
    "lead:after:verify@2",
    "host:before:promoted",
    "host:after:promoted",
    "act:after:activate",
    "host:after:active",
    "lead:after:activate@2",
    "lead:after:release@2",
    "lead:after:done",
];
pub const DAEMON_RETURNS: &[&str] = &[
    "host:after:fencing",
    "act:before:activate",
    "act:after:activate",
    "host:after:admitted@2",
    "host:after:quiescing",
    "act:after:quiesce",
    "act:after:fence",
    "act:after:final",
    "host:after:released",
];
/// Of a source that is destroyed.
pub const LEAD_DISCARDS: &[&str] =
    &["lead:after:discard", "lead:before:completed", "lead:before:discard", "lead:after:completed"];
pub const SOURCE_DISCARDS: &[&str] = &[
    "act:after:destroy",
    "host:after:discarding",
    "host:before:discarding",
    "act:before:destroy",
    "host:before:discarded",
    "host:after:discarded",
];
/// Of a fence that a person breaks.
pub const LEAD_BREAKS: &[&str] = &["lead:after:break", "lead:before:broken", "lead:before:break", "lead:after:broken"];

/// Of each list `tried` points, all of them if that is asked for. Says which.
pub fn chosen(list: &str, points: &[&'static str], tried: usize) -> Vec<&'static str> {
    if std::env::var_os("ZMIGRATE_EACH_PHASE").is_some() {
        return points.to_vec();
    }
    let day = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 86400;
    let said = std::env::var("ZMIGRATE_CRASH_SEED").ok();
    let seed = said.map_or_else(day, |s| s.parse().expect("ZMIGRATE_CRASH_SEED is a number"));
    let chosen = rotated(points, tried, seed);
    eprintln!("crashes: ZMIGRATE_CRASH_SEED={seed}: {list}: {}", chosen.join(" "));
    chosen
}

fn rotated(points: &[&'static str], tried: usize, seed: u64) -> Vec<&'static str> {
    let (first, rest) = points.split_at((tried / 2).min(points.len()));
    let more = (tried - first.len()).min(rest.len());
    let at = |n: usize| (seed as usize % rest.len().max(1)).wrapping_mul(more).wrapping_add(n) % rest.len().max(1);
    first.iter().copied().chain((0..more).map(|n| rest[at(n)])).collect()
}
