//! A proof's page: what was promised, on which commit and machine it was tried, and what came of it.

use std::{
    env, fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::Result;

/// Where the pages are.
const PAGES: &str = "docs/proof";

/// Deaths that the proof `kills` asks for, unless the caller says otherwise.
const KILLS: &str = "200";

/// Ends that the proof `oom` judges, unless the caller says otherwise.
const OOM_KILLS: &str = "200";
/// Pods that the proof `events` asks for, likewise.
const EVENT_PODS: &str = "1000";

/// Runs cargo, which tells the test where to write its figures, and writes the page whatever comes of it.
pub fn run(name: &str, promise: &str, arguments: &str) -> Result<()> {
    let figures = env::temp_dir().join(format!("pintle-proof-{name}-{}", std::process::id()));
    let kills = env::var("PINTLE_E2E_KILLS").unwrap_or_else(|_| KILLS.into());
    let oom_kills = env::var("PINTLE_E2E_OOM_KILLS").unwrap_or_else(|_| OOM_KILLS.into());
    let pods = env::var("PINTLE_E2E_EVENT_PODS").unwrap_or_else(|_| EVENT_PODS.into());
    let variables = [
        format!("PINTLE_E2E_KILLS={kills}"),
        format!("PINTLE_E2E_OOM_KILLS={oom_kills}"),
        format!("PINTLE_E2E_EVENT_PODS={pods}"),
        format!("PINTLE_E2E_FIGURES={}", figures.display()),
        env::var("CARGO").unwrap_or_else(|_| "cargo".into()),
    ];
    let started = Instant::now();
    let status = Command::new("env").args(variables).args(arguments.split(' ')).status()?;
    let outcome = if status.success() { "It held." } else { "**It was broken.**" };
    let found = fs::read_to_string(&figures).map_err(|error| format!("no figures were written: {error}"))?;
    fs::remove_file(&figures)?;
    let page = page(name, promise, outcome, started.elapsed(), &found)?;
    fs::create_dir_all(PAGES)?;
    let path = format!("{PAGES}/{name}.md");
    fs::write(&path, page)?;
    println!("wrote {path}");
    if status.success() { Ok(()) } else { Err(format!("{name}: {status}").into()) }
}

fn page(name: &str, promise: &str, outcome: &str, took: Duration, figures: &str) -> Result<String> {
    let facts = [
        ("commit", said("git", &["rev-parse", "--short=12", "HEAD"])?),
        ("date", said("date", &["--utc", "+%Y-%m-%d"])?),
        ("processors", format!("{} x {}", thread::available_parallelism()?, processor())),
        ("kernel", said("uname", &["-r"])?),
        ("seconds, build included", took.as_secs().to_string()),
    ];
    let rows = facts.map(|(name, value)| format!("| {name} | {value} |\n")).concat();
    let found = figures.lines().filter_map(|line| line.split_once(": "));
    let found: String = found.map(|(name, value)| format!("| {name} | {value} |\n")).collect();
    Ok(format!(
        "# Proof: {name}\n\nPromised: {promise}. {outcome}\n\nRun it again with `cargo xtask proof {name}`, which \
         writes this page.\n\n| where | |\n|---|---|\n{rows}\n| what | |\n|---|---|\n{found}"
    ))
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
