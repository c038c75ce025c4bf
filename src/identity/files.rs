//! Reading with a bound, and writing so that a crash leaves the old file or the new one, never a part.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::Path,
};

use super::IdentityError;

/// Certificates and keys: thousands of CA certificates would fit.
pub(super) const MAX_PEM_BYTES: u64 = 1 << 20;
/// A CRL: some 300 000 revocations of 50 bytes.
pub(super) const MAX_CRL_BYTES: u64 = 16 << 20;

fn io_error<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> IdentityError + 'a {
    move |cause| IdentityError::Io { doing, path: path.to_owned(), cause }
}

/// The whole file, of at most `max` bytes.
pub(super) fn read(path: &Path, max: u64) -> Result<Vec<u8>, IdentityError> {
    let file = File::open(path).map_err(io_error("read", path))?;
    read_open(file, path, max)
}

/// A private key. Its mode is judged on the open file, so that it cannot be exchanged in between.
pub(super) fn read_private(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let file = File::open(path).map_err(io_error("read", path))?;
    let mode = file.metadata().map_err(io_error("read", path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::OpenKey { path: path.to_owned(), mode });
    }
    read_open(file, path, MAX_PEM_BYTES)
}

fn read_open(file: File, path: &Path, max: u64) -> Result<Vec<u8>, IdentityError> {
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() as u64 > max {
        return Err(IdentityError::TooLong { path: path.to_owned(), max });
    }
    Ok(bytes)
}

/// Like [`read`], but `None` for a file that does not exist.
pub(super) fn read_if_there(path: &Path, max: u64) -> Result<Option<Vec<u8>>, IdentityError> {
    match read(path, max) {
        Err(IdentityError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Replaces `path`: temporary file with its final mode, fsync, rename, fsync of the directory.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let attempt = || -> io::Result<()> {
        // tempfile makes it 0600, so a key is never open to others, not for an instant.
        let mut file = tempfile::Builder::new().prefix(".zmigrate-").tempfile_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        File::open(dir)?.sync_all()
    };
    attempt().map_err(io_error("write", path))
}

/// Makes `dir` and what is missing above it, for its owner alone.
pub(super) fn make_dir(dir: &Path) -> Result<(), IdentityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("create", dir))
}

/// Whether anything is at `path`.
pub(super) fn exists(path: &Path) -> Result<bool, IdentityError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(io_error("read", path)(e)),
    }
}

/// The PEM blocks of a text, each as its own text that ends with a newline. What is between blocks is dropped.
pub(super) fn pem_blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines().map(str::trim_end) {
        if line.starts_with("-----BEGIN ") {
            block = Some(String::new());
        }
        if let Some(text) = &mut block {
            text.push_str(line);
            text.push('\n');
        }
        if line.starts_with("-----END ") {
            blocks.extend(block.take());
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_has_its_mode_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        write(&path, b"one", 0o600).unwrap();
        write(&path, b"two", 0o600).unwrap();
        assert_eq!(read_private(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        for mode in [0o640, 0o604, 0o610] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read_private(&path).expect_err("others may read it");
            assert!(matches!(error, IdentityError::OpenKey { mode: m, .. } if m == mode), "{error}");
            assert!(error.hint().unwrap().starts_with("chmod 600 "));
        }
    }

    #[test]
    fn what_is_too_long_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, [0; 11]).unwrap();
        assert!(matches!(read(&path, 10), Err(IdentityError::TooLong { max: 10, .. })));
        assert_eq!(read(&path, 11).unwrap().len(), 11);
        assert!(read_if_there(&dir.path().join("none"), 10).unwrap().is_none());
    }

    #[test]
    fn blocks_are_cut_at_their_lines() {
        let text = "note\n-----BEGIN A-----\r\nx\n-----END A-----\n\n-----BEGIN B-----\ny\n-----END B-----";
        assert_eq!(
            pem_blocks(text),
            ["-----BEGIN A-----\nx\n-----END A-----\n", "-----BEGIN B-----\ny\n-----END B-----\n"]
        );
    }
}
