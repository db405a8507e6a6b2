//! The last words of a supervisor: its log lines of a time without a daemon, and the reason of a panic, in the pod's
//! folder. The next daemon logs them and removes the file.
//!
//! One line of text for each: the moment, the level, the container or `-`, the words.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use jiff::Timestamp;

use super::wire::{self, v1};

/// Bytes of the file at most: the first lines say what went wrong.
const BYTES_MAX: u64 = 16 * 1024;
const NAME: &str = "last-words";
/// In the place of a container's id: the line is about the pod.
const NO_CONTAINER: &str = "-";

/// The file of this process, a supervisor or one that it forked.
static FILE: OnceLock<PathBuf> = OnceLock::new();

/// From now on lines, and the reason of a panic, may be kept in the pod's folder `dir`.
pub(super) fn keep_in(dir: &Path) {
    if FILE.set(dir.join(NAME)).is_err() {
        return;
    }
    std::panic::set_hook(Box::new(|panic| {
        // The process ends; nobody else is left to hear of a file that cannot be written.
        let _written: io::Result<()> = write(&wire::log_line(v1::Level::Error, None, panic));
    }));
}

/// Adds a line to the file.
///
/// # Errors
/// `NotFound` before there is a pod, `StorageFull` when the file has its [`BYTES_MAX`]; else as open(2) and write(2).
pub(super) fn write(line: &v1::LogLine) -> io::Result<()> {
    add(FILE.get().ok_or(io::ErrorKind::NotFound)?, line)
}

fn add(path: &Path, line: &v1::LogLine) -> io::Result<()> {
    let mut file = File::options().create(true).append(true).mode(0o600).open(path)?;
    let text = to_text(line);
    if file.metadata()?.len() + text.len() as u64 > BYTES_MAX {
        return Err(io::ErrorKind::StorageFull.into());
    }
    file.write_all(text.as_bytes())
}

/// The lines that a supervisor left in its pod's folder, which are taken out of there: one caller gets them.
///
/// # Errors
/// As open(2), read(2) and unlink(2); that there is no file is none.
pub(super) fn take_from(dir: &Path) -> io::Result<Vec<v1::LogLine>> {
    let path = dir.join(NAME);
    let mut bytes = Vec::new();
    let taken = File::open(&path).and_then(|file| {
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        fs::remove_file(&path)
    });
    match taken {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        taken => taken.map(|()| String::from_utf8_lossy(&bytes).lines().map(from_text).collect()),
    }
}

fn to_text(line: &v1::LogLine) -> String {
    let at = Timestamp::from_nanosecond(line.at.into()).unwrap_or(Timestamp::UNIX_EPOCH);
    let container = if line.container_id.is_empty() { NO_CONTAINER } else { &line.container_id };
    // A control character in a file that is read at a terminal is not one any more.
    let words: String = line.text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect();
    format!("{at} {} {container} {words}\n", line.level().as_str_name())
}

/// Of a line that is not whole, the words are the line.
fn from_text(text: &str) -> v1::LogLine {
    let parse = || {
        let mut parts = text.splitn(4, ' ');
        let at = parts.next()?.parse::<Timestamp>().ok()?;
        let level = v1::Level::from_str_name(parts.next()?)?;
        let container = parts.next().filter(|container| *container != NO_CONTAINER).unwrap_or_default();
        let text = parts.next()?;
        let at = i64::try_from(at.as_nanosecond()).ok()?;
        Some(v1::LogLine { level: level.into(), text: text.into(), at, container_id: container.into() })
    };
    parse().unwrap_or_else(|| wire::log_line(v1::Level::Error, None, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ContainerId;

    #[test]
    fn lines_are_kept_and_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        assert_eq!(take_from(dir.path()).unwrap(), []);
        let id = ContainerId::from_bytes([7; 32]);
        let lines = [
            wire::log_line(v1::Level::Warn, Some(&id), "could not: do\tit\nat all"),
            wire::log_line(v1::Level::Error, None, "no more"),
        ];
        for line in &lines {
            add(&path, line).unwrap();
        }
        let mut taken = take_from(dir.path()).unwrap();
        assert_eq!(taken[0].text, "could not: do it at all");
        taken[0].text.clone_from(&lines[0].text);
        assert_eq!(taken, lines);
        assert_eq!(take_from(dir.path()).unwrap(), []);
    }

    #[test]
    fn the_file_has_a_limit_and_what_is_no_line_is_given_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let long = wire::log_line(v1::Level::Warn, None, "x".repeat(5000));
        let full = (0..100).find_map(|_| add(&path, &long).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert!(fs::metadata(&path).unwrap().len() <= BYTES_MAX);
        fs::write(&path, b"\xff half").unwrap();
        let taken = take_from(dir.path()).unwrap();
        let texts: Vec<_> = taken.iter().map(|line| (line.text.as_str(), line.level())).collect();
        assert_eq!(texts, [("\u{fffd} half", v1::Level::Error)]);
    }

    #[test]
    fn nothing_is_kept_before_there_is_a_pod() {
        let line = wire::log_line(v1::Level::Warn, None, "early");
        assert_eq!(write(&line).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
