//! The fake as two backends: as able as OpenZFS 2.3, and as zfs-fuse.

use std::sync::Arc;

use zmigrate::{
    fake::FakeZfs,
    port::zfs::Zfs,
    types::{DatasetName, SnapshotName, listing::DatasetKind},
};

use crate::{
    case::{Backend, Factory, Traits},
    world::{Content, Host, World},
};

pub fn backends() -> Vec<Backend> {
    vec![
        Backend { name: "fake", open: Box::new(|| open(FakeZfs::new)) },
        Backend { name: "fake_old", open: Box::new(|| open(FakeZfs::old)) },
    ]
}

fn open(new: fn(u64) -> FakeZfs) -> Result<Factory, String> {
    let root: DatasetName = "tank/trial".parse().map_err(|e| format!("{e}"))?;
    let probe = new(1);
    probe.create(&root);
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|e| e.to_string())?;
    let can = runtime.block_on(probe.capabilities("tank")).map_err(|e| e.to_string())?;
    let traits = Traits { can: can.clone(), volumes: true };
    let make = move |_: &str| {
        let zfs = new(1);
        zfs.create(&root);
        World { zfs: Arc::new(zfs.clone()), host: Box::new(FakeHost(zfs)), can: can.clone(), root: root.clone() }
    };
    Ok(Factory { traits, make: Box::new(make) })
}

struct FakeHost(FakeZfs);

impl FakeHost {
    fn is_volume(&self, name: &DatasetName) -> bool {
        self.0.kind(name) == Some(DatasetKind::Volume)
    }
}

impl Host for FakeHost {
    fn create(&self, name: &DatasetName) {
        self.0.create(name);
    }

    fn create_volume(&self, name: &DatasetName, bytes: u64) {
        self.0.create_volume(name, bytes);
    }

    fn create_encrypted(&self, name: &DatasetName) {
        self.0.create_encrypted(name);
    }

    fn load_key(&self, name: &DatasetName) {
        self.0.set_key_loaded(name, true);
    }

    fn clone_snapshot(&self, from: &SnapshotName, to: &DatasetName) {
        self.0.clone_snapshot(from, to);
    }

    fn write(&self, name: &DatasetName, file: u64, offset: u64, bytes: &[u8]) {
        let object = if self.is_volume(name) { 1 } else { file };
        assert!(self.0.write(name, object, offset, bytes), "{name} cannot be written");
    }

    fn read(&self, snapshot: &SnapshotName) -> Content {
        let content = self.0.snapshot_content(snapshot).unwrap();
        if self.is_volume(&snapshot.dataset()) { content.into_values().map(|v| (0, v)).collect() } else { content }
    }

    fn is_mounted(&self, name: &DatasetName) -> bool {
        self.0.is_mounted(name)
    }

    fn commands_run(&self) -> Option<u64> {
        None
    }
}
