//! The systemd journal as a sink: events as journal entries, and the socket that takes them (systemd's
//! `JOURNAL_NATIVE_PROTOCOL`).
//!
//! `tracing-journald` is not used: it sends on the thread that logs, over a socket of its own that blocks when the
//! journal is stopped, and offers no way between the two.

use std::{
    fmt::{self, Write as _},
    io,
    os::unix::net::UnixDatagram,
    sync::Arc,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use super::queue::Queue;

const SOCKET: &str = "/run/systemd/journal/socket";

/// Bytes of one field's value; the rest is cut off. All of an entry's fields then fit into one datagram (208 KiB
/// by default, unix(7)), so that none needs a file of its own.
const VALUE_BYTES_MAX: usize = 16 << 10;

/// Bytes of a field's name; what is longer, the journal drops (systemd.journal-fields(7)).
const NAME_BYTES_MAX: usize = 64;

/// The socket that entries are sent to. Sending waits while the journal is stopped.
#[derive(Debug)]
pub(super) struct Socket(UnixDatagram);

impl Socket {
    /// Opens the socket and checks, without waiting, that a journal is there.
    pub(super) fn open() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // An empty entry is ignored. A full journal is one too.
        match socket.send_to(&[], SOCKET) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => socket.set_nonblocking(false)?,
        }
        Ok(Self(socket))
    }

    /// By name each time, so that a journal that was started anew is found.
    pub(super) fn send(&self, entry: &[u8]) -> io::Result<()> {
        self.0.send_to(entry, SOCKET).map(drop)
    }
}

/// Puts each event into the queue as a journal entry.
#[derive(Debug)]
pub(super) struct Entries(pub(super) Arc<Queue>);

impl<S: Subscriber> Layer<S> for Entries {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::default();
        let metadata = event.metadata();
        entry.field("PRIORITY", priority(metadata.level()));
        entry.field("SYSLOG_IDENTIFIER", env!("CARGO_PKG_NAME"));
        entry.field("TARGET", metadata.target());
        if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
            entry.field("CODE_FILE", file);
            entry.field("CODE_LINE", &line.to_string());
        }
        event.record(&mut entry);
        self.0.push(&entry.0);
    }
}

/// A syslog(3) priority; information about pintle's doings is "notice", so that `journalctl -p notice` shows it.
fn priority(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "5",
        Level::DEBUG => "6",
        Level::TRACE => "7",
    }
}

/// One entry as it is sent.
#[derive(Debug, Default)]
struct Entry(Vec<u8>);

impl Entry {
    /// With its length, so that a value may have line feeds. Fields go by their own names, without a prefix:
    /// `journalctl CONTAINER=…` then works.
    fn field(&mut self, name: &str, value: &str) {
        let name = name_of(name);
        if name.is_empty() {
            return;
        }
        let value = &value.as_bytes()[..value.floor_char_boundary(VALUE_BYTES_MAX)];
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _written = write!(text, "{value:?}");
        self.field(field.name(), &text);
    }
}

/// A field's name as the journal takes it: capital letters, digits and underscores, a letter first.
fn name_of(name: &str) -> String {
    let name = name.chars().map(|c| if c == '.' { '_' } else { c.to_ascii_uppercase() });
    let name = name.filter(|c| c.is_ascii_alphanumeric() || *c == '_');
    name.skip_while(|c| !c.is_ascii_alphabetic()).take(NAME_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::mpsc, time::Duration};

    use tracing::{subscriber::with_default, warn};
    use tracing_subscriber::{Registry, layer::SubscriberExt as _};

    use super::*;

    /// The fields of an entry, as the journal reads it.
    fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
            let (name, rest) = (&entry[..end], &entry[end + 1..]);
            let length = usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
            let value = &rest[8..8 + length];
            assert_eq!(rest[8 + length], b'\n');
            entry = &rest[8 + length + 1..];
            let text = |bytes: &[u8]| String::from_utf8(bytes.into()).unwrap();
            assert_eq!(fields.insert(text(name), text(value)), None);
        }
        assert!(entry.is_empty());
        fields
    }

    fn logged(log: impl FnOnce()) -> BTreeMap<String, String> {
        let queue = Arc::new(Queue::default());
        let (said, read) = mpsc::channel();
        queue.start(move |entry| said.send(entry.to_vec()).map_err(io::Error::other), |_| {}).unwrap();
        with_default(Registry::default().with(Entries(queue)), log);
        fields(&read.recv_timeout(Duration::from_secs(10)).unwrap())
    }

    #[test]
    fn an_event_is_an_entry_whose_fields_can_be_asked_for() {
        let fields = logged(|| warn!(pod = "web", attempt = 3, error = %"two\nlines", "it failed"));
        let expected = [
            ("MESSAGE", "it failed"),
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "pintle"),
            ("TARGET", "pintle::telemetry::journal::tests"),
            ("POD", "web"),
            ("ATTEMPT", "3"),
            ("ERROR", "two\nlines"),
        ];
        for (name, value) in expected {
            assert_eq!(fields.get(name).map(String::as_str), Some(value), "{name}: {fields:?}");
        }
        assert!(fields["CODE_FILE"].ends_with("journal.rs") && fields["CODE_LINE"].parse::<u32>().is_ok());
        assert_eq!(fields.len(), expected.len() + 2);
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let fields = logged(|| warn!(error = "é".repeat(VALUE_BYTES_MAX), "long"));
        assert_eq!(fields["ERROR"], "é".repeat(VALUE_BYTES_MAX / 2));
    }

    #[test]
    fn names_are_as_the_journal_takes_them() {
        assert_eq!(name_of("cgroup.parent"), "CGROUP_PARENT");
        assert_eq!(name_of("_9 Weird-näme_2"), "WEIRDNME_2");
        assert_eq!(name_of(&"n".repeat(100)).len(), NAME_BYTES_MAX);
    }
}
