//! The job of a worker, as it goes over the connection.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use crate::sys::fdpass;

/// Bytes of a job before the name of its layer: the limit of a file (the lowest byte first), the kind of task, the length
/// of the name.
const HEAD_BYTES: usize = 8 + 1 + 1;

/// The kinds of task.
const UNPACK: u8 = b'u';
const DECOMPRESS: u8 = b'd';

/// The job of a worker.
#[derive(Debug)]
pub(super) struct Job<D> {
    /// For people.
    pub(super) layer: String,
    pub(super) task: Task<D>,
}

/// The task of a worker.
#[derive(Debug)]
pub(super) enum Task<D> {
    /// Make files of a tar in a directory that goes with the job.
    Unpack { directory: D, file_bytes_max: u64 },
    /// Give a tar for its compressed bytes.
    Decompress,
}

impl Job<BorrowedFd<'_>> {
    /// # Errors
    /// As sendmsg(2); `InvalidInput` for a name that is too long.
    pub(super) fn send(&self, to: BorrowedFd<'_>) -> io::Result<()> {
        let length = u8::try_from(self.layer.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let (limit, kind, descriptors) = match &self.task {
            Task::Unpack { directory, file_bytes_max } => (*file_bytes_max, UNPACK, vec![*directory]),
            Task::Decompress => (0, DECOMPRESS, Vec::new()),
        };
        let bytes = [&limit.to_le_bytes()[..], &[kind, length], self.layer.as_bytes()].concat();
        // It is small, and the first: it fits.
        match fdpass::send(to, &bytes, &descriptors)? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

impl Job<OwnedFd> {
    /// Reads a job and no byte of what comes after it.
    ///
    /// # Errors
    /// As recvmsg(2); `UnexpectedEof` and `InvalidData` for what is no job.
    pub(super) fn receive(mut from: &File) -> io::Result<Self> {
        let mut head = [0; HEAD_BYTES];
        let mut descriptors = Vec::new();
        let got = fdpass::receive(from.as_fd(), &mut head, &mut descriptors)?;
        from.read_exact(&mut head[got..])?;
        let (limit, rest) = head.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
        let [kind, length] = *rest else { return Err(io::ErrorKind::InvalidData.into()) };
        let mut layer = vec![0; length.into()];
        from.read_exact(&mut layer)?;
        let layer = String::from_utf8(layer).map_err(|_| io::ErrorKind::InvalidData)?;
        let task = match (kind, descriptors.pop()) {
            (UNPACK, Some(directory)) => {
                Task::Unpack { directory, file_bytes_max: u64::from_le_bytes(*limit) }
            }
            (DECOMPRESS, None) => Task::Decompress,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        Ok(Self { layer, task })
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn a_job_is_read_to_its_end_and_no_further() {
        let root = File::open("/").unwrap();
        let tasks = [Task::Unpack { directory: root.as_fd(), file_bytes_max: 1 << 40 }, Task::Decompress];
        for task in tasks {
            let (ours, theirs) = UnixStream::pair().unwrap();
            Job { layer: "sha256:ab".into(), task }.send(ours.as_fd()).unwrap();
            (&ours).write_all(b"tar").unwrap();
            drop(ours);
            let theirs = File::from(OwnedFd::from(theirs));
            let received = Job::receive(&theirs).unwrap();
            assert_eq!(received.layer, "sha256:ab");
            if let Task::Unpack { directory, file_bytes_max } = received.task {
                assert_eq!(file_bytes_max, 1 << 40);
                assert!(File::from(directory).metadata().unwrap().is_dir());
            }
            assert_eq!(io::read_to_string(theirs).unwrap(), "tar");
        }
    }

    #[test]
    fn a_directory_goes_with_a_job_that_needs_one_and_with_no_other() {
        let root = File::open("/").unwrap();
        for (kind, descriptors) in [(UNPACK, &[][..]), (DECOMPRESS, &[root.as_fd()]), (b'x', &[])] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let bytes = [&[0; 8][..], &[kind, 0]].concat();
            fdpass::send(ours.as_fd(), &bytes, descriptors).unwrap();
            let error = Job::receive(&File::from(OwnedFd::from(theirs))).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{kind}");
        }
    }
}
