//! One SPDY session as a server sees it: bytes in, events and bytes out. It knows no socket and no clock.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::{
    frame::{self, Decoder, GoAway, HEAD_BYTES, Piece, Reset, Violation},
    header::{self, Headers},
};

/// Which sides of a stream are still open. One of which neither is, is forgotten.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// The client may still send.
    theirs: bool,
    /// Whether this side may still send.
    ours: bool,
}

/// An act of the client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// A new stream, which waits for [`Session::accept`] or [`Session::reset`]. Data may follow before that.
    Opened { id: u32, headers: Headers },
    /// Never empty.
    Data { id: u32, bytes: Bytes },
    /// The end of what the client sends on this stream.
    Ended { id: u32 },
    /// A stream that the client gave up, both ways.
    Reset { id: u32 },
}

/// The state of a session.
#[derive(Debug)]
pub(crate) struct Session {
    decoder: Decoder,
    /// `None` once no stream is accepted any more: then no header block needs to be read.
    reader: Option<header::Reader>,
    writer: header::Writer,
    streams: BTreeMap<u32, Open>,
    streams_max: usize,
    last_opened: u32,
    /// The client has ended this stream with the frame that was given out last.
    ended: Option<u32>,
    out: BytesMut,
}

impl Session {
    /// A session in which at most `streams_max` streams are open at a time; more are refused.
    pub(crate) fn new(streams_max: usize) -> Self {
        Self {
            decoder: Decoder::default(),
            reader: Some(header::Reader::default()),
            writer: header::Writer::default(),
            streams: BTreeMap::new(),
            streams_max,
            last_opened: 0,
            ended: None,
            out: BytesMut::new(),
        }
    }

    /// The next event in `input`, whose bytes are taken away; `None`: more bytes are needed. What has to be
    /// answered at once is put among the bytes to send.
    ///
    /// # Errors
    /// After a violation the session cannot go on: send what [`Self::take_output`] gives, and close.
    pub(crate) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Violation> {
        if let Some(id) = self.ended.take() {
            return Ok(Some(Event::Ended { id }));
        }
        loop {
            let Some(piece) =
                self.decoder.next(input).inspect_err(|_| self.go_away(GoAway::ProtocolError))?
            else {
                return Ok(None);
            };
            let event = self.event(piece).inspect_err(|_| self.go_away(GoAway::ProtocolError))?;
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn event(&mut self, piece: Piece) -> Result<Option<Event>, Violation> {
        match piece {
            Piece::SynStream { id, fin, block } => self.opened(id, fin, &block),
            Piece::Headers { id, fin, block } => {
                if let Some(reader) = &mut self.reader {
                    reader.read(&block)?;
                }
                Ok(if fin { self.data(id, Bytes::new(), true) } else { None })
            }
            Piece::Reset { id } => Ok(self.streams.remove(&id).map(|_| Event::Reset { id })),
            Piece::Ping { id } => {
                // One of an even number would be the answer to a ping of ours, and there are none.
                if id % 2 == 1 {
                    frame::put_ping(&mut self.out, id);
                }
                Ok(None)
            }
            // It opens no more streams; those that are open go on.
            Piece::GoAway => Ok(None),
            Piece::Data { id, bytes, fin } => Ok(self.data(id, bytes, fin)),
        }
    }

    fn opened(&mut self, id: u32, fin: bool, block: &[u8]) -> Result<Option<Event>, Violation> {
        if id.is_multiple_of(2) {
            return Err(Violation::StreamParity(id));
        }
        if id <= self.last_opened {
            return Err(Violation::StreamOrder { id, last: self.last_opened });
        }
        self.last_opened = id;
        let headers = self.reader.as_mut().map(|reader| reader.read(block)).transpose()?;
        let Some(headers) = headers.filter(|_| self.streams.len() < self.streams_max) else {
            frame::put_reset(&mut self.out, id, Reset::RefusedStream);
            return Ok(None);
        };
        self.streams.insert(id, Open { theirs: !fin, ours: true });
        self.ended = fin.then_some(id);
        Ok(Some(Event::Opened { id, headers }))
    }

    fn data(&mut self, id: u32, bytes: Bytes, fin: bool) -> Option<Event> {
        match self.streams.get_mut(&id) {
            Some(Open { theirs: true, .. }) => {
                if fin {
                    self.close(id, |open| open.theirs = false);
                }
                if bytes.is_empty() {
                    return fin.then_some(Event::Ended { id });
                }
                self.ended = fin.then_some(id);
                Some(Event::Data { id, bytes })
            }
            Some(_) => {
                self.reset(id, Reset::StreamAlreadyClosed);
                Some(Event::Reset { id })
            }
            // It is gone on this side, which the client need not know yet.
            None if id % 2 == 1 && id <= self.last_opened => None,
            None => {
                // Once for each frame, with the piece that ends it or the only one it has: there is no harm in more.
                frame::put_reset(&mut self.out, id, Reset::InvalidStream);
                None
            }
        }
    }

    fn close(&mut self, id: u32, side: impl FnOnce(&mut Open)) {
        let Some(open) = self.streams.get_mut(&id) else { return };
        side(open);
        if !open.theirs && !open.ours {
            self.streams.remove(&id);
        }
    }

    /// Takes a stream that was opened.
    pub(crate) fn accept(&mut self, id: u32) {
        let block = self.writer.empty_block();
        frame::put_reply(&mut self.out, id, &block);
    }

    /// Ends a stream both ways.
    pub(crate) fn reset(&mut self, id: u32, status: Reset) {
        self.streams.remove(&id);
        frame::put_reset(&mut self.out, id, status);
    }

    /// From now on every further stream is refused.
    pub(crate) fn refuse_streams(&mut self) {
        self.reader = None;
    }

    /// The head of a data frame; `None` when this side can send nothing on that stream any more.
    pub(crate) fn data_head(&mut self, id: u32, length: usize, fin: bool) -> Option<[u8; HEAD_BYTES]> {
        if !self.streams.get(&id)?.ours {
            return None;
        }
        if fin {
            self.close(id, |open| open.ours = false);
        }
        Some(frame::data_head(id, length, fin))
    }

    /// A data frame without data, which clients pass over; `None` when there is no stream on which this side may send.
    pub(crate) fn heartbeat(&mut self) -> Option<[u8; HEAD_BYTES]> {
        let id = self.streams.iter().find_map(|(id, open)| open.ours.then_some(*id))?;
        Some(frame::data_head(id, 0, false))
    }

    /// Ends the session: what this side has not ended is reset, and no more is wanted.
    pub(crate) fn end(&mut self) {
        for (id, _) in std::mem::take(&mut self.streams).into_iter().filter(|(_, open)| open.ours) {
            frame::put_reset(&mut self.out, id, Reset::Cancel);
        }
        self.go_away(GoAway::Ok);
    }

    fn go_away(&mut self, status: GoAway) {
        self.streams.clear();
        frame::put_goaway(&mut self.out, self.last_opened, status);
    }

    /// The bytes that have to be sent now, in the order in which they were made.
    pub(crate) fn take_output(&mut self) -> BytesMut {
        self.out.split()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            frame::testclient as client,
            header::testclient::{Compressor, plain},
        },
        *,
    };

    const PING: u16 = 6;

    /// Events of `bytes` and what is answered.
    fn run(session: &mut Session, bytes: &[u8]) -> Result<Vec<Event>, Violation> {
        let mut input = BytesMut::from(bytes);
        let mut events = Vec::new();
        while let Some(event) = session.next(&mut input)? {
            events.push(event);
        }
        Ok(events)
    }

    /// (type, body) of each frame that the session sends.
    fn sent(session: &mut Session) -> Vec<(u16, Vec<u8>)> {
        let bytes = session.take_output();
        let (mut rest, mut frames) = (&bytes[..], Vec::new());
        while let Some((head, tail)) = rest.split_first_chunk::<8>() {
            let length = usize::from(head[6]) << 8 | usize::from(head[7]);
            frames.push((u16::from_be_bytes([head[2], head[3]]), tail[..length].to_vec()));
            rest = &tail[length..];
        }
        frames
    }

    fn reset_of(id: u32, status: Reset) -> (u16, Vec<u8>) {
        (3, [id.to_be_bytes(), (status as u32).to_be_bytes()].concat())
    }

    fn goaway(last: u32, status: u32) -> (u16, Vec<u8>) {
        (7, [last.to_be_bytes(), status.to_be_bytes()].concat())
    }

    fn stream_type(kind: &str) -> Headers {
        [("streamtype".to_owned(), kind.to_owned())].into()
    }

    #[test]
    fn a_heartbeat_is_an_empty_frame_on_a_stream_that_is_open() {
        let (mut session, mut compressor) = (Session::new(8), Compressor::new());
        assert_eq!(session.heartbeat(), None);
        let bytes = [1, 3].map(|id| client::syn_stream(id, false, &compressor.block(&[("streamType", "x")])));
        run(&mut session, &bytes.concat()).unwrap();
        assert_eq!(session.heartbeat(), Some([0, 0, 0, 1, 0, 0, 0, 0]));
        session.data_head(1, 0, true).unwrap();
        assert_eq!(session.heartbeat(), Some([0, 0, 0, 3, 0, 0, 0, 0]), "1 is ended on this side");
    }

    #[test]
    fn a_client_opens_streams_writes_and_half_closes() {
        let (mut session, mut compressor) = (Session::new(8), Compressor::new());
        let bytes = [
            client::syn_stream(1, false, &compressor.block(&[("streamType", "error")])),
            client::syn_stream(3, false, &compressor.block(&[("streamType", "stdin")])),
            // Before the reply has gone out.
            client::data(3, b"early", false),
            client::data(3, b"last", true),
            client::syn_stream(5, true, &compressor.block(&[("streamType", "stdout")])),
            client::control(PING, &[0, 0, 0, 1]),
            client::control(PING, &[0, 0, 0, 2]),
        ];
        assert_eq!(
            run(&mut session, &bytes.concat()).unwrap(),
            [
                Event::Opened { id: 1, headers: stream_type("error") },
                Event::Opened { id: 3, headers: stream_type("stdin") },
                Event::Data { id: 3, bytes: Bytes::from_static(b"early") },
                Event::Data { id: 3, bytes: Bytes::from_static(b"last") },
                Event::Ended { id: 3 },
                Event::Opened { id: 5, headers: stream_type("stdout") },
                Event::Ended { id: 5 },
            ]
        );
        assert_eq!(sent(&mut session), [(PING, vec![0, 0, 0, 1])], "a ping of its own is answered");
        session.accept(1);
        session.accept(3);
        let replies = sent(&mut session);
        assert_eq!(replies[0].1[..4], [0, 0, 0, 1]);
        assert_eq!(replies[1].1[..4], [0, 0, 0, 3]);
        assert_eq!(session.data_head(5, 3, true), Some([0, 0, 0, 5, 1, 0, 0, 3]));
        assert_eq!(session.data_head(5, 3, true), None, "both sides are closed");
        session.end();
        assert_eq!(
            sent(&mut session),
            [reset_of(1, Reset::Cancel), reset_of(3, Reset::Cancel), goaway(5, 0)]
        );
    }

    #[test]
    fn data_after_the_end_resets_the_stream_and_only_that() {
        let (mut session, mut compressor) = (Session::new(8), Compressor::new());
        let bytes = [
            client::syn_stream(1, true, &compressor.block(&[])),
            client::syn_stream(3, false, &compressor.block(&[])),
            client::data(1, b"late", false),
            client::data(1, b"later", false),
            client::data(3, b"fine", false),
            client::data(9, b"never opened", false),
            client::data(2, b"", true),
        ];
        assert_eq!(
            run(&mut session, &bytes.concat()).unwrap(),
            [
                Event::Opened { id: 1, headers: Headers::new() },
                Event::Ended { id: 1 },
                Event::Opened { id: 3, headers: Headers::new() },
                Event::Reset { id: 1 },
                Event::Data { id: 3, bytes: Bytes::from_static(b"fine") },
            ]
        );
        assert_eq!(
            sent(&mut session),
            [
                reset_of(1, Reset::StreamAlreadyClosed),
                reset_of(9, Reset::InvalidStream),
                reset_of(2, Reset::InvalidStream)
            ]
        );
    }

    #[test]
    fn streams_over_the_limit_are_refused_and_later_headers_are_still_read() {
        let (mut session, mut compressor) = (Session::new(1), Compressor::new());
        let mut bytes = client::syn_stream(1, false, &compressor.block(&[("a", "first")]));
        for number in 1..10_000_u32 {
            let block = compressor.block(&[("number", &number.to_string())]);
            bytes.extend(client::syn_stream(2 * number + 1, false, &block));
        }
        bytes.extend(client::control(3, &[0, 0, 0, 1, 0, 0, 0, 5]));
        bytes.extend(client::syn_stream(20_001, false, &compressor.block(&[("a", "last")])));
        let events = run(&mut session, &bytes).unwrap();
        assert_eq!(events.len(), 3);
        assert_eq!(
            events[2],
            Event::Opened { id: 20_001, headers: [("a".to_owned(), "last".to_owned())].into() }
        );
        let refused = sent(&mut session);
        assert_eq!(refused.len(), 9_999);
        assert_eq!(refused[0], reset_of(3, Reset::RefusedStream));
        assert_eq!(session.streams.len(), 1);
    }

    #[test]
    fn once_its_streams_are_there_a_session_refuses_more_unread() {
        let (mut session, mut compressor) = (Session::new(8), Compressor::new());
        let open = client::syn_stream(1, false, &compressor.block(&[]));
        run(&mut session, &open).unwrap();
        session.refuse_streams();
        let more = [client::syn_stream(3, false, b"not even zlib"), client::data(1, b"x", false)].concat();
        assert_eq!(
            run(&mut session, &more).unwrap(),
            [Event::Data { id: 1, bytes: Bytes::from_static(b"x") }]
        );
        assert_eq!(sent(&mut session), [reset_of(3, Reset::RefusedStream)]);
    }

    #[test]
    fn a_session_that_breaks_the_protocol_is_told_to_go_away() {
        let good = |id: u32| client::syn_stream(id, false, &Compressor::new().block(&[]));
        let again = |first: u32, second: u32| {
            let mut compressor = Compressor::new();
            let first = client::syn_stream(first, false, &compressor.block(&[]));
            [first, client::syn_stream(second, false, &compressor.block(&[]))].concat()
        };
        let of = |block: &[u8]| client::syn_stream(1, false, block);
        let mut old = good(1);
        old[1] = 2;
        let mut cut = good(1);
        cut[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
        let many: Vec<_> = (0..101).map(|number| format!("h{number}")).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), "")).collect();
        for (bytes, last, reason) in [
            (again(1, 1), 1, "stream 1 was opened after stream 1"),
            (again(5, 3), 5, "stream 3 was opened after stream 5"),
            (good(2), 0, "stream 2 cannot be opened by a client, whose streams have odd numbers"),
            (good(0), 0, "stream 0 cannot be opened by a client, whose streams have odd numbers"),
            (old, 0, "a control frame of version 2 instead of 3"),
            (cut, 0, "a control frame of 16777215 bytes, more than 131072"),
            (client::control(1, &[0; 4]), 0, "a SYN_STREAM frame of 4 bytes"),
            (client::control(3, &[0; 4]), 0, "a RST_STREAM frame of 4 bytes"),
            (client::control(6, &[0; 8]), 0, "a PING frame of 8 bytes"),
            (client::control(7, &[0; 9]), 0, "a GOAWAY frame of 9 bytes"),
            (of(b""), 1, "a header block that is cut or has more than it says"),
            (of(b"GET / HTTP/1.1"), 1, "a header block that is not compressed with the dictionary of SPDY/3"),
            (
                of(&Compressor::with(b"options head post").block(&[])),
                1,
                "a header block that is not compressed with the dictionary of SPDY/3",
            ),
            (of(&Compressor::new().raw(&vec![0; 32 << 20])), 1, "a header block of more than 65536 bytes"),
            (of(&Compressor::new().block(&many)), 1, "101 headers, more than 100"),
            (
                of(&Compressor::new().raw(&plain(&[("a", "b")])[..9])),
                1,
                "a header block that is cut or has more than it says",
            ),
            (
                of(&Compressor::new().block(&[("A", "1"), ("a", "2")])),
                1,
                "a header whose name or value is not UTF-8, or which is repeated",
            ),
        ] {
            let mut session = Session::new(8);
            assert_eq!(run(&mut session, &bytes).unwrap_err().to_string(), reason);
            assert_eq!(sent(&mut session).last(), Some(&goaway(last, 1)), "{reason}");
        }
    }

    #[derive(Clone, Debug)]
    enum Deed {
        Open(bool),
        Data(u32, Vec<u8>, bool),
        Reset(u32),
        Ping(u32),
        Accept(u32),
        Refuse(u32),
        Write(u32, bool),
        Noise(Vec<u8>),
    }

    fn deed() -> impl Strategy<Value = Deed> {
        let id = 0_u32..12;
        let bytes = proptest::collection::vec(any::<u8>(), 0..40);
        prop_oneof![
            4 => any::<bool>().prop_map(Deed::Open),
            4 => (id.clone(), bytes.clone(), any::<bool>()).prop_map(|(id, bytes, fin)| Deed::Data(id, bytes, fin)),
            1 => id.clone().prop_map(Deed::Reset),
            1 => any::<u32>().prop_map(Deed::Ping),
            2 => id.clone().prop_map(Deed::Accept),
            1 => id.clone().prop_map(Deed::Refuse),
            2 => (id, any::<bool>()).prop_map(|(id, fin)| Deed::Write(id, fin)),
            1 => bytes.prop_map(Deed::Noise),
        ]
    }

    proptest! {
        /// Whatever a client does: a stream is opened before its data, nothing follows its end, and no more are
        /// open than may be.
        #[test]
        fn events_of_a_stream_are_in_order(deeds in proptest::collection::vec(deed(), 0..60), cut in 1_usize..40) {
            let (mut session, mut compressor, mut next) = (Session::new(4), Compressor::new(), 1);
            let (mut input, mut open) = (BytesMut::new(), std::collections::BTreeSet::new());
            'deeds: for deed in deeds {
                let bytes = match deed {
                    Deed::Open(fin) => {
                        next += 2;
                        client::syn_stream(next - 2, fin, &compressor.block(&[("streamtype", "data")]))
                    }
                    Deed::Data(id, bytes, fin) => client::data(id, &bytes, fin),
                    Deed::Reset(id) => client::control(3, &[id.to_be_bytes(), [0; 4]].concat()),
                    Deed::Ping(id) => client::control(PING, &id.to_be_bytes()),
                    Deed::Accept(id) => { session.accept(id); vec![] }
                    Deed::Refuse(id) => { session.reset(id, Reset::RefusedStream); open.remove(&id); vec![] }
                    Deed::Write(id, fin) => { let _ = session.data_head(id, 10, fin); vec![] }
                    Deed::Noise(bytes) => bytes,
                };
                for chunk in bytes.chunks(cut) {
                    input.extend_from_slice(chunk);
                    loop {
                        match session.next(&mut input) {
                            Ok(None) => break,
                            Ok(Some(Event::Opened { id, .. })) => prop_assert!(open.insert(id)),
                            Ok(Some(Event::Data { id, bytes })) => {
                                prop_assert!(open.contains(&id) && !bytes.is_empty());
                            }
                            Ok(Some(Event::Ended { id } | Event::Reset { id })) => { open.remove(&id); }
                            Err(_) => {
                                prop_assert!(session.streams.is_empty());
                                break 'deeds;
                            }
                        }
                        prop_assert!(session.streams.len() <= 4);
                    }
                }
            }
        }
    }
}
