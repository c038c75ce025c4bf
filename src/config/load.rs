//! The thin part that touches files.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{Config, ConfigError, Problem, Source};

/// The longest file that is read: 10 000 grants of 100 bytes fit.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most files that are read from `conf.d`.
pub const MAX_FILES: usize = 1_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Main {
    MustExist,
    MayBeMissing,
}

pub(super) fn load(path: &Path, main: Main) -> Result<Config, ConfigError> {
    let mut texts: Vec<(PathBuf, String)> = Vec::new();
    match read(path) {
        Ok(text) => texts.push((path.to_owned(), text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound && main == Main::MayBeMissing => {}
        Err(e) => return Err(unreadable(path, &e)),
    }
    let beside = path.parent().unwrap_or(Path::new("")).join("conf.d");
    for path in drop_ins(&beside).map_err(|e| unreadable(&beside, &e))? {
        let text = read(&path).map_err(|e| unreadable(&path, &e))?;
        texts.push((path, text));
    }
    let names: Vec<String> = texts.iter().map(|(path, _)| path.display().to_string()).collect();
    let sources: Vec<Source<'_>> = texts.iter().zip(&names).map(|((_, text), name)| Source { name, text }).collect();
    let mut config = Config::parse_all(&sources)?;
    config.files = texts.into_iter().map(|(path, _)| path).collect();
    Ok(config)
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => Some("check the path given with --config".to_owned()),
        io::ErrorKind::PermissionDenied => Some("run as a user that may read it".to_owned()),
        _ => None,
    };
    Problem { at: path.display().to_string(), message: format!("cannot be read: {error}"), hint }.into()
}

/// `*.toml` in `dir`, by name. Hidden files are left alone: editors write them.
fn drop_ins(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".toml") && !name.starts_with('.') {
            paths.push(entry.path());
        }
        if paths.len() > MAX_FILES {
            return Err(io::Error::other(format!("holds more than {MAX_FILES} files")));
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it is longer than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}
