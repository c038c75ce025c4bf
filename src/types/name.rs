//! Names of datasets, snapshots and bookmarks.
//!
//! The rules are those of `zfs_namecheck.c`: components of letters, digits and `-_.: `, at most 255 bytes
//! in all, at most 50 levels. A full name begins with a pool's, so with a letter: none can be taken for an option.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The longest full name, in bytes (`ZFS_MAX_DATASET_NAME_LEN` less the terminating NUL).
pub const MAX_NAME_BYTES: usize = 255;
/// The deepest nesting that ZFS allows by default (`zfs_max_dataset_nesting`).
pub const MAX_NESTING: usize = 50;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?} {why}")]
pub struct NameError {
    kind: &'static str,
    text: String,
    why: &'static str,
}

impl NameError {
    pub(crate) fn new(kind: &'static str, text: &str, why: &'static str) -> Self {
        // A hostile name must not fill the log.
        let text = text.chars().take(MAX_NAME_BYTES + 1).collect();
        Self { kind, text, why }
    }
}

fn component(kind: &'static str, whole: &str, part: &str) -> Result<(), NameError> {
    if part.is_empty() {
        return Err(NameError::new(kind, whole, "has an empty part"));
    }
    if part == "." || part == ".." {
        return Err(NameError::new(kind, whole, "has a part that is . or .."));
    }
    if !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.: ".contains(&b)) {
        return Err(NameError::new(kind, whole, "may hold only letters, digits and -_.: and space"));
    }
    Ok(())
}

/// The name of a filesystem or volume, such as `tank/db`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatasetName(String);

impl DatasetName {
    /// The name as `zfs` takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where a volume's block device is, if somebody makes nodes: a blank is a `+` there (`zvol_id` in OpenZFS' `udev/zvol_id.c`).
    pub fn device_node(&self) -> PathBuf {
        Path::new("/dev/zvol").join(self.0.replace(' ', "+"))
    }

    /// The first component: the pool's name.
    pub fn pool(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }

    /// The last component.
    pub fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The dataset above, or `None` for the root of a pool.
    pub fn parent(&self) -> Option<DatasetName> {
        self.0.rsplit_once('/').map(|(parent, _)| DatasetName(parent.to_owned()))
    }

    /// All datasets above, the pool's root first.
    pub fn ancestors(&self) -> Vec<DatasetName> {
        let mut all: Vec<_> = std::iter::successors(self.parent(), DatasetName::parent).collect();
        all.reverse();
        all
    }

    /// True for `other` itself and everything below it; `tank/ab` is not below `tank/a`.
    pub fn is_at_or_below(&self, other: &DatasetName) -> bool {
        self.relative_to(other).is_some()
    }

    /// The part of this name below `root`: `Some("")` for `root` itself, `None` outside it.
    pub fn relative_to<'a>(&'a self, root: &DatasetName) -> Option<&'a str> {
        let rest = self.0.strip_prefix(&root.0)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
    }

    /// The dataset at `relative` below this one; an empty text is this dataset itself.
    ///
    /// # Errors
    /// When the joined text is not a dataset name, for instance because it is too long.
    pub fn join(&self, relative: &str) -> Result<DatasetName, NameError> {
        if relative.is_empty() { Ok(self.clone()) } else { format!("{}/{relative}", self.0).parse() }
    }

    /// The snapshot `tag` of this dataset.
    ///
    /// # Errors
    /// When the full name would be too long.
    pub fn snapshot(&self, tag: &SnapshotTag) -> Result<SnapshotName, NameError> {
        format!("{}@{}", self.0, tag.0).parse()
    }
}

impl FromStr for DatasetName {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        const KIND: &str = "dataset name";
        if s.len() > MAX_NAME_BYTES {
            return Err(NameError::new(KIND, s, "is longer than 255 bytes"));
        }
        if s.contains('@') || s.contains('#') {
            return Err(NameError::new(KIND, s, "names a snapshot or bookmark, not a dataset"));
        }
        if s.split('/').count() > MAX_NESTING {
            return Err(NameError::new(KIND, s, "is nested deeper than 50 levels"));
        }
        s.split('/').try_for_each(|part| component(KIND, s, part))?;
        if !s.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(NameError::new(KIND, s, "does not begin with a letter"));
        }
        Ok(Self(s.to_owned()))
    }
}

/// The part of a snapshot's or bookmark's name after `@` or `#`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotTag(String);

impl SnapshotTag {
    /// The bare tag, without `@` or `#`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotTag {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        component("snapshot tag", s, s)?;
        if s.len() > MAX_NAME_BYTES - 2 {
            return Err(NameError::new("snapshot tag", s, "is too long"));
        }
        Ok(Self(s.to_owned()))
    }
}

macro_rules! point_in_time {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $sep:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name {
            full: String,
            at: usize,
        }

        impl $name {
            /// The full name as `zfs` takes it.
            pub fn as_str(&self) -> &str {
                &self.full
            }

            /// The dataset it belongs to.
            pub fn dataset(&self) -> DatasetName {
                DatasetName(self.full[..self.at].to_owned())
            }

            /// The part after the separator.
            pub fn tag(&self) -> SnapshotTag {
                SnapshotTag(self.full[self.at + 1..].to_owned())
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(s: &str) -> Result<Self, NameError> {
                if s.len() > MAX_NAME_BYTES {
                    return Err(NameError::new($kind, s, "is longer than 255 bytes"));
                }
                let (dataset, tag) =
                    s.split_once($sep).ok_or_else(|| NameError::new($kind, s, concat!("has no ", $sep)))?;
                dataset.parse::<DatasetName>()?;
                tag.parse::<SnapshotTag>()?;
                Ok(Self { full: s.to_owned(), at: dataset.len() })
            }
        }
    };
}

point_in_time!(
    /// The name of a snapshot, such as `tank/db@monday`.
    SnapshotName,
    "snapshot name",
    "@"
);
point_in_time!(
    /// The name of a bookmark, such as `tank/db#monday`.
    BookmarkName,
    "bookmark name",
    "#"
);

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, NameError> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }
    )*};
}
as_text!(DatasetName, SnapshotTag, SnapshotName, BookmarkName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ds(s: &str) -> DatasetName {
        s.parse().unwrap()
    }

    #[test]
    fn a_blank_is_a_plus_in_the_name_of_a_node() {
        assert_eq!(ds("tank/my vol/a b").device_node(), Path::new("/dev/zvol/tank/my+vol/a+b"));
    }

    #[test]
    fn names_that_zfs_takes() {
        for ok in ["tank", "tank/db", "a/b.c/d-e/f_g:h", "tank/with space", "rpool/data/vm-100-disk-0"] {
            assert_eq!(ds(ok).as_str(), ok);
        }
        let snap: SnapshotName = "tank/db@2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!((snap.dataset(), snap.tag().as_str()), (ds("tank/db"), "2026-01-01T00:00:00Z"));
    }

    #[test]
    fn names_that_could_do_harm_cannot_be_built() {
        for bad in [
            "",
            "/",
            "/tank",
            "tank/",
            "tank//db",
            "tank/../x",
            "tank/.",
            "-F",
            "tank;rm",
            "tank/$(x)",
            "tank\n",
            "tank/%recv",
            "tank@a",
            "tank#a",
            "1tank",
            "tank/ä",
        ] {
            assert!(bad.parse::<DatasetName>().is_err(), "{bad:?} was taken");
        }
        for bad in ["tank", "tank@", "@a", "tank@a@b", "tank#a", "tank@a/b", "tank@a,b", "tank@%"] {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad:?} was taken");
        }
        assert!("a/".repeat(50).trim_end_matches('/').parse::<DatasetName>().is_ok());
        assert!(("a/".repeat(50) + "a").parse::<DatasetName>().is_err());
        assert!("x".repeat(256).parse::<DatasetName>().is_err());
    }

    #[test]
    fn below_means_whole_components() {
        assert!(ds("tank/a/b").is_at_or_below(&ds("tank/a")));
        assert!(ds("tank/a").is_at_or_below(&ds("tank/a")));
        assert!(!ds("tank/ab").is_at_or_below(&ds("tank/a")));
        assert!(!ds("tank").is_at_or_below(&ds("tank/a")));
        assert_eq!(ds("a/b/c").ancestors(), [ds("a"), ds("a/b")]);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_keeps_the_text(s in ".{0,300}") {
            if let Ok(name) = s.parse::<DatasetName>() { prop_assert_eq!(name.as_str(), &s); }
            if let Ok(name) = s.parse::<SnapshotName>() { prop_assert_eq!(name.as_str(), &s); }
        }

        #[test]
        fn join_undoes_relative(root in "[a-z]{1,5}(/[a-z]{1,5}){0,3}", below in "([a-z]{1,5}(/[a-z]{1,5}){0,3})?") {
            let root = ds(&root);
            let full = root.join(&below).unwrap();
            prop_assert_eq!(full.relative_to(&root), Some(below.as_str()));
        }
    }
}
