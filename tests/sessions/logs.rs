//! What a run says can be told from what others say at the same time.

use std::{
    io::Write,
    sync::{Arc, Mutex, Once},
};

use serde_json::Value;
use tracing::Instrument;
use zmigrate::driver::Direction;

use crate::{
    clock::{Dice, run},
    wire::Trouble,
    world::{SOURCE, World, ds},
};

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Everything that was logged, as `--log-json` writes it.
fn logged(test: impl Future<Output = ()>) -> Vec<Value> {
    // A line that another test comes to first, on a thread where nobody listens, would never be told to anybody else: so there somebody does.
    static LISTENS: Once = Once::new();
    LISTENS.call_once(|| drop(tracing::subscriber::set_global_default(tracing_subscriber::registry())));
    let lines = Lines::default();
    let writer = lines.clone();
    let json = tracing_subscriber::fmt().json().with_max_level(tracing::Level::INFO);
    let subscriber = json.with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || run(test));
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_line_of_a_run_says_whose_it_is() {
    for direction in [Direction::Push, Direction::Pull] {
        let lines = logged(async {
            let mut world = World::new(direction).await;
            world.source.zfs.write(&ds(SOURCE), 7, 0, &Dice::new(9).bytes(500_000));
            world.snapshot("src/a@1", false).await;
            // The control connection lives; that of the transfer is cut in the middle.
            let cut =
                if direction == Direction::Push { Trouble::cut_sent(100_000) } else { Trouble::cut_heard(100_000) };
            world.link.expect([Trouble::default(), cut]);
            let options = world.options();
            let span = tracing::info_span!("job", job = "db", run = "r1", dataset = "src");
            let report = world.run(&options).instrument(span).await;
            assert_eq!(report.exit_code, 0, "{report:?}");
        });
        // The daemon of the other side lives in this process, too.
        let of_the_run = |line: &&Value| line["target"] != "zmigrate::session::registry";
        let lines: Vec<_> = lines.iter().filter(of_the_run).collect();
        let says = |words: &str| lines.iter().any(|line| line["fields"]["message"].as_str().unwrap().contains(words));
        assert!(says("dialing again") && says("connected again"), "{lines:?}");
        for line in &lines {
            let spans = line["spans"].as_array().unwrap_or_else(|| panic!("no span: {line}"));
            let of = |name: &str| spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((&of("job")["job"], &of("job")["run"]), (&"db".into(), &"r1".into()), "{line}");
            // Both are of the transfer's connection.
            assert_eq!(of("transfer")["dataset"], SOURCE, "{line}");
        }
    }
}
