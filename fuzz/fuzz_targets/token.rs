//! Any text as a resume token; and any bytes as what a sound token carries.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zmigrate::stream::{
    nvlist::{self, Limits},
    token::ResumeToken,
};

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(token) = ResumeToken::parse(text)
    {
        assert!(!token.to_name.is_empty() && token.to_name.len() <= 255);
    }
    // No mutation gets past a token's checksum and compression, so the list is fuzzed by itself, too.
    let limits = Limits { items: 1000, ..Limits::SMALL };
    if let Ok(list) = nvlist::decode(data, limits) {
        assert!(list.pairs().len() <= limits.items);
    }
});
