//! The worker's side: one job, and the end.

use std::{
    fs::File,
    io::{self, BufWriter, Read as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
};

use super::{
    super::unpack::{self, Archive, LayerError, Limits},
    answer::Answer,
    confinement,
};
use crate::{
    failpoint,
    sys::{
        fdpass,
        process::{self, OneThread},
        title,
    },
};

/// Bytes of a job before the name of its layer.
const JOB_BYTES: usize = 8 + 1;

/// The job of a worker; the layer's directory goes with it.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Job {
    /// For people.
    pub(super) layer: String,
    pub(super) file_bytes_max: u64,
}

impl Job {
    /// # Errors
    /// As sendmsg(2); `InvalidInput` for a name that is too long.
    pub(super) fn send(&self, to: BorrowedFd<'_>, directory: &OwnedFd) -> io::Result<()> {
        let length = u8::try_from(self.layer.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let bytes = [&self.file_bytes_max.to_le_bytes()[..], &[length], self.layer.as_bytes()].concat();
        // It is small, and the first: it fits.
        match fdpass::send(to, &bytes, &[directory.as_fd()])? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Reads a job and no byte of what comes after it.
    fn receive(mut from: &File) -> io::Result<(Self, OwnedFd)> {
        let mut head = [0; JOB_BYTES];
        let mut descriptors = Vec::new();
        let got = fdpass::receive(from.as_fd(), &mut head, &mut descriptors)?;
        from.read_exact(&mut head[got..])?;
        let (limit, length) = head.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
        let mut layer = vec![0; length.first().copied().unwrap_or_default().into()];
        from.read_exact(&mut layer)?;
        let layer = String::from_utf8(layer).map_err(|_| io::ErrorKind::InvalidData)?;
        let directory = descriptors.pop().ok_or(io::ErrorKind::InvalidData)?;
        Ok((Self { layer, file_bytes_max: u64::from_le_bytes(*limit) }, directory))
    }
}

/// The life of a worker, in the process that was just forked for it: takes its job and the tar from `connection`, and
/// answers there.
pub fn worker_main(connection: OwnedFd, one_thread: OneThread) -> ! {
    let connection = Arc::new(File::from(connection));
    report_panics(connection.clone());
    let answer = work(&connection, |directory, job| {
        // What it is called is for people.
        let _named: io::Result<()> =
            title::set(&format!("pintle: image worker of {}", job.layer), "pintle:image");
        confinement::enter(directory, &connection, job.file_bytes_max, one_thread)
    });
    let code = i32::from(!matches!(answer, Ok(Answer::Done(_))));
    if let Ok(answer) = answer {
        // A daemon that does not listen has given the layer up.
        let _heard: io::Result<()> = answer.write(BufWriter::new(&*connection));
    }
    process::exit_now(code)
}

/// As [`worker_main`], in a thread of a test.
#[cfg(test)]
pub(super) fn work_in_thread(connection: OwnedFd) {
    let connection = File::from(connection);
    if let Ok(answer) = work(&connection, |directory, _| Ok(directory)) {
        let _heard: io::Result<()> = answer.write(BufWriter::new(&connection));
    }
}

/// Takes a job and does it in the directory that `confine` makes of the job's. An error: there was no job.
fn work(connection: &File, confine: impl FnOnce(OwnedFd, &Job) -> io::Result<OwnedFd>) -> io::Result<Answer> {
    let (job, directory) = Job::receive(connection)?;
    let root = match confine(directory, &job) {
        Ok(root) => root,
        Err(error) => {
            let reason = format!("an image worker could not be confined: {error}");
            return Ok(Answer::Failed { is_full: false, reason });
        }
    };
    failpoint!("image.worker-confined");
    let limits = Limits { file_bytes_max: job.file_bytes_max };
    let unpacked: Result<_, LayerError> = unpack::unpack(&mut Archive::new(connection), root, limits);
    Ok(unpacked.map_or_else(|error| Answer::failure(&error), Answer::Done))
}

/// The reason of a panic is this worker's answer.
fn report_panics(connection: Arc<File>) {
    std::panic::set_hook(Box::new(move |panic| {
        let reason = format!("the process that unpacks it failed: {panic}");
        let mut bytes = Vec::new();
        let written = Answer::Failed { is_full: false, reason }.write(&mut bytes);
        // The end of the process says it too.
        let _heard: io::Result<()> = written.and_then(|()| (&*connection).write_all(&bytes));
    }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_job_is_read_to_its_end_and_no_further() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let job = Job { layer: "sha256:ab".into(), file_bytes_max: 1 << 40 };
        job.send(ours.as_fd(), &File::open("/").unwrap().into()).unwrap();
        (&ours).write_all(b"tar").unwrap();
        drop(ours);
        let theirs = File::from(OwnedFd::from(theirs));
        let (received, directory) = Job::receive(&theirs).unwrap();
        assert_eq!(received, job);
        assert!(File::from(directory).metadata().unwrap().is_dir());
        assert_eq!(io::read_to_string(theirs).unwrap(), "tar");
    }
}
