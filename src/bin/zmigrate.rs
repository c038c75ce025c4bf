//! The command. See `zmigrate --help`.

fn main() -> std::process::ExitCode {
    zmigrate::cli::zmigrate()
}
