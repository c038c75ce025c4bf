//! What `zfs` prints: listings, properties, holds, sizes, and errors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zmigrate::adapter::zfs::{
    classify::{self, Exit},
    parse,
    status,
};

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else { return };
    // As the adapter does: what is no UTF-8 has become U+FFFD.
    let text = String::from_utf8_lossy(rest);
    match how % 5 {
        0 => {
            let (objects, values) = text.split_once('\0').unwrap_or((&text, ""));
            let Ok(values) = parse::values(values) else { return };
            let Ok(objects) = parse::objects(objects) else {
                let _ = parse::objects_from_values(&values);
                return;
            };
            let Ok(listing) = parse::listing(&objects, &values, |name| name.as_str().len() % 3 != 0) else { return };
            let named: usize = listing.datasets.iter().map(|d| 1 + d.snapshots.len() + d.bookmarks.len()).sum();
            assert!(named <= objects.len());
            for dataset in &listing.datasets {
                assert!(dataset.snapshots.is_sorted_by_key(|s| s.createtxg));
                assert!(!dataset.name.as_str().contains(['%', '@', '#']));
            }
        }
        1 => {
            if let Ok(values) = parse::values(&text) {
                values.iter().for_each(|v| drop(parse::dataset(v)));
                let _ = parse::objects_from_values(&values);
            }
        }
        2 => {
            let _ = (parse::holds(&text), parse::send_size(&text));
        }
        4 => {
            // What `zpool list` and `zfs allow` print.
            let lines = text.lines().count();
            if let Ok(pools) = status::pools(&text) {
                assert!(pools.len() <= lines);
            }
            let Ok(dataset) = "tank/in".parse() else { return };
            let found = status::delegations(&text, &dataset);
            assert!(found.len() <= lines);
            // Sets are replaced by what is in them.
            assert!(found.iter().flat_map(|d| &d.permissions).all(|permission| !permission.starts_with('@')));
        }
        _ => {
            let Some((code, _)) = rest.split_first() else { return };
            let exit = if code & 0x80 == 0 { Exit::Code((*code).into()) } else { Exit::Signal((code & 0x3f).into()) };
            // Success is success whatever it said, but for a listing that broke off; and nothing else is.
            let well = exit == Exit::Code(0) && !text.contains("cannot iterate");
            assert_eq!(classify::classify(exit, &text).is_none(), well);
            assert_eq!(classify::classify_resume(exit, &text).is_none(), well);
            assert!(text.starts_with(classify::without_usage(&text)));
        }
    }
});
