//! What a configuration may hold, and what the errors look like.

use std::fs;

use proptest::prelude::*;

use super::*;

fn errors(text: &str) -> String {
    Config::parse(text, "z.toml").expect_err(text).to_string()
}

#[test]
fn nothing_is_the_defaults() {
    let config = Config::parse("", "z.toml").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.listen, ["0.0.0.0:8551".parse().unwrap()]);
    assert_eq!(config.limits.link_lost_after_s, 900);
    assert_eq!(config.zfs_command, Path::new("zfs"));
}

#[test]
fn every_key() {
    let text = r#"
        listen = ["[::]:8551", "127.0.0.1:0", "10.0.0.1"]
        state_dir = "/s"
        runtime_dir = "/r"
        identity.dir = "/i"
        [peer.dc2]
        address = "dc2.example.org"
        [peer."dc3.x"]
        address = "[::1]:9000"
        identity = "three"
        [grant.dc1]
        push = ["tank/in"]
        pull = ["tank/db", "tank/web"]
        cutover = []
        [limits]
        window_bytes = "128M"
        max_sessions_per_identity = 0x10
        [zfs]
        command = "/sbin/zfs"
    "#;
    let config = Config::parse(text, "z.toml").unwrap();
    assert_eq!(config.listen.len(), 3);
    assert_eq!(config.listen[2].port(), DEFAULT_PORT);
    assert_eq!(config.identity_dir, Path::new("/i"));
    let dc2 = &config.peers[&"dc2".parse().unwrap()];
    assert_eq!((dc2.address.to_string().as_str(), dc2.identity.as_str()), ("dc2.example.org:8551", "dc2"));
    let dc3 = &config.peers[&"dc3.x".parse().unwrap()];
    assert_eq!((dc3.address.to_string().as_str(), dc3.identity.as_str()), ("[::1]:9000", "three"));
    assert_eq!(config.grants.get(&"dc1".parse().unwrap()).unwrap().pull.len(), 2);
    assert_eq!((config.limits.window_bytes, config.limits.max_sessions_per_identity), (128 << 20, 16));
    assert_eq!(config.zfs_command, Path::new("/sbin/zfs"));
}

#[test]
fn unknown_keys_are_errors_with_place_and_the_nearest_key() {
    insta::assert_snapshot!(errors("lisen = \"0.0.0.0:1\"\n"), @r#"
    z.toml:1:1: unknown key "lisen"
      hint: did you mean listen?
    "#);
    insta::assert_snapshot!(errors("[grant.dc1]\npush = [\"t\"]\npul = [\"t\"]\n"), @r#"
    z.toml:3:1: unknown key "grant.dc1.pul"
      hint: did you mean pull?
    "#);
    insta::assert_snapshot!(errors("# ä\n  [limit]\nmax_sessions_per_identity = 1\nmax_datasets = 1\n"), @r#"
    z.toml:2:4: unknown key "limit"
      hint: did you mean limits?
    "#);
    insta::assert_snapshot!(errors("max_sessions_per_identity = 3\n"), @r#"
    z.toml:1:1: unknown key "max_sessions_per_identity"
      hint: max_sessions_per_identity belongs into [limits]
    "#);
    insta::assert_snapshot!(errors("[peer.dc1.example]\naddress = \"a\"\n"), @r#"
    z.toml:1:11: unknown key "peer.dc1.example"
      hint: a name with a dot must be quoted: [peer."dc1.example"]
    "#);
    insta::assert_snapshot!(errors("[zfs]\nfrobnicate = 1\n"), @r#"
    z.toml:2:1: unknown key "zfs.frobnicate"
      hint: known here: command
    "#);
}

#[test]
fn certain_mistakes_are_errors_with_their_line() {
    for (text, at, part) in [
        ("listen = []", "1:10", "names no address"),
        ("listen = \"here:1\"", "1:10", "not an IP address"),
        ("listen = [\"1.1.1.1:1\", \"1.1.1.1:1\"]", "1:24", "twice"),
        ("listen = [\"1.1.1.1\", 5]", "1:22", "must hold strings, not an integer"),
        ("listen = 5", "1:10", "an address or a list"),
        ("state_dir = \"here\"", "1:13", "absolute"),
        ("state_dir = 5", "1:13", "a string, not an integer"),
        ("zfs.command = \"bin/zfs\"", "1:15", "absolute path, or a name"),
        ("zfs.command = \"\"", "1:15", "absolute path, or a name"),
        ("zfs = 1", "1:7", "zfs must be a table, not an integer"),
        ("[[peer]]\naddress = \"a\"", "1:1", "peer must be a table, not a list"),
        ("peer.a = 1", "1:10", "peer.a must be a table"),
        ("[listen]\na = 1", "1:2", "listen is not a table"),
        ("[peer.a]", "1:7", "[peer.a] has no address"),
        ("[peer.a]\nidentity = \"b\"", "1:7", "[peer.a] has no address"),
        ("[peer.a]\naddress = \"a:0\"", "2:11", "port that is not 1 to 65535"),
        ("[peer.a]\naddress = \"a\"\nidentity = \"b c\"", "3:12", "peer.a.identity: peer name"),
        ("[peer.\"a b\"]\naddress = \"a\"", "1:7", "peer name \"a b\""),
        ("[grant.a]", "1:8", "[grant.a] grants nothing"),
        ("[grant.a]\npush = []", "1:8", "[grant.a] grants nothing"),
        ("[grant.a]\npush = \"tank\"", "2:8", "must be a list of datasets, not a string"),
        ("[grant.a]\npush = [\n \"tank/\"]", "3:2", "has an empty part"),
        ("[grant.a]\npush = [\"tank@x\"]", "2:9", "names a snapshot"),
        ("[grant.a]\npull = [\"t/a\", \"t/a\"]", "2:16", "t/a is listed twice"),
        ("[grant.a]\npull = [\"t\", \"t/a\"]", "2:14", "t/a is below t"),
        ("[grant.a]\npull = [\"t/a\", \"t\"]", "2:16", "also for t/a"),
        ("limits.max_sessions_per_identity = 0", "1:36", "must be 1 to 4096; the default is 16"),
        ("limits.max_sessions_per_identity = 4097", "1:36", "must be 1 to 4096"),
        ("limits.max_sessions_per_identity = -1", "1:36", "must be 1 to 4096"),
        ("limits.max_sessions_per_identity = \"4\"", "1:36", "must be an integer, not a string"),
        ("limits.max_sessions_per_identity = 99999999999999999999", "1:36", "must be 1 to 4096"),
        ("limits.window_bytes = \"2X\"", "1:23", "must be 4194304 to 1073741824"),
        ("limits.idle_timeout_s = 1000", "limits", "below limits.idle_timeout_s (1000)"),
        ("hook.a = 1", "1:10", "hook.a must be a table"),
        ("[hook.a]", "1:7", "[hook.a] stops and starts nothing"),
        ("[hook.\"a b\"]\ndocker = \"a\"", "1:7", "the name of a hook must be 1 to 63"),
        ("[hook.a]\nsystemd = \"db\"", "2:11", "hook.a.systemd: \"db\" must be a full name, with its suffix"),
        ("[hook.a]\nsystemd = 1", "2:11", "must be a string, not an integer"),
        ("[hook.a]\ndocker = \"../x\"", "2:10", "is not the name of a container"),
        ("[hook.a]\ndocker = \"x\"\nstart = [\"/x\"]", "1:7", "is of two kinds, docker and start"),
        ("[hook.a]\ndocker = \"x\"\nfsfreeze = \"/x\"", "1:7", "is of two kinds, docker and fsfreeze"),
        ("[hook.a]\nstop = [\"/x\"]\ndocker_socket = \"/s\"", "3:1", "has a docker_socket and no docker"),
        ("[hook.a]\ndocker = \"x\"\ndocker_socket = \"s\"", "3:17", "must be an absolute path"),
        ("[hook.a]\nstop = \"/x\"", "2:8", "hook.a.stop must be a list of words, not a string"),
        ("[hook.a]\nstop = []", "2:8", "hook.a.stop must name a command"),
        ("[hook.a]\nstop = [\"x\"]", "2:8", "must begin with the absolute path"),
        ("[hook.a]\nstop = [\"/x\", 1]", "2:15", "must hold strings, not an integer"),
        ("[hook.a]\nstop = [\"/x\"]\ncheck_timeout_s = 9", "3:1", "has a check_timeout_s and no check"),
        ("[hook.a]\nstop = [\"/x\"]\ntimeout_s = 0", "3:13", "must be 1 to 3600; the default is 60"),
        ("[hook.a]\nstop = [\"/x\"]\ntimeout_s = \"9\"", "3:13", "must be 1 to 3600"),
        ("[hook.a]\nfsfreeze = \"/\"", "2:12", "other than /"),
        ("[hook.a]\nfsfreeze = \"/a/../b\"", "2:12", "without .."),
        ("[hook.a]\nstopp = [\"/x\"]", "2:1", "unknown key \"hook.a.stopp\""),
        ("a = ", "1:5", "not TOML"),
        ("listen = \"1.1.1.1:1\"\nlisten = \"1.1.1.1:2\"", "2:1", "not TOML"),
    ] {
        let error = Config::parse(text, "z.toml").expect_err(text);
        assert_eq!(error.problems.len(), 1, "{text:?}: {error}");
        let problem = &error.problems[0];
        let at = if at == "limits" { at.to_owned() } else { format!("z.toml:{at}") };
        assert_eq!(problem.at, at, "{text:?}: {error}");
        assert!(problem.message.contains(part), "{text:?}: {error}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let error = Config::parse("listn = 1\nstate_dir = 1\n[peer.a]\n[grant.a]\n", "z.toml").expect_err("four mistakes");
    assert_eq!(error.problems.len(), 4, "{error}");
    let many: String = (0..1000).map(|i| format!("x{i} = 1\n")).collect();
    assert_eq!(Config::parse(&many, "z").expect_err("1000").problems.len(), ConfigError::MAX_PROBLEMS);
}

#[test]
fn files_are_merged_and_a_key_is_set_once() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("zmigrate.toml");
    fs::create_dir(dir.path().join("conf.d")).unwrap();
    let drop_in = |name: &str, text: &str| fs::write(dir.path().join("conf.d").join(name), text).unwrap();
    fs::write(&main, "state_dir = \"/s\"\n[grant.dc1]\npush = [\"tank/a\"]\n").unwrap();
    drop_in("10-peer.toml", "[peer.dc2]\naddress = \"dc2\"\n");
    drop_in("20-grant.toml", "[grant.dc1]\npull = [\"tank/b\"]\n");
    drop_in("30-old.toml.bak", "nonsense");
    drop_in(".hidden.toml", "nonsense");
    let config = Config::load(Some(&main)).unwrap();
    assert_eq!(config.files.len(), 3);
    let grant = config.grants.get(&"dc1".parse().unwrap()).unwrap();
    assert_eq!((grant.push.len(), grant.pull.len(), config.peers.len()), (1, 1, 1));

    drop_in("40-again.toml", "\n  state_dir = \"/t\"\n");
    let shown = Config::load(Some(&main)).expect_err("set twice").to_string();
    let shown = shown.replace(&dir.path().display().to_string(), "ETC");
    insta::assert_snapshot!(shown, @r"
    ETC/conf.d/40-again.toml:2:3: state_dir is set twice: also at ETC/zmigrate.toml:1:1
      hint: keep one of the two
    ");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.toml");
    let error = Config::load(Some(&path)).expect_err("it is not there");
    assert!(error.to_string().contains("none.toml: cannot be read"), "{error}");
    fs::write(&path, vec![b'#'; MAX_FILE_BYTES as usize + 1]).unwrap();
    assert!(Config::load(Some(&path)).expect_err("it is too long").to_string().contains("longer than"));
    fs::write(&path, [0xff, 0xfe]).unwrap();
    Config::load(Some(&path)).expect_err("it is no text");
    // The default file may be missing, also where others lie beside it.
    fs::create_dir(dir.path().join("conf.d")).unwrap();
    fs::write(dir.path().join("conf.d/a.toml"), "state_dir = \"/s\"\n").unwrap();
    let config = load::load(&dir.path().join("zmigrate.toml"), load::Main::MayBeMissing).unwrap();
    assert_eq!(config.state_dir, Path::new("/s"));
}

#[test]
fn an_authority_is_there_only_where_it_is_named() {
    assert_eq!(Config::parse("", "z").unwrap().ca_dir, None);
    assert_eq!(Config::parse("ca.dir = \"/ca\"", "z").unwrap().ca_dir.as_deref(), Some(Path::new("/ca")));
    for bad in ["ca.dir = \"ca\"", "ca.dir = 1", "ca.dri = \"/ca\"", "ca = \"/ca\""] {
        assert!(Config::parse(bad, "z").is_err(), "{bad}");
    }
}

#[test]
fn hooks_are_read_with_their_defaults() {
    let text = r#"
        [hook.db]
        systemd = "postgresql@15-main.service"
        check = ["/usr/bin/pg_isready", "-q"]
        check_timeout_s = 9
        [hook."web.1"]
        docker = "web-1"
        docker_socket = "/run/d.sock"
        [hook.queue]
        start = ["/bin/start", "a b"]
        timeout_s = 3600
        [hook.volume]
        fsfreeze = "/srv//x/"
    "#;
    let config = Config::parse(text, "z").unwrap();
    let shown: Vec<String> = config.hooks.iter().map(|(name, hook)| format!("{name}: {hook:?}")).collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    db: Hook { kind: Systemd { unit: UnitName("postgresql@15-main.service") }, check: Some(Argv(["/usr/bin/pg_isready", "-q"])), check_timeout: 9s, timeout: 60s }
    queue: Hook { kind: Commands { stop: None, start: Some(Argv(["/bin/start", "a b"])) }, check: None, check_timeout: 60s, timeout: 3600s }
    volume: Hook { kind: Fsfreeze { mountpoint: "/srv/x" }, check: None, check_timeout: 60s, timeout: 60s }
    web.1: Hook { kind: Docker { container: ContainerName("web-1"), socket: "/run/d.sock" }, check: None, check_timeout: 60s, timeout: 60s }
    "#);
}

const REFERENCE: &str = include_str!("../../docs/configuration.md");
const JOBS: &str = include_str!("../../docs/jobs.md");
const EXAMPLE: &str = include_str!("../../docs/zmigrate.example.toml");

#[test]
fn the_examples_are_taken() {
    let example = Config::parse(EXAMPLE, "zmigrate.example.toml").unwrap();
    assert!(!example.peers.is_empty() && example.grants.iter().next().is_some());
    // Every limit is shown with its default.
    assert_eq!(example.limits, Limits::default());
    for (name, text) in [("configuration.md", REFERENCE), ("jobs.md", JOBS)] {
        let blocks: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!blocks.is_empty());
        for block in blocks {
            Config::parse(block, name).unwrap();
        }
    }
}

#[test]
fn the_reference_names_every_key_default_and_range_and_no_other() {
    let documented: Vec<(&str, &str)> = REFERENCE
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once("` |"))
        .collect();
    for key in KEYS {
        assert!(documented.iter().any(|(known, _)| known == key), "{key} is not in the reference");
    }
    for spec in LIMITS {
        let key = format!("limits.{}", spec.key);
        let (_, row) = documented.iter().find(|(known, _)| *known == key).unwrap_or_else(|| panic!("{key}"));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let expected = [spec.default.to_string(), format!("{} to {}", spec.min, spec.max)];
        assert_eq!(cells[..2], expected, "{key}");
        assert!(EXAMPLE.contains(&format!("{} = {}\n", spec.key, spec.default)), "{key} is not in the example");
    }
    assert_eq!(documented.len(), KEYS.len() + LIMITS.len(), "the reference names a key that is not there");
    for default in [DEFAULT_STATE_DIR, DEFAULT_RUNTIME_DIR, DEFAULT_IDENTITY_DIR, "0.0.0.0:8551"] {
        assert!(documented.iter().any(|(_, row)| row.contains(default)), "{default}");
    }
}

mod check_findings {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::identity::{
        When,
        ca::{Ca, IssueRequest, OnExisting},
    };

    const DAY_S: u64 = 86_400;

    #[test]
    fn an_authority_that_is_not_there_is_found() {
        let (dir, mut config) = host("");
        let about = |config: &Config| check(config, When::now()).iter().any(|f| f.message.contains("ca.dir"));
        assert!(!about(&config));
        config.ca_dir = Some(dir.path().join("ca"));
        assert!(about(&config));
        Ca::init(&dir.path().join("ca"), 100, When::now()).unwrap();
        assert!(!about(&config));
    }

    fn host(text: &str) -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        let text = format!(
            "state_dir = \"{root}\"\nruntime_dir = \"{root}\"\nidentity.dir = \"{root}/pki\"\nzfs.command = \"/bin/sh\"\n{text}"
        );
        let config = Config::parse(&text, "z.toml").unwrap();
        (dir, config)
    }

    fn issue(dir: &Path, name: &str) {
        let now = When::from_unix_s(1_767_225_600);
        Ca::init(&dir.join("ca"), 3650, now).unwrap();
        let request = IssueRequest {
            name: name.parse().unwrap(),
            out_dir: dir.join("pki"),
            days: 100,
            on_existing: OnExisting::Refuse,
        };
        Ca::issue(&dir.join("ca"), &request, now).unwrap();
    }

    fn at_day(day: u64) -> When {
        When::from_unix_s(1_767_225_600 + day * DAY_S)
    }

    fn shown(config: &Config, now: When) -> Vec<String> {
        check(config, now).iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn a_sound_host_has_none() {
        let (dir, config) = host("[peer.b]\naddress = \"b\"\n[grant.b]\npush = [\"tank/in\"]\n");
        issue(dir.path(), "a");
        assert_eq!(shown(&config, at_day(1)), [""; 0]);
    }

    #[test]
    fn each_thing_that_is_wrong_is_found() {
        let (dir, config) = host("");
        assert!(shown(&config, at_day(1))[0].contains("holds no ca.pem, node.pem, node.key, crl.pem"));
        issue(dir.path(), "a");
        assert!(shown(&config, at_day(80))[0].starts_with("warning: "));
        assert!(shown(&config, at_day(101))[0].contains("expired 2026-04-11"));
        assert!(shown(&config, When::from_unix_s(1_767_000_000))[0].contains("set the clock"));
        assert!(shown(&config, at_day(3600)).iter().any(|f| f.contains("make a new CA")));
        let key = dir.path().join("pki/node.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let found = shown(&config, at_day(1));
        assert!(found.len() == 1 && found[0].contains("mode 0644") && found[0].contains("chmod 600"), "{found:?}");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(shown(&config, at_day(1))[0].starts_with("note: "));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        Ca::revoke(&dir.path().join("ca"), &"a".parse().unwrap(), at_day(0)).unwrap();
        fs::copy(dir.path().join("ca/crl.pem"), dir.path().join("pki/crl.pem")).unwrap();
        assert!(shown(&config, at_day(1))[0].contains("is revoked"));
    }

    #[test]
    fn a_hook_that_cannot_run_is_found() {
        let tool = tempfile::NamedTempFile::new().unwrap();
        let path = tool.path().display();
        let text = format!(
            "[hook.a]\nstop = [\"{path}\"]\nstart = [\"/bin/true\"]\n[hook.b]\ndocker = \"x\"\ndocker_socket = \"/nonexistent/s\"\n\
             [hook.c]\nfsfreeze = \"/nonexistent/m\"\n"
        );
        let (dir, config) = host(&text);
        issue(dir.path(), "a");
        let hooks = || shown(&config, at_day(1)).into_iter().filter(|f| f.contains("[hook.")).collect::<Vec<_>>();
        let text = hooks().join("\n").replace(&path.to_string(), "TOOL");
        insta::assert_snapshot!(text, @r"
        error: [hook.a] stop: TOOL is not there or cannot be run
          hint: install it, chmod +x it, or correct its path
        error: [hook.c] fsfreeze: /nonexistent/m is not a directory
          hint: name where the filesystem on the volume is mounted
        warning: [hook.b] docker: there is no socket /nonexistent/s
          hint: start Docker, or name its socket with docker_socket
        ");
        fs::set_permissions(tool.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(hooks().iter().any(|f| f.contains("can be written by others")), "{:?}", hooks());
    }

    #[test]
    fn names_that_do_not_fit_are_found() {
        let (dir, mut config) = host(
            r#"
            [peer.me]
            address = "me"
            identity = "alpha"
            [peer.bravo]
            address = "b"
            [peer.bravo2]
            address = "b"
            identity = "charlie"
            [grant.alpha]
            push = ["tank"]
            [grant.bravp]
            push = ["tank/in"]
            [grant.bravo2]
            pull = ["tank"]
            "#,
        );
        issue(dir.path(), "alpha");
        config.zfs_command = "no-such-zfs".into();
        let text = shown(&config, at_day(1)).join("\n");
        insta::assert_snapshot!(text, @r"
        error: [peer.me] names this node itself
          hint: remove it, or correct its identity
        error: zfs.command no-such-zfs is not there or cannot be run (looked for in /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
          hint: install the ZFS tools, or set zfs.command to their path
        warning: the peers bravo and bravo2 have the address b:8551 and different identities
          hint: one node has one identity: correct one of the addresses
        warning: [grant.alpha] is for this node itself, and is never used
          hint: a grant names the identity of another node
        warning: [grant.bravo2] is for the identity bravo2, and the peer of that name has the identity charlie
          hint: write [grant.charlie] if that is who is meant
        warning: [grant.bravp] is for the identity bravp, which no peer has
          hint: did you mean bravo?
        note: alpha and bravp may both send into tank/in
          hint: give each its own dataset, unless they replicate different datasets into it
        ");
    }

    #[test]
    fn a_configuration_that_others_can_write_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("z.toml");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        let config = Config::load(Some(&path)).unwrap();
        assert!(shown(&config, at_day(1)).iter().any(|f| f.contains("could grant themselves access")));
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(text in ".{0,400}") {
        let _ = Config::parse(&text, "p");
    }

    #[test]
    fn parsing_what_looks_like_a_configuration_never_panics(
        lines in prop::collection::vec(
            prop_oneof![
                Just("[limits]".to_owned()), Just("[peer.a]".to_owned()), Just("[grant.\"b.c\"]".to_owned()),
                "\\[{1,2}(peer|grant|zfs|limits|x)(\\.[a-z\"é]{0,3}){0,3}\\]{1,2}",
                "(listen|state_dir|push|pull|address|max_sessions_per_identity|window_bytes|dir|ä|zfs\\.command) = [\\[\"]?[a-z0-9:/.@é\", -]{0,12}[\\]\"]?",
            ],
            0..8,
        )
    ) {
        let text = lines.join("\n");
        if let Err(error) = Config::parse(&text, "p") {
            prop_assert!(!error.problems.is_empty());
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
