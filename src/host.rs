//! The wiring: which implementation stands behind each port on this host. The only place that names adapters.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::{AlertDescription, ServerConfig, time_provider::DefaultTimeProvider};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    adapter::{
        busy::ProcBusy,
        hook::{HookTools, HostHooks},
        journal::FileJournal,
        ledger::FileLedgers,
        locks::FileLocks,
        net::{TlsLink, dial_tcp, prepare},
        zfs::{ZfsCommand, view::HostViews},
    },
    config::Config,
    cutover::leg::CutoverId,
    daemon::{Accepted, Arrived, enrol::Enrolment},
    driver::cutover,
    identity::{
        HandshakeError, IdentityStore, JoinToken, PeerRefusal,
        handshake::{self, Incoming},
        join,
    },
    limits::HANDSHAKE_TIMEOUT,
    port::{
        busy::Busy,
        hook::Hooks,
        journal::Journal,
        ledger::Ledgers,
        link::{Connection, Link},
        needs::Needs,
        zfs::Zfs,
    },
    runner::files::{JobFiles, JobNeeds},
    session::{
        client::ClientOptions,
        cutover::{Hosts, Looked, Tools},
        engine::Engine,
    },
    types::{Endpoint, Failure, FailureClass, PeerAddress, PeerName, transfer::Streams},
};

/// Reads the configuration, with `--identity-dir` put over it.
///
/// # Errors
/// A `Usage` failure that names file, line and column.
pub fn config(path: Option<&Path>, identity_dir: Option<&Path>) -> Result<Config, Failure> {
    let mut config = Config::load(path).map_err(|e| Failure::new(FailureClass::Usage, e))?;
    if let Some(dir) = identity_dir {
        config.identity_dir = dir.to_owned();
    }
    Ok(config)
}

/// What `stat(2)` says of an owner whom a user namespace does not know (user_namespaces(7)).
const OVERFLOW_UID: u32 = 65534;

/// Refuses to leave root's files among those of another user, whose `zmigrated` could not write them any more.
///
/// # Errors
/// A `Usage` failure that says as whom to run the command.
pub fn state_is_ours(config: &Config) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;
    let Ok(owner) = std::fs::metadata(&config.state_dir).map(|meta| meta.uid()) else { return Ok(()) };
    // In a user namespace, an owner that it does not know is nobody's business here.
    if owner == 0 || owner == OVERFLOW_UID || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (dir, name) = (config.state_dir.display(), crate::doctor::user_name(owner));
    let text = format!("state_dir {dir} belongs to {name}, who could not write what root leaves there");
    let as_owner = match name.parse::<u32>() {
        Ok(uid) => format!("run it as user {uid}"),
        Err(_) => format!("runuser -u {name} -- zmigrate …"),
    };
    Err(Failure::new(FailureClass::Usage, text)
        .hint(format!("{as_owner}; if all of it is to run as root, give it the directory: chown -R root {dir}")))
}

/// This host's engine.
pub fn engine(config: &Config) -> Arc<Engine> {
    let zfs = config.zfs_command.clone();
    // zpool stands beside zfs; a bare name is looked up in the usual directories.
    let zpool = zfs.with_file_name("zpool");
    let command = Arc::new(ZfsCommand::new(zfs, zpool));
    let views = Arc::new(HostViews::new(Arc::clone(&command), &config.state_dir));
    let zfs: Arc<dyn Zfs> = command;
    let journal: Arc<dyn Journal> = Arc::new(FileJournal::new(&config.state_dir));
    let hosts = Hosts::new(Tools {
        zfs: Arc::clone(&zfs),
        ledgers: ledgers(config),
        journal: Arc::clone(&journal),
        hooks: Mutex::new(hooks(config)),
        busy: busy(),
        cannot_mount: cannot_mount(),
        looked: Looked::default(),
    });
    let locks = Arc::new(FileLocks::new(&config.state_dir));
    let engine =
        Engine::new(zfs, locks, journal, config.limits.max_datasets as usize).with_cutovers(hosts).with_views(views);
    engine.set_needs(needs(config));
    Arc::new(engine)
}

/// What the jobs of this host need.
pub fn needs(config: &Config) -> Arc<dyn Needs> {
    Arc::new(JobNeeds::new(config.jobs.clone(), JobFiles::new(&config.state_dir)))
}

/// Where other commands on this host speak to the process that leads a cutover.
pub fn door(config: &Config, id: CutoverId) -> PathBuf {
    config.state_dir.join("cutover").join(format!("{}.sock", cutover::name_of(id)))
}

/// This host's ledgers of cutovers.
pub fn ledgers(config: &Config) -> Arc<dyn Ledgers> {
    Arc::new(FileLedgers::new(&config.state_dir))
}

/// This host's hooks.
pub fn hooks(config: &Config) -> Arc<dyn Hooks> {
    Arc::new(HostHooks::new(config.hooks.clone(), HookTools::of_the_system(&config.state_dir)))
}

/// Why a mount of this process would be no mount of the host, if so.
fn cannot_mount() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some(format!("this process runs as user {}, who may not mount", rustix::process::geteuid().as_raw()));
    }
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
    // Who may not look at process 1 is not told apart; in a container that one is the container's.
    let (ours, of_host) = (namespace("self")?, namespace("1")?);
    (ours != of_host).then(|| "this process has a mount namespace of its own, so nobody else would see it".to_owned())
}

/// Who keeps a mount busy on this host.
pub fn busy() -> Arc<dyn Busy> {
    Arc::new(ProcBusy)
}

/// This host's identity.
///
/// # Errors
/// A `NotGranted` failure with what to do.
pub fn identity(config: &Config) -> Result<Arc<IdentityStore>, Failure> {
    IdentityStore::open(&config.identity_dir).map(Arc::new).map_err(|e| {
        let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}")).unwrap_or_default();
        let failure =
            Failure::new(FailureClass::NotGranted, format!("this host's identity cannot be used: {e}{cause}"));
        match e.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })
}

/// Where a peer is, and who it must be: a `[peer.NAME]`, or a host.
///
/// # Errors
/// When the name is neither.
pub fn endpoint(config: &Config, peer: &PeerAddress) -> Result<(Endpoint, Option<PeerName>), Failure> {
    Ok(match peer {
        PeerAddress::Direct(endpoint) => (endpoint.clone(), None),
        PeerAddress::Name(name) => match config.peers.get(name) {
            Some(known) => (known.address.clone(), Some(known.identity.clone())),
            None => (name.as_str().parse().map_err(|e| Failure::new(FailureClass::Usage, e))?, None),
        },
    })
}

/// How to reach a peer: a `[peer.NAME]`, or a host.
///
/// # Errors
/// When the name is neither.
pub fn link(config: &Config, store: &Arc<IdentityStore>, peer: &PeerAddress) -> Result<Arc<dyn Link>, Failure> {
    let (endpoint, expected) = endpoint(config, peer)?;
    Ok(Arc::new(TlsLink::new(endpoint, expected, Arc::clone(store), peer.to_string())))
}

/// How a command's session behaves.
pub fn client_options(config: &Config, streams: Streams) -> ClientOptions {
    ClientOptions {
        window_bytes: config.limits.window_bytes,
        connect_for: Duration::from_secs(5),
        lost_after: Duration::from_secs(config.limits.link_lost_after_s),
        idle_timeout: Duration::from_secs(config.limits.idle_timeout_s),
        streams,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
    }
}

/// Shakes hands with what dialled us; with a node that joins only where there is an authority.
///
/// # Errors
/// Why the peer was refused, or that it went away.
pub async fn accept(
    store: &IdentityStore,
    stream: TcpStream,
    enrolment: Option<&Arc<Enrolment>>,
) -> Result<Arrived, Failure> {
    let stream = prepare(stream).map_err(|e| Failure::new(FailureClass::Unreachable, e))?;
    let joining = async {
        match enrolment {
            Some(enrolment) => enrolment.config().await,
            None => None,
        }
    };
    Ok(match handshake::accept_or_enrol(store, stream, joining).await.map_err(not_granted)? {
        Incoming::Joining(stream) => Arrived::Joining(Box::new(stream)),
        Incoming::Node(stream, identity) => {
            let chain = handshake::peer_chain(stream.get_ref().1);
            let (identity, serial) = (identity.name, identity.serial);
            Arrived::Node(Accepted { connection: Box::new(stream), identity, serial, chain })
        }
    })
}

/// Shakes hands with a node that joins, where nothing else is served.
///
/// # Errors
/// Why it was refused, or that it went away.
pub async fn accept_joining(config: Arc<ServerConfig>, stream: TcpStream) -> Result<Box<dyn Connection>, Failure> {
    let stream = prepare(stream).map_err(|e| Failure::new(FailureClass::Unreachable, e))?;
    Ok(Box::new(join::accept(config, stream).await.map_err(not_granted)?))
}

fn not_granted(e: HandshakeError) -> Failure {
    Failure::new(FailureClass::NotGranted, &e).hint(e.hint())
}

/// Dials the authority of a token. The secret has not been sent yet when this returns.
///
/// # Errors
/// `Unreachable`, or `NotGranted` when what answers is not the authority or takes no one.
pub async fn dial_authority(token: &JoinToken) -> Result<Box<dyn Connection>, Failure> {
    let stream = dial_tcp("the authority", &token.address).await?;
    let connect = join::connect(token.ca_fingerprint, Arc::new(DefaultTimeProvider), stream);
    let text = |why: &str| format!("cannot join at {}: {why}", token.address);
    match timeout(HANDSHAKE_TIMEOUT, connect).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(HandshakeError::RefusedByPeer(PeerRefusal(AlertDescription::NoApplicationProtocol)))) => {
            let why =
                "the zmigrated there takes no node in now: it has no [ca], or no token that it knows has time left";
            let hint =
                format!("this token ends {}; ask for a new one with `zmigrate ca token {}`", token.expires, token.name);
            Err(Failure::new(FailureClass::NotGranted, text(why)).hint(hint))
        }
        Ok(Err(e)) => {
            let class = if e.is_transient() { FailureClass::Unreachable } else { FailureClass::NotGranted };
            Err(Failure::new(class, text(&e.to_string())).hint(e.hint()))
        }
        Err(_) => {
            let why = format!("no answer within {} s", HANDSHAKE_TIMEOUT.as_secs());
            Err(Failure::new(FailureClass::Unreachable, text(&why)))
        }
    }
}
