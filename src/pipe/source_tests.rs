use std::io::Cursor;

use tokio::time::sleep;

use super::*;
use crate::{
    fake::FakeZfs,
    limits::MIN_WINDOW,
    port::zfs::{Depth, SendFlags, SendSpec, SnapshotRequest, Zfs},
    stream::gate::{Gate, GatePolicy},
    types::{DatasetName, Guid},
    wire::frame::FrameKind,
};

const CHUNK: usize = MIN_CHUNK;

struct Host {
    zfs: FakeZfs,
    spec: SendSpec,
    guid: Guid,
}

async fn host() -> Host {
    let (zfs, dataset): (_, DatasetName) = (FakeZfs::new(1).in_one_thread(), "tank/db".parse().unwrap());
    zfs.create(&dataset);
    zfs.write(&dataset, 7, 0, &[7; 100_000]);
    let tag: crate::types::SnapshotTag = "1".parse().unwrap();
    let request = SnapshotRequest { root: dataset.clone(), tag: tag.clone(), recursive: false, except: Vec::new() };
    zfs.snapshot(&request).await.unwrap();
    let guid = zfs.list(&dataset, Depth::Root).await.unwrap().datasets[0].snapshots[0].guid;
    let spec = SendSpec::Full { snapshot: dataset.snapshot(&tag).unwrap(), flags: SendFlags::default() };
    Host { zfs, spec, guid }
}

impl Host {
    /// Sends with such bytes for a stream, or its own; gives the channel, what gives it up, what says that the receiver has
    /// ended, and the end.
    async fn send(
        &self,
        window: u64,
        bytes: Option<Vec<u8>>,
    ) -> (Channel, CancellationToken, CancellationToken, tokio::task::JoinHandle<Result<Transferred, Failure>>) {
        let channel = Channel::new(window, MIN_WINDOW, Duration::from_secs(10));
        let (cancelled, receiver_ended) = (CancellationToken::new(), CancellationToken::new());
        let options = SourceOptions {
            origin: Origin::ZfsSend,
            compression: Compression::None,
            chunk_bytes: CHUNK,
            cancelled: cancelled.clone(),
            receiver_ended: receiver_ended.clone(),
            in_one_thread: true,
        };
        let mut sending = self.zfs.send(&self.spec).await.unwrap();
        if let Some(bytes) = bytes {
            sending.stream = Box::new(Cursor::new(bytes));
        }
        let tap = Tap::new(Gate::new(GatePolicy::step(None, self.guid)));
        let task = tokio::spawn(send_stream(sending, tap, channel.clone(), Arc::default(), options));
        (channel, cancelled, receiver_ended, task)
    }

    async fn stream(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.zfs.send(&self.spec).await.unwrap().stream.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

/// All of the stream fits into the window, and the word that ends it does not.
#[tokio::test(start_paused = true)]
async fn an_end_for_which_there_is_no_room_is_not_waited_for_without_end() {
    let host = host().await;
    let stream = host.stream().await;
    let cost = |part: &[u8]| Frame::plain(FrameKind::Data, 0, Bytes::copy_from_slice(part)).cost();
    let window = stream.chunks(CHUNK).map(cost).sum();
    for by_receiver in [false, true] {
        let (channel, cancelled, receiver_ended, task) = host.send(window, None).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(channel.payload_bytes(), stream.len() as u64, "all but the end is handed over");
        assert!(!task.is_finished());
        if by_receiver {
            receiver_ended.cancel()
        } else {
            cancelled.cancel()
        }
        let ended = timeout(Duration::from_secs(60), task).await.expect("it waits without end").unwrap();
        assert!(ended.unwrap_err().consequence);
    }
    // With room for it, the receiver may end without a last word.
    let (_channel, _, receiver_ended, task) = host.send(window + 1000, None).await;
    sleep(Duration::from_secs(60)).await;
    assert!(!task.is_finished());
    receiver_ended.cancel();
    assert_eq!(task.await.unwrap().unwrap().raw_bytes, stream.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_taken_is_not_blamed_on_memory_and_disks() {
    let host = host().await;
    let damaged = {
        let mut bytes = host.stream().await;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    let refused = {
        // A feature that nobody knows, in the BEGIN's versioninfo.
        let mut bytes = host.stream().await;
        bytes[23] |= 0x40;
        bytes
    };
    for (bytes, blames, not) in [(damaged, "memory and disks", "update"), (refused, "update it", "memory")] {
        let (_channel, _, _, task) = host.send(MIN_WINDOW, Some(bytes)).await;
        let failure = task.await.unwrap().unwrap_err();
        let hint = failure.hint.clone().unwrap();
        assert_eq!(failure.class, FailureClass::BadStream, "{failure:?}");
        assert!(hint.contains(blames) && !hint.contains(not), "{failure:?}");
    }
}
