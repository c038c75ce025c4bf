use std::{fs, os::unix::fs::PermissionsExt, time::Instant as Clock};

use super::*;
use crate::cutover::leg::{CutoverId, Epoch, Leg, Side};

fn argv(words: &[&str]) -> Argv {
    Argv::new(words.iter().map(|w| (*w).to_owned()).collect()).unwrap()
}

fn shell(script: &str) -> Option<Argv> {
    Some(argv(&["/bin/sh", "-c", script]))
}

fn commands(stop: Option<Argv>, start: Option<Argv>) -> Hook {
    hook(HookKind::Commands { stop, start })
}

fn hook(kind: HookKind) -> Hook {
    Hook { kind, check: None, check_timeout: Duration::from_secs(5), timeout: Duration::from_secs(10) }
}

fn hooks(hook: Hook, tools: HookTools) -> HostHooks {
    HostHooks::new(BTreeMap::from([("db".parse().unwrap(), hook)]), tools)
}

fn no_tools() -> HookTools {
    HookTools {
        systemctl: "/nonexistent/systemctl".into(),
        fsfreeze: "/nonexistent/fsfreeze".into(),
        never_frozen: vec!["/".into()],
    }
}

fn call(verb: HookVerb) -> HookCall {
    HookCall {
        name: "db".parse().unwrap(),
        verb,
        leg: Leg { id: CutoverId(0x4f2a), epoch: Epoch(3) },
        side: Side::Target,
        datasets: vec!["tank/db".parse().unwrap(), "tank/wal".parse().unwrap()],
    }
}

async fn run(hook: Hook, verb: HookVerb) -> Result<Vec<String>, HookError> {
    hooks(hook, no_tools()).call(&call(verb)).await.map(|output| output.lines)
}

/// Whether a process of that id is there and no zombie.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Whether it is gone within a few seconds.
async fn ends(pid: &str) -> bool {
    for _ in 0..100 {
        if !lives(pid) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

#[tokio::test]
async fn a_command_gets_its_environment_and_nothing_else() {
    let hook = commands(shell("env | grep -v -e ^_= -e ^PWD= | sort; pwd; cat"), None);
    insta::assert_snapshot!(run(hook, HookVerb::Stop).await.unwrap().join("\n"), @r"
    LC_ALL=C
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    ZMIGRATE_CUTOVER_ID=00004f2a
    ZMIGRATE_DATASETS=tank/db tank/wal
    ZMIGRATE_EPOCH=3
    ZMIGRATE_PHASE=stop
    ZMIGRATE_SIDE=target
    /
    ");
}

#[tokio::test]
async fn a_failure_says_how_it_ended_and_what_it_said() {
    let error =
        run(commands(shell("echo one; echo '\tno\x1b[2Jway' >&2; exit 3"), None), HookVerb::Stop).await.unwrap_err();
    assert_eq!(error.kind, HookErrorKind::Failed);
    let shown = "hook db (stop) failed: /bin/sh: exit status: 3; last output: one |  no\u{fffd}[2Jway";
    assert_eq!(error.to_string(), shown);
    let killed = run(commands(shell("kill -9 $$"), None), HookVerb::Stop).await.unwrap_err();
    assert!(killed.to_string().contains("signal: 9"), "{killed}");
}

#[tokio::test]
async fn what_is_not_declared_is_an_error_and_what_has_no_command_is_done() {
    let hooks = hooks(commands(shell("true"), None), no_tools());
    let other = HookCall { name: "web".parse().unwrap(), ..call(HookVerb::Stop) };
    assert!(!hooks.declared(&other.name));
    let error = hooks.call(&other).await.unwrap_err();
    assert_eq!(error.kind, HookErrorKind::Undeclared);
    assert!(error.to_string().contains("no [hook.web]"), "{error}");
    assert_eq!(hooks.call(&call(HookVerb::Start)).await.unwrap(), HookOutput::default());
}

#[tokio::test]
async fn a_command_that_hangs_is_ended_with_all_that_it_began() {
    let mut hook = commands(shell("trap '' TERM; sleep 1000 & echo $! $$; while :; do sleep 0.1; done"), None);
    hook.timeout = Duration::from_secs(1);
    let began = Clock::now();
    let error = run(hook, HookVerb::Stop).await.unwrap_err();
    assert_eq!(error.kind, HookErrorKind::TimedOut);
    assert!(error.cause.contains("did not end within 1 s; it was ended"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    for pid in error.output.lines[0].split(' ') {
        assert!(ends(pid).await, "{pid} was left behind");
    }
}

#[tokio::test]
async fn a_command_that_heeds_sigterm_is_not_waited_for_any_longer() {
    let mut hook = commands(
        shell("exec 3>&1 >/dev/null 2>&1; trap 'echo bye >&3; exit 0' TERM; while :; do sleep 0.1; done"),
        None,
    );
    hook.timeout = Duration::from_secs(1);
    let began = Clock::now();
    let error = run(hook, HookVerb::Stop).await.unwrap_err();
    assert_eq!((error.kind, error.output.lines.as_slice()), (HookErrorKind::TimedOut, &["bye".to_owned()][..]));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_nothing_running() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let hook =
        commands(shell(&format!("sleep 1000 & echo $! $$ > {0}.new; mv {0}.new {0}; wait", pids.display())), None);
    let task = tokio::spawn(run(hook, HookVerb::Stop));
    while !pids.exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    task.abort();
    let _ = task.await;
    let text = fs::read_to_string(&pids).unwrap();
    for pid in text.split_whitespace() {
        assert!(ends(pid).await, "{pid} was left behind");
    }
}

#[tokio::test]
async fn a_service_that_a_command_started_lives_and_keeps_its_output() {
    let dir = tempfile::tempdir().unwrap();
    let done = dir.path().join("done");
    // It writes to the output of its hook after that has ended. With a closed pipe that would kill it.
    let script = format!("(sleep 1; echo later; echo > {}; exec sleep 1000) & echo $!", done.display());
    let began = Clock::now();
    let lines = run(commands(None, shell(&script)), HookVerb::Start).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "the hook is not waited for longer than it runs");
    for _ in 0..100 {
        if done.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(done.exists() && lives(&lines[0]));
    let pid = rustix::process::Pid::from_raw(lines[0].parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn loud_output_is_bounded_and_its_end_is_kept() {
    let script = "head -c 20000000 /dev/zero; yes | head -c 20000000; echo last words; exit 1";
    // All that output takes a busy machine a while.
    let patient = Hook { timeout: Duration::from_secs(300), ..commands(shell(script), None) };
    let error = run(patient, HookVerb::Stop).await.unwrap_err();
    assert_eq!(error.kind, HookErrorKind::Failed);
    let kept: usize = error.output.lines.iter().map(String::len).sum();
    assert!(kept <= crate::limits::MAX_HOOK_OUTPUT, "{kept}");
    assert_eq!(error.output.lines.last().map(String::as_str), Some("last words"));
    assert!(error.to_string().len() < 6000);
}

#[tokio::test]
async fn a_check_is_repeated_until_it_succeeds_or_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let count = dir.path().join("count").display().to_string();
    let script = |n: u32| shell(&format!("echo x >> {count}; echo $ZMIGRATE_PHASE; [ $(wc -l < {count}) -ge {n} ]"));
    let mut hook = commands(None, shell("true"));
    hook.check = script(3);
    assert_eq!(run(hook.clone(), HookVerb::Check).await.unwrap(), ["check"]);
    assert_eq!(fs::read_to_string(&count).unwrap().lines().count(), 3);
    hook.check = script(1000);
    hook.check_timeout = Duration::from_secs(2);
    let error = run(hook.clone(), HookVerb::Check).await.unwrap_err();
    assert_eq!(error.kind, HookErrorKind::TimedOut);
    assert!(error.cause.contains("did not succeed within 2 s; the last time: /bin/sh"), "{error}");
    // Also where the limit came in the middle of the last one.
    assert!(error.cause.contains("/bin/sh: exit status: 1"), "{error}");
    hook.check = Some(argv(&["/bin/sleep", "100"]));
    let error = run(hook, HookVerb::Check).await.unwrap_err();
    assert!(error.cause.contains("within 2 s; the last time: /bin/sleep did not end"), "{error}");
}

#[tokio::test]
async fn preparing_finds_what_would_fail_and_runs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tool");
    let path = file.display().to_string();
    let hook = commands(Some(argv(&[&path])), None);
    let missing = run(hook.clone(), HookVerb::Prepare).await.unwrap_err();
    assert_eq!(missing.kind, HookErrorKind::Missing);
    assert!(missing.cause.starts_with(&format!("stop: {path}: ")), "{missing}");
    fs::write(&file, format!("#!/bin/sh\necho > {path}.ran\n")).unwrap();
    let closed = run(hook.clone(), HookVerb::Prepare).await.unwrap_err();
    assert!(closed.cause.contains("chmod +x"), "{closed}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    run(hook, HookVerb::Prepare).await.unwrap();
    assert!(!dir.path().join("tool.ran").exists());
    let mut with_check = commands(shell("true"), None);
    with_check.check = Some(argv(&["/nonexistent/check"]));
    assert!(run(with_check, HookVerb::Prepare).await.unwrap_err().cause.starts_with("check: /nonexistent/check: "));
}

/// A stand-in for `systemctl`: no systemd runs where these tests do. It keeps the unit's state in a file.
struct Systemd {
    dir: tempfile::TempDir,
}

impl Systemd {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = r#"#!/bin/sh
d=$(dirname "$0")
[ "$1 $2" = "--no-ask-password --no-pager" ] || exit 99
shift 2
echo "$*" >> "$d/asked"
case $1 in
  show) cat "$d/load" ;;
  stop) [ -e "$d/stays" ] || echo inactive > "$d/state" ;;
  start) [ -e "$d/stays" ] || echo active > "$d/state" ;;
  is-active) s=$(cat "$d/state"); echo "$s"; [ "$s" = active ] || exit 3 ;;
esac
"#;
        let it = Self { dir };
        it.write("systemctl", script);
        fs::set_permissions(it.dir.path().join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        it.write("load", "loaded\n");
        it.write("state", "active\n");
        it
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    // Each question starts four processes, on a machine that may do much else.
    async fn call(&self, verb: HookVerb) -> Result<HookOutput, HookError> {
        self.call_within(60, verb).await
    }

    async fn call_within(&self, seconds: u64, verb: HookVerb) -> Result<HookOutput, HookError> {
        let mut hook = hook(HookKind::Systemd { unit: "db@main.service".parse().unwrap() });
        hook.timeout = Duration::from_secs(seconds);
        hook.check_timeout = Duration::from_secs(seconds);
        hooks(hook, HookTools { systemctl: self.dir.path().join("systemctl"), ..no_tools() }).call(&call(verb)).await
    }
}

#[tokio::test]
async fn a_unit_is_stopped_and_started_also_twice() {
    let systemd = Systemd::new();
    for verb in [HookVerb::Prepare, HookVerb::Stop, HookVerb::Stop, HookVerb::Start, HookVerb::Start, HookVerb::Check] {
        systemd.call(verb).await.unwrap();
    }
    let asked = fs::read_to_string(systemd.dir.path().join("asked")).unwrap();
    assert!(
        asked.starts_with("show --property=LoadState --value db@main.service\nstop db@main.service\nis-active"),
        "{asked}"
    );
}

#[tokio::test]
async fn a_unit_that_does_not_do_as_asked_is_not_believed() {
    let systemd = Systemd::new();
    systemd.write("stays", "");
    let runs = systemd.call_within(4, HookVerb::Stop).await.unwrap_err();
    assert_eq!(runs.kind, HookErrorKind::TimedOut);
    assert!(runs.cause.contains("unit db@main.service is \"active\" after systemctl stop"), "{runs}");
    for state in ["failed", "inactive", "unknown"] {
        systemd.write("state", state);
        let down = systemd.call(HookVerb::Start).await.unwrap_err();
        assert!(down.cause.contains(&format!("is {state:?} after systemctl start; see journalctl -u")), "{down}");
        systemd.call(HookVerb::Check).await.unwrap_err();
    }
    assert!(systemd.call_within(4, HookVerb::Stop).await.is_err(), "a unit that nobody knows is not stopped");
    systemd.write("load", "not-found\n");
    let gone = systemd.call(HookVerb::Prepare).await.unwrap_err();
    assert!(gone.kind == HookErrorKind::Missing && gone.cause.contains("\"not-found\", not loaded"), "{gone}");
    let none = run(hook(HookKind::Systemd { unit: "x.service".parse().unwrap() }), HookVerb::Stop).await.unwrap_err();
    assert!(none.cause.contains("cannot run /nonexistent/systemctl"), "{none}");
}

#[tokio::test]
async fn what_zmigrate_lives_on_is_never_frozen() {
    let frozen =
        |at: &str, never: &[&str]| may_be_frozen(Path::new(at), &never.iter().map(PathBuf::from).collect::<Vec<_>>());
    assert!(frozen("/proc", &["/proc/self"]).unwrap_err().contains("zmigrate itself would hang"));
    assert!(frozen("/nonexistent", &[]).unwrap_err().contains("nothing is mounted"));
    frozen("/proc", &["/", "/nonexistent"]).unwrap();
    let hook = hook(HookKind::Fsfreeze { mountpoint: "/proc".into() });
    // Not even the command is run.
    let tools = HookTools { fsfreeze: "/bin/true".into(), never_frozen: vec!["/proc/self".into()], ..no_tools() };
    let refused = hooks(hook, tools).call(&call(HookVerb::Stop)).await.unwrap_err();
    assert!(refused.cause.contains("would hang"), "{refused}");
}
