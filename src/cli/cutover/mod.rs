//! `zmigrate cutover`.

mod broken;
mod lead;
mod result;
mod show;
mod start;

#[cfg(test)]
pub(super) use self::{
    broken::sample as here_sample,
    lead::samples as lead_samples,
    result::{NEEDS_PERSON, ROLLED_BACK, readme_samples, sample as result_sample},
    show::sample as status_sample,
};
use crate::{
    cli::{args::Global, cutover_args::CutoverCommand, output::Output},
    cutover::{effect::Command, leg::CutoverId},
    types::{Failure, FailureClass},
};

pub fn run(global: &Global, command: CutoverCommand, output: &Output) -> Result<u8, Failure> {
    match command {
        CutoverCommand::Start(args) => start::run(global, &args, output),
        CutoverCommand::Go(args) => lead::say(global, args.id, Command::Go, output),
        CutoverCommand::Abort { id, here: true } => broken::abort(global, id.id, output),
        CutoverCommand::Abort { id, here: false } => lead::say(global, id.id, Command::Abort, output),
        CutoverCommand::Back(args) => lead::say(global, args.id, Command::Back { id: new_id()? }, output),
        CutoverCommand::Complete(args) => lead::say(global, args.id, Command::Complete, output),
        CutoverCommand::Break { id, here, .. } => broken::break_fence(global, id.id, here, output),
        CutoverCommand::Resume { id } => lead::resume(global, id, output),
        CutoverCommand::Status { id, watch } => show::run(global, id, watch, output),
    }
}

/// An id that no cutover ever had.
fn new_id() -> Result<CutoverId, Failure> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Failure::new(FailureClass::Internal, format!("no randomness: {e}")))?;
    // Short enough to be typed, and one in four thousand million.
    Ok(CutoverId(u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))))
}
