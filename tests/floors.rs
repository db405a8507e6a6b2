//! The house rules that no compiler keeps: which room may use which, where a crate may be named, how long a
//! file may be. The parts that judge are tested at the bottom.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A file that is longer usually hides a noun. Its head may give a reason: `//! Long: <reason>`.
const FILE_LINES_MAX: usize = 500;

const VAGUE_NAMES: [&str; 5] = ["utils", "common", "helpers", "types", "manager"];

/// (crate, the only places that may name it)
const FENCES: [(&str, &[&str]); 24] = [
    ("http", &["cri/", "metrics/"]),
    ("hyper", &["cri/", "metrics/", "streaming/"]),
    ("hyper_util", &["cri/", "cli/client", "metrics/", "streaming/"]),
    ("tonic", &["cri/", "cli/client"]),
    ("tonic_prost", &["cri/", "cli/client"]),
    ("prost", &["cri/", "cli/client", "supervisor/wire"]),
    ("prost_types", &["cri/", "supervisor/wire"]),
    ("libcontainer", &["launcher/"]),
    ("tokio_tungstenite", &["streaming/", "cli/session"]),
    ("tokio_rustls", &["cli/tls", "streaming/tls"]),
    ("data_encoding", &["streaming/"]),
    ("serde_saphyr", &["cdi/"]),
    ("subtle", &["streaming/token"]),
    ("zbus", &["cgroup/systemd"]),
    ("cgroups_rs", &["cgroup/"]),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/"]),
    ("indicatif", &["cli/"]),
    ("reqwest", &["image/registry/"]),
    ("rustls", &["certificates/", "cli/tls", "image/registry/", "image/testregistry", "streaming/tls"]),
    ("rustls_native_certs", &["image/registry/tls"]),
    ("webpki", &["image/registry/tls"]),
    ("libc", &["sys/"]),
    ("nix", &["sys/"]),
];

/// Rooms, and parts of rooms, without I/O, and what they therefore do not name.
const PURE: [&str; 4] = ["model/", "spec/", "pod/life/", "pod/recover/decide.rs"];
const IMPURE: [&str; 5] = ["fs", "tokio", "rustix", "File", "Command"];

/// First words of a doc comment that does not name its thing: the reader has to guess the noun.
const RIDDLES: [&str; 9] = ["What", "Who", "Where", "Whoever", "That", "Those", "It", "They", "This"];

/// Rooms whose comments still begin so. The list only gets shorter.
const ROOMS_WITH_RIDDLES: [&str; 5] = ["cli", "network", "pod", "supervisor", "sys"];

#[test]
fn a_room_uses_only_rooms_on_lower_floors() {
    let floors = floors(include_str!("../src/lib.rs"));
    check(|source| {
        let room = source.room();
        let used = rooms_used(&source.module(), &source.tokens);
        used.into_iter().filter_map(|used| upward(&floors, room, &used)).collect()
    });
}

#[test]
fn every_room_is_on_the_floor_plan() {
    let floors = floors(include_str!("../src/lib.rs"));
    check(|source| match source.path.parent() {
        Some(_) if source.room().is_empty() => vec![],
        _ if floor_of(&floors, source.room()).is_some() => vec![],
        _ => vec!["this room is not in src/lib.rs".into()],
    });
}

#[test]
fn crates_stay_behind_their_fences() {
    check(|source| strays(&source.name(), &source.tokens));
}

#[test]
fn only_sys_has_unsafe() {
    check(|source| match source.room() {
        "sys" => vec![],
        _ => lines_of(&source.tokens, |tokens| tokens[0].is("unsafe")),
    });
}

#[test]
fn only_network_and_supervisor_start_processes() {
    check(|source| match source.room() {
        // sys prepares a command that network starts (`make_stranger`), for that is unsafe, and starts none itself.
        "network" | "supervisor" | "sys" => vec![],
        // apparmor_parser(8), which is how a profile gets into the kernel.
        "pod" if source.name().ends_with("apparmor.rs") => vec![],
        _ => commands(&source.tokens),
    });
}

#[test]
fn only_cli_prints_to_stdout() {
    check(|source| match source.room() {
        "cli" => vec![],
        _ => lines_of(&source.tokens, |t| {
            !t[0].test && (t[0].is("println") || t[0].is("print") || t[0].is("dbg")) && follows(t, "!")
        }),
    });
}

#[test]
fn only_the_daemons_side_of_supervisor_is_async() {
    check(|source| match source.room() == "supervisor" && !source.name().starts_with("supervisor/daemon/") {
        true => lines_of(&source.tokens, |t| !t[0].test && (t[0].is("tokio") || t[0].is("async"))),
        false => vec![],
    });
}

#[test]
fn the_rooms_without_io_have_none() {
    check(|source| match PURE.iter().any(|place| source.name().starts_with(place)) {
        true => lines_of(&source.tokens, |t| !t[0].test && IMPURE.iter().any(|name| t[0].is(name))),
        false => vec![],
    });
}

/// The fuzzer is a workspace of its own, which is built with `--locked`: a crate that is new here must be in its lock file.
#[test]
fn the_lock_file_of_the_fuzzer_has_every_dependency() {
    let read = |path: &str| -> toml::Table { fs::read_to_string(path).unwrap().parse().unwrap() };
    let manifest = read("Cargo.toml");
    let lock = read("hack/fuzz/Cargo.lock");
    let packages = lock["package"].as_array().unwrap();
    let pintle = packages.iter().find(|package| package["name"].as_str() == Some("pintle")).unwrap();
    let locked =
        pintle["dependencies"].as_array().unwrap().iter().filter_map(|name| name.as_str()?.split(' ').next());
    let locked: BTreeSet<&str> = locked.collect();
    let needed = manifest["dependencies"].as_table().unwrap().iter();
    let needed =
        needed.map(|(name, source)| source.get("package").and_then(|it| it.as_str()).unwrap_or(name));
    let missing = needed.filter(|name| !locked.contains(name));
    assert_eq!(missing.collect::<Vec<_>>(), [""; 0], "run `cargo metadata` in hack/fuzz");
}

#[test]
fn nothing_is_left_to_do() {
    check(|source| {
        lines_of(&source.tokens, |t| (t[0].is("todo") || t[0].is("unimplemented")) && follows(t, "!"))
    });
}

#[test]
fn names_say_something() {
    check(|source| {
        let stems = source.path.iter().filter_map(|part| Path::new(part).file_stem()?.to_str());
        stems.filter(|stem| VAGUE_NAMES.contains(stem)).map(|stem| format!("called {stem}")).collect()
    });
}

#[test]
fn files_are_short_or_say_why_not() {
    check(|source| too_long(&source.text, &source.tokens).into_iter().collect());
}

#[test]
fn every_file_has_a_head() {
    check(|source| match source.text.starts_with("//! ") {
        true => vec![],
        false => vec!["no `//!` head that says what the file owns".into()],
    });
}

#[test]
fn a_doc_comment_begins_with_the_thing() {
    check(|source| match ROOMS_WITH_RIDDLES.contains(&source.room()) {
        true => vec![],
        false => riddles(&source.text),
    });
}

#[test]
fn failpoints_are_named_noun_dot_step() {
    check(|source| bad_failpoints(&source.tokens));
}

/// One source file.
struct Source {
    /// Below `src/`.
    path: PathBuf,
    text: String,
    tokens: Vec<Token>,
}

impl Source {
    /// `image/content.rs`
    fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }
    /// The first folder; empty for `lib.rs` and `main.rs`.
    fn room(&self) -> &str {
        let mut parts = self.path.iter();
        let first = parts.next().and_then(|part| part.to_str()).unwrap_or_default();
        if parts.next().is_some() { first } else { "" }
    }
    /// The module path: `image::content` as two names.
    fn module(&self) -> Vec<String> {
        let names = self.path.with_extension("");
        let names = names.iter().map(|part| part.to_string_lossy().into_owned());
        names.filter(|name| !["mod", "lib", "main"].contains(&name.as_str())).collect()
    }
}

/// Runs `judge` over every source and shows all complaints at once.
#[track_caller]
fn check(judge: impl Fn(&Source) -> Vec<String>) {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&src, &src, &mut sources);
    assert!(sources.len() > 10, "the sources are not where this test looks");
    mark_test_files(&mut sources);
    let complaints: Vec<_> = sources
        .iter()
        .flat_map(|source| {
            judge(source).into_iter().map(|complaint| format!("src/{}: {complaint}", source.name()))
        })
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn collect(src: &Path, folder: &Path, into: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("list sources") {
        let path = entry.expect("list sources").path();
        if path.is_dir() {
            collect(src, &path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("read source");
            let tokens = tokens(&text);
            into.push(Source { path: path.strip_prefix(src).expect("below src").into(), text, tokens });
        }
    }
}

/// A file declared as `#[cfg(test)] mod fake;` is test code as a whole.
fn mark_test_files(sources: &mut [Source]) {
    let mut modules = BTreeSet::new();
    for source in sources.iter() {
        for t in source.tokens.windows(3) {
            if t[0].test && t[0].is("mod") && t[2].is(";") {
                modules.insert([source.module(), vec![t[1].text.clone()]].concat());
            }
        }
    }
    for source in sources {
        let module = source.module();
        if (1..=module.len()).any(|length| modules.contains(&module[..length])) {
            source.tokens.iter_mut().for_each(|token| token.test = true);
        }
    }
}

/// The floor plan, top floor first: blank lines of `lib.rs` separate floors.
fn floors(lib: &str) -> Vec<Vec<String>> {
    let room = |line: &str| {
        let line = line.trim_start_matches("pub ");
        line.strip_prefix("mod ").and_then(|line| line.strip_suffix(';')).map(str::to_owned)
    };
    let blocks = lib.split("\n\n").map(|block| block.lines().filter_map(room).collect::<Vec<_>>());
    blocks.filter(|block| !block.is_empty()).collect()
}

fn floor_of(floors: &[Vec<String>], room: &str) -> Option<usize> {
    floors.iter().position(|floor| floor.iter().any(|name| name == room))
}

/// The complaint when `room` may not use `used`; what is not a room (a macro) is no one's business.
fn upward(floors: &[Vec<String>], room: &str, used: &str) -> Option<String> {
    let (from, to) = (floor_of(floors, room)?, floor_of(floors, used)?);
    match to {
        _ if used == room || to > from => None,
        _ if to == from => Some(format!("{room} uses {used}, which lives on the same floor")),
        _ => Some(format!("{room} uses {used}, which lives above it")),
    }
}

/// Every name that follows the crate's root in a path: `crate::a`, `crate::{a, b}`, `super::super::a`.
fn rooms_used(module: &[String], tokens: &[Token]) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, token) in tokens.iter().enumerate() {
        let continues = at >= 2 && tokens[at - 1].is("::") && tokens[at - 2].is("super");
        let rest = if token.is("crate") {
            &tokens[at + 1..]
        } else if token.is("super") && !continues {
            let mut ups = 0;
            while tokens.get(at + 2 * ups).is_some_and(|token| token.is("super")) {
                ups += 1;
            }
            if ups < module.len() + token.inline_modules {
                continue;
            }
            &tokens[at + 2 * ups - 1..]
        } else {
            continue;
        };
        if rest.first().is_some_and(|token| token.is("::")) {
            used.extend(heads(&rest[1..]));
        }
    }
    used
}

/// The first name of a path, or of each path in a group.
fn heads(path: &[Token]) -> Vec<String> {
    if !path.first().is_some_and(|token| token.is("{")) {
        return path.first().map(|token| token.text.clone()).into_iter().collect();
    }
    let (mut depth, mut names) = (0, Vec::new());
    for pair in path.windows(2) {
        match pair[0].text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && (pair[0].is("{") || pair[0].is(",")) {
            names.push(pair[1].text.clone());
        }
    }
    names
}

/// Crates named where they do not belong.
fn strays(file: &str, tokens: &[Token]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, places) in FENCES {
        if places.iter().any(|place| file.starts_with(place)) {
            continue;
        }
        for at in 0..tokens.len() {
            let inside_a_path = at >= 2 && tokens[at - 1].is("::") && tokens[at - 2].is_word();
            let is_crate = tokens[at].is(name) && follows(&tokens[at..], "::") && !inside_a_path;
            if is_crate && !complaints.iter().any(|c: &String| c.starts_with(&format!("{name} "))) {
                complaints.push(format!("{name} is named at line {}; only in {places:?}", tokens[at].line));
            }
        }
    }
    complaints
}

/// Lines with `process::Command`, in a group too; tests may.
fn commands(tokens: &[Token]) -> Vec<String> {
    lines_of(tokens, |t| {
        let names = if t[0].is("process") && follows(t, "::") { heads(&t[2..]) } else { vec![] };
        !t[0].test && names.iter().any(|name| name == "Command")
    })
}

fn too_long(text: &str, tokens: &[Token]) -> Option<String> {
    let pairs = tokens.windows(2).filter(|pair| pair[0].test && pair[1].test);
    let in_tests: BTreeSet<_> = pairs.flat_map(|pair| pair[0].line..=pair[1].line).collect();
    let lines = text.lines().count().saturating_sub(in_tests.len());
    let head = text.lines().take_while(|line| line.starts_with("//!"));
    let excused = head.into_iter().any(|line| line.starts_with("//! Long: ") && line.len() > 20);
    (lines > FILE_LINES_MAX && !excused).then(|| format!("{lines} lines; no `//! Long: <reason>`"))
}

/// Doc comments whose first word is one of [`RIDDLES`].
fn riddles(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut previous = "";
    for (number, line) in text.lines().map(str::trim).enumerate() {
        for mark in ["/// ", "//! "] {
            let begins = !previous.starts_with(mark.trim_end());
            let word = line.strip_prefix(mark).and_then(|rest| rest.split([' ', ',', '.', ':']).next());
            if begins && word.is_some_and(|word| RIDDLES.contains(&word)) {
                complaints.push(format!("line {}: begins with {:?}", number + 1, word.unwrap_or_default()));
            }
        }
        previous = line;
    }
    complaints
}

fn bad_failpoints(tokens: &[Token]) -> Vec<String> {
    let mut complaints = Vec::new();
    for t in tokens.windows(4) {
        if !((t[0].is("failpoint") || t[0].is("failpoint_error")) && t[1].is("!") && t[2].is("(")) {
            continue;
        }
        let name = t[3].text.trim_matches('"');
        let (noun, step) = name.split_once('.').unwrap_or_default();
        let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let good = [noun, step].iter().all(|part| !part.is_empty() && part.bytes().all(plain));
        if !good {
            complaints.push(format!("line {}: failpoint {name:?} is not `noun.step-name`", t[0].line));
        }
    }
    complaints
}

fn lines_of(tokens: &[Token], wrong: impl Fn(&[Token]) -> bool) -> Vec<String> {
    let places = (0..tokens.len()).filter(|at| wrong(&tokens[*at..]));
    places.map(|at| format!("line {}: {}", tokens[at].line, tokens[at].text)).collect()
}

fn follows(tokens: &[Token], text: &str) -> bool {
    tokens.get(1).is_some_and(|token| token.is(text))
}

/// A word, a sign or a string of a source; comments are gone.
#[derive(Clone, Debug)]
struct Token {
    text: String,
    line: usize,
    /// Under `#[cfg(test)]`.
    test: bool,
    /// How many `mod x { … }` of this file it is in.
    inline_modules: usize,
}

impl Token {
    fn is(&self, text: &str) -> bool {
        self.text == text
    }
    fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = lex(text);
    mark(&mut tokens);
    tokens
}

/// Splits a source. Knows just enough Rust not to be fooled by comments, strings and lifetimes.
fn lex(text: &str) -> Vec<Token> {
    let text: Vec<char> = text.chars().collect();
    let at = |i: usize| text.get(i).copied().unwrap_or('\0');
    let (mut i, mut line, mut tokens) = (0, 1, Vec::new());
    while i < text.len() {
        let start = i;
        let word = |c: char| c.is_alphanumeric() || c == '_';
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < text.len() && at(i) != '\n' {
                    i += 1
                }
            }
            '/' if at(i + 1) == '*' => i = end_of_comment(&text, i),
            c if c.is_whitespace() => i += 1,
            '"' => i = end_of_string(&text, i),
            'r' | 'b' | 'c' if raw_string(&text, i).is_some() => {
                i = raw_string(&text, i).unwrap_or(text.len());
            }
            '\'' if at(i + 1) == '\\' => i += 3 + (i + 3..).take_while(|j| at(*j) != '\'').count(),
            '\'' if at(i + 2) == '\'' => i += 2,
            ':' if at(i + 1) == ':' => i += 2,
            c if word(c) => {
                while word(at(i)) {
                    i += 1
                }
            }
            _ => i += 1,
        }
        // The closing quote of a character.
        if at(start) == '\'' && i > start + 1 {
            i += 1
        }
        let token: String = text[start..i.min(text.len())].iter().collect();
        let silent = token.trim().is_empty() || token.starts_with("//") || token.starts_with("/*");
        let lines = token.matches('\n').count();
        if !silent {
            tokens.push(Token { text: token, line, test: false, inline_modules: 0 });
        }
        line += lines;
    }
    tokens
}

fn end_of_comment(text: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0, start);
    while i + 1 < text.len() {
        match (text[i], text[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    text.len()
}

fn end_of_string(text: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < text.len() && text[i] != '"' {
        i += if text[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// The end of `r"…"`, `br#"…"#` and `b"…"` that begins at `start`.
fn raw_string(text: &[char], start: usize) -> Option<usize> {
    let prefix = text[start..].iter().take(2).take_while(|c| matches!(c, 'r' | 'b' | 'c')).count();
    let raw = text[start..start + prefix].contains(&'r');
    let hashes = text[start + prefix..].iter().take_while(|c| **c == '#').count();
    let open = start + prefix + hashes;
    if text.get(open) != Some(&'"') || (hashes > 0 && !raw) {
        return None;
    }
    if !raw {
        return Some(end_of_string(text, open));
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let length = text[open + 1..].windows(close.len()).position(|window| window == close)?;
    Some(open + 1 + length + close.len())
}

/// Finds out what is under `#[cfg(test)]` and in how many inline modules each token is.
fn mark(tokens: &mut [Token]) {
    let (mut depth, mut modules, mut test_ends, mut pending) = (0_usize, vec![], None, false);
    for at in 0..tokens.len() {
        let text = tokens[at].text.as_str();
        let cfg_test = ["#", "[", "cfg", "(", "test", ")", "]"];
        pending |=
            cfg_test.iter().enumerate().all(|(i, t)| tokens.get(at + i).is_some_and(|token| token.is(t)));
        match text {
            "{" => {
                if at >= 2 && tokens[at - 2].is("mod") {
                    modules.push(depth);
                }
                if pending && test_ends.is_none() {
                    test_ends = Some(depth);
                }
                depth += 1;
            }
            "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        tokens[at].inline_modules = modules.len();
        tokens[at].test = pending || test_ends.is_some();
        if tokens[at].is("}") {
            modules.retain(|begun| *begun < depth);
            if test_ends == Some(depth) {
                (test_ends, pending) = (None, false);
            }
        }
        if tokens[at].is(";") && test_ends.is_none() {
            pending = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(module: &str, text: &str) -> Vec<String> {
        let module: Vec<_> = module.split("::").map(str::to_owned).collect();
        rooms_used(&module, &tokens(text)).into_iter().collect()
    }

    fn plan() -> Vec<Vec<String>> {
        floors("//! plan\n\npub mod cli;\n\nmod pod;\n\nmod logs;\nmod store;\n\nmod model;\n")
    }

    #[test]
    fn a_blank_line_ends_a_floor() {
        assert_eq!(plan(), [vec!["cli"], vec!["pod"], vec!["logs", "store"], vec!["model"]]);
    }

    #[test]
    fn up_and_sideways_are_wrong_and_down_is_right() {
        let why = |room, used| upward(&plan(), room, used);
        assert_eq!(why("logs", "pod").unwrap(), "logs uses pod, which lives above it");
        assert_eq!(why("logs", "store").unwrap(), "logs uses store, which lives on the same floor");
        assert_eq!((why("logs", "model"), why("logs", "logs"), why("logs", "failpoint")), (None, None, None));
    }

    #[test]
    fn every_way_to_name_a_room_is_seen() {
        assert_eq!(used("logs", "use crate::pod::Pods;"), ["pod"]);
        assert_eq!(
            used("logs", "use crate::{model::{Id, pod}, store, pod as p};"),
            ["model", "pod", "store"]
        );
        assert_eq!(used("logs::format", "fn f() { super::super::pod::run() }"), ["pod"]);
        assert_eq!(used("logs", "mod tests { use super::super::{pod, model}; }"), ["model", "pod"]);
        assert_eq!(used("logs", "macro_rules! m { () => { $crate::cli::main() } }"), ["cli"]);
    }

    #[test]
    fn what_only_looks_like_a_room_is_not() {
        assert_eq!(used("logs", "mod tests { use super::pod; } // crate::pod"), [""; 0]);
        assert_eq!(used("logs::format", "use super::pod; const A: &str = \"crate::pod\";"), [""; 0]);
        assert_eq!(used("logs", r###"const A: &str = r#"a" crate::pod"#; type B<'a> = &'a u8;"###), [""; 0]);
        assert_eq!(used("logs", "const C: [char; 3] = ['\"', '\\'', 'x']; /* /* */ crate::pod */"), [""; 0]);
    }

    #[test]
    fn a_crate_outside_its_fence_is_found_and_a_field_of_that_name_is_not() {
        let found = strays("logs/mod.rs", &tokens("use std::io;\nuse nix::sys;\nnix::a();"));
        assert_eq!(found, ["nix is named at line 2; only in [\"sys/\"]"]);
        assert_eq!(strays("sys/mod.rs", &tokens("use nix::sys;")), [""; 0]);
        assert_eq!(strays("logs/mod.rs", &tokens("let nix = a.nix; crate::nix::b();")), [""; 0]);
    }

    #[test]
    fn only_tests_start_processes() {
        assert_eq!(commands(&tokens("use std::process::{Command, Stdio};")), ["line 1: process"]);
        assert_eq!(commands(&tokens("tokio::process::Command::new(a)")), ["line 1: process"]);
        assert_eq!(commands(&tokens("use clap::Command; std::process::exit(1)")), [""; 0]);
        assert_eq!(commands(&tokens("#[cfg(test)]\nmod tests { use std::process::Command; }")), [""; 0]);
    }

    #[test]
    fn a_long_file_needs_a_reason_and_tests_do_not_count() {
        let code = "fn f() {}\n".repeat(501);
        assert_eq!(too_long(&code, &tokens(&code)).unwrap(), "501 lines; no `//! Long: <reason>`");
        let excused = format!("//! Long: the table of system calls.\n{code}");
        assert_eq!(too_long(&excused, &tokens(&excused)), None);
        let tests =
            format!("fn g() {{}}\n#[cfg(test)]\nmod tests {{\n{}}}\n", code.replace("{}\n", "{}\n\n"));
        assert_eq!(too_long(&tests, &tokens(&tests)), None);
    }

    #[test]
    fn only_the_first_word_of_a_doc_comment_can_be_a_riddle() {
        assert_eq!(riddles("/// What is read.\nfn f() {}"), ["line 1: begins with \"What\""]);
        assert_eq!(riddles("//! A head.\n//! What follows is more of it.\n\nfn f() {}"), [""; 0]);
        assert_eq!(riddles("fn f() {}\n    /// Whatever.\n    // What a comment says.\n"), [""; 0]);
    }

    #[test]
    fn a_failpoint_names_a_noun_and_a_step() {
        let bad = |text: &str| bad_failpoints(&tokens(text));
        assert_eq!(bad("failpoint!(\"store.renamed-2\");"), [""; 0]);
        for name in ["renamed", ".renamed", "store.Renamed", "store.", "a.b.c"] {
            let complaint = format!("line 1: failpoint {name:?} is not `noun.step-name`");
            assert_eq!(bad(&format!("crate::failpoint!(\"{name}\");")), [complaint]);
        }
    }
}
