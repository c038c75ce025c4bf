//! A bad link: a TCP proxy that cuts connections at given bytes or when told to, falls silent without closing them, or is slow, or long.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

#[derive(Default)]
struct Shared {
    /// Connections are cut when so many bytes have gone in all, in ascending order.
    cuts: Mutex<VecDeque<u64>>,
    gone: Mutex<u64>,
    cut: AtomicU32,
    open: AtomicU32,
    /// Connections with a lower number are cut.
    cut_below: AtomicU32,
    accepted: AtomicU32,
    stop: AtomicBool,
    /// Connections with a lower number are silent.
    silent_below: AtomicU32,
    /// Bytes per second that a connection carries in the direction that is counted; 0 for as many as come.
    rate: AtomicU64,
    /// Milliseconds that new connections carry everything later.
    late_by: AtomicU64,
}

/// See the module. It ends when dropped.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Cuts where so many bytes have gone towards the server.
    pub fn to(upstream: u16, cuts: &[u64]) -> Proxy {
        Proxy::counting(upstream, cuts, false)
    }

    /// Cuts where so many bytes have come from the server.
    pub fn from(upstream: u16, cuts: &[u64]) -> Proxy {
        Proxy::counting(upstream, cuts, true)
    }

    fn counting(upstream: u16, cuts: &[u64], downstream: bool) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { cuts: Mutex::new(cuts.iter().copied().collect()), ..Shared::default() });
        let accepting = Arc::clone(&shared);
        spawn(move || {
            for client in listener.incoming() {
                if accepting.stop.load(SeqCst) {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", upstream))) else { continue };
                let number = accepting.accepted.fetch_add(1, SeqCst);
                accepting.open.fetch_add(1, SeqCst);
                for (from, to, counted) in [(&client, &server, !downstream), (&server, &client, downstream)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let shared = Arc::clone(&accepting);
                    let late_by = Duration::from_millis(shared.late_by.load(SeqCst));
                    if !late_by.is_zero() {
                        spawn(move || carry_late(from, to, late_by));
                        continue;
                    }
                    spawn(move || {
                        pump(from, to, counted, number, &shared);
                        if counted {
                            shared.open.fetch_sub(1, SeqCst);
                        }
                    });
                }
            }
        });
        Proxy { port, shared }
    }

    /// How many connections were cut.
    pub fn cuts_made(&self) -> u32 {
        self.shared.cut.load(SeqCst)
    }

    /// How many connections there were.
    pub fn accepted(&self) -> u32 {
        self.shared.accepted.load(SeqCst)
    }

    /// Cuts every connection that is there, and says how many those were.
    pub fn cut_now(&self) -> u32 {
        let open = self.shared.open.load(SeqCst);
        self.shared.cut_below.store(self.accepted(), SeqCst);
        open
    }

    /// Cuts the connection that carries the byte that comes so many bytes after those that have gone by now.
    pub fn cut_after(&self, bytes: u64) {
        let at = *self.shared.gone.lock().unwrap() + bytes;
        self.shared.cuts.lock().unwrap().push_back(at);
    }

    /// Takes back the cuts that were not made.
    pub fn heal(&self) {
        self.shared.cuts.lock().unwrap().clear();
    }

    /// From now on each connection carries so many bytes per second at most, in the direction in which this proxy counts.
    pub fn slow_down(&self, bytes_per_s: u64) {
        self.shared.rate.store(bytes_per_s, SeqCst);
    }

    /// New connections carry everything so many milliseconds later, both ways, and as fast as it comes. They are never cut.
    pub fn lengthen(&self, by_ms: u64) {
        self.shared.late_by.store(by_ms, SeqCst);
    }

    /// From now on the connections that are there carry nothing, and stay open.
    pub fn silence(&self) {
        self.shared.silent_below.store(self.accepted(), SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, counted: bool, number: u32, shared: &Shared) {
    let mut buffer = [0; 16 << 10];
    let _ = from.set_read_timeout(Some(Duration::from_millis(20)));
    let end = |from: &TcpStream, to: &TcpStream| {
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    };
    loop {
        if shared.stop.load(SeqCst) || number < shared.cut_below.load(SeqCst) {
            return end(&from, &to);
        }
        if number < shared.silent_below.load(SeqCst) {
            sleep(Duration::from_millis(50));
            continue;
        }
        let n = match from.read(&mut buffer) {
            Ok(0) => return end(&from, &to),
            Ok(n) => n,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => continue,
            Err(_) => return end(&from, &to),
        };
        let mut allowed = n;
        let mut cut = false;
        if counted {
            let mut gone = shared.gone.lock().unwrap();
            let mut cuts = shared.cuts.lock().unwrap();
            if let Some(at) = cuts.front().copied().filter(|at| *gone + n as u64 > *at) {
                cuts.pop_front();
                allowed = at.saturating_sub(*gone) as usize;
                cut = true;
            }
            *gone += allowed as u64;
        }
        let rate = shared.rate.load(SeqCst);
        if counted && rate > 0 {
            sleep(Duration::from_secs_f64(allowed as f64 / rate as f64));
        }
        let written = to.write_all(&buffer[..allowed]);
        if cut {
            shared.cut.fetch_add(1, SeqCst);
        }
        if cut || written.is_err() {
            return end(&from, &to);
        }
    }
}

/// Reads at once what comes, so that no buffer before it is ever full, and writes it when its time has come.
fn carry_late(mut from: TcpStream, mut to: TcpStream, by: Duration) {
    let (come, due) = mpsc::channel::<(Instant, Vec<u8>)>();
    spawn(move || {
        for (at, bytes) in due {
            sleep(at.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let mut buffer = [0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if come.send((Instant::now() + by, buffer[..n].to_vec())).is_err() {
            return;
        }
    }
}
