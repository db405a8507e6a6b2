//! A log being read: its files one after the other, and what comes.

use std::{
    fs::File,
    io::{self, BufWriter},
    path::PathBuf,
    time::SystemTime,
};

use jiff::Timestamp;

use super::{
    Error,
    files::{self, LogFile},
    follow::{Error as FollowError, Follow},
    lines::Backwards,
    printer::Printer,
    record::Record,
    tail::{Place, Tail},
};
use crate::cli::stdio::{StandardOutput, stderr, stdout};

/// Output is written in pieces of this size.
const WRITE_BYTES: usize = 64 * 1024;

/// A log, from the first line that is wanted.
#[derive(Debug)]
pub(super) struct Reading {
    path: PathBuf,
    /// Files that are still to be read, the next one last.
    waiting: Vec<Follow>,
    now: Follow,
    printer: Printer,
    stdout: BufWriter<StandardOutput>,
    stderr: BufWriter<StandardOutput>,
    malformed: u64,
}

impl Reading {
    /// Opens the log at `path` where its last `tail` lines begin, without lines that are older than `since`.
    pub(super) fn begin(
        path: PathBuf,
        tail: Option<u64>,
        since: Option<Timestamp>,
        timestamps: bool,
    ) -> Result<Self, Error> {
        let opened = files::open_all(&path).and_then(|files| match tail {
            Some(lines) => last(files, lines),
            None => all(files, since),
        });
        let mut waiting = match opened {
            Ok(files) => files,
            Err(source) => return Err(Error::Log { path, source }),
        };
        waiting.reverse();
        let Some(now) = waiting.pop() else {
            return Err(Error::Log { path, source: io::ErrorKind::NotFound.into() });
        };
        let printer = Printer::new(timestamps, since);
        let (stdout, stderr) = (
            BufWriter::with_capacity(WRITE_BYTES, stdout()),
            BufWriter::with_capacity(WRITE_BYTES, stderr()),
        );
        Ok(Self { path, waiting, now, printer, stdout, stderr, malformed: 0 })
    }

    /// Copies what is there now; whether there was another file to go on with.
    pub(super) fn copy(&mut self) -> Result<bool, Error> {
        self.copy_file()?;
        let mut gone_on = false;
        loop {
            if self.waiting.is_empty() {
                self.waiting = self.next_files()?;
                // The old file has all its records once there is a new one, and maybe more than a moment ago.
                if !self.waiting.is_empty() {
                    self.copy_file()?;
                }
            }
            let Some(next) = self.waiting.pop() else { return Ok(gone_on) };
            self.now = next;
            self.copy_file()?;
            gone_on = true;
        }
    }

    /// Says what was left out.
    pub(super) fn finish(&self) {
        if self.malformed > 0 {
            let (count, path) = (self.malformed, self.path.display());
            eprintln!("pintle: {count} lines of {path} are not in the kubelet's format and were left out");
        }
    }

    fn copy_file(&mut self) -> Result<(), Error> {
        loop {
            match self.now.copy(&mut self.printer, &mut self.stdout, &mut self.stderr) {
                Err(FollowError::Malformed(_)) => self.malformed += 1,
                copied => return Ok(copied?),
            }
        }
    }

    fn next_files(&self) -> Result<Vec<Follow>, Error> {
        let files = files::open_after(&self.path, self.now.file(), self.now.offset());
        let follows = files.and_then(|files| {
            let texts = files.into_iter().rev().map(LogFile::into_text);
            texts.map(|text| text.map(Follow::new)).collect::<Result<_, _>>()
        });
        follows.map_err(|source| Error::Log { path: self.path.clone(), source })
    }
}

/// All that may have lines since then.
fn all(mut files: Vec<LogFile>, since: Option<Timestamp>) -> io::Result<Vec<Follow>> {
    if let Some(since) = since.map(SystemTime::from) {
        let last = files.len().saturating_sub(1);
        let old = files.iter().take(last).take_while(|file| file.is_older_than(since)).count();
        files.drain(..old);
    }
    files.into_iter().map(|file| file.into_text().map(Follow::new)).collect()
}

/// Those in which the last lines are.
fn last(files: Vec<LogFile>, lines: u64) -> io::Result<Vec<Follow>> {
    let (count, mut tail) = (files.len(), Tail::new(lines));
    let mut texts = Vec::new();
    for (index, file) in files.into_iter().enumerate().rev() {
        let text = file.into_text()?;
        let end = text.metadata()?.len();
        search(&text, index, end, &mut tail)?;
        texts.push((index, text, end));
        if tail.is_found() {
            break;
        }
    }
    let begin_in = |begin: Option<Place>, index: usize, end: u64| match begin {
        Some(begin) if begin.file < index => 0,
        Some(begin) if begin.file == index => begin.offset,
        // Of what is in the last file now; more may come.
        None if index + 1 == count => end,
        _ => u64::MAX,
    };
    let begins = tail.begins();
    let follow = |(index, text, end): (usize, File, u64)| {
        Follow::from(text, begins.map(|begin| begin_in(begin, index, end)))
    };
    Ok(texts.into_iter().rev().map(follow).collect())
}

fn search(text: &File, file: usize, end: u64, tail: &mut Tail) -> io::Result<()> {
    if tail.is_found() {
        return Ok(());
    }
    let mut lines = Backwards::new(text, end)?;
    while let Some((offset, line)) = lines.next()? {
        if let Some(record) = Record::parse(&line) {
            tail.take(Place { file, offset }, &record);
        }
        if tail.is_found() {
            break;
        }
    }
    Ok(())
}
