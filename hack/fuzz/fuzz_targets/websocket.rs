//! A client's messages through the channels of `remotecommand`: each is data of a channel that there is, or is refused;
//! and sizes of its terminal are the same in any pieces.
#![no_main]
#![allow(dead_code, unused_imports, reason = "only the reading side of the modules below is used")]

use libfuzzer_sys::fuzz_target;
use tokio_tungstenite::tungstenite::Message;

#[path = "../../../src/model"]
mod model {
    mod terminal;
    pub use terminal::TerminalSize;
}

/// The modules of `streaming` without a socket, in a room of the same shape.
#[path = "../../../src/streaming"]
mod streaming {
    pub(crate) mod status;
    pub(crate) mod websocket;
    pub(crate) mod remote {
        mod resize;

        use crate::model::TerminalSize;

        /// The last size in `bytes` that come `piece` at a time.
        pub(crate) fn last_size(bytes: &[u8], piece: usize) -> Option<TerminalSize> {
            let mut sizes = resize::Sizes::default();
            bytes.chunks(piece).fold(None, |last, piece| sizes.read(piece).or(last))
        }
    }

    use status::Form;
    use tokio_tungstenite::tungstenite::Message;
    use websocket::{Framing, Said};

    const CHANNELS: u8 = 5;

    /// Reads the message in each framing; what was data must come back when it is written.
    pub(crate) fn read(message: &Message) {
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
}

/// Bytes of an object of a size that are waited for at most: up to here, pieces make no difference.
const SIZE_BYTES_MAX: usize = 1024;

fuzz_target!(|input: &[u8]| {
    let Some((&piece, bytes)) = input.split_first() else { return };
    streaming::read(&Message::binary(bytes.to_vec()));
    if let Ok(text) = str::from_utf8(bytes) {
        streaming::read(&Message::text(text));
    }
    let in_pieces = streaming::remote::last_size(bytes, usize::from(piece) + 1);
    if bytes.len() <= SIZE_BYTES_MAX {
        assert_eq!(in_pieces, streaming::remote::last_size(bytes, bytes.len().max(1)));
    }
});
