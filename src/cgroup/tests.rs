//! The room against this machine's kernel. Needs root and mounted hierarchies; without them each test says
//! that it was skipped. A hybrid host's cgroup2 has no controllers, yet all else of v2, so there what needs no
//! limit is tested on both.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use cgroups_rs::fs::{cpu::CpuController, memory::MemController};

use super::{
    Cgroupfs, Config, Container, Driver, DriverChoice, Error, Handle, Manager, group::Version, host::Host,
    kill, tree,
};
use crate::model::{ContainerId, DeviceRule, PodId, Resources};

const WAIT_MAX: Duration = Duration::from_secs(20);

#[track_caller]
fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT_MAX;
    while !ready() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

static BEDS: AtomicUsize = AtomicUsize::new(0);

/// A parent cgroup of one test's own, emptied and removed with it.
struct Bed {
    cgroupfs: Cgroupfs,
    parent: String,
}

impl Bed {
    /// On the host's own kind of cgroups.
    fn new() -> Option<Self> {
        match Host::look() {
            Ok(host) => Self::on(host),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    /// On the cgroup2 of a hybrid host, as if there were nothing else.
    fn v2_of_hybrid() -> Option<Self> {
        let mut host = Host::look().ok().filter(|host| host.version == Version::V1)?;
        host.version = Version::V2;
        host.trees.retain(|tree| tree.controllers.is_empty());
        if host.trees.is_empty() {
            eprintln!("skipped on v2: no cgroup2 is mounted");
            return None;
        }
        Self::on(host)
    }

    fn each() -> impl Iterator<Item = Self> {
        Self::new().into_iter().chain(Self::v2_of_hybrid())
    }

    fn on(host: Host) -> Option<Self> {
        let number = BEDS.fetch_add(1, Ordering::Relaxed);
        let parent = format!("/pintle-test-{}-{number}", std::process::id());
        let bed = Self { cgroupfs: Cgroupfs::new(host.into()), parent };
        for directory in bed.directories() {
            if let Err(error) = fs::create_dir(&directory) {
                eprintln!("skipped: cannot make {} (root needed): {error}", directory.display());
                return None;
            }
        }
        Some(bed)
    }

    fn version(&self) -> Version {
        self.cgroupfs.host().version
    }

    fn directories(&self) -> Vec<PathBuf> {
        self.cgroupfs.host().trees.iter().map(|tree| tree.directory(&self.parent)).collect()
    }

    fn directory(&self, controller: &str, path: &str) -> PathBuf {
        let v2 = self.version() == Version::V2;
        let tree = self.cgroupfs.host().trees.iter().find(|tree| v2 || tree.has(controller)).unwrap();
        tree.directory(path)
    }

    fn read(&self, controller: &str, path: &str, file: &str) -> String {
        let path = self.directory(controller, path).join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().into()
    }

    /// A pod whose parent stands for the kubelet's.
    fn pod(&self) -> Handle {
        self.pod_in(&self.parent, 1)
    }

    fn pod_in(&self, parent: &str, number: u8) -> Handle {
        let pod = self.cgroupfs.plan(parent, &pod_id(number), false);
        self.cgroupfs.create_pod(&pod, &Resources::default()).unwrap();
        pod
    }

    fn container(&self, resources: &Resources) -> Container {
        let container = self.pod().container(&container_id(1));
        container.create(resources, &[]).unwrap();
        container
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // In all hierarchies before the first is removed: what is frozen in one does not end in another.
        let kill = |directory: PathBuf| match self.version() {
            Version::V1 => kill::Killing::new(directory, Vec::new()).run(&mut || {}),
            Version::V2 => kill::v2(&directory, &mut || {}),
        };
        let killed: Vec<_> = self.directories().into_iter().map(kill).collect();
        let remove = |directory: PathBuf| tree::remove(&directory, Instant::now() + WAIT_MAX);
        let removed: Vec<_> = self.directories().into_iter().map(remove).collect();
        let left = killed.into_iter().chain(removed).find_map(Result::err);
        if let (false, Some(error)) = (thread::panicking(), left) {
            panic!("left behind: {error}");
        }
    }
}

fn pod_id(number: u8) -> PodId {
    PodId::from_bytes([number; 32])
}

fn container_id(number: u8) -> ContainerId {
    ContainerId::from_bytes([number; 32])
}

/// A shell script that waits to be released.
fn start(script: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn release(child: &mut Child) {
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
}

/// A shell script that runs only once it is inside.
fn run_in(container: &Container, script: &str) -> Child {
    let mut child = start(script);
    container.join(child.id()).unwrap();
    release(&mut child);
    child
}

#[track_caller]
fn ends(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_until("the process ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// In how many hierarchies a process is in `path`.
fn cgroups_of(pid: u32, path: &str) -> usize {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().filter(|line| line.splitn(3, ':').nth(2) == Some(path)).count()
}

#[test]
fn the_tree_of_a_pod_is_in_every_hierarchy_and_goes_with_it() {
    for bed in Bed::each() {
        let pod = bed.pod();
        let mut supervisor = Command::new("sleep").arg("100").spawn().unwrap();
        pod.join_supervisor(supervisor.id()).unwrap();
        let container = pod.container(&container_id(1));
        container.create(&Resources::default(), &[]).unwrap();
        let mut init = run_in(&container, "sleep 100");

        for directory in pod.paths() {
            assert!(directory.join(container_id(1).as_str()).is_dir(), "{}", directory.display());
            assert!(directory.join("supervisor").is_dir(), "{}", directory.display());
        }
        let leaf = format!("{}/supervisor", pod.path());
        assert_eq!(cgroups_of(supervisor.id(), &leaf), pod.paths().len());
        assert_eq!(cgroups_of(init.id(), container.path()), pod.paths().len());
        let views = container.views();
        assert_eq!(views.len(), pod.paths().len());
        assert!(views.iter().all(|(_, directory)| directory.is_dir()));

        assert!(pod.populated().unwrap());
        pod.kill().unwrap();
        ends(&mut supervisor);
        ends(&mut init);
        wait_until("nobody is left", || !pod.populated().unwrap());
        pod.remove().unwrap();
        pod.remove().unwrap();
        assert!(pod.paths().iter().all(|directory| !directory.exists()));
        assert!(bed.directories().iter().all(|directory| directory.is_dir()), "the kubelet's stay");
    }
}

#[test]
fn limits_are_what_was_asked_for() {
    let Some(bed) = Bed::new().filter(|bed| bed.version() == Version::V1) else { return };
    let resources = Resources {
        cpu_shares: 512,
        cpu_quota_us: 20_000,
        cpu_period_us: 50_000,
        memory_bytes: 32 << 20,
        memory_and_swap_bytes: 64 << 20,
        pids_max: 77,
        cpuset_cpus: "0".into(),
        ..Resources::default()
    };
    let container = bed.container(&resources);
    let read = |controller, file| bed.read(controller, container.path(), file);
    assert_eq!(read("cpu", "cpu.shares"), "512");
    assert_eq!(read("cpu", "cpu.cfs_quota_us"), "20000");
    assert_eq!(read("cpu", "cpu.cfs_period_us"), "50000");
    assert_eq!(read("memory", "memory.limit_in_bytes"), (32 << 20).to_string());
    assert_eq!(read("memory", "memory.memsw.limit_in_bytes"), (64 << 20).to_string());
    assert_eq!(read("pids", "pids.max"), "77");
    assert_eq!(read("cpuset", "cpuset.cpus"), "0");

    // Another reader's opinion.
    let directory = |controller| bed.directory(controller, container.path());
    let cpu = CpuController::new(directory("cpu"), "/".into(), false);
    assert_eq!(
        (cpu.shares().unwrap(), cpu.cfs_quota().unwrap(), cpu.cfs_period().unwrap()),
        (512, 20_000, 50_000)
    );
    let memory = MemController::new(directory("memory"), "/".into(), false);
    assert_eq!(memory.memory_stat().limit_in_bytes, 32 << 20);
    assert_eq!(memory.memswap().limit_in_bytes, 64 << 20);

    // Up past the old sum, and down below the old memory: each order of writes the kernel would refuse.
    for (memory, sum) in [(128 << 20, 256 << 20), (8 << 20, 16 << 20)] {
        let resources =
            Resources { memory_bytes: memory, memory_and_swap_bytes: sum, ..Resources::default() };
        container.update(&resources).unwrap();
        assert_eq!(read("memory", "memory.limit_in_bytes"), memory.to_string());
        assert_eq!(read("memory", "memory.memsw.limit_in_bytes"), sum.to_string());
    }
    container.update(&Resources { memory_bytes: -1, ..Resources::default() }).unwrap();
    assert_eq!(read("memory", "memory.limit_in_bytes"), read("memory", "memory.memsw.limit_in_bytes"));
    assert_eq!(read("cpu", "cpu.shares"), "512", "what is not set stays");
}

#[test]
fn a_refused_limit_names_file_and_value_and_leaves_nothing() {
    let Some(bed) = Bed::new() else { return };
    let pod = bed.pod();
    let container = pod.container(&container_id(1));
    let resources = Resources { pids_max: 5, cpuset_cpus: "900".into(), ..Resources::default() };
    let error = container.create(&resources, &[]).unwrap_err().to_string();
    assert!(error.contains("cpuset.cpus") && error.contains("\"900\""), "{error}");
    for directory in pod.paths() {
        assert!(!directory.join(container_id(1).as_str()).exists(), "{}", directory.display());
    }
}

#[test]
fn a_refused_update_leaves_the_limits_as_they_were() {
    let Some(bed) = Bed::new() else { return };
    let container = bed.container(&Resources { pids_max: 5, ..Resources::default() });
    let resources = Resources { pids_max: 6, cpuset_cpus: "900".into(), ..Resources::default() };
    assert!(matches!(container.update(&resources), Err(Error::Write { .. })));
    assert_eq!(bed.read("pids", container.path(), "pids.max"), "5");
}

#[test]
fn a_pods_limits_are_ours_only_under_the_configured_parent() {
    let Some(bed) = Bed::new() else { return };
    let resources = Resources { pids_max: 50, ..Resources::default() };
    let ours = bed.cgroupfs.plan(&bed.parent, &pod_id(2), true);
    bed.cgroupfs.create_pod(&ours, &resources).unwrap();
    assert_eq!(ours.path(), format!("{}/{}", bed.parent, pod_id(2)));
    assert_eq!(bed.read("pids", ours.path(), "pids.max"), "50");
    ours.update(&Resources { pids_max: 60, ..Resources::default() }).unwrap();
    assert_eq!(bed.read("pids", ours.path(), "pids.max"), "60");

    let kubelets = bed.cgroupfs.plan(&bed.parent, &pod_id(3), false);
    bed.cgroupfs.create_pod(&kubelets, &resources).unwrap();
    kubelets.update(&resources).unwrap();
    assert_eq!(bed.read("pids", kubelets.path(), "pids.max"), "max");
}

#[test]
fn parents_made_for_a_pod_go_with_the_last_pod_in_them_and_others_stay() {
    let Some(bed) = Bed::new() else { return };
    let deep = format!("{}/burstable/pod7", bed.parent);
    // The kubelet knows this hierarchy and has made the parent there.
    fs::create_dir_all(bed.directory("memory", &deep)).unwrap();
    let first = bed.pod_in(&deep, 1);
    let second = bed.pod_in(&deep, 2);
    // The one that found its parents there is the last.
    first.remove().unwrap();
    assert!(second.paths().iter().all(|directory| directory.is_dir()));
    second.remove().unwrap();
    assert!(bed.directory("memory", &deep).is_dir());
    if bed.version() == Version::V1 {
        assert!(!bed.directory("freezer", &format!("{}/burstable", bed.parent)).exists());
        assert!(bed.directory("freezer", &bed.parent).is_dir());
    }
}

#[test]
fn pods_made_and_removed_at_once_under_a_missing_parent_do_not_trip_each_other() {
    for bed in Bed::each() {
        let deep = format!("{}/burstable/pod8", bed.parent);
        thread::scope(|scope| {
            for number in 0..4 {
                let (bed, deep) = (&bed, &deep);
                scope.spawn(move || {
                    for _ in 0..30 {
                        let pod = bed.pod_in(deep, number);
                        pod.remove().unwrap();
                    }
                });
            }
        });
    }
}

/// Cgroups that [`hopping_daemons`] move between: `cgroup.procs` files, a space between two.
const HOPPING_IN: &str = "PINTLE_TEST_HOPPING_IN";

#[test]
#[ignore = "run by another test, in a process of its own"]
#[expect(clippy::zombie_processes, reason = "it reaps whatever ends, this shell too")]
fn hopping_daemons() {
    // Each forks twice and ends, so no pid lives longer than a moment, and their number stays the same. The
    // sleepers come before them in `cgroup.procs`: time in which to hop away.
    const SCRIPT: &str = "for procs in $PINTLE_TEST_HOPPING_IN; do echo $$ > $procs; done
        for n in $(seq 100); do sleep 1000 & done; hop() { ( hop & ); }; for n in $(seq 20); do hop & done";
    // The machine's init may be slow to reap, and a pid table that fills up would end them for us.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    Command::new("sh").args(["-c", SCRIPT]).spawn().unwrap();
    while rustix::process::wait(rustix::process::WaitOptions::empty()).is_ok() {}
}

#[test]
fn daemons_that_fork_on_and_on_are_all_killed() {
    for bed in Bed::each() {
        let container = bed.pod().container(&container_id(1));
        for _ in 0..6 {
            container.create(&Resources::default(), &[]).unwrap();
            let procs = container.views().into_iter().map(|(_, directory)| directory.join("cgroup.procs"));
            let procs: Vec<_> = procs.map(|path| path.to_str().unwrap().to_owned()).collect();
            let mut parent_of_all = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "cgroup::tests::hopping_daemons", "--ignored"])
                .env(HOPPING_IN, procs.join(" "))
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let count = || {
                let procs = bed.directory("freezer", container.path()).join("cgroup.procs");
                fs::read_to_string(procs).unwrap().lines().count()
            };
            wait_until("they hop", || count() > 110);
            assert!(parent_of_all.try_wait().unwrap().is_none());

            container.kill().unwrap();
            let killed = Instant::now();
            assert!(ends(&mut parent_of_all).success());
            assert!(killed.elapsed() < Duration::from_secs(3), "one was missed and hopped on for a while");
            container.remove().unwrap();
            assert!(container.views().iter().all(|(_, directory)| !directory.exists()));
        }
    }
}

#[test]
fn killing_an_execs_leaf_takes_its_descendants_and_spares_the_container() {
    for bed in Bed::each() {
        let container = bed.container(&Resources::default());
        let mut init = run_in(&container, "sleep 100");
        let leaf = container.exec_leaf(7);
        leaf.create(&Resources::default(), &[]).unwrap();
        let mut exec = run_in(&leaf, "(sleep 100 & (sleep 100 &)); sleep 100");
        // In one hierarchy its own, in all others the container's.
        assert_eq!(cgroups_of(exec.id(), &format!("{}/exec-7", container.path())), 1);
        assert_eq!(cgroups_of(exec.id(), container.path()), container.views().len() - 1);

        leaf.kill().unwrap();
        ends(&mut exec);
        wait_until("the exec is gone", || !leaf.populated().unwrap());
        leaf.remove().unwrap();
        assert!(init.try_wait().unwrap().is_none(), "the container's init lives");
        assert!(container.populated().unwrap());

        // And the container's killing takes an exec with it.
        let leaf = container.exec_leaf(8);
        leaf.create(&Resources::default(), &[]).unwrap();
        let mut exec = run_in(&leaf, "sleep 100");
        container.kill().unwrap();
        ends(&mut exec);
        ends(&mut init);
        container.remove().unwrap();
    }
}

#[test]
fn a_cgroup_that_the_container_froze_is_killed_and_removed() {
    for bed in Bed::each() {
        let container = bed.container(&Resources::default());
        let mut init = run_in(&container, "sleep 100");
        let nested = bed.directory("freezer", container.path()).join("mine");
        fs::create_dir(&nested).unwrap();
        fs::write(nested.join("cgroup.procs"), init.id().to_string()).unwrap();
        match bed.version() {
            Version::V1 => fs::write(nested.join("freezer.state"), "FROZEN").unwrap(),
            Version::V2 => fs::write(nested.join("cgroup.freeze"), "1").unwrap(),
        }
        container.kill().unwrap();
        ends(&mut init);
        container.remove().unwrap();
        assert!(!nested.exists());
    }
}

#[test]
fn a_container_in_a_pod_that_somebody_froze_is_killed_and_removed() {
    let Some(bed) = Bed::new().filter(|bed| bed.version() == Version::V1) else { return };
    let pod = bed.pod();
    let container = pod.container(&container_id(1));
    container.create(&Resources::default(), &[]).unwrap();
    let freezer = |path: &str| bed.directory("freezer", path).join("freezer.state");
    for frozen in [container.path(), pod.path()] {
        let mut init = run_in(&container, "sleep 100");
        fs::write(freezer(frozen), "FROZEN").unwrap();
        container.kill().unwrap();
        ends(&mut init);
        let state = fs::read_to_string(freezer(frozen)).unwrap();
        assert_eq!(state.trim(), "THAWED", "{frozen}");
    }
    container.remove().unwrap();
}

#[test]
fn what_is_frozen_above_the_pod_is_told_and_left_alone() {
    let Some(bed) = Bed::new().filter(|bed| bed.version() == Version::V1) else { return };
    let pod = bed.pod();
    let container = pod.container(&container_id(1));
    container.create(&Resources::default(), &[]).unwrap();
    // A fork that is under way may keep a freezer from ever being done: vfork(2) waits for a child that stands still.
    let mut init = run_in(&container, "exec sleep 100");
    let above = bed.directory("freezer", &bed.parent).join("freezer.state");
    fs::write(&above, "FROZEN").unwrap();
    wait_until("it is frozen", || fs::read_to_string(&above).unwrap().trim() == "FROZEN");
    for killed in [container.kill(), pod.kill()] {
        let error = killed.unwrap_err().to_string();
        assert!(error.contains(&format!("by {}", above.parent().unwrap().display())), "{error}");
    }
    fs::write(&above, "THAWED").unwrap();
    ends(&mut init);
}

#[test]
fn a_step_of_a_killing_never_waits_for_the_freezer() {
    let Some(bed) = Bed::new().filter(|bed| bed.version() == Version::V1) else { return };
    let container = bed.container(&Resources::default());
    // A child of vfork(2) that has not called execve keeps its parent in the kernel, where it does not freeze.
    let script = "import ctypes, os, signal\nlibc = ctypes.CDLL(None)\nif libc.vfork() == 0: signal.pause()";
    let mut init = run_in(&container, &format!("exec python3 -c '{script}'"));
    wait_until("both are there", || container.processes().unwrap() == 2);
    let mut looks = 0;
    let mut killing = container.begin_kill(&mut || {}).unwrap().unwrap();
    let mut pauses = 0;
    while killing.step(&mut || looks += 1).unwrap().is_some() {
        pauses += 1;
        assert!(pauses < 10_000);
    }
    assert_eq!(looks, 1);
    ends(&mut init);
}

#[test]
fn nested_cgroups_are_removed_however_deep_and_many() {
    const DEPTH: usize = 600;
    const BESIDE: usize = 300;
    for bed in Bed::each() {
        let container = bed.container(&Resources::default());
        let top = bed.directory("pids", container.path());
        for number in 0..BESIDE {
            fs::create_dir(top.join(format!("beside-{number}"))).unwrap();
        }
        let mut here: std::os::fd::OwnedFd = fs::File::open(&top).unwrap().into();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&here, "nested-cgroup", rustix::fs::Mode::RWXU).unwrap();
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
            here = rustix::fs::openat(&here, "nested-cgroup", flags, rustix::fs::Mode::empty()).unwrap();
        }
        drop(here);
        let started = Instant::now();
        container.remove().unwrap();
        eprintln!("{} nested cgroups removed in {:?}", DEPTH + BESIDE, started.elapsed());
        assert!(!top.exists());
    }
}

#[test]
fn an_out_of_memory_kill_is_counted() {
    let Some(bed) = Bed::new() else { return };
    let container = bed.container(&Resources { memory_bytes: 16 << 20, ..Resources::default() });
    assert_eq!(container.oom_counts().unwrap().oom_kill, 0);
    let mut init = run_in(&container, "exec tail /dev/zero");
    let status = ends(&mut init);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert_eq!(container.oom_counts().unwrap().oom_kill, 1);
    container.remove().unwrap();
    assert!(container.oom_counts().is_err(), "the counters went with the cgroup");
}

/// A disk of the host: a file behind a loop device, taken back with it.
struct Disk {
    device: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl Disk {
    fn new() -> Option<Self> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file.path()).output();
        let Some(made) = made.ok().filter(|made| made.status.success()) else {
            eprintln!("skipped: no loop device to be had");
            return None;
        };
        let device = String::from_utf8(made.stdout).unwrap().trim().into();
        Some(Self { device, _file: file })
    }

    /// The rule that makes it usable, as the helper would write it.
    fn rule(&self, access: &str) -> DeviceRule {
        let number = std::os::unix::fs::MetadataExt::rdev(&fs::metadata(&self.device).unwrap());
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        DeviceRule { allow: true, kind: 'b', major: Some(major), minor: Some(minor), access: access.into() }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

/// Whether a process of a container with these rules may do what a shell's redirection does.
#[track_caller]
fn may(container: &Container, redirection: &str) -> bool {
    ends(&mut run_in(container, &format!("exec {redirection}"))).success()
}

#[test]
fn a_disk_of_the_host_can_be_opened_only_by_whom_a_rule_allows() {
    for bed in Bed::each() {
        let Some(disk) = Disk::new() else { return };
        let rule = |allow, kind, major, minor| DeviceRule { allow, kind, major, minor, access: "rwm".into() };
        let nothing = rule(false, 'a', None, None);
        let null = rule(true, 'c', Some(1), Some(3));
        let read = format!("< {}", disk.device.display());
        let write = format!("1<> {}", disk.device.display());
        let pod = bed.pod();
        let make = |number, rules: &[DeviceRule]| {
            let container = pod.container(&container_id(number));
            container.create(&Resources::default(), rules).unwrap();
            container
        };

        let plain = make(1, &[nothing.clone(), null.clone()]);
        assert!(may(&plain, "< /dev/null") && may(&plain, "> /dev/null"));
        assert!(!may(&plain, "< /dev/zero"));
        assert!(!may(&plain, &read) && !may(&plain, &write));
        // What a container makes for itself below is held by the same rules.
        let nested = bed.directory("devices", plain.path()).join("nested");
        fs::create_dir(&nested).unwrap();
        let mut below = start(&format!("exec {read}"));
        fs::write(nested.join("cgroup.procs"), below.id().to_string()).unwrap();
        release(&mut below);
        assert!(!ends(&mut below).success());

        let reader = make(2, &[nothing.clone(), null, disk.rule("r")]);
        assert!(may(&reader, &read));
        assert!(!may(&reader, &write));

        let writer = make(3, &[nothing, disk.rule("r"), disk.rule("w")]);
        assert!(may(&writer, &read) && may(&writer, &write));

        let privileged = make(4, &[rule(true, 'a', None, None)]);
        assert!(may(&privileged, &read) && may(&privileged, &write));
        pod.kill().unwrap();
        pod.remove().unwrap();
    }
}

#[test]
fn the_kernel_takes_as_many_rules_as_a_container_can_have() {
    for bed in Bed::each() {
        let numbered = |number: u32| DeviceRule {
            allow: !number.is_multiple_of(3),
            kind: if number.is_multiple_of(2) { 'b' } else { 'c' },
            major: Some(200 + number % 7),
            minor: Some(number),
            access: ["r", "rw", "rwm"][number as usize % 3].into(),
        };
        let null = DeviceRule { allow: true, kind: 'c', major: Some(1), minor: Some(3), access: "rw".into() };
        let rules: Vec<_> = std::iter::once(null).chain((1..1000).map(numbered)).collect();
        let container = bed.pod().container(&container_id(1));
        let started = Instant::now();
        container.create(&Resources::default(), &rules).unwrap();
        eprintln!("{} device rules on {:?}: {:?}", rules.len(), bed.version(), started.elapsed());
        assert!(may(&container, "< /dev/null"));
        assert!(!may(&container, "< /dev/zero"));
        container.remove().unwrap();
    }
}

#[test]
fn a_process_that_has_ended_cannot_join() {
    for bed in Bed::each() {
        let container = bed.container(&Resources::default());
        let mut gone = Command::new("true").spawn().unwrap();
        ends(&mut gone);
        let error = container.join(gone.id()).unwrap_err();
        assert!(error.to_string().contains("cgroup.procs"), "{error}");
    }
}

#[tokio::test]
async fn a_pod_is_made_off_the_callers_thread_and_its_record_is_enough_to_remove_it() {
    let Some(bed) = Bed::new() else { return };
    let config = Config { driver: DriverChoice::Cgroupfs, parent: bed.parent.clone() };
    let manager = Manager::detect(&config).unwrap();
    let pod = manager.plan_pod("", &pod_id(5)).unwrap();
    assert!(pod.paths().iter().all(|directory| !directory.exists()));
    manager.create_pod(&pod, &Resources::default()).await.unwrap();
    assert!(pod.paths().iter().all(|directory| directory.exists()));
    assert_eq!(pod.driver(), Driver::Cgroupfs);
    let record = serde_json::to_string(&pod).unwrap();
    let read: Handle = serde_json::from_str(&record).unwrap();
    assert_eq!(read, pod);
    read.remove().unwrap();
    assert!(pod.paths().iter().all(|directory| !directory.exists()));

    let refused = manager.plan_pod("/a/../..", &pod_id(6));
    assert!(matches!(refused, Err(Error::BadParent { .. })));
    let ghost = Manager::Fake.plan_pod("/x", &pod_id(6)).unwrap();
    Manager::Fake.create_pod(&ghost, &Resources::default()).await.unwrap();
    ghost.join_supervisor(0).unwrap();
    ghost.remove().unwrap();
}

#[test]
fn no_ancestor_hands_down_more_than_before() {
    for bed in Bed::each().filter(|bed| bed.version() == Version::V2) {
        let given = |path: &str| bed.read("", path, "cgroup.subtree_control");
        let before = (given(""), given(&bed.parent));
        let pod = bed.pod();
        pod.join_supervisor(Command::new("true").spawn().unwrap().id()).unwrap_or(());
        pod.container(&container_id(1)).create(&Resources::default(), &[]).unwrap();
        assert_eq!((given(""), given(&bed.parent)), before);
        pod.remove().unwrap();
        assert_eq!((given(""), given(&bed.parent)), before);
    }
}

#[test]
fn a_look_before_a_kill_finds_everybody_alive() {
    for bed in Bed::each() {
        let container = bed.container(&Resources::default());
        let mut init = run_in(&container, "sleep 100 & wait");
        wait_until("both are there", || container.processes().unwrap() == 2);
        let mut seen = Vec::new();
        container.group().kill_after(&mut || seen.push(container.processes().unwrap())).unwrap();
        assert_eq!(seen, [2]);
        ends(&mut init);
        wait_until("nobody is left", || container.processes().unwrap() == 0);
        container.remove().unwrap();
    }
}

#[test]
fn what_a_real_container_uses_is_told_until_it_is_gone() {
    const READINGS: u32 = 200;
    for bed in Bed::each() {
        let v1 = bed.version() == Version::V1;
        let pod = bed.pod();
        let container = pod.container(&container_id(1));
        container.create(&Resources::default(), &[]).unwrap();
        let mut init =
            run_in(&container, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; exec sleep 1000");
        wait_until("it has computed", || container.cpu_ns().is_some_and(|used| used > 10_000_000));
        let usage = container.usage().unwrap();
        if v1 {
            assert!(
                usage.memory.is_some_and(|memory| memory.usage > 0 && memory.working_set <= memory.usage)
            );
            assert!(usage.tasks.is_some_and(|tasks| tasks >= 1), "{usage:?}");
        }
        assert!(pod.usage().unwrap().cpu_ns >= usage.cpu_ns);
        assert_eq!(container.detail(&[]).unwrap().processes, [init.id()]);
        let began = Instant::now();
        (0..READINGS).for_each(|_| assert!(container.usage().is_some()));
        let of_usage = began.elapsed() / READINGS;
        let began = Instant::now();
        (0..READINGS).for_each(|_| assert!(container.cpu_ns().is_some()));
        let of_sample = began.elapsed() / READINGS;
        eprintln!("v1: {v1}: usage {of_usage:?}, one sample {of_sample:?}");
        container.kill().unwrap();
        ends(&mut init);
        container.remove().unwrap();
        assert_eq!((container.usage(), container.cpu_ns()), (None, None));
        assert_eq!(container.detail(&[]), None);
        pod.remove().unwrap();
    }
}
