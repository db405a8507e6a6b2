//! Tests of the log writer: rotation, partial lines, full disks and slow readers.

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
            let notice = parsed(&log).swap_remove(kept.len());
            assert_eq!(notice.0, "stderr");
            assert_eq!(
                String::from_utf8(notice.2).unwrap(),
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
