//! `zmigrate probe`.

use std::{fmt::Write, fs::File, path::Path, time::UNIX_EPOCH};

use super::{
    args::{Global, Probe, ProbeData},
    output::{Output, runtime},
    progress::{saved_percent, show},
    replicate::{run_context, stop_on_signal},
};
use crate::{
    driver::{ProbeOptions, ProbeReport, probe},
    limits::PROBE_POOL,
    pipe::{
        probe::{BLOCK, around, file, repeated},
        sample,
    },
    types::{Failure, FailureClass, human_bytes, human_rate},
};

pub fn run(global: &Global, args: Probe, output: &Output) -> Result<u8, Failure> {
    let context = run_context(global, &args.peer, args.transport.streams)?;
    let (stream, size_bytes) = match &args.input {
        Some(path) if path == Path::new("-") => (around(Box::new(std::io::stdin())), None),
        Some(path) => {
            let failed =
                |e: std::io::Error| Failure::new(FailureClass::Usage, format!("cannot read {}: {e}", path.display()));
            let input = File::open(path).map_err(failed)?;
            let meta = input.metadata().map_err(failed)?;
            (file(input).map_err(failed)?, meta.is_file().then_some(meta.len()))
        }
        None => {
            let len = (args.bytes.0.min(PROBE_POOL as u64) as usize).next_multiple_of(BLOCK);
            // What is sent must differ from probe to probe, should something on the way remember it.
            let seed = UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as u64);
            let pool = match args.data {
                ProbeData::Random => sample::random(len, seed),
                ProbeData::Text => sample::text(len, seed),
            };
            (repeated(pool, args.bytes.0), Some(args.bytes.0))
        }
    };
    let name = match &args.input {
        None => "what is made up".to_owned(),
        Some(path) if path == Path::new("-") => "stdin".to_owned(),
        Some(path) => path.display().to_string(),
    };
    let options = ProbeOptions {
        stream,
        name,
        size_bytes,
        compression: args.transport.compress,
        bwlimit_bytes_per_s: args.transport.bwlimit.map(|limit| limit.0),
    };
    let runtime = runtime()?;
    let report = runtime.block_on(async {
        let progress = show(args.transport.progress, global.quiet, std::sync::Arc::clone(&context.board));
        tokio::spawn(stop_on_signal(context.stop.clone()));
        let report = probe(&context, options).await;
        drop(progress);
        report
    });
    // A thread that hangs in a read must not keep the command.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    let report = report?;
    output.result(&report, text(&report));
    Ok(report.exit_code)
}

/// The result for people.
fn text(report: &ProbeReport) -> String {
    let mut text = String::new();
    // Writing into a String does not fail.
    let _ = write_text(&mut text, report);
    text
}

fn write_text(to: &mut String, r: &ProbeReport) -> std::fmt::Result {
    write!(to, "{}: {} in {:.2} s, {}", r.peer, human_bytes(r.raw_bytes), r.seconds, human_rate(r.raw_bytes_per_s))?;
    match saved_percent(r.raw_bytes, r.wire_bytes) {
        Some(saved) => {
            let (bytes, rate) = (human_bytes(r.wire_bytes), human_rate(r.wire_bytes_per_s));
            writeln!(to, "; {bytes} on the wire, {rate}, {saved} % saved")?;
        }
        None => writeln!(to)?,
    }
    let ms = |rtt: Option<f64>| rtt.map_or("unknown".to_owned(), |ms| format!("{ms:.2} ms"));
    writeln!(to, "round trip {}, {} under load", ms(r.rtt_ms), ms(r.rtt_loaded_ms))?;
    writeln!(to, "held back by {}", r.held_back_by.sentence())?;
    let percent = |s: f64| format!("{:.0} %", 100.0 * s / r.seconds.max(1e-6));
    let s = &r.sender;
    writeln!(
        to,
        "sender:   reading {}, verifying {}; compressing {}, waiting for input {}, for room {}; writing to the network {}",
        percent(s.reading_s),
        percent(s.judging_s),
        percent(s.packing_s),
        percent(s.input_s),
        percent(s.credit_s),
        percent(s.carrying_s),
    )?;
    let t = &r.receiver;
    writeln!(
        to,
        "receiver: waiting for input {}, decompressing {}, verifying {}, writing {}",
        percent(t.input_s),
        percent(t.unpacking_s),
        percent(t.judging_s),
        percent(t.writing_s),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        driver::ReceiverSeconds,
        pipe::times::{HeldBack, SenderTimes},
    };

    #[test]
    fn the_result_for_people() {
        let report = ProbeReport {
            result: "done",
            exit_code: 0,
            peer: "west".into(),
            agent: "zmigrate".into(),
            streams: 1,
            raw_bytes: 1 << 30,
            wire_bytes: 300 << 20,
            seconds: 2.0,
            raw_bytes_per_s: 512 << 20,
            wire_bytes_per_s: 150 << 20,
            rtt_ms: Some(0.25),
            rtt_loaded_ms: None,
            held_back_by: HeldBack::Compressing,
            sender: SenderTimes { packing_s: 1.9, ..SenderTimes::default() },
            receiver: ReceiverSeconds { input_s: 1.0, unpacking_s: 0.5, judging_s: 0.5, writing_s: 0.0 },
        };
        insta::assert_snapshot!(text(&report), @r"
        west: 1.00 GiB in 2.00 s, 512 MiB/s; 300 MiB on the wire, 150 MiB/s, 70 % saved
        round trip 0.25 ms, unknown under load
        held back by the sender's processor: compressing; --compress none or a lower level may be faster
        sender:   reading 0 %, verifying 0 %; compressing 95 %, waiting for input 0 %, for room 0 %; writing to the network 0 %
        receiver: waiting for input 50 %, decompressing 25 %, verifying 25 %, writing 0 %
        ");
    }
}
