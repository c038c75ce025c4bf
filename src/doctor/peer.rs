//! The way to a peer, step by step, and what the peer tells of itself.

use std::time::Duration;

use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};

use super::{Checks, Other, PATIENCE, rough, zfs};
use crate::{
    limits::HANDSHAKE_TIMEOUT,
    session::client::{AGENT, Client},
    types::{Failure, FailureClass},
    wire::{
        hello::features,
        message::{About, Reply, Request},
    },
};

/// A difference of clocks from which certificates of a new node, and the times in names, begin to mislead.
const SKEW: Duration = Duration::from_secs(60);
/// Round trips that are measured; the shortest counts.
const ROUND_TRIPS: u32 = 5;

pub(super) async fn all(checks: &mut Checks, other: &Other) {
    if !reachable(checks, other).await {
        return;
    }
    let options = crate::session::client::ClientOptions { connect_for: Duration::ZERO, ..other.client.clone() };
    let client = match Client::connect(std::sync::Arc::clone(&other.link), &options).await {
        Ok(client) => client,
        Err(failure) => {
            return checks.failure("peer", failure, "run `zmigrate doctor` there, too; its log says why it refused");
        }
    };
    agreed(checks, other, &client).await;
    if client.has(features::ABOUT) {
        match timeout(3 * PATIENCE, client.call(Request::About)).await {
            Ok(Ok(Reply::About(about))) => told(checks, other, &about),
            Ok(Ok(_)) => {
                let failure =
                    Failure::new(FailureClass::Protocol, "the peer answered something else than it was asked");
                checks.failure("peer zfs", failure, "compare the versions of zmigrate on both sides");
            }
            Ok(Err(failure)) => checks.failure("peer zfs", failure, "run `zmigrate doctor` there"),
            Err(_) => checks.fail(
                "peer zfs",
                FailureClass::Zfs,
                format!("its ZFS gave no answer within {} s", 3 * PATIENCE.as_secs()),
                "look at `zpool status` and `dmesg` there: a pool may be suspended",
            ),
        }
    } else {
        checks.warn(
            "peer zfs",
            format!("{} is too old to tell its ZFS, its pools, and what it grants us", client.agent()),
            "run `zmigrate doctor` there, or update zmigrate there",
        );
    }
    client.bye().await;
}

/// Name and TCP.
async fn reachable(checks: &mut Checks, other: &Other) -> bool {
    let endpoint = &other.endpoint;
    let looked_up = timeout(HANDSHAKE_TIMEOUT, lookup_host((endpoint.host.as_str(), endpoint.port))).await;
    let addresses: Vec<_> = match looked_up {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(e)) => {
            let hint = format!(
                "correct the address of {} in the configuration, or the name service (`getent hosts {}`)",
                other.name, endpoint.host
            );
            checks.fail(
                "peer",
                FailureClass::Unreachable,
                format!("the name {} cannot be resolved: {e}", endpoint.host),
                hint,
            );
            return false;
        }
        Err(_) => {
            let text = format!(
                "the name service gave no answer for {} within {} s",
                endpoint.host,
                HANDSHAKE_TIMEOUT.as_secs()
            );
            checks.fail(
                "peer",
                FailureClass::Unreachable,
                text,
                "look at /etc/resolv.conf and the network of this host",
            );
            return false;
        }
    };
    let mut last = "it resolves to no address".to_owned();
    for address in addresses {
        let began = Instant::now();
        match timeout(HANDSHAKE_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                let ms = milliseconds(began.elapsed());
                checks.facts.connect_ms = Some(ms);
                checks.ok("peer", format!("{} is {address}; TCP connects in {ms} ms", other.name));
                return true;
            }
            Ok(Err(e)) => last = format!("{address}: {e}"),
            Err(_) => last = format!("{address}: no answer within {} s", HANDSHAKE_TIMEOUT.as_secs()),
        }
    }
    let hint = if last.contains("refused") {
        "the host answers and nothing listens there: start zmigrated, or correct the port"
    } else {
        "check that the host runs, the address, and the firewall between (TCP port 8551 unless told otherwise)"
    };
    checks.fail("peer", FailureClass::Unreachable, format!("{} cannot be reached: {last}", other.name), hint);
    false
}

/// What the handshake told, and the time that a request takes.
async fn agreed(checks: &mut Checks, other: &Other, client: &Client) {
    let identity = client.identity().to_string();
    checks.ok("peer", format!("TLS is up; the peer proved to be {identity}, and takes us for one of its own"));
    let striping = if client.has(features::STRIPING) { "striping" } else { "no striping" };
    let about = if client.has(features::ABOUT) { "self-description" } else { "no self-description" };
    let text =
        format!("it runs {}, we {AGENT}; protocol version {}, {striping}, {about}", client.agent(), client.version());
    checks.ok("peer", text);
    checks.facts.peer_identity = Some(identity);
    checks.facts.peer_agent = Some(client.agent().to_owned());
    checks.facts.protocol = Some(client.version());
    let mut shortest: Option<Duration> = None;
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        // Cancelling what does not exist is the smallest request that every version answers.
        let answer = timeout(PATIENCE, client.call(Request::Cancel { channel: u32::MAX })).await;
        match answer {
            Ok(Ok(_)) => shortest = Some(shortest.map_or(began.elapsed(), |s| s.min(began.elapsed()))),
            Ok(Err(failure)) => return checks.failure("peer", failure, "run it again"),
            Err(_) => {
                let text = format!("no answer to a request within {} s", PATIENCE.as_secs());
                return checks.fail(
                    "peer",
                    FailureClass::Unreachable,
                    text,
                    "look at the load and the log of the peer",
                );
            }
        }
    }
    if let Some(shortest) = shortest {
        let ms = milliseconds(shortest);
        checks.facts.round_trip_ms = Some(ms);
        checks.ok("peer", format!("a request takes {ms} ms there and back"));
    }
    let skew_ms = client.clock_skew_ms();
    checks.facts.clock_skew_ms = Some(skew_ms);
    let skew = Duration::from_millis(skew_ms.unsigned_abs());
    let direction = if skew_ms > 0 { "ahead of" } else { "behind" };
    if skew > SKEW {
        let text = format!("its clock is {} {direction} ours", rough(skew));
        checks.warn(
            "peer",
            text,
            format!("set the clock of whichever is wrong (`timedatectl set-ntp true` here and on {})", other.name),
        );
    } else {
        checks.ok("peer", format!("its clock is {:.1} s {direction} ours", skew.as_secs_f64()));
    }
}

/// What it said of itself.
fn told(checks: &mut Checks, other: &Other, about: &About) {
    if about.grants.is_empty() {
        checks.fail(
            "peer grant",
            FailureClass::NotGranted,
            format!("{} knows us and grants us no dataset", other.name),
            "there, add datasets to `push` or `pull` under [grant] for this node",
        );
    }
    for (access, dataset) in &about.grants {
        checks.ok("peer grant", format!("{access} of {dataset}"));
    }
    zfs::version(checks, "peer zfs", &about.version);
    let mut lacking = Vec::new();
    for pool in &about.pools {
        zfs::pool(checks, "peer pool", &pool.status);
        lacking.extend(pool.capabilities.clone().map(|can| (pool.status.name.clone(), can)));
    }
    zfs::lacks(checks, "peer zfs", &lacking);
    for (access, dataset) in &about.grants {
        if !about.pools.iter().any(|pool| pool.status.name == dataset.pool()) {
            let text = format!("{access} of {dataset} is granted, and its pool is not imported there");
            checks.warn("peer grant", text, "import the pool there, or correct the name in its configuration");
        }
    }
}

/// Rounded to hundredths.
fn milliseconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 100_000.0).round() / 100.0
}
