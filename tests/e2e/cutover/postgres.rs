//! PostgreSQL moves while pgbench works on it, and every transaction that it has acknowledged is there afterwards.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::bench::{is_writable, json};
use crate::{
    Case, cases,
    process::wait_for,
    site::Site,
    zfs::{create, get},
};

const BIN: &str = "/usr/lib/postgresql/15/bin";

pub fn cases() -> Vec<Case> {
    cases![postgresql_moves_under_pgbench]
}

/// A program of PostgreSQL's as its user.
fn postgres(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--", &format!("{BIN}/{program}")]).args(args).stdin(Stdio::null());
    command
}

/// A shell loop of clients, which is ended with its children when dropped.
struct Loop(Child);

impl Drop for Loop {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_raw(self.0.id() as i32).unwrap();
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Ends the server when dropped, wherever it runs.
struct Server<'a>(&'a Path);

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = Command::new(self.0.join("pg-stop.sh")).status();
    }
}

fn postgresql_moves_under_pgbench() {
    let mut site = Site::quiet();
    let dir = site.dir.clone();
    // Its socket and what the clients write down; the server's user passes through.
    let run = dir.join("run");
    fs::create_dir_all(&run).unwrap();
    assert!(Command::new("chown").arg("postgres").arg(&run).status().unwrap().success());
    let (socket, acknowledged) = (run.display().to_string(), dir.join("acknowledged").display().to_string());
    let script = |name: &str, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let data = "$(zfs get -H -o value mountpoint \"${ZMIGRATE_DATASETS%% *}\")/pg";
    // One server at most has the socket, so what stops it needs to know no dataset.
    let stop = script(
        "pg-stop.sh",
        format!(
            "#!/bin/bash\nat=$(cat {socket}/at 2>/dev/null) || exit 0\n\
             runuser -u postgres -- {BIN}/pg_ctl -D \"$at\" -m fast -w stop >/dev/null || [ ! -e \"$at/postmaster.pid\" ]\n"
        ),
    );
    let start = script(
        "pg-start.sh",
        format!(
            "#!/bin/bash\nat={data}\nrunuser -u postgres -- {BIN}/pg_ctl -D \"$at\" status >/dev/null && exit 0\n\
             echo \"$at\" >{socket}/at\n\
             runuser -u postgres -- {BIN}/pg_ctl -D \"$at\" -w -l {socket}/log -o \"-k {socket} -c listen_addresses=''\" \
             start >/dev/null\n"
        ),
    );
    let check = format!("[\"{BIN}/pg_isready\", \"-q\", \"-h\", \"{socket}\"]");
    let hook =
        format!("[hook.postgres]\nstop = [\"{stop}\"]\nstart = [\"{start}\"]\ncheck = {check}\ntimeout_s = 30\n");
    site.more = hook.clone();
    site.west_more = hook;
    site.write_configs(&format!("{}cutover = [\"{}/in\"]\n", site.default_grant(), site.west), None);
    site.start_daemon();
    let (east, west) = (site.e("db"), site.w("in/db"));
    create(&east);
    create(&site.w("in"));
    let home = get(&east, "mountpoint").0;
    let at = format!("{home}/pg");
    fs::create_dir(&at).unwrap();
    assert!(Command::new("chown").args(["postgres", &at]).status().unwrap().success());
    let made = postgres("initdb", &["-D", &at, "--wal-segsize=1", "-A", "trust"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let _server = Server(&dir);
    let started = Command::new(dir.join("pg-start.sh")).env("ZMIGRATE_DATASETS", &east).status().unwrap();
    assert!(started.success());
    let sql = |text: &str| -> String {
        let out = postgres("psql", &["-h", &socket, "-qAtc", text, "postgres"]).output().unwrap();
        assert!(out.status.success(), "{text}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    assert!(
        postgres("pgbench", &["-h", &socket, "-qi", "-s", "1", "postgres"])
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    );
    sql("create table records (n bigint primary key)");
    use std::os::unix::process::CommandExt;
    let clients = |text: &str| {
        Loop(Command::new("bash").args(["-c", text]).process_group(0).stdin(Stdio::null()).spawn().unwrap())
    };
    let user = "runuser -u postgres --";
    let _pgbench = clients(&format!(
        "while :; do {user} {BIN}/pgbench -n -h {socket} -c 2 -T 60 postgres >/dev/null 2>&1; sleep 0.05; done"
    ));
    // A record counts once the server has said that it is committed. One whose answer was lost may be there already.
    let _writer = clients(&format!(
        "n=1; while :; do {user} {BIN}/psql -h {socket} -qc \"insert into records values ($n) on conflict do nothing\" postgres \
         >/dev/null 2>&1 && echo $n >>{acknowledged} && n=$((n + 1)) || sleep 0.02; done"
    ));
    let count = || fs::read_to_string(&acknowledged).unwrap_or_default().lines().count();
    let more = |n: usize| {
        let from = count();
        wait_for("the clients", 60, || count() >= from + n);
    };
    more(5);
    let address = format!("west:{west}");
    let args = ["cutover", "start", &east, &address, "--hook", "postgres", "--max-downtime", "60s", "--output", "json"];
    let result = json(&site.start(&args).wait(180).must(0));
    assert_eq!(result["result"], "done", "{result}");
    more(5);
    assert!(!is_writable(&east));
    let id = result["id"].as_str().unwrap();
    let whole = |n: usize, where_to: &str| {
        // What pgbench's transactions leave equal whatever their number.
        let sums =
            sql("select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), \
             (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)");
        let sums: Vec<&str> = sums.split('|').collect();
        assert!(sums.iter().all(|sum| *sum == sums[0]), "{where_to}: {sums:?}");
        let there: Vec<usize> = sql("select n from records order by n").lines().map(|n| n.parse().unwrap()).collect();
        assert!(there.len() >= n && there.iter().copied().eq(1..=there.len()), "{where_to}: {n} of {there:?}");
        assert!(sql("select count(*) from pgbench_history").parse::<u64>().unwrap() > 20);
    };
    whole(count(), "west");
    let back = ["cutover", "back", id, "--output", "json"];
    assert_eq!(json(&site.start(&back).wait(180).must(0))["result"], "done");
    more(5);
    whole(count(), "east");
    assert!(is_writable(&east) && !is_writable(&west));
}
