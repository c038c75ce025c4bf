//! Messages: calls, answers, and what is said on a transfer's channel, decoded under their limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zmigrate::wire::{
    codec::{self, Use},
    message::{Answer, Call, StreamMessage},
};

fuzz_target!(|data: &[u8]| {
    let Some((how, bytes)) = data.split_first() else { return };
    match how % 3 {
        0 => {
            let Ok(call) = codec::decode::<Call>(bytes, Use::Request) else { return };
            // Grants are looked up by names that were parsed, and nothing else.
            for (_, dataset) in call.request.needs() {
                assert_eq!(dataset.as_str().parse().as_ref(), Ok(&dataset));
            }
            let again = codec::encode(&call, Use::Request).unwrap();
            assert_eq!(codec::decode::<Call>(&again, Use::Request), Ok(call));
        }
        1 => {
            let Ok(answer) = codec::decode::<Answer>(bytes, Use::Reply) else { return };
            let again = codec::encode(&answer, Use::Reply).unwrap();
            assert_eq!(codec::decode::<Answer>(&again, Use::Reply), Ok(answer));
        }
        _ => {
            let Ok(message) = codec::decode::<StreamMessage>(bytes, Use::Request) else { return };
            let again = codec::encode(&message, Use::Request).unwrap();
            assert_eq!(codec::decode::<StreamMessage>(&again, Use::Request).as_ref(), Ok(&message));
            if let StreamMessage::Failed(failure) = message {
                let shown = failure.printable();
                assert!(shown.message.chars().all(|c| !c.is_control() || c == '\n'));
            }
        }
    }
});
