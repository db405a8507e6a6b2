use std::{fs, path::PathBuf};

/// Reads what the kernel says about itself.
#[derive(Debug)]
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    pub(super) fn real() -> Self {
        Self { root: "/".into() }
    }

    /// A host made of files: (path, text).
    #[cfg(test)]
    pub(super) fn fake(files: &[(&str, &str)]) -> (Self, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        (Self { root: dir.path().into() }, dir)
    }

    /// The text of a file, trimmed; `path` is relative to `/`.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// Whether kernel module `name` is there: loaded, built in, or to be loaded.
    pub(super) fn has_module(&self, name: &str) -> bool {
        let underscored = name.replace('-', "_");
        let release = self.read("proc/sys/kernel/osrelease").unwrap_or_default();
        self.has(&format!("sys/module/{underscored}"))
            || ["modules.builtin", "modules.dep"].iter().any(|list| {
                let list = self.read(&format!("lib/modules/{release}/{list}")).unwrap_or_default();
                list.lines().any(|line| {
                    let path = line.split(':').next().unwrap_or_default();
                    let file = path.rsplit('/').next().unwrap_or_default();
                    file.split(".ko").next().unwrap_or_default().replace('-', "_") == underscored
                })
            })
    }
}
