//! Named tasks, and work that blocks. A panic ends the process (`panic = "abort"`); what is left is a log line that says which
//! task it was.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    future, panic, thread,
};

use tokio::task::{self, JoinHandle};
use tracing::error;

use super::log;

tokio::task_local! {
    static NAME: &'static str;
}

/// Spawns a task under a name that shows in the log when it panics.
#[expect(clippy::disallowed_methods, reason = "the one place that may")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(NAME.scope(name, future))
}

/// Runs work that blocks on a thread that is there for it, under a name that shows in the log when it panics,
/// and waits for it. Work whose caller stops waiting goes on.
pub async fn blocking<T: Send + 'static>(name: &'static str, work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(name, work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => panic::resume_unwind(panic),
            // The runtime is shutting down: there is nobody left to answer.
            Err(_) => future::pending().await,
        },
    }
}

/// As [`blocking`], without waiting.
#[expect(clippy::disallowed_methods, reason = "the one place that may")]
pub fn spawn_blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    task::spawn_blocking(move || NAME.sync_scope(name, work))
}

/// The name of the task that runs on this thread, else the thread's.
fn current() -> String {
    NAME.try_with(|name| (*name).to_owned())
        .unwrap_or_else(|_| thread::current().name().unwrap_or("unnamed").to_owned())
}

/// Logs each panic with its task and place before the process ends, in place of the standard library's message:
/// that would wait for whoever reads stderr.
pub fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let cause = panic.payload_as_str().unwrap_or("no message");
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        error!(task = current(), %place, error = cause, backtrace, "panicked, the process ends");
        log::flush();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_knows_its_name_and_the_code_around_it_does_not() {
        assert_eq!(spawn("mailbox", async { current() }).await.unwrap(), "mailbox");
        assert_ne!(current(), "mailbox");
        assert_eq!(blocking("file", current).await, "file");
    }
}
