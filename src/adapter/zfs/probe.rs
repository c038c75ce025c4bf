//! What the usage texts and `zpool get all` tell of a ZFS. Pure.
//!
//! An option that a usage text names exists. One that it does not name is taken not to.

use std::collections::BTreeSet;

use crate::types::{ZfsVersion, listing::Capabilities};

/// The texts that a probe gathers, each whole (stdout and stderr).
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// `zfs version`, empty where there is no such command.
    pub version: String,
    /// `zfs send` without arguments.
    pub send: String,
    /// `zfs receive` without arguments.
    pub receive: String,
    /// `zfs snapshot` without arguments.
    pub snapshot: String,
    /// `zfs bookmark` without arguments.
    pub bookmark: String,
    /// `zfs get` without arguments.
    pub get: String,
    /// `zfs list` with an option that does not exist.
    pub list: String,
    /// `zfs create` without arguments.
    pub create: String,
    /// `zfs hold` of a snapshot that does not exist.
    pub hold: String,
}

/// What the tool itself can do, beside [`Capabilities`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    /// The part of the capabilities that no pool changes.
    pub capabilities: Capabilities,
    /// `zfs list -p` and `zfs get -t`.
    pub exact_list: bool,
    /// `zfs create -u`.
    pub create_unmounted: bool,
    properties: BTreeSet<String>,
}

impl Tools {
    /// True if `zfs get` takes this property. User properties always; `written@SNAPSHOT` where there is `written`.
    pub fn knows(&self, property: &str) -> bool {
        let kind = property.split_once('@').map_or(property, |(kind, _)| kind);
        kind.contains(':') || self.properties.contains(kind)
    }

    /// Takes back what a trial has shown to be unknown.
    pub fn forget(&mut self, property: &str) -> bool {
        self.properties.remove(property)
    }

    /// Adds what this pool allows.
    pub fn with_pool(&self, zpool_get: &str) -> Capabilities {
        let mut all = self.capabilities.clone();
        for line in zpool_get.lines() {
            let mut words = line.split_whitespace().skip_while(|w| !w.starts_with("feature@"));
            let (Some(name), Some(state)) = (words.next(), words.next()) else { continue };
            let name = name.trim_start_matches("feature@").to_owned();
            if state == "active" {
                all.pool_features_active.insert(name.clone());
            }
            if state == "active" || state == "enabled" {
                all.pool_features.insert(name);
            }
        }
        all.bookmarks &= all.pool_features.contains("bookmarks");
        // The partial state is kept in an extensible dataset (`dmu_recv.c`).
        all.receive_resumable &= all.pool_features.contains("extensible_dataset");
        all
    }
}

/// Reads the texts.
pub fn tools(texts: &Texts) -> Tools {
    let send = clusters(&texts.send, "send");
    let receive = clusters(&texts.receive, "receive");
    let has = |flags: &[&str], flag: char| flags.iter().any(|cluster| cluster.contains(flag));
    let mut properties = properties(&texts.get);
    // zfs-fuse and OpenZFS know these without saying so.
    properties.extend(["guid", "createtxg"].map(str::to_owned));
    // Hidden, and as old as resumable receives.
    if properties.contains("receive_resume_token") {
        properties.insert("inconsistent".to_owned());
    }
    let version = version(&texts.version);
    Tools {
        capabilities: Capabilities {
            userland_version: version.userland,
            kernel_version: version.kernel,
            send_large_block: has(&send, 'L'),
            send_compressed: has(&send, 'c'),
            send_embed: has(&send, 'e'),
            send_raw: has(&send, 'w'),
            send_resume: texts.send.contains("-t <receive_resume_token>") || texts.send.contains("-t <token>"),
            send_estimate: has(&send, 'n') && has(&send, 'P'),
            receive_resumable: has(&receive, 's') && texts.receive.contains("receive -A "),
            receive_properties: texts.receive.contains("[-o ") && texts.receive.contains("[-x "),
            bookmarks: texts.bookmark.contains("<bookmark>") || texts.bookmark.contains("<newbookmark>"),
            // zfs-fuse without its Python part says "internal error" instead.
            holds: texts.hold.contains("does not exist") || texts.hold.contains("ermission denied"),
            snapshot_many: synopsis(&texts.snapshot, "snapshot").any(|l| l.trim_end().ends_with("...")),
            volmode: properties.contains("volmode") && properties.contains("snapdev"),
            pool_features: BTreeSet::new(),
            pool_features_active: BTreeSet::new(),
        },
        exact_list: has(&clusters(&texts.list, "list"), 'p') && synopsis_text(&texts.get, "get").contains("[-t "),
        create_unmounted: has(&clusters(&texts.create, "create"), 'u'),
        properties,
    }
}

/// Reads the output of `zfs version`.
pub fn version(text: &str) -> ZfsVersion {
    let of = |prefix: &str| {
        let mut lines = text.lines().map(str::trim);
        let found = lines.find_map(|l| l.strip_prefix(prefix).filter(|v| v.starts_with(|c: char| c.is_ascii_digit())));
        found.map(str::to_owned)
    };
    ZfsVersion { userland: of("zfs-"), kernel: of("zfs-kmod-") }
}

/// The lines of a usage text that show how `command` is written.
fn synopsis<'a>(usage: &'a str, command: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = usage.lines().map(str::trim_start);
    lines.filter(move |l| l.strip_prefix(command).is_some_and(|rest| rest.starts_with(' ')))
}

/// The synopsis with its continuation lines, up to the first empty line.
fn synopsis_text<'a>(usage: &'a str, command: &str) -> &'a str {
    let from = usage.find(&format!("\t{command} ")).unwrap_or(usage.len());
    let rest = &usage[from..];
    rest.split("\n\n").next().unwrap_or(rest)
}

/// The letters of the first option group of each line: `send [-DLPbc] …` gives `DLPbc`.
fn clusters<'a>(usage: &'a str, command: &'a str) -> Vec<&'a str> {
    let group = |line: &'a str| {
        let (_, rest) = line.split_once("[-")?;
        let (group, _) = rest.split_once(']')?;
        group.bytes().all(|b| b.is_ascii_alphabetic()).then_some(group)
    };
    synopsis(usage, command).filter_map(group).collect()
}

/// The names in the table of properties: lines of a name and two words of YES or NO.
fn properties(usage: &str) -> BTreeSet<String> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().take(3).collect();
        let [name, edit, inherit] = words[..] else { return None };
        let yes_no = |w: &str| w == "YES" || w == "NO";
        (yes_no(edit) && yes_no(inherit)).then(|| name.to_owned())
    };
    usage.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn openzfs() -> Texts {
        Texts {
            version: "zfs-2.3.2-2~bpo12+2\nzfs-kmod-2.3.2-2~bpo12+2\n".into(),
            send: "missing snapshot argument\nusage:\n\tsend [-DLPbcehnpsVvw] [-i|-I snapshot]\n\t     [-R [-X dataset[,dataset]...]]     <snapshot>\n\tsend [-DnVvPLecw] [-i snapshot|bookmark] <filesystem|volume|snapshot>\n\tsend [-nVvPe] -t <receive_resume_token>\n\tsend [-PnVv] --saved filesystem\n".into(),
            receive: "usage:\n\treceive [-vMnsFhu] [-o <property>=<value>] ... [-x <property>] ...\n\t    <filesystem|volume|snapshot>\n\treceive -A <filesystem|volume>\n".into(),
            snapshot: "usage:\n\tsnapshot [-r] [-o property=value] ... <filesystem|volume>@<snap> ...\n".into(),
            bookmark: "usage:\n\tbookmark <snapshot|bookmark> <newbookmark>\n".into(),
            get: "usage:\n\tget [-rHp] [-j [--json-int]] [-d max] [-o \"all\" | field[,...]]\n\t    [-t type[,...]] [-s source[,...]]\n\nThe following\n\n\tavailable NO NO <size>\n\treceive_resume_token    NO       NO   <string token>\n\tvolmode YES YES x\n\tsnapdev YES YES hidden\n".into(),
            list: "usage:\n\tlist [-Hp] [-j [--json-int]] [-r|-d max] [-o property[,...]] [-s property]...\n".into(),
            create: "usage:\n\tcreate [-Pnpuv] [-o property=value] ... <filesystem>\n".into(),
            hold: "cannot hold snapshot 'zp@none': dataset does not exist\n".into(),
        }
    }

    #[test]
    fn openzfs_can_all_of_it() {
        let tools = tools(&openzfs());
        let pool = "zp  feature@extensible_dataset  active  local\nzp  feature@bookmarks  enabled  local\nzp  feature@zstd_compress  disabled  local\n";
        let c = tools.with_pool(pool);
        assert_eq!(c.userland_version.as_deref(), Some("2.3.2-2~bpo12+2"));
        assert_eq!(c.kernel_version.as_deref(), Some("2.3.2-2~bpo12+2"));
        let all = [c.send_large_block, c.send_compressed, c.send_embed, c.send_raw, c.send_resume, c.send_estimate];
        assert_eq!(all, [true; 6]);
        assert!(c.receive_resumable && c.receive_properties && c.bookmarks && c.holds && c.snapshot_many && c.volmode);
        assert!(tools.exact_list && tools.create_unmounted && tools.knows("inconsistent") && tools.knows("a:b"));
        assert_eq!(c.pool_features.len(), 2);
        assert_eq!(c.pool_features_active.len(), 1);
        let old_pool = tools.with_pool("zp  version  28  local\n");
        assert!(!old_pool.bookmarks && !old_pool.receive_resumable);
    }

    #[test]
    fn zfs_fuse_can_little() {
        let texts = Texts {
            send: "missing snapshot argument\nusage:\n\tsend [-RDp] [-[iI] snapshot] <snapshot>\n".into(),
            receive: "usage:\n\treceive [-vnF] <filesystem|volume|snapshot>\n\treceive [-vnF] -d <filesystem>\n".into(),
            snapshot: "usage:\n\tsnapshot [-r] [-o property=value] ... <filesystem@snapname|volume@snapname>\n".into(),
            bookmark: "unrecognized command 'bookmark'\nusage: zfs command args ...\n\tcreate [-p]\n".into(),
            get: "usage:\n\tget [-rHp] [-d max] [-o \"all\" | field[,...]] [-s source[,...]]\n\n\tavailable NO NO <size>\n\tversion YES NO 1 | 2\n\n[-t x]\n".into(),
            list: "usage:\n\tlist [-rH][-d max] [-o property[,...]] [-t type[,...]] [-s property] ...\n".into(),
            create: "usage:\n\tcreate [-p] [-o property=value] ... <filesystem>\n".into(),
            hold: "cannot hold 'zp@none': dataset does not exist".into(),
            ..Texts::default()
        };
        let tools = tools(&texts);
        let expected = Capabilities { holds: true, ..Capabilities::default() };
        assert_eq!(tools.with_pool("zp  version  23  default\n"), expected);
        assert!(!tools.exact_list && !tools.create_unmounted && !tools.knows("written") && tools.knows("guid"));
        let broken = Texts { hold: "internal error: /usr/lib/zfs/pyzfs.py not found".into(), ..texts };
        assert!(!super::tools(&broken).capabilities.holds);
    }
}
