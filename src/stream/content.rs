//! The payloads that a receiver interprets while it takes a stream: the list in BEGIN, and system attributes.
//!
//! Invariant: what passes has what the kernel asserts to be there. Of other payloads (blocks of files, volumes and
//! directories) the kernel interprets nothing before the dataset is mounted, so they are not looked at here.

use super::{
    features::Features,
    nvlist::{NvList, Value},
    rules,
};

type Verdict = Result<(), String>;

/// `SA_MAGIC` of `sys/sa_impl.h`.
const SA_MAGIC: u32 = 0x2f_505a;
/// `sa_hdr_phys_t`: magic, layout, and room for one length.
const SA_HEADER: usize = 8;
/// Behind the header: mode, size, generation, owner, group, parent, flags (`SA_*_OFFSET` of `sys/zfs_sa.h`). The kernel
/// reads owner, group and flags of each file that it receives, to account for it.
const SA_FIXED: usize = 56;
/// The block size of the dnode of dnodes (`DNODE_BLOCK_SHIFT`).
const DNODE_BLOCK: u64 = 16 << 10;

/// System attributes, in the bonus of an object or its spill block: the kernel does not survive others
/// (`VERIFY3U(sa.sa_magic, ==, SA_MAGIC)` in `zfs_quota.c`).
pub fn system_attributes(bytes: &[u8]) -> Verdict {
    let bad = |what: &str| Err(format!("system attributes {what}"));
    let (Some(magic), Some(layout)) = (bytes.first_chunk::<4>(), bytes.get(4..).and_then(<[u8]>::first_chunk::<2>))
    else {
        return bad("that are cut off");
    };
    // A dataset that was received raw keeps the byte order of where it was made.
    let layout = match (u32::from_le_bytes(*magic), u32::from_be_bytes(*magic)) {
        // Not filled in yet: nothing else is read.
        (0, _) => return Ok(()),
        (SA_MAGIC, _) => u16::from_le_bytes(*layout),
        (_, SA_MAGIC) => u16::from_be_bytes(*layout),
        _ => return bad("without their magic number"),
    };
    let header = usize::from(layout >> 10) * 8;
    if header < SA_HEADER {
        return bad("with a header that is too short");
    }
    if header + SA_FIXED > bytes.len() { bad("that end before they are complete") } else { Ok(()) }
}

/// The list in the BEGIN of a stream with these features; `None` when there is none.
pub fn begin_list(list: Option<&NvList>, features: Features) -> Verdict {
    let absent = NvList::default();
    let list = match list {
        Some(list) if !list.is_unique() => return Err("the names in the list in BEGIN need not be unique".into()),
        Some(list) => list,
        None => &absent,
    };
    let keys = list.list("crypt_keydata");
    if features.contains(Features::RAW) != keys.is_some() {
        return Err("the list in BEGIN must have crypt_keydata if, and only if, the stream is raw".into());
    }
    keys.map_or(Ok(()), meta_dnode)?;
    if features.contains(Features::RESUMING) {
        let (object, offset) = (list.u64("resume_object"), list.u64("resume_offset"));
        if object.is_none_or(|o| o >= rules::MAX_OBJECT) || offset.is_none() {
            return Err("the list in BEGIN does not say where the stream resumes".into());
        }
    }
    // The kernel does not survive it if the list of snapshots is missing (`VERIFY0` in `dmu_recv_begin_sync`).
    let redacted = matches!(list.get("redact_snaps"), Some(Value::U64s(_)));
    if redacted != features.contains(Features::REDACTED) || redacted != list.has("redact_snaps") {
        return Err("the list in BEGIN must have redact_snaps if, and only if, the stream is redacted".into());
    }
    Ok(())
}

/// The shape of the dnode of dnodes, which a raw stream brings along (`dsl_crypto_recv_raw_objset_check`).
fn meta_dnode(keys: &NvList) -> Verdict {
    let sound = keys.is_unique()
        && keys.u64("mdn_blksz") == Some(DNODE_BLOCK)
        && keys.u64("mdn_nblkptr") == Some(3)
        && match (keys.u64("mdn_nlevels"), keys.u64("mdn_indblkshift"), keys.u64("mdn_maxblkid")) {
            (Some(levels), Some(shift), Some(last)) => rules::fits_levels(3, levels, shift, last),
            _ => false,
        };
    if sound { Ok(()) } else { Err("crypt_keydata does not describe a dnode of dnodes".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(magic: [u8; 4], layout: [u8; 2], len: usize) -> Vec<u8> {
        let mut out = [&magic[..], &layout[..]].concat();
        out.resize(len, 0);
        out
    }

    #[test]
    fn system_attributes_that_the_kernel_survives() {
        let magic = SA_MAGIC.to_le_bytes();
        let ok = |bytes: &[u8]| system_attributes(bytes).is_ok();
        // Header of one word, layout 2.
        assert!(ok(&attributes(magic, [2, 4], 64)));
        assert!(!ok(&attributes(magic, [2, 4], 63)));
        // Made on a machine of the other byte order.
        assert!(ok(&attributes(SA_MAGIC.to_be_bytes(), [4, 2], 64)));
        assert!(ok(&attributes([0; 4], [0, 0], 8)), "not filled in yet");
        assert!(!ok(&attributes(magic, [2, 0], 176)), "no header");
        assert!(!ok(&attributes(magic, [2, 0xfc], 176)), "a header that is longer than all");
        assert!(!ok(&attributes([1, 0, 0, 0], [2, 4], 176)));
        assert!(!ok(&magic) && !ok(&[]));
    }
}
