//! Fuzzing: builds `hack/fuzz` with LLVM's coverage, which stable Rust can be asked for, and runs its targets, as many at
//! a time as there are processors. What breaks one is kept in `target/fuzz/findings`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

use super::Result;

/// The inputs that are kept, in a folder for each target.
const CORPUS: &str = "hack/fuzz/corpus";

/// How long a target runs unless `PINTLE_FUZZ_SECONDS` says otherwise.
const SECONDS: u32 = 20;

/// The flags of cargo-fuzz, less the sanitizers, for which one needs a nightly compiler.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// What a run of one target came to.
pub(crate) struct Run {
    target: String,
    executions: String,
    /// Edges of the program that were reached.
    edges: String,
    finding: Option<PathBuf>,
}

/// Runs the targets that are named, or all of them, and prints what came of each.
pub fn command(names: impl Iterator<Item = String>) -> Result<()> {
    let mut names: Vec<String> = names.collect();
    let all = targets()?;
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        return Err(format!("no target is called {unknown:?}; there are {}", all.join(", ")).into());
    }
    if names.is_empty() {
        names = all;
    }
    let seconds = seconds(SECONDS)?;
    let runs = run(&names, seconds)?;
    for Run { target, executions, edges, finding } in &runs {
        let finding =
            finding.as_ref().map_or("survived".into(), |path| format!("BROKEN by {}", path.display()));
        println!("{target:14} {executions:>10} inputs {edges:>6} edges  {finding}");
    }
    let broken = runs.iter().filter(|run| run.finding.is_some()).count();
    if broken == 0 { Ok(()) } else { Err(format!("{broken} of {} targets broke", runs.len()).into()) }
}

/// Runs every target for `PINTLE_FUZZ_SECONDS` or an hour, and gives the figures of a proof's page: those of this run
/// and of the runs before it together. `before` gives the figure of a target on the page, where there is one.
pub(crate) fn prove(before: impl Fn(&str) -> Option<String>) -> Result<(bool, Vec<(String, String)>)> {
    let seconds = seconds(3600)?;
    let runs = run(&targets()?, seconds)?;
    let facts =
        runs.iter().map(|run| (run.target.clone(), run.figure(seconds, before(&run.target).as_deref())));
    Ok((runs.iter().all(|run| run.finding.is_none()), facts.collect()))
}

impl Run {
    /// The figure of a target: what all its runs came to, of which the last took `seconds`, and the edges of the last.
    fn figure(&self, seconds: u32, before: Option<&str>) -> String {
        let (inputs, earlier) = before.and_then(inputs_and_seconds).unwrap_or_default();
        let inputs = inputs + self.executions.parse().unwrap_or(0);
        let seconds = earlier + u64::from(seconds);
        let broken = self.finding.as_ref().map_or("", |_| ", **broken**");
        format!("{inputs} inputs in {seconds} s, {} edges{broken}", self.edges)
    }
}

/// The two sums in a figure that [`Run::figure`] has made.
fn inputs_and_seconds(figure: &str) -> Option<(u64, u64)> {
    let (inputs, rest) = figure.split_once(" inputs in ")?;
    let (seconds, _) = rest.split_once(" s,")?;
    Some((inputs.parse().ok()?, seconds.parse().ok()?))
}

/// How long each target runs.
fn seconds(usual: u32) -> Result<u32> {
    Ok(env::var("PINTLE_FUZZ_SECONDS").map_or(Ok(usual), |text| text.parse())?)
}

/// The names of the targets: a test of pintle's holds the folders to them.
fn targets() -> Result<Vec<String>> {
    let folders = fs::read_dir(CORPUS)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = folders.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn run(names: &[String], seconds: u32) -> Result<Vec<Run>> {
    let folder = PathBuf::from(env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into())).join("fuzz");
    let program = build(&folder)?;
    let (waiting, runs) = (Mutex::new(names.iter()), Mutex::new(Vec::new()));
    let work = || -> std::result::Result<(), String> {
        loop {
            let next = waiting.lock().map_err(|_| "another target's thread panicked")?.next();
            let Some(name) = next else { return Ok(()) };
            let run = run_one(&program, &folder, name, seconds).map_err(|error| error.to_string())?;
            runs.lock().map_err(|_| "another target's thread panicked")?.push(run);
        }
    };
    let processors = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| "a thread panicked".to_owned())?)
    })?;
    let mut runs = runs.into_inner().map_err(|_| "a target's thread panicked")?;
    runs.sort_by(|one: &Run, other| one.target.cmp(&other.target));
    Ok(runs)
}

/// Builds the program of all targets. With a target triple, so that build scripts are built without coverage.
fn build(folder: &Path) -> Result<PathBuf> {
    let said = Command::new("rustc").arg("-vV").output()?;
    let said = String::from_utf8(said.stdout)?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc -vV names no host")?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--locked",
            "--manifest-path",
            "hack/fuzz/Cargo.toml",
            "--target",
            host,
            "--target-dir",
        ])
        .arg(folder)
        .env("RUSTFLAGS", COVERAGE)
        .env_remove("CARGO_TARGET_DIR")
        .status()?;
    if !status.success() {
        return Err(format!("the fuzzer was not built: {status}").into());
    }
    Ok(folder.join(host).join("debug/pintle-fuzz"))
}

fn run_one(program: &Path, folder: &Path, name: &str, seconds: u32) -> Result<Run> {
    let seed = env::var("PINTLE_FUZZ_SEED").ok();
    // New inputs go to the first folder.
    let corpus = if seed.is_some() { "corpus-of-seed" } else { "corpus" };
    let (grown, findings) = (folder.join(corpus).join(name), folder.join("findings"));
    if seed.is_some() && grown.exists() {
        // Runs with a seed are to try the same inputs, as many as there is time for: they begin with those that are stored.
        fs::remove_dir_all(&grown)?;
    }
    fs::create_dir_all(&grown)?;
    fs::create_dir_all(&findings)?;
    let output = Command::new(program)
        .env("PINTLE_FUZZ_TARGET", name)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/{name}-", findings.display()))
        .args(seed.map(|seed| format!("-seed={seed}")))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-detect_leaks=0", "-print_final_stats=1"])
        .arg(&grown)
        .arg(Path::new(CORPUS).join(name))
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let after = |mark: &str| said.rsplit_once(mark).and_then(|(_, rest)| rest.split_whitespace().next());
    let finding = after("Test unit written to ").map(PathBuf::from);
    if !output.status.success() {
        eprintln!("{said}");
        if finding.is_none() {
            return Err(format!("target {name}: {}, and nothing was found", output.status).into());
        }
    }
    let executions = after("stat::number_of_executed_units:").unwrap_or("?").to_owned();
    let edges = after(" cov: ").unwrap_or("?").to_owned();
    Ok(Run { target: name.to_owned(), executions, edges, finding })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_a_target_add_up_over_its_runs() {
        let run = |executions: &str, finding: Option<PathBuf>| Run {
            target: "tar".into(),
            executions: executions.into(),
            edges: "900".into(),
            finding,
        };
        let first = run("1000", None).figure(60, None);
        assert_eq!(first, "1000 inputs in 60 s, 900 edges");
        let second = run("50", Some("x".into())).figure(20, Some(&first));
        assert_eq!(second, "1050 inputs in 80 s, 900 edges, **broken**");
        assert_eq!(run("1", None).figure(1, Some(&second)), "1051 inputs in 81 s, 900 edges");
        assert_eq!(run("7", None).figure(3, Some("127973 inputs, 1068 edges")), "7 inputs in 3 s, 900 edges");
    }
}
