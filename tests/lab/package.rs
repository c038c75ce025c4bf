//! The packages on a real ZFS: the Debian package installed, started by systemd, used, updated, removed and purged in a guest; and
//! the image's own `zfs`.
//!
//! Process 1 of a guest is no systemd. Here one runs as process 1 of namespaces of its own, on the guest's root file system.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::{
    Case,
    cutover::writer::Writer,
    guest::Guest,
    unprivileged::allow,
    world::{DIR, Pair, World},
};

pub const CASES: &[Case] = &[
    ("package_from_installation_to_purge", package_from_installation_to_purge),
    ("package_image_sends_and_receives", image_sends_and_receives),
];

/// Begins in the guest what `inside` enters. /sys is read-only, by which systemd knows that devices are not its business: the guest
/// has a udevd already, and what would make device nodes is masked, or /dev/zfs would lose the mode that udev gave it. /tmp is
/// its own, as systemd empties that.
const SYSTEMD: &str = "mkdir -p /sys/fs/cgroup/zmlab; echo $$ >/sys/fs/cgroup/zmlab/cgroup.procs; \
     exec unshare --mount --pid --cgroup --ipc --fork --kill-child bash -c \"mount -t proc proc /proc; mount --bind /proc/sys /proc/sys; \
     mount -o remount,bind,ro /proc/sys; mount -t tmpfs -o mode=755 run /run; mkdir -p /run/systemd/system; \
     ln -s /dev/null /run/systemd/system/systemd-tmpfiles-setup-dev.service; mount -t tmpfs tmp /tmp; umount /sys/fs/cgroup; \
     mount -t cgroup2 cgroup /sys/fs/cgroup; mount -o remount,bind,ro /sys; mount --make-rshared /; \
     exec env -i container=zmlab PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=sysinit.target --show-status=no\"";

/// Why a trial's package is not there, if it is not.
pub fn missing(trial: &str) -> Option<String> {
    let is = |(name, _): &Case| *name == trial;
    let (deb, image) = (CASES.first().is_some_and(is), CASES.last().is_some_and(is));
    let found = (!deb || made(".deb").is_some()) && (!image || made(".tar").is_some());
    (!found).then(|| "its package was not made: scripts/package all".to_owned())
}

/// What `scripts/package` left with a name that ends so.
fn made(end: &str) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/package");
    let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    files.into_iter().find(|path| path.to_string_lossy().ends_with(end))
}

/// The same package without compression: an emulated guest takes minutes for it, each time.
fn unpressed(deb: &Path, dir: &Path) -> String {
    let (tree, new) = (dir.join("tree"), dir.join("zmigrate.deb"));
    let run = |flags: &[&str], from: &Path, to: &Path| {
        assert!(Command::new("dpkg-deb").args(flags).args([from, to]).status().unwrap().success());
    };
    run(&["-R"], deb, &tree);
    run(&["--root-owner-group", "-Znone", "-b"], &tree, &new);
    new.to_string_lossy().into_owned()
}

/// A script, without single quotes, as one that runs where systemd is process 1.
fn enter(script: &str) -> String {
    format!(
        "exec nsenter -t $(pgrep -P $(cat {DIR}/systemd.pid)) -m -p -C -i -- bash -c '\
         set -eu; export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin; {script}'"
    )
}

/// Runs such a script, which must succeed, for what it prints.
#[track_caller]
fn inside(guest: Guest, script: &str) -> String {
    guest.sh(&enter(script))
}

/// What the daemon said, for a step that failed.
fn is_active(guest: Guest) {
    inside(guest, "systemctl is-active zmigrated || { journalctl -u zmigrated -n 30 --no-pager; exit 1; }");
}

fn package_from_installation_to_purge(w: &World) {
    let scratch = tempfile::tempdir().unwrap();
    let pair = Pair { target: "tank/dst/package/in/here".into(), ..w.pair("package", 4) };
    let install = "dpkg -i /root/zmigrate.deb";
    w.two.lab("cp", &[&unpressed(&made(".deb").unwrap(), scratch.path())]);
    w.two.sh(&format!("setsid bash -c '{SYSTEMD}' >{DIR}/systemd.log 2>&1 </dev/null & echo $! >{DIR}/systemd.pid"));
    let ready = format!("nsenter -t $(pgrep -P $(cat {DIR}/systemd.pid)) -m -p systemctl is-active sysinit.target");
    w.two.until(Duration::from_secs(300), &ready);
    let files = "find /usr /etc /var -xdev \\( -path /var/lib/dpkg -o -path /var/log -o -path /var/lib/systemd -o -path /var/cache \\) -prune -o -print | sort";
    w.two.sh(&format!("{files} >{DIR}/before"));

    // Installed: there is a user, a place for its state, and nothing that runs, as nothing is configured.
    inside(w.two, install);
    inside(
        w.two,
        "systemctl is-enabled zmigrated; if systemctl is-active zmigrated; then exit 1; fi; if systemctl is-failed zmigrated; then exit 1; fi",
    );
    let owned = inside(w.two, "stat -c \"%n %U %a\" /var/lib/zmigrate /etc/zmigrate /etc/zmigrate/pki");
    assert_eq!(owned, "/var/lib/zmigrate zmigrate 700\n/etc/zmigrate root 755\n/etc/zmigrate/pki zmigrate 700");
    assert!(inside(w.two, "getent passwd zmigrate").ends_with(":/var/lib/zmigrate:/usr/sbin/nologin"));

    // Configured and started: as that user, without a capability, with what docs/unprivileged.md gives it.
    w.two.sh(&format!(
        "zfs create -o canmount=off tank/dst/package; {}; cp {DIR}/pki/* /etc/zmigrate/pki/; chown -R zmigrate: /etc/zmigrate/pki; \
         sed -e '/^\\[hook/,$d' -e '/_dir = /d' -e '/^dir = /d' -e '/^\\[identity/d' -e '/^listen/s|8551|8553|' {DIR}/zmigrate.toml >/etc/zmigrate/zmigrate.toml; \
         printf '[job.fetch]\\ndirection = \"pull\"\\ndataset = \"{}\"\\npeer = \"node1\"\\ntarget = \"tank/dst/package/fetched\"\\n' >>/etc/zmigrate/zmigrate.toml",
        allow("zmigrate", "tank/dst/package"),
        pair.source
    ));
    inside(w.two, "runuser -u zmigrate -- zmigrate config check; systemctl start zmigrated");
    is_active(w.two);
    let status = inside(
        w.two,
        "p=$(systemctl show -P MainPID zmigrated); ps -o user= -p $p; grep -E \"^(CapBnd|NoNewPrivs|Seccomp):\" /proc/$p/status",
    );
    let status = status.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(status, "zmigrate CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2");

    // Used, from the other guest, and by the unit of a job.
    let fetched = Pair { source: pair.source.clone(), target: "tank/dst/package/fetched".into() };
    let push = || w.zmigrate(w.one, &format!("push {} package:{}", pair.source, pair.target)).must_be(0);
    w.change(&pair, "s1", 100);
    push();
    w.same(&pair, "s1");
    crate::basic::protected(w.two, &pair.target);
    inside(w.two, "systemctl reload zmigrated");
    is_active(w.two);
    inside(
        w.two,
        "systemctl start zmigrate-job@fetch.service || { journalctl -u zmigrate-job@fetch -n 30 --no-pager; exit 1; }",
    );
    w.same(&fetched, "s1");

    // Installed over itself, as by an update: another process, and the state is the same.
    let pid = || inside(w.two, "systemctl show -P MainPID zmigrated");
    let before = pid();
    inside(w.two, install);
    is_active(w.two);
    assert_ne!(pid(), before);

    // Removed: it is stopped, and what is the node's own stays. So it goes on when it is back.
    inside(
        w.two,
        "dpkg -r zmigrate; if pgrep -x zmigrated; then exit 1; fi; if test -e /usr/bin/zmigrated; then exit 1; fi; test -e /etc/zmigrate/pki/node.key; test -e /var/lib/zmigrate",
    );
    inside(w.two, install);
    is_active(w.two);
    w.change(&pair, "s2", 100);
    assert_eq!(push().steps().len(), 1);
    w.same(&pair, "s2");

    starts_by_a_timer(w);
    w.same(&fetched, "s2");
    writes_in_a_unit(w);

    // Purged: what is left is what the node was given, and its user.
    inside(
        w.two,
        "dpkg --purge zmigrate; if test -e /var/lib/zmigrate; then exit 1; fi; if test -e /run/zmigrate; then exit 1; fi; test -e /etc/zmigrate/pki/node.key",
    );
    let left = w.two.sh(&format!("{files} | comm -13 {DIR}/before - | grep -vE '^/etc/(zmigrate(/.*)?|(passwd|group|shadow|gshadow|subuid|subgid)-)$' || true"));
    assert_eq!(left, "");
    assert_eq!(inside(w.two, "systemctl list-units --failed --no-legend --plain \"zmigrate*\""), "");
    w.two.sh(REMOVE);
}

/// Where no zmigrated runs, the package's timer starts the job: enabled as its comment says, at a time that a drop-in gives it. That run
/// is in the history, and it said nothing, so there is nothing of it in the journal.
fn starts_by_a_timer(w: &World) {
    let comment = include_str!("../../docs/systemd/zmigrate-job@.timer").replace("@db.", "@fetch.");
    let commands = comment.split('`').filter(|quoted| quoted.starts_with("systemctl ")).collect::<Vec<_>>();
    let &[enable, edit] = commands.as_slice() else { panic!("{commands:?}") };
    let timer = edit.strip_prefix("systemctl edit ").unwrap();
    let service = "zmigrate-job@fetch.service";
    let history = || {
        let said = inside(w.two, "runuser -u zmigrate -- zmigrate history fetch --output json");
        let history: Value = serde_json::from_str(&said).unwrap();
        history["runs"].as_array().unwrap().clone()
    };
    let since = inside(w.two, "date +@%s");
    let journal = |what: &str| {
        inside(w.two, &format!("journalctl --sync; journalctl -q --no-pager -o cat --since {since} {what}"))
    };
    let before = history().len();
    // What `systemctl edit` does, which insists on a terminal.
    let drop_in = format!("/etc/systemd/system/{timer}.d");
    w.two.sh(&format!(
        "mkdir {drop_in}; printf '[Timer]\\nOnCalendar=\\nOnActiveSec=1s\\nRandomizedDelaySec=0\\nAccuracySec=1s\\n' >{drop_in}/override.conf"
    ));
    inside(
        w.two,
        &format!("systemctl daemon-reload; systemctl stop zmigrated; {enable}; systemctl is-enabled {timer}"),
    );
    // It has fired, nothing is to come, and what it started has ended.
    let elapsed = format!("s=$(systemctl show -P SubState {timer}); echo $s; [ $s = elapsed ]");
    w.two.until(Duration::from_secs(120), &enter(&elapsed));
    let all = journal(&format!("-u {service}"));
    let result = inside(w.two, &format!("systemctl show -p ExecMainStatus -p Result {service} | sort"));
    assert_eq!(result, "ExecMainStatus=0\nResult=success", "{all}");
    let runs = history();
    assert_eq!(runs.len(), before + 1, "{runs:?}\n{all}");
    let run = runs.last().unwrap();
    assert_eq!((&run["result"], &run["exit_code"], &run["by"]), (&"done".into(), &0.into(), &"cron".into()), "{run}");
    inside(
        w.two,
        &format!(
            "systemctl disable --now {timer}; rm -r {drop_in}; systemctl daemon-reload; systemctl start zmigrated"
        ),
    );
    is_active(w.two);
    // systemd's own words about a unit are not the unit's; zmigrated's are, as it is not silent.
    assert!(all.contains("Finished "), "{all}");
    assert!(journal("_SYSTEMD_UNIT=zmigrated.service").contains("is ready"), "what a unit says is not in the journal");
    assert_eq!(journal(&format!("_SYSTEMD_UNIT={service}")), "");
}

/// As root, as docs/packages.md says, a cutover starts a unit of systemd where it brings a dataset, and stops it on the way home.
fn writes_in_a_unit(w: &World) {
    let text = include_str!("../../docs/packages.md").split("### As root").nth(1).unwrap();
    let commands = text.split("###").next().unwrap().lines().filter(|line| line.starts_with("    ")).map(str::trim);
    let commands = commands.collect::<Vec<_>>().join("; ");
    assert!(commands.contains("root.conf") && commands.contains("systemctl restart"), "{commands}");
    let (source, target) = ("tank/src/unit", "tank/dst/package/unit");
    let writer = Writer::declare(w);
    w.two.sh(&format!(
        "printf '[Service]\\nKillMode=mixed\\nExecStart={DIR}/writer.sh /{target}/records\\n' >/etc/systemd/system/writer.service; \
         printf '[hook.writer]\\nsystemd = \"writer.service\"\\n' >>/etc/zmigrate/zmigrate.toml"
    ));
    inside(w.two, &commands);
    is_active(w.two);
    let state = || inside(w.two, "systemctl show -P ActiveState writer.service");
    assert_eq!(state(), "inactive");
    writer.begin(source);
    let cutover = |args: &str| {
        let run = w.zmigrate(w.one, &format!("cutover {args}")).must_be(0);
        assert_eq!(run.report["result"], "done", "{}", run.out);
        run.report["id"].as_str().unwrap().to_owned()
    };
    let id = cutover(&format!("start {source} package:{target} --hook writer --max-downtime 300s"));
    assert_eq!(state(), "active");
    w.one.sh("if pgrep -x writer.sh; then exit 1; fi");
    writer.writes(w.two);
    cutover(&format!("back {id}"));
    assert_eq!(state(), "inactive");
    w.two.sh("if pgrep -x writer.sh; then exit 1; fi");
    // All that either has acknowledged, in the unit and out of it.
    writer.must_have_it_all("home from a unit", w.one, source);
    inside(
        w.two,
        "rm -r /etc/systemd/system/writer.service /etc/systemd/system/zmigrated.service.d; systemctl daemon-reload",
    );
}

/// Removes what the trial leaves in a guest, also when it broke off.
pub const REMOVE: &str = "if [ -e /root/zmlab/systemd.pid ]; then p=$(cat /root/zmlab/systemd.pid); \
     if grep -qs '^unshare' /proc/$p/comm; then kill -9 $p; sleep 1; fi; rm -f /root/zmlab/systemd.pid; fi; \
     if dpkg -s zmigrate >/dev/null 2>&1; then dpkg --purge --force-all zmigrate >/dev/null 2>&1; fi; \
     if id zmigrate >/dev/null 2>&1; then userdel zmigrate; fi; \
     rm -rf /etc/zmigrate /var/lib/zmigrate /root/zmigrate.deb /etc/systemd/system/writer.service /etc/systemd/system/zmigrated.service.d \
     /etc/systemd/system/zmigrate-job@*.d /etc/systemd/system/timers.target.wants/zmigrate-job@*; if [ -L /dev/log ]; then rm /dev/log; fi; \
     if [ -d /sys/fs/cgroup/zmlab ]; then find /sys/fs/cgroup/zmlab -depth -type d -exec rmdir {} + || true; fi";

/// As a container's root directory, with /dev/zfs and nothing else of the guest; Docker itself is tried in `tests/package`.
fn image_sends_and_receives(w: &World) {
    let pair = w.pair("image", 4);
    let scratch = tempfile::tempdir().unwrap();
    let at = scratch.path().to_string_lossy().into_owned();
    let image = made(".tar").unwrap();
    let tar = Command::new("tar").args(["-C", &at, "-xf", &image.to_string_lossy(), "./layer.tar"]).status().unwrap();
    assert!(tar.success());
    fs::rename(scratch.path().join("layer.tar"), scratch.path().join("zmimage.tar")).unwrap();
    w.one.lab("cp", &[&format!("{at}/zmimage.tar")]);
    w.one.sh(&format!(
        "mkdir {DIR}/image; tar -C {DIR}/image -xf /root/zmimage.tar; rm /root/zmimage.tar; cp -a /dev/zfs /dev/null {DIR}/image/dev/; \
         mkdir -p {DIR}/image{DIR}; cp -r {DIR}/pki {DIR}/zmigrate.toml {DIR}/image{DIR}/"
    ));
    w.change(&pair, "s1", 100);
    let run = |args: &str| {
        w.one.sh(&format!(
            "unshare --mount bash -c 'mount --bind /proc {DIR}/image/proc; mount --bind /sys {DIR}/image/sys; \
             exec env -i PATH=/bin /usr/sbin/chroot {DIR}/image {args}'"
        ))
    };
    let versions = run("/bin/zfs version");
    assert!(versions.contains("zfs-") && versions.contains("zfs-kmod-"), "{versions}");
    let zmigrate = format!("/bin/zmigrate --config {DIR}/zmigrate.toml");
    run(&format!("{zmigrate} push {} node2:{}", pair.source, pair.target));
    w.same(&pair, "s1");
    run(&format!("{zmigrate} pull node2:{} tank/dst/image-back", pair.target));
    assert_eq!(w.one.get("tank/dst/image-back@s1", "guid"), w.two.get(&format!("{}@s1", pair.target), "guid"));
}
