//! Grants, as the registry asks for them: always those of the newest configuration.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{
    config::Grants,
    identity::IdentityStore,
    session::registry::Authority,
    types::{Access, DatasetName, Failure, FailureClass, JobId, PeerName},
};

/// See the module.
pub struct GrantAuthority {
    grants: ArcSwap<Grants>,
    store: Arc<IdentityStore>,
}

impl GrantAuthority {
    pub fn new(grants: Grants, store: Arc<IdentityStore>) -> GrantAuthority {
        GrantAuthority { grants: ArcSwap::from_pointee(grants), store }
    }

    pub fn replace(&self, grants: Grants) {
        self.grants.store(grants.into());
    }
}

impl Authority for GrantAuthority {
    fn knows(&self, identity: &PeerName) -> bool {
        self.grants.load().get(identity).is_some()
    }

    fn is_own(&self, job: &JobId) -> bool {
        job.belongs_to(&self.store.own().name)
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
