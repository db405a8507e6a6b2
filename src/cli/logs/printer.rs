//! Records back into the output that they were.

use std::io::{self, Write};

use jiff::Timestamp;

use super::record::Record;
use crate::logs::Stream;

/// Writes what a workload wrote, to where it wrote it, perhaps not all of it and with times.
#[derive(Debug, Default)]
pub(in crate::cli) struct Printer {
    /// Each line begins with the time of its first record.
    timestamps: bool,
    /// Lines that began earlier are left out.
    since: Option<Timestamp>,
    lines: [Line; 2],
}

/// How far the last line of a stream is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Line {
    #[default]
    Ended,
    Shown,
    LeftOut,
}

impl Printer {
    pub(super) fn new(timestamps: bool, since: Option<Timestamp>) -> Self {
        Self { timestamps, since, ..Self::default() }
    }

    pub(super) fn print(
        &mut self,
        record: &Record<'_>,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> io::Result<()> {
        let out: &mut dyn Write = if record.stream == Stream::Stdout { stdout } else { stderr };
        let line = &mut self.lines[record.stream as usize];
        if *line == Line::Ended {
            *line = if is_since(record.time, self.since) { Line::Shown } else { Line::LeftOut };
            if self.timestamps && *line == Line::Shown {
                out.write_all(record.time)?;
                out.write_all(b" ")?;
            }
        }
        if *line == Line::Shown {
            out.write_all(record.text)?;
            out.write_all(if record.full { b"\n" } else { b"" })?;
        }
        if record.full {
            *line = Line::Ended;
        }
        Ok(())
    }
}

/// A time that cannot be read hides nothing.
fn is_since(time: &[u8], since: Option<Timestamp>) -> bool {
    let Some(since) = since else { return true };
    let time = str::from_utf8(time).ok().and_then(|time| time.parse::<Timestamp>().ok());
    time.is_none_or(|time| time >= since)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of a log goes to stdout and to stderr.
    fn print(mut printer: Printer, log: &str) -> (String, String) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        for line in log.lines() {
            let record = Record::parse(line.as_bytes()).unwrap();
            printer.print(&record, &mut stdout, &mut stderr).unwrap();
        }
        (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    const LOG: &str = "2026-01-01T00:00:01Z stdout P a\n2026-01-01T00:00:02Z stderr F oops\n\
                       2026-01-01T00:00:03Z stdout F b\n2026-01-01T00:00:04Z stdout P $ ";

    #[test]
    fn a_line_of_several_records_is_one_and_each_stream_is_itself() {
        assert_eq!(print(Printer::default(), LOG), ("ab\n$ ".into(), "oops\n".into()));
    }

    #[test]
    fn a_line_has_one_time() {
        let printed = print(Printer { timestamps: true, ..Printer::default() }, LOG);
        let stdout = "2026-01-01T00:00:01Z ab\n2026-01-01T00:00:04Z $ ";
        assert_eq!(printed, (stdout.into(), "2026-01-01T00:00:02Z oops\n".into()));
    }

    #[test]
    fn a_line_is_left_out_or_shown_as_a_whole() {
        let since = |text: &str| Printer { since: Some(text.parse().unwrap()), ..Printer::default() };
        assert_eq!(print(since("2026-01-01T00:00:01Z"), LOG), ("ab\n$ ".into(), "oops\n".into()));
        assert_eq!(print(since("2026-01-01T00:00:02Z"), LOG), ("$ ".into(), "oops\n".into()));
        assert_eq!(print(since("2026-01-01T00:00:05Z"), LOG), (String::new(), String::new()));
        assert_eq!(print(since("2026-01-01T00:00:05Z"), "noon stdout F x"), ("x\n".into(), String::new()));
    }
}
