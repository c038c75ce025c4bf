//! A bad link: a TCP proxy that cuts connections at given bytes, or falls silent without closing them.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread::{sleep, spawn},
    time::Duration,
};

#[derive(Default)]
struct Shared {
    /// Connections are cut when so many bytes have gone upstream in all, in ascending order.
    cuts: Mutex<VecDeque<u64>>,
    upstream: Mutex<u64>,
    cut: AtomicU32,
    accepted: AtomicU32,
    stop: AtomicBool,
    /// Connections with a lower number are silent.
    silent_below: AtomicU32,
    /// Connections with a lower number are cut.
    cut_below: AtomicU32,
}

/// See the module. It ends when dropped.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn to(upstream: u16, cuts: &[u64]) -> Proxy {
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
                for (from, to, counted) in [(&client, &server, true), (&server, &client, false)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let shared = Arc::clone(&accepting);
                    spawn(move || pump(from, to, counted, number, &shared));
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

    /// Cuts all connections that are there.
    pub fn cut_now(&self) {
        self.shared.cut_below.store(self.accepted(), SeqCst);
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

fn pump(mut from: TcpStream, mut to: TcpStream, upstream: bool, number: u32, shared: &Shared) {
    let mut buffer = [0; 16 << 10];
    let _ = from.set_read_timeout(Some(Duration::from_millis(100)));
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
        if upstream {
            let mut gone = shared.upstream.lock().unwrap();
            let mut cuts = shared.cuts.lock().unwrap();
            if let Some(at) = cuts.front().copied().filter(|at| *gone + n as u64 > *at) {
                cuts.pop_front();
                allowed = at.saturating_sub(*gone) as usize;
                cut = true;
            }
            *gone += allowed as u64;
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
