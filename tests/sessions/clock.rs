//! The runtime of a test: time that stands still while something works, leaps while all wait, and otherwise creeps on.
//!
//! The fake's streams block threads, and tokio's paused clock leaps only while no such thread is at work. So a thread of
//! our own pushes it on, 50 ms at a time: what waits for a lost link to be dialled again wakes up all the same.

use std::{
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

/// How far the clock goes on for each millisecond that passes.
const TICK: Duration = Duration::from_millis(50);
/// No test may take longer than this, in its own time.
const FOREVER: Duration = Duration::from_secs(3600);

/// Runs a test under such a clock.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (stop, stopped) = channel::<()>();
    let (tick, mut ticks) = tokio::sync::mpsc::channel(1);
    let ticker = std::thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
            // One that was not taken yet is enough.
            let _ = tick.try_send(());
        }
    });
    let result = runtime.block_on(async {
        tokio::pin!(test);
        let end = tokio::time::sleep(FOREVER);
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                result = &mut test => return result,
                () = &mut end => panic!("the run does not come to its end"),
                Some(()) = ticks.recv() => tokio::time::advance(TICK).await,
            }
        }
    });
    drop(stop);
    let _ = ticker.join();
    runtime.shutdown_background();
    result
}

/// Runs a test that starts no threads: time stands still while anything works, and leaps when all wait. So what happens
/// is the same each time.
pub fn run_alone<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let result = runtime.block_on(async { tokio::time::timeout(FOREVER, test).await });
    result.unwrap_or_else(|_| panic!("the run does not come to its end"))
}

/// Random numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to but without `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len as usize).collect()
    }
}
