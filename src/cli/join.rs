//! `zmigrate join`: this host becomes a node of a fleet.
//!
//! ```text
//! key on disk ─▶ dial, is it the authority? ─▶ secret and signing request ─▶ certificate, CAs, revocations ─▶ in place
//!        a failure up to here costs nothing ──┤            from here on the token may be spent
//! ```

use std::io::Read;

use super::{
    args::{Global, Join},
    output::{Output, note, runtime},
};
use crate::{
    host,
    identity::{
        IdentityError, JoinToken,
        join::{Joined, NewIdentity, PendingIdentity},
    },
    limits::JOIN_TIMEOUT,
    session::{client::AGENT, join::ask},
    types::{Failure, FailureClass},
    wire::join::{JoinAnswer, JoinRefusal, JoinRequest},
};

/// A token is far shorter; this bounds what is read from stdin.
const MAX_STDIN: u64 = 4_096;

pub fn run(global: &Global, args: Join, output: &Output) -> Result<u8, Failure> {
    let text = if args.token == "-" { from_stdin()? } else { args.token };
    let token: JoinToken =
        text.parse().map_err(|e: crate::identity::TokenError| Failure::new(FailureClass::Usage, &e).hint(e.hint()))?;
    let config = host::config(global.config.as_deref(), global.identity_dir.as_deref())?;
    let pending = PendingIdentity::prepare(&config.identity_dir, &token, args.replace).map_err(failed)?;
    let joined = runtime()?.block_on(join(&token, pending))?;
    output.result(&joined, &joined);
    if !global.quiet {
        note(
            "next: start zmigrated here, or, if it runs already, nothing: it notices the new files. What this node may do \
             elsewhere is what [grant] says there; what others may do here is what [grant] says here",
        );
    }
    Ok(0)
}

fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MAX_STDIN).read_to_string(&mut text);
    read.map(|_| text).map_err(|e| Failure::new(FailureClass::Usage, format!("cannot read a token from stdin: {e}")))
}

async fn join(token: &JoinToken, pending: PendingIdentity) -> Result<Joined, Failure> {
    let mut connection = host::dial_authority(token).await?;
    let request = JoinRequest {
        id: token.id.0,
        secret: token.secret.0,
        name: token.name.to_string(),
        csr: pending.csr().to_vec(),
        agent: AGENT.to_owned(),
    };
    let again = format!("`zmigrate ca token {} --renew` on the machine of the authority makes a new one", token.name);
    let answer = ask(&mut connection, &request, JOIN_TIMEOUT).await.map_err(|mut failure| {
        failure.message = format!("joining at {} broke off: {}", token.address, failure.message);
        failure.hint(format!("the token may be spent, and nothing was put in place here; {again}"))
    })?;
    match answer {
        JoinAnswer::Issued { cert_pem, ca_pem, crl_pem } => {
            let new = NewIdentity { cert_pem, ca_pem, crl_pem };
            pending.install(&new).map_err(|e| failed(e).hint(format!("the token is spent; {again}")))
        }
        JoinAnswer::Refused { code, text } => Err(refused(token, code, &text)),
    }
}

fn refused(token: &JoinToken, code: u16, text: &str) -> Failure {
    let name = &token.name;
    let new = format!("ask for a new token: `zmigrate ca token {name} --dir CA` on the machine of the authority");
    let hint = match JoinRefusal::from_code(code) {
        Some(JoinRefusal::Spent) => {
            format!("if that was not you, revoke what it gave: `zmigrate ca revoke {name} --dir CA`; else {new}")
        }
        Some(JoinRefusal::NameTaken) => format!("add --renew there, if it is meant to join again; else {new}"),
        Some(JoinRefusal::Busy) => "run the same command again; the token was not spent".to_owned(),
        Some(JoinRefusal::Failed) => format!("the token may be spent; {new} --renew"),
        _ => new,
    };
    Failure::new(FailureClass::NotGranted, format!("the authority at {} refused: {text}", token.address))
        .hint(hint)
        .printable()
}

fn failed(e: IdentityError) -> Failure {
    let class = match &e {
        IdentityError::HasIdentity { .. } => FailureClass::Refused,
        IdentityError::BadAnswer { .. } => FailureClass::NotGranted,
        _ => FailureClass::Usage,
    };
    let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
    let failure = Failure::new(class, format!("{e}{cause}"));
    match e.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
