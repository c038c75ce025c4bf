//! What this ZFS says of itself: its version, its pools, and what `zfs allow` has delegated. The parsers are pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ZfsCommand, parse, probe,
    run::{Tool, error},
};
use crate::{
    port::zfs::{
        ZfsErrorKind::{self, NoTool, Unparsable},
        ZfsResult,
    },
    types::{DatasetName, Delegate, Delegation, PoolStatus, ZfsVersion},
};

/// The columns of `zpool list -H -o`; the last one only where there is such a property.
const POOL_COLUMNS: [&str; 2] = ["name,health,capacity,readonly", "name,health,capacity"];

impl ZfsCommand {
    pub(super) async fn ask_version(&self) -> ZfsResult<ZfsVersion> {
        let operation = "ask zfs for its version";
        let out = self.zfs(operation, ["version"]).await?;
        if out.kind() == Some(NoTool) {
            return Err(out.failure(operation, NoTool));
        }
        Ok(probe::version(&out.stdout))
    }

    pub(super) async fn ask_pools(&self) -> ZfsResult<Vec<PoolStatus>> {
        let operation = "list the pools";
        let [full, plain] = POOL_COLUMNS;
        let mut out = self.runner.run(operation, Tool::Zpool, ["list", "-H", "-o", full]).await?;
        if out.kind() == Some(ZfsErrorKind::Unsupported) {
            out = self.runner.run(operation, Tool::Zpool, ["list", "-H", "-o", plain]).await?;
        }
        let mut pools = pools(&out.ok(operation)?.stdout).map_err(|why| error(operation, Unparsable, why))?;
        let asked: Vec<String> = pools.iter().filter(|p| p.answers()).map(|p| p.name.clone()).collect();
        if !asked.is_empty() {
            let args = ["get", "-Hp", "-o", parse::VALUE_COLUMNS, "used,available"];
            let names = asked.iter().map(String::as_str);
            // A pool that is exported in between fails the command; the others are told all the same.
            let out = self.zfs(operation, args.into_iter().chain(names)).await?;
            let values = parse::values(&out.stdout).map_err(|e| error(operation, Unparsable, e))?;
            for pool in &mut pools {
                let of_pool = values.iter().find(|v| v.name == pool.name);
                let number = |name: &str| {
                    let found = of_pool?.properties.iter().find(|p| p.name == name)?;
                    found.value.parse().ok()
                };
                (pool.used, pool.available) = (number("used"), number("available"));
            }
        }
        Ok(pools)
    }

    pub(super) async fn ask_delegations(&self, dataset: &DatasetName) -> ZfsResult<Vec<Delegation>> {
        let operation = format!("list who may do what with {dataset}");
        let mut out = self.zfs(&operation, ["allow", dataset.as_str()]).await?;
        if out.stdout.starts_with("internal error: ") {
            // Where its Python part is missing, zfs-fuse complains on stdout.
            out.stderr = std::mem::take(&mut out.stdout);
        }
        Ok(delegations(&out.ok(&operation)?.stdout, dataset))
    }
}

/// Reads `zpool list -H -o` `POOL_COLUMNS`.
///
/// # Errors
/// A line of another shape.
pub fn pools(text: &str) -> Result<Vec<PoolStatus>, String> {
    let one = |line: &str| {
        let columns: Vec<&str> = line.split('\t').collect();
        let (&[name, health, capacity] | &[name, health, capacity, _]) = columns.as_slice() else {
            return Err(format!("{line:?} has not 3 or 4 columns"));
        };
        Ok(PoolStatus {
            name: name.to_owned(),
            health: health.to_owned(),
            readonly: columns.get(3).and_then(|v| match *v {
                "on" => Some(true),
                "off" => Some(false),
                _ => None,
            }),
            full_percent: capacity.trim_end_matches('%').parse().ok(),
            used: None,
            available: None,
        })
    };
    text.lines().filter(|line| !line.is_empty() && *line != "no pools available").map(one).collect()
}

/// Reads `zfs allow DATASET` (`zfs-allow(8)`): blocks headed `---- Permissions on NAME ---`, of which those of datasets
/// above count by their lines for descendants. Permission sets (`@name`) are replaced by their members.
pub fn delegations(text: &str, dataset: &DatasetName) -> Vec<Delegation> {
    let mut sets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut found: Vec<(Delegate, BTreeSet<String>)> = Vec::new();
    let (mut here, mut section) = (false, "");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("---- Permissions on ") {
            here = rest.trim_end_matches('-').trim_end() == dataset.as_str();
            section = "";
            continue;
        }
        if !line.starts_with(['\t', ' ']) {
            section = line.trim_end_matches(':');
            continue;
        }
        let (line, list) = (line.trim(), |rest: &str| rest.split(',').map(|p| p.trim().to_owned()).collect());
        if section == "Permission sets" {
            if let Some((name, rest)) = line.split_once(' ') {
                // The set nearest to the dataset comes first, and counts.
                sets.entry(name.to_owned()).or_insert_with(|| list(rest));
            }
            continue;
        }
        let counts = match section {
            "Local permissions" => here,
            "Descendent permissions" => !here,
            "Local+Descendent permissions" => true,
            _ => false,
        };
        let (to, rest) = match line.split_once(' ') {
            Some(("everyone", rest)) => (Delegate::Everyone, rest),
            Some((who @ ("user" | "group"), rest)) => match rest.split_once(' ') {
                Some((name, rest)) if who == "user" => (Delegate::User(name.to_owned()), rest),
                Some((name, rest)) => (Delegate::Group(name.to_owned()), rest),
                None => continue,
            },
            _ => continue,
        };
        if counts {
            found.push((to, list(rest)));
        }
    }
    let resolve = |(to, names): (Delegate, BTreeSet<String>)| {
        let mut permissions = BTreeSet::new();
        // A set may name others; what has been seen is not looked at again.
        let mut waiting: Vec<String> = names.into_iter().collect();
        while let Some(name) = waiting.pop() {
            if permissions.insert(name.clone())
                && let Some(members) = sets.get(&name)
            {
                waiting.extend(members.iter().cloned());
            }
        }
        permissions.retain(|name| !name.starts_with('@'));
        Delegation { to, permissions: permissions.into_iter().collect() }
    };
    found.into_iter().map(resolve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_of_both_kinds() {
        let text = "tank\tONLINE\t81%\toff\nold\tSUSPENDED\t-\ton\n";
        let found = pools(text).unwrap();
        assert_eq!((found[0].full_percent, found[0].readonly, found[0].answers()), (Some(81), Some(false), true));
        assert_eq!((found[1].full_percent, found[1].readonly, found[1].answers()), (None, Some(true), false));
        let fuse = pools("zmf\tDEGRADED\t0%\n").unwrap();
        assert_eq!((fuse[0].full_percent, fuse[0].readonly, fuse[0].answers()), (Some(0), None, true));
        assert!(pools("no pools available\n").unwrap().is_empty());
        assert!(pools("tank ONLINE\n").is_err());
    }

    #[test]
    fn delegations_that_count_on_the_dataset() {
        let text = "\
---- Permissions on tank/in ------------------------------------------
Permission sets:
\t@all @some,destroy
Local permissions:
\tuser zm hold
Descendent permissions:
\tuser zm rollback
Local+Descendent permissions:
\tuser zm @all
\tgroup staff send
---- Permissions on tank ---------------------------------------------
Permission sets:
\t@some create,mount
Create time permissions:
\tcreate,destroy
Local permissions:
\tuser zm mount
Descendent permissions:
\tuser zm bookmark
Local+Descendent permissions:
\teveryone snapshot
";
        let found = delegations(text, &"tank/in".parse().unwrap());
        let user = |permissions: &[&str]| Delegation {
            to: Delegate::User("zm".into()),
            permissions: permissions.iter().map(|p| p.to_string()).collect(),
        };
        assert_eq!(found[0], user(&["hold"]));
        assert_eq!(found[1], user(&["create", "destroy", "mount"]));
        assert_eq!((&found[2].to, &found[2].permissions[..]), (&Delegate::Group("staff".into()), &["send".into()][..]));
        assert_eq!(found[3], user(&["bookmark"]));
        assert_eq!(found[4].to, Delegate::Everyone);
        assert_eq!(found.len(), 5, "what is for descendants alone, or for the parent alone, does not count");
        assert!(delegations("", &"tank".parse().unwrap()).is_empty());
    }
}
