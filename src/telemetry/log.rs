//! Where our log lines go: people's form on a terminal, the journal under systemd, JSON on stderr otherwise.
//!
//! Field names are the same everywhere: `pod`, `container`, `image`, `error`.

use std::{
    error::Error as StdError,
    fmt::Write as _,
    io::{self, IsTerminal as _},
};

use rustix::fs::fstat;
use serde::Deserialize;
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, filter::ParseError, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// What pintle logs about itself.
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
        source: ParseError,
    },
    #[error("open the journal")]
    Journal(#[source] io::Error),
    #[error("logging is set up already")]
    Twice,
}

/// Checks a level without setting anything up.
pub fn parse_level(level: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder().parse(level).map_err(|source| Error::Level { level: level.into(), source })
}

/// Sets up logging for the whole process; once.
pub fn init(config: &Config) -> Result<(), Error> {
    let filter = parse_level(&config.level)?;
    let stderr = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match resolve(config.format) {
        Format::Journal => {
            // Without a prefix the fields are POD=, CONTAINER=: `journalctl CONTAINER=…` then works.
            tracing_journald::layer().map_err(Error::Journal)?.with_field_prefix(None).boxed()
        }
        Format::Json => stderr.json().flatten_event(true).with_current_span(false).boxed(),
        Format::Human | Format::Auto => stderr.with_ansi(io::stderr().is_terminal()).boxed(),
    };
    let layer: Box<dyn tracing_subscriber::Layer<Registry> + Send + Sync> = layer;
    Registry::default().with(layer.with_filter(filter)).try_init().map_err(|_| Error::Twice)
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
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_may_differ_by_room_and_nonsense_is_refused() {
        assert!(parse_level("info,pintle::image=debug").is_ok());
        let error = parse_level("pintle=loud").unwrap_err();
        assert_eq!(error.to_string(), "log level \"pintle=loud\" is not one");
    }

    #[test]
    fn a_journal_stream_that_is_not_our_stderr_is_not_the_journal() {
        let stat = fstat(io::stderr()).unwrap();
        assert!(is_journal(Some(&format!("{}:{}", stat.st_dev, stat.st_ino))));
        assert!(!is_journal(Some("1:1")));
        assert!(!is_journal(None));
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        let error = Error::Journal(io::Error::other("no socket"));
        assert_eq!(chain(&error), "open the journal: no socket");
    }
}
