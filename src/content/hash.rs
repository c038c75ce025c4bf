//! The hash of a sequence of bytes in which holes and zeros are the same, and cost nearly nothing.
//!
//! The bytes are cut into blocks of 128 KiB. What is hashed is, for a run of blocks that are all zero, `00` and the number of
//! blocks as a `u64`; for any other block `01`, its length as a `u32`, and its bytes. Numbers are little-endian. The last block
//! may be shorter; it is never part of a run, so the length of the whole counts, too.

use std::io::{self, Read};

use aws_lc_rs::digest::{Context, SHA256};

use crate::types::content::ContentHash;

/// As large as the records that most files on ZFS have.
pub const BLOCK: usize = 128 << 10;

/// The SHA-256 of these bytes as they are.
pub fn plain(bytes: &[u8]) -> ContentHash {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    finish(context)
}

pub fn finish(context: Context) -> ContentHash {
    let mut hash = [0; 32];
    // SHA-256 has 32 bytes.
    for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    ContentHash(hash)
}

/// Hashes all that a reader gives, and tells `read` of each block. Returns the number of bytes.
pub fn stream<E: From<io::Error>>(
    mut from: impl Read,
    mut read: impl FnMut(u64) -> Result<(), E>,
) -> Result<(u64, ContentHash), E> {
    let mut context = Context::new(&SHA256);
    let mut block = vec![0; BLOCK];
    let (mut size, mut zeros) = (0u64, 0u64);
    loop {
        let n = fill(&mut from, &mut block)?;
        let Some(bytes) = block.get(..n).filter(|bytes| !bytes.is_empty()) else { break };
        size += n as u64;
        if n == BLOCK && is_zero(bytes) {
            zeros += 1;
        } else {
            run(&mut context, &mut zeros);
            context.update(&[1]);
            context.update(&(n as u32).to_le_bytes());
            context.update(bytes);
        }
        read(n as u64)?;
        if n < BLOCK {
            break;
        }
    }
    run(&mut context, &mut zeros);
    Ok((size, finish(context)))
}

fn run(context: &mut Context, zeros: &mut u64) {
    if *zeros > 0 {
        context.update(&[0]);
        context.update(&zeros.to_le_bytes());
        *zeros = 0;
    }
}

/// Reads until the block is full or there is no more.
pub fn fill(from: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while let Some(rest) = block.get_mut(n..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

pub fn is_zero(bytes: &[u8]) -> bool {
    // In pieces that the compiler makes vector instructions of.
    bytes.chunks(64).all(|piece| piece.iter().fold(0, |all, b| all | b) == 0)
}
