//! One of the two sides of a run. Both take the same requests; one is reached by a function call.

use std::sync::Arc;

use crate::{
    session::{client::Client, engine::EngineSession},
    types::{Failure, FailureClass},
    wire::message::{Listed, Reply, Request, Transferred},
};

/// See the module.
#[derive(Clone)]
pub(super) enum Side {
    Local(Arc<EngineSession>),
    Remote(Arc<Client>),
}

impl Side {
    pub async fn ask(&self, request: Request) -> Result<Reply, Failure> {
        match self {
            // What takes something away must not be cut off by an interrupt: half of it, and no word of that in the journal.
            Side::Local(session) if request.takes_away() => {
                let ours = Arc::clone(session);
                session.to_its_end(async move { ours.handle(request).await }).await
            }
            Side::Local(session) => session.handle(request).await,
            Side::Remote(client) => client.call(request).await,
        }
    }

    /// For requests that are answered with `Done`; what a person should read comes back.
    pub async fn tell(&self, request: Request) -> Result<Vec<String>, Failure> {
        match self.ask(request).await? {
            Reply::Done => Ok(Vec::new()),
            Reply::DoneWith(notes) => Ok(notes),
            _ => Err(unexpected()),
        }
    }

    pub async fn list(&self, request: Request) -> Result<Listed, Failure> {
        match self.ask(request).await? {
            Reply::Listed(listed) => Ok(*listed),
            _ => Err(unexpected()),
        }
    }

    pub async fn transferred(&self, request: Request) -> Result<Transferred, Failure> {
        match self.ask(request).await? {
            Reply::Transferred(transferred) => Ok(transferred),
            _ => Err(unexpected()),
        }
    }
}

pub(super) fn unexpected() -> Failure {
    Failure::new(FailureClass::Protocol, "the peer answered something else than it was asked")
}
