//! The daemon. See `zmigrated --help`.

fn main() -> std::process::ExitCode {
    zmigrate::cli::zmigrated()
}
