//! Serves nodes that join, where this host has the authority's directory.
//!
//! ```text
//! TLS hello asks for zmigrate-join/1 ── a token has time left? ── no  → refused like any client without a certificate
//!                                                              └─ yes → one request, one answer, the end
//! ```
//!
//! Invariant: a connection that comes here reaches nothing else. It is bounded in time, in number and in bytes, and what
//! it asks for is decided by [`Ca::enrol`] alone.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::timeout};

use crate::{
    host,
    identity::{
        IdentityError, JoinToken, TokenId, TokenSecret, When,
        ca::{Ca, EnrolClaim, EnrolDirs, EnrolRefusal, Enrolled},
        join::enrol_server_config,
    },
    limits::{HANDSHAKE_TIMEOUT, JOIN_TIMEOUT, MAX_JOINS_AT_A_TIME},
    port::link::Connection,
    session::join::{answer, hear},
    types::{Failure, FailureClass},
    wire::join::{JoinAnswer, JoinRefusal, JoinRequest},
};

/// How long a certificate for answering is used; it is valid for an hour.
const SERVER_KEPT: Duration = Duration::from_secs(600);

/// The authority of this host, as nodes that join meet it.
pub struct Enrolment {
    dirs: EnrolDirs,
    places: Semaphore,
    server: Mutex<Option<(Instant, Arc<ServerConfig>)>>,
}

impl Enrolment {
    /// Over the directories of the CA, and of this host's identity.
    pub fn new(dirs: EnrolDirs) -> Arc<Enrolment> {
        Arc::new(Enrolment { dirs, places: Semaphore::new(MAX_JOINS_AT_A_TIME), server: Mutex::default() })
    }

    /// The directories.
    pub fn dirs(&self) -> &EnrolDirs {
        &self.dirs
    }

    /// How to shake hands with a node that joins; `None` while no token has time left.
    pub async fn config(self: &Arc<Self>) -> Option<Arc<ServerConfig>> {
        let this = Arc::clone(self);
        match blocking(move || this.config_now()).await {
            Ok(config) => config,
            Err(e) => {
                tracing::error!("nodes cannot join: {e}");
                None
            }
        }
    }

    fn config_now(&self) -> Result<Option<Arc<ServerConfig>>, IdentityError> {
        let now = When::now();
        if !Ca::expects_joins(&self.dirs.ca, now)? {
            return Ok(None);
        }
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, config)) = &*server
            && made.elapsed() < SERVER_KEPT
        {
            return Ok(Some(Arc::clone(config)));
        }
        let config = Arc::new(enrol_server_config(Ca::enrol_server(&self.dirs.ca, now)?)?);
        *server = Some((Instant::now(), Arc::clone(&config)));
        Ok(Some(config))
    }

    /// Serves one connection to its end, and logs what came of it.
    pub async fn serve(&self, mut connection: Box<dyn Connection>, from: SocketAddr) -> Option<Enrolled> {
        let Ok(_place) = self.places.try_acquire() else {
            tracing::warn!(%from, "a node that joins is refused: {MAX_JOINS_AT_A_TIME} are joining already");
            let busy = refused(JoinRefusal::Busy, "too many nodes are joining at the moment; try again");
            let _ = answer(&mut connection, &busy, JOIN_TIMEOUT).await;
            return None;
        };
        let request = match hear(&mut connection, JOIN_TIMEOUT).await {
            Ok(request) => request,
            Err(failure) => {
                tracing::warn!(%from, "a node that joins asked nothing: {failure}");
                let malformed = refused(JoinRefusal::Malformed, "the request cannot be read");
                let _ = answer(&mut connection, &malformed, Duration::from_secs(1)).await;
                return None;
            }
        };
        // For the log: it has not proved anything yet.
        let asked: String = request.name.chars().filter(|c| !c.is_control()).take(64).collect();
        let (reply, enrolled) = match self.decide(request).await {
            Ok(enrolled) => {
                let Enrolled { name, serial, valid_until, .. } = &enrolled;
                tracing::info!(%from, %name, %serial, %valid_until, "a node joined: its token is spent, its certificate issued");
                let issued = JoinAnswer::Issued {
                    cert_pem: enrolled.cert_pem.clone(),
                    ca_pem: enrolled.ca_pem.clone(),
                    crl_pem: enrolled.crl_pem.clone(),
                };
                (issued, Some(enrolled))
            }
            Err(refusal) => {
                tracing::warn!(%from, name = asked, "a node that joins is refused: {refusal}");
                // What is wrong with the authority's own files is nobody else's business.
                let text = match &refusal {
                    EnrolRefusal::Authority(_) => "the authority failed; its log says why".to_owned(),
                    refusal => refusal.to_string(),
                };
                (refused(code(&refusal), &text), None)
            }
        };
        if let Err(failure) = answer(&mut connection, &reply, JOIN_TIMEOUT).await {
            tracing::warn!(%from, name = asked, "the answer may not have reached the node that joins: {failure}");
        }
        enrolled
    }

    async fn decide(&self, request: JoinRequest) -> Result<Enrolled, EnrolRefusal> {
        let name = request.name.parse().map_err(|e| EnrolRefusal::BadRequest(format!("{e}")))?;
        let claim = EnrolClaim { id: TokenId(request.id), secret: TokenSecret(request.secret), name, csr: request.csr };
        let dirs = self.dirs.clone();
        blocking(move || Ca::enrol(&dirs.ca, &claim, dirs.beside.as_deref(), When::now())).await
    }
}

/// The authority's directory is files and a lock that may be waited for: not for the threads of the runtime.
async fn blocking<T: Send + 'static, E: From<IdentityError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(IdentityError::Crypto { doing: "work on the authority", why: e.to_string() }.into()),
    }
}

fn refused(code: JoinRefusal, text: &str) -> JoinAnswer {
    JoinAnswer::Refused { code: code as u16, text: text.to_owned() }
}

fn code(refusal: &EnrolRefusal) -> JoinRefusal {
    match refusal {
        EnrolRefusal::Unknown => JoinRefusal::UnknownToken,
        EnrolRefusal::WrongSecret => JoinRefusal::WrongSecret,
        EnrolRefusal::TooManyWrong | EnrolRefusal::Used(_) | EnrolRefusal::Replaced => JoinRefusal::Spent,
        EnrolRefusal::Expired(_) => JoinRefusal::Expired,
        EnrolRefusal::WrongName(_) => JoinRefusal::WrongName,
        EnrolRefusal::BadRequest(_) => JoinRefusal::Malformed,
        EnrolRefusal::NameTaken { .. } => JoinRefusal::NameTaken,
        EnrolRefusal::Authority(_) => JoinRefusal::Failed,
    }
}

/// Listens for one enrolment: for an authority on a host without `zmigrated`.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let failed = |e| Failure::new(FailureClass::Usage, format!("cannot listen on {address}: {e}"));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Answers nodes that join until `token` is used or can no longer be.
///
/// # Errors
/// When it ended unused.
pub async fn serve_until_used(listener: TcpListener, dirs: EnrolDirs, token: &JoinToken) -> Result<Enrolled, Failure> {
    let enrolment = Enrolment::new(dirs);
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                // More than may join at a time are told so; far more are not even listened to.
                Ok((stream, from)) if open.len() < 4 * MAX_JOINS_AT_A_TIME => {
                    let enrolment = Arc::clone(&enrolment);
                    open.spawn(async move { serve_one(&enrolment, stream, from).await });
                }
                Ok((_, from)) => tracing::warn!(%from, "too many connections; this one is dropped"),
                Err(e) => {
                    tracing::warn!("cannot accept: {e}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
            Some(served) = open.join_next() => {
                if let Ok(Some(enrolled)) = served && enrolled.name == token.name {
                    return Ok(enrolled);
                }
            }
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
        let (dir, id) = (enrolment.dirs().ca.clone(), token.id);
        let still = blocking::<_, IdentityError>(move || Ca::token_is_open(&dir, id, When::now())).await;
        // One that is being answered right now may be the one.
        if !matches!(still, Ok(true)) && open.is_empty() {
            let text = format!("nobody used the token for {} while it could be used", token.name);
            return Err(Failure::new(FailureClass::NotGranted, text).hint("make a new one"));
        }
    }
}

async fn serve_one(enrolment: &Arc<Enrolment>, stream: tokio::net::TcpStream, from: SocketAddr) -> Option<Enrolled> {
    let shaken = async {
        let config =
            enrolment.config().await.ok_or_else(|| Failure::new(FailureClass::NotGranted, "no token has time left"))?;
        host::accept_joining(config, stream).await
    };
    match timeout(HANDSHAKE_TIMEOUT, shaken).await {
        Ok(Ok(connection)) => enrolment.serve(connection, from).await,
        Ok(Err(failure)) => {
            tracing::warn!(%from, hint = failure.hint, "handshake refused: {failure}");
            None
        }
        Err(_) => {
            tracing::warn!(%from, "no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs());
            None
        }
    }
}
