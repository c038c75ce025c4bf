//! TOML texts as one flat map from key path to value, each with the place it came from.
//!
//! Invariant: no key is in the map twice; a second one is an error that names both places.

use std::{collections::BTreeMap, fmt, sync::Arc};

use toml::de::{DeTable, DeValue};

use super::{ConfigError, Problem, Source};

/// A place in a text: lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The source's name.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A value, so far as the configuration uses them.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Boolean(bool),
    List(Vec<(Value, Place)>),
    /// Anything else, by what it is called.
    Other(&'static str),
}

impl Value {
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Boolean(_) => "a boolean",
            Value::List(_) => "a list",
            Value::Other(kind) => kind,
        }
    }
}

/// A key that is set, and to what.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key_at: Place,
    pub value: Value,
    pub value_at: Place,
}

/// All texts, merged.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub entries: BTreeMap<Vec<String>, Entry>,
    /// Every table, also an empty one, by where it is first named.
    pub tables: BTreeMap<Vec<String>, Place>,
}

pub(super) fn merge(sources: &[Source<'_>]) -> Result<Merged, ConfigError> {
    let mut merged = Merged::default();
    let mut problems = Vec::new();
    for source in sources {
        let places = Places::new(source);
        match DeTable::parse(source.text) {
            Ok(table) => flatten(table.into_inner(), &mut Vec::new(), &places, &mut merged, &mut problems),
            Err(e) => {
                let at = places.at(e.span().map_or(0, |span| span.start));
                problems.push(Problem::new(&at, format!("not TOML: {}", e.message().replace('\n', "; "))));
            }
        }
    }
    if problems.is_empty() { Ok(merged) } else { Err(ConfigError::new(problems)) }
}

fn flatten(
    table: DeTable<'_>,
    path: &mut Vec<String>,
    places: &Places<'_>,
    merged: &mut Merged,
    problems: &mut Vec<Problem>,
) {
    // The parser bounds the nesting (80 levels), so this recursion is bounded too.
    for (key, value) in table {
        let key_at = places.at(key.span().start);
        path.push(key.into_inner().into_owned());
        let value_at = places.at(value.span().start);
        match value.into_inner() {
            DeValue::Table(inner) => {
                merged.tables.entry(path.clone()).or_insert(key_at);
                flatten(inner, path, places, merged, problems);
            }
            value => {
                if let Some(first) = merged.entries.get(path.as_slice()) {
                    problems.push(
                        Problem::new(&key_at, format!("{} is set twice: also at {}", path.join("."), first.key_at))
                            .hint("keep one of the two"),
                    );
                } else {
                    let value = plain(value, places);
                    merged.entries.insert(path.clone(), Entry { key_at, value, value_at });
                }
            }
        }
        path.pop();
    }
}

fn plain(value: DeValue<'_>, places: &Places<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(int) => match i128::from_str_radix(int.as_str(), int.radix()) {
            Ok(int) => Value::Integer(int),
            Err(_) => Value::Other("a huge integer"),
        },
        DeValue::Float(_) => Value::Other("a float"),
        DeValue::Boolean(is) => Value::Boolean(is),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
        DeValue::Array(items) => Value::List(
            items
                .into_iter()
                .map(|item| {
                    let at = places.at(item.span().start);
                    // Nothing in the configuration is a list of lists: no need to go deeper.
                    let value = match item.into_inner() {
                        DeValue::Array(_) => Value::Other("a list"),
                        other => plain(other, places),
                    };
                    (value, at)
                })
                .collect(),
        ),
    }
}

/// Turns byte offsets of one text into places, each in the time of a binary search and one line.
struct Places<'a> {
    file: Arc<str>,
    text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Places<'a> {
    fn new(source: &Source<'a>) -> Self {
        let newlines = source.text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
        Self { file: source.name.into(), text: source.text, line_starts: std::iter::once(0).chain(newlines).collect() }
    }

    fn at(&self, offset: usize) -> Place {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|i| self.line_starts.get(i)).copied().unwrap_or(0);
        let before = self.text.get(start..offset).map_or(0, |text| text.chars().count());
        Place { file: self.file.clone(), line: line.max(1), column: before + 1 }
    }
}
