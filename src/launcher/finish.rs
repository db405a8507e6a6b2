//! The last steps before execve, the same for a container's init and for an exec.

use std::{
    ffi::{CStr, CString},
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::{
    model::{Failure, ProcessPlan, ResolvedUser, Stage},
    sys::{
        path::{Make, make_in_root},
        privilege, process, signal,
    },
};

/// Who a process runs as.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Identity {
    pub user: ResolvedUser,
    /// What HOME is when the environment has none.
    pub home: String,
}

/// Turns this process into the program of `plan`; returns only when that failed.
///
/// Its root is the container's; every descriptor but the standard three and close-on-exec ones is closed.
pub(super) fn finish(plan: &ProcessPlan, identity: &Identity) -> Failure {
    match prepare(plan, identity) {
        Err(failure) => failure,
        Ok(program) => program.run(plan),
    }
}

/// Everything execve needs, allocated before the filter is on.
struct Program {
    candidates: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
}

fn prepare(plan: &ProcessPlan, identity: &Identity) -> Result<Program, Failure> {
    enter_directory(&plan.cwd)?;
    let program = Program::new(plan, identity)?;
    take_privileges(plan, &identity.user).map_err(|error| Failure::io(Stage::Privileges, "", "", &error))?;
    Ok(program)
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
    // What set-up needs on top of the plan; execve takes it away again, for the bounding set lacks it.
    let until_execve = plan.capabilities | privilege::SYS_ADMIN;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    privilege::limit_open_files(plan.nofile.0, plan.nofile.1)?;
    privilege::limit_capabilities(plan.capabilities)?;
    privilege::become_user(user.uid, user.gid, &user.groups)?;
    privilege::set_capabilities(until_execve, plan.ambient)?;
    privilege::raise_ambient(plan.ambient)?;
    signal::reset_all()?;
    if plan.no_new_privs {
        privilege::no_new_privileges()?;
    }
    Ok(())
}

impl Program {
    fn new(plan: &ProcessPlan, identity: &Identity) -> Result<Self, Failure> {
        let c = |bytes: &[u8]| {
            CString::new(bytes).map_err(|_| {
                Failure::new(Stage::Request, "", format!("NUL in {:?}", String::from_utf8_lossy(bytes)))
            })
        };
        let args = plan.args.iter().map(|arg| c(arg)).collect::<Result<Vec<_>, _>>()?;
        let mut env = plan.env.iter().map(|entry| c(entry)).collect::<Result<Vec<_>, _>>()?;
        if !plan.env.iter().any(|entry| entry.starts_with(b"HOME=")) {
            env.push(c(&[b"HOME=", identity.home.as_bytes()].concat())?);
        }
        let name = plan.args.first().ok_or_else(|| Failure::new(Stage::Request, "", "no command"))?;
        let candidates = candidates(name, &plan.env).iter().map(|path| c(path)).collect::<Result<_, _>>()?;
        Ok(Self { candidates, args, env })
    }

    /// No system call but execve after the filter: a strict profile must not be able to break the start.
    fn run(&self, plan: &ProcessPlan) -> Failure {
        let args = process::NullTerminated::new(self.args.iter().map(CString::as_c_str));
        let env = process::NullTerminated::new(self.env.iter().map(CString::as_c_str));
        if let Some(program) = &plan.seccomp
            && let Err(error) = privilege::load_seccomp(program)
        {
            return Failure::io(Stage::Privileges, "seccomp", "", &error);
        }
        let mut refused: Option<(&CStr, io::Error)> = None;
        for path in &self.candidates {
            let error = process::execve(path, &args, &env);
            // As execvp(3): go on where there is nothing, remember where there was something else.
            if !matches!(error.raw_os_error(), Some(ENOENT | ENOTDIR)) || refused.is_none() {
                refused = Some((path, error));
            }
        }
        let name = String::from_utf8_lossy(plan.args.first().map_or(b"", Vec::as_slice)).into_owned();
        match refused {
            Some((_, error)) if self.candidates.len() > 1 && error.raw_os_error() == Some(ENOENT) => {
                Failure { errno: ENOENT, ..Failure::new(Stage::Execve, name, "not found in PATH") }
            }
            Some((path, error)) => {
                let path = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
                Failure::io(Stage::Execve, "", path, &error)
            }
            None => Failure { errno: ENOENT, ..Failure::new(Stage::Execve, name, "PATH is empty") },
        }
    }
}

const ENOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();
const ENOTDIR: i32 = rustix::io::Errno::NOTDIR.raw_os_error();

/// The paths to try for a command, as execvp(3) would with the *container's* PATH.
fn candidates(name: &[u8], env: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if name.contains(&b'/') || name.is_empty() {
        return vec![name.to_vec()];
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix(b"PATH=")).unwrap_or(b"/bin:/usr/bin");
    path.split(|byte| *byte == b':')
        .map(|folder| {
            let folder = if folder.is_empty() { b"." } else { folder };
            [folder, b"/", name].concat()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_command_is_looked_for_in_the_containers_path() {
        let env = [b"A=1".to_vec(), b"PATH=/x:/y".to_vec()];
        assert_eq!(candidates(b"sh", &env), [b"/x/sh", b"/y/sh"]);
        assert_eq!(candidates(b"./sh", &env), [b"./sh"]);
        assert_eq!(candidates(b"sh", &[]), [b"/bin/sh".to_vec(), b"/usr/bin/sh".to_vec()]);
    }
}
