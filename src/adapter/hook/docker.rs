//! Containers, by the Docker Engine's API over its socket: `inspect`, `start` and `stop` of
//! <https://docs.docker.com/reference/api/engine/>. No version in the path: these three have not changed since the first.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Outcome, Trouble, Work};
use crate::{hook::ContainerName, limits::MAX_DOCKER_ANSWER, port::hook::HookErrorKind, types::printable};

/// Between two looks at a container.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// The Engine kills the container when `timeout_s` is over, and then gets so long to say that it is gone.
const ENGINE_GRACE: Duration = Duration::from_secs(5);

/// What did not work with the Engine.
pub struct EngineError {
    pub cause: String,
    pub timed_out: bool,
}

impl EngineError {
    fn new(cause: impl ToString) -> Self {
        Self { cause: cause.to_string(), timed_out: false }
    }

    pub fn trouble(self) -> Trouble {
        let kind = if self.timed_out { HookErrorKind::TimedOut } else { HookErrorKind::Failed };
        Trouble { kind, cause: self.cause, lines: Vec::new() }
    }
}

/// What `inspect` says, so far as it counts here.
#[derive(Debug, Deserialize)]
struct Inspected {
    #[serde(rename = "State")]
    state: ContainerState,
}

/// The state of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerState {
    running: bool,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    restarting: bool,
    #[serde(default)]
    exit_code: i64,
    health: Option<Health>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    status: String,
}

/// The Engine's own words about a failure.
#[derive(Deserialize)]
struct Said {
    message: String,
}

/// The Engine behind one socket.
pub struct Engine<'a> {
    socket: &'a Path,
    until: Instant,
}

impl<'a> Engine<'a> {
    pub fn new(socket: &'a Path, until: Instant) -> Self {
        Self { socket, until }
    }

    pub async fn inspect(&self, container: &ContainerName) -> Result<ContainerState, EngineError> {
        let body = self.ask(Method::GET, container, "json", &[StatusCode::OK]).await?;
        let parsed: Result<Inspected, _> = serde_json::from_slice(&body);
        parsed.map(|it| it.state).map_err(|e| EngineError::new(format!("what Docker says of {container}: {e}")))
    }

    /// 304 means that it was so already.
    async fn change(&self, container: &ContainerName, what: &str) -> Result<(), EngineError> {
        let good = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
        self.ask(Method::POST, container, what, &good).await.map(|_| ())
    }

    async fn ask(
        &self,
        method: Method,
        container: &ContainerName,
        what: &str,
        good: &[StatusCode],
    ) -> Result<Bytes, EngineError> {
        let socket = self.socket.display();
        let asked = format!("/containers/{container}/{what}");
        match timeout_at(self.until, self.exchange(method, &asked)).await {
            Err(_) => Err(EngineError { cause: format!("Docker at {socket} gave no answer in time"), timed_out: true }),
            Ok(Err(why)) => Err(EngineError::new(format!("Docker at {socket}: {why}"))),
            Ok(Ok((status, body))) if good.contains(&status) => Ok(body),
            Ok(Ok((status, body))) => {
                let said: Result<Said, _> = serde_json::from_slice(&body);
                let said = said.map_or_else(|_| status.to_string(), |said| said.message);
                Err(EngineError::new(format!("Docker at {socket}: {}", printable(&said))))
            }
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = UnixStream::connect(self.socket).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The connection is this exchange's alone.
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = Request::builder().method(method).uri(path).header(header::HOST, "docker");
        let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_DOCKER_ANSWER).collect().await?.to_bytes();
        Ok((status, body))
    }
}

impl Work<'_> {
    pub(super) async fn stop_container(&self, container: &ContainerName, socket: &Path) -> Outcome {
        let engine = Engine::new(socket, self.until + ENGINE_GRACE);
        let seconds = self.hook.timeout.as_secs().max(1);
        engine.change(container, &format!("stop?t={seconds}")).await.map_err(EngineError::trouble)?;
        let state = engine.inspect(container).await.map_err(EngineError::trouble)?;
        if state.running || state.restarting {
            return Err(Trouble::failed(format!("container {container} runs again after it was stopped")));
        }
        Ok(vec![format!("container {container} ended with exit code {}", state.exit_code)])
    }

    pub(super) async fn start_container(&self, container: &ContainerName, socket: &Path) -> Outcome {
        let engine = Engine::new(socket, self.until);
        engine.change(container, "start").await.map_err(EngineError::trouble)?;
        let state = engine.inspect(container).await.map_err(EngineError::trouble)?;
        Self::runs(container, &state).map(|()| Vec::new())
    }

    /// Running, and healthy where its image or its options say how that is found out.
    pub(super) async fn container_is_well(&self, container: &ContainerName, socket: &Path) -> Outcome {
        let engine = Engine::new(socket, self.until);
        let mut last: Option<String> = None;
        let ill = |health: &str| Trouble::timed_out(format!("container {container} is {health:?}, not healthy"));
        loop {
            let state = match (engine.inspect(container).await, &last) {
                (Ok(state), _) => state,
                // The time ran out while it was asked again: what it said before is the reason.
                (Err(e), Some(health)) if e.timed_out => return Err(ill(health)),
                (Err(e), _) => return Err(e.trouble()),
            };
            Self::runs(container, &state)?;
            let health = state.health.map(|health| printable(&health.status));
            match health.as_deref() {
                None | Some("" | "none" | "healthy") => return Ok(Vec::new()),
                Some(health) if Instant::now() + ASK_EVERY >= self.until => return Err(ill(health)),
                Some(_) => sleep(ASK_EVERY).await,
            }
            last = health;
        }
    }

    fn runs(container: &ContainerName, state: &ContainerState) -> Result<(), Trouble> {
        if state.paused {
            return Err(Trouble::failed(format!("container {container} is paused; docker unpause {container}")));
        }
        if !state.running || state.restarting {
            let code = state.exit_code;
            let cause =
                format!("container {container} does not stay up (exit code {code}); see docker logs {container}");
            return Err(Trouble::failed(cause));
        }
        Ok(())
    }
}
