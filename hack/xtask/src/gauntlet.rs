//! The table of attacks of `docs/gauntlet.md`, and the command that runs every test that it names.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use super::Result;

const PAGE: &str = "docs/gauntlet.md";

/// Takes the place of a test in a row that has none; its reason follows.
const NO_TEST: &str = "—";

/// One attack.
#[derive(Debug, Eq, PartialEq)]
struct Row {
    id: String,
    what: String,
    /// Stories as `file::name`, unit tests by their names alone.
    tests: Vec<String>,
    /// Why it has no test.
    reason: Option<String>,
}

/// Runs every test of the page and prints a line for each row; an error if one did not pass.
pub(super) fn run() -> Result<()> {
    let rows = rows(&fs::read_to_string(PAGE)?)?;
    let named = |story: bool| -> BTreeSet<&str> {
        let tests = rows.iter().flat_map(|row| &row.tests).map(String::as_str);
        tests.filter(|test| test.contains("::") == story).collect()
    };
    let mut verdicts = run_tests(&["--test", "e2e"], &named(true))?;
    for (name, passed) in run_tests(&["--lib"], &named(false))? {
        // Unit tests are named without their module.
        let short = name.rsplit("::").next().unwrap_or(&name).to_owned();
        *verdicts.entry(short).or_insert(true) &= passed;
    }
    println!("\n{:5} {:7} what · tests", "row", "result");
    let mut held = true;
    for row in &rows {
        let result = result_of(row, &verdicts);
        held &= result == "ok" || result == NO_TEST;
        let by = row.reason.clone().unwrap_or_else(|| row.tests.join(", "));
        println!("{:5} {result:7} {} · {by}", row.id, row.what);
    }
    if held { Ok(()) } else { Err("not every row holds".into()) }
}

/// One word for a row.
fn result_of(row: &Row, verdicts: &BTreeMap<String, bool>) -> &'static str {
    let results: Vec<Option<&bool>> = row.tests.iter().map(|test| verdicts.get(test)).collect();
    match () {
        () if row.reason.is_some() => NO_TEST,
        () if results.contains(&Some(&false)) => "FAILED",
        () if results.contains(&None) || results.is_empty() => "not run",
        () => "ok",
    }
}

/// Runs tests of one target, shows what they print, and answers with what came of each.
fn run_tests(target: &[&str], names: &BTreeSet<&str>) -> Result<BTreeMap<String, bool>> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--features", "failpoints"]).args(target).arg("--").args(names);
    let mut running = command.stdout(Stdio::piped()).spawn()?;
    let mut verdicts = BTreeMap::new();
    for line in BufReader::new(running.stdout.take().ok_or("no output")?).lines() {
        let line = line?;
        println!("{line}");
        verdicts.extend(verdict(&line));
    }
    running.wait()?; // what failed is in the verdicts, and what was not built has none
    Ok(verdicts)
}

/// `test NAME ... ok`, as both kinds of tests say it.
fn verdict(line: &str) -> Option<(String, bool)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((name.into(), outcome == "ok" || outcome.starts_with("ok ")))
}

/// The rows of all tables of the page.
fn rows(page: &str) -> Result<Vec<Row>> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    lines.filter(|line| !line.starts_with("row |")).map(row).collect()
}

fn row(line: &str) -> Result<Row> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let [id, what, _cve, by] = cells[..] else { return Err(format!("not four cells: {line}").into()) };
    let reason = by.strip_prefix(NO_TEST).map(|reason| reason.trim().to_owned());
    let quoted = by.split('`').skip(1).step_by(2).map(String::from);
    let tests = if reason.is_some() { Vec::new() } else { quoted.collect() };
    Ok(Row { id: id.into(), what: what.into(), tests, reason })
}

/// The names of the functions in the sources below a folder, with the modules that their files are.
#[cfg(test)]
fn functions(folder: &std::path::Path, module: &str, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let inner = if stem == "mod" { module.to_owned() } else { format!("{module}{stem}::") };
        if path.is_dir() {
            functions(&path, &inner, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let declared =
                text.lines().filter_map(|line| line.trim_start().split_once("fn ")?.1.split_once("("));
            found.extend(declared.map(|(name, _)| format!("{inner}{name}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows that there are to hold, by section.
    const SECTIONS: [(char, &[u32]); 9] = [
        ('A', &[1, 3, 4, 5, 7, 8, 10, 11, 13, 14, 15, 16]),
        ('B', &[1, 3, 4, 5, 7, 9, 10, 11, 12, 13]),
        ('C', &[1, 2, 3, 5, 6, 7]),
        ('D', &[1, 2, 3, 4, 6, 8, 10, 11, 12, 13]),
        ('E', &[1, 2, 3, 5, 7, 8, 9, 10]),
        ('F', &[3, 4, 6, 7, 8, 9]),
        ('G', &[1, 2, 5, 6, 7, 8, 10, 11, 12, 13, 14]),
        ('H', &[1, 4, 5]),
        ('K', &[1, 3, 4, 6, 7]),
    ];

    fn of_the_project(path: &str) -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
    }

    fn page() -> Vec<Row> {
        rows(&fs::read_to_string(of_the_project(PAGE)).unwrap()).unwrap()
    }

    #[test]
    fn every_row_stands_once_and_in_order() {
        let ids: Vec<String> = page().into_iter().map(|row| row.id).collect();
        let expected = SECTIONS.iter().flat_map(|(section, numbers)| {
            numbers.iter().map(move |number| format!("{section}-{number:02}"))
        });
        assert_eq!(ids, expected.collect::<Vec<_>>());
    }

    #[test]
    fn every_row_names_tests_that_exist_or_says_why_there_is_none() {
        let (mut stories, mut units) = (BTreeSet::new(), BTreeSet::new());
        functions(&of_the_project("tests/e2e"), "", &mut stories).unwrap();
        functions(&of_the_project("src"), "", &mut units).unwrap();
        let units: BTreeSet<&str> = units.iter().filter_map(|name| name.rsplit("::").next()).collect();
        let registry = fs::read_to_string(of_the_project("tests/e2e/gauntlet/mod.rs")).unwrap();
        for row in page() {
            assert!(
                !row.tests.is_empty() || row.reason.is_some_and(|reason| !reason.is_empty()),
                "{}",
                row.id
            );
            for test in &row.tests {
                let exists = match test.strip_prefix("gauntlet::") {
                    // The stories of the gauntlet are listed where the folder begins.
                    Some(name) => registry.contains(&format!("\n    {name},\n")),
                    None if test.contains("::") => stories.contains(test),
                    None => units.contains(test.as_str()),
                };
                assert!(exists, "{}: there is no test {test}", row.id);
            }
        }
    }

    #[test]
    fn every_story_of_the_gauntlet_is_in_a_row() {
        let registry = fs::read_to_string(of_the_project("tests/e2e/gauntlet/mod.rs")).unwrap();
        let list = registry.split_once("tests![").unwrap().1.split_once("];").unwrap().0;
        let named: BTreeSet<String> = page().into_iter().flat_map(|row| row.tests).collect();
        for story in list.split(',').map(str::trim).filter(|story| !story.is_empty()) {
            assert!(named.contains(&format!("gauntlet::{story}")), "{story} is in no row");
        }
    }

    #[test]
    fn the_worst_of_its_tests_is_the_result_of_a_row() {
        let row = row("A-01 | a link | CVE-1 | `gauntlet::a` `unit` ").unwrap();
        assert_eq!(row.tests, ["gauntlet::a", "unit"]);
        let mut verdicts = BTreeMap::from([verdict("test gauntlet::a ... ok (1.0 s)").unwrap()]);
        assert_eq!(result_of(&row, &verdicts), "not run");
        verdicts.insert("unit".into(), true);
        assert_eq!(result_of(&row, &verdicts), "ok");
        verdicts.extend(verdict("test gauntlet::a ... FAILED (1.0 s)"));
        assert_eq!(result_of(&row, &verdicts), "FAILED");
        assert_eq!(result_of(&super::row("A-02 | b | | — not built").unwrap(), &verdicts), NO_TEST);
    }
}
