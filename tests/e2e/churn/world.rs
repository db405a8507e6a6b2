//! What must be true, and how it is asked.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tonic::{Code, Status};

use crate::harness::{Node, v1};

/// A call that takes longer hangs. Far more than any takes on a busy machine.
const CALL_MAX: Duration = Duration::from_secs(30);

/// Interrupted again and again, a call gets through within this.
const INSIST_MAX: Duration = Duration::from_secs(90);

/// Between two tries of an interrupted call.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(25);

/// A promise that was broken, in words.
pub(super) type Broken = String;

/// What the clients and the killer share.
pub(super) struct World<'n> {
    pub(super) node: &'n Node,
    /// By container id: what must be true of it.
    pub(super) ledger: Mutex<BTreeMap<String, Truth>>,
    pub(super) broken: Mutex<Vec<Broken>>,
    /// No new lives.
    pub(super) over: AtomicBool,
    pub(super) counts: Counts,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) kills: AtomicU64,
    pub(super) kills_while_starting: AtomicU64,
    pub(super) pods: AtomicU64,
    pub(super) containers: AtomicU64,
    pub(super) execs: AtomicU64,
    pub(super) images: AtomicU64,
    pub(super) slow_points: AtomicU64,
    pub(super) lines: AtomicU64,
    pub(super) calls: AtomicU64,
    pub(super) interrupted: AtomicU64,
    pub(super) looks: AtomicU64,
    pub(super) call_ms_max: AtomicU64,
    pub(super) start_ms_max: AtomicU64,
    pub(super) start_ms_sum: AtomicU64,
}

/// What a client knows of a container.
#[derive(Clone, Debug, Default)]
pub(super) struct Truth {
    pub(super) name: String,
    /// Its first process, once seen.
    pub(super) pid: Option<u32>,
    /// With which code it ends by itself; `None`: not at all.
    pub(super) code: Option<i32>,
    /// It was seen to have ended.
    pub(super) exited: bool,
    /// It may have been stopped or removed by now.
    pub(super) going: bool,
}

impl<'n> World<'n> {
    pub(super) fn new(node: &'n Node) -> Self {
        let (ledger, broken) = (Mutex::default(), Mutex::default());
        Self { node, ledger, broken, over: AtomicBool::new(false), counts: Counts::default() }
    }

    pub(super) fn note(&self, outcome: Result<(), Broken>) {
        if let Err(broken) = outcome {
            eprintln!("churn: {broken}");
            lock(&self.broken).push(broken);
            self.over.store(true, Relaxed);
        }
    }

    pub(super) fn learn(&self, id: &str, change: impl FnOnce(&mut Truth)) {
        change(lock(&self.ledger).entry(id.into()).or_default());
    }

    /// Repeats a call until no death interrupts it. `Ok(Err(_))`: it was refused, after this many interruptions.
    pub(super) fn insist<T>(
        &self,
        what: &str,
        call: impl Fn() -> Result<T, Status>,
    ) -> Result<Result<T, (Status, u32)>, Broken> {
        let (since, mut interruptions) = (Instant::now(), 0);
        loop {
            let begun = Instant::now();
            let outcome = call();
            let took = begun.elapsed();
            self.counts.calls.fetch_add(1, Relaxed);
            self.counts.call_ms_max.fetch_max(millis(took), Relaxed);
            if took > CALL_MAX {
                return Err(format!("{what}: no answer for {took:?}"));
            }
            let error = match outcome {
                Ok(reply) => return Ok(Ok(reply)),
                Err(error) => error,
            };
            if !is_interruption(&error) {
                return Ok(Err((error, interruptions)));
            }
            if since.elapsed() > INSIST_MAX {
                return Err(format!("{what}: still {error} after {:?}", since.elapsed()));
            }
            interruptions += 1;
            self.counts.interrupted.fetch_add(1, Relaxed);
            thread::sleep(AGAIN_AFTER);
        }
    }

    /// As `insist`, where no refusal is right.
    pub(super) fn must<T>(&self, what: &str, call: impl Fn() -> Result<T, Status>) -> Result<T, Broken> {
        self.insist(what, call)?
            .map_err(|(error, interruptions)| format!("{what}, interrupted {interruptions} times: {error}"))
    }

    pub(super) fn figures(&self, seed: u64, took: Duration, broken: usize) -> String {
        let get = |count: &AtomicU64| count.load(Relaxed);
        let counts = &self.counts;
        let starts = get(&counts.looks).max(1);
        let rows = [
            ("seed", seed),
            ("seconds", took.as_secs()),
            ("kills of the daemon", get(&counts.kills)),
            ("of them while it was starting", get(&counts.kills_while_starting)),
            ("steps made slow", get(&counts.slow_points)),
            ("pods led from run to remove", get(&counts.pods)),
            ("containers run", get(&counts.containers)),
            ("execs answered", get(&counts.execs)),
            ("images pulled and removed", get(&counts.images)),
            ("log lines checked", get(&counts.lines)),
            ("calls made", get(&counts.calls)),
            ("calls interrupted and repeated", get(&counts.interrupted)),
            ("looks at everything after a death", get(&counts.looks)),
            ("longest call, ms", get(&counts.call_ms_max)),
            ("start until the first answer, mean ms", get(&counts.start_ms_sum) / starts),
            ("start until the first answer, longest ms", get(&counts.start_ms_max)),
            ("promises broken", broken as u64),
        ];
        rows.map(|(name, value)| format!("{name}: {value}\n")).concat()
    }
}

/// What a client sees of a daemon that dies, or is not there yet.
pub(super) fn is_interruption(error: &Status) -> bool {
    matches!(error.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
}

pub(super) fn pid_in(reply: &v1::ContainerStatusResponse) -> Option<u32> {
    let info: serde_json::Value = serde_json::from_str(reply.info.get("info")?).ok()?;
    u32::try_from(info["pid"].as_u64()?).ok()
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
