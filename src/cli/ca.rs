//! `zmigrate ca`.

use super::{args::CaCommand, output::Output};
use crate::{
    identity::{
        IdentityError, When,
        ca::{Ca, IssueRequest, OnExisting},
    },
    types::{Failure, FailureClass},
};

pub fn run(command: CaCommand, output: &Output) -> Result<u8, Failure> {
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
        CaCommand::List { ca } => {
            let listing = Ca::list(&ca.dir, now).map_err(failed)?;
            output.result(&listing, &listing);
        }
    }
    Ok(0)
}

fn failed(e: IdentityError) -> Failure {
    let failure = Failure::new(FailureClass::Usage, &e);
    match e.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
