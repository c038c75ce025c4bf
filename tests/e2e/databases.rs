//! Jobs that replicate databases at work, with the programs around the snapshot that docs/jobs.md shows.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use crate::{
    Case, cases,
    process::wait_for,
    site::Site,
    zfs::{create, mounted},
};

pub fn cases() -> Vec<Case> {
    cases![mariadb_is_still_while_its_snapshot_is_taken, postgresql_has_little_to_recover]
}

const POSTGRES: &str = "/usr/lib/postgresql/15/bin";

/// Why there can be no database, if so.
pub fn absent() -> Option<String> {
    let programs = ["/usr/sbin/mariadbd".to_owned(), format!("{POSTGRES}/pg_ctl")];
    let missing = programs.into_iter().find(|program| !Path::new(program).exists())?;
    Some(format!("there is no {missing}: scripts/setup installs it"))
}

/// East's `db` with a job that has these programs around its snapshot.
fn site(before: &str, after: &str) -> Site {
    let mut site = Site::quiet();
    let (from, to) = (site.e("db"), site.w("in/db"));
    site.more = format!(
        "[job.db]\ndirection = \"push\"\ndataset = \"{from}\"\npeer = \"west\"\ntarget = \"{to}\"\nretries = 0\n{}{}",
        before.replace("DIR", &site.dir.display().to_string()),
        after.replace("DIR", &site.dir.display().to_string()),
    );
    site.write_configs(&site.default_grant(), None);
    site.start_daemon();
    create(&from);
    site
}

fn succeeds(mut command: Command) -> Output {
    let out = command.stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

/// What a dataset holds, where a server may write to it.
fn copied(from: &Path, to: PathBuf) -> PathBuf {
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(from).arg(&to);
    succeeds(copy);
    to
}

/// `mariadbd` on a directory, by a socket of that directory. It is killed when dropped.
struct Mariadb {
    server: Child,
    socket: PathBuf,
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Small, and what FUSE can do.
const SMALL: [&str; 5] = [
    "--innodb-log-file-size=4M",
    "--innodb-buffer-pool-size=8M",
    "--innodb-flush-method=fsync",
    "--innodb-use-native-aio=0",
    "--innodb-undo-tablespaces=0",
];

impl Mariadb {
    fn make(data: &Path) {
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        install.args(SMALL).arg(format!("--datadir={}", data.display()));
        succeeds(install);
    }

    fn start(data: &Path, socket: PathBuf) -> Mariadb {
        let log = fs::File::create(socket.with_extension("log")).unwrap();
        let server = Command::new("mariadbd")
            .args(["--no-defaults", "--user=root", "--skip-networking", "--myisam-recover-options=OFF"])
            .args(SMALL)
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--pid-file={}", socket.with_extension("pid").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let database = Mariadb { server, socket };
        wait_for("mariadbd", 60, || database.client().args(["-e", "select 1"]).output().unwrap().status.success());
        database
    }

    fn client(&self) -> Command {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "-N", "-B"]).arg(format!("--socket={}", self.socket.display()));
        client.stdin(Stdio::null());
        client
    }

    fn sql(&self, text: &str) -> String {
        let mut client = self.client();
        client.args(["-e", text]);
        String::from_utf8(succeeds(client).stdout).unwrap().trim().to_owned()
    }

    fn count(&self, table: &str) -> u64 {
        self.sql(&format!("select count(*) from t.{table}")).parse().unwrap()
    }
}

fn mariadb_is_still_while_its_snapshot_is_taken() {
    let freeze = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/mysql-freeze");
    let freeze = format!("[\"{}\", \"/usr/bin/mariadb\", \"--no-defaults\", \"--socket=DIR/sock\"]", freeze.display());
    let site = site(&format!("before = {freeze}\n"), &format!("after = {freeze}\n"));
    let data = mounted(&site.e("db")).join("data");
    Mariadb::make(&data);
    let here = Mariadb::start(&data, site.dir.join("sock"));
    here.sql("create database t; create table t.m (n int) engine=MyISAM; create table t.i (n int) engine=InnoDB");
    let statements = site.dir.join("writes.sql");
    fs::write(&statements, "insert into t.m values (1);\ninsert into t.i values (1);\n".repeat(50_000)).unwrap();
    let mut writes = here.client();
    let mut writer = writes.stdin(fs::File::open(&statements).unwrap()).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the writer", 30, || here.count("i") > 20);
    site.start(&["job", "run", "db", "--cron"]).wait(120).must(0);
    let then = here.count("i");
    wait_for("the writer to go on", 30, || here.count("i") > then + 5);
    let _ = writer.kill();
    let _ = writer.wait();
    a_lock_that_ended_is_told(&site.dir);
    drop(here);
    let start = |data: &Path, name: &str| Mariadb::start(data, site.dir.join(name));
    let check = |copy: &Mariadb| copy.sql("check table t.m extended");
    let copy = start(&copied(&mounted(&site.w("in/db")).join("data"), site.dir.join("copy")), "copy-sock");
    let said = check(&copy);
    assert!(said.lines().count() == 1 && said.ends_with("status\tOK"), "{said}");
    let (m, i) = (copy.count("m"), copy.count("i"));
    assert!(m > 20 && (m == i || m == i + 1), "{m} rows in the one table and {i} in the other");
}

/// Its connection is gone when the snapshot is there: what that holds is not what was promised, and the run has to fail.
fn a_lock_that_ended_is_told(dir: &Path) {
    let freeze = |stage: &str, result: &str| {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/mysql-freeze"));
        command.args(["/usr/bin/mariadb", "--no-defaults", "--socket"]).arg(dir.join("sock"));
        command.env_remove("RUNTIME_DIRECTORY").env("XDG_RUNTIME_DIR", dir).env("ZMIGRATE_JOB", "ended");
        command.env("ZMIGRATE_STAGE", stage).env("ZMIGRATE_RESULT", result).output().unwrap()
    };
    let left =
        || fs::read_dir(dir).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().ends_with("freeze.ended.pid"));
    assert!(freeze("before", "").status.success() && freeze("after", "ok").status.success() && !left());
    assert!(freeze("before", "").status.success());
    let client = fs::read_to_string(dir.join("zmigrate-mysql-freeze.ended.pid")).unwrap();
    let mut kill = Command::new("kill");
    kill.arg(client.trim());
    succeeds(kill);
    let out = freeze("after", "ok");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) && said.contains("the lock ended before the snapshot"), "{said}");
    // A run that failed anyway has nothing more to fail of.
    assert!(freeze("after", "failed").status.success() && !left());
}

fn postgresql_has_little_to_recover() {
    let command = format!(
        "[\"/usr/sbin/runuser\", \"-u\", \"postgres\", \"--\", \"{POSTGRES}/psql\", \"-h\", \"DIR/run\", \"-qc\", \"CHECKPOINT\"]"
    );
    let site = site(&format!("before = {command}\n"), "");
    let run = site.dir.join("run");
    fs::create_dir(&run).unwrap();
    let postgres = |program: &str, args: &[&str]| {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--", &format!("{POSTGRES}/{program}")]).args(args);
        command
    };
    let own = |path: &Path| {
        let mut chown = Command::new("chown");
        chown.arg("-R").arg("postgres").arg(path);
        succeeds(chown);
    };
    let (socket, data) = (run.display().to_string(), mounted(&site.e("db")).join("data"));
    fs::create_dir(&data).unwrap();
    [&run, &data].into_iter().for_each(|path| own(path));
    let at = |data: &Path| data.display().to_string();
    succeeds(postgres("initdb", &["-D", &at(&data), "--wal-segsize=1", "-A", "trust"]));
    let options = format!("-k {socket} -c listen_addresses=''");
    let log = format!("{socket}/log");
    let ctl = |data: &Path, verb: &[&str]| {
        let mut command = postgres("pg_ctl", &[&["-D", &at(data), "-w", "-l", &log], verb].concat());
        // A server keeps what it inherits open.
        command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
        assert!(command.status().unwrap().success(), "{verb:?}: {}", fs::read_to_string(&log).unwrap_or_default());
    };
    let sql = |text: &str| {
        let out = succeeds(postgres("psql", &["-h", &socket, "-qAtc", text, "postgres"]));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    ctl(&data, &["-o", &options, "start"]);
    sql("create table t as select generate_series(1, 20000) n");
    site.start(&["job", "run", "db", "--cron"]).wait(120).must(0);
    sql("insert into t values (0)");
    ctl(&data, &["-m", "immediate", "stop"]);
    // What was committed before the snapshot is there, and no more than that.
    let copy = copied(&mounted(&site.w("in/db")).join("data"), site.dir.join("copy"));
    own(&copy);
    let before = fs::read_to_string(&log).unwrap().len();
    let _ = fs::remove_file(copy.join("postmaster.pid"));
    ctl(&copy, &["-o", &options, "start"]);
    assert_eq!(sql("select count(*), min(n) from t"), "20000|1");
    let said = fs::read_to_string(&log).unwrap()[before..].to_owned();
    ctl(&copy, &["-m", "immediate", "stop"]);
    assert!(said.contains("was interrupted"), "{said}");
    // All of it was on disk by then: there are no 20,000 rows to redo.
    let redo = said.lines().find(|line| line.contains("redo done at")).unwrap_or_default();
    let (from, to) = (lsn(&said, "redo starts at "), lsn(redo, "redo done at "));
    assert!(from.zip(to).is_none_or(|(from, to)| to - from < 100_000), "{said}");
}

/// The log position behind `what`, as PostgreSQL writes it: two halves in hexadecimal.
fn lsn(text: &str, what: &str) -> Option<u64> {
    let (_, rest) = text.split_once(what)?;
    let (high, low) = rest.split_whitespace().next()?.split_once('/')?;
    Some((u64::from_str_radix(high, 16).ok()? << 32) + u64::from_str_radix(low, 16).ok()?)
}
