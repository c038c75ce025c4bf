//! Bytes for probes: those that no one can compress, and those that compress as databases and texts do.
//!
//! Both come from a seed, so that two probes can send the same.

use std::fmt::Write;

/// Random numbers (SplitMix64): good enough for bytes that must not compress, and for picking words.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Bytes that do not compress.
pub fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    let mut bytes = vec![0; len];
    let (words, rest) = bytes.as_chunks_mut::<8>();
    words.iter_mut().for_each(|word| *word = dice.next().to_le_bytes());
    let last = dice.next().to_le_bytes();
    rest.iter_mut().zip(last).for_each(|(byte, random)| *byte = random);
    bytes
}

/// Words of the made-up language.
const WORDS: usize = 2048;

/// Rows as a database or a log has them, with numbers and words of which some are frequent: zstd makes a third to a
/// quarter of it.
pub fn text(len: usize, seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    let words: Vec<String> = (0..WORDS)
        .map(|_| {
            (0..5 + dice.below(8)).map(|_| char::from(b'a' + (dice.below(26) * dice.below(26) / 26) as u8)).collect()
        })
        .collect();
    let mut out = String::with_capacity(len + 256);
    let mut row = dice.below(1 << 20);
    while out.len() < len {
        row += 1 + dice.below(3);
        let cents = dice.below(100_000);
        // Writing into a String does not fail.
        let _ = write!(out, "{row:010}|2026-11-{:02}|{}.{:02}|", dice.below(28) + 1, cents / 100, cents % 100);
        for _ in 0..6 + dice.below(8) {
            // The smaller of several numbers: few words are frequent, many are rare.
            let at = (0..6).map(|_| dice.below(WORDS as u64)).min().unwrap_or(0);
            out.push_str(&words[at as usize]);
            out.push(' ');
        }
        out.push('\n');
    }
    out.truncate(len);
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(bytes: &[u8], level: i32) -> f64 {
        let packed: usize = bytes.chunks(1 << 20).map(|chunk| zstd::bulk::compress(chunk, level).unwrap().len()).sum();
        bytes.len() as f64 / packed as f64
    }

    #[test]
    fn they_compress_as_they_say() {
        let random = random((3 << 20) + 5, 1);
        assert_eq!(random.len(), (3 << 20) + 5);
        assert!(ratio(&random, 3) < 1.001);
        let text = text(4 << 20, 1);
        assert_eq!(text.len(), 4 << 20);
        for level in [1, 3] {
            let ratio = ratio(&text, level);
            assert!((2.7..4.5).contains(&ratio), "level {level}: {ratio}");
        }
    }
}
