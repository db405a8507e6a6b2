//! Statistics of pods and containers (CRI stats), and the reader of all figures.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Semaphore;

use super::rates::Rates;
use crate::{
    cgroup,
    image::{FsUsage, Images},
    model::{ContainerId, NetworkMode, PodId, UnixNanos},
    network::{self, InterfaceTraffic},
    pod::{Board, ContainerState, ContainerView, PodView},
    telemetry::task,
};

/// How often the sampler reads every CPU counter: as often as the kubelet asks. It is two files for a pod of
/// one container.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// Lists that are read at the same time, so that a client that asks too often waits and the disk's threads
/// are left to others.
const READERS_MAX: usize = 4;

/// Objects that one thread reads: fewer are not worth a second one.
const PER_THREAD_MIN: usize = 8;

/// Statistics of one container (CRI `ContainerStats`).
#[derive(Clone, Debug)]
pub struct ContainerStats {
    pub container: Arc<ContainerView>,
    /// `None`: it has ended, or its cgroup is gone.
    pub usage: Option<UsageStats>,
    /// `None`: not measured yet.
    pub writable: Option<FsUsage>,
}

/// Statistics of one pod (CRI `PodSandboxStats`).
#[derive(Clone, Debug)]
pub struct PodStats {
    pub pod: Arc<PodView>,
    /// Of the pod's cgroup, its supervisor included, and not the sum of its containers. `None`: the pod has
    /// ended.
    pub usage: Option<UsageStats>,
    /// `None`: the pod is in the host's network, or its own cannot be reached any more.
    pub traffic: Option<TrafficStats>,
    pub containers: Vec<ContainerStats>,
}

/// Figures of one cgroup.
#[derive(Clone, Copy, Debug)]
pub struct UsageStats {
    /// When they were read.
    pub at: UnixNanos,
    pub figures: cgroup::Usage,
    /// Billionths of a core, averaged over the last seconds; `None` until there are two readings.
    pub nano_cores: Option<u64>,
    /// Bytes that could still be swapped out: the limit's rest, or the host's if that is less. `None` where
    /// swap is not accounted.
    pub swap_available: Option<u64>,
}

/// Traffic of a pod's interfaces.
#[derive(Clone, Debug)]
pub struct TrafficStats {
    pub at: UnixNanos,
    pub interfaces: Vec<InterfaceTraffic>,
}

/// Whose counter it is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Key {
    Pod(PodId),
    Container(ContainerId),
}

/// The reader of figures: one for all pods.
#[derive(Debug)]
pub struct Meter {
    pub(super) images: Images,
    board: Arc<Board>,
    rates: Mutex<Rates<Key>>,
    readers: Semaphore,
}

impl Meter {
    /// A meter of the pods that `board` shows. Starts the sampler.
    pub fn start(images: Images, board: Arc<Board>) -> Arc<Self> {
        let meter = Arc::new(Self::new(images, board));
        task::spawn("stats-sampler", Arc::clone(&meter).sample());
        meter
    }

    fn new(images: Images, board: Arc<Board>) -> Self {
        Self { images, board, rates: Mutex::default(), readers: Semaphore::new(READERS_MAX) }
    }

    /// Statistics of these containers, in this order, read now. Those that have ended have their writable layer
    /// only. Never fails and waits for nothing but the reading.
    pub async fn container_stats(
        self: &Arc<Self>,
        containers: Vec<Arc<ContainerView>>,
    ) -> Vec<ContainerStats> {
        self.images.refresh_writable();
        let view = self.board.view();
        let meter = Arc::clone(self);
        let with_pods = containers.into_iter().map(|container| {
            let pod = view.pods.binary_search_by(|pod| pod.id.cmp(&container.pod)).ok();
            let handle = pod.and_then(|at| view.pods.get(at)?.cgroup.clone());
            (container, handle)
        });
        let swap_free = swap_free();
        self.spread(with_pods.collect(), move |(container, handle)| {
            meter.container(container, handle.as_ref(), swap_free)
        })
        .await
    }

    /// As [`Self::container_stats`], of pods with their containers.
    pub async fn pod_stats(self: &Arc<Self>, pods: Vec<Arc<PodView>>) -> Vec<PodStats> {
        self.images.refresh_writable();
        let (meter, swap_free) = (Arc::clone(self), swap_free());
        self.spread(pods, move |pod| meter.pod(pod, swap_free)).await
    }

    /// Does work that blocks for each item, in order, on as many threads as are worth it.
    pub(super) async fn spread<T: Send + 'static, R: Send + 'static>(
        &self,
        mut items: Vec<T>,
        work: impl Fn(T) -> R + Clone + Send + 'static,
    ) -> Vec<R> {
        // Never closed, so this cannot fail.
        let _turn = self.readers.acquire().await;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let per_thread = items.len().div_ceil(cores.min(READERS_MAX)).max(PER_THREAD_MIN);
        let mut threads = Vec::new();
        while !items.is_empty() {
            let rest = items.split_off(items.len().min(per_thread));
            let (chunk, work) = (std::mem::replace(&mut items, rest), work.clone());
            let run = move || chunk.into_iter().map(work).collect::<Vec<R>>();
            threads.push(task::spawn_blocking("statistics", run));
        }
        let mut all = Vec::new();
        for thread in threads {
            // It fails only when the daemon is ending.
            all.extend(thread.await.unwrap_or_default());
        }
        all
    }

    fn container(
        &self,
        container: Arc<ContainerView>,
        pod: Option<&cgroup::Handle>,
        swap_free: u64,
    ) -> ContainerStats {
        let writable = self.images.writable_usage(&container.id);
        let living = pod.filter(|_| !container.state.is_exited());
        let usage = living.and_then(|pod| {
            let key = Key::Container(container.id.clone());
            self.usage(key, swap_free, || pod.container(&container.id).usage())
        });
        ContainerStats { container, usage, writable }
    }

    fn pod(&self, pod: Arc<PodView>, swap_free: u64) -> PodStats {
        let handle = pod.cgroup.as_ref();
        let usage = handle
            .filter(|_| pod.ready)
            .and_then(|handle| self.usage(Key::Pod(pod.id.clone()), swap_free, || handle.usage()));
        let containers = pod.containers.iter();
        let containers =
            containers.map(|container| self.container(Arc::clone(container), handle, swap_free)).collect();
        PodStats { usage, traffic: traffic(&pod), containers, pod }
    }

    fn usage(
        &self,
        key: Key,
        swap_free: u64,
        read: impl FnOnce() -> Option<cgroup::Usage>,
    ) -> Option<UsageStats> {
        let (at, now) = (UnixNanos::from(SystemTime::now()), Instant::now());
        let figures = read()?;
        let nano_cores = figures.cpu_ns.and_then(|cpu_ns| self.rates().rate(&key, now, cpu_ns));
        let swap_available = figures.swap.map(|swap| swap_left(swap, swap_free));
        Some(UsageStats { at, figures, nano_cores, swap_available })
    }

    fn rates(&self) -> MutexGuard<'_, Rates<Key>> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a reading of every CPU counter now and then, for ever.
    async fn sample(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SAMPLE_EVERY).await;
            let meter = Arc::clone(&self);
            task::blocking("stats sample", move || meter.sample_once()).await;
        }
    }

    /// One file for each pod and each container that runs.
    fn sample_once(&self) {
        let view = self.board.view();
        let mut seen = HashSet::new();
        for pod in view.pods.iter().filter(|pod| pod.ready) {
            let Some(handle) = &pod.cgroup else { continue };
            self.keep(Key::Pod(pod.id.clone()), handle.cpu_ns(), &mut seen);
            for container in pod.containers.iter().filter(|container| !container.state.is_exited()) {
                let read = handle.container(&container.id).cpu_ns();
                self.keep(Key::Container(container.id.clone()), read, &mut seen);
            }
        }
        self.rates().retain(|key| seen.contains(key));
    }

    fn keep(&self, key: Key, cpu_ns: Option<u64>, seen: &mut HashSet<Key>) {
        if let Some(cpu_ns) = cpu_ns {
            self.rates().keep(&key, Instant::now(), cpu_ns);
            seen.insert(key);
        }
    }
}

/// Of the first process that is in the pod's own network, the init of any container that lives; without one, of the
/// namespace that the pod's supervisor holds.
pub(super) fn traffic(pod: &PodView) -> Option<TrafficStats> {
    if pod.config.namespaces.network == NetworkMode::Node || !pod.ready {
        return None;
    }
    let at = UnixNanos::from(SystemTime::now());
    let interfaces = pod.containers.iter().find_map(|container| match container.state {
        ContainerState::Created { pid } | ContainerState::Running { pid, .. } => network::traffic_of(pid),
        ContainerState::Exited { .. } => None,
    });
    let interfaces = interfaces.or_else(|| network::traffic_held_by(pod.supervisor_pid))?;
    Some(TrafficStats { at, interfaces })
}

/// Memory that may still be swapped out, bytes: the limit's rest, but no more than the host has.
fn swap_left(swap: cgroup::Swap, free: u64) -> u64 {
    swap.limit.map_or(free, |limit| limit.saturating_sub(swap.usage).min(free))
}

/// Bytes of swap that the host has left.
fn swap_free() -> u64 {
    let host = rustix::system::sysinfo();
    host.freeswap.saturating_mul(host.mem_unit.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image;

    fn meter(folder: &std::path::Path, pods: Vec<PodView>) -> Arc<Meter> {
        let images = Images::open(folder, &image::Config::default(), Arc::new(image::NoWorkers)).unwrap();
        Arc::new(Meter::new(images, Board::of(pods)))
    }

    #[tokio::test]
    async fn work_is_spread_and_its_results_stay_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let meter = meter(folder.path(), vec![]);
        for count in [0, 1, PER_THREAD_MIN, 1000] {
            let items: Vec<usize> = (0..count).collect();
            assert_eq!(meter.spread(items.clone(), |item| item).await, items);
        }
    }

    #[tokio::test]
    async fn what_has_ended_is_told_without_figures() {
        let folder = tempfile::tempdir().unwrap();
        let mut view = PodView::fake(1);
        let running = ContainerState::Running { pid: u32::MAX, started_at: UnixNanos(1) };
        view.containers = vec![Arc::new(ContainerView::fake(&view.id, 7, running))];
        view.cgroup = Some(cgroup::Handle::fake(&view.id));
        let meter = meter(folder.path(), vec![view.clone()]);
        let stats = meter.pod_stats(vec![Arc::new(view.clone())]).await;
        assert!(stats[0].usage.is_none() && stats[0].traffic.is_none() && stats[0].containers.len() == 1);
        let stats = meter.container_stats(view.containers).await;
        assert!(stats[0].usage.is_none() && stats[0].writable.is_none());
        meter.sample_once();
    }

    #[test]
    fn swap_that_is_left_is_no_more_than_the_host_has() {
        let available = |limit, free| swap_left(cgroup::Swap { usage: 30, limit }, free);
        assert_eq!(available(Some(100), 1000), 70);
        assert_eq!(available(Some(100), 50), 50);
        assert_eq!(available(Some(10), 50), 0);
        assert_eq!(available(None, 1000), 1000);
    }
}
