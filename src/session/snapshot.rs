//! Snapshots that are taken of a source when asked.
//!
//! Invariant: nothing is snapshotted that another job or host writes to: a snapshot that only this host has keeps a target from
//! going on, and a fenced dataset from coming home. Datasets below the root that are such are left out and named; a root that is
//! one is refused. A cutover's own snapshots ([`crate::cutover::call::is_of_a_cutover`]) are exempt, but not of what is fenced.

use super::engine::{Engine, refused};
use crate::{
    cutover::call::is_of_a_cutover,
    port::zfs::SnapshotRequest,
    types::{
        DatasetName, Failure,
        listing::{CLONE, DatasetInfo, FENCE, JOB},
    },
};

impl Engine {
    /// Takes one atomic snapshot of what is this host's own, and says what was left out.
    ///
    /// # Errors
    /// `Refused` when the root is a target or fenced; what ZFS says.
    pub async fn snapshot_source(&self, mut request: SnapshotRequest) -> Result<Vec<String>, Failure> {
        let mut notes = Vec::new();
        self.forget_what_was_seen();
        if is_of_a_cutover(request.tag.as_str()) {
            let root = self.zfs.datasets(std::slice::from_ref(&request.root)).await?;
            // It moves on from where it serves: what is fenced was moved away, by this cutover or by another one.
            if let Some(failure) = root.iter().filter(|info| info.property(FENCE).is_some()).find_map(not_ours) {
                return Err(failure);
            }
        } else {
            let root = request.root.clone();
            let found = if request.recursive {
                self.zfs.tree(&root).await?
            } else {
                self.zfs.datasets(std::slice::from_ref(&root)).await?
            };
            if let Some(failure) = found.iter().find(|info| info.name == root).and_then(not_ours) {
                return Err(failure);
            }
            // A verification looks through it, and could not destroy it any more if it had a snapshot.
            let (views, found): (Vec<_>, Vec<_>) = found.into_iter().partition(|info| info.local(CLONE).is_some());
            let views: Vec<DatasetName> = views.into_iter().map(|info| info.name).collect();
            let foreign = found.into_iter().filter(|info| info.name != root && not_ours(info).is_some());
            let foreign: Vec<DatasetName> =
                foreign.map(|info| info.name).filter(|name| !request.except.contains(name)).collect();
            if let Some(first) = foreign.first() {
                let more = if foreign.len() > 1 { format!(" and {} more", foreign.len() - 1) } else { String::new() };
                notes.push(format!(
                    "no snapshot was taken of {first}{more}: another job or host writes there, or a cutover moved it away"
                ));
            }
            request.except.extend(foreign);
            request.except.extend(views);
        }
        self.zfs.snapshot(&request).await?;
        Ok(notes)
    }
}

/// Why no snapshot is taken of a dataset.
pub fn not_ours(info: &DatasetInfo) -> Option<Failure> {
    let name = &info.name;
    // A fence is inherited: what is below a dataset that moved has moved with it.
    if let Some(fence) = info.property(FENCE) {
        let text = format!("{name} was moved away by a cutover ({}), so no snapshot is taken of it", fence.value);
        return Some(refused(text).hint(
            "it would keep the dataset from coming home; snapshots are taken where it serves now, see `zmigrate cutover status`",
        ));
    }
    // One that a person made writable is a target no longer.
    let readonly = info.property("readonly").is_some_and(|p| p.value == "on");
    let job = info.local(JOB).filter(|_| readonly && info.serves_by().is_none())?;
    let text = format!("{name} is the target of {job}, so no snapshot is taken of it");
    Some(refused(text).hint("a snapshot that only this host has would keep the job that writes here from going on"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{fake::FakeZfs, session::bare, types::FailureClass};

    fn ds(name: &str) -> DatasetName {
        name.parse().unwrap()
    }

    struct Host {
        zfs: FakeZfs,
        engine: Arc<Engine>,
        _dir: tempfile::TempDir,
    }

    impl Host {
        fn with(datasets: &[&str]) -> Host {
            let (zfs, dir) = (FakeZfs::new(1), tempfile::tempdir().unwrap());
            datasets.iter().for_each(|name| zfs.create(&ds(name)));
            let engine = bare::engine(&zfs, dir.path());
            Host { zfs, engine, _dir: dir }
        }

        async fn set(&self, name: &str, properties: &[(&str, &str)]) {
            let set = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            self.engine.zfs.set(&ds(name), &set.collect::<Vec<_>>()).await.unwrap();
        }

        async fn take(&self, root: &str, tag: &str) -> Result<Vec<String>, Failure> {
            let (root, tag) = (ds(root), tag.parse().unwrap());
            let request = SnapshotRequest { root: root.clone(), tag, recursive: true, except: Vec::new() };
            let notes = self.engine.snapshot_source(request).await?;
            assert!(notes.len() <= 1, "{notes:?}");
            Ok(self.zfs.snapshots_below(&root).iter().map(|(name, _)| name.to_string()).collect())
        }
    }

    #[tokio::test]
    async fn what_others_write_to_is_left_out() {
        let host = Host::with(&["tank/own", "tank/in", "tank/in/below", "tank/moved", "tank/moved/below"]);
        host.set("tank/in", &[(JOB, "a"), ("readonly", "on")]).await;
        host.set("tank/moved", &[(FENCE, "00000001:1")]).await;
        // What lies below a target and is none is this host's own.
        let all = ["tank@s", "tank/in/below@s", "tank/own@s"];
        assert_eq!(host.take("tank", "s").await.unwrap(), all);
    }

    #[tokio::test]
    async fn a_view_of_a_verification_is_passed_over() {
        let host = Host::with(&["tank/own", "tank/zmigrate-view-1"]);
        host.set("tank/zmigrate-view-1", &[(CLONE, "1")]).await;
        assert_eq!(host.take("tank", "s").await.unwrap(), ["tank@s", "tank/own@s"]);
    }

    #[tokio::test]
    async fn a_root_that_others_write_to_is_refused() {
        let host = Host::with(&["tank/in", "tank/moved/below"]);
        host.set("tank/in", &[(JOB, "a"), ("readonly", "on")]).await;
        host.set("tank/moved", &[(FENCE, "00000001:1")]).await;
        for (root, part) in [("tank/in", "is the target of a"), ("tank/moved/below", "was moved away by a cutover")] {
            let failure = host.take(root, "s").await.unwrap_err();
            assert_eq!(failure.class, FailureClass::Refused);
            assert!(failure.to_string().contains(part), "{failure}");
        }
        assert!(host.zfs.snapshots_below(&ds("tank")).is_empty());
        // Nor a cutover's own of what has moved on; but of what may only look like a target, and of one that a person made writable.
        for id in 1..3 {
            let failure = host.take("tank/moved/below", &format!("zmigrate_0000000{id}_pass_1")).await.unwrap_err();
            assert_eq!(failure.class, FailureClass::Refused);
        }
        assert_eq!(host.take("tank/in", "zmigrate_00000001_pass_1").await.unwrap().len(), 1);
        host.engine.zfs.destroy_snapshot(&"tank/in@zmigrate_00000001_pass_1".parse().unwrap()).await.unwrap();
        host.set("tank/in", &[("readonly", "off")]).await;
        assert_eq!(host.take("tank/in", "s").await.unwrap(), ["tank/in@s"]);
    }
}
