//! What goes wrong with the data and their surroundings: a full pool, a stream that is damaged on its way from `zfs send`, a word that
//! is lost after a receive has committed.

use crate::{
    Case,
    guest::Guest,
    kills::went_on,
    world::{DIR, Pair, Run, World},
};

pub const CASES: &[Case] = &[
    ("full_pool_goes_on_when_there_is_room", full_pool_goes_on_when_there_is_room),
    ("damaged_stream_is_found", damaged_stream_is_found),
    ("done_that_is_lost_is_made_up_for", done_that_is_lost_is_made_up_for),
];

/// `NAME.toml`, whose `zfs` is this script. It is called with all that `zfs` would be, and finds that as `zfs`.
fn wrapped(guest: Guest, name: &str, script: &str) {
    guest.sh(&format!(
        "mkdir -p {DIR}/{name}; cd {DIR}/{name}; cat >zfs <<'END'\n#!/bin/bash\n{script}\nEND\n\
         printf '#!/bin/bash\\nexec zpool \"$@\"\\n' >zpool; chmod 755 zfs zpool; \
         {{ cat {DIR}/zmigrate.toml; printf '[zfs]\\ncommand = \"{DIR}/{name}/zfs\"\\n'; }} >{DIR}/{name}.toml"
    ));
}

/// The first error of a run, with what it says to do.
fn error(run: &Run) -> String {
    let error = &run.report["datasets"][0]["error"];
    format!("{} {}", error["message"].as_str().unwrap_or_default(), error["hint"].as_str().unwrap_or_default())
}

fn full_pool_goes_on_when_there_is_room(w: &World) {
    let pair = Pair { target: "tight/in/full".into(), ..w.pair("full", 12) };
    let target = &pair.target;
    w.one.sh(&format!("zfs snapshot {}@s1", pair.source));
    // 56 MiB can be used of so many. A neighbour has reserved most of them: what is written close to the end of a pool takes its time.
    w.two.sh(&format!(
        "truncate -s 128M {DIR}/tight; zpool create -m /tight tight {DIR}/tight; zfs create tight/theirs; \
         head -c 1M /dev/urandom >/tight/theirs/precious; zfs snapshot tight/theirs@kept"
    ));
    let theirs = || {
        let at = "/tight/theirs";
        w.two.sh(&format!("zfs list -Hp -t all -o name,guid -r tight/theirs; cat {at}/precious {at}/.zfs/snapshot/kept/precious | sha256sum"))
    };
    let before = theirs();
    let (guest, args) = w.replicate(crate::world::Way::Push, &pair, "");
    for (tag, theirs_mib) in [("s1", 48), ("s2", 36)] {
        if tag == "s2" {
            w.change(&pair, tag, 12 << 10);
        }
        w.two.sh(&format!("zfs set reservation={theirs_mib}M tight/theirs"));
        let has = w.two.ask(&format!("zfs list -Hp -d 1 -t snapshot -o guid {target} 2>/dev/null")).out;
        // Once more while it is still full: that changes nothing.
        for _ in 0..2 {
            let run = w.zmigrate(guest, &args).must_be(6);
            let said = error(&run);
            assert!(said.contains("out of space") && said.contains("free space in the target's pool"), "{}", run.out);
            assert!(w.two.get(target, "receive_resume_token").starts_with("1-"), "what has arrived is not kept");
            assert_eq!(w.two.sh(&format!("zfs list -Hp -d 1 -t snapshot -o guid {target}")), has.trim_end());
            assert_eq!(theirs(), before);
        }
        w.two.sh("zfs set reservation=none tight/theirs");
        went_on(&w.push(&pair, ""), 12 << 20);
        assert_eq!(w.one.snapshots(&pair.source), w.two.snapshots(target));
        w.same(&pair, tag);
        crate::basic::protected(w.two, target);
        assert_eq!(theirs(), before);
    }
    w.two.sh(&format!("zpool destroy tight; rm {DIR}/tight"));
}

/// What `zfs send` gives goes through a filter, if there is one, and all is said to be well.
const FILTER: &str = "dir=$(dirname \"$0\")\n\
    if [ \"$1\" = send ] && [[ \" $* \" != *\" -n\"* ]] && [ -e \"$dir/filter\" ]; then\n\
    zfs \"$@\" | bash \"$dir/filter\"; cat >/dev/null; exit 0\n\
    fi\nexec zfs \"$@\"";

fn damaged_stream_is_found(w: &World) {
    let pair = w.pair("damaged", 3);
    let (source, target) = (&pair.source, &pair.target);
    wrapped(w.one, "damaged", FILTER);
    let push = || {
        let args =
            format!("zmigrate --config {DIR}/damaged.toml --output json push {source} node2:{target} --progress none");
        Run::from(w.one.ask(&args))
    };
    let mut has: Vec<String> = Vec::new();
    for (tag, kib) in [("s1", 1), ("s2", 3 << 10)] {
        w.change(&pair, tag, kib);
        // Both steps are a little longer than 3 MiB; the second try may go on where the first one stopped.
        for (filter, words) in [
            (
                "exec perl -e 'binmode STDIN; binmode STDOUT; local $/; my $s = <STDIN>; \
                 substr($s, 2000000, 1) = chr(ord(substr($s, 2000000, 1)) ^ 8); print $s'",
                "the stream from zfs send cannot be trusted: ",
            ),
            ("exec head -c -1000", "from zfs send: "),
        ] {
            w.one.sh(&format!("cat >{DIR}/damaged/filter <<'END'\n{filter}\nEND"));
            let run = push().must_be(6);
            assert!(error(&run).contains(words), "{}", run.out);
            let now = w.two.ask(&format!("zfs list -Hp -d 1 -t snapshot -o name {target} 2>/dev/null")).out;
            assert_eq!(now.lines().count(), has.len(), "{tag}: a damaged stream was taken as complete: {now}");
        }
        w.one.sh(&format!("rm {DIR}/damaged/filter"));
        push().must_be(0);
        has = w.two.snapshots(target);
        assert_eq!(w.one.snapshots(source), has);
        w.same(&pair, tag);
    }
    assert_eq!(w.one.holds(source), Vec::<String>::new(), "holds on the source");
    crate::basic::protected(w.two, target);
}

/// Whoever began a receive is killed right after it has committed.
const ASSASSIN: &str = "dir=$(dirname \"$0\")\n\
    if [ \"$1\" = receive ] && [ $# -gt 1 ]; then\n\
    echo \"$*\" >>\"$dir/receives\"\n\
    zfs \"$@\"; rc=$?\n\
    if [ $rc = 0 ] && mv \"$dir/contract\" \"$dir/fulfilled\" 2>/dev/null; then kill -9 $PPID; fi\n\
    exit $rc\n\
    fi\nexec zfs \"$@\"";

fn done_that_is_lost_is_made_up_for(w: &World) {
    let pair = w.pair("lost-done", 1);
    let (source, target) = (&pair.source, &pair.target);
    wrapped(w.two, "lost-done", ASSASSIN);
    let pull = || {
        let command = format!(
            "zmigrate --config {DIR}/lost-done.toml --output json pull node1:{source} {target} --progress none"
        );
        Run::from(w.two.ask(&command))
    };
    for (n, tag) in ["s1", "s2"].into_iter().enumerate() {
        w.change(&pair, tag, 100);
        w.two.sh(&format!("touch {DIR}/lost-done/contract"));
        assert_ne!(pull().code, 0, "nobody was killed");
        w.two.sh(&format!("rm {DIR}/lost-done/fulfilled"));
        assert_eq!(w.one.snapshots(source), w.two.snapshots(target), "it has committed");
        // The source's side lets go of a run whose peer is gone within moments.
        let run = (0..100).find_map(|_| Some(pull()).filter(|run| run.code != 75)).unwrap().must_be(0);
        assert!(run.steps().is_empty(), "it was sent twice: {}", run.out);
        assert_eq!(w.two.sh(&format!("wc -l <{DIR}/lost-done/receives")), (n + 1).to_string());
        // What comes after the data is there: protections, the base on both sides, and no hold that is needed no more.
        crate::basic::protected(w.two, target);
        let (job, guid) = (w.two.get(target, "zmigrate:job"), w.two.get(&format!("{target}@{tag}"), "guid"));
        assert_eq!(w.two.holds(target), [format!("{target}@{tag} zmigrate:{job}")]);
        assert_eq!(w.one.bookmarks(source), [format!("{source}#zmigrate:{job}:{guid}")]);
        assert_eq!(w.one.holds(source), Vec::<String>::new(), "holds on the source");
        w.same(&pair, tag);
    }
}
