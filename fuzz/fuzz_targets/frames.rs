//! Frames from anybody: headers and payloads; and the two halves of a channel under any order of events.
#![no_main]

use std::collections::BTreeMap;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use zmigrate::{
    limits::MAX_CHUNK,
    wire::{
        frame::{Ack, Frame, FrameKind, HEADER_LEN, Header},
        inbox::Inbox,
        outbox::Outbox,
    },
};

/// Small, so that its end is met often.
const WINDOW: u64 = 4096;

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else { return };
    match how % 3 {
        0 => one_frame(rest),
        1 => honest_peers(rest),
        _ => hostile_sender(rest),
    }
});

fn one_frame(data: &[u8]) {
    let Some((head, payload)) = data.split_first_chunk::<HEADER_LEN>() else { return };
    let Ok(header) = Header::decode(head) else { return };
    assert!(header.payload_len as usize <= MAX_CHUNK && header.raw_len as usize <= MAX_CHUNK);
    assert_eq!(Header::decode(&header.encode()), Ok(header));
    if let Ok(ack) = Ack::from_payload(payload) {
        assert_eq!(Ack::from_payload(&ack.to_frame().payload), Ok(ack));
    }
    let frame = Frame { header, payload: Bytes::copy_from_slice(payload) };
    if let Ok(raw) = frame.open() {
        assert_eq!(raw.len(), header.raw_len as usize);
    }
    // The same with the checksum that the bytes have, which no mutation finds.
    let _ = Frame::zstd(header.kind, header.flags, frame.payload, header.raw_len, header.check).open();
}

/// Connections that lose, repeat and reorder what they carry: all that was sent arrives once, in order, within the window.
fn honest_peers(events: &[u8]) {
    let (mut outbox, mut inbox) = (Outbox::new(WINDOW), Inbox::new(WINDOW));
    let (mut pushed, mut popped) = (0u64, 0u64);
    let mut carried: Vec<(u64, Frame)> = Vec::new();
    let mut to_consume: Vec<u64> = Vec::new();
    let mut event = |event: u8| {
        let connection = u64::from(event >> 3 & 3);
        match event & 7 {
            0 | 1 => {
                let frame = Frame::plain(FrameKind::Data, 0, Bytes::from(vec![pushed as u8; usize::from(event) * 4]));
                if outbox.has_room(frame.cost(), u64::MAX) {
                    outbox.push(frame);
                    pushed += 1;
                }
            }
            2 | 3 => carried.extend(outbox.take(connection).map(|frame| (connection, frame))),
            4 if !carried.is_empty() => {
                let at = usize::from(event >> 3) % carried.len();
                // Now and then it arrives, and is carried once more.
                let frame = if event & 0x80 != 0 { carried[at].1.clone() } else { carried.swap_remove(at).1 };
                assert_eq!(inbox.put(frame), Ok(()), "a frame within the credit was refused");
            }
            5 => {
                carried.retain(|(on, _)| *on != connection);
                outbox.lost(connection);
            }
            6 => {
                while let Some(frame) = inbox.pop() {
                    assert_eq!((frame.header.sequence, frame.payload.iter().all(|b| *b == popped as u8)), (popped, true));
                    popped += 1;
                    to_consume.push(frame.cost());
                }
                to_consume.drain(..to_consume.len() / 2).for_each(|cost| inbox.consumed(cost));
            }
            _ => assert!(outbox.ack(inbox.ack()).is_ok(), "an honest word was refused"),
        }
        assert!(popped <= pushed && outbox.outstanding() <= WINDOW.max(2048));
    };
    events.iter().for_each(|byte| event(*byte));
}

/// A sender that keeps to nothing, and a receiver that lies: bounded, and told so.
fn hostile_sender(data: &[u8]) {
    let (mut inbox, mut outbox) = (Inbox::new(WINDOW), Outbox::new(WINDOW));
    // What the inbox holds, by sequence.
    let mut held: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut next, mut pushed, mut word) = (0u64, 0u64, Ack { next: 0, consumed: 0 });
    for chunk in data.chunks(6) {
        let [kind, len, rest @ ..] = chunk else { return };
        let number = rest.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        if kind & 1 == 0 {
            let mut frame = Frame::plain(FrameKind::Data, 0, Bytes::from(vec![0; usize::from(*len) * 8]));
            // Near the sequence that is due, near the end of all numbers, or anywhere.
            frame.header.sequence = match kind >> 1 & 3 {
                0 | 1 => next.wrapping_add(number % 4),
                2 => u64::MAX - number % 4,
                _ => number << 32,
            };
            let (sequence, cost) = (frame.header.sequence, frame.cost());
            if inbox.put(frame).is_ok() && sequence >= next {
                // A repeated one was dropped.
                held.entry(sequence).or_insert(cost);
            }
            assert!(held.len() <= 1 || held.values().sum::<u64>() <= WINDOW, "more is held than the window");
            while let Some(frame) = inbox.pop() {
                assert_eq!(frame.header.sequence, next);
                held.remove(&next);
                next += 1;
                inbox.consumed(frame.cost());
            }
        } else {
            let frame = Frame::plain(FrameKind::Data, 0, Bytes::from(vec![0; 60]));
            let cost = frame.cost();
            if outbox.has_room(cost, u64::MAX) {
                outbox.push(frame);
                pushed += cost;
            }
            let _ = outbox.take(0);
            let before = outbox.acknowledged();
            // Near what was said before, or anywhere.
            word = match kind >> 1 & 1 {
                0 => Ack { next: word.next + (number & 1), consumed: word.consumed + (number >> 1 & 3) * cost / 2 },
                _ => Ack { next: number % 8, consumed: number },
            };
            if outbox.ack(word).is_err() {
                assert_eq!(outbox.acknowledged(), before, "a word that was refused took effect");
                word = Ack { next: before, consumed: pushed - outbox.outstanding() };
            }
            assert!(pushed - outbox.carried() <= WINDOW, "more is kept than the window");
        }
    }
}
