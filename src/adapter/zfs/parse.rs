//! From the text of `zfs list -Hp` and `zfs get -Hp` to a [`Listing`]. Pure.
//!
//! Invariant: nothing is skipped in silence but ZFS' own hidden names (`%recv`) and what lies outside the question.
//! A line of another shape is an error that carries its number and text.

use std::collections::HashMap;

use crate::types::{
    BookmarkName, CreateTxg, DatasetName, Guid, SnapshotName,
    listing::{
        BookmarkInfo, DatasetInfo, DatasetKind, Encryption, LISTED_PROPERTIES, Listing, MANIFEST_PROPERTIES, Property,
        PropertySource, SnapshotInfo,
    },
};

/// The columns of `zfs list -Hp -o` that [`objects`] reads.
pub const OBJECT_COLUMNS: &str = "name,guid,createtxg,creation";
/// The same as properties, for a `zfs list` that has no `-p`.
pub const OBJECT_PROPERTIES: &str = "guid,createtxg,creation";
/// The columns of `zfs get -Hp -o` that [`values`] reads.
pub const VALUE_COLUMNS: &str = "name,property,value,source";
/// What a [`DatasetInfo`] has a field for. `type`, `referenced` and `available` exist everywhere.
pub const FIELD_PROPERTIES: &[&str] = &[
    "type",
    "guid",
    "createtxg",
    "origin",
    "referenced",
    "available",
    "written",
    "receive_resume_token",
    "inconsistent",
    "encryption",
    "encryptionroot",
    "keystatus",
];

/// A line that is not as it should be: what was wrong with it, its number from 1, and its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the output {why}: {text:?}")]
pub struct ParseError {
    line: usize,
    why: String,
    text: String,
}

impl ParseError {
    fn new(line: usize, why: impl Into<String>, text: &str) -> Self {
        Self { line, why: why.into(), text: text.chars().take(400).collect() }
    }
}

/// A dataset, snapshot or bookmark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    line: usize,
    name: String,
    guid: Guid,
    createtxg: CreateTxg,
    creation_unix_s: u64,
}

/// The properties of one dataset or snapshot, in the order of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    line: usize,
    /// The full name.
    pub name: String,
    /// Those with a value.
    pub properties: Vec<Property>,
}

impl Values {
    fn value(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|p| p.name == name).map(|p| p.value.as_str())
    }

    fn number(&self, name: &str) -> Result<Option<u64>, ParseError> {
        let parse = |v: &str| v.parse().map_err(|_| ParseError::new(self.line, format!("has no number for {name}"), v));
        self.value(name).map(parse).transpose()
    }

    fn needed(&self, name: &str) -> Result<u64, ParseError> {
        self.number(name)?
            .ok_or_else(|| ParseError::new(self.line, format!("begins a dataset without {name}"), &self.name))
    }
}

/// Names that ZFS makes for itself while it receives or rolls back; nobody can create one.
pub(super) fn is_hidden(name: &str) -> bool {
    name.contains('%')
}

/// Reads `zfs list -Hp -o` [`OBJECT_COLUMNS`].
pub fn objects(text: &str) -> Result<Vec<Object>, ParseError> {
    let mut found = Vec::new();
    for (line, row) in numbered(text) {
        let [name, guid, createtxg, creation] = row.split('\t').collect::<Vec<_>>()[..] else {
            return Err(ParseError::new(line, "has not 4 columns", row));
        };
        if !is_hidden(name) {
            found.push(object(line, row, name, [guid, createtxg, creation])?);
        }
    }
    Ok(found)
}

fn object(line: usize, row: &str, name: &str, numbers: [&str; 3]) -> Result<Object, ParseError> {
    let number = |v: &str| v.parse::<u64>().map_err(|_| ParseError::new(line, format!("has no number in {v:?}"), row));
    let [guid, createtxg, creation] = numbers;
    Ok(Object {
        line,
        name: name.to_owned(),
        guid: Guid(number(guid)?),
        createtxg: CreateTxg(number(createtxg)?),
        creation_unix_s: number(creation)?,
    })
}

/// Reads the same from `zfs get -Hp -r` [`OBJECT_PROPERTIES`].
pub fn objects_from_values(all: &[Values]) -> Result<Vec<Object>, ParseError> {
    let one = |v: &Values| {
        Ok(Object {
            line: v.line,
            name: v.name.clone(),
            guid: Guid(v.needed("guid")?),
            createtxg: CreateTxg(v.needed("createtxg")?),
            creation_unix_s: v.needed("creation")?,
        })
    };
    all.iter().map(one).collect()
}

/// Reads `zfs get -Hp -o` [`VALUE_COLUMNS`], grouped by name.
pub fn values(text: &str) -> Result<Vec<Values>, ParseError> {
    let mut all: Vec<Values> = Vec::new();
    for (line, row) in numbered(text) {
        // A user property's value may hold tabs; the other columns cannot.
        let mut front = row.splitn(3, '\t');
        let columns = (front.next(), front.next(), front.next().and_then(|rest| rest.rsplit_once('\t')));
        let (Some(name), Some(property), Some((value, source))) = columns else {
            return Err(ParseError::new(line, "has not 4 columns", row));
        };
        if is_hidden(name) {
            continue;
        }
        if all.last().is_none_or(|last| last.name != name) {
            all.push(Values { line, name: name.to_owned(), properties: Vec::new() });
        }
        let Some(source) = property_source(source) else {
            return Err(ParseError::new(line, "has an unknown source", row));
        };
        let unset = value == "-" && source == PropertySource::Default;
        if let (Some(last), false) = (all.last_mut(), unset) {
            last.properties.push(Property { name: property.to_owned(), value: value.to_owned(), source });
        }
    }
    Ok(all)
}

fn property_source(text: &str) -> Option<PropertySource> {
    Some(match text {
        "local" => PropertySource::Local,
        "received" => PropertySource::Received,
        "default" | "-" | "none" => PropertySource::Default,
        "temporary" => PropertySource::Temporary,
        other => other.starts_with("inherited from ").then_some(PropertySource::Inherited)?,
    })
}

/// One dataset without snapshots and bookmarks.
pub fn dataset(values: &Values) -> Result<DatasetInfo, ParseError> {
    let bad = |why: String| ParseError::new(values.line, why, &values.name);
    let kind = match values.value("type") {
        Some("filesystem") => DatasetKind::Filesystem,
        Some("volume") => DatasetKind::Volume,
        other => return Err(bad(format!("begins a dataset of type {other:?}"))),
    };
    let suite = values.value("encryption").filter(|v| *v != "off");
    let root = values.value("encryptionroot").map(|v| v.parse().map_err(|e| bad(format!("{e}")))).transpose()?;
    let listed =
        |p: &&Property| LISTED_PROPERTIES.contains(&p.name.as_str()) || MANIFEST_PROPERTIES.contains(&p.name.as_str());
    Ok(DatasetInfo {
        name: values.name.parse().map_err(|e| bad(format!("{e}")))?,
        kind,
        guid: Guid(values.needed("guid")?),
        createtxg: CreateTxg(values.needed("createtxg")?),
        origin: values.value("origin").map(|v| v.parse().map_err(|e| bad(format!("{e}")))).transpose()?,
        encryption: suite.map(|suite| Encryption {
            suite: suite.to_owned(),
            root,
            key_loaded: values.value("keystatus") == Some("available"),
        }),
        resume_token: values.value("receive_resume_token").map(str::to_owned),
        inconsistent: values.number("inconsistent")?.unwrap_or(0) != 0,
        written: values.number("written")?,
        // A dataset whose first receive is still under way has no figures yet.
        referenced: values.number("referenced")?.unwrap_or(0),
        available: values.number("available")?.unwrap_or(0),
        properties: values.properties.iter().filter(listed).cloned().collect(),
        snapshots: Vec::new(),
        bookmarks: Vec::new(),
    })
}

/// Puts the two answers together: all objects, and the values of the datasets among them.
///
/// What is in one answer only came or went between the two commands, and is left out.
/// `keep` says which datasets were asked for.
pub fn listing(
    objects: &[Object],
    values: &[Values],
    keep: impl Fn(&DatasetName) -> bool,
) -> Result<Listing, ParseError> {
    let by_name: HashMap<&str, &Values> = values.iter().map(|v| (v.name.as_str(), v)).collect();
    let mut datasets: Vec<DatasetInfo> = Vec::new();
    let mut at: HashMap<&str, Option<usize>> = HashMap::new();
    for o in objects.iter().filter(|o| !o.name.contains(['@', '#'])) {
        let name: DatasetName = o.name.parse().map_err(|e| ParseError::new(o.line, format!("{e}"), &o.name))?;
        let found = by_name.get(o.name.as_str()).filter(|_| keep(&name));
        at.insert(&o.name, found.map(|_| datasets.len()));
        if let Some(values) = found {
            datasets.push(dataset(values)?);
        }
    }
    for o in objects {
        let Some(cut) = o.name.find(['@', '#']) else { continue };
        let Some(owner) = at.get(&o.name[..cut]) else {
            return Err(ParseError::new(o.line, "belongs to no listed dataset", &o.name));
        };
        let Some(owner) = owner.and_then(|i| datasets.get_mut(i)) else { continue };
        let bad = |e: crate::types::NameError| ParseError::new(o.line, format!("{e}"), &o.name);
        if o.name.as_bytes()[cut] == b'@' {
            let name: SnapshotName = o.name.parse().map_err(bad)?;
            owner.snapshots.push(SnapshotInfo {
                tag: name.tag(),
                guid: o.guid,
                createtxg: o.createtxg,
                creation_unix_s: o.creation_unix_s,
            });
        } else {
            let name: BookmarkName = o.name.parse().map_err(bad)?;
            owner.bookmarks.push(BookmarkInfo {
                tag: name.tag(),
                guid: o.guid,
                createtxg: o.createtxg,
                creation_unix_s: o.creation_unix_s,
            });
        }
    }
    for d in &mut datasets {
        d.snapshots.sort_by_key(|s| s.createtxg);
        d.bookmarks.sort_by_key(|b| b.createtxg);
    }
    Ok(Listing { datasets })
}

/// Reads `zfs holds -H`: name, tag, time.
pub fn holds(text: &str) -> Result<Vec<(SnapshotName, String)>, ParseError> {
    let one = |(line, row): (usize, &str)| {
        let [name, tag, _time] = row.split('\t').collect::<Vec<_>>()[..] else {
            return Err(ParseError::new(line, "has not 3 columns", row));
        };
        let name = name.parse().map_err(|e| ParseError::new(line, format!("{e}"), row))?;
        Ok((name, tag.to_owned()))
    };
    numbered(text).map(one).collect()
}

/// Reads `zfs send -nP`: the number in the line `size⇥N`.
pub fn send_size(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("size\t")?.trim().parse().ok())
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(i, row)| (i + 1, row)).filter(|(_, row)| !row.is_empty())
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
