//! The short-lived processes that a supervisor forks: one for each create, one for each exec, and the anchor
//! of a shared pid namespace.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::{
    cgroup,
    launcher::{self, Device, Exec, Joined, Launch, PodNamespaces, Report, Reporter, Stdio},
    model::{ContainerPlan, Failure, PodId, Stage},
    sys::{
        pids::Slot,
        process::{self, Fork, Kept, Namespaces, OneThread, Pid},
        title,
    },
};

/// The two ends of a launch: the supervisor's does not block.
pub(in crate::supervisor) fn report_pair() -> io::Result<(Reporter, Reporter)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((Reporter::new(ours), Reporter::new(theirs)))
}

/// A pipe whose end for the supervisor does not block: (read, write).
pub(in crate::supervisor) fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((read, write))
}

/// An input that is at its end: a pipe nobody can write to. Never the host's `/dev/null`, whose owner and mode
/// whoever holds it could change; the launcher puts the container's own in its place.
pub(in crate::supervisor) fn no_input() -> io::Result<OwnedFd> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?.0)
}

/// What a helper makes a container from.
#[derive(Debug)]
pub(in crate::supervisor) struct Create<'a> {
    pub(in crate::supervisor) pod: &'a PodId,
    pub(in crate::supervisor) plan: &'a ContainerPlan,
    pub(in crate::supervisor) namespaces: &'a PodNamespaces,
    pub(in crate::supervisor) joined: Option<Joined>,
    pub(in crate::supervisor) cgroup: &'a cgroup::Container,
    pub(in crate::supervisor) stdio: Option<Stdio>,
    /// Where the init's pid is left.
    pub(in crate::supervisor) pid: Slot,
    pub(in crate::supervisor) report: Reporter,
}

/// Forks the helper that makes a container; gives the helper's pid.
pub(in crate::supervisor) fn create(create: Create<'_>) -> Result<Pid, Failure> {
    let Create { pod, plan, namespaces, joined, cgroup, stdio, pid, report } = create;
    let mut keep = vec![namespaces.template.as_fd(), report.as_fd()];
    keep.extend(namespaces.shared());
    if let Some(joined) = &joined {
        keep.push(joined.pid_namespace.as_fd());
        keep.extend(joined.target_mounts.as_ref().map(AsFd::as_fd));
    }
    if let Some(stdio) = &stdio {
        keep.extend([stdio.stdin.as_fd(), stdio.stdout.as_fd(), stdio.stderr.as_fd()]);
    }
    let what = format!("helper of pod {pod}: create {}", plan.id);
    spawn(&keep.into_iter().collect(), &report, &what, plan.id.as_str(), cgroup, |one_thread| {
        let in_cgroup = |error: cgroup::Error| error.failure(plan.id.as_str());
        let devices = launcher::find_devices(&plan.devices)?;
        let mut rules = plan.device_rules.clone();
        rules.extend(devices.iter().map(Device::rule));
        cgroup.create(&plan.resources, &rules).map_err(in_cgroup)?;
        crate::failpoint!("supervisor.container-cgroup-made");
        cgroup.join(0).map_err(in_cgroup)?;
        process::set_oom_score(plan.process.oom_score_adj);
        let report = report.another()?;
        let cgroup_views = cgroup.views();
        launcher::create(Launch {
            plan,
            namespaces,
            joined,
            devices: &devices,
            cgroup_views,
            stdio,
            pid,
            report,
            one_thread,
        })
    })
}

/// Forks the helper that runs a process in a container; gives the helper's pid.
pub(in crate::supervisor) fn exec(
    pod: &PodId,
    exec: &Exec<'_>,
    leaf: &cgroup::Container,
) -> Result<Pid, Failure> {
    let mut keep = exec.stdio.descriptors();
    keep.extend([exec.init.as_fd(), exec.report.as_fd()]);
    keep.extend(exec.pod.shared());
    let what = format!("helper of pod {pod}: exec in {}", exec.container);
    spawn(&keep.into_iter().collect(), &exec.report, &what, "exec", leaf, |one_thread| {
        let in_cgroup = |error: cgroup::Error| error.failure("exec");
        leaf.create(&crate::model::Resources::default(), &[]).map_err(in_cgroup)?;
        leaf.join(0).map_err(in_cgroup)?;
        process::set_oom_score(exec.plan.oom_score_adj);
        Err(launcher::exec(exec, one_thread))
    })
}

/// The reason of a panic in this process, or in one that it forks, is its failure. libcontainer has some.
fn report_panics(report: &Reporter) {
    // Without a descriptor more, a panic is seen by the end that it makes.
    let Ok(report) = report.another() else { return };
    std::panic::set_hook(Box::new(move |panic| {
        report.send(&Report::Failed(Failure::new(Stage::Internal, "helper", panic.to_string())));
    }));
}

/// Forks a helper into `cgroup` as far as it can be born there; it closes all descriptors but `keep`, does
/// `work` and ends with 0, or reports why it could not and ends with 1. Without a helper nothing is left of the
/// cgroup.
fn spawn(
    keep: &Kept,
    report: &Reporter,
    what: &str,
    object: &str,
    cgroup: &cgroup::Container,
    work: impl FnOnce(OneThread) -> Result<(), Failure>,
) -> Result<Pid, Failure> {
    let one_thread =
        OneThread::prove().map_err(|error| Failure::io(Stage::Internal, object, "fork", &error))?;
    let gate = cgroup.gate().map_err(|error| error.failure(object))?;
    let forked = process::fork_into(gate.as_ref().map(AsFd::as_fd), one_thread).map_err(|error| {
        let failure = Failure::io(Stage::Internal, object, "fork", &error);
        match cgroup.remove() {
            Ok(()) => failure,
            Err(left) => Failure { text: format!("{}; and {left}", failure.text), ..failure },
        }
    });
    match forked? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            let alone = || -> io::Result<()> {
                title::set(&format!("pintle: {what}"), "pintle:helper")?;
                process::close_all_but(keep, one_thread)?;
                report_panics(report);
                Ok(())
            };
            let alone = alone().map_err(|error| Failure::io(Stage::Internal, object, "helper", &error));
            match alone.and_then(|()| work(one_thread)) {
                Ok(()) => {
                    crate::failpoint!("helper.done");
                    process::exit_now(0)
                }
                Err(failure) => {
                    report.send(&Report::Failed(failure));
                    process::exit_now(1)
                }
            }
        }
    }
}

/// Makes a shared pid namespace: an intermediate process forks its first process, the anchor, which becomes
/// our child. Gives the anchor's pid, which is left in `slot`.
pub(in crate::supervisor) fn anchor(
    pod: &PodId,
    namespaces: &PodNamespaces,
    slot: Slot,
) -> Result<Pid, Failure> {
    let failed = |what: &str, error: &io::Error| Failure::io(Stage::Namespace, what, "anchor", error);
    let one_thread = OneThread::prove().map_err(|error| failed("fork", &error))?;
    let (ours, theirs) = report_pair().map_err(|error| failed("socketpair", &error))?;
    match process::fork(one_thread).map_err(|error| failed("fork", &error))? {
        Fork::Child => {
            // Who can take the anchor over gets into its namespaces too: they are the pod's.
            let made = namespaces
                .enter_shared()
                .and_then(|()| process::unshare(Namespaces::PID.and(Namespaces::CGROUP)))
                .and_then(|()| {
                    let keep = Kept::from_iter([theirs.as_fd(), namespaces.template.as_fd()]);
                    process::close_all_but(&keep, one_thread)
                })
                .and_then(|()| process::fork_sibling(one_thread));
            match made {
                Ok(Fork::Child) => {
                    // In a user namespace it may not mount there; we do.
                    let template = namespaces.users.is_none().then_some(&namespaces.template);
                    super::anchor::execute(pod, template, &theirs)
                }
                Ok(Fork::Parent(pid)) => slot.store(&Ok(pid)),
                Err(error) => theirs.send(&Report::Failed(failed("unshare", &error))),
            }
            process::exit_now(0)
        }
        Fork::Parent(pid) => {
            drop(theirs);
            process::wait(pid).map_err(|error| failed("wait", &error))?;
        }
    }
    // The anchor tells when it has closed itself off, or why it could not.
    rustix::io::ioctl_fionbio(ours.as_fd(), false).map_err(|error| failed("report", &error.into()))?;
    let said = ours.receive().map_err(|error| failed("report", &error))?;
    match (said, slot.pid()) {
        (Some((Report::Failed(failure), _)), _) => Err(failure),
        (None, Ok(Some(pid))) if namespaces.users.is_some() => {
            show_processes(namespaces, pid).inspect_err(|_| {
                // Nobody can use it. One that has ended by itself is what was wanted.
                let _ended: io::Result<()> = process::kill(pid);
            })?;
            Ok(pid)
        }
        (None, Ok(Some(pid))) => Ok(pid),
        _ => Err(Failure::new(Stage::Namespace, "pid", "the anchor or its maker died")),
    }
}

/// Mounts proc(5) for the containers that will share the anchor's pid namespace.
fn show_processes(namespaces: &PodNamespaces, anchor: Pid) -> Result<(), Failure> {
    let mount = || -> io::Result<()> {
        let pid_namespace = File::open(format!("/proc/{anchor}/ns/pid"))?.into();
        launcher::mount_pod_proc_from_outside(&namespaces.template, &pid_namespace)
    };
    mount().map_err(|error| Failure::io(Stage::Namespace, "pid", "/proc", &error))
}
