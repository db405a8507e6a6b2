//! Small files of a cgroup: written with one write(2), read whole, errors that name them.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use super::{Error, error};

/// Most that is read of one file; bytes. The longest one is `memory.stat`, some 2 KiB.
pub(super) const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Writes `value`, never making the file: what is absent here is a controller that is absent.
pub(super) fn write(path: &Path, value: &str) -> Result<(), Error> {
    put(path, value).map_err(|source| Error::Write { path: path.into(), value: value.into(), source })
}

fn put(path: &Path, value: &str) -> io::Result<()> {
    // A write of no bytes does not reach the kernel: "nothing" is an empty line.
    let value = if value.is_empty() { "\n" } else { value };
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// Reads a file whole, without the newline at its end.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    File::open(path).and_then(take).map_err(error::file("read", path))
}

/// Reads what an open file still has.
pub(super) fn take(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

/// The number after `key` in a file of `key number` lines (`memory.events`, `cgroup.events`).
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_whole_and_not_as_the_start_of_another() {
        let events = "oom 4\noom_kill 3\noom_group_kill 1\n";
        assert_eq!(keyed(events, "oom"), Some(4));
        assert_eq!(keyed(events, "oom_kill"), Some(3));
        assert_eq!(keyed(events, "oom_group_kill"), Some(1));
        assert_eq!(keyed(events, "kill"), None);
        assert_eq!(keyed("oom_kill x", "oom_kill"), None);
    }

    #[test]
    fn a_file_that_is_absent_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cpu.weight");
        let error = write(&path, "100").unwrap_err();
        assert_eq!(error.to_string(), format!("write \"100\" to {}", path.display()));
        assert!(!path.exists());
    }
}
