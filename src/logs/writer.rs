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

/// What stands before the content of this moment's records of one stream.
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
    /// Lines lost and not yet told of.
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{
        env, fs,
        fs::OpenOptions,
        process::Command,
        time::{Duration, UNIX_EPOCH},
    };

    const NOON: &str = "1970-01-01T12:00:00.000000000Z";
    /// Room on the disk of the tests that fill it.
    const DISK_BYTES: usize = 64 * 1024;

    fn noon() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(12 * 3600)
    }

    fn new_log() -> (tempfile::TempDir, CriLog) {
        let folder = tempfile::tempdir().unwrap();
        let log = CriLog::open(folder.path(), Path::new("0.log")).unwrap();
        (folder, log)
    }

    fn path(log: &CriLog) -> PathBuf {
        log.directory.join(&log.file)
    }

    fn text(log: &CriLog) -> String {
        fs::read_to_string(path(log)).unwrap()
    }

    /// The file's records as (stream, tag, content), after checking that each is well formed.
    #[track_caller]
    fn parsed(log: &CriLog) -> Vec<(String, String, Vec<u8>)> {
        let bytes = fs::read(path(log)).unwrap();
        let mut last = String::new();
        let parse = |record: &[u8]| {
            let record = record.strip_suffix(b"\n").expect("a whole record");
            let mut words = record.splitn(4, |byte| *byte == b' ');
            let mut word = || words.next().unwrap().to_vec();
            let [time, stream, tag] = [word(), word(), word()].map(|word| String::from_utf8(word).unwrap());
            time.parse::<jiff::Timestamp>().unwrap();
            assert!(time >= last, "{time} comes after {last}");
            last = time;
            (stream, tag, word())
        };
        bytes.split_inclusive(|byte| *byte == b'\n').map(parse).collect()
    }

    /// The log goes on at a place without room.
    fn fill(log: &mut CriLog) {
        log.sink.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
    }

    #[test]
    fn both_streams_share_the_file_in_the_order_of_their_ends_of_line() {
        let (_folder, mut log) = new_log();
        log.append(Stream::Stdout, b"one\ntw", noon());
        log.append(Stream::Stderr, b"oh\n\n", noon());
        log.append(Stream::Stdout, b"o\r\nthr", noon());
        log.finish(Stream::Stdout, noon());
        log.finish(Stream::Stderr, noon());
        let expected = ["stdout F one", "stderr F oh", "stderr F ", "stdout F two", "stdout P thr"];
        assert_eq!(text(&log), expected.map(|record| format!("{NOON} {record}\n")).concat());
    }

    #[test]
    fn a_log_opened_again_goes_on_after_a_torn_record() {
        let (folder, log) = new_log();
        fs::write(path(&log), format!("{NOON} stdout F to")).unwrap();
        let mut log = CriLog::open(folder.path(), Path::new("0.log")).unwrap();
        log.append(Stream::Stdout, b"next\n", noon());
        assert_eq!(text(&log), format!("{NOON} stdout F to\n{NOON} stdout F next\n"));
    }

    #[test]
    fn reopening_switches_between_two_records_and_fails_without_harm() {
        let (folder, mut log) = new_log();
        let old = folder.path().join("0.log.1");
        log.append(Stream::Stdout, b"old\nbegun", noon());
        fs::rename(path(&log), &old).unwrap();

        fs::create_dir(path(&log)).unwrap();
        assert!(log.reopen().is_err());
        log.append(Stream::Stdout, b" long ago\n", noon());
        fs::remove_dir(path(&log)).unwrap();
        assert_eq!(
            fs::read_to_string(&old).unwrap(),
            format!("{NOON} stdout F old\n{NOON} stdout F begun long ago\n")
        );

        log.reopen().unwrap();
        assert_eq!(text(&log), "");
        log.append(Stream::Stdout, b"new\n", noon());
        assert_eq!(text(&log), format!("{NOON} stdout F new\n"));
    }

    #[test]
    fn a_clock_set_back_does_not_set_the_log_back() {
        let (_folder, mut log) = new_log();
        for hours in [13, 12, 11, 14] {
            log.append(Stream::Stdout, b"x\n", UNIX_EPOCH + Duration::from_secs(hours * 3600));
        }
        assert_eq!(parsed(&log).len(), 4);
    }

    #[test]
    fn what_a_full_disk_cost_is_counted_and_told_when_there_is_room_again() {
        let (_folder, mut log) = new_log();
        log.append(Stream::Stdout, b"kept\n", noon());
        fill(&mut log);
        log.append(Stream::Stdout, b"a\nb\nhalf", noon());
        log.append(Stream::Stderr, b"c\n", noon());
        assert_eq!((log.lost(Stream::Stdout), log.lost(Stream::Stderr)), (2, 1));
        log.reopen().unwrap();
        log.append(Stream::Stdout, b" and half\n", noon());
        assert_eq!(
            text(&log),
            format!(
                "{NOON} stdout F kept\n\
                 {NOON} stderr F pintle: 2 lines of stdout lost: No space left on device (os error 28)\n\
                 {NOON} stderr F pintle: 1 line of stderr lost: No space left on device (os error 28)\n\
                 {NOON} stdout F half and half\n"
            )
        );
    }

    #[test]
    fn a_line_that_lost_its_middle_is_ended_and_its_rest_is_not_a_line() {
        let (_folder, mut log) = new_log();
        let part = vec![b'x'; CONTENT_BYTES_MAX];
        let [first, second] = [&part[..], b"y"];
        log.append(Stream::Stdout, &[first, second].concat(), noon()); // one partial record
        fill(&mut log);
        log.append(Stream::Stdout, &part, noon()); // lost
        log.reopen().unwrap();
        log.append(Stream::Stdout, b"rest\nnext\n", noon());
        log.finish(Stream::Stdout, noon());
        let lost = "pintle: 1 line of stdout lost: No space left on device (os error 28)";
        let expected = [
            ("stdout", "P", &part[..]),
            ("stdout", "F", b""),
            ("stdout", "F", b"next"),
            ("stderr", "F", lost.as_bytes()),
        ];
        assert_eq!(
            parsed(&log),
            expected.map(|(stream, tag, content)| (stream.into(), tag.into(), content.to_vec()))
        );
    }

    #[test]
    fn a_stream_that_ends_on_a_full_disk_loses_its_last_line_and_says_so_if_it_can() {
        let (_folder, mut log) = new_log();
        fill(&mut log);
        log.append(Stream::Stdout, b"last words", noon());
        log.finish(Stream::Stdout, noon());
        assert_eq!(log.lost(Stream::Stdout), 1);
        log.reopen().unwrap();
        log.finish(Stream::Stderr, noon());
        let (stream, tag, content) = parsed(&log).remove(0);
        assert_eq!((&*stream, &*tag), ("stderr", "F"));
        assert!(content.starts_with(b"pintle: 1 line of stdout lost"));
    }

    /// Runs `body` in a folder on a disk of [`DISK_BYTES`], in a process and mount namespace of its own.
    #[track_caller]
    fn on_a_small_disk(test: &str, body: impl FnOnce(&Path)) {
        const FOLDER: &str = "PINTLE_TEST_SMALL_DISK";
        if let Some(folder) = env::var_os(FOLDER) {
            return body(Path::new(&folder));
        }
        let folder = tempfile::tempdir().unwrap();
        let spaces = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
        let mount = format!("mount -t tmpfs -o size={DISK_BYTES} none \"$1\" && shift && exec \"$@\"");
        let done = Command::new("unshare")
            .args([spaces, "sh", "-c", &mount, "sh"])
            .arg(folder.path())
            .arg(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(FOLDER, folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    #[test]
    fn a_disk_that_fills_up_within_a_batch_keeps_whole_records_only() {
        on_a_small_disk(
            "logs::writer::tests::a_disk_that_fills_up_within_a_batch_keeps_whole_records_only",
            |disk| {
                let mut log = CriLog::open(disk, Path::new("0.log")).unwrap();
                let ballast = disk.join("ballast");
                fs::write(&ballast, vec![0; DISK_BYTES / 2]).unwrap();
                let mut input = 0..;
                let mut some = |lines: usize| -> Vec<u8> {
                    input
                        .by_ref()
                        .take(lines)
                        .flat_map(|line| format!("line {line:>93}\n").into_bytes())
                        .collect()
                };
                let all = 1500;
                log.append(Stream::Stdout, &some(500), noon());
                log.append(Stream::Stdout, &some(500), noon());
                let lost = log.lost(Stream::Stdout);
                assert!(lost > 600, "{lost} lines lost");
                let kept = parsed(&log);
                assert_eq!(kept.len() as u64 + lost, 1000);
                fs::remove_file(ballast).unwrap();
                log.append(Stream::Stdout, &some(100), noon());
                assert_eq!(log.lost(Stream::Stdout), lost, "there is room again");
                let told = parsed(&log).swap_remove(kept.len());
                assert_eq!(told.0, "stderr");
                assert_eq!(
                    String::from_utf8(told.2).unwrap(),
                    format!("pintle: {lost} lines of stdout lost: No space left on device (os error 28)")
                );
                // To the brim and back, many times.
                for _ in 0..4 {
                    log.append(Stream::Stdout, &some(100), noon());
                }
                let lines = parsed(&log).iter().filter(|(stream, ..)| stream == "stdout").count() as u64;
                assert_eq!(lines + log.lost(Stream::Stdout), all);
            },
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn records_of_a_stream_say_its_bytes_again_whatever_the_appends(
            pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..20_000)), 0..8)
        ) {
            let (_folder, mut log) = new_log();
            let mut expected = [Vec::<u8>::new(), Vec::<u8>::new()];
            for (err, piece) in &pieces {
                let piece: Vec<u8> = piece.iter().map(|byte| if *byte == b'\r' { b'-' } else { *byte }).collect();
                expected[usize::from(*err)].extend(&piece);
                log.append(if *err { Stream::Stderr } else { Stream::Stdout }, &piece, SystemTime::now());
            }
            Stream::ALL.iter().for_each(|stream| log.finish(*stream, SystemTime::now()));
            let mut said = [Vec::new(), Vec::new()];
            for (stream, tag, content) in parsed(&log) {
                let said = &mut said[usize::from(stream == "stderr")];
                said.extend(content);
                if tag == "F" { said.push(b'\n') }
            }
            prop_assert_eq!(said, expected);
        }
    }
}
