//! Kills the daemon, and looks at what is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use super::{
    client::EXIT_MAX,
    world::{AGAIN_AFTER, Broken, Truth, World, lock, millis, pid_in},
};
use crate::harness::{Container, ContainerState, Setup, chance::Chance, v1};

/// Milliseconds between a daemon's first answer and its death.
const LIFE_MS: (u64, u64) = (100, 1500);

/// Milliseconds for which there is no daemon, now and then.
const AWAY_MS: (u64, u64) = (50, 800);

/// Milliseconds that a daemon gets which is killed while it starts.
const START_MS: (u64, u64) = (1, 250);

/// Points of a daemon at which it, and the supervisors it makes, are slow a few times.
const SLOW_POINTS_MAX: u64 = 4;
const SLOW_MS: (u64, u64) = (20, 400);

/// The file of the points that were passed.
pub(super) const TRACE: &str = "points";

/// How the container that writes all the time ends when it is told to.
const WRITER_CODE: i32 = 43;

impl<'n> World<'n> {
    pub(super) fn kill_again_and_again(&self, kills: u64, mut chance: Chance, residents: &Residents<'n>) {
        while self.counts.kills.load(Relaxed) < kills && !self.over.load(Relaxed) {
            thread::sleep(Duration::from_millis(chance.between(LIFE_MS.0, LIFE_MS.1)));
            self.node.kill_daemon();
            self.counts.kills.fetch_add(1, Relaxed);
            if chance.one_in(4) && self.counts.kills.load(Relaxed) < kills {
                self.node.kill_starting_daemon(Duration::from_millis(chance.between(START_MS.0, START_MS.1)));
                self.counts.kills.fetch_add(1, Relaxed);
                self.counts.kills_while_starting.fetch_add(1, Relaxed);
            }
            if chance.one_in(4) {
                thread::sleep(Duration::from_millis(chance.between(AWAY_MS.0, AWAY_MS.1)));
            }
            // The last daemon is an ordinary one: what it has at the end is compared with what the first had.
            let last = self.counts.kills.load(Relaxed) >= kills;
            let setup = if last { Setup::default() } else { self.slow_at_random(&mut chance) };
            let started = Instant::now();
            self.node.start_daemon_with(&setup);
            let took = millis(started.elapsed());
            self.counts.start_ms_max.fetch_max(took, Relaxed);
            self.counts.start_ms_sum.fetch_add(took, Relaxed);
            self.note(self.look());
            self.note(residents.untouched(self));
        }
    }

    /// Delays at some of the points that were passed so far, so that deaths come between two steps that are
    /// otherwise too close together.
    pub(super) fn slow_at_random(&self, chance: &mut Chance) -> Setup {
        let trace = self.node.path(TRACE);
        let passed = fs::read_to_string(&trace).unwrap_or_default();
        let points: Vec<&str> = passed.lines().collect::<BTreeSet<_>>().into_iter().collect();
        let mut scripts = BTreeMap::new();
        for _ in 0..if points.is_empty() { 0 } else { chance.between(0, SLOW_POINTS_MAX) } {
            let nth = usize::try_from(chance.between(0, points.len() as u64 - 1)).unwrap_or(0);
            scripts.insert(points[nth], chance.between(SLOW_MS.0, SLOW_MS.1));
        }
        self.counts.slow_points.fetch_add(scripts.len() as u64, Relaxed);
        let scripts = scripts.into_iter().map(|(point, ms)| format!("{point}=4*delay({ms});"));
        Setup { failpoints: scripts.collect(), trace: Some(trace), ..Setup::default() }
    }

    /// What must be true at any moment. The clients go on meanwhile, so what they may be changing is left out.
    pub(super) fn look(&self) -> Result<(), Broken> {
        self.counts.looks.fetch_add(1, Relaxed);
        self.one_of_each_name()?;
        let known = lock(&self.ledger).clone();
        for (id, truth) in known.into_iter().filter(|(_, truth)| !truth.going) {
            let request = || v1::ContainerStatusRequest { container_id: id.clone(), verbose: true };
            let answer = self.insist("status", || self.node.cri().container_status(request()))?;
            // Asked again afterwards: its client may have gone on.
            let now = lock(&self.ledger).get(&id).cloned();
            if now.is_none_or(|now| now.going) {
                continue;
            }
            let reply = answer.map_err(|(error, _)| format!("{}: it is lost: {error}", truth.name))?;
            contradicts(&truth, &reply)
                .map_or(Ok(()), |why| Err(format!("{}: {why}: {reply:?}", truth.name)))?;
            let exited = state_in(&reply) == ContainerState::ContainerExited;
            if let Some(truth) = lock(&self.ledger).get_mut(&id) {
                truth.exited |= exited;
            }
        }
        Ok(())
    }

    /// No two pods, and no two containers of a pod, have one name.
    pub(super) fn one_of_each_name(&self) -> Result<(), Broken> {
        let cri = self.node.cri();
        let pods = self.must("list pods", || cri.list_pod_sandbox(v1::ListPodSandboxRequest::default()))?;
        let containers =
            self.must("list containers", || cri.list_containers(v1::ListContainersRequest::default()))?;
        let mut seen = BTreeSet::new();
        let pods = pods.items.iter().map(|pod| format!("pod {:?}", pod.metadata));
        let containers = containers.containers.iter();
        let containers = containers.map(|one| format!("{} in {}", one.pod_sandbox_id, named(one)));
        match pods.chain(containers).find(|name| !seen.insert(name.clone())) {
            None => Ok(()),
            Some(name) => Err(format!("listed twice: {name}")),
        }
    }
}

/// Containers that live from before the first death until after the last.
pub(super) struct Residents<'n> {
    sleeper: (Container<'n>, u32),
    /// Writes numbers until it is told to end.
    writer: (Container<'n>, u32),
}

impl<'n> Residents<'n> {
    pub(super) fn new(world: &World<'n>) -> Self {
        let pod = world.run_pod("resident").unwrap();
        let count = "n=0; while [ ! -e /stop ]; do n=$((n+1)); echo $n; sleep 0.02; done";
        let run = |name, script: &str| {
            let container = world.run_container(&pod, name, script, None).unwrap();
            let pid = world.pid(&container).unwrap();
            world.learn(&container.id, |truth| truth.pid = Some(pid));
            (container, pid)
        };
        let sleeper = run("sleeper", "sleep 100000");
        Self { sleeper, writer: run("writer", &format!("{count}; exit {WRITER_CODE}")) }
    }

    pub(super) fn untouched(&self, world: &World<'n>) -> Result<(), Broken> {
        for (container, pid) in [&self.sleeper, &self.writer] {
            let now = world.pid(container)?;
            if now != *pid {
                return Err(format!("{} ran as {pid} and now as {now}", world.name(container)));
            }
        }
        Ok(())
    }

    pub(super) fn end(&self, world: &World<'n>) -> Result<(), Broken> {
        self.untouched(world)?;
        let (writer, _) = &self.writer;
        world.must("exec", || writer.try_exec(["touch", "/stop"], 20))?;
        let lines = writer.log_texts().len();
        let since = Instant::now();
        while world.must("status", || writer.try_status())?.state() != ContainerState::ContainerExited {
            if since.elapsed() > EXIT_MAX {
                return Err("the writer never exits".into());
            }
            thread::sleep(AGAIN_AFTER);
        }
        let written = writer.log_texts().len();
        if written < lines {
            return Err(format!("the writer's log had {lines} lines and has {written}"));
        }
        world.ended_by_itself(writer, WRITER_CODE, written as u64)
    }
}

/// Why what is told of a container cannot be.
fn contradicts(truth: &Truth, reply: &v1::ContainerStatusResponse) -> Option<String> {
    let status = reply.status.as_ref()?;
    match status.state() {
        ContainerState::ContainerExited => match truth.code {
            None => Some("it never ends, and is told as exited".into()),
            Some(code) if status.exit_code != code => Some(format!("it ends with {code}")),
            Some(_) => None,
        },
        ContainerState::ContainerRunning if truth.exited => Some("it was exited and runs again".into()),
        ContainerState::ContainerRunning => match (truth.pid, pid_in(reply)) {
            (Some(before), Some(now)) if before != now => Some(format!("it ran as {before}")),
            _ => None,
        },
        ContainerState::ContainerCreated if truth.pid.is_some() => Some("it ran already".into()),
        ContainerState::ContainerCreated => None,
        ContainerState::ContainerUnknown => Some("nobody knows its state".into()),
    }
}

fn state_in(reply: &v1::ContainerStatusResponse) -> ContainerState {
    reply.status.as_ref().map_or(ContainerState::ContainerUnknown, v1::ContainerStatus::state)
}

fn named(container: &v1::Container) -> String {
    format!("container {:?}", container.metadata)
}
