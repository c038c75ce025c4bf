//! The backends, and the host side of the real ones: scratch pools in files, and the commands around the port.

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use zmigrate::{
    adapter::zfs::ZfsCommand,
    port::zfs::Zfs,
    types::{DatasetName, SnapshotName},
};

use crate::{
    case::{Backend, Factory, Traits},
    common::{create_pool, look, run},
    world::{Content, Host, World},
};

/// Sparse. The trials write a few megabytes each.
const POOL_BYTES: u64 = 512 << 20;
const PASSPHRASE: &str = "a passphrase for trials";

pub fn backends() -> Vec<Backend> {
    vec![
        Backend { name: "zfs_fuse", open: Box::new(|| open("f", false, commands)) },
        Backend { name: "openzfs", open: Box::new(|| open("k", true, commands)) },
        #[cfg(feature = "libzetta")]
        Backend { name: "libzetta", open: Box::new(|| open("z", true, library)) },
    ]
}

/// An implementation, and how many commands it has run.
type Subject = (Arc<dyn Zfs>, Box<dyn Fn() -> u64 + Send + Sync>);

fn commands() -> Result<Subject, String> {
    let zfs = Arc::new(ZfsCommand::default());
    let count = zfs.clone();
    Ok((zfs, Box::new(move || count.commands_run())))
}

#[cfg(feature = "libzetta")]
fn library() -> Result<Subject, String> {
    let zfs = zmigrate::adapter::zetta::ZettaZfs::new(ZfsCommand::default()).map_err(|e| e.to_string())?;
    let zfs = Arc::new(zfs);
    let count = zfs.clone();
    Ok((zfs, Box::new(move || count.commands_run())))
}

fn open(backend: &str, kernel: bool, subject: fn() -> Result<Subject, String>) -> Result<Factory, String> {
    look(kernel)?;
    let (probe, _) = subject()?;
    let pool = format!("zmcontract-{backend}-{}", std::process::id());
    let dir = std::env::temp_dir().join(&pool);
    create_pool(&pool, &dir, POOL_BYTES)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let can = runtime.block_on(probe.capabilities(&pool)).map_err(|e| e.to_string())?;
    // zfs-fuse's `zfs create -V` ends with "Function not implemented" and leaves half a volume.
    let traits = Traits { can: can.clone(), volumes: kernel };
    let next = AtomicU32::new(0);
    let make = move |_: &str| {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let root: DatasetName = format!("{pool}/t{n}").parse().unwrap();
        run("zfs", &["create", root.as_str()]).unwrap();
        let (zfs, count) = subject().unwrap();
        let host = RealHost { count, dir: dir.clone(), reads: AtomicU32::new(0) };
        World { zfs, host: Box::new(host), can: can.clone(), root }
    };
    Ok(Factory { traits, make: Box::new(make) })
}

struct RealHost {
    count: Box<dyn Fn() -> u64 + Send + Sync>,
    dir: PathBuf,
    reads: AtomicU32,
}

impl RealHost {
    fn property(&self, name: &str, property: &str) -> String {
        run("zfs", &["get", "-Hp", "-o", "value", property, name]).unwrap().trim().to_owned()
    }

    fn volume(&self, name: &str) -> PathBuf {
        let link = PathBuf::from(format!("/dev/zvol/{name}"));
        // Without udev there is no link, but a helper that says which device is which.
        let find = || {
            let devices = fs::read_dir("/dev").unwrap().flatten().map(|e| e.path());
            let mut zds = devices.filter(|p| {
                let n = p.file_name().unwrap().to_string_lossy();
                n.strip_prefix("zd").is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit()))
            });
            zds.find(|p| run("/lib/udev/zvol_id", &[&p.to_string_lossy()]).is_ok_and(|id| id.trim() == name))
        };
        for _ in 0..100 {
            if let Some(found) = if link.exists() { Some(link.clone()) } else { find() } {
                return found;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("no device for the volume {name}");
    }

    fn mountpoint(&self, name: &DatasetName) -> PathBuf {
        if !self.is_mounted(name) {
            run("zfs", &["mount", name.as_str()]).unwrap();
        }
        self.property(name.as_str(), "mountpoint").into()
    }
}

impl Host for RealHost {
    fn create(&self, name: &DatasetName) {
        run("zfs", &["create", name.as_str()]).unwrap();
    }

    fn create_volume(&self, name: &DatasetName, bytes: u64) {
        run("zfs", &["create", "-V", &bytes.to_string(), name.as_str()]).unwrap();
    }

    fn create_encrypted(&self, name: &DatasetName) {
        let key = self.dir.join("key");
        fs::write(&key, PASSPHRASE).unwrap();
        let location = format!("keylocation=file://{}", key.display());
        let args = ["create", "-o", "encryption=on", "-o", "keyformat=passphrase", "-o", &location, name.as_str()];
        run("zfs", &args).unwrap();
    }

    fn load_key(&self, name: &DatasetName) {
        let location = format!("file://{}", self.dir.join("key").display());
        run("zfs", &["load-key", "-L", &location, name.as_str()]).unwrap();
    }

    fn clone_snapshot(&self, from: &SnapshotName, to: &DatasetName) {
        run("zfs", &["clone", from.as_str(), to.as_str()]).unwrap();
    }

    fn write(&self, name: &DatasetName, file: u64, offset: u64, bytes: &[u8]) {
        let path = match self.property(name.as_str(), "type").as_str() {
            "volume" => self.volume(name.as_str()),
            _ => self.mountpoint(name).join(file.to_string()),
        };
        let create = !path.starts_with("/dev");
        let mut file = fs::File::options().write(true).create(create).truncate(false).open(path).unwrap();
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
    }

    fn read(&self, snapshot: &SnapshotName) -> Content {
        // A clone shows a snapshot without touching its dataset.
        let n = self.reads.fetch_add(1, Ordering::Relaxed);
        let pool = snapshot.dataset().pool().to_owned();
        let t = snapshot.dataset().as_str().split('/').nth(1).unwrap_or("t").to_owned();
        let clone = format!("{pool}/read-{t}-{n}");
        let mut content = Content::new();
        if self.property(snapshot.dataset().as_str(), "type") == "volume" {
            run("zfs", &["clone", snapshot.as_str(), &clone]).unwrap();
            let mut bytes = Vec::new();
            fs::File::open(self.volume(&clone)).unwrap().read_to_end(&mut bytes).unwrap();
            content.insert(0, bytes);
        } else {
            let at = self.dir.join(format!("read-{t}-{n}"));
            run("zfs", &["clone", "-o", &format!("mountpoint={}", at.display()), snapshot.as_str(), &clone]).unwrap();
            if !self.is_mounted(&clone.parse().unwrap()) {
                run("zfs", &["mount", &clone]).unwrap();
            }
            for entry in fs::read_dir(&at).unwrap().flatten() {
                if let Ok(number) = entry.file_name().to_string_lossy().parse() {
                    content.insert(number, fs::read(entry.path()).unwrap());
                }
            }
        }
        for i in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(50 * i));
            if run("zfs", &["destroy", &clone]).is_ok() {
                break;
            }
        }
        content
    }

    fn is_mounted(&self, name: &DatasetName) -> bool {
        self.property(name.as_str(), "mounted") == "yes"
    }

    fn commands_run(&self) -> Option<u64> {
        Some((self.count)())
    }
}
