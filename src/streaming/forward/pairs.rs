//! The two streams that a client opens for each connection, purely: which belong together.

use std::collections::BTreeMap;

use super::super::spdy::Headers;

/// The purpose of one of the two streams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Error,
    Data,
}

/// Two streams with one number.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Key {
    RequestId(String),
    /// Old clients send none: the data stream is the next one after the error stream.
    ErrorStream(u32),
}

/// A stream that was opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Opened {
    pub(super) kind: Kind,
    pub(super) port: u16,
}

/// Both streams of one connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Pair {
    pub(super) error: u32,
    pub(super) data: u32,
    pub(super) port: u16,
}

#[derive(Clone, Copy, Debug)]
struct Half<T> {
    id: u32,
    opened: Opened,
    since: T,
}

/// Streams whose other half has not come. `T` is a moment.
#[derive(Debug)]
pub(super) struct Pairs<T> {
    halves: BTreeMap<Key, Half<T>>,
}

/// Why a stream is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Refused {
    #[error("port {0:?} is not a number from 1 to 65535")]
    Port(String),
    #[error("a stream of type {0:?} instead of data or error")]
    Kind(String),
    #[error("a second {0:?} stream of one connection, or one for another port")]
    NoPair(Kind),
}

impl<T: Copy + Ord> Pairs<T> {
    pub(super) fn new() -> Self {
        Self { halves: BTreeMap::new() }
    }

    /// Takes a stream; gives the pair if it completes one.
    pub(super) fn open(
        &mut self,
        id: u32,
        headers: &Headers,
        now: T,
    ) -> Result<(Opened, Option<Pair>), Refused> {
        let text = |name: &str| headers.get(name).map_or("", String::as_str);
        let kind = match text("streamtype") {
            "error" => Kind::Error,
            "data" => Kind::Data,
            other => return Err(Refused::Kind(other.into())),
        };
        let digits = text("port");
        let port = digits.parse().ok().filter(|port| *port > 0 && digits.bytes().all(|b| b.is_ascii_digit()));
        let port = port.ok_or_else(|| Refused::Port(digits.into()))?;
        let key = match (text("requestid"), kind) {
            ("", Kind::Error) => Key::ErrorStream(id),
            ("", Kind::Data) => Key::ErrorStream(id.saturating_sub(2)),
            (request, _) => Key::RequestId(request.into()),
        };
        let opened = Opened { kind, port };
        match self.halves.remove(&key) {
            None => {
                self.halves.insert(key, Half { id, opened, since: now });
                Ok((opened, None))
            }
            Some(half) if half.opened.kind != kind && half.opened.port == port => {
                let (error, data) = if kind == Kind::Data { (half.id, id) } else { (id, half.id) };
                Ok((opened, Some(Pair { error, data, port })))
            }
            Some(half) => {
                self.halves.insert(key, half);
                Err(Refused::NoPair(kind))
            }
        }
    }

    /// Since when the oldest half waits.
    pub(super) fn oldest(&self) -> Option<T> {
        self.halves.values().map(|half| half.since).min()
    }

    /// Gives up halves that wait since `before` or earlier.
    pub(super) fn late(&mut self, before: T) -> Vec<(u32, Opened)> {
        let late = self.halves.extract_if(.., |_, half| half.since <= before);
        late.map(|(_, half)| (half.id, half.opened)).collect()
    }

    /// Forgets a half that the client has reset.
    pub(super) fn forget(&mut self, id: u32) {
        self.halves.retain(|_, half| half.id != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &str, port: &str, request: Option<&str>) -> Headers {
        let mut headers: Headers = [("streamtype".into(), kind.into()), ("port".into(), port.into())].into();
        headers.extend(request.map(|id| ("requestid".to_owned(), id.to_owned())));
        headers
    }

    #[test]
    fn streams_of_one_request_belong_together_in_any_order() {
        let mut pairs = Pairs::new();
        let mut open = |id, kind, port, request| pairs.open(id, &headers(kind, port, request), 0).unwrap().1;
        assert_eq!(open(1, "error", "80", Some("0")), None);
        assert_eq!(open(3, "error", "81", Some("1")), None);
        assert_eq!(open(5, "data", "81", Some("1")), Some(Pair { error: 3, data: 5, port: 81 }));
        assert_eq!(open(7, "data", "80", Some("0")), Some(Pair { error: 1, data: 7, port: 80 }));
        assert_eq!(open(9, "data", "80", Some("0")), None);
        assert_eq!(open(11, "error", "80", Some("0")), Some(Pair { error: 11, data: 9, port: 80 }));
    }

    #[test]
    fn old_clients_open_the_data_stream_right_after_the_error_stream() {
        let mut pairs = Pairs::new();
        let mut open = |id, kind| pairs.open(id, &headers(kind, "80", None), 0).unwrap().1;
        assert_eq!(open(1, "error"), None);
        assert_eq!(open(3, "data"), Some(Pair { error: 1, data: 3, port: 80 }));
        assert_eq!(open(5, "data"), None);
    }

    #[test]
    fn what_is_no_half_of_a_connection_is_refused() {
        let mut pairs = Pairs::new();
        let long = "1".repeat(1000);
        for port in ["0", "65536", "-1", "+80", " 80", "", "127.0.0.1:22", "http", &long] {
            let refused = pairs.open(1, &headers("data", port, Some("0")), 0).unwrap_err();
            assert_eq!(refused, Refused::Port(port.into()));
        }
        let refused = pairs.open(1, &headers("stdin", "80", Some("0")), 0).unwrap_err();
        assert_eq!(refused, Refused::Kind("stdin".into()));
        assert!(pairs.open(1, &Headers::new(), 0).is_err());
        pairs.open(1, &headers("error", "80", Some("0")), 0).unwrap();
        for again in [headers("error", "80", Some("0")), headers("data", "81", Some("0"))] {
            assert!(matches!(pairs.open(3, &again, 0), Err(Refused::NoPair(_))));
        }
        assert_eq!(pairs.halves.len(), 1);
    }

    #[test]
    fn a_half_that_stays_alone_is_given_up() {
        let mut pairs = Pairs::new();
        pairs.open(1, &headers("error", "80", Some("0")), 10).unwrap();
        pairs.open(3, &headers("data", "80", Some("1")), 20).unwrap();
        pairs.open(5, &headers("data", "80", Some("2")), 5).unwrap();
        pairs.forget(5);
        assert_eq!(pairs.oldest(), Some(10));
        assert_eq!(pairs.late(10), [(1, Opened { kind: Kind::Error, port: 80 })]);
        assert_eq!(pairs.oldest(), Some(20));
    }
}
