//! The way out for log lines: a bounded queue, and one thread that writes.
//!
//! A line is logged on any thread, those of the async runtime included, and its reader may be anyone: a pipe
//! that nobody reads, a journal that was stopped, a terminal that was halted. So logging only puts the line
//! here and never waits. What does not fit is dropped and counted; when lines flow again, a line says how many
//! are missing.
//!
//! `tracing-appender` has such a queue. It was not taken: it bounds lines and not bytes, does not count what its
//! writer fails to write, reports nothing by itself, prints to stdout when the writer is stuck at exit, and
//! cannot carry what the journal is sent.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::{self, ThreadId},
    time::Duration,
};

/// Bytes of lines that wait for their reader: some five thousand lines, far more than pintle logs in one go.
pub(super) const BYTES_MAX: usize = 1 << 20;

/// The cost of a waiting line beside its bytes: its place in the queue.
const LINE_COST_BYTES: usize = 64;

/// Lines flow again when the queue is down to this: a reader that takes one line now and then is still too slow.
const FLOWING_BYTES_MAX: usize = BYTES_MAX / 2;

/// Lines on their way out.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    writer: OnceLock<ThreadId>,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// A line was taken from the queue and is not written yet.
    writing: bool,
    /// Lines that were dropped or could not be written, since the start.
    lost: u64,
    /// How many of them are reported.
    reported: u64,
}

impl Queue {
    /// Starts the thread that hands each line to `write`. After losses, `report` is called on it with the number
    /// of lines that are missing; what it logs is never dropped.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(
        self: &Arc<Self>,
        write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<()> {
        let queue = Arc::clone(self);
        let body = move || queue.write_out(write, report);
        thread::Builder::new().name("log".into()).spawn(body).map(drop)
    }

    /// Puts a line into the queue, or counts it as lost. Never waits.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        let bytes = state.bytes + cost(line);
        if bytes > BYTES_MAX && self.writer.get() != Some(&thread::current().id()) {
            state.lost += 1;
            return;
        }
        state.bytes = bytes;
        state.lines.push_back(line.into());
        self.changed.notify_all();
    }

    /// Waits until every line is written, but no longer than `wait_max`; whether they are.
    pub(super) fn flush(&self, wait_max: Duration) -> bool {
        let waiting = |state: &mut State| state.writing || !state.lines.is_empty();
        let outcome = self.changed.wait_timeout_while(self.lock(), wait_max, waiting);
        !outcome.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Lines that were lost since the start.
    pub(super) fn lost(&self) -> u64 {
        self.lock().lost
    }

    fn write_out(&self, mut write: impl FnMut(&[u8]) -> io::Result<()>, report: impl Fn(u64)) {
        self.writer.get_or_init(|| thread::current().id());
        loop {
            let line = self.take();
            let written = write(&line);
            if let Some(lost) = self.taken_care_of(written.is_ok()) {
                report(lost);
            }
        }
    }

    /// The next line, once there is one.
    fn take(&self) -> Box<[u8]> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= cost(&line);
                state.writing = true;
                return line;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes the end of one line. If lines flow again after losses: how many were lost.
    fn taken_care_of(&self, written: bool) -> Option<u64> {
        let mut state = self.lock();
        state.writing = false;
        if !written {
            state.lost += 1;
        }
        self.changed.notify_all();
        let flows = written && state.bytes <= FLOWING_BYTES_MAX;
        let unreported = state.lost - state.reported;
        (flows && unreported > 0).then(|| {
            state.reported = state.lost;
            unreported
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cost(line: &[u8]) -> usize {
    line.len() + LINE_COST_BYTES
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, Sender};

    use super::*;

    /// Longer than a thread that works takes.
    const WAIT_MAX: Duration = Duration::from_secs(10);

    /// A queue whose reader takes a line for each permit, and says what it took.
    struct Reader {
        queue: Arc<Queue>,
        permits: Sender<bool>,
        read: Receiver<String>,
    }

    /// `permit`: whether the line can be written.
    fn reader() -> Reader {
        let ((permits, permitted), (said, read)) = (mpsc::channel(), mpsc::channel());
        let queue = Arc::new(Queue::default());
        let write = move |line: &[u8]| {
            if !permitted.recv().unwrap_or(true) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            said.send(String::from_utf8_lossy(line).into_owned()).map_err(io::Error::other)
        };
        let reports = Arc::clone(&queue);
        queue.start(write, move |lost| reports.push(format!("{lost} lost").as_bytes())).unwrap();
        Reader { queue, permits, read }
    }

    impl Reader {
        fn read(&self) -> String {
            self.permits.send(true).unwrap();
            self.read.recv_timeout(WAIT_MAX).unwrap()
        }

        /// Fills the queue behind a line that is being written, and loses three lines.
        fn overflow(&self) -> usize {
            self.queue.push(b"first");
            while !self.queue.lock().writing {
                thread::yield_now();
            }
            let line = [b'x'; 1000];
            let fitting = BYTES_MAX / cost(&line);
            (0..fitting + 3).for_each(|_| self.queue.push(&line));
            assert_eq!(self.queue.lost(), 3);
            fitting
        }
    }

    #[test]
    fn lines_are_written_in_their_order() {
        let reader = reader();
        ["one", "two", "three"].iter().for_each(|line| reader.queue.push(line.as_bytes()));
        assert_eq!([reader.read(), reader.read(), reader.read()], ["one", "two", "three"]);
        assert!(reader.queue.flush(WAIT_MAX));
        assert_eq!(reader.queue.lost(), 0);
    }

    #[test]
    fn what_nobody_reads_is_dropped_and_counted_and_said_once_when_lines_flow_again() {
        let reader = reader();
        let fitting = reader.overflow();
        let read: Vec<String> = (0..fitting + 2).map(|_| reader.read()).collect();
        assert_eq!(read[0], "first");
        let reports: Vec<_> = read.iter().filter(|line| line.ends_with("lost")).collect();
        assert_eq!(reports, ["3 lost"]);
        // Not before half of what waited was read.
        assert!(read.iter().position(|line| line.ends_with("lost")).unwrap() > fitting / 2);
        assert!(reader.queue.flush(WAIT_MAX));
    }

    #[test]
    fn a_line_that_cannot_be_written_is_lost_too() {
        let reader = reader();
        reader.queue.push(b"one");
        reader.queue.push(b"two");
        reader.permits.send(false).unwrap();
        assert_eq!([reader.read(), reader.read()], ["two", "1 lost"]);
        assert_eq!(reader.queue.lost(), 1);
    }

    #[test]
    fn the_last_lines_are_waited_for_but_not_for_ever() {
        let reader = reader();
        reader.queue.push(b"last");
        assert!(!reader.queue.flush(Duration::from_millis(1)));
        assert_eq!(reader.read(), "last");
        assert!(reader.queue.flush(WAIT_MAX));
    }

    #[test]
    fn a_line_that_could_never_fit_is_lost_alone() {
        let reader = reader();
        reader.queue.push(&vec![b'x'; BYTES_MAX]);
        reader.queue.push(b"next");
        assert_eq!([reader.read(), reader.read()], ["next", "1 lost"]);
    }
}
