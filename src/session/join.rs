//! One enrolment over a connection: the node asks once, the authority answers once. [`crate::wire::join`] has the bytes.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use crate::{
    identity::HandshakeError,
    types::{Failure, FailureClass},
    wire::join::{
        JOIN_HEADER_LEN, JoinAnswer, JoinMessage, JoinRequest, decode_answer, decode_header, decode_request,
        encode_answer, encode_request,
    },
};

/// Reads one message. Memory grows with what arrives, not with what is announced.
async fn read(from: &mut (impl AsyncRead + Unpin), kind: JoinMessage) -> io::Result<Vec<u8>> {
    let invalid = |e| io::Error::new(io::ErrorKind::InvalidData, e);
    let mut header = [0; JOIN_HEADER_LEN];
    from.read_exact(&mut header).await?;
    let len = decode_header(&header, kind).map_err(invalid)?;
    let mut body = Vec::new();
    from.take(len as u64).read_to_end(&mut body).await?;
    if body.len() < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(body) }
}

/// Asks, and waits for the answer.
///
/// # Errors
/// `Unreachable` when the connection breaks or nothing comes within `patience`. The token may be spent then.
pub async fn ask(
    connection: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &JoinRequest,
    patience: Duration,
) -> Result<JoinAnswer, Failure> {
    let protocol = |e| Failure::new(FailureClass::Protocol, e);
    let bytes = encode_request(request).map_err(protocol)?;
    let exchange = async {
        connection.write_all(&bytes).await?;
        connection.flush().await?;
        read(connection, JoinMessage::Answer).await
    };
    let body = match timeout(patience, exchange).await {
        Ok(Ok(body)) => body,
        Ok(Err(e)) => {
            return Err(match HandshakeError::from_io(e) {
                HandshakeError::Io(e) => Failure::new(FailureClass::Unreachable, e),
                refused => Failure::new(FailureClass::NotGranted, &refused).hint(refused.hint()),
            });
        }
        Err(_) => {
            return Err(Failure::new(FailureClass::Unreachable, format!("no answer within {} s", patience.as_secs())));
        }
    };
    decode_answer(&body).map_err(protocol)
}

/// Reads what a node asks.
///
/// # Errors
/// When the connection breaks, nothing comes within `patience`, or the request is not one.
pub async fn hear(connection: &mut (impl AsyncRead + Unpin), patience: Duration) -> Result<JoinRequest, Failure> {
    match timeout(patience, read(connection, JoinMessage::Request)).await {
        Ok(Ok(body)) => decode_request(&body).map_err(|e| Failure::new(FailureClass::Protocol, e)),
        Ok(Err(e)) => Err(Failure::new(FailureClass::Protocol, e)),
        Err(_) => Err(Failure::new(FailureClass::Unreachable, format!("no request within {} s", patience.as_secs()))),
    }
}

/// Answers, and ends the connection.
///
/// # Errors
/// When the connection breaks, or the node does not take the answer within `patience`.
pub async fn answer(
    connection: &mut (impl AsyncWrite + Unpin),
    answer: &JoinAnswer,
    patience: Duration,
) -> Result<(), Failure> {
    let bytes = encode_answer(answer).map_err(|e| Failure::new(FailureClass::Protocol, e))?;
    let told = async {
        connection.write_all(&bytes).await?;
        connection.flush().await?;
        connection.shutdown().await
    };
    match timeout(patience, told).await {
        Ok(result) => result.map_err(|e| Failure::new(FailureClass::Unreachable, e)),
        Err(_) => Err(Failure::new(FailureClass::Unreachable, "the node does not take the answer")),
    }
}
