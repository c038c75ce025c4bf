//! PostgreSQL moves between the guests while pgbench works on it, and every record that it has acknowledged is there afterwards.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::{cutover, writer::Declared};
use crate::world::{DIR, World};

const BIN: &str = "/usr/lib/postgresql/15/bin";
/// The clients know both guests, and ask the one that answers.
const CLIENT: &str = r#"#!/bin/bash
export PGHOST=node1,node2 PGUSER=postgres PGCONNECT_TIMEOUT=20
cd /
if [ "$1" = bench ]; then
  while :; do BIN/pgbench -n -c 2 -T 60 postgres; sleep 0.2; done
fi
# A record counts once the server has said that it is committed. One whose answer was lost may be there already.
n=1
while :; do
  if BIN/psql -qc "insert into records values ($n) on conflict do nothing" postgres; then
    echo $n >>DIR/acknowledged && n=$((n + 1))
  else
    sleep 0.1
  fi
done
"#;
const START: &str = r#"#!/bin/bash
at=$(zfs get -H -o value mountpoint "${ZMIGRATE_DATASETS%% *}")/pg
ctl() { cd / && runuser -u postgres -- BIN/pg_ctl -D "$at" "$@" >/dev/null; }
ctl status && exit 0
mkdir -p /run/postgresql && chown postgres /run/postgresql
echo "$at" >DIR/pg-at
ctl -w -t 240 -l /run/postgresql/log -o "-k /run/postgresql -c listen_addresses=0.0.0.0" start
"#;
const STOP: &str = r#"#!/bin/bash
at=$(cat DIR/pg-at 2>/dev/null) || exit 0
cd / && runuser -u postgres -- BIN/pg_ctl -D "$at" -m fast -w -t 240 stop >/dev/null || [ ! -e "$at/postmaster.pid" ]
"#;

/// Ends clients and servers when dropped.
struct Programs<'a>(&'a World);

impl Drop for Programs<'_> {
    fn drop(&mut self) {
        let _ = self.0.one.ask("pkill -9 -f [p]g-client.sh || true; pkill -9 -x pgbench || true");
        for guest in [self.0.one, self.0.two] {
            let _ = guest.ask(&format!("{DIR}/pg-stop.sh"));
        }
    }
}

pub fn moves_under_pgbench(w: &World) {
    let (source, target) = ("tank/src/pgdb", "tank/dst/pgdb");
    let scratch = tempfile::tempdir().unwrap();
    let files = [("pg-client.sh", CLIENT), ("pg-start.sh", START), ("pg-stop.sh", STOP)].map(|(name, text)| {
        let path = scratch.path().join(name);
        fs::write(&path, text.replace("DIR", DIR).replace("BIN", BIN)).unwrap();
        path.display().to_string()
    });
    for guest in [w.one, w.two] {
        guest.lab("cp", &files.each_ref().map(String::as_str));
        guest.sh(&format!("cd /root; chmod 755 pg-*.sh; mv pg-*.sh {DIR}/; sync"));
    }
    let hook = format!(
        "[hook.postgres]\nstop = [\"{DIR}/pg-stop.sh\"]\nstart = [\"{DIR}/pg-start.sh\"]\n\
         check = [\"{BIN}/pg_isready\", \"-q\", \"-h\", \"/run/postgresql\"]\ntimeout_s = 300\n"
    );
    let _declared = Declared::new(w, &hook);
    // Not before: another trial may have been at work until now.
    for guest in [w.one, w.two] {
        guest.sh(&format!("rm -f {DIR}/pg-at {DIR}/acknowledged; sync"));
    }
    let _programs = Programs(w);
    w.one.sh(&format!(
        "zfs create {source}; mkdir /{source}/pg; chown postgres /{source}/pg; cd /; \
         runuser -u postgres -- {BIN}/initdb -D /{source}/pg --wal-segsize=1 -A trust >/dev/null; \
         echo 'host all all 172.31.0.0/24 trust' >>/{source}/pg/pg_hba.conf; ZMIGRATE_DATASETS={source} {DIR}/pg-start.sh"
    ));
    let sql = |text: &str| {
        w.one.sh(&format!(
            "cd /; PGHOST=node1,node2 PGUSER=postgres {BIN}/psql -v ON_ERROR_STOP=1 -qAtc '{text}' postgres"
        ))
    };
    w.one.sh(&format!("cd /; {BIN}/pgbench -h node1 -U postgres -qi -s 1 postgres 2>/dev/null"));
    sql("create table records (n bigint primary key)");
    for what in ["bench", "records"] {
        w.one.sh(&format!("setsid {DIR}/pg-client.sh {what} </dev/null >/dev/null 2>&1 &"));
    }
    let count = || w.one.sh(&format!("cat {DIR}/acknowledged 2>/dev/null | wc -l")).parse::<usize>().unwrap();
    let more = |n: usize| {
        let wanted = count() + n;
        w.one.until(
            Duration::from_secs(120),
            &format!("[ $(cat {DIR}/acknowledged 2>/dev/null | wc -l) -ge {wanted} ]"),
        );
    };
    let whole = |place: &str| {
        let acknowledged = count();
        // What pgbench's transactions leave equal whatever their number.
        let sums =
            sql("select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), \
             (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)");
        let sums: Vec<&str> = sums.split('|').collect();
        assert!(sums.len() == 4 && sums.iter().all(|sum| *sum == sums[0]), "{place}: {sums:?}");
        let there: Vec<usize> = sql("select n from records order by n").lines().map(|n| n.parse().unwrap()).collect();
        assert!(
            there.len() >= acknowledged && there.iter().copied().eq(1..=there.len()),
            "{place}: of {acknowledged} acknowledged records there are {there:?}"
        );
    };
    // Both clients are at work where the server is.
    let transactions = || sql("select count(*) from pgbench_history").parse::<u64>().unwrap();
    let works = || {
        let before = transactions();
        more(5);
        let since = Instant::now();
        while transactions() <= before {
            assert!(since.elapsed() < Duration::from_secs(300), "pgbench does not go on");
        }
    };
    works();
    let done = cutover(w, &format!("start {source} node2:{target} --hook postgres --max-downtime 600s"));
    eprintln!("lab:   downtime {} ms, predicted {} ms", done["downtime_ms"], done["predicted_downtime_ms"]);
    assert_eq!(done["result"], "done", "{done}");
    works();
    assert_eq!((w.one.get(source, "readonly"), w.one.get(source, "mounted")), ("on".into(), "no".into()));
    w.two.sh(&format!("[ -e /{target}/pg/postmaster.pid ]"));
    whole("there");
    let back = cutover(w, &format!("back {}", done["id"].as_str().unwrap()));
    assert_eq!(back["result"], "done", "{back}");
    works();
    assert_eq!((w.two.get(target, "readonly"), w.two.get(target, "mounted")), ("on".into(), "no".into()));
    w.one.sh(&format!("[ -e /{source}/pg/postmaster.pid ]"));
    whole("home again");
}
