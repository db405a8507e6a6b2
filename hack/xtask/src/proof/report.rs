//! A proof that writes down what it found: on which commit and machine it was tried, and what came of it.

use std::{
    env, fs,
    path::Path,
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use super::{
    Result, Where,
    page::{Page, Place},
};

/// Where the pages are.
const PAGES: &str = "docs/proof";

/// How much the proofs ask for, unless the caller says otherwise: deaths of `kills`, ends that `oom` judges,
/// pods of `events` and of `cni`, sessions of `streams`, execs of `execs`.
const AMOUNTS: [(&str, &str); 6] = [
    ("PINTLE_E2E_KILLS", "200"),
    ("PINTLE_E2E_OOM_KILLS", "200"),
    ("PINTLE_E2E_EVENT_PODS", "1000"),
    ("PINTLE_E2E_CNI_PODS", "500"),
    ("PINTLE_E2E_SESSIONS", "10000"),
    ("PINTLE_E2E_EXECS", "100000"),
];

/// Runs a story, which gets the place for its figures, and writes the page whatever comes of it.
pub(super) fn run(name: &str, promise: &str, story: &str, place: &Where) -> Result<()> {
    // In a folder of its own: the test machine is to write there, and nowhere else.
    let folder = env::temp_dir().join(format!("pintle-proof-{name}-{}", std::process::id()));
    fs::create_dir(&folder)?;
    // Asked for now: while it runs, people go on working.
    let commit = commit()?;
    let started = Instant::now();
    let ended = tell(story, place, &folder.join("figures"));
    let found = fs::read_to_string(folder.join("figures"));
    fs::remove_dir_all(&folder)?;
    let (status, found) = (ended?, found.map_err(|error| format!("no figures were written: {error}"))?);
    let figures: Vec<_> = found.lines().filter_map(|line| line.split_once(": ")).collect();
    let figure =
        |name: &str| figures.iter().find(|(known, _)| *known == name).map_or("?", |(_, value)| value);
    let machine = if place.vm { "test machine" } else { "host" };
    let place = format!("{machine}, cgroup v{}, {}", figure("cgroup version"), figure("driver"));
    let figures = figures.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let facts = facts(status.success(), commit, started.elapsed(), figures)?;
    write(name, promise, Place { name: place, facts })?;
    if status.success() { Ok(()) } else { Err(format!("{name}: {status}").into()) }
}

/// Runs the fuzz targets and adds what came of it to the page: an hour of each need not be run at once.
pub(super) fn fuzz(name: &str, promise: &str) -> Result<()> {
    const PLACE: &str = "host";
    const RUNS: &str = "runs";
    const FIRST: &str = "first run";
    let commit = commit()?;
    let page = Page::parse(&fs::read_to_string(format!("{PAGES}/{name}.md")).unwrap_or_default());
    let before = |figure: &str| page.figure(PLACE, figure).map(str::to_owned);
    let started = Instant::now();
    let (held, figures) = crate::fuzz::prove(before)?;
    let runs: u32 = before(RUNS).and_then(|runs| runs.parse().ok()).unwrap_or_default();
    let first = match before(FIRST) {
        Some(first) => first,
        None => format!("{}, {commit}", today()?),
    };
    let figures =
        [(RUNS.to_owned(), (runs + 1).to_string()), (FIRST.to_owned(), first)].into_iter().chain(figures);
    let facts = facts(held, commit, started.elapsed(), figures)?;
    write(name, promise, Place { name: PLACE.into(), facts })?;
    if held { Ok(()) } else { Err("a target broke".into()) }
}

/// The commit that is tried.
fn commit() -> Result<String> {
    said("git", &["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
}

/// Writes what one run found into the proof's page.
fn write(name: &str, promise: &str, place: Place) -> Result<()> {
    let path = format!("{PAGES}/{name}.md");
    fs::create_dir_all(PAGES)?;
    let mut page = Page::parse(&fs::read_to_string(&path).unwrap_or_default());
    page.put(place);
    fs::write(&path, page.text(name, promise))?;
    println!("wrote {path}");
    Ok(())
}

/// Here by cargo, in the test machine by this program itself.
fn tell(story: &str, place: &Where, figures: &Path) -> Result<ExitStatus> {
    let mut command = Command::new("env");
    command.args(AMOUNTS.map(|(name, usual)| format!("{name}={}", env::var(name).unwrap_or(usual.into()))));
    command.arg(format!("PINTLE_E2E_FIGURES={}", figures.display()));
    command.args(place.driver.iter().map(|driver| format!("PINTLE_E2E_DRIVER={driver}")));
    if place.vm {
        command.arg(env::current_exe()?).args(["vm", "test", story]);
    } else {
        command.arg(env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
        command.args(["test", "--features", "failpoints", "--test", "e2e", "--", story]);
    }
    Ok(command.status()?)
}

/// The circumstances of a run, and what it found.
fn facts(
    held: bool,
    commit: String,
    took: Duration,
    figures: impl Iterator<Item = (String, String)>,
) -> Result<Vec<(String, String)>> {
    let mut facts = vec![
        ("outcome".to_owned(), if held { "held" } else { "**broken**" }.to_owned()),
        ("commit".to_owned(), commit),
        ("date".to_owned(), today()?),
        ("processors".to_owned(), format!("{} x {}", thread::available_parallelism()?, processor())),
        ("seconds, build included".to_owned(), took.as_secs().to_string()),
    ];
    facts.extend(figures);
    Ok(facts)
}

/// Today's date, in UTC.
fn today() -> Result<String> {
    said("date", &["--utc", "+%Y-%m-%d"])
}

/// What a program prints.
fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown".into(), |(_, model)| model.trim().to_owned())
}
