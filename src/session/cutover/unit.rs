//! A unit on this host: the roots of what moves together, each with all below it.

use std::fmt;

use crate::{
    limits::MAX_UNIT_ROOTS,
    types::{DatasetName, Failure, FailureClass},
};

/// See the module. At least one root, and none at or below another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit(Vec<DatasetName>);

impl Unit {
    /// The unit of these roots, in this order.
    ///
    /// # Errors
    /// When there are none or too many, or one lies in another.
    pub fn new(roots: &[DatasetName]) -> Result<Unit, Failure> {
        let usage = |why: String| Err(Failure::new(FailureClass::Usage, why));
        if roots.is_empty() || roots.len() > MAX_UNIT_ROOTS {
            return usage(format!("a cutover moves 1 to {MAX_UNIT_ROOTS} datasets, each with all below it"));
        }
        for (i, root) in roots.iter().enumerate() {
            if let Some(other) = roots.iter().enumerate().find(|(j, other)| i != *j && root.is_at_or_below(other)) {
                return usage(format!("{root} is at or below {}, which moves with all below it", other.1));
            }
        }
        Ok(Unit(roots.to_vec()))
    }

    /// The roots.
    pub fn roots(&self) -> &[DatasetName] {
        &self.0
    }

    /// The name of its ledger: readable, and different for each.
    pub fn ledger(&self) -> String {
        let whole = self.0.iter().map(DatasetName::as_str).collect::<Vec<_>>().join("\n");
        let readable: String = self.0[0].as_str().replace('/', "!").chars().take(100).collect();
        format!("host-{readable}-{:016x}", xxhash_rust::xxh3::xxh3_64(whole.as_bytes()))
    }

    /// Whether they share a dataset.
    pub fn overlaps(&self, other: &Unit) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.is_at_or_below(b) || b.is_at_or_below(a)))
    }

    /// Where a dataset is: the number of its root, and its name below it.
    pub fn place(&self, dataset: &DatasetName) -> Option<String> {
        let at = self.0.iter().position(|root| dataset.is_at_or_below(root))?;
        Some(format!("{at}/{}", dataset.relative_to(&self.0[at]).unwrap_or_default()))
    }

    /// The dataset at a place, if that is one.
    pub fn at(&self, place: &str) -> Option<DatasetName> {
        let (at, below) = place.split_once('/')?;
        let root = self.0.get(at.parse::<usize>().ok()?)?;
        if below.is_empty() { Some(root.clone()) } else { format!("{root}/{below}").parse().ok() }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, root) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{root}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(roots: &[&str]) -> Result<Unit, Failure> {
        Unit::new(&roots.iter().map(|r| r.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn roots_lie_apart() {
        assert!(unit(&[]).is_err() && unit(&["a", "a"]).is_err() && unit(&["a/b", "a"]).is_err());
        let two = unit(&["a/b", "a/bc"]).unwrap();
        assert_eq!(two.place(&"a/bc/d".parse().unwrap()).unwrap(), "1/d");
        assert_eq!(two.at("1/d").unwrap().as_str(), "a/bc/d");
        assert_eq!(two.at("0/").unwrap().as_str(), "a/b");
        assert!(two.at("2/").is_none() && two.at("x").is_none());
        assert!(two.overlaps(&unit(&["a"]).unwrap()) && !two.overlaps(&unit(&["a/c"]).unwrap()));
        assert_ne!(two.ledger(), unit(&["a/b"]).unwrap().ledger());
    }
}
