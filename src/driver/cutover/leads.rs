//! All cutovers that were led from a host.

use super::ledger::{Line, Story, read};
use crate::{
    cutover::{coordinator::Coordinator, leg::Millis},
    port::ledger::{LedgerError, Ledgers},
    types::{Failure, FailureClass},
};

/// Their ledgers' names, and what those tell, each for itself: one that cannot be read keeps no other from being looked after. Those that
/// began first come first, after those of which that cannot be read.
///
/// # Errors
/// When the directory cannot be read.
#[allow(clippy::type_complexity, reason = "a pair for each")]
pub fn leads(ledgers: &dyn Ledgers) -> Result<Vec<(String, Result<(Story, Coordinator), Failure>)>, Failure> {
    let usage = |e: LedgerError| Failure::new(FailureClass::Usage, e);
    let mut all = Vec::new();
    for name in ledgers.names("lead-").map_err(usage)? {
        match ledgers.read(&name).map_err(usage) {
            // It never began.
            Ok(lines) if lines.len() < 2 => {}
            Ok(lines) => {
                let mut told = read(&lines, &ledgers.place(&name));
                if let (Ok((story, _)), Some(note)) = (&mut told, ledgers.noted(&name)) {
                    story.hear_note(&note);
                }
                all.push((began_at(&lines), name, told));
            }
            Err(failure) => all.push((None, name, Err(failure))),
        }
    }
    Ok(oldest_first(all))
}

/// Within a millisecond by their names, as they came.
fn oldest_first<T>(mut all: Vec<(Option<Millis>, String, T)>) -> Vec<(String, T)> {
    all.sort_by_key(|(began_at, ..)| *began_at);
    all.into_iter().map(|(_, name, told)| (name, told)).collect()
}

fn began_at(lines: &[String]) -> Option<Millis> {
    Some(serde_json::from_str::<Line>(lines.first()?).ok()?.at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_comes_first_whatever_it_is_called() {
        let line = |at_ms: u64| format!(r#"{{"at":"","at_ms":{at_ms},"pid":1,"entry":"passing","number":1}}"#);
        let of = |name: &str, lines: [String; 2]| (began_at(&lines), name.to_owned(), ());
        let torn = of("d", ["torn".to_owned(), line(5)]);
        let all = vec![of("a", [line(30), line(1)]), of("b", [line(10), line(40)]), of("c", [line(20), line(2)]), torn];
        let names: Vec<String> = oldest_first(all).into_iter().map(|(name, ())| name).collect();
        assert_eq!(names, ["d", "b", "c", "a"]);
    }
}
