//! How fast container output becomes log records: `cargo bench --bench log_throughput [-- FOLDER]`.
//!
//! Formatting and writing are measured together, since the one without the other is of no use. The floor
//! beside each figure is the same number of bytes written without any formatting, in the same run.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use pintle::measured::{CriLog, Stream};

/// What one read of a pipe gives at most.
const READ_BYTES: usize = 64 * 1024;
/// Emptied when it has grown to this, as rotation does, so that a small tmpfs is enough.
const FILE_BYTES_MAX: u64 = 64 << 20;
const RUN_S: Duration = Duration::from_secs(1);
const RUNS: usize = 3;

fn main() {
    // Cargo passes `--bench`.
    let folder = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let folder = folder.map_or_else(std::env::temp_dir, PathBuf::from);
    println!("{:>10} {:>12} {:>12} {:>12}   best of {RUNS}", "line", "content", "file", "plain write");
    for line in [16, 100, 1000, 16_384, 100_000] {
        let path = folder.join("pintle-log-throughput");
        let best = |run: &dyn Fn() -> f64| (0..RUNS).map(|_| run()).fold(0.0, f64::max);
        let (per_content, _) = ratio(&path, line);
        let content = best(&|| log(&path, line));
        let plain = best(&|| write(&path));
        println!("{line:>10} {content:>7.0} MB/s {:>7.0} MB/s {plain:>7.0} MB/s", content * per_content);
        let _ = fs::remove_file(&path);
    }
}

/// Lines of `line` bytes, newline included, as one read after another of a pipe.
fn input(line: usize) -> Vec<u8> {
    let line: Vec<u8> = (1..line).map(|at| b'a' + (at % 26) as u8).chain([b'\n']).collect();
    line.iter().copied().cycle().take(line.len() * READ_BYTES.div_ceil(line.len()) * 8).collect()
}

fn open(path: &Path) -> CriLog {
    let (directory, file) = (path.parent().expect("a directory"), path.file_name().expect("a name"));
    CriLog::open(directory, Path::new(file)).expect("open the log")
}

/// Bytes in the file for each byte of input.
fn ratio(path: &Path, line: usize) -> (f64, u64) {
    let _ = fs::remove_file(path);
    let input = input(line);
    let mut log = open(path);
    input.chunks(READ_BYTES).for_each(|read| log.append(Stream::Stdout, read, SystemTime::now()));
    let size = fs::metadata(path).expect("read the log's size").len();
    (size as f64 / input.len() as f64, size)
}

/// Megabytes of content per second through the log.
fn log(path: &Path, line: usize) -> f64 {
    let input = input(line);
    let (_, size) = ratio(path, line);
    let _ = fs::remove_file(path);
    let mut log = open(path);
    let file = File::options().write(true).open(path).expect("open the log");
    let (begin, mut bytes, mut in_file) = (Instant::now(), 0, 0);
    while begin.elapsed() < RUN_S {
        for read in input.chunks(READ_BYTES) {
            log.append(Stream::Stdout, read, SystemTime::now());
        }
        bytes += input.len();
        in_file += size;
        if in_file > FILE_BYTES_MAX {
            file.set_len(0).expect("empty the log");
            in_file = 0;
        }
    }
    let took = begin.elapsed();
    assert_eq!(log.lost(Stream::Stdout), 0, "the disk is full");
    bytes as f64 / took.as_secs_f64() / 1e6
}

/// Megabytes per second of plain appending writes.
fn write(path: &Path) -> f64 {
    let mut file = File::options().append(true).create(true).open(path).expect("open the file");
    file.set_len(0).expect("empty the file");
    let block = vec![b'x'; READ_BYTES];
    let (begin, mut bytes, mut in_file) = (Instant::now(), 0, 0);
    while begin.elapsed() < RUN_S {
        file.write_all(&block).expect("write");
        bytes += block.len();
        in_file += block.len() as u64;
        if in_file > FILE_BYTES_MAX {
            file.set_len(0).expect("empty the file");
            in_file = 0;
        }
    }
    bytes as f64 / begin.elapsed().as_secs_f64() / 1e6
}
