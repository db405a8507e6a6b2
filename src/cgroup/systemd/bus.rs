//! The connection to systemd: made when first needed, given up on any trouble, made anew for the next pod.

use std::{
    collections::HashMap,
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex as SyncMutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{
    sync::{Mutex, oneshot},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use zbus::{
    connection::Builder,
    proxy::CacheProperties,
    zvariant::{Fd, Value},
};

use super::{
    super::Error,
    proxy::{JobRemovedStream, ManagerProxy, Property},
};
use crate::telemetry::task;

/// All that one pod may take of systemd's time: connecting, the call and its job. A call takes some
/// milliseconds; a bus that is stuck must cost one pod a clear error, long before the kubelet gives up (minutes).
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How long a daemon that starts waits for systemd. It can do all but make pods without.
const GREETING_MAX: Duration = Duration::from_secs(2);

/// systemd's error for a property that it does not know, as an old release.
const UNKNOWN_PROPERTY: &str = "org.freedesktop.DBus.Error.PropertyReadOnly";

/// How the job of a unit that has come up ends.
const DONE: &str = "done";

/// A unit to start, with its first process.
pub(super) struct Scope<'a> {
    pub(super) name: &'a str,
    pub(super) slice: &'a str,
    pub(super) description: &'a str,
    pub(super) pid: u32,
    pub(super) pidfd: BorrowedFd<'a>,
}

/// The connection that carries calls to systemd. Several may be on the way at once.
#[derive(Debug)]
pub(super) struct Bus {
    /// `None` for the system bus.
    address: Option<String>,
    session: Mutex<Option<Arc<Session>>>,
    /// Set for a systemd that does not know every property: it gets only those that all releases have.
    old: AtomicBool,
    /// [`ANSWER_MAX`], but for tests.
    answer_max: Duration,
}

/// One connection.
#[derive(Debug)]
struct Session {
    manager: ManagerProxy<'static>,
    jobs: Arc<Jobs>,
    listener: JoinHandle<()>,
}

/// Callers that wait for a job, by the name of its unit: the signal may come before the call's own answer is read.
#[derive(Debug, Default)]
struct Jobs {
    /// `None` when the connection is gone.
    waiting: SyncMutex<Option<HashMap<String, oneshot::Sender<String>>>>,
}

impl Bus {
    pub(super) fn system() -> Self {
        Self { address: None, session: Mutex::default(), old: AtomicBool::default(), answer_max: ANSWER_MAX }
    }

    #[cfg(test)]
    fn at(address: String) -> Self {
        Self { address: Some(address), answer_max: Duration::from_secs(1), ..Self::system() }
    }

    /// Connects, so that the first pod need not.
    ///
    /// # Errors
    /// As [`Bus::start_scope`], within [`GREETING_MAX`]; the first pod tries again.
    pub(super) async fn greet(&self) -> Result<(), Error> {
        let late = Error::BusLate { doing: "connect to systemd".into(), seconds: GREETING_MAX.as_secs() };
        let connected = timeout_at(Instant::now() + GREETING_MAX, self.session()).await;
        connected.map_err(|_| late)?.map(drop)
    }

    /// Starts the scope and waits until its process is in it.
    ///
    /// # Errors
    /// systemd's refusal, or no answer within [`ANSWER_MAX`]. A call that was given up may be carried out
    /// later; if its process has ended by then, nothing comes of it.
    pub(super) async fn start_scope(&self, scope: &Scope<'_>) -> Result<(), Error> {
        let deadline = Instant::now() + self.answer_max;
        let started = timeout_at(deadline, self.start(scope)).await;
        let error = match started {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => Error::BusLate {
                doing: format!("have systemd start {}", scope.name),
                seconds: self.answer_max.as_secs(),
            },
        };
        // systemd's own "no" came over a good connection; after anything else the next pod gets a new one.
        if !matches!(error, Error::Refused { .. }) {
            self.give_up(deadline).await;
        }
        Err(error)
    }

    async fn start(&self, scope: &Scope<'_>) -> Result<(), Error> {
        let session = self.session().await?;
        let mut job = session.jobs.wait_for(scope.name).ok_or_else(|| lost(scope.name))?;
        let mut called = session.call(scope, self.old.load(Ordering::Relaxed)).await;
        if matches!(&called, Err(zbus::Error::MethodError(name, ..)) if name.as_str() == UNKNOWN_PROPERTY)
            && shares_our_pids()
        {
            self.old.store(true, Ordering::Relaxed);
            called = session.call(scope, true).await;
        }
        called.map_err(|source| match source {
            source @ zbus::Error::MethodError(..) => {
                Error::Refused { unit: scope.name.into(), source: source.into() }
            }
            source => Error::Bus { unit: scope.name.into(), source: source.into() },
        })?;
        crate::failpoint!("cgroup.scope-asked");
        match (&mut job.0).await {
            Ok(result) if result == DONE => Ok(()),
            Ok(result) => {
                let source = format!("its job ended as {result:?}");
                Err(Error::Refused { unit: scope.name.into(), source: source.into() })
            }
            Err(_) => Err(lost(scope.name)),
        }
    }

    async fn session(&self) -> Result<Arc<Session>, Error> {
        let mut slot = self.session.lock().await;
        if let Some(session) = slot.as_ref().filter(|session| session.jobs.open()) {
            return Ok(Arc::clone(session));
        }
        *slot = None;
        let session = Session::connect(self.address.as_deref()).await;
        let session = Arc::new(session.map_err(|source| Error::NoBus { source: source.into() })?);
        *slot = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Others may be connecting just then: they are not waited for longer than the deadline, once more.
    async fn give_up(&self, deadline: Instant) {
        if let Ok(mut slot) = timeout_at(deadline, self.session.lock()).await {
            *slot = None;
        }
    }
}

/// Whether systemd means by a number the process that we mean by it.
fn shares_our_pids() -> bool {
    std::fs::read_to_string("/proc/1/comm").is_ok_and(|name| name.trim_end() == "systemd")
}

fn lost(unit: &str) -> Error {
    Error::Bus { unit: unit.into(), source: "the connection ended".into() }
}

impl Session {
    async fn connect(address: Option<&str>) -> zbus::Result<Self> {
        let builder = match address {
            Some(address) => Builder::address(address)?,
            None => Builder::system()?,
        };
        let connection = builder.build().await?;
        let manager =
            ManagerProxy::builder(&connection).cache_properties(CacheProperties::No).build().await?;
        let removed = manager.receive_job_removed().await?;
        manager.subscribe().await?;
        let jobs = Arc::new(Jobs { waiting: SyncMutex::new(Some(HashMap::new())) });
        let listener = task::spawn("systemd-jobs", listen(removed, Arc::clone(&jobs)));
        Ok(Self { manager, jobs, listener })
    }

    /// Names the process by a descriptor, which means the same in every pid namespace and cannot come to mean
    /// another process while the call is on its way.
    async fn call(&self, scope: &Scope<'_>, old: bool) -> zbus::Result<()> {
        let mut properties: Vec<Property<'_>> = vec![
            ("Description", Value::from(scope.description)),
            ("Slice", Value::from(scope.slice)),
            ("Delegate", Value::from(true)),
            ("CollectMode", Value::from("inactive-or-failed")),
            ("DefaultDependencies", Value::from(false)),
            ("TasksMax", Value::from(u64::MAX)),
            ("MemoryAccounting", Value::from(true)),
            ("CPUAccounting", Value::from(true)),
            ("IOAccounting", Value::from(true)),
        ];
        if old {
            properties.push(("PIDs", Value::from(vec![scope.pid])));
        } else {
            properties.push(("PIDFDs", Value::from(vec![Fd::from(scope.pidfd)])));
            // A container's death for want of memory is not its pod's.
            properties.push(("OOMPolicy", Value::from("continue")));
        }
        self.manager.start_transient_unit(scope.name, "fail", &properties, &[]).await.map(drop)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Tells each job's end to who waits for it, until the connection ends.
async fn listen(mut removed: JobRemovedStream, jobs: Arc<Jobs>) {
    while let Some(signal) = removed.next().await {
        let Ok(job) = signal.args() else { continue };
        jobs.ended(job.unit, job.result);
    }
    *jobs.locked() = None;
}

/// Stops waiting when dropped.
struct Waiting<'a>(oneshot::Receiver<String>, &'a Jobs, &'a str);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.1.locked().as_mut() {
            waiting.remove(self.2);
        }
    }
}

impl Jobs {
    fn locked(&self) -> MutexGuard<'_, Option<HashMap<String, oneshot::Sender<String>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> bool {
        self.locked().is_some()
    }

    fn wait_for<'a>(&'a self, unit: &'a str) -> Option<Waiting<'a>> {
        let (sender, receiver) = oneshot::channel();
        self.locked().as_mut()?.insert(unit.to_owned(), sender);
        Some(Waiting(receiver, self, unit))
    }

    fn ended(&self, unit: &str, result: &str) {
        let waiting = self.locked().as_mut().and_then(|waiting| waiting.remove(unit));
        if let Some(sender) = waiting {
            // Who waited has given up.
            let _unread = sender.send(result.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd, unix::net::UnixListener};

    use super::*;

    fn scope(pidfd: BorrowedFd<'_>) -> Scope<'_> {
        Scope { name: "pintle-x.scope", slice: "x.slice", description: "x", pid: std::process::id(), pidfd }
    }

    #[tokio::test]
    async fn a_bus_that_says_nothing_costs_a_clear_error_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("bus");
        // It takes connections, as the kernel does for a program that is stopped, and answers none.
        let _listener = UnixListener::bind(&socket).unwrap();
        let bus = Bus::at(format!("unix:path={}", socket.display()));
        let pidfd = crate::sys::process::pidfd(std::process::id().try_into().unwrap()).unwrap();
        let started = Instant::now();
        let scope = scope(pidfd.as_fd());
        let (first, second) = tokio::join!(bus.start_scope(&scope), bus.start_scope(&scope));
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        for late in [first, second] {
            let text = late.unwrap_err().to_string();
            assert_eq!(text, "have systemd start pintle-x.scope: no answer over D-Bus within 1 s");
        }
    }

    #[tokio::test]
    async fn a_bus_that_is_not_there_is_told_at_once() {
        let bus = Bus::at("unix:path=/nonexistent/bus".into());
        let pidfd = crate::sys::process::pidfd(std::process::id().try_into().unwrap()).unwrap();
        let error = bus.start_scope(&scope(pidfd.as_fd())).await.unwrap_err();
        assert!(matches!(error, Error::NoBus { .. }), "{error}");
    }

    #[test]
    fn a_jobs_end_reaches_who_waits_for_that_unit() {
        let jobs = Jobs { waiting: SyncMutex::new(Some(HashMap::new())) };
        let mut one = jobs.wait_for("one.scope").unwrap();
        let mut other = jobs.wait_for("other.scope").unwrap();
        jobs.ended("one.scope", "done");
        jobs.ended("unknown.scope", "failed");
        assert_eq!(one.0.try_recv().unwrap(), "done");
        assert!(other.0.try_recv().is_err());
        drop(other);
        assert_eq!(jobs.locked().as_ref().unwrap().len(), 0, "nobody waits any more");
        *jobs.locked() = None;
        assert!(!jobs.open() && jobs.wait_for("late.scope").is_none());
    }
}
