//! Runs tests by name, two at a time, and says how it went.
//!
//! ```text
//! e2e [--list] [--skip TEXT]… [TEXT]…      a test runs if its name holds one TEXT and no skipped one
//! ```

use std::{
    any::Any,
    collections::VecDeque,
    env, panic,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Tests at once: the machines that run them have two cores.
const WORKERS: usize = 2;

/// A named test; it fails by a panic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Test {
    pub(crate) name: &'static str,
    pub(crate) run: fn(),
}

/// Stories of what is not built yet, and what each waits for. One that passes must be taken off this list.
const WAITING: [(&str, &str); 0] = [];

/// Stories that stop something which others need too: they run after all else, one by one.
const ALONE: [&str; 1] = ["cgroup::a_bus_that_hangs_costs_one_pod_and_nothing_else"];

/// How a test went.
#[derive(Debug)]
enum Verdict {
    Passed,
    Failed(String),
    /// It failed, as it must until the feature is there.
    Waits(&'static str),
}

/// The functions as tests, each named after its module and itself.
macro_rules! tests {
    ($($test:ident),* $(,)?) => {
        pub(crate) const TESTS: &[$crate::harness::runner::Test] = &[
            $($crate::harness::runner::Test {
                name: concat!(module_path!(), "::", stringify!($test)),
                run: $test,
            }),*
        ];
    };
}
pub(crate) use tests;

impl Test {
    /// The name without the crate's.
    pub(crate) fn short_name(&self) -> &'static str {
        self.name.split_once("::").map_or(self.name, |(_, rest)| rest)
    }
}

/// Runs what the arguments choose; success only if nothing failed and something ran.
pub(crate) fn run(tests: impl Iterator<Item = Test>) -> ExitCode {
    let choice = Choice::from_arguments(env::args().skip(1));
    let chosen: VecDeque<Test> = tests.filter(|test| choice.takes(test.short_name())).collect();
    if choice.list {
        chosen.iter().for_each(|test| println!("{}", test.short_name()));
        return ExitCode::SUCCESS;
    }
    println!("running {} tests", chosen.len());
    let (alone, together): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|test| ALONE.contains(&test.short_name()));
    let queue = Mutex::new(VecDeque::from(together));
    let verdicts = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(test) = next(&queue) {
                    let verdict = run_one(test);
                    lock(&verdicts).push((test.short_name(), verdict));
                }
            });
        }
    });
    for test in alone {
        let verdict = run_one(test);
        lock(&verdicts).push((test.short_name(), verdict));
    }
    report(&lock(&verdicts))
}

/// Says why each failed test did, and the count of all.
fn report(verdicts: &[(&str, Verdict)]) -> ExitCode {
    let (mut passed, mut failed, mut waiting) = (0, 0, 0);
    for (name, verdict) in verdicts {
        match verdict {
            Verdict::Passed => passed += 1,
            Verdict::Waits(_) => waiting += 1,
            Verdict::Failed(cause) => {
                failed += 1;
                println!("\n---- {name}\n{cause}");
            }
        }
    }
    println!("\n{passed} passed, {failed} failed, {waiting} skipped");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn next(queue: &Mutex<VecDeque<Test>>) -> Option<Test> {
    lock(queue).pop_front()
}

/// On a thread of its own, so that its panic message carries its name.
fn run_one(test: Test) -> Verdict {
    let (name, started) = (test.short_name(), Instant::now());
    let spawned = thread::Builder::new().name(name.into()).spawn(test.run);
    let outcome = spawned.expect("start a thread").join().map_err(|panic| text_of(panic.as_ref()));
    let feature = WAITING.iter().find(|(waiting, _)| *waiting == name).map(|(_, feature)| *feature);
    let verdict = match (outcome, feature) {
        (Ok(()), None) => Verdict::Passed,
        (Ok(()), Some(feature)) => {
            Verdict::Failed(format!("it passes: {feature} is there, so it waits no more"))
        }
        (Err(_), Some(feature)) => Verdict::Waits(feature),
        (Err(cause), None) => Verdict::Failed(cause),
    };
    let word = match &verdict {
        Verdict::Passed => "ok".to_owned(),
        Verdict::Failed(_) => "FAILED".to_owned(),
        Verdict::Waits(feature) => format!("waits for {feature}"),
    };
    println!("test {name} ... {word} ({})", seconds(started.elapsed()));
    verdict
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()))
        .unwrap_or_else(|| "panicked".into())
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// A test that panicked holds no lock of ours half-way.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which tests the command line asks for.
#[derive(Debug, Default)]
struct Choice {
    list: bool,
    take: Vec<String>,
    skip: Vec<String>,
}

impl Choice {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Self {
        let mut choice = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => choice.list = true,
                "--skip" => choice.skip.extend(arguments.next()),
                _ => choice.take.push(argument),
            }
        }
        choice
    }

    fn takes(&self, name: &str) -> bool {
        let holds = |text: &String| name.contains(text.as_str());
        (self.take.is_empty() || self.take.iter().any(holds)) && !self.skip.iter().any(holds)
    }
}

/// Shows where a test panicked, under its name, and nothing for the runner's own bookkeeping.
pub(crate) fn name_panics() {
    panic::set_hook(Box::new(|info| {
        let thread = thread::current();
        eprintln!("{}: {info}", thread.name().unwrap_or("unnamed"));
    }));
}
