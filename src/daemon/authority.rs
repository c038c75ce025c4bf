//! Grants, as the registry asks for them: always those of the newest configuration.

use arc_swap::ArcSwap;

use crate::{
    config::Grants,
    session::registry::Authority,
    types::{Access, DatasetName, Failure, FailureClass, PeerName},
};

/// See the module.
pub struct GrantAuthority {
    grants: ArcSwap<Grants>,
}

impl GrantAuthority {
    pub fn new(grants: Grants) -> GrantAuthority {
        GrantAuthority { grants: ArcSwap::from_pointee(grants) }
    }

    pub fn replace(&self, grants: Grants) {
        self.grants.store(grants.into());
    }
}

impl Authority for GrantAuthority {
    fn knows(&self, identity: &PeerName) -> bool {
        self.grants.load().get(identity).is_some()
    }

    fn granted(&self, identity: &PeerName) -> Vec<(Access, DatasetName)> {
        let grants = self.grants.load();
        let of = |access: Access| grants.get(identity).map(|grant| grant.of(access).to_vec()).unwrap_or_default();
        Access::ALL
            .into_iter()
            .flat_map(|access| of(access).into_iter().map(move |dataset| (access, dataset)))
            .collect()
    }

    fn check(&self, identity: &PeerName, access: Access, dataset: &DatasetName) -> Result<(), Failure> {
        self.grants.load().check(identity, access, dataset).map_err(|e| {
            // The full hint shows what else is granted; that is for this host's operator alone.
            tracing::warn!(%identity, hint = e.hint(), "{e}");
            Failure::new(FailureClass::NotGranted, &e)
                .hint(format!("there, add \"{dataset}\" or a dataset above it to `{access}` under [grant.{identity}]"))
        })
    }
}
