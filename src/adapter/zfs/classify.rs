//! From exit status and stderr to a [`ZfsErrorKind`].
//!
//! The texts are those of libzfs (`libzfs_sendrecv.c`, `libzfs_util.c`, `zfs_main.c`) under `LC_ALL=C`, and of zfs-fuse.
//! Invariant: pure, and never more than a hint. A text that no rule knows is `Other`, and is shown as it is.

use crate::port::zfs::ZfsErrorKind::{self, *};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// It was ended by this signal.
    Signal(i32),
}

const SIGABRT: i32 = 6;
const SIGPIPE: i32 = 13;

/// The first rule whose texts all occur decides, so the specific come before the general.
const RULES: &[(&[&str], ZfsErrorKind)] = &[
    // The daemon or the module behind the tool is missing.
    (&["failed to initialize ZFS library"], NoTool),
    (&["Failed to initialize the libzfs library"], NoTool),
    (&["ZFS modules cannot be auto-loaded"], NoTool),
    (&["The ZFS modules are not loaded"], NoTool),
    // Resume tokens.
    (&["used in the initial send no longer exists"], DeadToken),
    (&["is no longer the same snapshot used in the initial send"], DeadToken),
    (&["incremental source 0x", "no longer exists"], DeadToken),
    (&["resume token is corrupt"], DeadToken),
    // That of a stream that goes on with such a state is EBUSY: the receive that left it has not ended yet.
    (&["cannot receive resume stream", "contains partially-complete state"], Busy),
    (&["contains partially-complete state from \"zfs receive -s\""], PartialState),
    (&["Resuming recv on existing"], Exists),
    // Where the receiver stands.
    (&["most recent snapshot of", "match incremental source"], Diverged),
    (&["has been modified", "since most recent snapshot"], DirtyTarget),
    (&["requires -L (--large-block)"], Unsupported),
    // Keys. Before `Exists`: the texts name -F.
    (&["encryption key does not match existing key"], Crypto),
    (&["key must be loaded"], Crypto),
    (&["key not loaded"], Crypto),
    (&["IV set guid"], Crypto),
    (&["cannot perform raw receive on top of existing unencrypted dataset"], Crypto),
    (&["cannot be used to destroy an encrypted filesystem"], Crypto),
    (&["embedded data stream feature with encrypted receive"], Crypto),
    (&["must specify -F"], Exists),
    (&["destination has snapshots"], Exists),
    (&["destination", "is a clone"], Exists),
    (&["already exists"], Exists),
    (&["bookmark exists"], Exists),
    // What this ZFS or pool lacks.
    (&["kernel modules must be upgraded to receive this stream"], Ambiguous),
    (&["stream has unsupported feature"], Unsupported),
    (&["pool must be upgraded"], Unsupported),
    (&["unrecognized command"], Unsupported),
    (&["invalid option"], Unsupported),
    (&["too many arguments"], Unsupported),
    (&["pyzfs.py not found"], Unsupported),
    (&["invalid property '"], Unsupported),
    (&["peration not supported"], Unsupported),
    // The stream.
    (&["incorrect header checksum"], BadStream),
    (&["invalid stream"], BadStream),
    (&["invalid record type"], BadStream),
    (&["invalid backup stream"], BadStream),
    (&["failed to read from stream"], Transport),
    (&["incomplete stream"], Transport),
    (&["checksum mismatch"], Transport),
    (&["signal received"], Transport),
    (&["Broken pipe"], Transport),
    // The system.
    (&["out of space"], NoSpace),
    (&["quota exceeded"], NoSpace),
    (&["No space left on device"], NoSpace),
    (&["pool I/O is currently suspended"], Io),
    (&["pool is read-only"], Io),
    (&["I/O error"], Io),
    (&["ermission denied"], Permission),
    (&["Operation not permitted"], Permission),
    (&["it's being held"], Busy),
    (&["is busy"], Busy),
    (&["resource busy"], Busy),
    (&["has dependent clones"], Busy),
    (&["clones of previous snapshots exist"], Busy),
    (&["more recent snapshots"], Diverged),
    (&["does not exist"], NotFound),
    (&["no such pool"], NotFound),
    (&["could not find any snapshots to destroy"], NotFound),
    (&["parent", "is not a filesystem"], NotFound),
];

/// The class of a process' end; `None` for success.
pub fn classify(exit: Exit, stderr: &str) -> Option<ZfsErrorKind> {
    match exit {
        // A listing that breaks off in the middle says so, and still ends with 0: what it did not print is not gone.
        Exit::Code(0) if stderr.contains("cannot iterate") => Some(classify_text(stderr)),
        Exit::Code(0) => None,
        Exit::Signal(SIGPIPE) => Some(Transport),
        // "internal error: …" aborts: the text still tells more than the signal.
        Exit::Signal(SIGABRT) | Exit::Code(_) => Some(classify_text(stderr)),
        Exit::Signal(_) => Some(Killed),
    }
}

/// The class of a text alone: a whole stderr, or one line of it where a command reports each argument apart.
pub fn classify_text(stderr: &str) -> ZfsErrorKind {
    // libzfs breaks lines inside its sentences.
    let text = without_usage(stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    let holds = |needles: &[&str]| needles.iter().all(|needle| text.contains(needle));
    RULES.iter().find(|(needles, _)| holds(needles)).map_or(Other, |(_, kind)| *kind)
}

/// The class of a failed `send -t`. Without the token's base or snapshot some releases say only "Invalid cross-device link".
pub fn classify_resume(exit: Exit, stderr: &str) -> Option<ZfsErrorKind> {
    classify(exit, stderr).map(|kind| match kind {
        NotFound => DeadToken,
        Other if stderr.contains("cross-device link") || stderr.contains("not an earlier snapshot") => DeadToken,
        kind => kind,
    })
}

/// The message without the usage text that the tools add to it.
pub fn without_usage(stderr: &str) -> &str {
    let end = stderr.lines().position(|line| line.trim_end() == "usage:" || line.starts_with("usage: zfs"));
    match end {
        Some(lines) => {
            let bytes: usize = stderr.split_inclusive('\n').take(lines).map(str::len).sum();
            stderr[..bytes].trim_end()
        }
        None => stderr.trim_end(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row for each text of the tools that zmigrate tells from others.
    const TABLE: &[(&str, ZfsErrorKind)] = &[
        (
            "cannot receive incremental stream: most recent snapshot of zp/r does not\nmatch incremental source",
            Diverged,
        ),
        (
            "cannot receive incremental stream: destination zp/r has been modified\nsince most recent snapshot",
            DirtyTarget,
        ),
        ("cannot receive new filesystem stream: destination 'zp/r' exists\nmust specify -F to overwrite it", Exists),
        ("cannot receive new filesystem stream: destination has snapshots (eg. zp/r@a)\nmust destroy them", Exists),
        ("cannot receive incremental stream: destination 'zp/r' is a clone\nmust destroy it", Exists),
        ("cannot receive incremental stream: destination already exists", Exists),
        ("cannot create snapshot 'zp@s1': dataset already exists\nno snapshots were created", Exists),
        ("cannot create bookmark 'zp/a#b1': bookmark exists", Exists),
        ("cannot hold snapshot 'zp/a@s1': tag already exists on this dataset", Exists),
        ("cannot receive incremental stream: destination 'zp/r2' does not exist", NotFound),
        ("cannot receive: local origin for clone zp/c@s does not exist", NotFound),
        ("cannot receive: specified fs (zp/x) does not exist", NotFound),
        ("cannot receive new filesystem stream: parent 'zp/v' is not a filesystem", NotFound),
        (
            "cannot open 'zp/no': dataset does not exist\ncannot receive new filesystem stream: unable to restore to destination",
            NotFound,
        ),
        ("cannot open 'nopool': no such pool", NotFound),
        ("Cannot get properties of nopool: no such pool available.", NotFound),
        ("could not find any snapshots to destroy; check snapshot names.", NotFound),
        ("WARNING: could not send zfprobe@none: does not exist", NotFound),
        (
            "cannot receive incremental stream: destination zp/r contains partially-complete state from \"zfs receive -s\".",
            PartialState,
        ),
        (
            "cannot receive resume stream: destination zp/r contains partially-complete state from \"zfs receive -s\".",
            Busy,
        ),
        ("cannot receive resume stream: Resuming recv on existing destination 'zp/r'\nmust specify -F", Exists),
        ("cannot receive: Resuming recv on existing dataset without force", Exists),
        ("cannot unmount '/tank/a': dataset is busy", Busy),
        ("cannot destroy snapshot zp/a@s2: it's being held. Run 'zfs holds -r zp/a@s2' to see holders.", Busy),
        (
            "cannot destroy 'zp/a@s1': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\nzp/cl",
            Busy,
        ),
        ("cannot rollback to 'zp/r@s1': more recent snapshots exist\nuse '-r' to force deletion", Diverged),
        (
            "cannot rollback to 'zp/r@s1': more recent snapshots or bookmarks exist\nuse '-r' to force deletion of the following\nsnapshots and bookmarks:\nzp/r@s2",
            Diverged,
        ),
        ("cannot rollback to 'zp/r@s2': clones of previous snapshots exist\nuse '-R' to force", Busy),
        ("cannot receive new filesystem stream: out of space", NoSpace),
        ("cannot receive incremental stream: destination zp/r space quota exceeded.", NoSpace),
        ("cannot receive: failed to read from stream", Transport),
        ("cannot receive new filesystem stream: incomplete stream", Transport),
        ("cannot receive new filesystem stream: checksum mismatch", Transport),
        (
            "cannot receive new filesystem stream: checksum mismatch or incomplete stream.\nPartially received snapshot is saved.\nA resuming stream can be generated on the sending system by running:\n    zfs send -t 1-9ba",
            Transport,
        ),
        ("cannot receive: signal received", Transport),
        ("warning: cannot send 'zp/a@s1': Broken pipe", Transport),
        ("cannot receive: invalid stream (bad magic number)", BadStream),
        ("cannot receive: invalid stream (malformed nvlist)", BadStream),
        ("cannot receive: invalid stream (bad snapshot name)", BadStream),
        ("cannot receive: incorrect header checksum", BadStream),
        ("cannot receive: invalid record type", BadStream),
        ("cannot receive new filesystem stream: invalid backup stream", BadStream),
        ("cannot receive resume stream: kernel modules must be upgraded to receive this stream.", Ambiguous),
        ("cannot receive: stream has unsupported feature, feature flags = 1000000", Unsupported),
        ("cannot receive new filesystem stream: pool must be upgraded to receive this stream.", Unsupported),
        (
            "cannot receive incremental stream: incremental send stream requires -L (--large-block), to match previous receive.",
            Unsupported,
        ),
        ("invalid option 'n'\nusage:\n\tsend [-RDp]", Unsupported),
        ("unrecognized command 'bookmark'\nusage: zfs command args ...", Unsupported),
        ("too many arguments\nusage:\n\tsnapshot [-r]", Unsupported),
        ("bad property list: invalid property 'volmode'\nusage:\n\tget", Unsupported),
        ("internal error: /usr/lib/zfs/pyzfs.py not found", Unsupported),
        ("cannot receive: encryption key does not match existing key", Crypto),
        ("cannot receive: inherited key must be loaded", Crypto),
        ("warning: cannot send 'zp/e@a': source key must be loaded", Crypto),
        ("cannot receive incremental stream: IV set guid missing. See errata 4 at https://…", Crypto),
        ("cannot receive incremental stream: IV set guid mismatch. See the 'zfs receive' man page", Crypto),
        ("cannot receive: cannot perform raw receive on top of existing unencrypted dataset", Crypto),
        (
            "cannot receive new filesystem stream: zfs receive -F cannot be used to destroy an encrypted filesystem or overwrite an unencrypted one with an encrypted one",
            Crypto,
        ),
        ("cannot receive: incompatible embedded data stream feature with encrypted receive.", Crypto),
        ("cannot resume send: 'zp/a@s2' used in the initial send no longer exists", DeadToken),
        ("cannot resume send: 'zp/a@s2' is no longer the same snapshot used in the initial send", DeadToken),
        ("cannot resume send: incremental source 0xb2eaaf1af912886c no longer exists", DeadToken),
        ("cannot resume send: resume token is corrupt (incorrect checksum)", DeadToken),
        ("cannot create 'tank/x': permission denied", Permission),
        ("cannot receive: I/O error", Io),
        ("cannot receive new filesystem stream: pool I/O is currently suspended", Io),
        ("cannot create 'tank/x': pool is read-only", Io),
        ("internal error: failed to initialize ZFS library", NoTool),
        ("cannot set property for 'zp': 'compression' must be one of 'on | off'", Other),
        ("", Other),
    ];

    #[test]
    fn every_text_has_its_class() {
        for (text, kind) in TABLE {
            assert_eq!(classify(Exit::Code(1), text), Some(*kind), "{text}");
        }
    }

    #[test]
    fn the_end_of_the_process_counts_too() {
        assert_eq!(classify(Exit::Code(0), "cannot receive readonly property on tank/a: permission denied"), None);
        assert_eq!(classify(Exit::Signal(9), "dataset is busy"), Some(Killed));
        assert_eq!(classify(Exit::Signal(13), ""), Some(Transport));
        assert_eq!(classify(Exit::Signal(6), "internal error: Input/output I/O error"), Some(Io));
        assert_eq!(
            classify_resume(Exit::Code(255), "warning: cannot send 'zp/a@s3': Invalid cross-device link"),
            Some(DeadToken)
        );
        assert_eq!(classify_resume(Exit::Code(1), "cannot open 'zp/a@s3': dataset does not exist"), Some(DeadToken));
        assert_eq!(classify_resume(Exit::Signal(13), ""), Some(Transport));
    }

    #[test]
    fn usage_texts_are_cut_off() {
        assert_eq!(without_usage("invalid option 'n'\nusage:\n\tsend does not exist\n"), "invalid option 'n'");
        assert_eq!(without_usage("usage:\n\tsend"), "");
        assert_eq!(without_usage("two\nlines\n"), "two\nlines");
    }
}
