//! Fuzz targets of what clients of streams send.

use tokio_tungstenite::tungstenite::Message;

use super::{
    remote::resize::Sizes,
    spdy::fuzz as session,
    status::Form,
    websocket::{Framing, Said},
};
use crate::model::TerminalSize;

/// Bytes of an object of a size that are waited for at most: up to here, pieces make no difference.
const SIZE_BYTES_MAX: usize = 1024;
const CHANNELS: u8 = 5;

/// Reads the message in each framing; what was data must come back when it is written.
fn read(message: &Message) {
    for (base64, close_signal) in [(false, false), (false, true), (true, false), (true, true)] {
        let framing = Framing { base64, form: Form::Status, close_signal };
        match framing.read(message.clone(), CHANNELS) {
            Ok(Said::Data { channel, bytes }) => {
                assert!(channel < CHANNELS && !bytes.is_empty());
                let again = framing.read(framing.write(channel, &bytes), CHANNELS);
                assert_eq!(again, Ok(Said::Data { channel, bytes }));
            }
            Ok(Said::Ended { channel }) => assert!(channel < CHANNELS && close_signal),
            Ok(Said::Nothing) | Err(_) => {}
        }
    }
}

/// The last size in `bytes` that come `piece` at a time.
fn last_size(bytes: &[u8], piece: usize) -> Option<TerminalSize> {
    let mut sizes = Sizes::default();
    bytes.chunks(piece).fold(None, |last, piece| sizes.read(piece).or(last))
}

/// A SPDY session.
pub fn spdy(input: &[u8]) {
    session::spdy(input);
}

/// A client's messages through the channels of `remotecommand`: each is data of a channel that there is, or is refused;
/// and sizes of its terminal are the same in any pieces.
pub fn websocket(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else { return };
    read(&Message::binary(bytes.to_vec()));
    if let Ok(text) = str::from_utf8(bytes) {
        read(&Message::text(text));
    }
    let in_pieces = last_size(bytes, usize::from(piece) + 1);
    if bytes.len() <= SIZE_BYTES_MAX {
        assert_eq!(in_pieces, last_size(bytes, bytes.len().max(1)));
    }
}
