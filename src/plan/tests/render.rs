//! What `--dry-run` shows, pinned.

use super::support::*;
use crate::plan::{RenderOptions, Step};

fn rendered(c: &Case) -> String {
    let size = |step: &Step| (!step.creates_target).then_some(3 << 29);
    c.plan().render(&RenderOptions { source_prefix: "", target_prefix: "dc2:", size: &size })
}

#[test]
fn work_of_every_kind() {
    let source = [
        ds("tank/db").snaps("a b"),
        ds("tank/db/book").snaps("a b").without("a").bookmark("zmigrate:nightly:97", guid("a"), 10),
        ds("tank/db/clone").origin("tank/db@a").snaps("x"),
        ds("tank/db/empty"),
        ds("tank/db/empty/below").snaps("a").encrypted("tank/db/empty/below", false),
        ds("tank/db/half").snaps("a b"),
        ds("tank/db/dead").snaps("a b"),
        ds("tank/db/rolled").snaps("a b"),
        ds("tank/db/same").snaps("a"),
        ds("tank/db/was-empty").snaps("a"),
    ];
    let target = [
        ds("backup/db").snaps("a"),
        ds("backup/db/book").snaps("a"),
        ds("backup/db/dead").snaps("a").token(&token("tank/db/dead@q", guid("q"), Some(guid("a")), &[])),
        ds("backup/db/half").snaps("a").token(&token("tank/db/half@b", guid("b"), Some(guid("a")), &[])),
        ds("backup/db/own").snaps("q"),
        ds("backup/db/rolled").snaps("a 1 2 3 4 5 6 7 8 9 10"),
        ds("backup/db/same").snaps("a").written(5),
        ds("backup/db/was-empty").placeholder(),
    ];
    insta::assert_snapshot!(rendered(&case(source, target).recursive().rollback()));
}

#[test]
fn refusals() {
    let source = [
        ds("tank/db").snaps("a"),
        ds("tank/db/diverged").snaps("a b"),
        ds("tank/db/fenced").snaps("a b"),
        ds("tank/db/foreign").snaps("a b"),
        ds("tank/db/full").snaps("a"),
        ds("tank/db/modified").snaps("a b"),
        ds("tank/db/secret").snaps("a b").encrypted("tank/db/secret", true),
        ds("tank/db/taken").snaps("a b"),
        ds("tank/db/vol").snaps("a").volume(),
    ];
    let target = [
        ds("backup/db").snaps("a"),
        ds("backup/db/diverged").snaps("a x"),
        ds("backup/db/fenced").snaps("a").set("zmigrate:fence", "c7:3"),
        ds("backup/db/foreign").snaps("q"),
        ds("backup/db/full").placeholder(),
        ds("backup/db/full/child"),
        ds("backup/db/modified").snaps("a").written(123_456),
        ds("backup/db/secret").snaps("a"),
        ds("backup/db/taken").snap("b", 9).snaps("a"),
        ds("backup/db/vol").snaps("a"),
    ];
    insta::assert_snapshot!(rendered(&case(source, target).recursive()));
}
