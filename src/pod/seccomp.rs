//! Which system call filter a container gets, and the profiles that the host keeps in files.

use std::{
    fs::File,
    io::{self, Read},
    path::{Component, Path},
    time::Duration,
};

use rustix::fs::{FileType, Mode, OFlags};
use tracing::warn;

use super::{
    error::{Error, chain},
    keep::blocking,
};
use crate::{
    model::{ContainerConfig, SeccompChoice},
    spec::{self, seccomp::Filter},
};

/// Bytes of a Localhost profile. Docker's default profile, a large one, has 15 KiB.
const PROFILE_BYTES_MAX: u64 = 1 << 20;

/// A profile may lie on a file system that does not answer. The create fails then, and only it.
const PROFILE_TIMEOUT: Duration = Duration::from_secs(10);

/// The filter that the container asks for; `None` is "no filter".
///
/// # Errors
/// A Localhost profile that is missing, no plain file, too long, late or not a profile.
pub(super) async fn filter(config: &ContainerConfig) -> Result<Option<Filter>, Error> {
    match &config.security.seccomp {
        _ if config.security.privileged => Ok(None),
        SeccompChoice::Unconfined | SeccompChoice::Unsaid => Ok(None),
        SeccompChoice::RuntimeDefault => {
            let program = spec::seccomp::default(spec::capabilities(config)?);
            Ok(Some(Filter { program, flags: 0, unknown_keys: Vec::new() }))
        }
        SeccompChoice::Localhost(path) => compile(path, &profile(path).await?, config).map(Some),
    }
}

/// The one place that knows how a profile becomes a program. Which calls a profile allows depends on the
/// capabilities that the process will have.
fn compile(name: &str, json: &[u8], config: &ContainerConfig) -> Result<Filter, Error> {
    let bad =
        |error: &dyn std::error::Error| Error::SeccompProfile { profile: name.into(), fault: chain(error) };
    let filter = spec::seccomp::from_json(json, spec::capabilities(config)?, kernel_version());
    let filter = filter.map_err(|error| bad(&error))?;
    if !filter.unknown_keys.is_empty() {
        let (container, keys) = (&config.metadata.name, filter.unknown_keys.join(", "));
        warn!(container, keys, "keys of a seccomp profile are not known and have no effect");
    }
    Ok(filter)
}

/// Major and minor version of the running kernel; 0.0 if it says none.
fn kernel_version() -> (u32, u32) {
    version_of(&rustix::system::uname().release().to_string_lossy())
}

fn version_of(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

async fn profile(path: &str) -> Result<Vec<u8>, Error> {
    let profile = || path.to_owned();
    let bad = |fault: &str| Error::SeccompProfile { profile: profile(), fault: fault.into() };
    let owned = Path::new(path).to_owned();
    let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    if !owned.is_absolute() || !owned.components().all(plain) {
        return Err(bad("the path must be absolute, without `..`"));
    }
    match tokio::time::timeout(PROFILE_TIMEOUT, blocking(move || read(&owned))).await {
        Err(_) => Err(Error::SeccompLate { profile: profile() }),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => Err(bad(&error.to_string())),
        Ok(Err(source)) => Err(Error::SeccompFile { profile: profile(), source }),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(invalid("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(PROFILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > PROFILE_BYTES_MAX {
        return Err(invalid("it is longer than 1 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_profile_is_a_plain_file_of_bounded_size_at_an_absolute_path() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("good"), "{}").unwrap();
        std::fs::write(at("long"), vec![b' '; PROFILE_BYTES_MAX as usize + 1]).unwrap();
        std::os::unix::fs::symlink(at("good"), at("link")).unwrap();
        assert_eq!(profile(&at("good")).await.unwrap(), b"{}");
        for bad in
            [at("long"), at("link"), at("absent"), at(""), at("x/../good"), "good".into(), String::new()]
        {
            assert!(profile(&bad).await.is_err(), "{bad}");
        }
    }

    #[test]
    fn a_kernel_tells_its_version_in_its_own_way() {
        for (release, version) in [
            ("6.18.5", (6, 18)),
            ("5.14.0-427.el9.x86_64", (5, 14)),
            ("6.1-rc3+", (6, 1)),
            ("odd", (0, 0)),
            ("", (0, 0)),
        ] {
            assert_eq!(version_of(release), version, "{release}");
        }
        assert!(kernel_version() > (5, 0));
    }

    #[tokio::test]
    async fn a_privileged_or_unconfined_container_has_no_filter() {
        let mut config = ContainerConfig::default();
        config.security.seccomp = SeccompChoice::Unconfined;
        assert!(filter(&config).await.unwrap().is_none());
        config.security.seccomp = SeccompChoice::RuntimeDefault;
        config.security.privileged = true;
        assert!(filter(&config).await.unwrap().is_none());
    }
}
