//! Any text as a configuration, in one file or (cut at zero bytes) in several.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zmigrate::{
    config::{Access, Config, Source},
    limits::{MAX_WINDOW, MIN_WINDOW},
};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let sources: Vec<Source<'_>> = text.split('\0').take(4).map(|text| Source { name: "fuzz.toml", text }).collect();
    match Config::parse_all(&sources) {
        Ok(config) => {
            for (identity, grant) in config.grants.iter() {
                for dataset in grant.of(Access::Push) {
                    assert!(config.grants.check(identity, Access::Push, dataset).is_ok());
                }
            }
            assert!((MIN_WINDOW..=MAX_WINDOW).contains(&config.limits.window_bytes));
        }
        Err(e) => assert!(!e.to_string().is_empty()),
    }
});
