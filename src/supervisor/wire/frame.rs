//! Frames of the supervisor's protocol: a length, a message, and descriptors beside it.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use prost::Message;

use crate::sys::fdpass;

/// Bytes of one frame's body at most: a create with thousands of environment entries fits many times over.
pub(crate) const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The little-endian length before each body.
const HEADER_BYTES: usize = 4;
/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 16 * 1024;
/// Descriptors that may wait for their frame; a peer that sends more is not one of ours.
const FDS_WAITING_MAX: usize = 64;

/// A frame ready to be sent.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Header and body.
    pub(crate) bytes: Vec<u8>,
    /// They travel with the first byte.
    pub(crate) fds: Vec<OwnedFd>,
}

/// Puts a length before the message.
pub(crate) fn encode(message: &impl Message, fds: Vec<OwnedFd>) -> Frame {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + length);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    Frame { bytes, fds }
}

/// Whether the peer has ended or closed the connection, with bytes unread or not: nothing that an operator should
/// read about.
pub(crate) fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl Frame {
    /// Sends what the socket takes of the bytes from `sent` on, and the descriptors with the first byte. Gives
    /// the number of bytes taken.
    ///
    /// # Errors
    /// As sendmsg(2); `WouldBlock` on a non-blocking socket that is full.
    pub(crate) fn send_from(&self, sent: usize, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let fds: Vec<_> = match sent {
            0 => self.fds.iter().map(AsFd::as_fd).collect(),
            _ => Vec::new(),
        };
        fdpass::send(socket, self.bytes.get(sent..).unwrap_or_default(), &fds)
    }
}

/// The frames on their way out of one stream socket, in order.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that have been sent.
    sent: usize,
    /// Bytes of all frames, sent ones included.
    bytes: usize,
}

impl Outgoing {
    /// Queues `frame` behind the others.
    pub(crate) fn push(&mut self, frame: Frame) {
        self.bytes += frame.bytes.len();
        self.frames.push_back(frame);
    }

    /// Bytes that are queued, those of a half-sent frame included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Sends until nothing is queued.
    ///
    /// # Errors
    /// As sendmsg(2); `WouldBlock` on a non-blocking socket that is full: call again when it is writable.
    pub(crate) fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while let Some(frame) = self.frames.front() {
            self.sent += frame.send_from(self.sent, socket)?;
            if self.sent >= frame.bytes.len() {
                self.bytes -= frame.bytes.len();
                self.sent = 0;
                self.frames.pop_front();
            }
        }
        Ok(())
    }
}

/// Turns a stream of bytes and descriptors back into frames.
///
/// It never holds more than one frame, and of a frame that was taken nothing: what a supervisor forks while it acts on
/// one request must not have the next one in its memory, nor the last.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Assembler {
    /// Reads from the socket, of one frame at most; `Ok(false)` is the end of the stream.
    pub(crate) fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        let headless = self.bytes.len() < HEADER_BYTES;
        let more = self.read(socket)?;
        if headless && more && self.bytes.len() == HEADER_BYTES && self.missing() > 0 {
            return match self.read(socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
                read => read,
            };
        }
        Ok(more)
    }

    /// As if those bytes had come.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), fds: VecDeque::new() }
    }

    /// Bytes of the current frame that have not been read yet: of its header until that is there.
    fn missing(&self) -> usize {
        let whole = match self.bytes.first_chunk::<HEADER_BYTES>() {
            Some(header) => HEADER_BYTES + u32::from_le_bytes(*header) as usize,
            None => HEADER_BYTES,
        };
        whole.saturating_sub(self.bytes.len())
    }

    fn read(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        let old = self.bytes.len();
        self.bytes.resize(old + self.missing().clamp(1, READ_BYTES), 0);
        let mut fds = Vec::new();
        let got = fdpass::receive(socket, self.bytes.get_mut(old..).unwrap_or_default(), &mut fds);
        self.bytes.truncate(old + *got.as_ref().unwrap_or(&0));
        self.fds.extend(fds);
        if self.fds.len() > FDS_WAITING_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
        }
        Ok(got? > 0)
    }

    /// The next whole message, if there is one.
    pub(crate) fn next<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let Some(header) = self.bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(invalid(format!("a frame of {length} bytes")));
        }
        let Some(body) = self.bytes.get(HEADER_BYTES..HEADER_BYTES + length) else { return Ok(None) };
        let message = M::decode(body).map_err(|error| invalid(error.to_string()))?;
        self.bytes = self.bytes.split_off(HEADER_BYTES + length);
        Ok(Some(message))
    }

    /// The descriptors of the frame that was read last: it says how many there are.
    pub(crate) fn take_fds(&mut self, count: u32) -> io::Result<Vec<OwnedFd>> {
        let count = count as usize;
        if count > self.fds.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame without its descriptors"));
        }
        Ok(self.fds.drain(..count).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd, unix::net::UnixStream};

    use super::{super::v1, *};

    #[test]
    fn frames_come_back_whole_however_the_stream_is_cut() {
        let (a, b) = UnixStream::pair().unwrap();
        let hello = v1::Hello { build_id: "x".repeat(300), ..Default::default() };
        let bytes = [encode(&hello, vec![]).bytes, encode(&hello, vec![]).bytes].concat();
        let mut assembler = Assembler::default();
        let mut seen = 0;
        for piece in bytes.chunks(7) {
            fdpass::send(a.as_fd(), piece, &[]).unwrap();
            assert!(assembler.fill(b.as_fd()).unwrap());
            while let Some(got) = assembler.next::<v1::Hello>().unwrap() {
                assert_eq!(got, hello);
                seen += 1;
            }
        }
        assert_eq!(seen, 2);
        drop(a);
        assert!(!assembler.fill(b.as_fd()).unwrap());
    }

    #[test]
    fn a_peer_that_closes_with_bytes_unread_has_hung_up() {
        let (a, b) = UnixStream::pair().unwrap();
        fdpass::send(b.as_fd(), b"unread", &[]).unwrap();
        drop(a);
        let reset = Assembler::default().fill(b.as_fd()).unwrap_err();
        assert!(is_hang_up(&reset), "{reset:?}");
        let broken = fdpass::send(b.as_fd(), b"late", &[]).unwrap_err();
        assert!(is_hang_up(&broken), "{broken:?}");
        assert!(!is_hang_up(&io::ErrorKind::InvalidData.into()));
    }

    #[test]
    fn descriptors_arrive_with_their_frame_and_a_missing_one_is_an_error() {
        let (a, b) = UnixStream::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let frame = encode(&v1::Shutdown {}, vec![write]);
        fdpass::send(a.as_fd(), &frame.bytes, &[frame.fds[0].as_fd()]).unwrap();
        drop(frame);
        let mut assembler = Assembler::default();
        assembler.fill(b.as_fd()).unwrap();
        assert!(assembler.next::<v1::Shutdown>().unwrap().is_some());
        let got = assembler.take_fds(1).unwrap();
        rustix::io::write(&got[0], b"hi").unwrap();
        let mut text = [0; 2];
        rustix::io::read(&read, &mut text).unwrap();
        assert_eq!(&text, b"hi");
        assert!(assembler.take_fds(1).is_err());
    }

    #[test]
    fn a_large_frame_leaves_no_large_buffer() {
        let (a, b) = UnixStream::pair().unwrap();
        let hello = v1::Hello { build_id: "x".repeat(1_000_000), ..Default::default() };
        let frame = encode(&hello, vec![]);
        let writer = std::thread::spawn(move || std::io::Write::write_all(&mut &a, &frame.bytes).map(|()| a));
        let mut assembler = Assembler::default();
        let got = loop {
            assert!(assembler.fill(b.as_fd()).unwrap());
            if let Some(got) = assembler.next::<v1::Hello>().unwrap() {
                break got;
            }
        };
        writer.join().unwrap().unwrap();
        assert_eq!(got, hello);
        assert_eq!(assembler.bytes.capacity(), 0);
    }

    #[test]
    fn of_two_frames_the_second_stays_in_the_socket_until_the_first_was_taken() {
        let (a, b) = UnixStream::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        let hello = |build_id: &str| v1::Hello { build_id: build_id.into(), ..Default::default() };
        for build_id in ["one", "two"] {
            fdpass::send(a.as_fd(), &encode(&hello(build_id), vec![]).bytes, &[]).unwrap();
        }
        let mut assembler = Assembler::default();
        for build_id in ["one", "two"] {
            assert!(assembler.fill(b.as_fd()).unwrap());
            assert_eq!(assembler.bytes, encode(&hello(build_id), vec![]).bytes);
            assert_eq!(assembler.next::<v1::Hello>().unwrap(), Some(hello(build_id)));
            assert_eq!(assembler.next::<v1::Hello>().unwrap(), None);
        }
        assert_eq!(assembler.fill(b.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn an_absurd_length_is_refused_before_anything_is_allocated() {
        let (a, b) = UnixStream::pair().unwrap();
        fdpass::send(a.as_fd(), &[0xff; 8], &[]).unwrap();
        let mut assembler = Assembler::default();
        assembler.fill(b.as_fd()).unwrap();
        let error = assembler.next::<v1::Hello>().unwrap_err();
        assert_eq!(error.to_string(), "a frame of 4294967295 bytes");
    }
}
