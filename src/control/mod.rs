//! The door of a running cutover: a Unix socket beside its ledger, through which other commands on this host speak to the
//! process that leads it. One line of JSON in, one out; whoever may open the state directory may use it.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{cutover::effect::Command, driver::cutover::Said};

/// A command or an answer is a line of at most this many bytes.
const MAX_LINE: u64 = 4096;
/// How long either end waits for the other.
const WITHIN: Duration = Duration::from_secs(10);

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
struct Word {
    /// Why the command is declined.
    declined: Option<String>,
}

/// An open door; closed and removed when it is dropped.
pub struct Door {
    path: PathBuf,
    _task: AbortOnDropHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Opens the door at `path`; what is said goes to `said`. Only for who owns the ledger: an old door is removed.
///
/// # Errors
/// When the socket cannot be made.
pub fn open(path: PathBuf, said: mpsc::Sender<Said>) -> io::Result<Door> {
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    let task = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                // One at a time: each is a line, and whoever sends none is cut off.
                Ok((stream, _)) => drop(timeout(WITHIN, serve(stream, &said)).await),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(Door { path, _task: AbortOnDropHandle::new(task) })
}

async fn serve(stream: UnixStream, said: &mpsc::Sender<Said>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(MAX_LINE)).read_line(&mut line).await?;
    let word = match serde_json::from_str::<Command>(&line) {
        Ok(command) => {
            let (tell, told) = oneshot::channel();
            // One that is about to end hears nothing any more, and so nothing is answered.
            if said.send((command, tell)).await.is_err() {
                return Ok(());
            }
            match told.await {
                Ok(result) => Word { declined: result.err() },
                Err(_) => return Ok(()),
            }
        }
        Err(e) => Word { declined: Some(format!("not a command: {e}")) },
    };
    write.write_all(format!("{}\n", serde_json::to_string(&word)?).as_bytes()).await
}

/// Says `command` at the door at `path`; `None` if there is nobody, or nobody any more. The inner error is why it is declined.
///
/// # Errors
/// When whoever is there does not answer.
pub async fn say(path: &Path, command: Command) -> io::Result<Option<Result<(), String>>> {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(e) => return Err(e),
    };
    let exchange = async {
        stream.write_all(format!("{}\n", serde_json::to_string(&command)?).as_bytes()).await?;
        let mut line = String::new();
        BufReader::new((&mut stream).take(MAX_LINE)).read_line(&mut line).await?;
        if line.is_empty() {
            return Ok(None);
        }
        let word: Word = serde_json::from_str(&line)?;
        Ok(Some(word.declined.map_or(Ok(()), Err)))
    };
    timeout(WITHIN, exchange)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("no answer from the process that leads it")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_said_at_the_door_is_heard_and_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sock");
        assert!(say(&path, Command::Go).await.unwrap().is_none());
        let (said, mut heard) = mpsc::channel(1);
        let door = open(path.clone(), said).unwrap();
        let leader = tokio::spawn(async move {
            for answer in [Ok(()), Err("not now".to_owned())] {
                let (command, tell) = heard.recv().await.unwrap();
                assert_eq!(command, Command::Abort);
                tell.send(answer).unwrap();
            }
        });
        assert_eq!(say(&path, Command::Abort).await.unwrap(), Some(Ok(())));
        assert_eq!(say(&path, Command::Abort).await.unwrap(), Some(Err("not now".to_owned())));
        leader.await.unwrap();
        assert_eq!(say(&path, Command::Go).await.unwrap(), None, "the leader has ended");
        drop(door);
        assert!(!path.exists());
    }
}
