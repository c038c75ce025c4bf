//! `zmigrate stream`.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::Path,
};

use super::{args::StreamCommand, output::Output};
use crate::{
    stream::{inspect::Inspector, token::ResumeToken},
    types::{Failure, FailureClass},
};

/// Bytes read at a time.
const BUFFER: usize = 1 << 20;

pub fn run(command: StreamCommand, output: &Output) -> Result<u8, Failure> {
    match command {
        StreamCommand::Inspect { file } => inspect(&file, output),
        StreamCommand::Token { token } => {
            let token = ResumeToken::parse(&token).map_err(|e| {
                Failure::new(FailureClass::BadStream, e).hint("give the whole value of receive_resume_token")
            })?;
            output.result(&token, &token);
            Ok(0)
        }
    }
}

fn inspect(path: &Path, output: &Output) -> Result<u8, Failure> {
    let failed = |e: std::io::Error| Failure::new(FailureClass::Usage, format!("cannot read {}: {e}", path.display()));
    let mut input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(failed)?)
    };
    let mut inspector = Inspector::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                // finish() reports the fault.
                if inspector.feed(&buffer[..n]).is_err() {
                    break;
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
    let inspection = inspector.finish();
    output.verdict(inspection.exit_code(), &inspection, inspection.to_text());
    Ok(inspection.exit_code())
}
