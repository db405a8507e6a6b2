//! `pintle check`: cgroup hierarchies, controllers, and limits that are tried.

use std::io;

use super::{
    Finding, fail,
    host::Host,
    ok,
    scratch::{Child, apart},
    warn,
};
use crate::{
    cgroup::{Config, Container, Driver, Handle, Manager},
    model::{ContainerId, DeviceRule, HugepageLimit, PodId, Resources},
    sys::process::{self, Namespaces},
    telemetry::log::chain,
};

pub(super) fn questions(host: &Host, config: &Config) -> Vec<Finding> {
    let Some(layout) = Layout::of(&host.read("proc/self/mountinfo").unwrap_or_default()) else {
        return vec![fail("cgroups", "none are mounted on /sys/fs/cgroup: nothing can be limited or killed")];
    };
    let mut findings = vec![match layout {
        Layout::Unified => ok("cgroups", "version 2"),
        Layout::Separate => warn(
            "cgroups",
            "version 1: kubelets from 1.35 on start only with failCgroupV1: false; boot with version 2 if you can",
        ),
    }];
    let swap_is_on = host.read("proc/swaps").is_some_and(|swaps| swaps.lines().count() > 1);
    // A process of its own: what follows needs threads, and none of the other attempts may have any.
    let tried = apart(Namespaces::NONE, || Pod::make(config).map(|pod| pod.questions(swap_is_on)));
    match tried.flatten() {
        Ok(more) => findings.extend(more),
        Err(error) => findings.push(fail("cgroup of a pod", format!("{error}: pods cannot be made"))),
    }
    findings
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Layout {
    /// Version 2 on /sys/fs/cgroup.
    Unified,
    /// Version 1, a version 2 without controllers beside it or not.
    Separate,
}

impl Layout {
    /// From proc_pid_mountinfo(5): field 5 is the mount point, the type follows the ` - `.
    fn of(mountinfo: &str) -> Option<Self> {
        let mounts = mountinfo.lines().filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            Some((before.split(' ').nth(4)?, after.split(' ').next()?))
        });
        let mut layout = None;
        for (point, kind) in mounts {
            match (point, kind) {
                ("/sys/fs/cgroup", "cgroup2") => return Some(Self::Unified),
                (point, "cgroup") if point.starts_with("/sys/fs/cgroup/") => layout = Some(Self::Separate),
                _ => {}
            }
        }
        layout
    }
}

/// The cgroup of a pod that is none, made and joined as a pod's is, under the configured parent.
struct Pod {
    driver: Driver,
    handle: Handle,
    supervisor: Child,
}

impl Pod {
    fn make(config: &Config) -> Result<Self, String> {
        let supervisor = Child::idle().map_err(|error| error.to_string())?;
        let manager = Manager::detect(config).map_err(|error| chain(&error))?;
        let (driver, none) = (manager.driver(), Resources::default());
        let id = PodId::from_bytes(random_bytes().map_err(|error| error.to_string())?);
        // Named, as a kubelet names it: a named parent that has to be made goes with the pod, the configured one stays.
        let parent = if config.parent.is_empty() { driver.default_parent() } else { &config.parent };
        let handle = manager.plan_pod(parent, &id).map_err(|error| chain(&error))?;
        let pod = Self { driver, handle, supervisor };
        let (handle, pid, pidfd) = (&pod.handle, pod.supervisor.pid(), pod.supervisor.pidfd());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // The manager ends in there: a connection to systemd does so in a runtime only.
        runtime.map_err(|error| error.to_string())?.block_on(async move {
            manager.create_pod(handle, &none).await.map_err(|error| chain(&error))?;
            manager.take_in(handle, pid.get(), pidfd, &none).await.map_err(|error| chain(&error))
        })?;
        handle.join_supervisor(pid.get()).map_err(|error| chain(&error))?;
        Ok(pod)
    }

    fn questions(&self, swap_is_on: bool) -> Vec<Finding> {
        let made = match self.driver {
            Driver::Systemd => ok("cgroup of a pod", "systemd makes it (driver systemd)"),
            Driver::Cgroupfs => ok("cgroup of a pod", "pintle makes it (driver cgroupfs)"),
        };
        let mut findings = vec![made, self.limits(), self.devices()];
        let optional = [
            (cpuset(), "processors", "containers cannot be bound to some"),
            (hugepages(), "huge pages", "they are not limited"),
        ];
        for (resources, what, loss) in optional {
            if let Some(Err(error)) = resources.map(|resources| self.limit(&resources, &[])) {
                findings.push(warn(what, format!("{loss}: {error}")));
            }
        }
        findings.push(self.swap(swap_is_on));
        findings
    }

    /// Without these a pod's limits would be silently ignored.
    fn limits(&self) -> Finding {
        let needed = [
            ("CPU", Resources { cpu_quota_us: 50_000, cpu_period_us: 100_000, ..Resources::default() }),
            ("memory", Resources { memory_bytes: MEMORY_BYTES, ..Resources::default() }),
            ("pids", Resources { pids_max: 100, ..Resources::default() }),
        ];
        let refused: Vec<String> = needed
            .iter()
            .filter_map(|(what, limit)| Some(format!("{what}: {}", self.limit(limit, &[]).err()?)))
            .collect();
        if refused.is_empty() {
            return ok("limits", "CPU, memory and pids of a container can be limited");
        }
        let text =
            format!("pods cannot be limited; look at the kernel's command line: {}", refused.join("; "));
        fail("limits", text)
    }

    fn devices(&self) -> Finding {
        let rule = |allow, kind, major, access: &str| DeviceRule {
            allow,
            kind,
            major,
            minor: None,
            access: access.into(),
        };
        let rules = [rule(false, 'a', None, "rwm"), rule(true, 'c', Some(1), "rwm")];
        match self.limit(&Resources::default(), &rules) {
            Ok(()) => ok("device rules", "a container opens the devices it was given and no others"),
            Err(error) => fail("device rules", error),
        }
    }

    /// A kernel that counts no swap refuses nothing on version 1, so what holds is looked at.
    fn swap(&self, is_on: bool) -> Finding {
        let both = Resources {
            memory_bytes: MEMORY_BYTES,
            memory_and_swap_bytes: 2 * MEMORY_BYTES,
            ..Resources::default()
        };
        let limit = |container: &Container| container.usage()?.swap?.limit;
        match (is_on, self.with_limits(&both, &[], limit)) {
            (false, _) => ok("swap", "off"),
            (true, Ok(Some(_))) => ok("swap", "on, and limited for each container"),
            (true, refused) => {
                let why = refused.err().map(|error| format!(": {error}")).unwrap_or_default();
                warn(
                    "swap",
                    format!("on, and cannot be limited; boot with swapaccount=1 or turn swap off{why}"),
                )
            }
        }
    }

    fn limit(&self, resources: &Resources, rules: &[DeviceRule]) -> Result<(), String> {
        self.with_limits(resources, rules, |_| ())
    }

    /// Makes the cgroup of a container with these limits and rules, looks at it and removes it.
    fn with_limits<T>(
        &self,
        resources: &Resources,
        rules: &[DeviceRule],
        look: impl FnOnce(&Container) -> T,
    ) -> Result<T, String> {
        let id = random_bytes().map_err(|error| error.to_string())?;
        let container = self.handle.container(&ContainerId::from_bytes(id));
        container.create(resources, rules).map_err(|error| chain(&error))?;
        let seen = look(&container);
        container.remove().map_err(|error| chain(&error))?;
        Ok(seen)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ended = process::kill(self.supervisor.pid()); // it may have before
        if let Err(error) = self.handle.remove() {
            eprintln!("pintle: the cgroup of a check could not be removed: {}", chain(&error));
        }
    }
}

/// Any will do, but none at all for huge pages: that a kernel without their controller is asked for loses nothing.
const MEMORY_BYTES: i64 = 64 << 20;
const HUGEPAGES_BYTES: u64 = 1 << 30;

/// The first CPU that this process may use.
fn cpuset() -> Option<Resources> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let cpus = process::field(&status, "Cpus_allowed_list")?.split([',', '-']).next()?.trim().to_owned();
    Some(Resources { cpuset_cpus: cpus, ..Resources::default() })
}

/// A limit of each size of huge page that this kernel has; `None` if it has none.
fn hugepages() -> Option<Resources> {
    let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").ok()?.flatten();
    let sizes = sizes.filter_map(|entry| page_size(entry.file_name().to_str()?));
    let limits: Vec<_> =
        sizes.map(|page_size| HugepageLimit { page_size, limit_bytes: HUGEPAGES_BYTES }).collect();
    (!limits.is_empty()).then(|| Resources { hugepages: limits, ..Resources::default() })
}

/// `hugepages-2048kB` is `2MB` to cgroups.
fn page_size(folder: &str) -> Option<String> {
    let kib: u64 = folder.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let (mib, gib) = (kib >> 10, kib >> 20);
    Some(if gib > 0 {
        format!("{gib}GB")
    } else if mib > 0 {
        format!("{mib}MB")
    } else {
        format!("{kib}KB")
    })
}

fn random_bytes() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      31 30 0:27 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n\
                      32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn version_2_is_told_from_version_1_and_from_none() {
        assert_eq!(Layout::of(V2), Some(Layout::Unified));
        assert_eq!(Layout::of(V1), Some(Layout::Separate));
        assert_eq!(Layout::of("30 24 0:26 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn huge_pages_are_named_as_cgroups_name_them() {
        for (folder, name) in [
            ("hugepages-64kB", Some("64KB")),
            ("hugepages-2048kB", Some("2MB")),
            ("hugepages-1048576kB", Some("1GB")),
            ("hugepages-", None),
            ("other", None),
        ] {
            assert_eq!(page_size(folder).as_deref(), name, "{folder}");
        }
    }
}
