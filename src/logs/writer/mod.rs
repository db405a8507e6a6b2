//! The writer of one container's log: batches of records, and an account of what a full disk cost.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    file::{self, Cut},
    line::{CONTENT_BYTES_MAX, Content, Line, Stream, Tag},
    stamp::{STAMP_BYTES, Stamp},
};
use crate::failpoint;

/// Most bytes of records in one `write`. As large as what a pipe holds: larger saves no system call, and
/// this much memory is paid once per container that logs much.
pub(super) const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Time, space, stream, space, tag, space. Both streams' names are of one length.
const HEADER_BYTES: usize = STAMP_BYTES + 10;
const STREAM_AT: usize = STAMP_BYTES + 1;
const TAG_AT: usize = STAMP_BYTES + 8;

const _: () = assert!(HEADER_BYTES + CONTENT_BYTES_MAX < BATCH_BYTES_MAX);

type Header = [u8; HEADER_BYTES];

/// One container's log file.
///
/// Writing never fails for the caller. While it does fail (a full disk), lines are dropped whole and
/// counted; when it works again a record on stderr says how many of which stream were lost, and why.
#[derive(Debug)]
pub struct CriLog {
    directory: PathBuf,
    /// Relative to the directory.
    file: PathBuf,
    stamp: Stamp,
    lines: [Line; 2],
    sink: Sink,
}

impl CriLog {
    /// Opens or makes `file` (0640) beneath `directory`; makes the directories that are missing (0755). A file that is
    /// there is appended to. Symbolic links are followed in `directory` only.
    ///
    /// # Errors
    /// What the kernel says, and `InvalidInput` for anything but a regular file of one name, and for a symbolic link
    /// in any part of `file`.
    pub fn open(directory: &Path, file: &Path) -> io::Result<Self> {
        file::make_parents(directory, file)?;
        let (opened, torn) = file::open(directory, file)?;
        failpoint!("logs.opened");
        let sink = Sink {
            file: opened,
            torn,
            batch: Vec::new(),
            failing: false,
            cause: None,
            accounts: Default::default(),
        };
        let (stamp, lines) = (Stamp::new(), Default::default());
        Ok(Self { directory: directory.into(), file: file.into(), stamp, lines, sink })
    }

    /// Takes bytes as they came from the container, and writes the records that they complete, as many
    /// as fit in one `write`. What follows the last newline is held.
    pub fn append(&mut self, stream: Stream, bytes: &[u8], now: SystemTime) {
        let stamp = self.stamp.at(now);
        self.sink.settle(stamp);
        let headers = Headers::new(stamp, stream);
        let (line, sink) = (&mut self.lines[stream as usize], &mut self.sink);
        line.feed(bytes, |tag, content| sink.record(stream, &headers, tag, content));
        sink.flush();
    }

    /// The stream has ended: what is left without a newline goes out as a partial record.
    pub fn finish(&mut self, stream: Stream, now: SystemTime) {
        let stamp = self.stamp.at(now);
        self.sink.settle(stamp);
        let headers = Headers::new(stamp, stream);
        let (line, sink) = (&mut self.lines[stream as usize], &mut self.sink);
        line.finish(|tag, content| sink.record(stream, &headers, tag, content));
        sink.flush();
        sink.end(stream);
        sink.settle(stamp);
    }

    /// After the kubelet has renamed the file: goes on in a new one at the same path. All records so far
    /// are whole in the old file, so the switch falls between two.
    ///
    /// # Errors
    /// As [`CriLog::open`], except that folders are not made. The old file then stays in use.
    pub fn reopen(&mut self) -> io::Result<()> {
        let (file, torn) = file::open(&self.directory, &self.file)?;
        failpoint!("logs.reopened");
        self.sink.file = file;
        self.sink.torn = torn;
        Ok(())
    }

    /// Lines of `stream` that did not get into the file, or not whole, since it was opened.
    pub fn lost(&self, stream: Stream) -> u64 {
        self.sink.accounts[stream as usize].lost_ever
    }
}

/// The headers of one stream's records at one moment.
struct Headers {
    full: Header,
    partial: Header,
}

impl Headers {
    fn new(stamp: &[u8; STAMP_BYTES], stream: Stream) -> Self {
        Self { full: header(stamp, stream, b'F'), partial: header(stamp, stream, b'P') }
    }
}

fn header(stamp: &[u8; STAMP_BYTES], stream: Stream, tag: u8) -> Header {
    let mut header = [b' '; HEADER_BYTES];
    header[..STAMP_BYTES].copy_from_slice(stamp);
    header[STREAM_AT..TAG_AT - 1].copy_from_slice(stream.as_str().as_bytes());
    header[TAG_AT] = tag;
    header
}

/// The file, the records on their way to it, and what was lost on the way.
#[derive(Debug)]
struct Sink {
    file: File,
    /// The file ends within a record that could not be taken back.
    torn: bool,
    /// Whole records.
    batch: Vec<u8>,
    /// The last write failed; the next thing to write is what [`Sink::settle`] has to say.
    failing: bool,
    /// Why a write failed, last time.
    cause: Option<io::Error>,
    accounts: [Account; 2],
}

/// One stream's standing.
#[derive(Debug, Default)]
struct Account {
    /// Lines lost and not yet reported.
    lost: u64,
    lost_ever: u64,
    /// A record of the line at hand was lost; the rest of it must not look like a line of its own.
    losing: bool,
    /// The last record in the file is partial: readers wait for the rest of that line.
    open: bool,
    /// Likewise, counting the records in the batch.
    open_after_batch: bool,
}

impl Account {
    fn lose(&mut self, tag: Tag) {
        self.losing = tag == Tag::Partial;
        if tag == Tag::Full {
            self.lost += 1;
            self.lost_ever += 1;
        }
    }

    /// A line of which readers have seen a part, and will not see the rest.
    fn severed(&self) -> bool {
        self.open && (self.lost > 0 || self.losing)
    }
}

impl Sink {
    fn record(&mut self, stream: Stream, headers: &Headers, tag: Tag, (head, tail): Content<'_>) {
        if self.batch.len() + HEADER_BYTES + head.len() + tail.len() + 1 > BATCH_BYTES_MAX {
            self.flush();
        }
        let account = &mut self.accounts[stream as usize];
        if account.losing || self.failing {
            return account.lose(tag);
        }
        account.open_after_batch = tag == Tag::Partial;
        self.batch.extend_from_slice(match tag {
            Tag::Full => &headers.full,
            Tag::Partial => &headers.partial,
        });
        self.batch.extend_from_slice(head);
        self.batch.extend_from_slice(tail);
        self.batch.push(b'\n');
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        match file::append(&self.file, &self.batch) {
            Ok(()) => {
                failpoint!("logs.appended");
                for account in &mut self.accounts {
                    account.open = account.open_after_batch;
                }
            }
            Err(cut) => self.mourn(cut),
        }
        self.batch.clear();
    }

    /// Counts the records of the batch that are not in the file.
    fn mourn(&mut self, cut: Cut) {
        for (at, record) in records(&self.batch) {
            let stream =
                if record[STREAM_AT..].starts_with(b"stdout") { Stream::Stdout } else { Stream::Stderr };
            let tag = if record[TAG_AT] == b'F' { Tag::Full } else { Tag::Partial };
            let account = &mut self.accounts[stream as usize];
            if at < cut.whole {
                account.open = tag == Tag::Partial;
            } else {
                account.lose(tag);
            }
        }
        for account in &mut self.accounts {
            account.open_after_batch = account.open;
        }
        self.torn = cut.torn;
        self.failing = true;
        self.cause = Some(cut.error);
    }

    /// A line that the end of its stream cut short counts as one.
    fn end(&mut self, stream: Stream) {
        let account = &mut self.accounts[stream as usize];
        if account.losing {
            account.lose(Tag::Full);
        }
    }

    /// If something was lost: tries whether writing works again, ends what lies open, and says so.
    fn settle(&mut self, stamp: &[u8; STAMP_BYTES]) {
        let lost = |account: &Account| account.lost > 0 || account.severed();
        if !self.torn && !self.failing && !self.accounts.iter().any(lost) {
            return;
        }
        self.tell(stamp);
        let result = file::append(&self.file, &self.batch);
        self.batch.clear();
        match result {
            Ok(()) => {
                failpoint!("logs.settled");
                self.torn = false;
                self.failing = false;
                for account in &mut self.accounts {
                    let open = account.open && !account.severed();
                    *account = Account { lost: 0, open, open_after_batch: open, ..*account };
                }
            }
            // All of it or nothing, since all of it comes again at the next try.
            Err(cut) => {
                let gone = !cut.torn && file::take_back(&self.file, cut.whole as u64).is_ok();
                self.torn = cut.torn || (self.torn && gone);
                self.failing = true;
                self.cause = Some(cut.error);
            }
        }
    }

    /// Puts into the (empty) batch what [`Sink::settle`] has to write.
    fn tell(&mut self, stamp: &[u8; STAMP_BYTES]) {
        if self.torn {
            self.batch.push(b'\n');
        }
        for stream in Stream::ALL {
            if self.accounts[stream as usize].severed() {
                self.batch.extend_from_slice(&header(stamp, stream, b'F'));
                self.batch.push(b'\n');
            }
        }
        for stream in Stream::ALL {
            let lost = self.accounts[stream as usize].lost;
            if lost > 0 {
                self.batch.extend_from_slice(&header(stamp, Stream::Stderr, b'F'));
                let cause = self.cause.as_ref().map_or_else(|| "write error".into(), ToString::to_string);
                let lines = if lost == 1 { "line" } else { "lines" };
                // Writing to a Vec cannot fail.
                let _written = writeln!(self.batch, "pintle: {lost} {lines} of {stream} lost: {cause}");
            }
        }
    }
}

/// The records of a batch, each with the offset at which it begins.
fn records(batch: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    batch.split_inclusive(|byte| *byte == b'\n').map(move |record| {
        let begin = at;
        at += record.len();
        (begin, record)
    })
}

#[cfg(test)]
mod tests;
