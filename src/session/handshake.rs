//! The first bytes of a connection, on both sides; [`crate::wire::hello`] has their format.

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use crate::{
    identity::HandshakeError,
    limits::HANDSHAKE_TIMEOUT,
    types::{Failure, FailureClass},
    wire::{
        codec::{self, Use},
        hello::{
            Hello, HelloError, PREFACE_LEN, Preface, Refusal, RefusalCode, Welcome, decode_answer, encode_hello,
            encode_refusal, encode_welcome,
        },
    },
};

/// What the initiator learns: the version and how to go on, or that it must not.
pub type Outcome = Result<(u16, Welcome), Refusal>;

async fn in_time<T>(what: &str, io: impl Future<Output = std::io::Result<T>>) -> Result<T, Failure> {
    let unreachable = |why: String| Failure::new(FailureClass::Unreachable, why).transient();
    match timeout(HANDSHAKE_TIMEOUT, io).await {
        Err(_) => Err(unreachable(format!("{what}: no answer within {} s", HANDSHAKE_TIMEOUT.as_secs()))),
        Ok(Err(e)) => {
            // In TLS 1.3 the other side judges our certificate after our own handshake is done, so its refusal comes here.
            let error = HandshakeError::from_io(e);
            match &error {
                HandshakeError::Io(e) => Err(unreachable(format!("{what}: {e}"))),
                refused => Err(Failure::new(FailureClass::NotGranted, refused).hint(refused.hint())),
            }
        }
        Ok(Ok(value)) => Ok(value),
    }
}

fn protocol(e: HelloError) -> Failure {
    let hint = match &e {
        HelloError::NoCommonVersion { .. } => Some("install a newer zmigrate on the older side"),
        HelloError::NotZmigrate(_) => Some("check that the address is that of a zmigrated"),
        _ => None,
    };
    let failure = Failure::new(FailureClass::Protocol, e);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

async fn read_preface(connection: &mut (impl AsyncRead + Unpin)) -> Result<Preface, Failure> {
    let mut head = [0; PREFACE_LEN];
    in_time("handshake", connection.read_exact(&mut head)).await?;
    Preface::decode(&head).map_err(protocol)
}

async fn read_body(connection: &mut (impl AsyncRead + Unpin), preface: Preface) -> Result<Vec<u8>, Failure> {
    // Bounded by MAX_HELLO, which decoding has checked.
    let mut body = vec![0; preface.body_len as usize];
    in_time("handshake", connection.read_exact(&mut body)).await?;
    Ok(body)
}

/// Says hello and reads the answer.
///
/// # Errors
/// When the connection fails or the other side does not speak the protocol. A refusal is a result, not an error.
pub async fn initiate(
    connection: &mut (impl AsyncRead + AsyncWrite + Unpin),
    hello: &Hello,
) -> Result<Outcome, Failure> {
    let bytes = encode_hello(hello).map_err(protocol)?;
    in_time("handshake", connection.write_all(&bytes)).await?;
    in_time("handshake", connection.flush()).await?;
    let preface = read_preface(connection).await?;
    let body = read_body(connection, preface).await?;
    match decode_answer(preface, &body).map_err(protocol)? {
        Ok(agreed) => Ok(Ok(agreed)),
        Err(refusal) => Ok(Err(refusal)),
    }
}

/// Reads a hello; one that cannot be served is answered with the reason before the error is returned.
///
/// # Errors
/// When the connection fails, no version is in common, or the hello does not decode.
pub async fn accept(connection: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(u16, Hello), Failure> {
    let preface = read_preface(connection).await?;
    let version = match preface.common_version() {
        Ok(version) => version,
        Err(e) => {
            let (oldest, newest) = (crate::wire::hello::VERSIONS.start(), crate::wire::hello::VERSIONS.end());
            let text = format!(
                "this side speaks versions {oldest} to {newest} of the protocol, not {} to {}",
                preface.a, preface.b
            );
            refuse(connection, RefusalCode::Version, &text).await?;
            return Err(protocol(e));
        }
    };
    let body = read_body(connection, preface).await?;
    match codec::decode(&body, Use::Hello) {
        Ok(hello) => Ok((version, hello)),
        Err(e) => {
            refuse(connection, RefusalCode::Malformed, &e.to_string()).await?;
            Err(protocol(e.into()))
        }
    }
}

/// Answers a hello with yes.
///
/// # Errors
/// When the connection fails.
pub async fn welcome(
    connection: &mut (impl AsyncWrite + Unpin),
    version: u16,
    welcome: &Welcome,
) -> Result<(), Failure> {
    let bytes = encode_welcome(version, welcome).map_err(protocol)?;
    in_time("handshake", connection.write_all(&bytes)).await?;
    in_time("handshake", connection.flush()).await
}

/// Answers a hello with no, and why.
///
/// # Errors
/// When the connection fails.
pub async fn refuse(connection: &mut (impl AsyncWrite + Unpin), code: RefusalCode, text: &str) -> Result<(), Failure> {
    in_time("handshake", connection.write_all(&encode_refusal(code, text))).await?;
    in_time("handshake", connection.flush()).await?;
    in_time("handshake", connection.shutdown()).await
}

/// The failure that a refusal means for the run.
pub fn refused(peer: &str, refusal: Refusal) -> Failure {
    let (class, hint, transient) = match refusal.code {
        Some(RefusalCode::Version) => {
            (FailureClass::Protocol, Some("install a newer zmigrate on the older side"), false)
        }
        Some(RefusalCode::UnknownSession | RefusalCode::UnknownChannel) => (FailureClass::SessionLost, None, false),
        Some(RefusalCode::Superseded) => (FailureClass::Locked, None, false),
        Some(RefusalCode::Busy) => (FailureClass::Unreachable, Some("raise [limits] at the peer, or try later"), true),
        Some(RefusalCode::Draining) => (FailureClass::Unreachable, None, true),
        Some(RefusalCode::NotGranted) => {
            (FailureClass::NotGranted, Some("add a [grant] for this identity at the peer"), false)
        }
        Some(RefusalCode::Malformed) | None => (FailureClass::Protocol, None, false),
    };
    let mut failure = Failure::new(class, format!("{peer} refused the connection: {refusal}"));
    failure.hint = hint.map(str::to_owned);
    failure.transient = transient;
    failure
}
