//! Names of systemd's slices and of the scopes in them, and where their cgroups are. Without D-Bus.

use super::Error;

/// Longest name of a unit; bytes (systemd.unit(5)).
const NAME_BYTES_MAX: usize = 255;

/// Longest path of nested slices; bytes. The scope, the pod, a container and a file name after it must still fit
/// in the kernel's 4096 (PATH_MAX).
const PATH_BYTES_MAX: usize = 2048;

/// Ends the name of a slice.
const SUFFIX: &str = ".slice";

/// A systemd slice that exists in a tree of its own name: `a-b.slice` is in `a.slice` (systemd.slice(5)).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Slice {
    path: String,
}

impl Slice {
    /// Reads a slice's name, or the whole path of one: `a-b.slice` and `/a.slice/a-b.slice` are the same.
    ///
    /// # Errors
    /// A name that systemd would refuse, or a path that is not where that slice is.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let bad = |fault| Error::BadParent { parent: text.chars().take(NAME_BYTES_MAX).collect(), fault };
        if text.len() > PATH_BYTES_MAX {
            return Err(bad("is longer than 2048 bytes"));
        }
        let name = text.rsplit_once('/').map_or(text, |(_, name)| name);
        let stem = name.strip_suffix(SUFFIX).ok_or_else(|| bad("is not the name of a slice"))?;
        if name.len() > NAME_BYTES_MAX {
            return Err(bad("is longer than a unit's name may be (255 bytes)"));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\-".contains(&byte);
        if !stem.bytes().all(allowed) {
            return Err(bad("has a character in it that a slice's name may not have"));
        }
        if stem != "-" && stem.split('-').any(str::is_empty) {
            return Err(bad("has a part between two dashes that is empty"));
        }
        let path = path_of(stem);
        if path.len() > PATH_BYTES_MAX {
            return Err(bad("is nested too deep: its path is longer than 2048 bytes"));
        }
        if text != name && text != path {
            return Err(bad("is not the path at which systemd has a slice of that name"));
        }
        Ok(Self { path })
    }

    /// Whether it is systemd's root slice, `-.slice`.
    pub(super) fn is_root(&self) -> bool {
        self.path.is_empty()
    }

    /// Its cgroup; empty is the root.
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

/// The path that systemd derives from what is before `.slice`: one directory for each dash, and the slice's own.
fn path_of(stem: &str) -> String {
    if stem == "-" {
        return String::new();
    }
    let dashes = stem.match_indices('-').map(|(at, _)| at);
    let stems = dashes.chain([stem.len()]).filter_map(|end| stem.get(..end));
    stems.map(|stem| format!("/{}", escaped(format!("{stem}{SUFFIX}")))).collect()
}

/// systemd puts an underscore before names that could be taken for a file of the kernel's.
fn escaped(name: String) -> String {
    const CONTROLLERS: [&str; 8] = ["cpu", "cpuacct", "cpuset", "io", "blkio", "memory", "devices", "pids"];
    let of_kernel = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
    if name.starts_with(['_', '.']) || of_kernel("cgroup") || CONTROLLERS.into_iter().any(of_kernel) {
        format!("_{name}")
    } else {
        name
    }
}

/// The unit of a pod.
pub(super) fn scope_of(pod: &str) -> String {
    format!("pintle-{pod}.scope")
}

/// The slice that a scope in the cgroup `path` is in; systemd undoes its own escaping.
pub(super) fn slice_at(path: &str) -> String {
    match path.rsplit('/').next().unwrap_or_default() {
        "" => "-.slice".to_owned(),
        name => name.strip_prefix('_').unwrap_or(name).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(name: &str) -> String {
        Slice::parse(name).unwrap().path
    }

    #[test]
    fn dashes_nest() {
        assert_eq!(path("a.slice"), "/a.slice");
        assert_eq!(path("a-b.slice"), "/a.slice/a-b.slice");
        assert_eq!(
            path("kubepods-besteffort-podab_cd.slice"),
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podab_cd.slice"
        );
        assert_eq!(path("-.slice"), "");
    }

    #[test]
    fn names_of_the_kernels_are_escaped() {
        assert_eq!(path("cpu.slice"), "/_cpu.slice");
        assert_eq!(path("cpu-x.slice"), "/_cpu.slice/cpu-x.slice");
        assert_eq!(path("_x.slice"), "/__x.slice");
        assert_eq!(path("..slice"), "/_..slice");
        assert_eq!(path("cpus.slice"), "/cpus.slice");
    }

    #[test]
    fn a_whole_path_is_taken_only_if_the_slice_is_there() {
        assert_eq!(Slice::parse("/a.slice/a-b.slice").unwrap(), Slice::parse("a-b.slice").unwrap());
        for elsewhere in ["/a-b.slice", "/x/a.slice", "a.slice/a-b.slice", "/../a.slice", "/-.slice"] {
            assert!(matches!(Slice::parse(elsewhere), Err(Error::BadParent { .. })), "{elsewhere}");
        }
    }

    #[test]
    fn what_systemd_would_refuse_is_refused() {
        let long = format!("{}.slice", "x".repeat(250));
        let deep = format!("{}x.slice", "x-".repeat(120));
        for name in [
            "",
            "a",
            "a.scope",
            ".slice",
            "-a.slice",
            "a-.slice",
            "a--b.slice",
            "a b.slice",
            "a@b.slice",
            "a\0.slice",
            &long,
            &deep,
        ] {
            assert!(matches!(Slice::parse(name), Err(Error::BadParent { .. })), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn a_slice_that_is_accepted_stays_below_the_root(stem in "[a./_-]{0,12}") {
            if let Ok(slice) = Slice::parse(&format!("{stem}.slice")) {
                let names = slice.path.split('/').skip(1);
                prop_assert!(names.into_iter().all(|name| !matches!(name, "" | "." | "..")));
            }
        }
    }
}
