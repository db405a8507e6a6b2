//! What a kubelet does all day.

use std::{
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use tonic::Code;

use super::world::{AGAIN_AFTER, Broken, Truth, World, is_interruption, lock, pid_in};
use crate::harness::{BUSYBOX, Container, ContainerState, Pod, chance::Chance, pod_config, v1};

/// What comes and goes beside the pods.
const IMAGE: &str = "registry.test/pintle/layers:1";

/// Between two of its pulls, so that the pods get their share of the machine.
const IMAGE_PAUSE: Duration = Duration::from_millis(100);

/// Longer than any daemon lives, but the last.
const SLOW_EXEC_S: i64 = 10;

/// How long the process of an exec whose caller has gone may be seen; shorter than it would live by itself.
const GONE_MAX: Duration = Duration::from_secs(5);

/// How long a worker may take to be seen as exited, deaths included.
pub(super) const EXIT_MAX: Duration = Duration::from_secs(60);

impl<'n> World<'n> {
    pub(super) fn lead_lives(&self, client: u64, mut chance: Chance) {
        for nth in 0.. {
            if self.over.load(Relaxed) {
                return;
            }
            self.note(self.lead_life(&format!("churn-{client}-{nth}"), &mut chance));
        }
    }

    /// Pulls an image and removes it, again and again.
    pub(super) fn come_and_go_of_an_image(&self) {
        while !self.over.load(Relaxed) {
            self.note(self.pull_and_remove());
            thread::sleep(IMAGE_PAUSE);
        }
    }

    pub(super) fn pull_and_remove(&self) -> Result<(), Broken> {
        let (node, image) = (self.node, || Some(v1::ImageSpec { image: IMAGE.into(), ..Default::default() }));
        let id = self.must("pull", || node.try_pull(IMAGE))?;
        let status = || node.cri().image_status(v1::ImageStatusRequest { image: image(), verbose: false });
        let found = self.must("image status", status)?.image.map(|image| image.id);
        if found.as_ref() != Some(&id) {
            return Err(format!("{IMAGE} was pulled as {id} and is {found:?}"));
        }
        self.must("remove image", || node.cri().remove_image(v1::RemoveImageRequest { image: image() }))?;
        self.counts.images.fetch_add(1, Relaxed);
        let found = self.must("image status", status)?.image;
        found.map_or(Ok(()), |found| Err(format!("{IMAGE} was removed and is there: {found:?}")))
    }

    /// A pod from the first call to the last.
    pub(super) fn lead_life(&self, name: &str, chance: &mut Chance) -> Result<(), Broken> {
        let pod = self.run_pod(name)?;
        let (lines, code) = (chance.between(20, 80), i32::try_from(chance.between(1, 120)).unwrap_or(1));
        let pause = chance.between(5, 30);
        let script = format!("for n in $(seq 1 {lines}); do echo $n; sleep 0.0{pause:02}; done; exit {code}");
        let address = self.address(&pod)?;
        let worker = self.run_container(&pod, "worker", &script, Some(code))?;
        let server = self.run_container(&pod, "server", "sleep 1000", None)?;
        let pid = self.pid(&server)?;
        self.learn(&server.id, |truth| truth.pid = Some(pid));
        for _ in 0..chance.between(1, 4) {
            self.exec(&server, chance.between(0, 255))?;
        }
        if chance.one_in(3) {
            self.slow_exec(&server, chance)?;
        }
        self.ended_by_itself(&worker, code, lines)?;
        let again = self.pid(&server)?;
        if again != pid {
            return Err(format!("{name}: the server ran as {pid} and now as {again}"));
        }
        let now = self.address(&pod)?;
        if now != address {
            return Err(format!("{name}: the pod had {address} and now has {now}"));
        }
        self.end_life(&pod, &[worker, server], chance)
    }

    pub(super) fn run_pod(&self, name: &str) -> Result<Pod<'n>, Broken> {
        let config = pod_config(self.node, name);
        let what = format!("{name}: run the pod");
        let run = || Pod::run_config(self.node, config.clone(), "");
        let pod = self.must(&what, run)?;
        let same = self.must(&what, run)?;
        if pod.id != same.id {
            return Err(format!("{name}: one name, two pods: {} and {}", pod.id, same.id));
        }
        self.counts.pods.fetch_add(1, Relaxed);
        Ok(pod)
    }

    /// The address of a pod, which is ready until it is stopped.
    fn address(&self, pod: &Pod<'n>) -> Result<String, Broken> {
        let request = || v1::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
        let reply = self.must("status", || self.node.cri().pod_sandbox_status(request()))?;
        let status = reply.status.unwrap_or_default();
        let address = status.network.as_ref().map(|network| network.ip.clone()).unwrap_or_default();
        if status.state() == v1::PodSandboxState::SandboxReady && !address.is_empty() {
            return Ok(address);
        }
        Err(format!("{}: it runs, and is told as {status:?}", pod.config.hostname))
    }

    pub(super) fn run_container(
        &self,
        pod: &Pod<'n>,
        name: &str,
        script: &str,
        code: Option<i32>,
    ) -> Result<Container<'n>, Broken> {
        let name_full = format!("{}/{name}", pod.config.hostname);
        let create = || pod.try_create(name, BUSYBOX, ["sh", "-c", script], |_| {});
        let container = self.must(&format!("{name_full}: create"), create)?;
        let truth = Truth { name: name_full.clone(), code, ..Truth::default() };
        self.learn(&container.id, |entry| *entry = truth);
        match self.insist(&format!("{name_full}: start"), || container.try_start())? {
            Ok(()) => {}
            // The start that a death hid may have happened; then the repetition is rightly refused.
            Err((error, 1..)) if error.code() == Code::FailedPrecondition => {
                let status = self.must("status", || container.try_status())?;
                if status.started_at == 0 {
                    return Err(format!("{name_full}: not started, and cannot be: {error}; {status:?}"));
                }
            }
            Err((error, interruptions)) => {
                return Err(format!("{name_full}: start, interrupted {interruptions} times: {error}"));
            }
        }
        self.counts.containers.fetch_add(1, Relaxed);
        Ok(container)
    }

    pub(super) fn exec(&self, container: &Container<'n>, code: u64) -> Result<(), Broken> {
        let script = format!("echo said {code}; exit {code}");
        let said = self.must("exec", || container.try_exec(["sh", "-c", &script], 20))?;
        self.counts.execs.fetch_add(1, Relaxed);
        if (said.stdout.as_str(), u64::try_from(said.code)) == (&format!("said {code}\n"), Ok(code)) {
            return Ok(());
        }
        Err(format!("{}: exec of {script:?} gave {said:?}", container.id))
    }

    /// One that a death may well interrupt. It is not repeated; but it must not go on with nobody there.
    pub(super) fn slow_exec(&self, container: &Container<'n>, chance: &mut Chance) -> Result<(), Broken> {
        let script = format!("sleep 55.{}", chance.between(1, 999_999));
        match container.try_exec(["sh", "-c", &script], SLOW_EXEC_S) {
            Err(error) if error.code() == Code::DeadlineExceeded => {
                self.counts.execs.fetch_add(1, Relaxed);
            }
            Err(error) if is_interruption(&error) => {
                self.counts.interrupted.fetch_add(1, Relaxed);
            }
            other => {
                return Err(format!("{}: {script}, with {SLOW_EXEC_S} s: {other:?}", self.name(container)));
            }
        }
        // The brackets keep grep from finding itself.
        let look = format!("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[s]leep {}'", &script[6..]);
        let since = Instant::now();
        loop {
            let seen = self.must("exec", || container.try_exec(["sh", "-c", &look], 20))?;
            if seen.stdout == "0\n" {
                return Ok(());
            }
            if since.elapsed() > GONE_MAX {
                return Err(format!(
                    "{}: {script} goes on with nobody there: {seen:?}",
                    self.name(container)
                ));
            }
            thread::sleep(AGAIN_AFTER);
        }
    }

    pub(super) fn ended_by_itself(
        &self,
        worker: &Container<'n>,
        code: i32,
        lines: u64,
    ) -> Result<(), Broken> {
        let since = Instant::now();
        loop {
            let status = self.must("status", || worker.try_status())?;
            if status.state() == ContainerState::ContainerExited {
                self.learn(&worker.id, |truth| truth.exited = true);
                break;
            }
            if since.elapsed() > EXIT_MAX {
                return Err(format!("{}: never exits: {status:?}", self.name(worker)));
            }
            thread::sleep(AGAIN_AFTER);
        }
        let status = self.must("status", || worker.try_status())?;
        if (status.exit_code, status.reason.as_str()) != (code, "Error") {
            return Err(format!("{}: ended with {code}, told as {status:?}", self.name(worker)));
        }
        self.log_is_whole(worker, lines)
    }

    /// Its log is the numbers to `lines`, each once and in order.
    pub(super) fn log_is_whole(&self, container: &Container<'n>, lines: u64) -> Result<(), Broken> {
        let (found, expected) =
            (container.log_texts(), (1..=lines).map(|n| n.to_string()).collect::<Vec<_>>());
        self.counts.lines.fetch_add(lines, Relaxed);
        if found == expected {
            return Ok(());
        }
        let at = found.iter().zip(&expected).take_while(|(found, expected)| found == expected).count();
        let around = &found[at.saturating_sub(2)..found.len().min(at + 4)];
        let (name, count) = (self.name(container), found.len());
        Err(format!("{name}: {count} log lines where {lines} were written; from line {at}: {around:?}"))
    }

    /// Stops and removes, sometimes one by one and sometimes all with the pod.
    pub(super) fn end_life(
        &self,
        pod: &Pod<'n>,
        containers: &[Container<'n>; 2],
        chance: &mut Chance,
    ) -> Result<(), Broken> {
        let (cri, name) = (self.node.cri(), &pod.config.hostname);
        for container in containers {
            self.learn(&container.id, |truth| truth.going = true);
        }
        if chance.one_in(2) {
            let server = &containers[1];
            let stop = || cri.stop_container(stop_of(&server.id));
            self.must(&format!("{name}: stop the server"), stop)?;
            let status = self.must("status", || server.try_status())?;
            if (status.state(), status.exit_code) != (ContainerState::ContainerExited, 137) {
                return Err(format!("{name}: the server was killed, told as {status:?}"));
            }
            for Container { id, .. } in containers {
                let remove = || cri.remove_container(v1::RemoveContainerRequest { container_id: id.clone() });
                self.must(&format!("{name}: remove {id}"), remove)?;
            }
        }
        let id = || pod.id.clone();
        let stop = || cri.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id() });
        self.must(&format!("{name}: stop the pod"), stop)?;
        let remove = || cri.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id() });
        self.must(&format!("{name}: remove the pod"), remove)?;
        for Container { id, .. } in containers {
            lock(&self.ledger).remove(id);
        }
        let request = || v1::PodSandboxStatusRequest { pod_sandbox_id: id(), verbose: false };
        match self.insist("status", || cri.pod_sandbox_status(request()))? {
            Err((error, _)) if error.code() == Code::NotFound => Ok(()),
            other => Err(format!("{name}: removed, and yet {other:?}")),
        }
    }

    pub(super) fn pid(&self, container: &Container<'n>) -> Result<u32, Broken> {
        let request = || v1::ContainerStatusRequest { container_id: container.id.clone(), verbose: true };
        let reply = self.must("status", || self.node.cri().container_status(request()))?;
        pid_in(&reply).ok_or_else(|| format!("{}: no pid in {reply:?}", self.name(container)))
    }

    pub(super) fn name(&self, container: &Container<'n>) -> String {
        lock(&self.ledger).get(&container.id).map_or_else(|| container.id.clone(), |truth| truth.name.clone())
    }
}

fn stop_of(id: &str) -> v1::StopContainerRequest {
    v1::StopContainerRequest { container_id: id.into(), timeout: 0 }
}
