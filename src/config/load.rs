//! Configuration from files, drop-ins and flags, merged in that order.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

use super::{Config, Listen};
use crate::telemetry::log;

/// Read when the operator names no other; it need not exist.
const FILE: &str = "/etc/pintle/config.toml";
/// Beside the file: drop-ins, read in the order of their names.
const DROP_INS: &str = "conf.d";
/// A configuration is written by hand; more is a wrong file (`--config /dev/sda`).
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Settings from the command line; they win over every file.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub root: Option<PathBuf>,
    pub state: Option<PathBuf>,
    pub listen: Option<Listen>,
    pub log_level: Option<String>,
}

/// A checked configuration.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// The files that were read, in that order; empty when all of it is built in.
    pub files: Vec<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is larger than {FILE_BYTES_MAX} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("{}:{line}: {}{problem}", path.display(), in_key(key))]
    Bad {
        path: PathBuf,
        line: usize,
        /// Dotted, as `network.bridge_name`; empty where the text is not TOML.
        key: String,
        problem: String,
    },
    #[error("{origin}: {key}: {problem}")]
    Setting {
        /// `<file>:<line>` or the command line.
        origin: String,
        key: &'static str,
        problem: String,
    },
}

fn in_key(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

/// Reads `file` (by default `/etc/pintle/config.toml`), then `conf.d/*.toml` beside it, then `flags`.
pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Loaded, Error> {
    let main = file.unwrap_or(Path::new(FILE));
    let mut merged = Merged::default();
    match read(main) {
        Ok(text) => merged.add(main, &text)?,
        Err(Error::Read { source, .. }) if file.is_none() && source.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for path in drop_ins(&main.with_file_name(DROP_INS))? {
        merged.add(&path, &read(&path)?)?;
    }
    merged.finish(flags)
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    if fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(Error::TooLarge { path: path.into() });
    }
    fs::read_to_string(path).map_err(failed)
}

fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Read { path: folder.into(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(failed(error)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<_> = paths.collect::<Result<_, _>>().map_err(failed)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));

    paths.sort();
    Ok(paths)
}

/// Files laid over each other.
#[derive(Default)]
struct Merged {
    table: Table,
    /// Which file and line set a key last.
    origins: BTreeMap<String, (PathBuf, usize)>,
    files: Vec<PathBuf>,
}

impl Merged {
    /// Lays one file over what there is. Each file must be right on its own, so that an error has a line.
    fn add(&mut self, path: &Path, text: &str) -> Result<(), Error> {
        let bad = |error: &toml::de::Error, key: String| Error::Bad {
            path: path.into(),
            line: line_of(text, error.span().unwrap_or_default()),
            key,
            problem: error.message().replace('\n', ", "),
        };
        let keys = keys(text).map_err(|error| bad(&error, String::new()))?;
        toml::from_str::<Config>(text).map_err(|error| {
            let span = error.span().unwrap_or_default();
            // The innermost key around the place: keys are listed outermost first.
            let key =
                keys.iter().rev().find(|key| key.around.start <= span.start && span.end <= key.around.end);
            bad(&error, key.map(|key| key.name.clone()).unwrap_or_default())
        })?;
        let table = toml::from_str(text).map_err(|error| bad(&error, String::new()))?;
        overlay(&mut self.table, table);
        for key in keys {
            self.origins.insert(key.name, (path.into(), line_of(text, key.around)));
        }
        self.files.push(path.into());
        Ok(())
    }

    fn finish(self, flags: &Flags) -> Result<Loaded, Error> {
        let mut config: Config = Value::Table(self.table).try_into().map_err(|error: toml::de::Error| {
            Error::Setting { origin: "files together".into(), key: "all", problem: error.message().into() }
        })?;
        config.root = flags.root.clone().unwrap_or(config.root);
        config.state = flags.state.clone().unwrap_or(config.state);
        config.listen = flags.listen.clone().or(config.listen);
        config.log.level = flags.log_level.clone().unwrap_or(config.log.level);

        let wrong = |key: &'static str, problem: String| {
            let origin = self.origins.get(key).map(|(path, line)| format!("{}:{line}", path.display()));
            Err(Error::Setting { origin: origin.unwrap_or("command line".into()), key, problem })
        };
        for (key, path) in [("root", &config.root), ("state", &config.state)] {
            if !path.is_absolute() || path.parent().is_none() {
                return wrong(key, format!("{} is not an absolute path of a folder", path.display()));
            }
        }
        if config.root.starts_with(&config.state) || config.state.starts_with(&config.root) {
            return wrong("state", "root and state must not lie in each other".into());
        }
        if let Err(error) = log::parse_level(&config.log.level) {
            return wrong("log.level", log::chain(&error));
        }
        Ok(Loaded { config, files: self.files })
    }
}

/// Later wins, key by key; an array is replaced as a whole.
fn overlay(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => drop(below.insert(key, value)),
        }
    }
}

/// A key and the bytes from its name to the end of its value.
struct Key {
    name: String,
    around: Range<usize>,
}

/// All keys of a file, outermost first.
fn keys(text: &str) -> Result<Vec<Key>, toml::de::Error> {
    let mut keys = Vec::new();
    gather(DeTable::parse(text)?.get_ref(), "", &mut keys);
    Ok(keys)
}

fn gather(table: &DeTable<'_>, above: &str, keys: &mut Vec<Key>) {
    for (key, value) in table {
        let name =
            if above.is_empty() { key.get_ref().to_string() } else { format!("{above}.{}", key.get_ref()) };
        let (start, end) = (key.span().start.min(value.span().start), key.span().end.max(value.span().end));
        keys.push(Key { name: name.clone(), around: start..end });
        if let DeValue::Table(inner) = value.get_ref() {
            gather(inner, &name, keys);
        }
    }
}

/// Counted from 1.
fn line_of(text: &str, span: Range<usize>) -> usize {
    text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files as (path below a folder, text).
    fn loaded(files: &[(&str, &str)], flags: &Flags) -> Result<Loaded, String> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(DROP_INS)).unwrap();
        for (path, text) in files {
            fs::write(dir.path().join(path), text).unwrap();
        }
        load(Some(&dir.path().join("config.toml")), flags)
            .map_err(|error| log::chain(&error).replace(&format!("{}/", dir.path().display()), ""))
    }

    fn problem(text: &str) -> String {
        loaded(&[("config.toml", text)], &Flags::default()).unwrap_err()
    }

    #[test]
    fn drop_ins_win_key_by_key_in_the_order_of_their_names() {
        let files = [
            ("config.toml", "root = '/a'\nstate = '/s'\n[log]\nlevel = 'debug'\nformat = 'json'\n"),
            ("conf.d/20-site.toml", "root = '/c'"),
            ("conf.d/10-vendor.toml", "root = '/b'\n[log]\nlevel = 'warn'\n"),
            ("conf.d/30-old.toml.bak", "root = '/d'"),
        ];
        let loaded = loaded(&files, &Flags::default()).unwrap();
        assert_eq!(loaded.config.root, Path::new("/c"));
        assert_eq!(loaded.config.state, Path::new("/s"));
        assert_eq!(loaded.config.log.level, "warn");
        assert_eq!(loaded.config.log.format, log::Format::Json);
        let names: Vec<_> = loaded.files.iter().map(|file| file.file_name().unwrap()).collect();
        assert_eq!(names, ["config.toml", "10-vendor.toml", "20-site.toml"]);
    }

    #[test]
    fn flags_win_over_files_and_the_socket_follows_the_state_folder() {
        let flags = Flags { state: Some("/x".into()), log_level: Some("trace".into()), ..Flags::default() };
        let loaded = loaded(&[("config.toml", "state = '/s'")], &flags).unwrap();
        assert_eq!(loaded.config.log.level, "trace");
        assert_eq!(loaded.config.listen().to_string(), "unix:///x/pintle.sock");
    }

    #[test]
    fn an_error_names_file_line_and_key() {
        assert_eq!(
            problem("\nrooot = '/a'"),
            "config.toml:2: rooot: unknown field `rooot`, expected one of \
             `root`, `state`, `listen`, `log`, `cgroup`, `image`, `network`, `pod`, `handlers`, `cdi`, \
             `selinux`, `metrics`, `streaming`"
        );
        assert_eq!(
            problem("root = '/a'\n\n[log]\nlevel = 'info'\ncolour = 1"),
            "config.toml:5: log.colour: unknown field `colour`, expected `level` or `format`"
        );
        assert_eq!(
            problem("[log]\nlevel = 7"),
            "config.toml:2: log.level: invalid type: integer `7`, expected a string"
        );
        assert_eq!(
            problem("listen = 'tcp://0.0.0.0:1'"),
            "config.toml:1: listen: \"tcp://0.0.0.0:1\" is not unix:///an/absolute/path"
        );
        let problem_of_metrics = problem("[metrics]\nlisten = '0.0.0.0:9880'");
        assert!(
            problem_of_metrics
                .starts_with("config.toml:2: metrics.listen: \"0.0.0.0:9880\" is neither unix://"),
            "{problem_of_metrics}"
        );
        assert_eq!(problem("root = '/a'\nroot = '/b'"), "config.toml:2: duplicate key");
    }

    #[test]
    fn a_drop_in_is_blamed_for_its_own_mistakes() {
        let files = [("config.toml", "root = '/a'"), ("conf.d/1.toml", "\n\nstate = 'run'")];
        let problem = loaded(&files, &Flags::default()).unwrap_err();
        assert_eq!(problem, "conf.d/1.toml:3: state: run is not an absolute path of a folder");
    }

    #[test]
    fn folders_in_each_other_and_unknown_levels_are_refused() {
        assert_eq!(
            problem("root = '/a'\nstate = '/a/run'"),
            "config.toml:2: state: root and state must not lie in each other"
        );
        let flags = Flags { log_level: Some("pintle=loud".into()), ..Flags::default() };
        let problem = loaded(&[("config.toml", "")], &flags).unwrap_err();
        assert!(problem.starts_with("command line: log.level: log level \"pintle=loud\""), "{problem}");
    }

    #[test]
    fn a_named_file_must_exist_and_be_small() {
        let missing = load(Some(Path::new("/nowhere/config.toml")), &Flags::default()).unwrap_err();
        assert_eq!(missing.to_string(), "read /nowhere/config.toml");
        let large = "#".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1);
        assert_eq!(problem(&large), "config.toml is larger than 1048576 bytes");
    }
}
