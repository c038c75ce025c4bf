//! Many datasets with many snapshots.

use std::time::Instant;

use crate::{Case, world::World};

pub const CASES: &[Case] = &[("many_datasets", many_datasets)];

const LIST: &str = "zfs list -Hp -r -t snapshot -s name -o name,guid";

fn many_datasets(w: &World) {
    let (source, target) = ("tank/src/many", "tank/dst/many");
    w.one.sh(&format!(
        "zfs create {source}; for i in $(seq 11); do zfs create {source}/d$i; done; \
         for s in 1 2 3; do for i in $(seq 11); do head -c 20K /dev/urandom >/{source}/d$i/f$s; done; zfs snapshot -r {source}@s$s; done"
    ));
    let args = format!("push -r --jobs 4 {source} node2:{target}");
    let started = Instant::now();
    let run = w.zmigrate(w.one, &args).must_be(0);
    eprintln!("lab:   12 datasets with 3 snapshots each: {:.1} s", started.elapsed().as_secs_f64());
    assert_eq!(run.steps().len(), 36);
    let bare = |list: String, root: &str| list.replace(root, "");
    assert_eq!(
        bare(w.one.sh(&format!("{LIST} {source}")), source),
        bare(w.two.sh(&format!("{LIST} {target}")), target)
    );
    let started = Instant::now();
    let run = w.zmigrate(w.one, &args).must_be(0);
    eprintln!("lab:   and up to date: {:.1} s", started.elapsed().as_secs_f64());
    assert_eq!(run.report["result"], "up_to_date");
    for d in ["d1", "d6", "d11"] {
        assert_eq!(w.one.digest(&format!("{source}/{d}@s3")), w.two.digest(&format!("{target}/{d}@s3")));
    }
    let holds = w.one.sh(&format!("zfs list -Hp -r -t snapshot -o userrefs {source} | sort -u"));
    assert_eq!(holds, "0", "holds left on the source");
    let bookmarks = w.one.sh(&format!("zfs list -H -r -t bookmark -o name {source} | wc -l"));
    assert_eq!(bookmarks, "12", "one bookmark for each dataset");
}
