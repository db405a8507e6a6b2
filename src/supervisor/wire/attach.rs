//! The packets between a supervisor and a client that is attached to a container, on a SEQPACKET socket of their own.
//! Drawn in `docs/formats/supervisor.md`.

use crate::{logs::Stream, model::TerminalSize};

/// Bytes of data in one packet.
pub(crate) const PACKET_BYTES_MAX: usize = 16 << 10;

/// Supervisor to client: the container has ended, and all of its output was sent.
pub(crate) const ENDED: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;

/// Client to supervisor.
pub(crate) const STDIN: u8 = 0;
pub(crate) const STDIN_ENDED: u8 = 1;
pub(crate) const RESIZE: u8 = 2;

/// What a client says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FromClient<'a> {
    Stdin(&'a [u8]),
    StdinEnded,
    Resize(TerminalSize),
}

pub(crate) fn of(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => STDOUT,
        Stream::Stderr => STDERR,
    }
}

pub(crate) fn packet(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(1 + bytes.len());
    packet.push(kind);
    packet.extend_from_slice(bytes);
    packet
}

/// `None` for what a later daemon may say.
pub(crate) fn from_client(packet: &[u8]) -> Option<FromClient<'_>> {
    match packet.split_first()? {
        (&STDIN, bytes) => Some(FromClient::Stdin(bytes)),
        (&STDIN_ENDED, []) => Some(FromClient::StdinEnded),
        (&RESIZE, &[a, b, c, d]) => {
            TerminalSize::new(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])).map(FromClient::Resize)
        }
        _ => None,
    }
}

/// The packet that says how large the client's terminal is.
pub(crate) fn resize_packet(size: TerminalSize) -> [u8; 5] {
    let ([a, b], [c, d]) = (size.columns.to_le_bytes(), size.rows.to_le_bytes());
    [RESIZE, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_is_understood_and_the_rest_passed_over() {
        assert_eq!(from_client(&packet(STDIN, b"ls\n")), Some(FromClient::Stdin(b"ls\n")));
        assert_eq!(from_client(&[STDIN_ENDED]), Some(FromClient::StdinEnded));
        let size = TerminalSize { columns: 300, rows: 50 };
        assert_eq!(from_client(&resize_packet(size)), Some(FromClient::Resize(size)));
        for bad in [&[][..], &[STDIN_ENDED, 1], &[RESIZE], &[RESIZE, 0, 0, 0, 0], &[9, 1]] {
            assert_eq!(from_client(bad), None, "{bad:?}");
        }
    }
}
