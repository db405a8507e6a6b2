//! All figures of pods and their containers, for metrics: more files are read than for statistics.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use super::{
    processes::{self, ProcessFigures},
    stats::{Meter, TrafficStats, traffic},
};
use crate::{
    cgroup,
    image::{FsCapacity, FsUsage},
    model::UnixNanos,
    pod::{ContainerState, ContainerView, PodView},
};

/// Figures of one pod that is ready.
#[derive(Clone, Debug)]
pub struct PodMetrics {
    pub pod: Arc<PodView>,
    /// `None`: as [`super::PodStats::traffic`].
    pub traffic: Option<TrafficStats>,
    /// The running containers.
    pub containers: Vec<ContainerMetrics>,
}

/// Figures of one container that runs.
#[derive(Clone, Debug)]
pub struct ContainerMetrics {
    pub container: Arc<ContainerView>,
    /// When they were read.
    pub at: UnixNanos,
    pub started_at: UnixNanos,
    /// Its cgroup, as `/proc/PID/cgroup` shows it.
    pub cgroup: String,
    pub detail: cgroup::Detail,
    /// Of `detail.io`, in its order: `/dev/sda`, or numbers where no device has them.
    pub devices: Vec<String>,
    pub processes: ProcessFigures,
    /// `None`: not measured yet.
    pub writable: Option<FsUsage>,
    pub disk: Disk,
}

/// The file system of the writable layers.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub device: String,
    pub capacity: FsCapacity,
}

/// Figures that are the same for all containers of one call.
#[derive(Debug)]
struct HostFacts {
    page_sizes: Vec<String>,
    disk: Disk,
    names: Mutex<HashMap<(u32, u32), String>>,
}

impl Meter {
    /// As [`Self::pod_stats`], with all that metrics tell; of pods that are ready only.
    pub async fn metrics(self: &Arc<Self>, mut pods: Vec<Arc<PodView>>) -> Vec<PodMetrics> {
        self.images.refresh_writable();
        pods.retain(|pod| pod.ready);
        let meter = Arc::clone(self);
        let host = self.spread(vec![()], move |()| Arc::new(meter.look_at_host())).await;
        let Some(host) = host.into_iter().next() else { return Vec::new() };
        let meter = Arc::clone(self);
        self.spread(pods, move |pod| meter.pod_metrics(pod, &host)).await
    }

    fn look_at_host(&self) -> HostFacts {
        let capacity = self.images.capacity().unwrap_or_default();
        let device = device_name(capacity.major, capacity.minor);
        HostFacts { page_sizes: page_sizes(), disk: Disk { device, capacity }, names: Mutex::default() }
    }

    fn pod_metrics(&self, pod: Arc<PodView>, host: &HostFacts) -> PodMetrics {
        let containers = pod.cgroup.iter().flat_map(|handle| {
            let running = pod.containers.iter();
            running.filter_map(|container| self.container_metrics(container, handle, host))
        });
        PodMetrics { containers: containers.collect(), traffic: traffic(&pod), pod }
    }

    fn container_metrics(
        &self,
        container: &Arc<ContainerView>,
        handle: &cgroup::Handle,
        host: &HostFacts,
    ) -> Option<ContainerMetrics> {
        let ContainerState::Running { pid, started_at } = container.state else { return None };
        let at = UnixNanos::from(SystemTime::now());
        let cgroup = handle.container(&container.id);
        let detail = cgroup.detail(&host.page_sizes)?;
        Some(ContainerMetrics {
            at,
            started_at,
            cgroup: cgroup.path().to_owned(),
            devices: detail.io.iter().map(|io| host.name_of(io.major, io.minor)).collect(),
            processes: processes::look(&detail.processes, pid),
            writable: self.images.writable_usage(&container.id),
            disk: host.disk.clone(),
            detail,
            container: Arc::clone(container),
        })
    }
}

impl HostFacts {
    fn name_of(&self, major: u32, minor: u32) -> String {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.entry((major, minor)).or_insert_with(|| device_name(major, minor)).clone()
    }
}

/// `/dev/sda` by sysfs; the two numbers for what is no block device, such as the file system of a tmpfs.
fn device_name(major: u32, minor: u32) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    // A slash in a device's name is an exclamation mark there.
    let name = link.ok().and_then(|link| Some(link.file_name()?.to_str()?.replace('!', "/")));
    name.map_or_else(|| format!("{major}:{minor}"), |name| format!("/dev/{name}"))
}

/// The sizes of huge pages of this machine, as cgroups name them; none without huge pages.
fn page_sizes() -> Vec<String> {
    let Ok(folders) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let names = folders.flatten().filter_map(|folder| folder.file_name().into_string().ok());
    let mut sizes: Vec<(u64, String)> = names.filter_map(|name| page_size(&name)).collect();
    sizes.sort();
    sizes.into_iter().map(|(_, size)| size).collect()
}

/// `hugepages-2048kB` is `2MB`.
fn page_size(folder: &str) -> Option<(u64, String)> {
    let kib: u64 = folder.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let name = match kib {
        kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    };
    Some((kib, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_named_as_cgroups_name_them() {
        assert_eq!(page_size("hugepages-2048kB"), Some((2048, "2MB".into())));
        assert_eq!(page_size("hugepages-1048576kB"), Some((1 << 20, "1GB".into())));
        assert_eq!(page_size("hugepages-64kB"), Some((64, "64KB".into())));
        assert_eq!(page_size("hugepages-x"), None);
    }

    #[test]
    fn a_number_that_no_device_has_is_shown_as_it_is() {
        assert_eq!(device_name(0, 4_000_000), "0:4000000");
    }
}
