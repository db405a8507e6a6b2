//! How a container ended, decided once: after its init was reaped, before its cgroup is removed.

use crate::{
    cgroup::OomCounts,
    model::{Exit, ExitReason, UnixNanos},
    sys::process::Ended,
};

/// Nanoseconds after an OOM kill within which an init that fails is taken to have failed because of it: a
/// shell whose child was killed.
const BLAME_NANOS: i64 = 1_000_000_000;
/// SIGKILL.
const KILL: i32 = 9;

/// What was seen right before we sent SIGKILL.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Killed {
    pub(super) oom: OomCounts,
    /// The init had somebody else's SIGKILL already, or was ending.
    pub(super) dying: bool,
    /// It was the only process.
    pub(super) alone: bool,
}

/// What is known when an init has been reaped.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) ended: Ended,
    pub(super) at: UnixNanos,
    /// The counters now.
    pub(super) oom: OomCounts,
    /// When the kernel was first seen to kill in it.
    pub(super) oom_seen_at: Option<UnixNanos>,
    /// What was so when we sent SIGKILL, if we did.
    pub(super) killed: Option<Killed>,
    /// Why it never ran.
    pub(super) start_error: Option<String>,
}

/// The table of docs/ARCHITECTURE.md, "Out of memory".
pub(super) fn decide(end: &End) -> Exit {
    if let Some(message) = &end.start_error {
        return Exit { code: 128, reason: ExitReason::StartError, at: end.at, message: message.clone() };
    }
    let code = end.ended.code();
    let reason = if out_of_memory(end) {
        ExitReason::OOMKilled
    } else if code == 0 {
        ExitReason::Completed
    } else {
        ExitReason::Error
    };
    Exit { code, reason, at: end.at, message: String::new() }
}

fn out_of_memory(end: &End) -> bool {
    if end.oom.oom_group_kill > 0 {
        return true;
    }
    if end.oom.oom_kill == 0 {
        return false;
    }
    match (end.ended, &end.killed) {
        // The kernel was first. Between the look and our signal it has killed an init only if there was nobody
        // else; and after our signal it counts nothing, for what is ending needs no killing.
        (Ended::Signal(KILL), Some(killed)) => {
            killed.dying || (killed.alone && killed.oom.oom_kill < end.oom.oom_kill)
        }
        (Ended::Signal(KILL), None) => true,
        (Ended::Code(0), _) => false,
        _ => end.oom_seen_at.is_some_and(|seen| end.at.0.saturating_sub(seen.0) <= BLAME_NANOS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn end(ended: Ended, oom_kill: u64) -> End {
        End {
            ended,
            at: UnixNanos(100 * SECOND),
            oom: OomCounts { oom_kill, oom_group_kill: 0 },
            oom_seen_at: None,
            killed: None,
            start_error: None,
        }
    }

    fn reason(end: &End) -> (i32, ExitReason) {
        let exit = decide(end);
        (exit.code, exit.reason)
    }

    #[test]
    fn the_table_of_exits() {
        use ExitReason::{Completed, Error, OOMKilled};
        assert_eq!(reason(&end(Ended::Code(0), 0)), (0, Completed));
        assert_eq!(reason(&end(Ended::Code(3), 0)), (3, Error));
        assert_eq!(reason(&end(Ended::Signal(15), 0)), (143, Error));
        assert_eq!(reason(&end(Ended::Signal(9), 0)), (137, Error));
        assert_eq!(reason(&end(Ended::Signal(9), 1)), (137, OOMKilled));
        assert_eq!(reason(&end(Ended::Code(0), 1)), (0, Completed));
        assert_eq!(reason(&end(Ended::Code(1), 1)), (1, Error));
    }

    #[test]
    fn a_group_kill_is_always_out_of_memory() {
        let mut end = end(Ended::Code(0), 1);
        end.oom.oom_group_kill = 1;
        assert_eq!(reason(&end), (0, ExitReason::OOMKilled));
    }

    #[test]
    fn a_shell_that_fails_within_a_second_of_the_kill_is_out_of_memory() {
        let mut end = end(Ended::Code(137), 1);
        end.oom_seen_at = Some(UnixNanos(99 * SECOND));
        assert_eq!(reason(&end), (137, ExitReason::OOMKilled));
        end.oom_seen_at = Some(UnixNanos(99 * SECOND - 1));
        assert_eq!(reason(&end), (137, ExitReason::Error));
    }

    #[test]
    fn of_two_kills_the_first_is_the_cause() {
        use ExitReason::{Error, OOMKilled};
        // (kills before ours, after it, the init was dying, it was alone)
        let cases = [
            ((0, 0, false, true), Error),
            ((2, 2, false, false), Error),
            ((1, 1, true, true), OOMKilled),
            ((1, 1, true, false), OOMKilled),
            ((0, 1, false, true), OOMKilled),
            ((0, 1, false, false), Error),
            ((0, 0, true, true), Error),
        ];
        for ((before, after, dying, alone), expected) in cases {
            let mut end = end(Ended::Signal(9), after);
            let oom = OomCounts { oom_kill: before, oom_group_kill: 0 };
            end.killed = Some(Killed { oom, dying, alone });
            assert_eq!(reason(&end), (137, expected), "{end:?}");
        }
    }

    #[test]
    fn what_never_ran_says_why() {
        let mut end = end(Ended::Code(127), 0);
        end.start_error = Some("no such file".into());
        let exit = decide(&end);
        assert_eq!(
            (exit.code, exit.reason, exit.message.as_str()),
            (128, ExitReason::StartError, "no such file")
        );
    }
}
