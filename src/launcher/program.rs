//! The program of a container: looked for as execvp(3) does, with the container's PATH, and explained when the
//! kernel does not take it.

use std::{
    ffi::{CStr, CString, OsStr},
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    io::Errno,
};

use super::user::Identity;
use crate::{
    model::{Failure, ProcessPlan, Stage},
    sys::process::{self, NullTerminated},
};

/// Bytes of a program that are read to explain a failure: a script's first line, and where an ELF file names its
/// loader.
const HEAD_BYTES: usize = 2048;

/// Everything that execve needs, allocated before a filter may forbid to.
pub(super) struct Program {
    name: String,
    candidates: &'static [CString],
    found: Found,
    args: NullTerminated<'static>,
    env: NullTerminated<'static>,
}

/// The first candidate that is there.
#[derive(Debug, Default)]
struct Found {
    /// Its number; that of the first one when there is none.
    index: usize,
    file: Option<File>,
}

/// The properties of a candidate, as far as they could be seen.
#[derive(Debug, Default)]
struct File {
    /// As in `st_mode`.
    mode: u32,
    head: Vec<u8>,
}

impl Program {
    /// Looks for the program of `plan`, as whoever this process is by now.
    ///
    /// # Errors
    /// Stage `Request`. That there is no such program is told by [`Program::run`].
    pub(super) fn new(plan: &ProcessPlan, identity: &Identity) -> Result<Self, Failure> {
        let c = |bytes: &[u8]| {
            CString::new(bytes).map_err(|_| {
                Failure::new(Stage::Request, "", format!("NUL in {:?}", String::from_utf8_lossy(bytes)))
            })
        };
        let all = |list: &[Vec<u8>]| list.iter().map(|one| c(one)).collect::<Result<Vec<_>, _>>();
        let name = plan.args.first().ok_or_else(|| Failure::new(Stage::Request, "", "no command"))?;
        let mut env = all(&plan.env)?;
        if !plan.env.iter().any(|entry| entry.starts_with(b"HOME=")) {
            env.push(c(&[b"HOME=", identity.home.as_bytes()].concat())?);
        }
        // This process ends or becomes the program: what it holds is given back then.
        let candidates: &'static [CString] = all(&candidates(name, &plan.env))?.leak();
        let (args, env): (&'static [CString], &'static [CString]) = (all(&plan.args)?.leak(), env.leak());
        Ok(Self {
            name: String::from_utf8_lossy(name).into_owned(),
            candidates,
            found: look(candidates),
            args: NullTerminated::new(args.iter().map(CString::as_c_str)),
            env: NullTerminated::new(env.iter().map(CString::as_c_str)),
        })
    }

    /// Becomes the program; comes back only if that failed. No system call but execve: a filter may be on.
    pub(super) fn run(&self) -> Failure {
        let mut refused: Option<(&CStr, Errno)> = None;
        for path in self.candidates.get(self.found.index..).unwrap_or_default() {
            let error = process::execve(path, &self.args, &self.env);
            let error = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            // As execvp(3): go on where there is nothing, remember where there was something else.
            if !matches!(error, Errno::NOENT | Errno::NOTDIR) || refused.is_none() {
                refused = Some((path, error));
            }
        }
        self.failure(refused)
    }

    fn failure(&self, refused: Option<(&CStr, Errno)>) -> Failure {
        let in_words = |text: &str| {
            let errno = Errno::NOENT.raw_os_error();
            Failure { errno, ..Failure::new(Stage::Execve, self.name.as_str(), text) }
        };
        let Some((path, error)) = refused else { return in_words("PATH is empty") };
        let is_found = self.candidates.get(self.found.index).is_some_and(|found| found.as_c_str() == path);
        let file = self.found.file.as_ref().filter(|_| is_found);
        if file.is_none() && self.candidates.len() > 1 && error == Errno::NOENT {
            return in_words("not found in PATH");
        }
        let text = file.and_then(|file| file.explain(error)).unwrap_or_default();
        let path = Path::new(OsStr::from_bytes(path.to_bytes()));
        Failure { text, ..Failure::io(Stage::Execve, "", path, &error.into()) }
    }
}

/// The paths to try for a command.
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

fn look(candidates: &[CString]) -> Found {
    for (index, path) in candidates.iter().enumerate() {
        match rustix::fs::stat(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(_) => return Found { index, file: None },
            Ok(found) => {
                let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
                let head = if regular { head(path).unwrap_or_default() } else { Vec::new() };
                return Found { index, file: Some(File { mode: found.st_mode, head }) };
            }
        }
    }
    Found::default()
}

/// The beginning of a file. Who may execute a file may not always read it.
fn head(path: &CStr) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let mut head = vec![0; HEAD_BYTES];
    let length = rustix::io::read(&file, &mut head)?;
    head.truncate(length);
    Ok(head)
}

impl File {
    /// The reason why execve(2) fails with `error`, in words that say what to change.
    fn explain(&self, error: Errno) -> Option<String> {
        let kind = FileType::from_raw_mode(self.mode);
        match error {
            Errno::ACCESS if kind == FileType::Directory => Some("it is a directory".into()),
            Errno::ACCESS if kind != FileType::RegularFile => Some("it is not a file".into()),
            Errno::ACCESS if self.mode & 0o111 == 0 => {
                Some(format!("its mode {:04o} lets nobody execute it", self.mode & 0o7777))
            }
            Errno::NOENT => self.explain_missing(),
            Errno::NOEXEC => self.explain_unknown(),
            _ => None,
        }
    }

    /// The file is there, so what is not there is what it needs.
    fn explain_missing(&self) -> Option<String> {
        if let Some(interpreter) = interpreter(&self.head) {
            let shown = String::from_utf8_lossy(interpreter);
            if let Some(meant) = shown.strip_suffix('\r') {
                return Some(format!(
                    "its lines end with CR LF, so that its interpreter would be {shown:?} and not {meant:?}: save it \
                     with LF"
                ));
            }
            return Some(format!("its interpreter {shown:?} is not in the container"));
        }
        let loader = elf::loader(&self.head)?;
        let loader = String::from_utf8_lossy(loader);
        Some(format!(
            "its dynamic loader {loader:?} is not in the container: is it built for another C library?"
        ))
    }

    fn explain_unknown(&self) -> Option<String> {
        const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf#!";
        match elf::machine(&self.head) {
            Some(machine) if machine != std::env::consts::ARCH => {
                return Some(format!(
                    "it is built for {machine}, and this node is {}",
                    std::env::consts::ARCH
                ));
            }
            Some(_) => return None,
            None => {}
        }
        Some(if self.head.is_empty() {
            "it is empty".into()
        } else if self.head.starts_with(BYTE_ORDER_MARK) {
            "it begins with a byte order mark, and must begin with #!: save it without".into()
        } else {
            "it is neither a program for this node nor a script that begins with #!".into()
        })
    }
}

/// The path after a script's `#!`, as the kernel reads it: up to a blank or the end of the line.
fn interpreter(head: &[u8]) -> Option<&[u8]> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = line.strip_prefix(b" ").unwrap_or(line).trim_ascii_start();
    line.split(|byte| matches!(byte, b' ' | b'\t')).next().filter(|path| !path.is_empty())
}

/// The header of an ELF program (elf(5)), as far as its beginning goes.
mod elf {
    /// `e_machine` of the machines there are images for, by Rust's names.
    const MACHINES: [(u16, &str); 8] = [
        (3, "x86"),
        (8, "mips"),
        (21, "powerpc64"),
        (22, "s390x"),
        (40, "arm"),
        (62, "x86_64"),
        (183, "aarch64"),
        (243, "riscv64"),
    ];
    const PT_INTERP: u64 = 3;

    /// A number of `bytes` bytes at `offset`, in the file's own order.
    fn number(head: &[u8], offset: usize, bytes: usize) -> Option<u64> {
        let field = head.get(offset..offset.checked_add(bytes)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        match head.get(5)? {
            1 => Some(field.iter().rev().fold(0, add)),
            2 => Some(field.iter().fold(0, add)),
            _ => None,
        }
    }

    fn is_elf(head: &[u8]) -> bool {
        head.starts_with(b"\x7fELF")
    }

    pub(super) fn machine(head: &[u8]) -> Option<&'static str> {
        let machine = is_elf(head).then(|| number(head, 18, 2))??;
        let known = MACHINES.iter().find(|(number, _)| u64::from(*number) == machine);
        Some(known.map_or("another machine", |(_, name)| name))
    }

    /// The path of the loader, if it names one.
    pub(super) fn loader(head: &[u8]) -> Option<&[u8]> {
        if !is_elf(head) {
            return None;
        }
        let wide = *head.get(4)? == 2;
        // Offsets of: the table, the size of an entry, how many; in an entry: where, how long.
        let (table, size, count, at, length) =
            if wide { ((32, 8), 54, 56, (8, 8), (32, 8)) } else { ((28, 4), 42, 44, (4, 4), (16, 4)) };
        let place = |value: u64| usize::try_from(value).ok();
        let table = place(number(head, table.0, table.1)?)?;
        let (size, count) = (place(number(head, size, 2)?)?, place(number(head, count, 2)?)?);
        for nth in 0..count {
            let entry = table.checked_add(nth.checked_mul(size)?)?;
            if number(head, entry, 4)? != PT_INTERP {
                continue;
            }
            let at = place(number(head, entry.checked_add(at.0)?, at.1)?)?;
            let length = place(number(head, entry.checked_add(length.0)?, length.1)?)?;
            return head.get(at..at.checked_add(length)?)?.split(|byte| *byte == 0).next();
        }
        None
    }
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

    /// Checks the words about a file of this mode that begins with `head`.
    fn check(mode: u32, head: &[u8], error: Errno, said: &str) {
        let file = File { mode: if mode > 0o7777 { mode } else { 0o100_000 | mode }, head: head.to_vec() };
        assert_eq!(file.explain(error).unwrap_or_default(), said);
    }

    #[test]
    fn a_script_without_its_interpreter_names_it() {
        let missing = |interpreter| format!("its interpreter {interpreter:?} is not in the container");
        check(0o755, b"#!/bin/bash\necho\n", Errno::NOENT, &missing("/bin/bash"));
        check(0o755, b"#! \t/bin/bash -e\n", Errno::NOENT, &missing("/bin/bash"));
        check(0o755, b"#!/bin/bash", Errno::NOENT, &missing("/bin/bash"));
        check(0o755, b"#!\n", Errno::NOENT, "");
    }

    #[test]
    fn a_script_with_line_ends_of_windows_says_so() {
        let said = "its lines end with CR LF, so that its interpreter would be \"/bin/sh\\r\" and not \"/bin/sh\": save it \
                    with LF";
        check(0o755, b"#!/bin/sh\r\necho\r\n", Errno::NOENT, said);
    }

    #[test]
    fn what_the_kernel_does_not_know_as_a_program_is_named() {
        check(0o755, b"", Errno::NOEXEC, "it is empty");
        let neither = "it is neither a program for this node nor a script that begins with #!";
        check(0o755, b"echo hello\n", Errno::NOEXEC, neither);
        let marked = "it begins with a byte order mark, and must begin with #!: save it without";
        check(0o755, b"\xef\xbb\xbf#!/bin/sh\n", Errno::NOEXEC, marked);
        check(0o644, b"#!/bin/sh\n", Errno::ACCESS, "its mode 0644 lets nobody execute it");
        check(0o40_755, b"", Errno::ACCESS, "it is a directory");
        check(0o755, b"#!/bin/sh\n", Errno::ACCESS, "");
    }

    #[test]
    fn a_program_for_another_machine_names_both() {
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(64, 0);
        head[18] = 243;
        let here = std::env::consts::ARCH;
        check(0o755, &head, Errno::NOEXEC, &format!("it is built for riscv64, and this node is {here}"));
        head[18] = 250;
        check(
            0o755,
            &head,
            Errno::NOEXEC,
            &format!("it is built for another machine, and this node is {here}"),
        );
        check(
            0o755,
            &head[..18],
            Errno::NOEXEC,
            "it is neither a program for this node nor a script that begins with #!",
        );
    }

    #[test]
    fn a_program_without_its_loader_names_it() {
        let own = head(c"/proc/self/exe").unwrap();
        let Some(loader) = elf::loader(&own) else { return };
        let loader = String::from_utf8_lossy(loader).into_owned();
        assert!(std::path::Path::new(&loader).exists(), "{loader}");
        let said = format!(
            "its dynamic loader {loader:?} is not in the container: is it built for another C library?"
        );
        check(0o755, &own, Errno::NOENT, &said);
        for length in 0..own.len() {
            let _shorter: Option<&[u8]> = elf::loader(&own[..length]);
        }
    }
}
