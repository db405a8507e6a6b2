//! One machine, from its start to its end.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use super::{Result, job::Job, job::quoted, kernel::Kernel};
use crate::images;

/// How long a start may take: ten times what it does on a busy machine.
const BOOT_MAX: Duration = Duration::from_secs(60);

/// How much of the console a failed start shows.
const CONSOLE_LINES: usize = 60;

/// Begins a line that is said to us, not to the reader (ASCII record separator).
const MARK: char = '\u{1e}';

/// What is in it.
const MEMORY: &str = "2560M";
const PROCESSORS: &str = "2";

/// A machine that is about to be.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) image: &'a Path,
    pub(super) job: &'a Job,
}

/// A machine that runs; dropped, it is no more, and nor is anything in it.
struct Running {
    child: Child,
    console: PathBuf,
}

impl Machine<'_> {
    /// Starts it, passes on what the job prints, and answers with the job's exit code.
    pub(super) fn run(&self, limit: Duration) -> Result<i32> {
        let started = Instant::now();
        let mut running = self.start()?;
        let lines = lines(running.child.stdout.take().ok_or("standard output is a pipe")?);
        let done = wait(&lines, BOOT_MAX, "ready", false).and_then(|_| {
            eprintln!("xtask vm: up in {:.1} s", started.elapsed().as_secs_f64());
            let code = wait(&lines, limit, "exit ", true)?;
            Ok(code.parse()?)
        });
        match &done {
            Ok(_) => fs::remove_file(&running.console)?, // whatever the job's outcome, the machine was sound
            Err(_) => eprintln!("{}", running.last_words()),
        }
        done
    }

    fn start(&self) -> Result<Running> {
        let folder = images::folder_of("vm/run")?.canonicalize()?;
        let console = images::cache()?.join(format!("vm/console-{}.log", std::process::id()));
        let mut shares: Vec<&PathBuf> = self.job.shares.iter().map(|(share, _)| share).collect();
        shares.extend(&self.kernel.modules);
        let shares: Vec<String> = shares.iter().map(|share| share.display().to_string()).collect();

        // The first of them ends with this process, and all that follow end with the first.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]);
        command.args(["--pid", "--fork", "--kill-child=KILL", "sh"]);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../vm/boot"));
        command.arg(&folder).arg(self.image.canonicalize()?);
        command.arg(self.kernel.tree.as_deref().unwrap_or(Path::new(""))).arg(&self.kernel.program);
        command.args([&format!("mem={MEMORY}"), &format!("ncpus={PROCESSORS}"), "seccomp=auto"]);
        command.args(["root=/dev/ubda", "rootfstype=ext4", "rw", "init=/lib/systemd/systemd"]);
        command.args(["quiet", "loglevel=4", "panic=-1", "systemd.show_status=0"]);
        command.args(["apparmor=1", "security=apparmor"]);
        command.env("PINTLE_VM_JOB", self.script()).env("PINTLE_VM_SHARES", shares.join(" "));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&console)?);
        Ok(Running { child: command.spawn()?, console })
    }

    /// The file `job` of `hack/vm/guest`.
    fn script(&self) -> String {
        let path = |path: &Path| quoted(&path.display().to_string());
        let modules = self.kernel.modules.iter().map(|modules| format!("modules {}\n", path(modules)));
        let shares = self.job.shares.iter().map(|(share, writable)| {
            format!("share {} {}\n", path(share), if *writable { "rw" } else { "ro" })
        });
        let before: String = modules.chain(shares).collect();
        format!("{before}job() {{\n{}\n}}\n", self.job.script)
    }
}

impl Running {
    fn last_words(&self) -> String {
        let console = fs::read(&self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().collect();
        let last = &lines[lines.len().saturating_sub(CONSOLE_LINES)..];
        format!("---- end of {}\n{}\n----", self.console.display(), last.join("\n"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The machine's words, line by line; ends when it does.
fn lines(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let (mut output, mut line) = (BufReader::new(output), Vec::new());
        while output.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    receiver
}

/// Waits for the line that is marked and begins with `word`, and answers with the rest of it; what comes before
/// is shown or thrown away.
fn wait(lines: &Receiver<String>, limit: Duration, word: &str, show: bool) -> Result<String> {
    let deadline = Instant::now() + limit;
    loop {
        let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let line = line.map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("the machine did not say {word:?} within {limit:?}"),
            RecvTimeoutError::Disconnected => format!("the machine ended before it said {word:?}"),
        })?;
        if let Some(said) = line.strip_prefix(MARK).and_then(|said| said.strip_prefix(word)) {
            return Ok(said.trim().into());
        }
        if show {
            let mut out = io::stdout().lock();
            out.write_all(line.as_bytes())?;
            out.flush()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> Receiver<String> {
        let (sender, receiver) = mpsc::channel();
        lines.iter().for_each(|line| sender.send((*line).to_owned()).unwrap());
        receiver
    }

    #[test]
    fn only_a_marked_line_is_an_answer() {
        let receiver = said(&["noise\n", "exit 1\n", "\u{1e}ready\n", "\u{1e}exit 3\r\n"]);
        assert_eq!(wait(&receiver, Duration::ZERO, "exit ", false).unwrap(), "3");
    }

    #[test]
    fn a_machine_that_ends_or_hangs_is_an_error() {
        let ended = wait(&said(&["noise\n"]), Duration::from_secs(9), "ready", false).unwrap_err();
        assert!(ended.to_string().contains("ended before"), "{ended}");
        let (_sender, receiver) = mpsc::channel();
        let hung = wait(&receiver, Duration::from_millis(1), "ready", false).unwrap_err();
        assert!(hung.to_string().contains("within"), "{hung}");
    }
}
