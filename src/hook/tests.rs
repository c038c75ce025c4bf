use proptest::prelude::*;

use super::*;
use crate::{
    cutover::leg::{CutoverId, Epoch, Leg, Side},
    limits::{MAX_HOOK_DATASETS, MAX_HOOK_LINE, MAX_HOOK_OUTPUT},
};

fn call(datasets: &[&str]) -> HookCall {
    HookCall {
        name: "db".parse().unwrap(),
        verb: HookVerb::Stop,
        leg: Leg { id: CutoverId(0x4f2a), epoch: Epoch(3) },
        side: Side::Source,
        datasets: datasets.iter().map(|d| d.parse().unwrap()).collect(),
    }
}

#[test]
fn a_name_can_be_neither_an_option_nor_a_part_of_a_path() {
    for good in ["postgresql@15-main.service", "a.socket", "dev-disk\\x2d1.mount", "var-lib.mount", "x:y_z.target"] {
        assert!(good.parse::<UnitName>().is_ok(), "{good}");
    }
    for bad in [
        "",
        "postgresql",
        "-a.service",
        "a b.service",
        "a.service\n",
        "../a.service",
        "db@.service",
        "a.conf",
        ".service",
    ] {
        assert!(bad.parse::<UnitName>().is_err(), "{bad:?} was taken");
    }
    for (name, good) in
        [("web-1", true), ("a.b_c", true), ("", false), ("-x", false), ("a/b", false), ("..", false), ("a?t=1", false)]
    {
        assert_eq!(name.parse::<ContainerName>().is_ok(), good, "{name:?}");
        assert_eq!(name.parse::<HookName>().is_ok(), good, "{name:?}");
    }
}

#[test]
fn a_command_is_a_path_and_a_bounded_list_of_words() {
    let words = |list: &[&str]| Argv::new(list.iter().map(|w| (*w).to_owned()).collect());
    let argv = words(&["/bin/true", "-x", ""]).unwrap();
    assert_eq!((argv.program(), argv.args().len()), ("/bin/true", 2));
    for bad in [&[][..], &["true"], &["./true"], &["/bin/"], &["/bin/true", "a\0b"]] {
        assert!(words(bad).is_err(), "{bad:?} was taken");
    }
    assert!(words(&["/x"; 65]).is_err() && words(&["/x"; 64]).is_ok());
    assert!(words(&["/x", &"y".repeat(4097)]).is_err());
}

#[test]
fn a_command_is_told_its_cutover_and_nothing_of_ours() {
    let told = environment(&call(&["tank/db", "tank/db/wal"])).unwrap();
    let told: Vec<String> = told.iter().map(|(key, value)| format!("{key}={value}")).collect();
    insta::assert_snapshot!(told.join("\n"), @r"
    LC_ALL=C
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    ZMIGRATE_CUTOVER_ID=00004f2a
    ZMIGRATE_DATASETS=tank/db tank/db/wal
    ZMIGRATE_EPOCH=3
    ZMIGRATE_PHASE=stop
    ZMIGRATE_SIDE=source
    ");
}

#[test]
fn names_that_do_not_fit_are_refused_instead_of_cut() {
    let long = format!("tank/{}", "x".repeat(200));
    let many = vec![long.as_str(); MAX_HOOK_DATASETS / 200];
    let refused = environment(&call(&many)).unwrap_err();
    assert!(refused.to_string().contains("more than the 65536"), "{refused}");
}

#[test]
fn an_error_names_the_hook_the_verb_the_cause_and_the_last_words() {
    let mut error = HookError {
        name: "db".parse().unwrap(),
        verb: HookVerb::Stop,
        kind: HookErrorKind::Failed,
        cause: "exit status 3".to_owned(),
        output: HookOutput::default(),
    };
    assert_eq!(error.to_string(), "hook db (stop) failed: exit status 3");
    error.output.lines = (1..=7).map(|n| format!("line {n}")).collect();
    let shown = "hook db (stop) failed: exit status 3; last output: line 3 | line 4 | line 5 | line 6 | line 7";
    assert_eq!(error.to_string(), shown);
}

#[test]
fn what_systemctl_prints_is_understood_or_unknown() {
    for (printed, state) in [
        ("active\n", UnitState::Active),
        ("inactive\n", UnitState::Stopped),
        ("failed\n", UnitState::Stopped),
        ("deactivating\n", UnitState::Changing),
        ("unknown\n", UnitState::Unknown),
        ("", UnitState::Unknown),
        ("active (running)", UnitState::Unknown),
    ] {
        assert_eq!(UnitState::parse(printed), state, "{printed:?}");
    }
}

#[test]
fn lines_are_made_harmless_and_the_last_ones_kept() {
    let mut tail = Tail::default();
    assert_eq!(tail.push(b"one\ntw"), ["one"]);
    assert_eq!(tail.push(b"o\r\n\x1b[2Jx\ty\n"), ["two", "\u{fffd}[2Jx y"]);
    assert_eq!(tail.push(b"end"), [""; 0]);
    assert_eq!(tail.close().as_deref(), Some("end"));
    assert_eq!(tail.lines(), ["one", "two", "\u{fffd}[2Jx y", "end"]);
}

proptest! {
    #[test]
    fn whatever_is_said_is_bounded(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..12)) {
        let mut tail = Tail::default();
        for piece in &pieces {
            for line in tail.push(piece) {
                prop_assert!(line.len() <= MAX_HOOK_LINE && !line.chars().any(char::is_control));
            }
            let kept: usize = tail.lines().iter().map(String::len).sum();
            prop_assert!(kept <= MAX_HOOK_OUTPUT);
        }
    }
}
