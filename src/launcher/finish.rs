//! The last steps before execve, the same for a container's init and for an exec.
//!
//! ```text
//! confine     descriptors, directory, keyring, identity, capabilities, limits, program, filter
//! [fork]      a process that enters a pid namespace in which others may be
//! [barrier]   a container's init
//! execve
//! ```
//!
//! Whoever is in the pid namespace and has CAP_SYS_PTRACE can take over what comes into it, from its first
//! instruction. So all that it must not have is given up outside, and the fork comes last.

use std::{ffi::CString, io, os::fd::AsFd, path::Path};

use rustix::fs::{CWD, Mode, OFlags};

use super::{
    lsm::NodeProc,
    program::Program,
    report::{Report, Reporter, encode},
    user::Identity,
};
use crate::{
    model::{ContainerId, Failure, ProcessPlan, ResolvedUser, Stage},
    sys::{
        passage::{Needs, Passage},
        path::{Make, make_in_root},
        pids::Slot,
        privilege,
        process::{self, Fork, Kept, OneThread},
        signal,
    },
};

/// Bytes of heap that are free when the filter is loaded: it may forbid the calls by which the heap grows, and a failed
/// execve has to be put into words.
const SPARE_BYTES: usize = 64 * 1024;

/// The session keyring that a container's processes share.
#[derive(Clone, Debug)]
pub(super) struct Keyring {
    name: CString,
    /// The container's init makes it.
    made: bool,
}

impl Keyring {
    /// The keyring of a container; its init is the first to enter it.
    pub(super) fn of(container: &ContainerId, made: bool) -> Self {
        // An id holds no NUL.
        Self { name: CString::new(format!("pintle.{container}")).unwrap_or_default(), made }
    }

    fn enter(&self) -> Result<(), Failure> {
        privilege::enter_session_keyring(&self.name, self.made)
            .map_err(|error| Failure::io(Stage::Privileges, "session keyring", "", &error))
    }
}

/// How a confined process gets to its program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// The slot for the pid of a process that is forked into the pid namespace entered, before the caller ends.
    pub(super) fork: Option<Slot>,
    /// The forked process makes standard input its controlling terminal.
    pub(super) terminal: bool,
    pub(super) one_thread: OneThread,
}

/// A process that has exactly what its program will have; the system calls that it still makes pass its filter
/// (`sys::passage`).
pub(super) struct Confined<'a> {
    program: Program,
    passage: Passage,
    route: Route,
    report: &'a Reporter,
}

/// Gives up all that the program of `plan` is not to have: also every descriptor but the standard three and the
/// report, whoever owns it. Its root is the container's.
///
/// # Errors
/// Stage `WorkingDir`, `Privileges` or `Request`; then no filter is on yet.
pub(super) fn confine<'a>(
    plan: &ProcessPlan,
    identity: &Identity,
    keyring: &Keyring,
    proc: &NodeProc,
    route: Route,
    report: &'a Reporter,
) -> Result<Confined<'a>, Failure> {
    let failed = |what: &str, error: &io::Error| Failure::io(Stage::Privileges, what, "", error);
    proc.label_next_program(plan)?;
    // That of the helper, which has a descriptor of its own.
    drop(std::panic::take_hook());
    // Before anything of the image is looked at by path: `/proc/self/fd/N` must lead nowhere.
    process::close_all_but(&Kept::from_iter([report.as_fd()]), route.one_thread)
        .map_err(|error| failed("descriptors", &error))?;
    enter_directory(&plan.cwd)?;
    keyring.enter()?;
    take_privileges(plan, &identity.user).map_err(|error| failed("", &error))?;
    let program = Program::new(plan, identity)?;
    let passage = Passage::new().map_err(|error| failed("random number", &error))?;
    if let Some(slot) = route.fork {
        slot.exclude_from_forks().map_err(|error| failed("memory", &error))?;
    }
    // Freed at once, so that it is on the heap. The compiler must not see that it is never written to.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(SPARE_BYTES)));
    let confined = Confined { program, passage, route, report };
    if let Some(filter) = &plan.seccomp {
        let needs = Needs { fork: route.fork.is_some(), terminal: route.terminal };
        confined
            .passage
            .load(filter, plan.seccomp_flags, needs)
            .map_err(|error| failed("seccomp", &error))?;
        if let Err(error) = confined.passage.set_capabilities(plan.capabilities, plan.ambient) {
            confined.fail(failed("capabilities", &error));
        }
    }
    Ok(confined)
}

/// Makes the working directory when it is missing and enters it, inside the root and through no magic link
/// (a `/proc/self/fd/N` of ours would lead out of the container, CVE-2024-21626).
fn enter_directory(cwd: &str) -> Result<(), Failure> {
    let enter = || -> io::Result<()> {
        let root = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let directory = make_in_root(root.as_fd(), Path::new(cwd), Make::Directory)?;
        Ok(rustix::process::fchdir(directory)?)
    };
    enter().map_err(|error| Failure::io(Stage::WorkingDir, "", cwd, &error))
}

fn take_privileges(plan: &ProcessPlan, user: &ResolvedUser) -> io::Result<()> {
    // A filter is loaded by who has CAP_SYS_ADMIN or has given up to gain anything by execve; the program may be one
    // that may gain. It is given up with the filter on.
    let for_filter = if plan.seccomp.is_some() { privilege::SYS_ADMIN } else { 0 };
    rustix::process::umask(Mode::from_raw_mode(0o022));
    privilege::limit_open_files(plan.nofile.0, plan.nofile.1)?;
    privilege::limit_capabilities(plan.capabilities)?;
    privilege::become_user(user.uid, user.gid, &user.groups)?;
    privilege::set_capabilities(plan.capabilities | for_filter, plan.ambient)?;
    privilege::raise_ambient(plan.ambient)?;
    signal::reset_all()?;
    if plan.no_new_privs {
        privilege::no_new_privileges()?;
    }
    Ok(())
}

impl Confined<'_> {
    /// Reports that the rest of the report must not be trusted: others may control the process that sends it.
    pub(super) fn seal(&self) {
        self.tell_supervisor(&Report::Sealed);
    }

    /// Forks the process that is to become the program and ends, if the route asks for it: it returns in that process.
    pub(super) fn fork_if_needed(&self) {
        let Some(slot) = self.route.fork else { return };
        match self.passage.fork_sibling(slot.number(), self.route.one_thread) {
            Ok(Fork::Parent(_)) => self.passage.exit(0),
            Err(error) => {
                slot.store(&Err(error));
                self.passage.exit(1)
            }
            Ok(Fork::Child) => {}
        }
        let own_session = || -> io::Result<()> {
            self.passage.new_session()?;
            if self.route.terminal { self.passage.take_terminal(rustix::stdio::stdin()) } else { Ok(()) }
        };
        if let Err(error) = own_session() {
            self.fail(Failure::io(Stage::Launch, "session", "", &error));
        }
    }

    /// Waits at the barrier. `false`: the supervisor is gone, or does not want the process any more.
    pub(super) fn wait_for_go(&self) -> bool {
        self.tell_supervisor(&Report::Waiting);
        let mut go = [0; 1];
        matches!(self.passage.receive(self.report.as_fd(), &mut go), Ok(1)) && go == *b"G"
    }

    /// Becomes the program, or says why it cannot and ends.
    pub(super) fn execute(&self) -> ! {
        self.fail(self.program.run())
    }

    /// Ends without a word.
    pub(super) fn exit(&self, code: i32) -> ! {
        self.passage.exit(code)
    }

    fn fail(&self, failure: Failure) -> ! {
        self.tell_supervisor(&Report::Failed(failure));
        self.passage.exit(127)
    }

    fn tell_supervisor(&self, report: &Report) {
        if let Ok(bytes) = encode(report) {
            // Who does not listen any more has seen the end of this process, or will.
            let _told = self.passage.send(self.report.as_fd(), &bytes);
        }
    }
}
