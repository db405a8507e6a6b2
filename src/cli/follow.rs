use std::{
    fs::File,
    io::{self, Read, Write},
};

/// A record is at most 16 KiB of text behind a time and two words; more is not a container's log.
const RECORD_BYTES_MAX: usize = 64 * 1024;
const READ_BYTES: usize = 64 * 1024;

/// One record of a container's log: `<RFC 3339 nanos> <stdout|stderr> <P|F>[:tag…] <text>`.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Record<'a> {
    stream: Stream,
    /// The workload's line ends here.
    full: bool,
    text: &'a [u8],
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl<'a> Record<'a> {
    /// Reads one line of the log, without its newline; `None` when it is not a record.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (time, stream, tags) = (parts.next()?, parts.next()?, parts.next()?);
        let stream = match stream {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let full = match tags.split(|byte| *byte == b':').next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        let text = parts.next()?;
        (!time.is_empty()).then_some(Self { stream, full, text })
    }
}

/// Why the output could not be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("read the container's log")]
    Read(#[source] io::Error),
    #[error("line {0} of the container's log is not in the kubelet's format")]
    Malformed(u64),
    #[error("write the container's output")]
    Write(#[source] io::Error),
}

/// A log that grows.
#[derive(Debug)]
pub(super) struct Follow<R = File> {
    log: R,
    /// Read but not yet a whole record.
    rest: Vec<u8>,
    line: u64,
}

impl<R: Read> Follow<R> {
    pub(super) fn new(log: R) -> Self {
        Self { log, rest: Vec::new(), line: 0 }
    }

    /// Copies all whole records that are there now: the workload's output, to where it was written.
    pub(super) fn copy(&mut self, stdout: &mut impl Write, stderr: &mut impl Write) -> Result<(), Error> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = self.log.read(&mut buffer).map_err(Error::Read)?;
            if count == 0 {
                return stdout.flush().and_then(|()| stderr.flush()).map_err(Error::Write);
            }
            self.rest.extend_from_slice(&buffer[..count]);
            let mut begin = 0;
            while let Some(length) = self.rest[begin..].iter().position(|byte| *byte == b'\n') {
                self.line += 1;
                let record = &self.rest[begin..begin + length];
                let record = Record::parse(record).ok_or(Error::Malformed(self.line))?;
                let out: &mut dyn Write = if record.stream == Stream::Stdout { stdout } else { stderr };
                let end: &[u8] = if record.full { b"\n" } else { b"" };
                out.write_all(record.text).and_then(|()| out.write_all(end)).map_err(Error::Write)?;
                begin += length + 1;
            }
            self.rest.drain(..begin);
            if self.rest.len() > RECORD_BYTES_MAX {
                return Err(Error::Malformed(self.line + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2016-10-06T00:17:09.669794202Z";

    fn parse(rest: &str) -> Option<(Stream, bool, String)> {
        let line = format!("{TIME} {rest}");
        let record = Record::parse(line.as_bytes())?;
        Some((record.stream, record.full, String::from_utf8(record.text.into()).unwrap()))
    }

    #[test]
    fn a_record_has_a_stream_an_end_and_text_with_its_spaces() {
        assert_eq!(parse("stdout F  two  spaces "), Some((Stream::Stdout, true, " two  spaces ".into())));
        assert_eq!(parse("stderr P part"), Some((Stream::Stderr, false, "part".into())));
        assert_eq!(parse("stdout F "), Some((Stream::Stdout, true, String::new())));
        assert_eq!(parse("stdout P:later:tags x"), Some((Stream::Stdout, false, "x".into())));
    }

    #[test]
    fn what_is_not_a_record_is_not_guessed_at() {
        for bad in ["", "stdout", "stdout F", "stdin F x", "stdout X x"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!(Record::parse(b" stdout F x"), None);
    }

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
            let mut follow = Follow::new(Chunks(chunks, false));
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            for _ in 0..4 {
                follow.copy(&mut stdout, &mut stderr).unwrap();
            }
            assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"a b\nend"[..], &b"oops\n"[..]), "{at}");
        }
    }

    #[test]
    fn a_log_without_an_end_of_line_is_given_up() {
        let mut follow = Follow::new(io::repeat(b'x'));
        let error = follow.copy(&mut Vec::new(), &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "line 1 of the container's log is not in the kubelet's format");
    }
}
