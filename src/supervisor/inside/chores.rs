//! What would make the event loop wait, done little by little instead: killing on cgroup v1, which takes as long as a
//! cgroup needs to freeze, and the removal of cgroups whose processes do not end.

use std::time::{Duration, Instant};

use super::{event_loop::Supervisor, voice::Level};
use crate::{cgroup, model::ContainerId, telemetry::log::chain};

/// Pause before the second try to remove what was busy, and at most. A process in the kernel's hands ends when a disk
/// or a server answers.
const REMOVAL_PAUSE_MIN: Duration = Duration::from_millis(100);
const REMOVAL_PAUSE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Chores {
    killings: Vec<Killing>,
    removals: Vec<Removal>,
}

/// A killing whose next step is due.
#[derive(Debug)]
struct Killing {
    steps: cgroup::Killing,
    /// The container that it is of; `None`: of a part of one, or of what is left of one.
    of: Option<ContainerId>,
    /// It may be the cause of the container's end.
    explains: bool,
    due: Instant,
}

/// A cgroup that nobody needs any more.
#[derive(Debug)]
struct Removal {
    cgroup: cgroup::Container,
    due: Instant,
    pause: Duration,
    /// It was said that it cannot be removed.
    is_said: bool,
}

impl Chores {
    pub(super) fn next_due(&self) -> Option<Instant> {
        let killings = self.killings.iter().map(|killing| killing.due);
        killings.chain(self.removals.iter().map(|removal| removal.due)).min()
    }

    /// Whether not all of this container have their signal yet.
    pub(super) fn are_killing(&self, id: &ContainerId) -> bool {
        self.killings.iter().any(|killing| killing.of.as_ref() == Some(id))
    }

    /// A cgroup that could not be removed is tried again until it can.
    pub(super) fn remove_later(&mut self, cgroup: cgroup::Container) {
        let (pause, due) = (REMOVAL_PAUSE_MIN, Instant::now() + REMOVAL_PAUSE_MIN);
        self.removals.push(Removal { cgroup, due, pause, is_said: false });
    }
}

impl Supervisor {
    /// SIGKILL to all of a container; on v1 the last of it may come later. `explains`: its end may be due to it.
    pub(super) fn kill_container(&mut self, id: &ContainerId, explains: bool) -> Result<(), cgroup::Error> {
        let Some(container) = self.containers.get_mut(id) else { return Ok(()) };
        let Some(mut steps) = container.begin_kill(explains)? else { return Ok(()) };
        if let Some(pause) = container.kill_further(&mut steps, explains)? {
            let (of, due) = (Some(id.clone()), Instant::now() + pause);
            self.chores.killings.push(Killing { steps, of, explains, due });
        }
        Ok(())
    }

    /// As [`Self::kill_container`], for those who have nobody to give an error to.
    pub(super) fn kill_or_say(&mut self, id: &ContainerId, explains: bool) {
        if let Err(error) = self.kill_container(id, explains) {
            self.say(Level::Warn, Some(id), format!("could not kill all of it: {}", chain(&error)));
        }
    }

    /// As [`Self::kill_container`], of a cgroup that is no container's or no living one's. `false`: the last of it
    /// comes later.
    pub(super) fn kill_cgroup(&mut self, cgroup: &cgroup::Container) -> Result<bool, cgroup::Error> {
        let Some(mut steps) = cgroup.begin_kill(&mut || {})? else { return Ok(true) };
        let Some(pause) = steps.step(&mut || {})? else { return Ok(true) };
        let due = Instant::now() + pause;
        self.chores.killings.push(Killing { steps, of: None, explains: false, due });
        Ok(false)
    }

    /// Does what is due.
    pub(super) fn go_on_with_chores(&mut self, now: Instant) {
        for mut killing in std::mem::take(&mut self.chores.killings) {
            if killing.due > now {
                self.chores.killings.push(killing);
                continue;
            }
            let container = killing.of.as_ref().and_then(|id| self.containers.get_mut(id));
            let stepped = match container {
                Some(container) => container.kill_further(&mut killing.steps, killing.explains),
                None => killing.steps.step(&mut || {}),
            };
            if let Err(error) = &stepped {
                // The daemon finds it alive, and tries itself.
                let text = format!("could not kill all of a cgroup: {}", chain(error));
                self.say(Level::Warn, killing.of.as_ref(), text);
            }
            if let Ok(Some(pause)) = stepped {
                killing.due = now + pause;
                self.chores.killings.push(killing);
            } else if let Some(id) = killing.of {
                self.settle_end(&id);
            }
        }
        for mut removal in std::mem::take(&mut self.chores.removals) {
            if removal.due > now {
                self.chores.removals.push(removal);
                continue;
            }
            // Something of it may have appeared since the first killing.
            let killed = self.kill_cgroup(&removal.cgroup);
            let removed = killed.and_then(|_| removal.cgroup.try_remove());
            if let Err(error) = &removed
                && !std::mem::replace(&mut removal.is_said, true)
            {
                let text = format!("a cgroup could not be removed yet: {}", chain(error));
                self.say(Level::Warn, None, text);
            }
            if !matches!(removed, Ok(true)) {
                removal.pause = (removal.pause * 2).min(REMOVAL_PAUSE_MAX);
                removal.due = now + removal.pause;
                self.chores.removals.push(removal);
            }
        }
    }
}
