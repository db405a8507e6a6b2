//! The channels of Kubernetes in the messages of a WebSocket, purely: which message means what, and back.

use bytes::Bytes;
use data_encoding::BASE64;
use tokio_tungstenite::tungstenite::Message;

use super::status::Form;

/// Bytes of one message toward a client at most: clients of Kubernetes read with buffers of that size.
pub(super) const MESSAGE_BYTES_MAX: usize = 32 << 10;

/// Data bytes that fit into one message, also in base64.
pub(super) const DATA_BYTES_MAX: usize = (MESSAGE_BYTES_MAX - 1) / 4 * 3;

/// The number of a channel message that ends another channel (v5).
const CLOSE: u8 = 255;

/// How a sub-protocol puts channels into messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Framing {
    /// The channel is a digit and the data base64; else a byte, and as it is.
    pub(super) base64: bool,
    pub(super) form: Form,
    /// A client can end a channel: v5.
    pub(super) close_signal: bool,
}

/// A client's message, read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Said {
    Data {
        channel: u8,
        bytes: Bytes,
    },
    /// The client sends no more on this channel.
    Ended {
        channel: u8,
    },
    /// An empty message, or one of WebSocket's own (ping, pong, close).
    Nothing,
}

/// A message that breaks the sub-protocol; the connection is closed with 1002.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("channel {channel}, of {channels}")]
    Channel { channel: u8, channels: u8 },
    #[error("a message that is not base64")]
    Base64,
}

impl Framing {
    /// Reads a message of a client that may use the channels below `channels`.
    pub(super) fn read(self, message: Message, channels: u8) -> Result<Said, Malformed> {
        let mut bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => Bytes::new(),
        };
        if bytes.is_empty() {
            return Ok(Said::Nothing);
        }
        let mut channel = bytes.split_to(1).first().copied().unwrap_or_default();
        if self.close_signal && channel == CLOSE {
            let ended = bytes.first().copied().unwrap_or(CLOSE);
            if ended >= channels {
                return Err(Malformed::Channel { channel: ended, channels });
            }
            return Ok(Said::Ended { channel: ended });
        }
        if self.base64 {
            channel = channel.wrapping_sub(b'0');
        }
        if channel >= channels {
            return Err(Malformed::Channel { channel, channels });
        }
        if self.base64 {
            bytes = BASE64.decode(&bytes).map_err(|_| Malformed::Base64)?.into();
        }
        Ok(if bytes.is_empty() { Said::Nothing } else { Said::Data { channel, bytes } })
    }

    /// The message that carries `data` to a client; at most [`DATA_BYTES_MAX`] bytes of it.
    pub(super) fn write(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::with_capacity(1 + data.len().div_ceil(3) * 4);
            text.push(char::from(b'0' + channel));
            BASE64.encode_append(data, &mut text);
            return Message::text(text);
        }
        let mut bytes = Vec::with_capacity(1 + data.len());
        bytes.push(channel);
        bytes.extend_from_slice(data);
        Message::binary(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: Framing = Framing { base64: false, form: Form::Status, close_signal: false };
    const V5: Framing = Framing { close_signal: true, ..V4 };
    const BASE64: Framing = Framing { base64: true, ..V4 };

    fn data(channel: u8, bytes: &'static [u8]) -> Said {
        Said::Data { channel, bytes: Bytes::from_static(bytes) }
    }

    #[test]
    fn the_first_byte_is_the_channel() {
        assert_eq!(V4.read(Message::binary(&b"\0hello"[..]), 5), Ok(data(0, b"hello")));
        assert_eq!(V4.read(Message::text("\u{4}{}"), 5), Ok(data(4, b"{}")));
        assert_eq!(BASE64.read(Message::text("0aGVsbG8="), 5), Ok(data(0, b"hello")));
        for empty in
            [Message::binary(&b""[..]), Message::binary(&b"\0"[..]), Message::Ping(Bytes::from_static(b"x"))]
        {
            assert_eq!(V4.read(empty, 5), Ok(Said::Nothing));
        }
        assert_eq!(V4.write(2, b"out"), Message::binary(&b"\x02out"[..]));
        assert_eq!(BASE64.write(1, b"hello"), Message::text("1aGVsbG8="));
        assert_eq!(V4.write(1, b""), Message::binary(&b"\x01"[..]));
    }

    #[test]
    fn only_v5_can_end_a_channel() {
        assert_eq!(V5.read(Message::binary(&[255, 0][..]), 5), Ok(Said::Ended { channel: 0 }));
        let malformed = |channel| Err(Malformed::Channel { channel, channels: 5 });
        assert_eq!(V4.read(Message::binary(&[255, 0][..]), 5), malformed(255));
        assert_eq!(V5.read(Message::binary(&[255, 5][..]), 5), malformed(5));
        assert_eq!(V5.read(Message::binary(&[255][..]), 5), malformed(255));
    }

    #[test]
    fn messages_of_every_wrong_kind_are_refused() {
        assert!(V4.read(Message::binary(&[5, 1][..]), 5).is_err());
        assert!(BASE64.read(Message::text("9aGVsbG8="), 5).is_err());
        assert!(BASE64.read(Message::text("/aGVsbG8="), 5).is_err());
        assert_eq!(BASE64.read(Message::text("0not base64"), 5), Err(Malformed::Base64));
    }

    #[test]
    fn the_largest_message_is_no_larger_than_clients_take() {
        for framing in [V4, V5, BASE64] {
            assert!(framing.write(1, &vec![0; DATA_BYTES_MAX]).len() <= MESSAGE_BYTES_MAX);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(channel in 0_u8..10, bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            for framing in [V4, V5, BASE64] {
                let read = framing.read(framing.write(channel, &bytes), 10).unwrap();
                prop_assert_eq!(read, Said::Data { channel, bytes: Bytes::from(bytes.clone()) });
            }
        }

        #[test]
        fn any_message_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for framing in [V4, V5, BASE64] {
                let _ = framing.read(Message::binary(bytes.clone()), 5);
            }
        }
    }
}
