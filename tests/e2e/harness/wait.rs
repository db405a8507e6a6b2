//! Waits that ask about a level, and have an end.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Longer than anything sound takes on a busy machine of two cores.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);

/// Short beside what is waited for, long beside what asking costs.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `ready`; the test fails after [`WAIT_MAX`].
#[track_caller]
pub(crate) fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT_MAX;
    while !ready() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        thread::sleep(POLL);
    }
}

/// Waits until two values are equal; the test fails after [`WAIT_MAX`] and shows both.
#[track_caller]
pub(crate) fn wait_for<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &T,
    mut value: impl FnMut() -> T,
) {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let now = value();
        if now == *expected {
            return;
        }
        assert!(Instant::now() < deadline, "timed out: {what}: {now:#?} is not {expected:#?}");
        thread::sleep(POLL);
    }
}
