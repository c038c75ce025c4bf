use super::*;

#[test]
fn a_clock_that_is_far_from_the_peers_makes_no_snapshot_old() {
    let now: Timestamp = "2030-11-26T04:00:00Z".parse().unwrap();
    let years = SignedDuration::from_hours(4 * 365 * 24);
    // This host's is ahead; then the peer's is.
    assert_eq!(judged_at(now, -(years.as_millis() as i64)), now - years);
    assert_eq!(judged_at(now, years.as_millis() as i64), now);
    // A minute is none.
    assert_eq!(judged_at(now, -60_000), now);
    assert_eq!(judged_at(now, i64::MIN), Timestamp::MIN);
}

#[test]
fn of_targets_that_may_have_been_given_up_the_one_that_keeps_most_is_told() {
    let [root, a, b]: [DatasetName; 3] = ["tank/db", "tank/db/a", "tank/db/b"].map(|name| name.parse().unwrap());
    let kept = |job: &str, snapshots| KeptFor { job: job.into(), snapshots, behind_s: 40 * 86_400 + 5 };
    assert_eq!(given_up(&root, &[]), None);
    let said = given_up(&root, &[(kept("aaaa0001", 3), &a), (kept("aaaa0002", 9), &b), (kept("aaaa0001", 7), &b)]);
    insta::assert_snapshot!(said.unwrap(), @"10 snapshots of 2 datasets at or below tank/db stay only for the target of job aaaa0001, which has got nothing newer for 40 days; if it was given up, `zmigrate state release tank/db --job aaaa0001` shows what keeps them, and with --yes lets go of it");
    let said = given_up(&root, &[(kept("aaaa0001", 3), &a)]).unwrap();
    assert!(said.starts_with("3 snapshots of tank/db/a stay only"), "{said}");
}
