//! OpenZFS releases, and what is known to go wrong with some of them. Pure and advisory: nothing is refused because of it.
//!
//! ```text
//! "2.3.2-1~bpo12+2" ─ Release ─┐
//!                              ├─ known_bugs ─ what to expect, and what to do
//! KNOWN: fixed in 2.2.8, 2.3.3 ┘
//! ```

use std::fmt;

use crate::types::ZfsVersion;

/// A release of OpenZFS, without what a distribution added to its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    major: u32,
    minor: u32,
    patch: u32,
    /// The number of a release candidate; those come before the release, so a release has the largest number.
    candidate: u32,
}

/// The patch level of `master` between two releases: `2.3.99` is what becomes 2.4.0.
const DEVELOPMENT: u32 = 99;

impl Release {
    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch, candidate: u32::MAX }
    }

    /// Reads what `zfs version` prints: `zfs-2.3.2-1~bpo12+2`, `zfs-kmod-2.2.0-rc4`, `2.1.11-1`. `None` if it does not
    /// begin with three numbers.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("zfs-kmod-").or_else(|| text.strip_prefix("zfs-")).unwrap_or(text);
        // Debian writes ~rc1, because ~ sorts before all else there.
        let end = text.find(['-', '~', '+', '_', ' ']).unwrap_or(text.len());
        let (numbers, rest) = text.split_at(end);
        let mut parts = numbers.split('.').map(|part| part.parse::<u32>().ok());
        let (major, minor, patch) = (parts.next()??, parts.next()??, parts.next()??);
        let candidate = rest.get(1..).and_then(|rest| rest.strip_prefix("rc")).map(|rest| {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..digits].parse().unwrap_or(0)
        });
        Some(Self { major, minor, patch, candidate: candidate.unwrap_or(u32::MAX) })
    }

    /// Built from the development branch, which no table knows.
    pub fn is_development(&self) -> bool {
        self.patch == DEVELOPMENT
    }

    fn branch(&self) -> (u32, u32) {
        (self.major, self.minor)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        if self.candidate != u32::MAX { write!(f, "-rc{}", self.candidate) } else { Ok(()) }
    }
}

/// Something that is known to go wrong before certain releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownBug {
    /// A short name that stays.
    pub id: &'static str,
    /// What happens.
    pub what: &'static str,
    /// What to do until the update.
    pub advice: &'static str,
    /// The first good release of each branch that has one, oldest first. An older branch has none; a newer one has it
    /// from its beginning.
    fixed_in: &'static [Release],
}

/// Every bug that a version tells of. OpenZFS' release notes and issues are the source of each.
pub const KNOWN: &[KnownBug] = &[
    KnownBug {
        id: "stream_checks",
        what: "this ZFS checks less of a stream by itself, and a malformed one has panicked kernels",
        advice: "zmigrate judges each stream before `zfs receive` sees it; until the update, let no other program \
                 receive streams from strangers here",
        fixed_in: &[Release::new(2, 2, 10), Release::new(2, 3, 8), Release::new(2, 4, 3)],
    },
    KnownBug {
        id: "receive_x",
        what: "`zfs receive -x` may leave out or keep the wrong property",
        advice: "zmigrate reads back what it sets and sets it again; look at the properties of what scripts of your own \
                 received with -x",
        fixed_in: &[Release::new(2, 3, 9), Release::new(2, 4, 4)],
    },
    KnownBug {
        id: "plain_from_encrypted",
        what: "a plain (not raw) send of an encrypted dataset may be wrong or fail (#12014)",
        advice: "leave --no-raw out: encrypted datasets go raw by default, which is not affected",
        fixed_in: &[Release::new(2, 2, 8), Release::new(2, 3, 3)],
    },
    KnownBug {
        id: "compressed_chains",
        what: "a chain of compressed streams (`zfs send -c`) between pools of different ashift may damage data (#12762)",
        advice: "update before you replicate, then compare the contents of what was replicated, or send it anew",
        fixed_in: &[Release::new(2, 1, 2)],
    },
    KnownBug {
        id: "hole_birth",
        what: "an incremental send may leave out holes, so contents differ under equal GUIDs (hole_birth, #4809)",
        advice: "set the module's parameter ignore_hole_birth=1, then compare contents: an update mends no old copy",
        fixed_in: &[Release::new(0, 7, 0)],
    },
];

impl KnownBug {
    /// True if that release has it.
    pub fn affects(&self, release: Release) -> bool {
        match self.fixed_in.iter().find(|fixed| fixed.branch() == release.branch()) {
            // A candidate of the very release that brings the mend may have it or not; it is taken not to.
            Some(fixed) => release < *fixed,
            None => self.fixed_in.first().is_some_and(|oldest| release < *oldest),
        }
    }

    /// The releases to update to, `2.2.10, 2.3.8 or 2.4.3`.
    pub fn fixed_in(&self) -> String {
        let all: Vec<String> = self.fixed_in.iter().map(Release::to_string).collect();
        match all.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        }
    }
}

/// The bugs of a host, by whichever of its tools and its module is older.
pub fn known_bugs(version: &ZfsVersion) -> Vec<KnownBug> {
    let parts = [&version.userland, &version.kernel];
    let oldest = parts.into_iter().flatten().filter_map(|text| Release::parse(text)).min();
    oldest.map(|release| KNOWN.iter().filter(|bug| bug.affects(release)).copied().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bugs(version: &str) -> Vec<&'static str> {
        let version = ZfsVersion { userland: Some(version.into()), kernel: None };
        known_bugs(&version).iter().map(|bug| bug.id).collect()
    }

    #[test]
    fn versions_as_distributions_write_them() {
        let parse = |text: &str| Release::parse(text).map(|r| r.to_string());
        for (text, is) in [
            ("zfs-2.3.2-1~bpo12+2", "2.3.2"),
            ("zfs-kmod-2.3.2-1~bpo12+2", "2.3.2"),
            ("2.1.11-1+deb12u1", "2.1.11"),
            ("2.2.2-0ubuntu9.1", "2.2.2"),
            ("zfs-2.2.0-rc4", "2.2.0-rc4"),
            ("2.4.0~rc1-1", "2.4.0-rc1"),
            ("zfs-2.3.99-123_gabcdef01", "2.3.99"),
            (" 0.8.3-1 ", "0.8.3"),
            ("2.3.8", "2.3.8"),
        ] {
            assert_eq!(parse(text).as_deref(), Some(is), "{text}");
        }
        for text in ["", "zfs-", "2.3", "2.x.1", "v2.3.1", "unknown", "99999999999.1.1"] {
            assert_eq!(parse(text), None, "{text}");
        }
        let release = |text| Release::parse(text).unwrap();
        assert!(release("2.2.0-rc4") < release("2.2.0") && release("2.2.0-rc4") < release("2.2.0-rc11"));
        assert!(release("2.3.99-1_g0").is_development() && !release("2.3.9").is_development());
    }

    #[test]
    fn each_bug_ends_with_the_release_that_mended_it() {
        let has = |version: &str, id: &str| bugs(version).contains(&id);
        for (id, affected, mended) in [
            ("stream_checks", "2.2.9", "2.2.10"),
            ("stream_checks", "2.3.7-1~bpo12+1", "2.3.8-1~bpo12+1"),
            ("stream_checks", "2.4.2", "2.4.3"),
            ("stream_checks", "2.4.3-rc1", "2.4.3"),
            ("receive_x", "2.3.8", "2.3.9"),
            ("receive_x", "2.4.3", "2.4.4"),
            ("receive_x", "2.2.10", "2.5.0"),
            ("plain_from_encrypted", "2.2.7", "2.2.8"),
            ("plain_from_encrypted", "2.3.2", "2.3.3"),
            ("plain_from_encrypted", "2.1.15", "2.4.0"),
            ("compressed_chains", "2.1.1", "2.1.2"),
            ("compressed_chains", "2.0.7", "2.2.0"),
            ("hole_birth", "0.6.5", "0.7.0"),
        ] {
            assert!(has(affected, id), "{affected} has {id}");
            assert!(!has(mended, id), "{mended} has {id} no more");
        }
        // Branches older than the oldest mended one never got it; newer ones had it from the start.
        assert!(has("2.1.99", "stream_checks") && !has("2.5.0", "stream_checks") && !has("3.0.0", "receive_x"));
        assert_eq!(bugs("2.4.4"), Vec::<&str>::new());
        assert_eq!(bugs("no version"), Vec::<&str>::new());
    }

    #[test]
    fn the_older_of_tools_and_module_counts() {
        let of = |userland: Option<&str>, kernel: Option<&str>| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            known_bugs(&ZfsVersion { userland: own(userland), kernel: own(kernel) }).len()
        };
        assert_eq!(of(Some("2.4.4"), Some("2.3.7")), of(Some("2.3.7"), Some("2.4.4")));
        assert!(of(Some("2.4.4"), Some("2.3.7")) > 0);
        assert_eq!(of(Some("2.4.4"), None), 0);
        assert_eq!(of(None, None), 0);
    }

    #[test]
    fn the_table_is_in_order() {
        for bug in KNOWN {
            assert!(bug.fixed_in.is_sorted() && !bug.fixed_in.is_empty(), "{}", bug.id);
        }
        assert_eq!(KNOWN[0].fixed_in(), "2.2.10, 2.3.8 or 2.4.3");
        assert_eq!(KNOWN[1].fixed_in(), "2.3.9 or 2.4.4");
    }
}
