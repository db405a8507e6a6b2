//! How a container is ended: a signal, a grace that only shrinks, and killing until it has worked.

use std::time::{Duration, Instant};

use super::{
    ledger::Ledger,
    order::{Notice, Order, Ticket, Work},
    pod::PodState,
};
use crate::model::{ContainerId, Exit, Failure, Stage};

/// Rounds of killing, two seconds each and more, after which those who wait get an error: it does not die.
/// The killing goes on.
pub(super) const KILL_ROUNDS_QUIET_MAX: u32 = 5;

/// A century.
const GRACE_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The end of a container that is on the way, and who waits for it.
#[derive(Debug)]
pub(super) struct Ending {
    kill: Kill,
    /// Whether it has ended is being found out without its supervisor.
    searching: bool,
    pub(super) stops: Vec<Ticket>,
    /// `Some`: it is to be erased when it has ended.
    pub(super) removes: Option<Vec<Ticket>>,
}

/// Where the killing stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kill {
    /// Not begun.
    At(KillAt),
    /// It was killed with its pod.
    WithPod,
    /// This many rounds are over.
    Rounds(u32),
}

impl Ending {
    /// One that kills when `grace` is over.
    pub(super) fn after(now: Instant, grace: Duration) -> Self {
        Self { kill: Kill::At(KillAt::after(now, grace)), searching: false, stops: Vec::new(), removes: None }
    }

    /// A further stop: a shorter grace counts, a longer one changes nothing, and what is being killed is.
    pub(super) fn again(&mut self, now: Instant, grace: Duration) {
        if let Kill::At(at) = &mut self.kill {
            at.again(now, grace);
        }
    }

    /// When the killing is to begin; `None`: it has begun.
    pub(super) fn kill_at(&self) -> Option<Instant> {
        match self.kill {
            Kill::At(at) => Some(at.instant()),
            Kill::WithPod | Kill::Rounds(_) => None,
        }
    }

    /// Begins the killing. `false`: it has begun before.
    pub(super) fn begin(&mut self) -> bool {
        let fresh = matches!(self.kill, Kill::At(_));
        if fresh {
            self.kill = Kill::Rounds(0);
        }
        fresh
    }

    /// Begins to search for its end. `false`: that is going on already.
    pub(super) fn search(&mut self) -> bool {
        if let Kill::At(_) = self.kill {
            self.kill = Kill::WithPod;
        }
        !std::mem::replace(&mut self.searching, true)
    }

    /// It has not ended: rounds of killing follow. `false`: they are under way already.
    pub(super) fn search_failed(&mut self) -> bool {
        self.searching = false;
        let killed_with_pod = self.kill == Kill::WithPod;
        if killed_with_pod {
            self.kill = Kill::Rounds(0);
        }
        killed_with_pod
    }

    /// A round is over and has not helped: the number of the next. `None`: there was none.
    fn next_round(&mut self) -> Option<u32> {
        match &mut self.kill {
            Kill::At(_) | Kill::WithPod => None,
            Kill::Rounds(rounds) => {
                *rounds = rounds.saturating_add(1);
                Some(*rounds)
            }
        }
    }

    /// All who wait for the end. It stays to be erased.
    pub(super) fn take_waiting(&mut self) -> Vec<Ticket> {
        let mut waiting = std::mem::take(&mut self.stops);
        waiting.append(self.removes.as_mut().unwrap_or(&mut Vec::new()));
        waiting
    }
}

/// The error for those who wait for a container's end that does not come.
pub(super) fn undying(id: &ContainerId, pid: Option<u32>) -> Failure {
    Failure {
        stage: Stage::Deadline,
        object: format!("kill of container {id}"),
        errno: 0,
        path: String::new(),
        text: format!("process {} does not end", pid.unwrap_or(0)),
    }
}

/// When a container that is being stopped will be killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct KillAt(Instant);

impl KillAt {
    fn after(now: Instant, grace: Duration) -> Self {
        // A grace that no clock can hold is one nobody will see the end of.
        Self(now.checked_add(grace).unwrap_or(now + GRACE_MAX))
    }

    /// `true` if it was shortened.
    fn again(&mut self, now: Instant, grace: Duration) -> bool {
        let other = Self::after(now, grace);
        let shorter = other.0 < self.0;
        if shorter {
            *self = other;
        }
        shorter
    }

    fn instant(self) -> Instant {
        self.0
    }
}

impl Ledger {
    pub(super) fn stop(&mut self, ticket: Ticket, id: &ContainerId, grace: Duration, now: Instant) {
        let Some(at) = self.find(id) else { return self.reply(ticket) };
        let link = self.state.link();
        let container = &mut self.containers[at];
        if container.is_exited() {
            return self.reply(ticket);
        }
        let grace = container.usable_grace(grace);
        let first = container.stop(ticket, now, grace);
        if first && !grace.is_zero() {
            let (view, init) = (container.shown(), container.init(link));
            let (id, signal) = (view.id.clone(), view.stop_signal);
            self.work(Work::Signal { id, signal, init });
        }
    }

    /// Begins to kill those whose grace is over.
    pub(super) fn kill_due(&mut self, now: Instant) {
        for at in 0..self.containers.len() {
            let due = self.containers[at].ending().and_then(Ending::kill_at);
            if due.is_some_and(|due| due <= now) {
                self.kill(at, now);
            }
        }
    }

    pub(super) fn kill_all(&mut self, now: Instant) {
        for at in 0..self.containers.len() {
            self.kill(at, now);
        }
    }

    /// Begins to kill, once.
    pub(super) fn kill(&mut self, at: usize, now: Instant) {
        if self.containers[at].kill(now) {
            self.kill_round(at, 0);
        }
    }

    pub(super) fn kill_round(&mut self, at: usize, round: u32) {
        let container = &self.containers[at];
        let (id, init) = (container.id().clone(), container.init(self.state.link()));
        self.work(Work::KillRound { id, init, round });
    }

    /// `end` is how it ended, when that could be found out without the supervisor's word.
    pub(super) fn kill_checked(&mut self, id: &ContainerId, end: Option<Exit>) {
        let Some(at) = self.find(id) else { return };
        if self.containers[at].is_exited() {
            return;
        }
        if let Some(end) = end {
            return self.exited(at, end);
        }
        let Some(round) = self.containers[at].ending_mut().and_then(|ending| ending.next_round()) else {
            return;
        };
        if round == KILL_ROUNDS_QUIET_MAX {
            self.report_undying(at);
        }
        self.kill_round(at, round);
    }

    /// A process in uninterruptible sleep: those who wait get an error, and nobody else is held up.
    fn report_undying(&mut self, at: usize) {
        let container = &mut self.containers[at];
        let (id, pid) = (container.id().clone(), container.shown().state.pid());
        let waiting = container.ending_mut().map(|ending| ending.take_waiting()).unwrap_or_default();
        self.refuse_all(waiting, undying(&id, pid).into());
        if matches!(self.state, PodState::Stopping(_)) {
            self.fail_pod_calls(undying(&id, pid).into());
        }
        self.orders.push(Order::Notice(Notice::Undying { id, pid }));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_moment_of_the_kill_only_comes_nearer(calls in prop::collection::vec((0u64..1000, 0u64..1000), 1..20)) {
            let start = Instant::now();
            let mut kill = KillAt::after(start, Duration::from_secs(500));
            let mut earliest = Duration::from_secs(500);
            for (at, grace) in calls {
                let before = kill;
                let due = Duration::from_secs(at + grace);
                let shortened = kill.again(start + Duration::from_secs(at), Duration::from_secs(grace));
                prop_assert_eq!(shortened, due < earliest);
                earliest = earliest.min(due);
                prop_assert_eq!(kill.instant(), start + earliest);
                prop_assert!(kill.instant() <= before.instant());
            }
        }
    }

    #[test]
    fn an_endless_grace_is_no_panic() {
        KillAt::after(Instant::now(), Duration::MAX);
    }
}
