//! StopContainer: a signal, a grace that only shrinks, and killing until it has worked.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::error;

use super::{
    container::Removal,
    driver::{Driver, Link, Reply, send_all},
    effect,
    error::Error,
    state::{KillAt, PodState},
    view::ContainerState,
};
use crate::model::{ContainerId, Exit, Failure, Stage};

/// Rounds of killing, two seconds each and more, after which those who wait are told that it does not die.
/// The killing goes on.
const KILL_ROUNDS_QUIET_MAX: u32 = 5;

/// A stop on the way.
#[derive(Debug)]
pub(super) struct Stop {
    kill_at: KillAt,
    /// Rounds of killing so far; `None` before the first.
    rounds: Option<u32>,
    pub(super) replies: Vec<Reply<()>>,
}

impl Driver {
    pub(super) fn stop(&mut self, id: &ContainerId, grace: Duration, reply: Reply<()>) {
        let Some(at) = self.find(id) else { return drop(reply.send(Ok(()))) };
        let container = &mut self.containers[at];
        let now = Instant::now();
        let grace = match container.view.state {
            ContainerState::Exited { .. } => return drop(reply.send(Ok(()))),
            // It has no workload that could use the time.
            ContainerState::Created { .. } if container.start.is_none() => Duration::ZERO,
            ContainerState::Created { .. } | ContainerState::Running { .. } => grace,
        };
        let changed = match &mut container.stop {
            None => {
                let kill_at = KillAt::after(now, grace);
                container.stop = Some(Stop { kill_at, rounds: None, replies: vec![reply] });
                if !grace.is_zero() {
                    self.signal(at);
                }
                true
            }
            Some(stop) => {
                stop.replies.push(reply);
                stop.kill_at.again(now, grace) && stop.rounds.is_none()
            }
        };
        if changed && grace.is_zero() {
            self.kill(at);
        } else if changed {
            self.push(effect::kill_timer(id.clone(), now + grace.min(effect::TIMER_MAX)));
        }
    }

    fn signal(&mut self, at: usize) {
        let view = &self.containers[at].view;
        let (id, signal, init) = (view.id.clone(), view.stop_signal, self.init(at));
        self.push(effect::signal(self.client(), id, signal, init));
    }

    /// How the daemon finds the init itself. With the supervisor gone it may have been reaped.
    pub(super) fn init(&self, at: usize) -> Option<effect::Init> {
        match (&self.link, self.containers[at].view.state.pid()) {
            (Link::Up(_) | Link::Lost, Some(pid)) => Some(effect::Init { pid, parent: self.supervisor_pid }),
            (Link::Gone, _) | (_, None) => None,
        }
    }

    pub(super) fn kill_due(&mut self, id: &ContainerId) {
        let Some(at) = self.find(id) else { return };
        let Some(stop) = &self.containers[at].stop else { return };
        if stop.rounds.is_some() {
            return;
        }
        let now = Instant::now();
        if stop.kill_at.instant() <= now {
            self.kill(at);
        } else {
            // A timer is never set for longer than a day.
            let next = stop.kill_at.instant().min(now + effect::TIMER_MAX);
            self.push(effect::kill_timer(id.clone(), next));
        }
    }

    /// Begins to kill, once.
    pub(super) fn kill(&mut self, at: usize) {
        let container = &mut self.containers[at];
        if container.view.state.is_exited() {
            return;
        }
        let new =
            || Stop { kill_at: KillAt::after(Instant::now(), Duration::ZERO), rounds: None, replies: vec![] };
        let stop = container.stop.get_or_insert_with(new);
        if stop.rounds.is_none() {
            stop.rounds = Some(0);
            self.kill_round(at, 0);
        }
    }

    pub(super) fn kill_all(&mut self) {
        for at in 0..self.containers.len() {
            self.kill(at);
        }
    }

    fn kill_round(&mut self, at: usize, round: u32) {
        let (id, init) = (self.containers[at].view.id.clone(), self.init(at));
        self.push(effect::kill_round(Arc::clone(&self.pod), self.client(), id, init, round));
    }

    /// `end` is how it ended, when that could be found out without the supervisor's word.
    pub(super) async fn kill_checked(&mut self, id: &ContainerId, end: Option<Exit>) {
        let Some(at) = self.find(id) else { return };
        if self.containers[at].view.state.is_exited() {
            return;
        }
        if let Some(end) = end {
            return self.exited(at, end).await;
        }
        let Some(rounds) = self.containers[at].stop.as_mut().and_then(|stop| stop.rounds.as_mut()) else {
            return;
        };
        *rounds += 1;
        let round = *rounds;
        if round == KILL_ROUNDS_QUIET_MAX {
            self.report_undying(at);
        }
        self.kill_round(at, round);
    }

    /// A process in uninterruptible sleep: those who wait are told, and nobody else is held up.
    fn report_undying(&mut self, at: usize) {
        let view = Arc::clone(&self.containers[at].view);
        error!(pod = %self.pod.id, container = %view.id, pid = view.state.pid(), "container does not die");
        let late = || {
            Error::Supervisor(Failure {
                stage: Stage::Deadline,
                object: format!("kill of container {}", view.id),
                errno: 0,
                path: String::new(),
                text: format!("process {} does not end", view.state.pid().unwrap_or(0)),
            })
        };
        let container = &mut self.containers[at];
        let mut waiting =
            container.stop.as_mut().map(|stop| std::mem::take(&mut stop.replies)).unwrap_or_default();
        if let Removal::AfterExit(replies) = &mut container.removal {
            waiting.append(replies);
        }
        send_all(waiting.into_iter(), late());
        if self.state == PodState::Stopping {
            self.fail_pod_calls(late());
        }
    }
}
