//! An upgrade of one side first: either side takes the other for one of the first release. What that had works as ever, what
//! it had not is not asked for, and said.

use std::collections::BTreeSet;

use jiff::Timestamp;
use zmigrate::{
    driver::{Direction, ProbeOptions, UpkeepOptions, probe, upkeep},
    pipe::{probe::repeated, sample},
    types::FailureClass,
    wire::message::{Compression, Request},
};

use crate::{
    clock::run,
    transfers::{history, more_history},
    wire::Trouble,
    world::{SOURCE, World, ds, upkeep_options},
};

async fn tree(direction: Direction) {
    let mut world = World::new(direction).await;
    world.link.of_the_first_release();
    history(&mut world).await;
    let options = world.recursive();
    // Two connections break on the way: what is attached again is agreed on anew.
    world.link.expect([Trouble::default(), Trouble::cut_sent(8_000), Trouble::cut_heard(8_000)]);
    let report = world.run(&options).await;
    assert_eq!(report.exit_code, 0, "{report:?}");
    more_history(&mut world).await;
    let before = world.guids().await;
    let report = world.run(&options).await;
    assert_eq!(report.exit_code, 0, "{report:?}");
    world.safe(&before).await.unwrap();
    world.complete(true).await.unwrap();
    assert_ne!(before, BTreeSet::new());
}

#[test]
fn a_tree_is_pushed_to_the_first_release() {
    run(tree(Direction::Push));
}

#[test]
fn a_tree_is_pulled_from_the_first_release() {
    run(tree(Direction::Pull));
}

#[test]
fn what_came_later_is_not_asked_of_it_and_is_said() {
    run(async {
        let mut world = World::new(Direction::Push).await;
        world.link.of_the_first_release();
        for second in 0..3 {
            world.source.zfs.write(&ds(SOURCE), 7, 0, &[second]);
            world.snapshot(&format!("{SOURCE}@db_2026-11-26T04:00:0{second}Z"), false).await;
        }
        assert_eq!(world.run(&world.options()).await.exit_code, 0);
        let before = world.guids().await;
        let options = UpkeepOptions {
            keep_target: Some("last 1".parse().unwrap()),
            now: Timestamp::now(),
            ..upkeep_options(Direction::Push)
        };
        let found = upkeep(&world.context(), &options, &|_| Ok(())).await.unwrap();
        assert_eq!(
            (found.destroyed(), found.notes.as_slice()),
            (0, &["far is too old to prune; upgrade zmigrate there".to_owned()][..])
        );
        assert_eq!(world.guids().await, before);
        let (stream, probed) = repeated(sample::text(1 << 20, 1), 1 << 20);
        let options = ProbeOptions {
            stream: (stream, probed),
            name: "an input".into(),
            size_bytes: None,
            compression: Compression::Auto,
            bwlimit_bytes_per_s: None,
        };
        let failure = probe(&world.context(), options).await.unwrap_err();
        assert!(failure.to_string().contains("has no probes"), "{failure:?}");
    });
}

/// A peer does not do what the two sides have not agreed on: the other may be one that means something else by it.
#[test]
fn what_was_not_agreed_on_is_refused() {
    run(async {
        let world = World::new(Direction::Push).await;
        let ask = async |request: Request| {
            let client = world.client().await;
            client.call(request).await
        };
        ask(Request::About).await.unwrap();
        world.link.of_the_first_release();
        let failure = ask(Request::About).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Protocol, "{failure:?}");
        assert!(failure.to_string().contains("have not agreed on"), "{failure}");
    });
}
