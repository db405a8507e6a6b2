//! The proof that `docs/cri-fields.md` has a row for every field that a pod, a container or an image is asked for
//! with, and that the tests which its rows name exist.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
};

const FACTS: &str = "proto/runtime/v1/wire.txt";
const PAGE: &str = "docs/cri-fields.md";
const ASKED_WITH: [&str; 3] = ["PodSandboxConfig", "ContainerConfig", "ImageSpec"];

/// The beginnings of a note that leads to another row, which names the test.
const REFERENCES: [&str; 5] = ["see ", "with ", "together ", "likewise", "within "];

/// One row of a table of the page.
struct Row {
    name: String,
    state: String,
    note: String,
}

impl Row {
    /// The names of tests in the note: words in backquotes that can be nothing else.
    fn tests(&self) -> Vec<&str> {
        let is_name = |c: char| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit();
        let quoted = self.note.split('`').skip(1).step_by(2);
        quoted.filter(|word| word.matches('_').count() > 1 && word.chars().all(is_name)).collect()
    }

    fn leads_to_another(&self) -> bool {
        REFERENCES.iter().any(|word| self.note.starts_with(word))
    }
}

#[test]
fn every_field_of_a_request_has_a_row_and_no_row_is_of_another_field() {
    let mut rows = rows();
    let windows = rows.remove("Windows").unwrap();
    let names = |rows: Vec<Row>| rows.into_iter().map(|row| row.name).collect::<BTreeSet<_>>();
    let documented: BTreeMap<_, _> = rows.into_iter().map(|(section, rows)| (section, names(rows))).collect();
    let (refused, asked): (BTreeMap<_, _>, BTreeMap<_, _>) =
        fields().into_iter().partition(|(message, _)| message.starts_with("Windows"));
    assert_eq!(documented, asked);
    assert_eq!(names(windows), refused.into_keys().collect());
}

#[test]
fn every_row_has_a_state_and_names_tests_that_exist_or_a_reason() {
    let mut known = BTreeSet::new();
    ["src", "tests"].into_iter().for_each(|folder| functions(&of_the_project(folder), &mut known));
    for (section, rows) in rows() {
        for row in rows {
            let place = format!("{section}.{}", row.name);
            let tests = row.tests();
            for test in &tests {
                assert!(known.contains(*test), "{place}: there is no test {test}");
            }
            let explained = match row.state.as_str() {
                "honoured" | "refused" => !tests.is_empty() || row.leads_to_another(),
                "ignored" => !row.note.is_empty(),
                state => panic!("{place} is {state}"),
            };
            assert!(explained, "{place} is {} and names no test", row.state);
        }
    }
}

fn of_the_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The messages that are reached from [`ASKED_WITH`], with the names of their fields.
fn fields() -> BTreeMap<String, BTreeSet<String>> {
    let facts = fs::read_to_string(of_the_project(FACTS)).unwrap();
    let mut all = BTreeMap::<&str, Vec<(&str, &str)>>::new();
    for fact in facts.lines().filter_map(|line| line.strip_prefix("field ")) {
        let words: Vec<&str> = fact.split(' ').collect();
        let [message, _number, _label, kind, name, ..] = words[..] else { panic!("{fact}") };
        all.entry(message).or_default().push((kind, name));
    }
    let mut reached = BTreeMap::new();
    let mut next = VecDeque::from(ASKED_WITH);
    while let Some(message) = next.pop_front() {
        let Some(fields) = all.get(message) else { continue };
        let names = fields.iter().map(|(_, name)| (*name).to_owned()).collect();
        if reached.insert(message.to_owned(), names).is_none() {
            next.extend(fields.iter().map(|(kind, _)| *kind));
        }
    }
    reached
}

/// The tables of the page by their headings.
fn rows() -> BTreeMap<String, Vec<Row>> {
    let page = fs::read_to_string(of_the_project(PAGE)).unwrap();
    let sections = page.split("\n## ").skip(1).map(|section| section.split_once('\n').unwrap());
    sections.map(|(heading, body)| (heading.to_owned(), body.lines().filter_map(row).collect())).collect()
}

/// A line of a table but its head and rule; `None` for other lines.
fn row(line: &str) -> Option<Row> {
    let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.splitn(3, " | ").collect();
    let [name, state, note] = cells[..] else { panic!("not three cells: {line}") };
    (state != "state").then(|| Row { name: name.into(), state: state.into(), note: note.into() })
}

/// The names of all functions below a folder.
fn functions(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let declared = text.lines().filter_map(|line| {
                let line = line.trim_start();
                let line = line.strip_prefix("pub(super) ").unwrap_or(line);
                line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")
            });
            names.extend(declared.filter_map(|rest| rest.split(['(', '<']).next()).map(str::to_owned));
        }
    }
}
