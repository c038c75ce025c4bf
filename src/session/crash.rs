//! Points at which a test ends the process as a power cut would, to see that a rerun goes on from there.

/// Ends this process at once, without any cleaning up, if `ZMIGRATE_CRASH_AT` names this point; `NAME@N` means the N-th time.
/// Only in builds with debug assertions: a released program has no such points.
pub fn crash_point(name: &str) {
    #[cfg(debug_assertions)]
    {
        use std::sync::atomic::{AtomicU32, Ordering};
        static PASSED: AtomicU32 = AtomicU32::new(0);
        let Ok(wanted) = std::env::var("ZMIGRATE_CRASH_AT") else { return };
        let (wanted, number) = match wanted.rsplit_once('@') {
            Some((wanted, number)) => (wanted, number.parse().unwrap_or(1)),
            None => (wanted.as_str(), 1),
        };
        if wanted == name && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == number {
            tracing::error!("ends at {name}, as ZMIGRATE_CRASH_AT wants it");
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
