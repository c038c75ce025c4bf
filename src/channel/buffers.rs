//! Chunk buffers that are used again. A fresh megabyte costs 256 page faults; a recycled one costs none.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

/// Buffers of one size. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    size: usize,
    /// No more than this many are kept for later.
    keep: usize,
}

/// A filled buffer that goes back to its pool when the last user lets it go.
struct Lent {
    buffer: Vec<u8>,
    len: usize,
    pool: Pool,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.buffer));
    }
}

impl Pool {
    /// A pool of buffers of `size` bytes that keeps at most `keep` for later.
    pub fn new(size: usize, keep: usize) -> Pool {
        Pool { free: Arc::default(), size, keep }
    }

    /// A buffer of the pool's size; what it holds is left over from its last use.
    pub fn take(&self) -> Vec<u8> {
        let mut free = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        free.pop().unwrap_or_else(|| vec![0; self.size])
    }

    /// A buffer of at most that size, which is not kept for later unless it is the pool's.
    pub fn small(&self, size: usize) -> Vec<u8> {
        if size < self.size { vec![0; size] } else { self.take() }
    }

    /// Makes bytes of the first `len` bytes of a buffer that was taken.
    pub fn lend(&self, buffer: Vec<u8>, len: usize) -> Bytes {
        Bytes::from_owner(Lent { len: len.min(buffer.len()), buffer, pool: self.clone() })
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut free = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if free.len() < self.keep && buffer.len() == self.size {
            free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_only_after_its_last_user() {
        let pool = Pool::new(8, 1);
        let bytes = pool.lend(pool.take(), 3);
        let at = bytes.as_ptr();
        let second = bytes.clone();
        drop(bytes);
        let other = pool.take();
        assert_ne!(other.as_ptr(), at);
        assert_eq!(second.len(), 3);
        drop(second);
        let again = pool.take();
        assert_eq!(again.as_ptr(), at);
    }
}
