//! The output of a hook, line by line: bounded, and harmless on a terminal and in a log.
//!
//! Invariant: whatever is pushed, at most [`MAX_HOOK_OUTPUT`] bytes of lines and [`MAX_HOOK_LINE`] bytes of an unfinished
//! line are kept.

use std::collections::VecDeque;

use crate::{
    limits::{MAX_HOOK_LINE, MAX_HOOK_OUTPUT},
    types::printable,
};

/// The last lines of an output that grows.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
    open: Vec<u8>,
}

impl Tail {
    /// Takes some bytes, and gives the lines that are whole now, as they may be shown.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut whole = Vec::new();
        for byte in bytes {
            let ends = matches!(byte, b'\n' | b'\r');
            if !ends {
                self.open.push(*byte);
            }
            // A line that is too long becomes several.
            if ends || self.open.len() >= MAX_HOOK_LINE {
                whole.extend(self.close());
            }
        }
        whole
    }

    /// The end of the output: the line that was begun is whole, too.
    pub fn close(&mut self) -> Option<String> {
        if self.open.is_empty() {
            return None;
        }
        let mut line = printable(&String::from_utf8_lossy(&self.open));
        self.open.clear();
        // Each byte that is no text becomes three.
        let most = (0..=MAX_HOOK_LINE.min(line.len())).rev().find(|n| line.is_char_boundary(*n)).unwrap_or(0);
        line.truncate(most);
        self.bytes += line.len();
        self.lines.push_back(line.clone());
        while self.bytes > MAX_HOOK_OUTPUT {
            self.bytes -= self.lines.pop_front().map_or(self.bytes, |first| first.len());
        }
        Some(line)
    }

    /// The lines kept, the newest last.
    pub fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}
