//! Where the last lines of a log begin, purely: records go in from the last one backwards.

use super::record::Record;
use crate::logs::Stream;

/// Where a record begins: in which of the log's files, oldest first, and at which byte of that.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) offset: u64,
}

/// Looks for the last lines of both streams together. A line is what the workload wrote up to a newline, of however
/// many records, among which may be some of the other stream.
#[derive(Debug)]
pub(super) struct Tail {
    lines_wanted: u64,
    lines: u64,
    streams: [Search; 2],
}

/// How far the search in one stream is.
#[derive(Clone, Copy, Debug, Default)]
struct Search {
    /// The first record that is wanted, as far as is known.
    begin: Option<Place>,
    within: Within,
}

/// Which line the records of a stream belong to that come next, going backwards.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Within {
    /// No record was seen yet.
    #[default]
    Unknown,
    /// The rest of a line that is wanted; or, at a full record, one before it.
    Wanted,
    /// A line that is not wanted, nor are those before it.
    Unwanted,
}

impl Tail {
    pub(super) fn new(lines_wanted: u64) -> Self {
        Self { lines_wanted, lines: 0, streams: Default::default() }
    }

    /// Whether records before those seen can be wanted.
    pub(super) fn is_found(&self) -> bool {
        self.lines >= self.lines_wanted && self.streams.iter().all(|search| search.within != Within::Wanted)
    }

    /// Takes the record before the last one taken.
    pub(super) fn take(&mut self, place: Place, record: &Record<'_>) {
        let search = &mut self.streams[record.stream as usize];
        let ends_a_line = record.full || search.within == Within::Unknown;
        if ends_a_line && search.within != Within::Unwanted {
            let wanted = self.lines < self.lines_wanted;
            self.lines += u64::from(wanted);
            search.within = if wanted { Within::Wanted } else { Within::Unwanted };
        }
        if search.within == Within::Wanted {
            search.begin = Some(place);
        }
    }

    /// The first record of each stream that is wanted; `None` if none is.
    pub(super) fn begins(&self) -> [Option<Place>; 2] {
        [Stream::Stdout, Stream::Stderr].map(|stream| self.streams[stream as usize].begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of a log that are among its last lines, each as its text; `log` has a word for each record:
    /// `o` or `e` for its stream, `+` if its line goes on, and a text.
    fn last(lines: u64, log: &str) -> String {
        let words: Vec<&str> = log.split_whitespace().collect();
        let record = |word: &&str| {
            let (head, text) = word.split_once(':').unwrap();
            let stream = if head.starts_with('o') { Stream::Stdout } else { Stream::Stderr };
            (stream, !head.ends_with('+'), text.to_owned())
        };
        let records: Vec<_> = words.iter().map(record).collect();
        let mut tail = Tail::new(lines);
        for (index, (stream, full, text)) in records.iter().enumerate().rev() {
            if tail.is_found() {
                break;
            }
            let place = Place { file: 0, offset: index as u64 };
            tail.take(place, &Record { time: b"t", stream: *stream, full: *full, text: text.as_bytes() });
        }
        let begins = tail.begins();
        let wanted = records.iter().enumerate().filter(|(index, (stream, ..))| {
            begins[*stream as usize].is_some_and(|begin| begin.offset <= *index as u64)
        });
        wanted.map(|(_, (.., text))| text.clone()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lines_are_counted_not_records() {
        assert_eq!(last(2, "o:a o:b o:c"), "b c");
        assert_eq!(last(2, "o:a o+:b1 o+:b2 o:b3 o:c"), "b1 b2 b3 c");
        assert_eq!(last(1, "o:a o+:b1 o:b2"), "b1 b2");
        assert_eq!(last(9, "o:a e:b"), "a b");
        assert_eq!(last(0, "o:a e:b"), "");
    }

    #[test]
    fn a_line_that_has_not_ended_is_one() {
        assert_eq!(last(1, "o:a o+:prompt"), "prompt");
        assert_eq!(last(2, "o:a o+:b1 o+:b2"), "a b1 b2");
    }

    #[test]
    fn records_of_the_other_stream_do_not_cut_a_line() {
        assert_eq!(last(1, "o:a o+:b1 e:x o:b2"), "b1 b2");
        assert_eq!(last(2, "o:a o+:b1 e:x o:b2"), "b1 x b2");
        assert_eq!(last(1, "e+:x1 o:a e:x2"), "x1 x2");
        assert_eq!(last(2, "e:w e+:x1 o+:a1 e+:x2 o:a2 e:x3"), "x1 a1 x2 a2 x3");
    }
}
