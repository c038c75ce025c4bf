//! Many datasets with many snapshots.

use std::time::Instant;

use crate::{Case, world::World};

pub const CASES: &[Case] = &[("hundred_datasets", hundred_datasets)];

const LIST: &str = "zfs list -Hp -r -t snapshot -s name -o name,guid";

fn hundred_datasets(w: &World) {
    let (source, target) = ("tank/src/many", "tank/dst/many");
    w.one.sh(&format!(
        "zfs create {source}; for i in $(seq 99); do zfs create {source}/d$i; done; \
         for s in 1 2 3 4 5; do for i in $(seq 99); do head -c 20K /dev/urandom >/{source}/d$i/f$s; done; zfs snapshot -r {source}@s$s; done"
    ));
    let args = format!("push -r --jobs 4 {source} node2:{target}");
    let started = Instant::now();
    let run = w.zmigrate(w.one, &args).must_be(0);
    eprintln!("lab:   100 datasets with 5 snapshots each: {:.1} s", started.elapsed().as_secs_f64());
    assert_eq!(run.steps().len(), 500);
    let bare = |list: String, root: &str| list.replace(root, "");
    assert_eq!(
        bare(w.one.sh(&format!("{LIST} {source}")), source),
        bare(w.two.sh(&format!("{LIST} {target}")), target)
    );
    let started = Instant::now();
    let run = w.zmigrate(w.one, &args).must_be(0);
    eprintln!("lab:   and up to date: {:.1} s", started.elapsed().as_secs_f64());
    assert_eq!(run.report["result"], "up_to_date");
    for d in ["d1", "d50", "d99"] {
        assert_eq!(w.one.digest(&format!("{source}/{d}@s5")), w.two.digest(&format!("{target}/{d}@s5")));
    }
    let holds = w.one.sh(&format!("zfs list -Hp -r -t snapshot -o userrefs {source} | sort -u"));
    assert_eq!(holds, "0", "holds left on the source");
    let bookmarks = w.one.sh(&format!("zfs list -H -r -t bookmark -o name {source} | wc -l"));
    assert_eq!(bookmarks, "100", "one bookmark for each dataset");
}
