//! The worker's side: one job, and the end.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Write as _},
    os::fd::OwnedFd,
    sync::Arc,
};

use super::{
    super::{
        content,
        unpack::{self, Archive, LayerError, Limits},
    },
    answer::Answer,
    confinement,
    job::{Job, Task},
    piece::{self, PIECE_BYTES_MAX},
};
use crate::{
    failpoint,
    sys::{
        process::{self, OneThread},
        title,
    },
};

/// The life of a worker, in the process that was just forked for it: takes its job and what that is about from
/// `connection`, and answers there.
pub fn worker_main(connection: OwnedFd, one_thread: OneThread) -> ! {
    let connection = Arc::new(File::from(connection));
    let is_done = match Job::receive(&connection) {
        Ok(Job { layer, task: Task::Unpack { directory, file_bytes_max } }) => {
            name(&format!("pintle: image worker of {layer}"));
            report_panics(connection.clone(), |reason| {
                let mut answer = Vec::new();
                // Memory takes all that is written to it.
                let _written: io::Result<()> = Answer::failed(reason).write(&mut answer);
                answer
            });
            let root = confinement::enter(directory, &connection, file_bytes_max, one_thread);
            unpack(&connection, root, file_bytes_max)
        }
        Ok(Job { layer, task: Task::Decompress }) => {
            name(&format!("pintle: decompressor of {layer}"));
            report_panics(connection.clone(), |reason| piece::failure(&reason));
            decompress(&connection, confinement::enter_without_files(&connection, one_thread))
        }
        Err(_) => false,
    };
    process::exit_now(i32::from(!is_done))
}

/// As [`worker_main`], in a thread of a test.
#[cfg(test)]
pub(super) fn work_in_thread(connection: OwnedFd) {
    let connection = File::from(connection);
    match Job::receive(&connection).map(|job| job.task) {
        Ok(Task::Unpack { directory, file_bytes_max }) => {
            unpack(&connection, Ok(directory), file_bytes_max);
        }
        Ok(Task::Decompress) => {
            decompress(&connection, Ok(()));
        }
        Err(_) => {}
    }
}

/// Makes the layer's files below `root`. Whether they are all there; it has answered then.
fn unpack(connection: &File, root: io::Result<OwnedFd>, file_bytes_max: u64) -> bool {
    let answer = match root {
        Ok(root) => {
            failpoint!("image.worker-confined");
            let unpacked: Result<_, LayerError> =
                unpack::unpack(&mut Archive::new(connection), root, Limits { file_bytes_max });
            unpacked.map_or_else(|error| Answer::failure(&error), Answer::Done)
        }
        Err(error) => Answer::failed(not_confined(&error)),
    };
    let is_done = matches!(answer, Answer::Done(_));
    // A daemon that does not listen has given the layer up.
    let _heard: io::Result<()> = answer.write(BufWriter::new(connection));
    is_done
}

/// Gives the tar of what is compressed. Whether all of it was.
fn decompress(mut connection: &File, confined: io::Result<()>) -> bool {
    let compressed = BufReader::with_capacity(PIECE_BYTES_MAX, connection);
    let tar = confined.map_err(|error| io::Error::other(not_confined(&error))).and_then(|()| {
        failpoint!("image.decompressor-confined");
        content::unpacked(compressed)
    });
    let given = match tar {
        Ok(tar) => piece::write_all(tar, &mut connection),
        Err(error) => connection.write_all(&piece::failure(&error.to_string())),
    };
    // A daemon that does not listen has given the layer up.
    given.is_ok()
}

fn not_confined(error: &io::Error) -> String {
    format!("an image worker could not be confined: {error}")
}

/// Shows people what this process does.
fn name(line: &str) {
    // It works as well under another name.
    let _named: io::Result<()> = title::set(line, "pintle:image");
}

/// The reason of a panic is this worker's answer, in the form that `answer` gives it.
fn report_panics(connection: Arc<File>, answer: fn(String) -> Vec<u8>) {
    std::panic::set_hook(Box::new(move |panic| {
        let bytes = answer(format!("the process that works on it failed: {panic}"));
        // The end of the process says it too.
        let _heard: io::Result<()> = (&*connection).write_all(&bytes);
    }));
}
