//! The short-lived processes that a supervisor forks: one for each create, one for each exec, and the anchor
//! of a shared pid namespace.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::{
    cgroup,
    launcher::{self, Device, Exec, Launch, PodNamespaces, Report, Reporter, Stdio},
    model::{ContainerPlan, Failure, Stage},
    sys::process::{self, Fork, Namespaces},
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

/// Forks the helper that makes a container; gives its pid.
pub(in crate::supervisor) fn create(
    plan: &ContainerPlan,
    namespaces: &PodNamespaces,
    pid_namespace: Option<&OwnedFd>,
    cgroup: &cgroup::Container,
    stdio: Option<Stdio>,
    report: Reporter,
) -> Result<u32, Failure> {
    let mut keep = vec![namespaces.template.as_fd()];
    let shared = [&namespaces.network, &namespaces.ipc, &namespaces.uts];
    keep.extend(shared.into_iter().flatten().chain(pid_namespace).map(AsFd::as_fd));
    let pid_namespace_copy = pid_namespace.map(OwnedFd::try_clone).transpose();
    let pid_namespace_copy =
        pid_namespace_copy.map_err(|error| Failure::io(Stage::Internal, plan.id.as_str(), "", &error))?;
    keep.extend(pid_namespace_copy.as_ref().map(AsFd::as_fd));
    if let Some(stdio) = &stdio {
        keep.extend([stdio.stdin.as_fd(), stdio.stdout.as_fd(), stdio.stderr.as_fd()]);
    }
    let keep: Vec<i32> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    spawn(&keep, report, plan.id.as_str(), cgroup, |report| {
        let in_cgroup = |error: cgroup::Error| error.failure(plan.id.as_str());
        let devices = launcher::find_devices(&plan.devices)?;
        let mut rules = plan.device_rules.clone();
        rules.extend(devices.iter().map(Device::rule));
        cgroup.create(&plan.resources, &rules).map_err(in_cgroup)?;
        crate::failpoint!("supervisor.container-cgroup-made");
        cgroup.join(0).map_err(in_cgroup)?;
        process::set_oom_score(plan.process.oom_score_adj);
        let launch = Launch {
            plan,
            namespaces,
            pid_namespace: pid_namespace_copy,
            devices: &devices,
            cgroup_views: cgroup.views(),
            stdio,
            report,
        };
        launcher::create(launch)
    })
}

/// Forks the helper that runs a process in a container; gives its pid.
pub(in crate::supervisor) fn exec(
    exec: Exec<'_>,
    leaf: &cgroup::Container,
    oom_score_adj: i64,
) -> Result<u32, Failure> {
    let keep = [
        exec.init.as_raw_fd(),
        exec.stdio.stdin.as_raw_fd(),
        exec.stdio.stdout.as_raw_fd(),
        exec.stdio.stderr.as_raw_fd(),
    ];
    let Exec { plan, identity, init, namespaces, own_cgroup_namespace, stdio, report } = exec;
    spawn(&keep, report, "exec", leaf, |report| {
        let in_cgroup = |error: cgroup::Error| error.failure("exec");
        leaf.create(&crate::model::Resources::default(), &[]).map_err(in_cgroup)?;
        leaf.join(0).map_err(in_cgroup)?;
        process::set_oom_score(oom_score_adj);
        launcher::exec(&Exec { plan, identity, init, namespaces, own_cgroup_namespace, stdio, report })
    })
}

/// Forks a helper into `cgroup` as far as it can be born there; it closes all descriptors but `keep`, does
/// `work` and reports the answer. Without a helper nothing is left of the cgroup.
fn spawn(
    keep: &[i32],
    report: Reporter,
    object: &str,
    cgroup: &cgroup::Container,
    work: impl FnOnce(Reporter) -> Result<u32, Failure>,
) -> Result<u32, Failure> {
    let gate = cgroup.gate().map_err(|error| error.failure(object))?;
    let forked = process::fork_into(gate.as_ref().map(AsFd::as_fd)).map_err(|error| {
        let _ = cgroup.remove();
        Failure::io(Stage::Internal, object, "fork", &error)
    });
    match forked? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            let mut keep = keep.to_vec();
            keep.push(report.as_raw());
            let _ = process::close_all_but(&mut keep);
            if let Ok(answer) = report.another() {
                answer.send(&match work(report) {
                    Ok(pid) => Report::Made { pid },
                    Err(failure) => Report::Failed(failure),
                });
            }
            process::exit_now(0)
        }
    }
}

/// Makes a shared pid namespace: an intermediate process forks its first process, the anchor, which becomes
/// our child. Gives the anchor's pid.
pub(in crate::supervisor) fn anchor() -> Result<u32, Failure> {
    let failed = |what: &str, error: &io::Error| Failure::io(Stage::Namespace, what, "anchor", error);
    let (ours, theirs) = report_pair().map_err(|error| failed("socketpair", &error))?;
    let made = match process::fork().map_err(|error| failed("fork", &error))? {
        Fork::Child => {
            let _ = process::close_all_but(&mut [theirs.as_raw()]);
            let made = process::unshare(Namespaces::PID).and_then(|()| process::fork_sibling());
            match made {
                Ok(Fork::Child) => super::anchor::execute(&theirs),
                Ok(Fork::Parent(pid)) => theirs.send(&Report::Made { pid }),
                Err(error) => theirs.send(&Report::Failed(failed("unshare", &error))),
            }
            process::exit_now(0)
        }
        Fork::Parent(pid) => {
            drop(theirs);
            let _ = process::wait(pid);
            ours.receive().map_err(|error| failed("report", &error))?
        }
    };
    match made {
        Some((Report::Made { pid }, _)) => {
            // The anchor tells when it has closed itself off, or why it could not.
            let _ = rustix::io::ioctl_fionbio(ours.as_fd(), false);
            match ours.receive() {
                Ok(None) => Ok(pid),
                Ok(Some((Report::Failed(failure), _))) => Err(failure),
                _ => Err(Failure::new(Stage::Namespace, "pid", "the anchor died")),
            }
        }
        Some((Report::Failed(failure), _)) => Err(failure),
        _ => Err(Failure::new(Stage::Namespace, "pid", "the anchor's maker died")),
    }
}
