//! What a peer says is shown to people: no reply brings a terminal commands.

use super::message::{Pruned, Reply, Retired};
use crate::types::{listing::DatasetInfo, printable_lines};

fn clean(text: &mut String) {
    if text.contains(char::is_control) {
        *text = printable_lines(text);
    }
}

fn clean_dataset(info: &mut DatasetInfo) {
    info.properties.iter_mut().for_each(|p| clean(&mut p.value));
    info.resume_token.iter_mut().for_each(clean);
    info.encryption.iter_mut().for_each(|e| clean(&mut e.suite));
}

impl Reply {
    /// With what a terminal would take for commands removed from every text. Names were parsed, and what is in datasets
    /// or in a cutover's JSON is made printable where it is shown.
    pub fn printable(mut self) -> Reply {
        match &mut self {
            Reply::Done
            | Reply::Sizes(_)
            | Reply::AlreadyReceived
            | Reply::Cutover(_)
            | Reply::Verified(_)
            | Reply::Retired(Retired::Waits { .. } | Retired::Destroyed | Retired::Back) => {}
            Reply::DoneWith(notes) | Reply::AlreadyReceivedWith(notes) => notes.iter_mut().for_each(clean),
            Reply::Transferred(transferred) | Reply::Probed { transferred, .. } => {
                transferred.warnings.iter_mut().for_each(clean);
            }
            Reply::Pruned(pruned) => {
                pruned.iter_mut().filter_map(|Pruned { spared, .. }| spared.as_mut()).for_each(clean)
            }
            Reply::Retired(Retired::Stays(why)) => clean(why),
            Reply::Listed(listed) => {
                listed.listing.datasets.iter_mut().chain(&mut listed.ancestors).for_each(clean_dataset);
                let versions = [&mut listed.capabilities.userland_version, &mut listed.capabilities.kernel_version];
                versions.into_iter().flatten().for_each(clean);
            }
            Reply::About(about) => {
                about.version.userland.iter_mut().chain(&mut about.version.kernel).for_each(clean);
                for pool in &mut about.pools {
                    clean(&mut pool.status.name);
                    clean(&mut pool.status.health);
                }
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        types::{
            CreateTxg, Guid, PoolStatus,
            listing::{Capabilities, DatasetKind, Encryption, Listing, Property, PropertySource},
        },
        wire::message::{About, AboutPool, Listed, ReceiverTimes, Transferred},
    };

    /// A text that would clear the screen, wherever a reply has one.
    #[test]
    fn no_text_of_a_reply_commands_a_terminal() {
        let bad = || "a\u{1b}[2J\u{9b}b".to_owned();
        let transferred = || Transferred { warnings: vec![bad()], ..Transferred::default() };
        let dataset = DatasetInfo {
            name: "tank/a".parse().unwrap(),
            kind: DatasetKind::Filesystem,
            guid: Guid(1),
            createtxg: CreateTxg(1),
            origin: None,
            encryption: Some(Encryption { suite: bad(), root: None, key_loaded: true }),
            resume_token: Some(bad()),
            inconsistent: false,
            written: None,
            referenced: 0,
            available: 0,
            properties: vec![Property { name: "p".into(), value: bad(), source: PropertySource::Local }],
            snapshots: Vec::new(),
            bookmarks: Vec::new(),
        };
        let listing = Listing { datasets: vec![dataset.clone()] };
        let capabilities = Capabilities { kernel_version: Some(bad()), ..Capabilities::default() };
        let mut about = About::default();
        about.version.userland = Some(bad());
        let status =
            PoolStatus { name: bad(), health: bad(), readonly: None, full_percent: None, used: None, available: None };
        about.pools.push(AboutPool { status, capabilities: None });
        let replies = [
            Reply::DoneWith(vec![bad()]),
            Reply::AlreadyReceivedWith(vec![bad()]),
            Reply::Transferred(transferred()),
            Reply::Probed { transferred: transferred(), times: ReceiverTimes::default() },
            Reply::Pruned(vec![Pruned { tag: "t".parse().unwrap(), spared: Some(bad()) }]),
            Reply::Retired(Retired::Stays(bad())),
            Reply::Listed(Box::new(Listed { listing, ancestors: vec![dataset], capabilities })),
            Reply::About(Box::new(about)),
        ];
        for reply in replies {
            let text = format!("{:?}", reply.printable());
            assert!(text.contains("a[2Jb") && !text.contains("\\u{"), "{text}");
        }
        assert_eq!(Reply::DoneWith(vec!["two\nlines".into()]).printable(), Reply::DoneWith(vec!["two\nlines".into()]));
    }
}
