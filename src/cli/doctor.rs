//! `zmigrate doctor`.

use std::time::Duration;

use super::{
    args::Global,
    output::{Output, note, runtime},
};
use crate::{
    doctor::{self, Other, Patient, User},
    host,
    identity::When,
    types::{Failure, PeerAddress, transfer::Streams},
};

pub fn run(global: &Global, peer: Option<PeerAddress>, output: &Output) -> Result<u8, Failure> {
    let report = match host::config(global.config.as_deref(), global.identity_dir.as_deref()) {
        Err(failure) => doctor::without_configuration(failure),
        Ok(config) => {
            let other = peer.map(|peer| -> Result<Other, Failure> {
                let (endpoint, _) = host::endpoint(&config, &peer)?;
                let store = host::identity(&config)?;
                let link = host::link(&config, &store, &peer)?;
                Ok(Other { endpoint, link, client: host::client_options(&config, Streams::Fixed(1)), name: peer })
            });
            let zfs = std::sync::Arc::clone(&host::engine(&config).zfs);
            let patient = Patient { config, zfs, now: When::now(), user: User::current() };
            let runtime = runtime()?;
            let report = runtime.block_on(doctor::examine(&patient, other));
            runtime.shutdown_timeout(Duration::from_secs(1));
            report
        }
    };
    if global.quiet && !output.is_json() {
        let text = doctor::text(&report, true);
        if !text.is_empty() {
            note(text.trim_end());
        }
    }
    output.result(&report, doctor::text(&report, false));
    Ok(report.exit_code)
}
