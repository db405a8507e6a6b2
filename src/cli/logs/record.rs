//! One record of a container's log, purely: `<RFC 3339 time> <stdout|stderr> <P|F>[:tag…] <text>`.

use crate::logs::Stream;

/// Bytes of one record, without its newline. One has at most 16 KiB of text behind a time and two words; more is not
/// a container's log.
pub(super) const RECORD_BYTES_MAX: usize = 64 * 1024;

/// A record, as the kubelet's log format has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Record<'a> {
    /// When it was written, in RFC 3339 with nanoseconds; not checked.
    pub(super) time: &'a [u8],
    pub(super) stream: Stream,
    /// The workload's line ends here. Else its next record of the same stream goes on with it.
    pub(super) full: bool,
    pub(super) text: &'a [u8],
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
        (!time.is_empty()).then_some(Self { time, stream, full, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2016-10-06T00:17:09.669794202Z";

    fn parse(rest: &str) -> Option<(Stream, bool, String)> {
        let line = format!("{TIME} {rest}");
        let record = Record::parse(line.as_bytes())?;
        assert_eq!(record.time, TIME.as_bytes());
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
}
