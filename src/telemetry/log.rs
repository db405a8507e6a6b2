//! Destinations of our log lines: people's form on a terminal, the journal under systemd, JSON on stderr otherwise.
//!
//! Field names are the same everywhere: `pod`, `container`, `image`, `error`.
//!
//! Invariant: to log never waits for the reader of the log (`queue`).

use std::{
    error::Error as StdError,
    fmt::Write as _,
    io::{self, IsTerminal as _},
    os::fd::AsFd,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::fstat,
    io::{Errno, retry_on_intr},
};
use serde::Deserialize;
use tracing_subscriber::{
    Layer as _, Registry,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::{
    journal::{self, Entries},
    queue::Queue,
};

/// How long the end of the process waits for its last lines to be read.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(1);

/// Lines of this process on their way out; none before [`init`].
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// The configuration of pintle's own log.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// error, warn, info, debug or trace; or per room, as in "info,pintle::image=debug".
    pub level: String,
    /// auto, human, json or journal. auto: the journal under systemd, human on a terminal, json otherwise.
    pub format: Format,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Chosen by where stderr leads.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
    /// The systemd journal, with fields.
    Journal,
}

impl Default for Config {
    fn default() -> Self {
        Self { level: "info".into(), format: Format::Auto }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("log level {level:?} is not one")]
    Level {
        level: String,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    #[error("open the journal")]
    Journal(#[source] io::Error),
    #[error("start the thread that writes the log")]
    Thread(#[source] io::Error),
    #[error("logging is set up already")]
    Twice,
}

/// Checks a level without setting anything up.
///
/// # Errors
/// [`Error::Level`]: something in it is neither a level nor `room=level`.
pub fn parse_level(level: &str) -> Result<Targets, Error> {
    let wrong = |source| Error::Level { level: level.into(), source };
    for word in level.split(',').filter(|word| !word.contains('=')) {
        // The parser would take it for a room of which all is wanted, and of others nothing.
        word.parse::<LevelFilter>().map_err(|error| wrong(error.into()))?;
    }
    level.parse::<Targets>().map_err(|error| wrong(error.into()))
}

/// Sets up logging for the whole process; once.
pub fn init(config: &Config) -> Result<(), Error> {
    let filter = parse_level(&config.level)?;
    let queue = Arc::new(Queue::default());
    let lines = Arc::clone(&queue);
    // The layer would print errors of its own to stderr, on whichever thread it has them.
    let text = tracing_subscriber::fmt::layer()
        .log_internal_errors(false)
        .with_writer(move || Line(Arc::clone(&lines)));
    let (layer, write): (Box<dyn tracing_subscriber::Layer<Registry> + Send + Sync>, Write) =
        match resolve(config.format) {
            Format::Journal => {
                let socket = journal::Socket::open().map_err(Error::Journal)?;
                (Entries(Arc::clone(&queue)).boxed(), Box::new(move |entry| socket.send(entry)))
            }
            Format::Json => {
                (text.json().flatten_event(true).with_current_span(false).boxed(), Box::new(to_stderr))
            }
            Format::Human | Format::Auto => {
                (text.with_ansi(io::stderr().is_terminal()).boxed(), Box::new(to_stderr))
            }
        };
    Registry::default().with(layer.with_filter(filter)).try_init().map_err(|_| Error::Twice)?;
    queue.start(write, report).map_err(Error::Thread)?;
    QUEUE.set(queue).map_err(|_| Error::Twice)
}

/// Writes one line to where it is read, for as long as that takes.
type Write = Box<dyn FnMut(&[u8]) -> io::Result<()> + Send>;

/// Waits until the last lines are out, for the end of the process; a reader that does not read is left behind.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH_WAIT_MAX);
    }
}

/// Lines that nobody could read since the start of this process.
pub fn lost() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.lost())
}

/// An error, so that no level hides it.
fn report(lost: u64) {
    tracing::error!(lines = lost, "log lines were lost: their reader was too slow, or gone");
}

/// One log line. What formats it writes all of it at once.
struct Line(Arc<Queue>);

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn to_stderr(line: &[u8]) -> io::Result<()> {
    write_all(io::stderr().as_fd(), line)
}

/// Past the lock of [`io::stderr`], which whoever prints would wait for. The file may be shared with a process
/// that made it non-blocking.
fn write_all(fd: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                retry_on_intr(|| poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None))?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// `auto` made definite.
fn resolve(format: Format) -> Format {
    match format {
        Format::Auto if is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref()) => Format::Journal,
        Format::Auto if io::stderr().is_terminal() => Format::Human,
        Format::Auto => Format::Json,
        chosen => chosen,
    }
}

/// Whether stderr still is the stream that systemd connected: `JOURNAL_STREAM` (systemd.exec(5)) holds its
/// device and inode, and is inherited by processes whose stderr is something else.
fn is_journal(journal_stream: Option<&str>) -> bool {
    let stderr = fstat(io::stderr()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    journal_stream.zip(stderr.ok()).is_some_and(|(stream, stderr)| stream == stderr)
}

/// Shows an error with all its causes: `error = %chain(&error)`.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        let _written = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, pipe},
        thread,
    };

    use super::*;

    #[test]
    fn a_level_may_differ_by_room_and_nonsense_is_refused() {
        assert!(parse_level("info,pintle::image=debug").is_ok());
        for nonsense in ["pintle=loud", "inf", "pintle::image", "info,pintle"] {
            let error = parse_level(nonsense).unwrap_err();
            assert_eq!(error.to_string(), format!("log level {nonsense:?} is not one"));
        }
    }

    #[test]
    fn a_journal_stream_that_is_not_our_stderr_is_not_the_journal() {
        let stat = fstat(io::stderr()).unwrap();
        assert!(is_journal(Some(&format!("{}:{}", stat.st_dev, stat.st_ino))));
        assert!(!is_journal(Some("1:1")));
        assert!(!is_journal(None));
    }

    #[test]
    fn a_line_longer_than_a_pipe_that_does_not_block_is_written_whole() {
        let (mut reader, writer) = pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let line = vec![b'x'; 1 << 20];
        let expected = line.clone();
        let writing = thread::spawn(move || write_all(writer, &line));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        writing.join().unwrap().unwrap();
        assert!(read == expected);
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        let error = Error::Journal(io::Error::other("no socket"));
        assert_eq!(chain(&error), "open the journal: no socket");
    }
}
