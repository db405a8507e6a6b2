//! Running a plugin: a child process with an end.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use rustix::fs::{Access, access};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, unix::AsyncFd},
    net::unix::pipe,
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, warn};

use super::{
    invocation::Invocation,
    result::{BadResult, RESULT_BYTES_MAX, complaint},
};
use crate::{
    sys::{
        process::{Ended, NullTerminated, Pid, kill_group, wait, wait_by_pidfd},
        ready,
        spawn::{self, Started, Stranger},
    },
    telemetry::task,
};

/// What of a plugin's standard error is kept; bytes. The rest is read and thrown away, so that it can go on.
const STDERR_BYTES_MAX: usize = 16 << 10;
/// How long the output of a plugin that has ended may still come. What holds its pipes open after that has left its
/// process group, and is no longer waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What went wrong with a plugin.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("it is in none of the folders {0} (network.cni_bin_dirs)")]
    Missing(String),
    #[error("it could not be started")]
    Start(#[source] io::Error),
    #[error("it could not be watched")]
    Watch(#[source] io::Error),
    #[error("it took longer than {limit_s} s and was killed (network.cni_timeout_s): {said}")]
    Late { limit_s: u64, said: String },
    #[error("it wrote more than {RESULT_BYTES_MAX} bytes to its standard output and was killed")]
    Flood,
    /// It said so itself.
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Result(String),
}

impl From<BadResult> for Fault {
    fn from(error: BadResult) -> Self {
        Self::Result(error.to_string())
    }
}

/// Where plugins are, and how long a chain of them may take.
#[derive(Debug)]
pub(super) struct Plugins {
    folders: Vec<PathBuf>,
    /// As `CNI_PATH` has them.
    path: String,
    limit: Duration,
}

impl Plugins {
    pub(super) fn new(folders: Vec<PathBuf>, limit: Duration) -> Self {
        let path = folders.iter().map(|folder| folder.to_string_lossy()).collect::<Vec<_>>().join(":");
        Self { folders, path, limit }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The end of what begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.limit
    }

    /// The program of that name in the first folder that has it. Blocking.
    ///
    /// # Errors
    /// [`Fault::Missing`].
    pub(super) fn find(&self, program: &str) -> Result<PathBuf, Fault> {
        let candidates = self.folders.iter().map(|folder| folder.join(program));
        let runs = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
        candidates.into_iter().find(runs).ok_or_else(|| Fault::Missing(self.path.clone()))
    }

    /// Runs a plugin. Its standard error goes to our log, under `about`: the pod's id, or the network's name.
    ///
    /// # Errors
    /// [`Fault`]; then nothing of its process group lives.
    pub(super) async fn call(
        &self,
        invocation: &Invocation,
        about: &str,
        deadline: Instant,
    ) -> Result<Vec<u8>, Fault> {
        let program = self.find(&invocation.program)?;
        let mut said = Said::default();
        let began = Instant::now();
        let ended = match timeout_at(deadline, converse(&program, invocation, &mut said)).await {
            Ok(ended) => ended,
            Err(_) => {
                let said = complaint(b"", &said.stderr);
                Err(Fault::Late { limit_s: self.limit.as_secs(), said })
            }
        };
        let (plugin, verb) = (&invocation.program, invocation.verb.as_str());
        debug!(about, plugin, verb, ms = began.elapsed().as_millis(), "CNI plugin called");
        if !said.stderr.is_empty() {
            let words = String::from_utf8_lossy(&said.stderr);
            warn!(about, plugin, verb, said = words.trim_end(), "a CNI plugin wrote to its standard error");
        }
        match ended? {
            Ended::Code(0) => Ok(said.stdout),
            // Other exit codes say nothing more; a signal does.
            Ended::Code(_) => Err(Fault::Failed(complaint(&said.stdout, &said.stderr))),
            ended @ Ended::Signal(_) => {
                let words = complaint(&said.stdout, &said.stderr);
                Err(Fault::Failed(format!("{verb} ended by {ended}: {words}")))
            }
        }
    }
}

/// What a plugin has written so far.
#[derive(Debug, Default)]
struct Said {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// From its start to its end. Dropped half-way, it kills the plugin and all that is in its process group.
async fn converse(program: &Path, invocation: &Invocation, said: &mut Said) -> Result<Ended, Fault> {
    let started = spawn::once_written(|| Plugin::start(program, invocation)).await;
    let (mut plugin, stdin, [stdout, stderr]) = started.map_err(Fault::Start)?;
    {
        let talk = async {
            tokio::try_join!(
                write(stdin, &invocation.stdin),
                read(stdout, &mut said.stdout),
                drain(stderr, &mut said.stderr)
            )
        };
        let mut talk = pin!(talk);
        let silent = tokio::select! {
            talked = &mut talk => talked.map(|_| true)?,
            () = plugin.ended() => false,
        };
        plugin.ended().await;
        // It is not reaped yet, so the number of its group cannot be another's.
        plugin.kill();
        if !silent && let Ok(talked) = timeout(LAST_WORDS, talk).await {
            talked?;
        }
    }
    plugin.reap().map_err(Fault::Watch)
}

/// One that does not read what it is given is free to.
async fn write(mut stdin: pipe::Sender, bytes: &[u8]) -> Result<(), Fault> {
    match stdin.write_all(bytes).await {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Fault::Watch(error)),
        _ => Ok(()),
    }
}

async fn read(mut from: impl AsyncRead + Unpin, into: &mut Vec<u8>) -> Result<(), Fault> {
    while from.read_buf(into).await.map_err(Fault::Watch)? > 0 {
        if into.len() > RESULT_BYTES_MAX {
            return Err(Fault::Flood);
        }
    }
    Ok(())
}

async fn drain(mut from: impl AsyncRead + Unpin, into: &mut Vec<u8>) -> Result<(), Fault> {
    let mut piece = [0; 4096];
    loop {
        let bytes = match from.read(&mut piece).await.map_err(Fault::Watch)? {
            0 => return Ok(()),
            bytes => bytes,
        };
        let room = STDERR_BYTES_MAX.saturating_sub(into.len()).min(bytes);
        into.extend_from_slice(piece.get(..room).unwrap_or_default());
    }
}

/// A plugin that has not been reaped, the leader of its process group. Dropped, it is killed with all of the group, and
/// reaped when it has ended.
#[derive(Debug)]
struct Plugin {
    pid: Pid,
    /// `None` when it was reaped: from then on its number may be another's.
    running: Option<AsyncFd<OwnedFd>>,
}

impl Plugin {
    /// Starts it with its environment; gives the pipes to its standard input, and from its output and error.
    fn start(
        program: &Path,
        invocation: &Invocation,
    ) -> io::Result<(Self, pipe::Sender, [pipe::Receiver; 2])> {
        let (to_stdin, stdin) = pipe::pipe()?;
        let (stdout, from_stdout) = pipe::pipe()?;
        let (stderr, from_stderr) = pipe::pipe()?;
        // A plugin waits for its pipes, as every program does.
        let (stdin, stdout, stderr) =
            (stdin.into_blocking_fd()?, stdout.into_blocking_fd()?, stderr.into_blocking_fd()?);
        let program = CString::new(program.as_os_str().as_bytes())?;
        let variables: Vec<CString> = invocation
            .environment
            .iter()
            .map(|(key, value)| CString::new(format!("{key}={value}")))
            .collect::<Result<_, _>>()?;
        let stranger = Stranger {
            program: &program,
            arguments: &NullTerminated::new([program.as_c_str()].into_iter()),
            environment: &NullTerminated::new(variables.iter().map(CString::as_c_str)),
            stdio: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        };
        let Started { pid, pidfd } = stranger.start()?;
        match ready::watch(pidfd) {
            Ok(running) => Ok((Self { pid, running: Some(running) }, to_stdin, [from_stdout, from_stderr])),
            Err(error) => {
                // Nobody could wait for it. That its group is gone is what is wanted.
                let _killed: io::Result<()> = kill_group(pid);
                wait(pid)?;
                Err(error)
            }
        }
    }

    async fn ended(&self) {
        if let Some(running) = &self.running {
            // It fails only when the runtime is shutting down.
            let _ended: io::Result<_> = running.readable().await;
        }
    }

    fn kill(&self) {
        if self.running.is_some() {
            let _killed: io::Result<()> = kill_group(self.pid); // there may be nobody left in it
        }
    }

    /// After its end.
    fn reap(&mut self) -> io::Result<Ended> {
        let running = self.running.take().ok_or(io::ErrorKind::NotFound)?;
        wait_by_pidfd(running.as_fd())
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.kill();
        let Some(running) = self.running.take() else { return };
        task::spawn("CNI plugin's end", async move {
            let _ended: io::Result<_> = running.readable().await; // it was killed
            let _reaped: io::Result<_> = wait_by_pidfd(running.as_fd()); // nobody asks how it ended
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{super::invocation::Verb, *};
    use std::{fs, os::unix::fs::PermissionsExt as _, thread};

    /// A plugin that is a shell script.
    fn plugin(script: &str, limit: Duration) -> (tempfile::TempDir, Plugins, Invocation) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("meta");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let absent = folder.path().join("absent");
        let plugins = Plugins::new(vec![absent, folder.path().into()], limit);
        let invocation = Invocation {
            program: "meta".into(),
            verb: Verb::Add,
            environment: vec![("CNI_COMMAND", "ADD".into()), ("PATH", "/usr/bin:/bin".into())],
            stdin: b"{\"given\": true}".to_vec(),
        };
        (folder, plugins, invocation)
    }

    async fn run(script: &str, limit: Duration) -> Result<String, String> {
        let (_folder, plugins, invocation) = plugin(script, limit);
        let called = plugins.call(&invocation, "pod", plugins.deadline()).await;
        called.map(|out| String::from_utf8(out).unwrap()).map_err(|error| error.to_string())
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn a_plugin_gets_its_input_its_environment_and_no_descriptor_of_ours() {
        // One that children would inherit.
        let ours = fs::File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::empty()).unwrap();
        let said = run("cat; env | sort; ls /proc/self/fd | wc -l; pwd; umask", LONG).await.unwrap();
        // ls has the folder open.
        assert_eq!(said, "{\"given\": true}CNI_COMMAND=ADD\nPATH=/usr/bin:/bin\nPWD=/\n4\n/\n0022\n");
    }

    #[tokio::test]
    async fn its_own_words_are_the_error() {
        for (script, expected) in [
            (r#"echo '{"code": 7, "msg": "no", "details": "at all"}'; exit 1"#, "no; at all (code 7)"),
            ("echo out; echo broken >&2; exit 3", "broken"),
            ("exit 1", "it does not say why"),
            ("echo dying >&2; kill -SEGV $$", "ADD ended by signal 11 (SIGSEGV): dying"),
        ] {
            assert_eq!(run(script, LONG).await.unwrap_err(), expected, "{script}");
        }
    }

    #[tokio::test]
    async fn one_that_is_being_written_is_waited_for() {
        let (folder, plugins, invocation) = plugin("echo done", LONG);
        let writer = fs::OpenOptions::new().append(true).open(folder.path().join("meta")).unwrap();
        let called = tokio::join!(plugins.call(&invocation, "pod", plugins.deadline()), async {
            tokio::time::sleep(SHORT).await;
            drop(writer);
        });
        assert_eq!(called.0.unwrap(), b"done\n");
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        let script = format!("sleep 1000 & echo $$ $! >{0}; echo waiting >&2; wait", pids.display());
        let error = run(&script, SHORT).await.unwrap_err();
        assert_eq!(error, "it took longer than 0 s and was killed (network.cni_timeout_s): waiting");
        assert_gone(&pids);
    }

    #[tokio::test]
    async fn what_it_leaves_running_is_killed_when_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        // The child holds the pipes open.
        let script = format!("sleep 1000 & echo $! >{0}; echo done", pids.display());
        assert_eq!(run(&script, LONG).await.unwrap(), "done\n");
        assert_gone(&pids);
    }

    #[track_caller]
    fn assert_gone(pids: &Path) {
        let pids = fs::read_to_string(pids).unwrap();
        for pid in pids.split_whitespace() {
            let lives = || {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                !stat.is_empty() && !stat.contains(") Z ")
            };
            for _ in 0..500 {
                if lives() {
                    thread::sleep(Duration::from_millis(10));
                }
            }
            assert!(!lives(), "{pid} still runs");
        }
    }

    #[tokio::test]
    async fn one_that_leaves_its_group_is_not_waited_for() {
        let said = run("setsid sleep 20 & echo done", Duration::from_secs(15)).await;
        assert_eq!(said.unwrap(), "done\n");
    }

    #[tokio::test]
    async fn output_without_end_is_cut_and_noise_on_stderr_is_not() {
        let error = run("head -c 100000000 /dev/zero", LONG).await.unwrap_err();
        assert!(error.contains("more than 1048576 bytes"), "{error}");
        assert_eq!(run("head -c 10000000 /dev/zero >&2; echo done", LONG).await.unwrap(), "done\n");
    }

    #[tokio::test]
    async fn input_that_is_not_read_is_no_fault() {
        let (_folder, plugins, mut invocation) = plugin("exec <&-; echo done", LONG);
        invocation.stdin = vec![b' '; 1 << 20];
        assert_eq!(plugins.call(&invocation, "pod", plugins.deadline()).await.unwrap(), b"done\n");
    }

    #[tokio::test]
    async fn a_plugin_that_is_not_there_or_cannot_run_is_named_with_the_folders() {
        let (folder, plugins, invocation) = plugin("", LONG);
        let program = folder.path().join("meta");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: only root may run what is nobody's to run");
        }
        let missing = plugins.call(&invocation, "pod", plugins.deadline()).await.unwrap_err().to_string();
        assert!(missing.contains(&format!("none of the folders {}", plugins.path())), "{missing}");
        fs::write(&program, "#!/no/such/interpreter\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let broken = plugins.call(&invocation, "pod", plugins.deadline()).await.unwrap_err();
        assert!(matches!(broken, Fault::Start(_)), "{broken}");
    }
}
