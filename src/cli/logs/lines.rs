//! The lines of a log's file, forwards as it grows and backwards from its end.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
};

use super::record::RECORD_BYTES_MAX;

const READ_BYTES: usize = 64 * 1024;

/// The lines of a file that may grow. One that is longer than any record comes as an empty one.
#[derive(Debug)]
pub(super) struct Lines<R = File> {
    log: R,
    /// Read, and from `begin` on not given out yet.
    buffer: Vec<u8>,
    begin: usize,
    /// Where in the file `buffer[begin]` is.
    offset: u64,
    /// The line that is being read is too long: what there is of it was dropped.
    too_long: bool,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(log: R) -> Self {
        Self { log, buffer: Vec::new(), begin: 0, offset: 0, too_long: false }
    }

    pub(super) fn get_ref(&self) -> &R {
        &self.log
    }

    /// Where the next line will begin.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next whole line, without its newline, and where it begins; `None`: no more is there yet.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        let mut searched = self.begin;
        loop {
            if let Some(length) = memchr::memchr(b'\n', &self.buffer[searched..]) {
                let (begin, end, offset) = (self.begin, searched + length, self.offset);
                self.begin = end + 1;
                self.offset += (self.begin - begin) as u64;
                let line = if std::mem::take(&mut self.too_long) { &[] } else { &self.buffer[begin..end] };
                return Ok(Some((offset, line)));
            }
            self.buffer.drain(..std::mem::take(&mut self.begin));
            if self.buffer.len() > RECORD_BYTES_MAX {
                self.too_long = true;
                self.offset += self.buffer.len() as u64;
                self.buffer.clear();
            }
            searched = self.buffer.len();
            self.buffer.resize(searched + READ_BYTES, 0);
            let count = self.log.read(&mut self.buffer[searched..]);
            self.buffer.truncate(searched + *count.as_ref().unwrap_or(&0));
            if count? == 0 {
                return Ok(None);
            }
        }
    }
}

/// The lines of a file from the last whole one backwards.
#[derive(Debug)]
pub(super) struct Backwards<'f> {
    file: &'f File,
    /// What of the line at whose end the search is, and of those before it, was read.
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    begin: u64,
    /// The file's first line was given out.
    over: bool,
}

impl<'f> Backwards<'f> {
    /// From `end` on; what is there behind the last newline is no line yet.
    pub(super) fn new(file: &'f File, end: u64) -> io::Result<Self> {
        let mut lines = Self { file, buffer: Vec::new(), begin: end, over: false };
        lines.next()?;
        Ok(lines)
    }

    /// The line before, without its newline, and where it begins.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        if self.over {
            return Ok(None);
        }
        let mut too_long = false;
        let (mut searched, mut line_end) = (self.buffer.len(), self.buffer.len());
        loop {
            if let Some(newline) = memchr::memrchr(b'\n', &self.buffer[..searched]) {
                let line = self.buffer[newline + 1..line_end].to_vec();
                self.buffer.truncate(newline);
                let offset = self.begin + newline as u64 + 1;
                return Ok(Some((offset, if too_long { Vec::new() } else { line })));
            }
            if self.begin == 0 {
                self.over = true;
                let line = std::mem::take(&mut self.buffer);
                return Ok(Some((0, if too_long { Vec::new() } else { line })));
            }
            if self.buffer.len() > RECORD_BYTES_MAX {
                too_long = true;
                self.buffer.clear();
            }
            let count = self.begin.min(READ_BYTES as u64);
            self.begin -= count;
            searched = usize::try_from(count).unwrap_or(READ_BYTES);
            self.buffer.splice(..0, std::iter::repeat_n(0, searched));
            self.file.read_exact_at(&mut self.buffer[..searched], self.begin)?;
            line_end = self.buffer.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn forwards(content: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut lines = Lines::new(content);
        std::iter::from_fn(|| lines.next().unwrap().map(|(offset, line)| (offset, line.to_vec()))).collect()
    }

    fn backwards(content: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let file = file(content);
        let mut lines = Backwards::new(&file, content.len() as u64).unwrap();
        let mut found: Vec<_> = std::iter::from_fn(|| lines.next().unwrap()).collect();
        found.reverse();
        found
    }

    #[test]
    fn a_line_begins_where_the_one_before_has_ended() {
        let lines = vec![(0, b"one".to_vec()), (4, Vec::new()), (5, b"two".to_vec())];
        assert_eq!(forwards(b"one\n\ntwo\nrest"), lines);
        assert_eq!(backwards(b"one\n\ntwo\nrest"), lines);
        assert_eq!(backwards(b"one\n\ntwo\n"), lines);
        assert_eq!((forwards(b"rest"), backwards(b"rest"), backwards(b"")), (vec![], vec![], vec![]));
    }

    #[test]
    fn a_line_longer_than_any_record_is_empty_and_costs_no_memory() {
        let long = vec![b'x'; 10 * RECORD_BYTES_MAX];
        let content = [b"one\n", &long[..], b"\ntwo\n"].concat();
        let end = 4 + long.len() as u64 + 1;
        let expected = [(0, b"one".to_vec()), (4, Vec::new()), (end, b"two".to_vec())];
        let (forwards, backwards) = (forwards(&content), backwards(&content));
        let texts = |lines: &[(u64, Vec<u8>)]| lines.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>();
        assert_eq!(texts(&forwards), texts(&expected));
        assert_eq!(backwards, expected);
        assert_eq!(forwards[2].0, end);
        let mut lines = Lines::new(&content[..content.len() - 6]);
        assert!(lines.next().unwrap().is_some() && lines.next().unwrap().is_none());
        assert!(lines.buffer.len() <= RECORD_BYTES_MAX + READ_BYTES);
    }

    proptest! {
        #[test]
        fn both_ways_lead_past_the_same_lines(
            lines in prop::collection::vec(prop_oneof![0..40_usize, 60_000..70_000_usize], 0..12),
            rest in 0..40_usize,
        ) {
            let mut content: Vec<u8> = lines.iter().flat_map(|&length| [&vec![b'x'; length][..], b"\n"].concat()).collect();
            content.extend(vec![b'y'; rest]);
            let lengths = |lines: Vec<(u64, Vec<u8>)>| lines.into_iter().map(|(_, line)| line.len()).collect::<Vec<_>>();
            let short: Vec<usize> = lines.iter().copied().filter(|&length| length <= RECORD_BYTES_MAX).collect();
            let kept = |lengths: Vec<usize>| lengths.into_iter().filter(|&length| length > 0 && length <= RECORD_BYTES_MAX).collect::<Vec<_>>();
            let expected = kept(short);
            prop_assert_eq!(kept(lengths(forwards(&content))), expected.clone());
            prop_assert_eq!(kept(lengths(backwards(&content))), expected);
        }
    }
}
