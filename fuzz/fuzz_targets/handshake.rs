//! The first bytes of a connection, from either side.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zmigrate::{
    limits::MAX_HELLO,
    wire::{
        codec::{self, Use},
        hello::{self, Hello, PREFACE_LEN, Preface, RefusalCode, VERSIONS},
    },
};

fuzz_target!(|data: &[u8]| {
    let Some((head, body)) = data.split_first_chunk::<PREFACE_LEN>() else { return };
    if let Ok(hello) = codec::decode::<Hello>(body, Use::Hello)
        && let Ok(bytes) = hello::encode_hello(&hello)
    {
        assert_eq!(codec::decode::<Hello>(&bytes[PREFACE_LEN..], Use::Hello), Ok(hello));
    }
    let text = String::from_utf8_lossy(body);
    let refusal = hello::encode_refusal(RefusalCode::Busy, &text);
    assert!(refusal.len() <= MAX_HELLO + PREFACE_LEN);
    let Ok(preface) = Preface::decode(head) else { return };
    assert!(preface.body_len as usize <= MAX_HELLO);
    if let Ok(version) = preface.common_version() {
        assert!(VERSIONS.contains(&version) && (preface.a..=preface.b).contains(&version));
    }
    match hello::decode_answer(preface, body) {
        Ok(Ok((version, welcome))) => {
            let bytes = hello::encode_welcome(version, &welcome).unwrap();
            let again = Preface::decode(bytes.first_chunk().unwrap()).unwrap();
            assert_eq!(hello::decode_answer(again, &bytes[PREFACE_LEN..]), Ok(Ok((version, welcome))));
        }
        // What another host says must not command a terminal.
        Ok(Err(refusal)) => assert!(refusal.text.chars().all(|c| !c.is_control() || c == '\n'), "{refusal:?}"),
        Err(_) => {}
    }
});
