//! Names of nodes, and how a person writes the other side of a transfer.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use xxhash_rust::xxh3::xxh3_64;

use super::{DatasetName, Guid, NameError, SnapshotName};

/// The port that `zmigrated` listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 8551;

macro_rules! short_name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal, $extra:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The bare text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(s: &str) -> Result<Self, NameError> {
                if s.is_empty() || s.len() > $max {
                    return Err(NameError::new($kind, s, concat!("must have 1 to ", $max, " characters")));
                }
                if !s.bytes().all(|b| b.is_ascii_alphanumeric() || $extra.contains(&b))
                    || !s.starts_with(|c: char| c.is_ascii_alphanumeric())
                {
                    return Err(NameError::new(
                        $kind,
                        s,
                        "must begin with a letter or digit and hold only letters, digits and -_.",
                    ));
                }
                Ok(Self(s.to_owned()))
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
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

short_name!(
    /// An identity: the NAME in a verified certificate's SAN `zmigrate://node/NAME`; also the name of
    /// a `[peer.NAME]` table in the configuration.
    PeerName, "peer name", 63, b"-_."
);
short_name!(
    /// A stable id under which state is left in ZFS: `#zmigrate:<job>:<guid>`, hold tag `zmigrate:<job>`.
    JobId, "job id", 32, b"-_"
);
short_name!(
    /// The NAME of a `[job.NAME]` table. It names files in the state directory, too.
    JobName, "job name", 40, b"-_"
);

impl JobId {
    /// The id of a new job that writes `target` on the node `owner`, from a dataset of that GUID. It begins with
    /// [`JobId::prefix_of`] its owner, so that a source can tell whose state it is asked to touch.
    ///
    /// # Errors
    /// Never in practice: 16 hexadecimal digits are a job id.
    pub fn for_target(owner: &PeerName, source: Guid, target: &DatasetName) -> Result<JobId, NameError> {
        let hash = xxh3_64(format!("{source} {target}").as_bytes());
        format!("{}{:08x}", Self::prefix_of(owner), hash >> 32).parse()
    }

    /// What the ids of all jobs begin with that write on that node: 8 hexadecimal digits.
    pub fn prefix_of(owner: &PeerName) -> String {
        format!("{:08x}", xxh3_64(owner.as_str().as_bytes()) >> 32)
    }

    /// True if the job writes on that node.
    pub fn belongs_to(&self, owner: &PeerName) -> bool {
        self.0.starts_with(&Self::prefix_of(owner))
    }
}

/// What a grant lets an identity do with a dataset and everything below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Send to it: the peer receives into the dataset.
    Push,
    /// Fetch from it: the peer sends the dataset.
    Pull,
    /// Take part in moving the dataset for good.
    Cutover,
}

impl Access {
    /// All of them, in the order of the documentation.
    pub const ALL: [Access; 3] = [Access::Push, Access::Pull, Access::Cutover];

    /// The key in `[grant.NAME]`.
    pub fn key(self) -> &'static str {
        match self {
            Access::Push => "push",
            Access::Pull => "pull",
            Access::Cutover => "cutover",
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// Where a peer listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = NameError;

    /// Takes `host`, `host:port`, `[v6]` and `[v6]:port`.
    fn from_str(s: &str) -> Result<Self, NameError> {
        let bad = |why| NameError::new("address", s, why);
        let (host, port) = match s.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(|| bad("has [ without ]"))?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| bad("has no IPv6 address between [ and ]"))?;
                match port.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if port.is_empty() => (host, None),
                    None => return Err(bad("has something other than :port after ]")),
                }
            }
            None => match s.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (s, None),
            },
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:%".contains(&b);
        if host.is_empty() || host.len() > 253 || host.starts_with('-') || !host.bytes().all(plain) {
            return Err(bad("has no valid host name"));
        }
        let port = match port {
            Some(port) => {
                port.parse().ok().filter(|p| *p != 0).ok_or_else(|| bad("has a port that is not 1 to 65535"))?
            }
            None => DEFAULT_PORT,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How a peer is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerAddress {
    /// A `[peer.NAME]` of the configuration, or failing that a host name.
    Name(PeerName),
    /// `zm://host[:port]`.
    Direct(Endpoint),
}

impl FromStr for PeerAddress {
    type Err = NameError;

    /// Takes `NAME` and `zm://host[:port]`.
    fn from_str(s: &str) -> Result<Self, NameError> {
        match s.strip_prefix("zm://") {
            Some(at) => Ok(PeerAddress::Direct(at.parse()?)),
            None => Ok(PeerAddress::Name(s.parse()?)),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddress::Name(name) => name.fmt(f),
            PeerAddress::Direct(endpoint) => write!(f, "zm://{endpoint}"),
        }
    }
}

/// `PEER:DATASET[@SNAP]` or `zm://host:port/DATASET[@SNAP]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RemoteDataset {
    /// The side that answers.
    pub peer: PeerAddress,
    /// The dataset there.
    pub dataset: DatasetName,
    /// The snapshot, where one was named.
    pub snapshot: Option<SnapshotName>,
}

impl FromStr for RemoteDataset {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        let (peer, dataset) = match s.strip_prefix("zm://") {
            Some(rest) => {
                let (at, dataset) = rest.split_once('/').ok_or_else(|| {
                    NameError::new("remote dataset", s, "names no dataset; write zm://host:port/DATASET")
                })?;
                (PeerAddress::Direct(at.parse()?), dataset)
            }
            None => {
                let (peer, dataset) = s.split_once(':').ok_or_else(|| {
                    NameError::new("remote dataset", s, "names no peer; write PEER:DATASET or zm://host:port/DATASET")
                })?;
                (PeerAddress::Name(peer.parse()?), dataset)
            }
        };
        if dataset.contains('@') {
            let snapshot: SnapshotName = dataset.parse()?;
            return Ok(Self { peer, dataset: snapshot.dataset(), snapshot: Some(snapshot) });
        }
        Ok(Self { peer, dataset: dataset.parse()?, snapshot: None })
    }
}

impl fmt::Display for RemoteDataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.snapshot.as_ref().map_or(self.dataset.as_str(), |s| s.as_str());
        match &self.peer {
            PeerAddress::Name(name) => write!(f, "{name}:{what}"),
            PeerAddress::Direct(endpoint) => write!(f, "zm://{endpoint}/{what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_remote_dataset() {
        let named: RemoteDataset = "dc2:tank/db".parse().unwrap();
        assert_eq!(named.peer, PeerAddress::Name("dc2".parse().unwrap()));
        assert_eq!(named.to_string(), "dc2:tank/db");
        let direct: RemoteDataset = "zm://db.example:9000/tank/db@a".parse().unwrap();
        assert_eq!(direct.peer, PeerAddress::Direct(Endpoint { host: "db.example".into(), port: 9000 }));
        assert_eq!(direct.snapshot.as_ref().unwrap().as_str(), "tank/db@a");
        let v6: RemoteDataset = "zm://[::1]/tank".parse().unwrap();
        assert_eq!(v6.to_string(), "zm://[::1]:8551/tank");
        for bad in
            ["tank/db", "dc2:", ":tank", "zm://host", "zm://host:0/tank", "zm://[::1/tank", "dc2:-x", "dc/2:tank"]
        {
            assert!(bad.parse::<RemoteDataset>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn both_spellings_of_a_peer() {
        assert_eq!("dc2".parse(), Ok(PeerAddress::Name("dc2".parse().unwrap())));
        let direct: PeerAddress = "zm://db.example:9000".parse().unwrap();
        assert_eq!(direct, PeerAddress::Direct(Endpoint { host: "db.example".into(), port: 9000 }));
        for bad in ["", "dc2:tank", "zm://", "zm://host/tank", "-x"] {
            assert!(bad.parse::<PeerAddress>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn identities_are_plain() {
        for bad in ["", "-a", "a b", "a/b", "ä", "a:b", &"x".repeat(64)] {
            assert!(bad.parse::<PeerName>().is_err(), "{bad:?} was taken");
        }
        assert_eq!("dc1.node-2".parse::<PeerName>().unwrap().as_str(), "dc1.node-2");
    }
}
