//! Every bound in one place, each with its arithmetic. What comes from the network meets one of these
//! before memory is set aside for it.

use std::time::Duration;

use jiff::SignedDuration;

/// The largest chunk of a stream that travels as one frame, and the largest payload of any frame.
/// 1 MiB: 8 ms of a 1 Gbit/s link, and large enough that a frame's fixed costs vanish (below 0.1 %).
pub const MAX_CHUNK: usize = 1 << 20;

/// The smallest chunk, used when `--bwlimit` is so low that a full one would make the link stutter.
pub const MIN_CHUNK: usize = 64 << 10;

/// Payload bytes of one transfer that may be on their way or waiting at the receiver.
/// 64 MiB fills a link of 5 Gbit/s at 100 ms; each side holds at most this much for a transfer.
pub const DEFAULT_WINDOW: u64 = 64 << 20;
/// The smallest window that still keeps a pipeline of full chunks busy: 4 of them.
pub const MIN_WINDOW: u64 = 4 << 20;
/// The largest window that may be configured: 1 GiB fills 10 Gbit/s at 800 ms.
pub const MAX_WINDOW: u64 = 1 << 30;

/// Window of a session's control channel. A reply larger than this flows through it in pieces.
pub const CONTROL_WINDOW: u64 = 4 << 20;

/// The largest request that a peer takes, decoded: 20,000 dataset names of 200 bytes.
pub const MAX_REQUEST: usize = 4 << 20;
/// The largest reply that an initiator takes, decoded: a listing of about 500,000 snapshots at 120 bytes.
pub const MAX_REPLY: usize = 64 << 20;
/// Bytes of one session's requests that are in work or wait: two of the largest. Decoded, names take some times of that.
pub const MAX_REQUEST_BYTES: usize = 2 * MAX_REQUEST;
/// A hello or its answer: names, versions, a reason. 16 KiB is 30 times what is needed.
pub const MAX_HELLO: usize = 16 << 10;

/// Requests of one session that are worked on at the same time; more wait their turn.
pub const MAX_REQUESTS_IN_WORK: usize = 32;
/// Replies of one session, of those that may have the size of [`MAX_REPLY`], that are made or wait to be sent: listings, and pages
/// of a verification. An initiator asks for one of each side at a time; who takes none keeps 128 MiB here.
pub const MAX_LARGE_REPLIES: usize = 2;
/// Transfers that all sessions of one identity may have open at a peer: three runs with `--jobs 16`. A quarter of all is left for
/// others, and for the peer's own jobs.
pub const MAX_TRANSFERS: usize = 48;
/// Windows that the transfers of one identity may fill at a peer in sum, beside [`MIN_WINDOW`] for each of its [`MAX_TRANSFERS`]: 8 of
/// 64 MiB and 48 of 4 MiB are 704 MiB. A run seldom has more full ones, and all get on with less.
pub const WINDOWS_PER_IDENTITY: u64 = 8;
/// Of the connections that a daemon keeps, one in so many is left for others, whatever one identity does; and for its own that
/// are shaking hands.
pub const CONNECTIONS_FOR_OTHERS: u64 = 4;
/// How long one that is above an identity's share may take to say hello, before it is told so: some round trips.
pub const TURNED_AWAY_WITHIN: Duration = Duration::from_secs(2);
/// Connections that one transfer may be spread over.
pub const MAX_STREAMS: u16 = 16;
/// A stream over more than two connections begins with the smallest chunks, for so many bytes: a short one is spread over all of them.
pub const SMALL_CHUNKS_UNTIL: u64 = 2 << 20;
/// Bytes after which a transfer is large enough for a second connection: what a fast link carries in some tens of milliseconds, so that
/// the many small ones of a tree dial once each.
pub const SECOND_STREAM_AFTER: u64 = 32 << 20;
/// Transfers of all sessions of a process together. As each takes two of the runtime's 512 blocking threads, they cannot starve
/// each other; [`WINDOWS_PER_IDENTITY`] bounds their memory.
pub const MAX_TRANSFERS_IN_ALL: usize = 64;
/// Listings of one pool that are made at the same time, of two commands each, whose outputs of a million snapshots are some hundred megabytes
/// together while they are parsed. A pool that hangs keeps its own places, and no others.
pub const MAX_LISTINGS_AT_A_TIME: usize = 2;
/// Targets that one session may hold.
pub const MAX_LOCKS: usize = 16;
/// Streams whose size may be asked for at once: one command each.
pub const MAX_SIZES: usize = 200;
/// Jobs that `zmigrated` runs at the same time; more wait. With full windows 8 take 512 MiB.
pub const MAX_JOBS_AT_A_TIME: usize = 8;
/// Snapshots that one request may prune: one command each, so a peer's lock is held for minutes at most.
pub const MAX_PRUNED: usize = 1000;
/// How long a dataset must have been gone at the source before its copy is destroyed, whatever a job says: a day to notice in.
pub const MIN_GONE: SignedDuration = SignedDuration::from_hours(24);
/// The shortest time between two verifications of a job: each lists both sides once more, and may read all of their content.
pub const MIN_VERIFY: Duration = Duration::from_secs(3600);
/// How long a peer asks its ZFS for what it tells of itself: a pool that hangs must not keep a session.
pub const ABOUT_WITHIN: Duration = Duration::from_secs(20);
/// How long a listing may take that a person waits for, of datasets or of holds, or the estimate of one stream: a million snapshots at 5,000 a
/// second, with a reserve of 100 s.
pub const LISTING_WITHIN: Duration = Duration::from_secs(300);
/// How long a run's listing may take, its wait for a place included, or its snapshot: a cold pool of disks tells some hundred snapshots a
/// second. What takes longer hangs, and is not to keep a place for ever.
pub const RUN_LISTING_WITHIN: Duration = Duration::from_secs(3600);
/// Grants that a peer tells an identity of: with names of 255 bytes, a quarter of a MiB.
pub const MAX_GRANTS_TOLD: usize = 1000;
/// Requests of one session that may be waiting for the end of a transfer, or for their turn.
pub const MAX_REQUESTS_WAITING: usize = 512;

/// How often each side says that it is still there: five times in the shortest idle timeout that can be configured, on
/// either side, and a few bytes a second.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Time for TCP, TLS and hello together.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a session may be without any connection, while a new run of the same identity has one, before that takes its
/// target. Longer than an initiator that lives needs to dial again once the link is back: the pause of 2 s, and up to 4 s of
/// a dial that began before and waits for TCP to try once more (after 1, 3 and 7 s).
pub const YIELD_AFTER: Duration = Duration::from_secs(6);
/// Two questions for one more session are of a link that was there in between if they are less than this apart: more than
/// `retry_wait` of a job, and two of `connect_for`'s.
pub const KNOCKS_WITHIN: Duration = Duration::from_secs(60);
/// The longest pause between two attempts to dial.
pub const REDIAL_MAX: Duration = Duration::from_secs(2);
/// The first pause between two attempts to dial: short beside the time that a lost link takes anyway, long enough that
/// the end of a transfer is known before its connection is dialled again.
pub const REDIAL_MIN: Duration = Duration::from_millis(100);

/// Chunks between the reading and the compressing thread: enough that neither waits for the other's jitter.
pub const CHUNKS_BETWEEN_THREADS: usize = 4;

/// What the authority answers a node that joins: a certificate, up to 1 MiB of `ca.pem`, up to 16 MiB of `crl.pem`.
pub const MAX_JOIN_ANSWER: usize = 18 << 20;
/// Nodes that may be joining at the same time. Each takes a thread for some milliseconds; a fleet's are typed by hand.
pub const MAX_JOINS_AT_A_TIME: usize = 4;
/// Time for each direction of a join after TLS; the authority may wait up to 10 s for the lock of its directory.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How often `zmigrated`, or a command at work, looks whether its identity's files have changed: half of the half second in which it must see
/// that, and about 30 system calls a second.
pub const WATCH_EVERY: Duration = Duration::from_millis(250);

/// Legs that are over and that a host still remembers, so that a late message does not begin them again: 64 attempts to
/// begin one epoch, at 8 bytes.
pub const MAX_BARRED: usize = 64;
/// What a cutover's ledger may grow to: 200 bytes a record, so a hundred thousand phases and passes, with the properties
/// of ten thousand datasets.
pub const MAX_LEDGER_BYTES: u64 = 64 << 20;
/// Roots of one unit: each is typed by hand.
pub const MAX_UNIT_ROOTS: usize = 16;
/// How long a host works on a question before it says that it is still at it: less than a session may be silent for.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Hooks of one host in one cutover: each is typed by hand.
pub const MAX_HOOKS: usize = 16;

/// Passes that a prediction goes by: the newest 10, so that a change of load shows within minutes.
pub const MAX_PASSES: usize = 10;
/// Fixed costs of which the 95th percentile is taken: of 40, the third largest.
pub const MAX_FIXED_COSTS: usize = 40;

/// Bytes that a probe makes up, and sends again and again: many times the window in which zstd could see a repeat (a
/// chunk is compressed by itself), and more than fits into a processor's cache.
pub const PROBE_POOL: usize = 32 << 20;

/// Of what a hook prints, so much is kept for errors and the status: about 50 lines.
pub const MAX_HOOK_OUTPUT: usize = 4 << 10;
/// A longer line of a hook's output becomes several.
pub const MAX_HOOK_LINE: usize = 1 << 10;
/// Lines of one call of a hook that go to the log, so that a hook that prints without end does not fill a disk: 1 MiB at most.
pub const MAX_HOOK_LINES_LOGGED: usize = 1000;
/// Words of a hook's command.
pub const MAX_HOOK_WORDS: usize = 64;
/// Bytes of a word of a hook's command: the longest path, `PATH_MAX`. With 64 of them a quarter of a MiB, of the 2 MiB that `execve(2)` takes.
pub const MAX_HOOK_WORD: usize = 4096;
/// Bytes of `ZMIGRATE_DATASETS`: half of what `execve(2)` takes in one string, and 256 names of 255 bytes.
pub const MAX_HOOK_DATASETS: usize = 64 << 10;
/// Between SIGTERM and SIGKILL to a hook that hangs, and to what holds a mount.
pub const TERM_GRACE: Duration = Duration::from_secs(5);
/// What the Docker Engine says about one container: some 10 KiB as a rule.
pub const MAX_DOCKER_ANSWER: usize = 4 << 20;

/// Names of one directory that are kept while a snapshot is walked through: 4 MiB of usual ones, 12 of the longest; one with more is
/// read several times.
pub const CONTENT_NAMES: usize = 50_000;
/// Directories within each other that a walk goes down: each takes a descriptor, of the 1024 that a process has as a rule.
pub const CONTENT_DEPTH: usize = 256;
/// Entries that travel at once: half of a megabyte as a rule.
pub const CONTENT_PAGE_ENTRIES: usize = 4096;
/// Bytes of such entries; one with all the attributes that Linux allows may be as large as that by itself.
pub const CONTENT_PAGE_BYTES: usize = 1 << 20;
/// Bytes that are read for one page: some seconds, so that a person sees progress.
pub const CONTENT_PAGE_READ: u64 = 1 << 30;
/// Snapshots whose content a process reads at a time for its peers: each is one thread that a disk keeps busy.
pub const MAX_VIEWS: usize = 4;
