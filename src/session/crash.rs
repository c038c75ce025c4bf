//! Points at which a test ends the process as a power cut would, or has it wait, to see what others do meanwhile.
//!
//! Only in builds with debug assertions: a released program has no such points.

/// Waits here if `ZMIGRATE_PAUSE_AT` names this point: while the file `ZMIGRATE_PAUSE_FILE` is there, for 60 seconds at most. Then ends
/// this process at once, without any cleaning up, if `ZMIGRATE_CRASH_AT` names it. `NAME@N` means the N-th time in both.
pub fn crash_point(name: &str) {
    #[cfg(debug_assertions)]
    {
        use std::sync::atomic::AtomicU32;
        static PAUSES: AtomicU32 = AtomicU32::new(0);
        static CRASHES: AtomicU32 = AtomicU32::new(0);
        if is_wanted("ZMIGRATE_PAUSE_AT", &PAUSES, name) {
            pause(name);
        }
        if is_wanted("ZMIGRATE_CRASH_AT", &CRASHES, name) {
            tracing::error!("ends at {name}, as ZMIGRATE_CRASH_AT wants it");
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
fn is_wanted(variable: &str, passed: &std::sync::atomic::AtomicU32, name: &str) -> bool {
    let Ok(wanted) = std::env::var(variable) else { return false };
    let (wanted, number) = match wanted.rsplit_once('@') {
        Some((wanted, number)) => (wanted, number.parse().unwrap_or(1)),
        None => (wanted.as_str(), 1),
    };
    wanted == name && passed.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == number
}

/// Holds whoever leads or acts here; what else the process does goes on.
#[cfg(debug_assertions)]
fn pause(name: &str) {
    use std::time::{Duration, Instant};
    let Some(file) = std::env::var_os("ZMIGRATE_PAUSE_FILE") else { return };
    tracing::error!("waits at {name}, as ZMIGRATE_PAUSE_AT wants it");
    let began = Instant::now();
    tokio::task::block_in_place(|| {
        while std::path::Path::new(&file).exists() && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    tracing::error!("goes on from {name}");
}
