//! Cutovers over a long link: what an outage costs there is round trips.

use tokio::time::Instant;

use super::*;
use crate::clock::run_alone;

/// One way.
const LATENCY: Duration = Duration::from_millis(50);

/// How long the writer stood still, in round trips; its hosts take no time at all.
fn outage(from_near: bool) -> f64 {
    run_alone(async {
        let mut sides = Sides::alone(from_near);
        sides.latency = LATENCY;
        let times: Arc<Mutex<Vec<(HookVerb, Instant)>>> = Arc::default();
        let seen = Arc::clone(&times);
        let note = move |call: &HookCall| seen.lock().unwrap().push((call.verb, Instant::now()));
        *sides.writer.beside.lock().unwrap() = Some(Box::new(note));
        let daemon = sides.daemon();
        assert_eq!(sides.lead(&daemon, None).await, (End::Over, Phase::Done));
        assert!(sides.judge().await);
        let times = times.lock().unwrap();
        let at = |wanted| times.iter().find(|(verb, _)| *verb == wanted).map(|(_, at)| *at).unwrap();
        at(HookVerb::Start).duration_since(at(HookVerb::Stop)).as_secs_f64() / (2.0 * LATENCY.as_secs_f64())
    })
}

/// Three datasets, each below the other, so that two streams follow each other: the first of them meets channels that are still
/// being dialled, since arming takes no time here. Then the look at both sides, and half a round trip for the decision. From a source
/// at the peer also the words to fence it and to take the final snapshot, its listing, and half a one that they travel.
#[test]
fn an_outage_over_a_long_link_takes_few_round_trips() {
    let (push, pull) = (outage(true), outage(false));
    println!("{push} round trips with the source here, {pull} with it at the peer");
    assert!(push <= 5.5, "{push} round trips with the source here");
    assert!(pull <= 8.5, "{pull} round trips with the source at the peer");
}
