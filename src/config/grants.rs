//! What each identity may do on this host.
//!
//! Invariant: nothing is granted that no `[grant.NAME]` names; a dataset stands for itself and everything
//! below it, by whole components, so `tank/a` grants nothing of `tank/ab`.

use std::collections::BTreeMap;

use super::Place;
pub use crate::types::Access;
use crate::types::{DatasetName, PeerName};

/// One `[grant.NAME]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// It may send into these.
    pub push: Vec<DatasetName>,
    /// It may be sent these.
    pub pull: Vec<DatasetName>,
    /// It may cut these over.
    pub cutover: Vec<DatasetName>,
    /// Where the table begins.
    pub declared_at: Option<Place>,
}

impl Grant {
    /// The datasets of one kind of access.
    pub fn of(&self, access: Access) -> &[DatasetName] {
        match access {
            Access::Push => &self.push,
            Access::Pull => &self.pull,
            Access::Cutover => &self.cutover,
        }
    }

    pub(super) fn of_mut(&mut self, access: Access) -> &mut Vec<DatasetName> {
        match access {
            Access::Push => &mut self.push,
            Access::Pull => &mut self.pull,
            Access::Cutover => &mut self.cutover,
        }
    }
}

/// All `[grant.NAME]` tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    pub(super) by_identity: BTreeMap<PeerName, Grant>,
}

impl Grants {
    /// Whether `identity` may do `what` with `dataset`.
    ///
    /// # Errors
    /// [`NotGranted`], whose hint holds the line to add.
    pub fn check(&self, identity: &PeerName, what: Access, dataset: &DatasetName) -> Result<(), NotGranted> {
        let grant = self.by_identity.get(identity);
        if grant.is_some_and(|g| g.of(what).iter().any(|granted| dataset.is_at_or_below(granted))) {
            return Ok(());
        }
        Err(NotGranted {
            identity: identity.clone(),
            access: what,
            dataset: dataset.clone(),
            granted: grant.map(|g| g.of(what).to_vec()).unwrap_or_default(),
            declared_at: grant.and_then(|g| g.declared_at.clone()),
        })
    }

    /// The table of one identity.
    pub fn get(&self, identity: &PeerName) -> Option<&Grant> {
        self.by_identity.get(identity)
    }

    /// All tables, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&PeerName, &Grant)> {
        self.by_identity.iter()
    }
}

/// An identity asked for something that the configuration of this host does not grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{identity} is not granted {access} of {dataset}")]
pub struct NotGranted {
    /// Who asked.
    pub identity: PeerName,
    /// For what.
    pub access: Access,
    /// Of which dataset.
    pub dataset: DatasetName,
    granted: Vec<DatasetName>,
    declared_at: Option<Place>,
}

impl NotGranted {
    /// The line that would grant it. For the log of this host; a peer need not learn what else is granted.
    pub fn hint(&self) -> String {
        let list = self.granted.iter().chain([&self.dataset]).map(|d| format!("{:?}", d.as_str()));
        let line = format!("{} = [{}]", self.access, list.collect::<Vec<_>>().join(", "));
        let table = table_header("grant", &self.identity);
        match &self.declared_at {
            Some(at) => format!("to allow it, write {line} under {table} ({at})"),
            None => format!("to allow it, add {table} with {line} to the configuration of this host"),
        }
    }
}

/// `[grant.dc1]`, or `[grant."dc1.example"]`: a bare TOML key holds no dot.
pub(super) fn table_header(table: &str, name: &PeerName) -> String {
    table_header_text(table, name.as_str())
}

/// The same, of a name of another kind.
pub(super) fn table_header_text(table: &str, name: &str) -> String {
    if name.contains('.') { format!("[{table}.\"{name}\"]") } else { format!("[{table}.{name}]") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn grants() -> Grants {
        let text = "[grant.dc1]\npush = [\"tank/in\"]\npull = [\"tank/db\"]\n[grant.\"dc2.x\"]\ncutover = [\"tank\"]\n";
        Config::parse(text, "t.toml").unwrap().grants
    }

    #[test]
    fn a_dataset_stands_for_itself_and_all_below_it_and_for_nothing_else() {
        let grants = grants();
        let ask = |who: &str, what, ds: &str| grants.check(&who.parse().unwrap(), what, &ds.parse().unwrap()).is_ok();
        assert!(ask("dc1", Access::Push, "tank/in"));
        assert!(ask("dc1", Access::Push, "tank/in/a/b"));
        assert!(ask("dc1", Access::Pull, "tank/db"));
        for (who, what, ds) in [
            ("dc1", Access::Push, "tank"),
            ("dc1", Access::Push, "tank/inn"),
            ("dc1", Access::Push, "tank/db"),
            ("dc1", Access::Pull, "tank/in"),
            ("dc1", Access::Cutover, "tank/db"),
            ("DC1", Access::Push, "tank/in"),
            ("dc3", Access::Push, "tank/in"),
        ] {
            assert!(!ask(who, what, ds), "{who} was granted {what} of {ds}");
        }
    }

    #[test]
    fn a_refusal_names_who_what_and_the_line_to_add() {
        let grants = grants();
        let refused = grants
            .check(&"dc1".parse().unwrap(), Access::Push, &"tank/other".parse().unwrap())
            .expect_err("nothing grants it");
        assert_eq!(refused.to_string(), "dc1 is not granted push of tank/other");
        assert_eq!(
            refused.hint(),
            r#"to allow it, write push = ["tank/in", "tank/other"] under [grant.dc1] (t.toml:1:8)"#
        );
        let stranger = grants
            .check(&"a.b".parse().unwrap(), Access::Pull, &"tank/db".parse().unwrap())
            .expect_err("nothing grants it");
        assert_eq!(
            stranger.hint(),
            r#"to allow it, add [grant."a.b"] with pull = ["tank/db"] to the configuration of this host"#
        );
    }

    #[test]
    fn the_hint_grants_what_was_refused() {
        let refused = Grants::default()
            .check(&"dc1".parse().unwrap(), Access::Pull, &"tank/db".parse().unwrap())
            .expect_err("nothing is granted");
        let text = refused.hint();
        let line = text.split(" with ").nth(1).and_then(|l| l.strip_suffix(" to the configuration of this host"));
        let text = format!("[grant.dc1]\n{}\n", line.expect("the hint holds a line"));
        let config = Config::parse(&text, "hint").unwrap();
        config.grants.check(&refused.identity, refused.access, &refused.dataset).unwrap();
    }
}
