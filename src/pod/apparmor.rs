//! Which AppArmor profile a container gets, and that pintle's own is loaded when one needs it.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt as _, process::Command, sync::Mutex};
use tracing::info;

use super::{error::Error, keep::blocking};
use crate::{
    model::ContainerConfig,
    spec::{APPARMOR_DEFAULT, APPARMOR_PARSERS, apparmor, apparmor_default_text, apparmor_lists},
};

/// apparmor(7), parameters of the module.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// The profiles that are loaded, where securityfs is mounted.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// The rules that the profile is written for.
const ABI: &str = "/etc/apparmor.d/abi/3.0";

/// To compile a profile takes a tenth of a second.
const PARSER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of what a parser that fails has to say.
const WORDS_BYTES_MAX: usize = 1024;

/// AppArmor on this node, and the state of pintle's own profile there.
#[derive(Debug)]
pub(super) struct Profiles {
    /// Whether the kernel enforces profiles, which is settled when it boots.
    enabled: bool,
    /// Whether this daemon has loaded the text of its own profile, which may differ from an older release's.
    refreshed: Mutex<bool>,
}

impl Profiles {
    pub(super) fn of_this_node() -> Self {
        let enabled = fs::read(ENABLED).is_ok_and(|text| text.starts_with(b"Y"));
        Self { enabled, refreshed: Mutex::default() }
    }

    /// The profile that the container's processes run under; empty: none.
    ///
    /// # Errors
    /// [`Error::Spec`] for a profile where AppArmor is off, [`Error::AppArmor`] if pintle's own cannot be loaded. A
    /// profile of the host that is not loaded is found by the process that is to change to it.
    pub(super) async fn profile(&self, config: &ContainerConfig) -> Result<String, Error> {
        let Some(profile) = apparmor(&config.security, self.enabled)? else { return Ok(String::new()) };
        if profile == APPARMOR_DEFAULT {
            self.load().await?;
        }
        Ok(profile.to_owned())
    }

    /// Loads pintle's own profile, unless this daemon has done so and it is still there.
    async fn load(&self) -> Result<(), Error> {
        let mut refreshed = self.refreshed.lock().await;
        let is_loaded = blocking(|| fs::read_to_string(LOADED)).await;
        // Where nothing can be read the process that is to change to it finds out.
        let is_loaded = is_loaded.map_or(*refreshed, |list| apparmor_lists(&list, APPARMOR_DEFAULT));
        if *refreshed && is_loaded {
            return Ok(());
        }
        match parser() {
            Some(parser) => run(parser).await.map_err(|fault| Error::AppArmor { fault })?,
            None if is_loaded => {}
            None => {
                let fault = "apparmor_parser is not installed (package apparmor)".into();
                return Err(Error::AppArmor { fault });
            }
        }
        info!(profile = APPARMOR_DEFAULT, "AppArmor profile loaded");
        *refreshed = true;
        Ok(())
    }
}

/// The parser, if it is root's alone to change.
fn parser() -> Option<&'static str> {
    APPARMOR_PARSERS.into_iter().find(|path| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.uid() == 0 && found.mode() & 0o022 == 0)
    })
}

/// Gives the profile to the parser, in the place of one that is loaded.
async fn run(parser: &str) -> Result<(), String> {
    let failed = |error: io::Error| format!("run {parser}: {error}");
    let mut command = Command::new(parser);
    command
        .args(["--replace", "--skip-cache", "--quiet"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(failed)?;
    let text = apparmor_default_text(Path::new(ABI).exists());
    let feed = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A parser that ends before it has read all says why.
            let _ended = stdin.write_all(text.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PARSER_TIMEOUT, feed).await;
    let output =
        output.map_err(|_| format!("{parser} did not end within {PARSER_TIMEOUT:?}"))?.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let words =
        String::from_utf8_lossy(&output.stderr[..output.stderr.len().min(WORDS_BYTES_MAX)]).into_owned();
    Err(format!("{parser} failed ({}): {}", output.status, words.trim()))
}
