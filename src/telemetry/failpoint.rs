//! Named points at which a test may stop, delay or fail this process. Only with the feature `failpoints`.
//!
//! `PINTLE_FAILPOINTS` holds scripts, separated by `;`:
//!
//! ```text
//! name=term[->term…]      term = [count*]action
//! action = off | kill | panic | print | delay(ms) | error[(text)]
//!
//! store.renamed=kill                  dies at the first pass
//! store.renamed=2*off->kill           dies at the third
//! image.pulled=1*delay(500)->1*error  first slow, then failing, then as ever
//! ```
//!
//! A term with a count lasts that many passes, one without lasts for ever; after the last term the point is
//! quiet. `PINTLE_SELINUX` names a folder that stands in for SELinux on a kernel that has none: `fs` for selinuxfs, `etc`
//! for `/etc/selinux`, `self/attr` for a process's attributes. `PINTLE_FAILPOINT_TRACE` names a file to which each process appends every name once, when it first
//! passes it, so that a sweep can learn which points a run touches.
//!
//! Invariant: the environment is read by [`read`] only. A fork inherits scripts and counts, so a supervisor
//! whose environment is empty still obeys. Counts are per process from the fork on.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    fs::{Stat, fstat},
    process::{Signal, getpid, kill_process},
};

/// Exit code when the scripts cannot be read: a test that kills nothing must not pass.
const EXIT_BAD_SCRIPT: i32 = 64;

const SCRIPTS: &str = "PINTLE_FAILPOINTS";
const TRACE: &str = "PINTLE_FAILPOINT_TRACE";
const SELINUX: &str = "PINTLE_SELINUX";

static POINTS: OnceLock<Points> = OnceLock::new();

#[derive(Debug, Default)]
struct Points {
    scripts: BTreeMap<String, Script>,
    trace: Option<Trace>,
    selinux: Option<PathBuf>,
}

/// The actions of one failpoint, pass by pass.
#[derive(Debug, Default)]
struct Script {
    terms: Vec<Term>,
    passes: AtomicU64,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Term {
    /// `None`: for ever.
    count: Option<u64>,
    action: Action,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Action {
    Off,
    Kill,
    Panic,
    Print,
    Delay(Duration),
    Error(String),
}

/// Reads the variables; the first call counts. A script that cannot be read ends the process.
pub fn read() {
    POINTS.get_or_init(|| {
        let scripts = parse(&env::var(SCRIPTS).unwrap_or_default()).unwrap_or_else(|error| {
            eprintln!("{SCRIPTS}: {error}");
            std::process::exit(EXIT_BAD_SCRIPT)
        });
        Points {
            scripts,
            trace: env::var_os(TRACE).map(|path| Trace::open(path.into())),
            selinux: env::var_os(SELINUX).map(PathBuf::from),
        }
    });
}

/// The variables, where they are set.
pub(super) fn environment() -> Vec<(&'static str, OsString)> {
    [SCRIPTS, TRACE, SELINUX].into_iter().filter_map(|name| Some((name, env::var_os(name)?))).collect()
}

/// The folder that stands in for SELinux.
pub(super) fn selinux() -> Option<&'static Path> {
    POINTS.get()?.selinux.as_deref()
}

/// Passes the point `name`; an `error` is printed here, for this place cannot fail.
pub fn pass(name: &'static str) {
    if let Err(error) = fail(name) {
        eprintln!("failpoint {name} cannot return an error: {error}");
    }
}

/// Passes the point `name`, which may fail.
pub fn fail(name: &'static str) -> io::Result<()> {
    let Some(points) = POINTS.get() else { return Ok(()) };
    if let Some(trace) = &points.trace {
        trace.record(name);
    }
    let Some(script) = points.scripts.get(name) else { return Ok(()) };
    match script.next() {
        Action::Off => {}
        Action::Kill => {
            // SIGKILL to ourselves does not return.
            kill_process(getpid(), Signal::KILL)?;
        }
        Action::Panic => panic!("failpoint {name}"),
        Action::Print => eprintln!("failpoint {name}"),
        Action::Delay(time) => thread::sleep(time),
        Action::Error(text) => return Err(io::Error::other(format!("failpoint {name}: {text}"))),
    }
    Ok(())
}

impl Script {
    /// The action of this pass.
    fn next(&self) -> Action {
        let mut pass = self.passes.fetch_add(1, Ordering::Relaxed);
        for term in &self.terms {
            match term.count {
                Some(count) if pass >= count => pass -= count,
                _ => return term.action.clone(),
            }
        }
        Action::Off
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, Script>, String> {
    let mut scripts = BTreeMap::new();
    for entry in text.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (name, terms) = entry.split_once('=').ok_or(format!("{entry:?} has no `=`"))?;
        let terms = terms.split("->").map(parse_term).collect::<Result<_, _>>()?;
        let script = Script { terms, passes: AtomicU64::new(0) };
        if scripts.insert(name.trim().to_owned(), script).is_some() {
            return Err(format!("{name:?} has two scripts"));
        }
    }
    Ok(scripts)
}

fn parse_term(text: &str) -> Result<Term, String> {
    let (count, action) = match text.trim().split_once('*') {
        Some((count, action)) => {
            (Some(count.parse().map_err(|_| format!("{count:?} is not a count"))?), action)
        }
        None => (None, text.trim()),
    };
    let (word, argument) = match action.split_once('(') {
        Some((word, rest)) => (word, Some(rest.strip_suffix(')').ok_or(format!("{action:?} lacks `)`"))?)),
        None => (action, None),
    };
    let action = match (word, argument) {
        ("off", None) => Action::Off,
        ("kill", None) => Action::Kill,
        ("panic", None) => Action::Panic,
        ("print", None) => Action::Print,
        ("delay", Some(ms)) => Action::Delay(Duration::from_millis(
            ms.parse().map_err(|_| format!("{ms:?} is not milliseconds"))?,
        )),
        ("error", text) => Action::Error(text.unwrap_or("asked for").into()),
        _ => return Err(format!("{action:?} is not an action")),
    };
    Ok(Term { count, action })
}

/// The file that names are appended to.
#[derive(Debug)]
struct Trace {
    path: PathBuf,
    /// Kept open: a helper in a mount namespace of its own cannot reach the path. With what it was when
    /// opened, because a child may have closed the number and used it for something else.
    file: Option<(File, Stat)>,
    seen: Mutex<BTreeSet<&'static str>>,
}

impl Trace {
    fn open(path: PathBuf) -> Self {
        let file = append(&path).ok().and_then(|file| fstat(&file).ok().map(|stat| (file, stat)));
        Self { path, file, seen: Mutex::default() }
    }

    /// A name that cannot be written is lost: tracing must never change what is traced.
    fn record(&self, name: &'static str) {
        if !self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(name) {
            return;
        }
        // One write, so that lines of several processes do not mix.
        let line = format!("{name}\n");
        match &self.file {
            Some((file, then)) if is_still(file, then) => drop((&mut &*file).write_all(line.as_bytes())),
            _ => drop(append(&self.path).and_then(|mut file| file.write_all(line.as_bytes()))),
        }
    }
}

fn is_still(file: &File, then: &Stat) -> bool {
    fstat(file).is_ok_and(|now| (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino))
}

fn append(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(script: &str, passes: usize) -> Vec<Action> {
        let scripts = parse(&format!("p={script}")).unwrap();
        (0..passes).map(|_| scripts["p"].next()).collect()
    }

    #[test]
    fn the_third_pass_kills() {
        assert_eq!(actions("2*off->kill", 4), [Action::Off, Action::Off, Action::Kill, Action::Kill]);
    }

    #[test]
    fn after_the_last_counted_term_the_point_is_quiet() {
        let half_a_second = Action::Delay(Duration::from_millis(500));
        let error = Action::Error("no room".into());
        assert_eq!(
            actions("1*delay(500)->2*error(no room)", 4),
            [half_a_second, error.clone(), error, Action::Off]
        );
    }

    #[test]
    fn two_points_have_their_own_scripts() {
        let scripts = parse("a.b=print; c.d=panic;").unwrap();
        assert_eq!(scripts["a.b"].next(), Action::Print);
        assert_eq!(scripts["c.d"].next(), Action::Panic);
    }

    #[test]
    fn nonsense_is_named() {
        for (script, error) in [
            ("a", "\"a\" has no `=`"),
            ("a=explode", "\"explode\" is not an action"),
            ("a=x*kill", "\"x\" is not a count"),
            ("a=delay(soon)", "\"soon\" is not milliseconds"),
            ("a=delay(5", "\"delay(5\" lacks `)`"),
            ("a=kill(1)", "\"kill(1)\" is not an action"),
            ("a=off;a=kill", "\"a\" has two scripts"),
        ] {
            assert_eq!(parse(script).unwrap_err(), error);
        }
    }

    #[test]
    fn a_name_is_traced_once_and_never_into_a_foreign_file() {
        let dir = tempfile::tempdir().unwrap();
        let trace = Trace::open(dir.path().join("trace"));
        trace.record("a.b");
        trace.record("a.b");
        let foreign = Trace { file: trace.file, ..Trace::open(dir.path().join("other")) };
        foreign.record("c.d");
        assert_eq!(std::fs::read_to_string(dir.path().join("trace")).unwrap(), "a.b\nc.d\n");

        let replaced = File::create(dir.path().join("replaced")).unwrap();
        let then = foreign.file.unwrap().1;
        let trace =
            Trace { path: dir.path().join("other"), file: Some((replaced, then)), seen: Mutex::default() };
        trace.record("e.f");
        assert_eq!(std::fs::read_to_string(dir.path().join("replaced")).unwrap(), "");
        assert_eq!(std::fs::read_to_string(dir.path().join("other")).unwrap(), "e.f\n");
    }
}
