//! The fuzz target of SPDY sessions.

use std::collections::BTreeSet;

use bytes::BytesMut;

use super::{
    dictionary,
    session::{Event, Session},
};

const STREAMS_MAX: usize = 4;

/// The events of `bytes` that come `piece` at a time, with data of one stream in a row joined; and the violation that
/// ended the session.
fn pass(bytes: &[u8], piece: usize) -> (Vec<Event>, Option<String>) {
    let (mut session, mut input) = (Session::new(STREAMS_MAX), BytesMut::new());
    let (mut events, mut open) = (Vec::new(), BTreeSet::new());
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            match session.next(&mut input) {
                Ok(None) => break,
                Err(violation) => return (events, Some(violation.to_string())),
                Ok(Some(event)) => {
                    match &event {
                        Event::Opened { id, .. } => {
                            assert!(open.insert(*id), "stream {id} was opened twice");
                            session.accept(*id);
                        }
                        Event::Data { id, bytes } => {
                            assert!(open.contains(id) && !bytes.is_empty(), "data of stream {id}")
                        }
                        Event::Ended { id } => {
                            assert!(open.remove(id), "stream {id} has ended twice");
                            // This side ends it too, so that there is room for others.
                            session.data_head(*id, 0, true);
                        }
                        Event::Reset { id } => drop(open.remove(id)),
                    }
                    assert!(open.len() <= STREAMS_MAX);
                    push(&mut events, event);
                }
            }
        }
        let _answers = session.take_output();
    }
    (events, None)
}

fn push(events: &mut Vec<Event>, event: Event) {
    if let (Some(Event::Data { id, bytes }), Event::Data { id: next, bytes: more }) =
        (events.last_mut(), &event)
        && id == next
    {
        *bytes = [&bytes[..], &more[..]].concat().into();
    } else {
        events.push(event);
    }
}

/// Frames that `orders` describes. Noise alone would hardly get past the first header block, which is compressed.
fn frames(mut orders: &[u8]) -> Vec<u8> {
    let (mut compressor, mut out) = (compressor(), Vec::new());
    while let [kind, id, flags, length, rest @ ..] = orders {
        let (body, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        orders = rest;
        let id = u32::from(*id).to_be_bytes();
        let (head, body) = match kind % 8 {
            0..=2 => ([id[0], id[1], id[2], id[3]], body.to_vec()),
            3..=5 => ([0x80, 3, 0, 1], [&id[..], &[0; 6], &compress(&mut compressor, body)].concat()),
            6 => ([0x80, 3, 0, 8], [&id[..], &compress(&mut compressor, body)].concat()),
            _ => ([0x80, 3, 0, kind >> 3], [&id[..], body].concat()),
        };
        let length = u32::try_from(body.len()).expect("it is short").to_be_bytes();
        out.extend(head);
        out.extend([*flags, length[1], length[2], length[3]]);
        out.extend(body);
    }
    out
}

fn compress(compressor: &mut flate2::Compress, plain: &[u8]) -> Vec<u8> {
    let mut block = Vec::with_capacity(plain.len() + 64);
    compressor.compress_vec(plain, &mut block, flate2::FlushCompress::Sync).expect("there is room");
    block
}

/// A client's side of header compression.
fn compressor() -> flate2::Compress {
    let mut compressor = flate2::Compress::new(flate2::Compression::fast(), true);
    compressor.set_dictionary(&dictionary::BYTES).expect("no block was compressed before");
    compressor
}

/// A client's bytes through a session: the same events in any pieces, in an order that makes sense, and never more
/// streams than may be open.
pub(in crate::streaming) fn spdy(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else { return };
    for bytes in [bytes.to_vec(), frames(bytes)] {
        assert_eq!(pass(&bytes, usize::from(piece) + 1), pass(&bytes, bytes.len().max(1)));
    }
}
