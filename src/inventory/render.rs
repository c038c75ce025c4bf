//! The list as a table that fits into 80 columns as long as names are of usual length.

use std::fmt::Write;

use super::{Item, Kind, Standing};
use crate::types::human_bytes;

/// Longer snapshot names are cut in the middle: a time at the end is what tells them apart.
const SNAPSHOT_WIDTH: usize = 34;

/// The items under their datasets, `now` being seconds since 1970.
pub fn table(items: &[Item], now_unix_s: u64) -> String {
    let mut text = String::new();
    // Writing into a String does not fail.
    let _ = write_table(&mut text, items, now_unix_s);
    text
}

fn write_table(to: &mut String, items: &[Item], now: u64) -> std::fmt::Result {
    let rows: Vec<[String; 5]> = items.iter().map(|item| row(item, now)).collect();
    let header = ["WHAT", "SNAPSHOT", "JOB", "AGE", "STATE"];
    let width = |i: usize| {
        let cells = rows.iter().map(|row| row[i].chars().count());
        cells.chain([header[i].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..4).map(width).collect();
    let line = |to: &mut String, cells: [&str; 5]| {
        let mut text = String::from(" ");
        for (cell, width) in cells.iter().zip(&widths) {
            write!(text, " {cell:width$} ")?;
        }
        write!(text, " {}", cells[4])?;
        writeln!(to, "{}", text.trim_end())
    };
    line(to, header)?;
    let mut dataset = None;
    for (item, row) in items.iter().zip(&rows) {
        if dataset.replace(&item.dataset) != Some(&item.dataset) {
            writeln!(to, "{}", item.dataset)?;
        }
        line(to, std::array::from_fn(|i| row[i].as_str()))?;
    }
    Ok(())
}

fn row(item: &Item, now: u64) -> [String; 5] {
    let what = match item.kind {
        Kind::Bookmark => "bookmark",
        Kind::Hold => "hold",
        Kind::Job | Kind::Held | Kind::Placeholder | Kind::Fence | Kind::Serving => "property",
        Kind::Partial => "receive",
    };
    let tag = item.snapshot.as_ref().map_or_else(|| "-".to_owned(), |tag| format!("@{tag}"));
    let snapshot = match (item.kind, item.guid) {
        // Twenty digits at most.
        (Kind::Bookmark, Some(guid)) if item.snapshot.is_none() => format!("gone, GUID {guid}"),
        (Kind::Job, _) => "zmigrate:job".to_owned(),
        (Kind::Held, _) => format!("zmigrate:held={}", item.snapshot.as_deref().unwrap_or("-")),
        (Kind::Placeholder, _) => "zmigrate:placeholder".to_owned(),
        (Kind::Fence, _) => format!("zmigrate:fence={}", item.leg.as_deref().unwrap_or("-")),
        (Kind::Serving, _) => format!("zmigrate:serving={}", item.leg.as_deref().unwrap_or("-")),
        (Kind::Partial, _) => item.bytes.map_or(tag.clone(), |bytes| format!("{tag}, {} so far", human_bytes(bytes))),
        _ => tag,
    };
    let state = match item.standing {
        Standing::Base if !item.seen => "base *",
        Standing::Base => "base",
        Standing::Stale => "stale",
        Standing::InFlight => "in use",
        Standing::Unclear => "unclear",
        Standing::Mark => "mark",
        Standing::Waiting => "waits",
    };
    let age = item.created_unix_s.map_or_else(|| "-".to_owned(), |created| age(now.saturating_sub(created)));
    let job = item.job.as_ref().map_or("-", |job| job.as_str());
    [what.to_owned(), cut(&snapshot), job.to_owned(), age, state.to_owned()]
}

/// The text, shortened in its middle.
fn cut(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= SNAPSHOT_WIDTH {
        return text.to_owned();
    }
    let tail = SNAPSHOT_WIDTH / 2;
    let head: String = chars[..SNAPSHOT_WIDTH - tail - 1].iter().collect();
    let tail: String = chars[chars.len() - tail..].iter().collect();
    format!("{head}…{tail}")
}

fn age(seconds: u64) -> String {
    match seconds {
        s if s >= 2 * 86_400 => format!("{}d", s / 86_400),
        s if s >= 2 * 3_600 => format!("{}h", s / 3_600),
        s if s >= 120 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}
