use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::*;
use crate::port::zfs::Zfs;

/// A `zfs` that notes what it is asked, waits while `slow` is there, and knows the names in `there`; those in `bad` cannot be held.
const TOOL: &str = r#"#!/bin/bash
cd "$(dirname "$0")"
verb=$1
case "$*" in *tank* | *lake*) ;; *) printf "usage:\n\n\tPROPERTY       EDIT  INHERIT   VALUES\n\n\tguid            NO       NO   <uint64>\n" >&2; exit 2 ;; esac
echo "$*" >>log
if [[ $* == *lake* ]]; then exec sleep 1000; fi
while [ -e slow ]; do sleep 0.02; done
[ ! -e killed ] || kill -9 $$
rc=0
for name in "${@:3}"; do
  [[ $name == tank* ]] || continue
  if ! grep -qx -- "$name" there; then
    echo "cannot open '$name': dataset does not exist" >&2
    rc=1
  elif grep -qsx -- "$name" bad; then
    echo "cannot $verb '$name': something is wrong" >&2
    rc=1
  elif [ "$verb" = get ]; then
    printf '%s\tguid\t%s\t-\n' "$name" "${name#*@}"
  fi
done
exit $rc
"#;

struct Host {
    dir: tempfile::TempDir,
    zfs: ZfsCommand,
}

impl Host {
    fn new() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let tool = dir.path().join("zfs");
        fs::write(&tool, TOOL).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("there"), (0..20).map(|n| format!("tank/d{n}@{n}\n")).collect::<String>()).unwrap();
        Host { zfs: ZfsCommand::new(tool.clone(), tool), dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The commands that were run, without those that only find out what the tool can do.
    fn commands(&self) -> Vec<String> {
        fs::read_to_string(self.at("log")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Until so many have been begun.
    async fn begun(&self, commands: usize) {
        while self.commands().len() < commands {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// What each is told of these who ask at the same time: no command goes on before `meanwhile`, while the first of them waits.
    async fn at_once<T>(
        &self,
        all: impl IntoIterator<Item = impl Future<Output = T>>,
        meanwhile: impl FnOnce(),
    ) -> Vec<T> {
        fs::write(self.at("slow"), "").unwrap();
        let slow = Slow(self.at("slow"));
        let go_on = async {
            self.begun(1).await;
            meanwhile();
            drop(slow);
        };
        let all = async { tokio::join!(join_all(all), go_on).0 };
        timeout(Duration::from_secs(30), all).await.expect("something waits for ever")
    }

    async fn guid(&self, name: &str) -> ZfsResult<Option<String>> {
        Ok(self.zfs.get(name, &["guid"]).await?.first().map(|p| p.value.clone()))
    }
}

/// Until it is dropped every command waits.
struct Slow(PathBuf);

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn snapshot(n: usize) -> Vec<crate::types::SnapshotName> {
    vec![format!("tank/d{n}@{n}").parse().unwrap()]
}

async fn quick(work: impl Future<Output = ()>) {
    timeout(Duration::from_secs(30), work).await.expect("something waits for ever");
}

/// Twenty ask at the same time, and each is told of its own.
#[tokio::test]
async fn what_is_asked_at_the_same_time_is_asked_by_one_command() {
    let host = Host::new();
    let names: Vec<String> = (0..20).map(|n| format!("tank/d{n}@{n}")).collect();
    let asked = names.iter().map(|name| host.guid(name));
    let all = host.at_once(asked, || {}).await;
    for (n, guid) in all.into_iter().enumerate() {
        assert_eq!(guid.unwrap(), Some(n.to_string()));
    }
    // The first may have been begun before the others came.
    assert!(host.commands().len() <= 2, "{:?}", host.commands());
}

/// The answer for one that is not there is its own, in a group as alone.
#[tokio::test]
async fn one_that_is_absent_is_told_so_and_no_other() {
    let host = Host::new();
    let names = ["tank/d0@0", "tank/d1@1", "tank/none@5", "tank/d2@2", "tank/d2@2"];
    let all = host.at_once(names.map(|name| host.guid(name)), || {}).await;
    let told: Vec<_> = all.iter().map(|told| told.as_ref().map(Option::as_deref).map_err(|e| e.kind)).collect();
    assert_eq!(told, [Ok(Some("0")), Ok(Some("1")), Err(NotFound), Ok(Some("2")), Ok(Some("2"))]);
    let alone = host.guid("tank/none@5").await.unwrap_err();
    assert_eq!(all[2].as_ref().unwrap_err(), &alone);
}

/// A command that was killed says nothing about who is there.
#[tokio::test]
async fn a_command_that_was_killed_tells_nobody_that_something_is_absent() {
    let host = Host::new();
    let names: Vec<String> = (0..5).map(|n| format!("tank/d{n}@{n}")).collect();
    let killed = || fs::write(host.at("killed"), "").unwrap();
    let all = host.at_once(names.iter().map(|name| host.guid(name)), killed).await;
    assert!(all.iter().all(|told| told.as_ref().is_err_and(|e| e.kind == Killed)), "{all:?}");
}

/// Of twenty holds one fails; the others are set, and only its asker is told.
#[tokio::test]
async fn a_failure_is_told_to_whom_it_concerns() {
    let host = Host::new();
    fs::write(host.at("bad"), "tank/d7@7\n").unwrap();
    let snapshots: Vec<_> = (0..20).map(snapshot).collect();
    let all = host.at_once(snapshots.iter().map(|snapshot| host.zfs.hold("zmigrate:job", snapshot)), || {}).await;
    let failed: Vec<_> = all.iter().enumerate().filter(|(_, told)| told.is_err()).map(|(n, _)| n).collect();
    assert_eq!(failed, [7]);
    assert!(all[7].as_ref().unwrap_err().detail.contains("tank/d7@7"), "{all:?}");
}

/// What asks for something else, or of another pool, which may hang, waits for nobody.
#[tokio::test]
async fn a_pool_that_hangs_keeps_no_other_waiting() {
    let host = Host::new();
    quick(async {
        tokio::select! {
            _ = host.guid("lake/d@1") => panic!("it hangs"),
            () = async {
                host.begun(1).await;
                assert_eq!(host.guid("tank/d1@1").await.unwrap().as_deref(), Some("1"));
                host.zfs.hold("zmigrate:job", &snapshot(1)).await.unwrap();
            } => {}
        }
    })
    .await;
}

/// Nobody waits any more: the command ends, and who asks next is not kept waiting by it.
#[tokio::test]
async fn a_command_that_nobody_waits_for_is_ended() {
    let host = Host::new();
    quick(async {
        let given_up = timeout(Duration::from_millis(300), host.guid("lake/d@1")).await;
        assert!(given_up.is_err());
        let runs = || {
            let processes = fs::read_dir("/proc").unwrap().flatten();
            processes.filter(|p| is_of(&p.path(), host.dir.path())).count()
        };
        while runs() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
        // The first who asks anew runs a command of its own.
        let again = timeout(Duration::from_millis(300), host.guid("lake/d@1")).await;
        assert!(again.is_err());
        assert_eq!(host.commands().len(), 2);
    })
    .await;
}

/// Whether a process works in that directory: the tool does, whatever it became.
fn is_of(process: &Path, dir: &Path) -> bool {
    fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == dir)
}
