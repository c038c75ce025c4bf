//! A token is used only if it says what the plan says.

use super::support::*;
use crate::types::Guid;

/// `tank/db` with a, b, c; the target has a, and the state of an interrupted receive.
fn onto_a(token: &str) -> Case {
    case([ds("tank/db").snaps("a b c")], [ds("backup/db").snaps("a").token(token)])
}
fn first(c: &Case) -> String {
    c.lines()[0].clone()
}
fn to_b(flags: &[&str]) -> String {
    token("tank/db@b", guid("b"), Some(guid("a")), flags)
}

#[test]
fn a_fitting_token_is_gone_on_with() {
    let c = onto_a(&to_b(&["compressok"]));
    assert_eq!(
        c.lines(),
        ["tank/db@b -> backup/db@b from tank/db@a resumed", "tank/db@c -> backup/db@c from tank/db@b"]
    );
    let plan = c.plan();
    let steps: Vec<_> = plan.datasets[0].steps().collect();
    assert!(steps[0].flags.compressed && !steps[0].flags.large_block, "as the token says");
    assert!(steps[1].flags.large_block, "as the plan says");
    assert!(matches!(steps[0].send_spec(), crate::types::transfer::SendSpec::Resume { .. }));
}

#[test]
fn a_first_receive_is_gone_on_with() {
    let target = ds("backup/db").inconsistent().token(&token("tank/db@a", guid("a"), None, &[]));
    assert_eq!(
        case([ds("tank/db").snaps("a b")], [target]).lines(),
        ["tank/db@a -> backup/db@a full resumed new", "tank/db@b -> backup/db@b from tank/db@a"]
    );
}

#[test]
fn the_newest_goes_on_from_an_older_resumed_one() {
    assert_eq!(
        onto_a(&to_b(&[])).newest().lines(),
        ["tank/db@b -> backup/db@b from tank/db@a resumed", "tank/db@c -> backup/db@c from tank/db@b"]
    );
    let to_c = token("tank/db@c", guid("c"), Some(guid("a")), &[]);
    assert_eq!(onto_a(&to_c).newest().lines(), ["tank/db@c -> backup/db@c from tank/db@a resumed"]);
    assert!(first(&onto_a(&to_c)).starts_with("abort: it is for tank/db@c"), "@b would be missing");
}

#[test]
fn a_token_for_a_name_that_is_taken_is_aborted() {
    let mut c = onto_a(&to_b(&[])).newest();
    c.target[0] = ds("backup/db").snap("b", 5).snaps("a").token(&to_b(&[]));
    let lines = c.lines();
    assert!(lines[0].starts_with("abort: the target has another snapshot that is called @b"), "{lines:?}");
    assert_eq!(lines[1], "tank/db@c -> backup/db@c from tank/db@a");
}

#[test]
fn what_does_not_fit_is_aborted_with_the_reason() {
    let reason = |token: &str| first(&onto_a(token));
    for (token, words) in [
        ("1-0-0-0".to_owned(), "abort: resume token"),
        (token("tank/db@b", Guid(9999), Some(guid("a")), &[]), "no longer on the source"),
        (token("tank/db@old", guid("b"), Some(guid("a")), &[]), "is now called tank/db@b"),
        (token("tank/was@b", guid("b"), Some(guid("a")), &[]), "is now called tank/db@b"),
        (token("tank/db@b", guid("b"), None, &[]), "it starts from nothing"),
        (token("tank/db@b", guid("b"), Some(Guid(5)), &[]), "it starts from the snapshot with GUID 5"),
        (token("tank/db@a", guid("a"), Some(guid("a")), &[]), "the next to be sent is @b"),
        (to_b(&["rawok"]), "it was sent raw"),
        (to_b(&["book_redact_snaps"]), "redacted"),
    ] {
        let line = reason(&token);
        assert!(line.starts_with("abort: ") && line.contains(words), "{words}: {line}");
        assert_eq!(onto_a(&token).lines()[1], "tank/db@b -> backup/db@b from tank/db@a", "started over");
    }
    let mut c = onto_a(&to_b(&[]));
    c.source_caps.send_resume = false;
    assert!(first(&c).starts_with("abort: "));
}

#[test]
fn a_dead_first_receive_is_aborted_and_not_taken_for_own_data() {
    let target = ds("backup/db").inconsistent();
    assert_eq!(
        case([ds("tank/db").snaps("a")], [target]).lines(),
        ["abort: an interrupted receive left it incomplete and without a token", "tank/db@a -> backup/db@a full new"]
    );
    let target = ds("backup/db").token(&token("tank/db@gone", Guid(7), None, &[]));
    let lines = case([ds("tank/db").snaps("a")], [target]).lines();
    assert!(lines[0].contains("no longer on the source") && lines[1].ends_with("full new"), "{lines:?}");
}

#[test]
fn a_clones_token_starts_from_the_origin() {
    let source =
        [ds("tank/db").snaps("r"), ds("tank/db/t").snaps("a"), ds("tank/db/c").origin("tank/db/t@a").snaps("x")];
    let target = |from| {
        let partial = ds("backup/db/c").inconsistent().token(&token("tank/db/c@x", guid("x"), from, &[]));
        [ds("backup/db").snaps("r"), ds("backup/db/t").snaps("a"), partial]
    };
    let last = |from| case(source.clone(), target(from)).recursive().lines().split_off(2);
    assert_eq!(
        last(Some(guid("a"))),
        ["tank/db/c@x -> backup/db/c@x from tank/db/t@a origin backup/db/t@a resumed new"]
    );
    assert!(last(None)[0].starts_with("abort: "));
}

#[test]
fn a_raw_token_goes_with_a_raw_plan() {
    let source = ds("tank/db").snaps("a b").encrypted("tank/db", false);
    let target = |flags: &[&str]| ds("backup/db").snaps("a").encrypted("backup/db", false).token(&to_b(flags));
    assert!(first(&case([source.clone()], [target(&["rawok"])])).ends_with("resumed"));
    assert!(first(&case([source], [target(&[])])).starts_with("abort: it was sent not raw"));
}

#[test]
fn a_rollback_throws_partial_state_away_first() {
    let mut c = onto_a(&to_b(&[])).rollback();
    c.target[0] = c.target[0].clone().written(1);
    let lines = c.lines();
    assert!(lines[0].starts_with("abort: ") && lines[1].starts_with("rollback "), "{lines:?}");
    // Without partial state there is nothing to abort.
    c.target[0].0.resume_token = None;
    assert!(c.lines()[0].starts_with("rollback "));
    c.target[0].0.resume_token = Some("-".into());
    assert!(c.lines()[0].starts_with("rollback "), "`-` is how zfs says: none");
}

#[test]
fn state_that_nothing_needs_is_left_alone() {
    let c = onto_a(&to_b(&[])).upto("a");
    assert_eq!(c.lines(), ["tank/db@a up to date"]);
    assert_eq!(c.plan().datasets[0].notes.len(), 1);
}
