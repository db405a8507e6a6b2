//! Reports of pintle about itself: log lines, task names, failpoints.
//!
//! - `log`: where lines go and in which form. Set up once, by the daemon.
//! - `queue`: how they get there without anyone waiting; `journal`: the systemd journal as a place to go.
//! - `repeat`: what was logged already, to be counted from then on.
//! - `task`: the only way to spawn a task or to run what blocks; a panic is logged with the name of its task.
//! - `failpoint`: named points at which a test may kill, delay or fail a process; empty in a release build.
//!
//! Invariant: nothing here writes to stdout; that belongs to `cli`.
//! Invariant: the environment is read at start only, so a forked supervisor needs none of it.
//! Not here: logs of containers (`logs`).

#[cfg(feature = "failpoints")]
pub mod failpoint;
mod journal;
pub mod log;
mod queue;
pub mod repeat;
pub mod task;

/// Reads `PINTLE_FAILPOINTS` and the variables like it; called once, first thing in each process that was
/// executed. Forked processes inherit what was read. Does nothing without the feature `failpoints`.
pub fn read_failpoints() {
    #[cfg(feature = "failpoints")]
    failpoint::read();
}

/// The variables that a process with an empty environment must get for [`read_failpoints`]. Empty
/// without the feature `failpoints`.
pub fn failpoint_environment() -> Vec<(&'static str, std::ffi::OsString)> {
    #[cfg(feature = "failpoints")]
    return failpoint::environment();
    #[cfg(not(feature = "failpoints"))]
    return Vec::new();
}

/// The folder that stands in for SELinux where a test runs on a kernel without it (`PINTLE_SELINUX`). `None` without the
/// feature `failpoints`.
pub fn selinux_stand_in() -> Option<&'static std::path::Path> {
    #[cfg(feature = "failpoints")]
    return failpoint::selinux();
    #[cfg(not(feature = "failpoints"))]
    return None;
}

/// A named point at which a test may kill, delay or fail this process: `failpoint!("image.layer-renamed");`.
/// The name is `noun.step`, in lower case with dashes. Nothing in a release build.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        ()
    };
}

/// A named point at which a test may kill, delay or fail this process: `failpoint!("image.layer-renamed");`.
/// The name is `noun.step`, in lower case with dashes.
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::telemetry::failpoint::pass($name)
    };
}

/// As [`failpoint!`], and a test may also have it fail: an `io::Result<()>`, always `Ok` in a release build.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! failpoint_error {
    ($name:literal) => {
        ::std::io::Result::Ok(())
    };
}

/// As [`failpoint!`], and a test may also have it fail: an `io::Result<()>`.
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! failpoint_error {
    ($name:literal) => {
        $crate::telemetry::failpoint::fail($name)
    };
}
