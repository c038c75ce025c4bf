//! `zmigrate ca`.

use std::{net::SocketAddr, path::Path, time::Duration};

use super::{
    args::{CaCommand, Global},
    output::{Output, note, runtime},
};
use crate::{
    daemon::enrol,
    host,
    identity::{
        IdentityError, JoinToken, When,
        ca::{Ca, EnrolDirs, IssueRequest, OnExisting, TokenMade, TokenRequest},
    },
    types::{DEFAULT_PORT, Endpoint, Failure, FailureClass},
};

pub fn run(global: &Global, command: CaCommand, output: &Output) -> Result<u8, Failure> {
    let now = When::now();
    match command {
        CaCommand::Init { ca, days } => {
            let made = Ca::init(&ca.dir, days, now).map_err(failed)?;
            output.result(&made, &made);
        }
        CaCommand::Issue { name, ca, out, days, renew, replace } => {
            let on_existing = match (renew, replace) {
                (true, _) => OnExisting::Renew,
                (_, true) => OnExisting::Replace,
                _ => OnExisting::Refuse,
            };
            let request = IssueRequest { name, out_dir: out, days, on_existing };
            let issued = Ca::issue(&ca.dir, &request, now).map_err(failed)?;
            output.result(&issued, &issued);
        }
        CaCommand::Revoke { name, ca } => {
            let revoked = Ca::revoke(&ca.dir, &name, now).map_err(failed)?;
            output.result(&revoked, &revoked);
        }
        CaCommand::Token { name, ca, address, listen, days, ttl, renew } => {
            let ttl = Duration::from_secs(ttl);
            match listen {
                Some(listen) => runtime()?.block_on(async {
                    let (listener, bound) = enrol::bind(listen).await?;
                    let address = address.unwrap_or_else(|| reachable(bound));
                    let request = TokenRequest { name, address, days, ttl, renew };
                    let made = token(&ca.dir, &request, output)?;
                    say(global, &made, &format!("until then this command answers at {bound}"));
                    let parsed: JoinToken = made.token.parse().map_err(|e| Failure::new(FailureClass::Internal, e))?;
                    let dirs = EnrolDirs { ca: ca.dir, beside: None };
                    let joined = enrol::serve_until_used(listener, dirs, &parsed).await?;
                    if !global.quiet {
                        note(format_args!("{} has joined, serial {}", joined.name, joined.serial));
                    }
                    Ok::<_, Failure>(())
                })?,
                None => {
                    let address = match address {
                        Some(address) => address,
                        None => usual_address(global)?,
                    };
                    let made = token(&ca.dir, &TokenRequest { name, address, days, ttl, renew }, output)?;
                    let needs = format!(
                        "zmigrated at {} must have [ca] dir = {:?} in its configuration; --address names another host, \
                         --listen needs no zmigrated",
                        made.address, ca.dir
                    );
                    say(global, &made, &needs);
                }
            }
        }
        CaCommand::List { ca } => {
            let listing = Ca::list(&ca.dir, now).map_err(failed)?;
            output.result(&listing, &listing);
        }
    }
    Ok(0)
}

fn token(dir: &Path, request: &TokenRequest, output: &Output) -> Result<TokenMade, Failure> {
    let made = Ca::token(dir, request, When::now()).map_err(failed)?;
    // Also with --quiet: it is what the command is for.
    output.must_say(&made, &made.token);
    Ok(made)
}

/// What to type on the new node, and what must be so here.
fn say(global: &Global, made: &TokenMade, needs: &str) {
    if global.quiet {
        return;
    }
    note(format_args!(
        "on the new node, before {}:  zmigrate join TOKEN\nit becomes {}; the token is good once. {needs}",
        made.expires, made.name
    ));
    if made.replaces_older {
        note("the token that was made before for this name is useless now");
    }
}

/// This host, as the configuration lets others find it.
fn usual_address(global: &Global) -> Result<Endpoint, Failure> {
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    Ok(config.listen.first().map_or_else(|| host_at(DEFAULT_PORT), |listen| reachable(*listen)))
}

/// An address that others can dial, of one that is listened on.
fn reachable(listen: SocketAddr) -> Endpoint {
    if listen.ip().is_unspecified() {
        return host_at(listen.port());
    }
    Endpoint { host: listen.ip().to_string(), port: listen.port() }
}

fn host_at(port: u16) -> Endpoint {
    Endpoint { host: rustix::system::uname().nodename().to_string_lossy().into_owned(), port }
}

fn failed(e: IdentityError) -> Failure {
    let class = match e {
        IdentityError::NameTaken { .. } => FailureClass::Refused,
        _ => FailureClass::Usage,
    };
    let mut failure = Failure::new(class, &e);
    // Which error of the system it was.
    if let Some(cause) = std::error::Error::source(&e) {
        failure.message = format!("{e}: {cause}");
    }
    match e.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
