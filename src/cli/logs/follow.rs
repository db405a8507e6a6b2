//! One file of a log, from where it begins to be wanted to its present end.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use super::{lines::Lines, printer::Printer, record::Record};
use crate::logs::Stream;

/// Why the output could not be shown.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Error {
    #[error("read the container's log")]
    Read(#[source] io::Error),
    /// Reading may go on behind it.
    #[error("line {0} of the container's log is not in the kubelet's format")]
    Malformed(u64),
    #[error("write the container's output")]
    Write(#[source] io::Error),
}

/// A file of a log that may grow.
#[derive(Debug)]
pub(in crate::cli) struct Follow<R = File> {
    lines: Lines<R>,
    line: u64,
    /// Where the records of each stream begin that are wanted.
    begins: [u64; 2],
}

impl<R: Read> Follow<R> {
    pub(in crate::cli) fn new(log: R) -> Self {
        Self::from(log, [0; 2])
    }

    /// Without the records of each stream before the offsets in `begins`.
    pub(super) fn from(log: R, begins: [u64; 2]) -> Self {
        Self { lines: Lines::new(log), line: 0, begins }
    }

    pub(super) fn file(&self) -> &R {
        self.lines.get_ref()
    }

    /// The length of what was read.
    pub(super) fn offset(&self) -> u64 {
        self.lines.offset()
    }

    /// Copies all whole records that are there now: the workload's output, to where it was written.
    pub(in crate::cli) fn copy(
        &mut self,
        printer: &mut Printer,
        stdout: &mut impl Write,
        stderr: &mut impl Write,
    ) -> Result<(), Error> {
        let mut last = None;
        let copied = loop {
            let (offset, line) = match self.lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => break Ok(()),
                Err(error) => break Err(Error::Read(error)),
            };
            self.line += 1;
            let Some(record) = Record::parse(line) else { break Err(Error::Malformed(self.line)) };
            if offset < self.begins[record.stream as usize] {
                continue;
            }
            // Both may be one terminal: what is shown is to be in order.
            if last.replace(record.stream).is_some_and(|last| last != record.stream) {
                let before: &mut dyn Write = if record.stream == Stream::Stdout { stderr } else { stdout };
                before.flush().map_err(Error::Write)?;
            }
            printer.print(&record, stdout, stderr).map_err(Error::Write)?;
        };
        stdout.flush().and_then(|()| stderr.flush()).map_err(Error::Write)?;
        copied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2016-10-06T00:17:09.669794202Z";

    /// Gives its chunks one by one, with an end of file between them, as a growing log does.
    struct Chunks(Vec<Vec<u8>>, bool);

    impl Read for Chunks {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if !self.1 || self.0.is_empty() {
                return Ok(0);
            }
            let chunk = self.0.remove(0);
            buffer[..chunk.len()].copy_from_slice(&chunk);
            Ok(chunk.len())
        }
    }

    #[test]
    fn output_comes_back_as_it_was_written_wherever_the_reads_fall() {
        let log =
            format!("{TIME} stdout P a \n{TIME} stderr F oops\n{TIME} stdout F b\n{TIME} stdout P end\n");
        for at in 0..log.len() {
            let chunks = vec![log.as_bytes()[..at].to_vec(), log.as_bytes()[at..].to_vec()];
            let (mut follow, mut printer) = (Follow::new(Chunks(chunks, false)), Printer::default());
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            for _ in 0..4 {
                follow.copy(&mut printer, &mut stdout, &mut stderr).unwrap();
            }
            assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"a b\nend"[..], &b"oops\n"[..]), "{at}");
        }
    }

    #[test]
    fn what_is_no_record_is_named_and_can_be_passed_over() {
        let log = format!("{TIME} stdout F a\nnonsense\n{TIME} stdout F b\n");
        let (mut follow, mut printer) = (Follow::new(log.as_bytes()), Printer::default());
        let mut stdout = Vec::new();
        let error = follow.copy(&mut printer, &mut stdout, &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "line 2 of the container's log is not in the kubelet's format");
        assert_eq!(stdout, b"a\n");
        follow.copy(&mut printer, &mut stdout, &mut Vec::new()).unwrap();
        assert_eq!(stdout, b"a\nb\n");
    }

    #[test]
    fn each_stream_begins_where_it_is_wanted() {
        let log = format!("{TIME} stdout F a\n{TIME} stderr F x\n{TIME} stdout F b\n{TIME} stderr F y\n");
        let line = (log.len() / 4) as u64;
        let mut follow = Follow::from(log.as_bytes(), [2 * line, line]);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        follow.copy(&mut Printer::default(), &mut stdout, &mut stderr).unwrap();
        assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"b\n"[..], &b"x\ny\n"[..]));
    }
}
