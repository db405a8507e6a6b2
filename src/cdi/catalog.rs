//! All files of all folders, and which of them has a device.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FileType, Mode, OFlags};

use super::{
    Config, Error, Hooks,
    edits::{Edits, Refusal},
    spec::{self, FILE_BYTES_MAX, Format, SpecFile},
};
use crate::model::CdiDeviceName;

/// Files of one folder. Drivers that write one for each claim have as many as a node has pods.
const FILES_MAX: usize = 1_000;
/// Bytes of all files of one folder.
const FOLDER_BYTES_MAX: u64 = 32 << 20;
/// How many unusable files an error names.
const FAULTS_SHOWN: usize = 3;

/// The content of all folders.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    folders: Vec<PathBuf>,
    files: usize,
    devices: BTreeMap<CdiDeviceName, Found>,
    /// Files and folders that cannot be used, and why.
    faults: Vec<Fault>,
}

/// The place of a device.
#[derive(Clone, Debug)]
enum Found {
    One(Arc<Source>),
    /// Two files of one folder have it.
    Twice(PathBuf, PathBuf),
}

/// A file that can be used.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    spec: SpecFile,
}

#[derive(Debug)]
struct Fault {
    path: PathBuf,
    problem: String,
}

/// A device that was found, in its file.
#[derive(Debug)]
pub(super) struct Device {
    name: CdiDeviceName,
    source: Arc<Source>,
}

impl Catalog {
    /// Reads every file; a later folder wins over an earlier one.
    pub(super) fn read(folders: &[PathBuf]) -> Self {
        let mut catalog = Self { folders: folders.to_vec(), ..Self::default() };
        for folder in folders {
            let devices = catalog.read_folder(folder);
            catalog.devices.extend(devices);
        }
        catalog
    }

    fn read_folder(&mut self, folder: &Path) -> BTreeMap<CdiDeviceName, Found> {
        let mut devices = BTreeMap::new();
        let sources = match list(folder) {
            Ok(paths) => self.read_files(folder, paths),
            Err(problem) => {
                self.faults.push(Fault { path: folder.into(), problem });
                vec![]
            }
        };
        for source in sources {
            for name in source.spec.devices.keys() {
                let found = match devices.get(name) {
                    None => Found::One(Arc::clone(&source)),
                    Some(Found::One(first)) => Found::Twice(first.path.clone(), source.path.clone()),
                    Some(twice @ Found::Twice(..)) => twice.clone(),
                };
                devices.insert(name.clone(), found);
            }
        }
        devices
    }

    /// The files that can be used. Without all of a folder nobody knows what is in it twice, so of one that is too large
    /// nothing is used.
    fn read_files(&mut self, folder: &Path, paths: Vec<(PathBuf, Format)>) -> Vec<Arc<Source>> {
        let (mut sources, mut left) = (Vec::new(), FOLDER_BYTES_MAX);
        for (path, format) in paths {
            self.files += 1;
            let text = read_file(&path);
            left = left.saturating_sub(text.as_ref().map_or(0, |text| text.len() as u64));
            if left == 0 {
                let problem = format!("its files have more than {FOLDER_BYTES_MAX} bytes together");
                self.faults.push(Fault { path: folder.into(), problem });
                return vec![];
            }
            match text.and_then(|text| spec::parse(&text, format)) {
                Ok(spec) => sources.push(Arc::new(Source { path, spec })),
                Err(problem) => self.faults.push(Fault { path, problem }),
            }
        }
        sources
    }

    /// The devices of these names, each once.
    ///
    /// # Errors
    /// Of the first that is not there, is in two files, or needs what no container gets.
    pub(super) fn find(&self, config: &Config, names: &[CdiDeviceName]) -> Result<Vec<Device>, Error> {
        let mut devices: Vec<Device> = Vec::new();
        for name in names {
            if devices.iter().any(|device| device.name == *name) {
                continue;
            }
            let device = match self.devices.get(name) {
                Some(Found::One(source)) => Device { name: name.clone(), source: Arc::clone(source) },
                Some(Found::Twice(first, second)) => {
                    let (first, second) = (first.clone(), second.clone());
                    return Err(Error::Conflict { device: name.clone(), first, second });
                }
                None => return Err(self.missing(name)),
            };
            device.check_needs(config)?;
            devices.push(device);
        }
        Ok(devices)
    }

    fn missing(&self, device: &CdiDeviceName) -> Error {
        let folders: Vec<_> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
        let folders =
            if folders.is_empty() { "cdi.spec_dirs, which is empty,".into() } else { folders.join(", ") };
        let shown = self
            .faults
            .iter()
            .take(FAULTS_SHOWN)
            .map(|Fault { path, problem }| format!("; {} cannot be used: {problem}", path.display()));
        let mut faults: String = shown.collect();
        if let more @ 1.. = self.faults.len().saturating_sub(FAULTS_SHOWN) {
            faults += &format!("; and {more} more");
        }
        Error::Missing { device: device.clone(), folders, faults }
    }

    pub(super) fn files(&self) -> usize {
        self.files
    }

    /// How many devices can be asked for.
    pub(super) fn devices(&self) -> usize {
        self.devices.values().filter(|found| matches!(found, Found::One(_))).count()
    }

    /// Everything that an operator should mend.
    pub(super) fn faults(&self, config: &Config) -> Vec<String> {
        let files =
            self.faults.iter().map(|Fault { path, problem }| format!("{}: {problem}", path.display()));
        let devices = self.devices.keys().filter_map(|name| {
            let found = self.find(config, std::slice::from_ref(name));
            found.and_then(|devices| devices.iter().try_for_each(Device::check_host)).err()
        });
        files.chain(devices.map(|error| crate::telemetry::log::chain(&error))).collect()
    }
}

impl Device {
    pub(super) fn file(&self) -> &Path {
        &self.source.path
    }

    /// The changes that all devices of its file have in common.
    pub(super) fn common(&self) -> &Edits {
        &self.source.spec.common
    }

    /// The changes of this device alone.
    pub(super) fn own(&self) -> &Edits {
        // It was found by that key.
        &self.source.spec.devices[&self.name]
    }

    fn check_needs(&self, config: &Config) -> Result<(), Error> {
        for refusal in self.common().refusals.iter().chain(&self.own().refusals) {
            let what = match refusal {
                Refusal::Hook { .. } if config.hooks == Hooks::Ignore => continue,
                Refusal::Hook { name, path } => {
                    format!(
                        "it needs the {name} hook {path}, and pintle runs no hooks (cdi.hooks = \"ignore\" goes without)"
                    )
                }
                Refusal::Other(what) => what.clone(),
            };
            return Err(Error::Unsupported { device: self.name.clone(), file: self.file().into(), what });
        }
        Ok(())
    }

    /// Whether what it needs of the host is there. A mount that is not would be made as a folder on the host.
    pub(super) fn check_host(&self) -> Result<(), Error> {
        for edits in [self.common(), self.own()] {
            let nodes = edits.devices.iter().filter(|device| !device.form.is_whole());
            let paths = nodes.map(|device| &device.host_path);
            for path in paths.chain(edits.mounts.iter().map(|mount| &mount.host_path)) {
                std::fs::metadata(path).map_err(|source| {
                    let (device, file) = (self.name.clone(), self.file().to_owned());
                    Error::Host { device, file, path: path.into(), source }
                })?;
            }
        }
        Ok(())
    }
}

/// The spec files of a folder by name; none if it is not there.
fn list(folder: &Path) -> Result<Vec<(PathBuf, Format)>, String> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error.to_string()),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Format::Json,
            Some("yaml") => Format::Yaml,
            Some(_) | None => continue,
        };
        if paths.len() == FILES_MAX {
            return Err(format!("it has more than {FILES_MAX} files"));
        }
        paths.push((path, format));
    }
    paths.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(paths)
}

/// A link leads to its file; what is no file is not waited for.
fn read_file(path: &Path) -> Result<String, String> {
    let open = || -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(file),
            _ => Err(io::Error::other("it is not a file")),
        }
    };
    let mut text = String::new();
    let read = open().and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    read.map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// Two folders, the second of which wins.
    struct Folders(TempDir, TempDir);

    impl Folders {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap())
        }

        fn config(&self) -> Config {
            let spec_dirs = vec![self.0.path().into(), "/nowhere/cdi".into(), self.1.path().into()];
            Config { spec_dirs, hooks: Hooks::Refuse }
        }

        /// The variables that these devices set.
        fn env(&self, names: &[&str]) -> Result<Vec<String>, String> {
            let names: Vec<_> = names.iter().map(|name| CdiDeviceName::parse(name).unwrap()).collect();
            let edits = super::super::edits(&self.config(), &names);
            let edits = edits.map_err(|error| crate::telemetry::log::chain(&error))?;
            let mut container = crate::model::ContainerConfig::default();
            edits.apply(&mut container);
            let text =
                |(name, value): &(String, Vec<u8>)| format!("{name}={}", String::from_utf8_lossy(value));
            Ok(container.envs.iter().map(text).collect())
        }

        fn survey(&self) -> super::super::Survey {
            super::super::survey(&self.config())
        }
    }

    /// A spec whose devices each set a variable, and so does the file.
    fn spec(kind: &str, value: &str, names: &[&str], more: &str) -> String {
        let device = |name: &&str| {
            format!(r#"{{"name": "{name}", "containerEdits": {{"env": ["{name}={value}"] {more}}}}}"#)
        };
        let devices: Vec<_> = names.iter().map(device).collect();
        format!(
            r#"{{"cdiVersion": "0.6.0", "kind": "{kind}", "devices": [{}], "containerEdits": {{"env": ["FILE={value}"]}}}}"#,
            devices.join(",")
        )
    }

    #[test]
    fn a_later_folder_wins_and_a_file_adds_its_own_once() {
        let folders = Folders::new();
        fs::write(folders.0.path().join("a.json"), spec("v/c", "low", &["a", "b"], "")).unwrap();
        fs::write(folders.1.path().join("z.yaml"), spec("v/c", "high", &["b"], "")).unwrap();
        fs::write(folders.1.path().join("ignored.yml"), "not a spec").unwrap();
        fs::create_dir(folders.1.path().join("folder")).unwrap();
        let env = |names| folders.env(names).unwrap();
        assert_eq!(env(&["v/c=a"]), ["FILE=low", "a=low"]);
        assert_eq!(env(&["v/c=b", "v/c=b"]), ["FILE=high", "b=high"]);
        assert_eq!(env(&["v/c=a", "v/c=b"]), ["FILE=low", "a=low", "FILE=high", "b=high"]);
        let survey = folders.survey();
        assert_eq!((survey.files, survey.devices, survey.faults.len()), (2, 2, 0), "{survey:?}");
        // A change is seen by the next container.
        fs::remove_file(folders.1.path().join("z.yaml")).unwrap();
        assert_eq!(env(&["v/c=a", "v/c=b"]), ["FILE=low", "a=low", "b=low"]);
    }

    #[test]
    fn two_files_of_one_folder_conflict_over_their_common_devices_only() {
        let folders = Folders::new();
        fs::write(folders.0.path().join("low.json"), spec("v/c", "0", &["both"], "")).unwrap();
        for name in ["a.json", "b.json", "c.json"] {
            let own = name.trim_end_matches(".json");
            fs::write(folders.1.path().join(name), spec("v/c", "1", &["both", own], "")).unwrap();
        }
        assert_eq!(folders.env(&["v/c=a"]).unwrap(), ["FILE=1", "a=1"]);
        let problem = folders.env(&["v/c=both"]).unwrap_err();
        let [a, b] = ["a.json", "b.json"].map(|name| folders.1.path().join(name).display().to_string());
        assert_eq!(problem, format!("CDI device v/c=both: both {a} and {b} have it"));
        assert_eq!(folders.survey().faults, [problem]);
    }

    #[test]
    fn a_missing_device_is_an_error_that_names_the_folders_and_the_files_that_could_not_be_used() {
        let folders = Folders::new();
        fs::write(folders.0.path().join("good.json"), spec("v/c", "1", &["a"], "")).unwrap();
        let problem = folders.env(&["v/c=a", "v/c=z"]).unwrap_err();
        let [low, high] = [&folders.0, &folders.1].map(|folder| folder.path().display().to_string());
        assert_eq!(problem, format!("CDI device v/c=z: no file in {low}, /nowhere/cdi, {high} has it"));

        for number in 0..5 {
            fs::write(folders.1.path().join(format!("{number}.json")), "{").unwrap();
        }
        let problem = folders.env(&["v/c=z"]).unwrap_err();
        assert!(problem.contains(&format!("; {high}/0.json cannot be used: EOF")), "{problem}");
        assert!(problem.ends_with("; and 2 more"), "{problem}");
        // The other files are as good as before.
        assert_eq!(folders.env(&["v/c=a"]).unwrap(), ["FILE=1", "a=1"]);
        assert_eq!(folders.survey().faults.len(), 5);
    }

    #[test]
    fn what_is_no_file_or_too_large_is_not_read() {
        let folders = Folders::new();
        let at = |name: &str| folders.0.path().join(name);
        fs::write(at("long.json"), vec![b' '; FILE_BYTES_MAX as usize + 1]).unwrap();
        fs::write(at("bytes.json"), b"\xff\xfe").unwrap();
        fs::create_dir(at("folder.json")).unwrap();
        std::os::unix::fs::symlink("/nowhere/else", at("dangling.json")).unwrap();
        let fifo = FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe.json"), fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        fs::write(folders.1.path().join("real"), spec("v/c", "1", &["a"], "")).unwrap();
        std::os::unix::fs::symlink(folders.1.path().join("real"), at("link.json")).unwrap();
        let faults = folders.survey().faults;
        let named = |name: &str, word: &str| {
            let found = faults.iter().any(|fault| fault.contains(name) && fault.contains(word));
            assert!(found, "{name}: {faults:#?}");
        };
        named("long.json", "more than 4194304 bytes");
        named("bytes.json", "UTF-8");
        named("folder.json", "not a file");
        named("dangling.json", "No such file");
        named("pipe.json", "not a file");
        assert_eq!((faults.len(), folders.env(&["v/c=a"]).unwrap().len()), (5, 2));
    }

    #[test]
    fn of_a_folder_with_too_much_in_it_nothing_is_used() {
        let folders = Folders::new();
        fs::write(folders.0.path().join("a.json"), spec("v/c", "1", &["a"], "")).unwrap();
        for number in 0..=FILES_MAX {
            fs::write(folders.1.path().join(format!("{number}.json")), "").unwrap();
        }
        assert_eq!(folders.env(&["v/c=a"]).unwrap().len(), 2);
        let faults = folders.survey().faults;
        assert!(faults.len() == 1 && faults[0].ends_with("it has more than 1000 files"), "{faults:?}");

        let large = Folders::new();
        for number in 0..=FOLDER_BYTES_MAX / FILE_BYTES_MAX {
            let path = large.0.path().join(format!("{number}.json"));
            fs::write(&path, spec("v/c", "1", &["a"], "")).unwrap();
            // Spaces after the end of the text would be read, too.
            let padding = vec![b' '; FILE_BYTES_MAX as usize - 1_000];
            io::Write::write_all(&mut File::options().append(true).open(path).unwrap(), &padding).unwrap();
        }
        assert!(large.env(&["v/c=a"]).unwrap_err().contains("more than 33554432 bytes together"));
    }

    #[test]
    fn what_pintle_does_not_do_and_what_the_host_lacks_are_errors_of_that_device() {
        let folders = Folders::new();
        let hook = r#", "hooks": [{"hookName": "createContainer", "path": "/usr/bin/hook"}]"#;
        let node = r#", "deviceNodes": [{"path": "/dev/no-such-device"}]"#;
        let made =
            r#", "deviceNodes": [{"path": "/dev/no-such-device", "type": "c", "major": 1, "minor": 3}]"#;
        let mount = r#", "mounts": [{"hostPath": "/nowhere/lib", "containerPath": "/lib/x"}]"#;
        for (name, more) in [("hook", hook), ("node", node), ("made", made), ("mount", mount)] {
            let path = folders.0.path().join(format!("{name}.json"));
            fs::write(path, spec(&format!("v/{name}"), "1", &["d"], more)).unwrap();
        }
        for (name, word) in [
            ("hook", "it needs the createContainer hook /usr/bin/hook, and pintle runs no hooks"),
            ("node", "/dev/no-such-device on this node: No such file"),
            ("mount", "/nowhere/lib on this node: No such file"),
        ] {
            let problem = folders.env(&[&format!("v/{name}=d")]).unwrap_err();
            let file = folders.0.path().join(format!("{name}.json"));
            assert!(
                problem.starts_with(&format!("CDI device v/{name}=d of {}: ", file.display())),
                "{problem}"
            );
            assert!(problem.contains(word), "{problem}");
        }
        assert_eq!(folders.env(&["v/made=d"]).unwrap().len(), 2);
        assert_eq!(folders.survey().faults.len(), 3);

        let config = Config { hooks: Hooks::Ignore, ..folders.config() };
        let edits = super::super::edits(&config, &[CdiDeviceName::parse("v/hook=d").unwrap()]).unwrap();
        assert_eq!(edits.ignored_hooks(), ["createContainer /usr/bin/hook"]);
    }
}
