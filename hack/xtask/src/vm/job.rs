//! What the machine is to do: folders of the host that it sees, and a command.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::Result;
use crate::images;

/// What the host builds for the tests inside, which can build nothing: the variable that names the outcome to them,
/// and the script that prints it.
const MADE_BEFORE: [(&str, &str); 3] = [
    ("PINTLE_E2E_TOOLS", "hack/tools/build"),
    ("PINTLE_E2E_PLUGINS", "hack/tools/plugins"),
    ("PINTLE_E2E_STREAMS", "hack/tools/streams/build"),
];

/// Variables that are handed on to the tests inside.
const HANDED_ON: [&str; 2] = ["PINTLE_E2E_", "CRITEST_"];

/// A job, in the words of `hack/vm/guest`.
#[derive(Debug)]
pub(super) struct Job {
    /// Folders of the host, seen under the same path; the second value: whether they can be written to.
    pub(super) shares: Vec<(PathBuf, bool)>,
    /// The body of a shell function.
    pub(super) script: String,
}

/// The end-to-end tests whose names hold one of `names`, with the cgroup driver named. `pids`: the process namespace
/// of their nodes, if it is not one of their own.
pub(super) fn stories(driver: &Option<String>, pids: Option<&str>, names: &[String]) -> Result<Job> {
    let repository = repository()?;
    let program = end_to_end_tests()?;
    let images = images::build()?.canonicalize()?;
    let build = program.ancestors().nth(2).ok_or("a test has a target folder")?.to_owned();
    let mut made = vec![("PINTLE_E2E_IMAGES", images)];
    for (variable, script) in MADE_BEFORE {
        made.push((variable, printed_path(&repository, script)?));
    }
    let mut variables: Vec<(String, String)> =
        made.iter().map(|(variable, path)| ((*variable).to_owned(), path.display().to_string())).collect();
    variables.extend(driver.iter().map(|driver| ("PINTLE_E2E_DRIVER".to_owned(), driver.clone())));
    variables.extend(pids.map(|pids| ("PINTLE_E2E_PIDS".to_owned(), pids.to_owned())));
    variables.extend(env::vars().filter(|(name, _)| HANDED_ON.iter().any(|start| name.starts_with(start))));
    let set: String =
        variables.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect();
    let words: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    let script = format!(
        "cd {}\n{set}{} {}",
        quoted(&repository.display().to_string()),
        quoted(&program.display().to_string()),
        words.join(" ")
    );
    let refresh = env::var_os("CRITEST_REFRESH").is_some();
    let mut shares = vec![(repository, refresh), (build, false)];
    for (_, path) in made {
        let folder = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
        shares.push((folder.ok_or("a program has a folder")?.to_owned(), false));
    }
    // The tests make this file, which has a folder of its own.
    let figures = env::var_os("PINTLE_E2E_FIGURES").map(PathBuf::from);
    shares.extend(figures.and_then(|file| file.parent().map(|folder| (folder.to_owned(), true))));
    Ok(Job { shares, script })
}

/// Any shell command; it sees the repository.
pub(super) fn shell(command: &str) -> Result<Job> {
    let repository = repository()?;
    let script = format!("cd {}\n{command}", quoted(&repository.display().to_string()));
    Ok(Job { shares: vec![(repository, false)], script })
}

fn repository() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?)
}

/// Builds them, and answers with their program.
fn end_to_end_tests() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--features", "failpoints", "--test", "e2e", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = command.output()?;
    if !output.status.success() {
        return Err("the end-to-end tests could not be built".into());
    }
    let messages = String::from_utf8(output.stdout)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs = messages.filter(|message| message["target"]["name"] == "e2e");
    let program = programs.find_map(|message| message["executable"].as_str().map(PathBuf::from));
    program.ok_or_else(|| "cargo names no program of the end-to-end tests".into())
}

/// The last line that a script of the repository prints, which is the path of what it has built.
fn printed_path(repository: &Path, script: &str) -> Result<PathBuf> {
    let output = Command::new(repository.join(script)).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{script} failed").into());
    }
    let printed = String::from_utf8(output.stdout)?;
    Ok(Path::new(printed.lines().last().unwrap_or_default()).canonicalize()?)
}

/// For a shell.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
