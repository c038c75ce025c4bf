//! Messages: calls, answers, what is said on a transfer's channel, and what a node that joins and its authority say,
//! decoded under their limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zmigrate::wire::{
    codec::{self, Use},
    join::{self, JOIN_HEADER_LEN, JoinMessage},
    message::{Answer, Call, StreamMessage},
};

fuzz_target!(|data: &[u8]| {
    let Some((how, bytes)) = data.split_first() else { return };
    match how % 6 {
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
        2 => {
            let Ok(message) = codec::decode::<StreamMessage>(bytes, Use::Request) else { return };
            let again = codec::encode(&message, Use::Request).unwrap();
            assert_eq!(codec::decode::<StreamMessage>(&again, Use::Request).as_ref(), Ok(&message));
            if let StreamMessage::Failed(failure) = message {
                let shown = failure.printable();
                assert!(shown.message.chars().all(|c| !c.is_control() || c == '\n'));
            }
        }
        3 => {
            let Ok(request) = join::decode_request(bytes) else { return };
            let again = join::encode_request(&request).unwrap();
            let (header, body) = again.split_first_chunk().unwrap();
            assert_eq!(join::decode_header(header, JoinMessage::Request), Ok(body.len()));
            // It has no `Debug`: its secret belongs into no log.
            assert!(join::decode_request(body).is_ok_and(|r| r == request));
        }
        4 => {
            let Ok(answer) = join::decode_answer(bytes) else { return };
            let again = join::encode_answer(&answer).unwrap();
            let (header, body) = again.split_first_chunk().unwrap();
            assert_eq!(join::decode_header(header, JoinMessage::Answer), Ok(body.len()));
            assert_eq!(join::decode_answer(body), Ok(answer));
        }
        _ => {
            let Some(header) = bytes.first_chunk::<JOIN_HEADER_LEN>() else { return };
            for kind in [JoinMessage::Request, JoinMessage::Answer] {
                assert!(join::decode_header(header, kind).map_or(true, |len| len <= kind.limit()));
            }
        }
    }
});
