//! The host's own settings that pods on the bridge need: forwarding. What they were is written down, for
//! `pintle network reset`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::sys::sysctl;

/// The record, below the folder of leases.
const FILE: &str = "sysctls.json";
/// A record has a line for each interface of the host at most.
const RECORD_BYTES_MAX: u64 = 1 << 20;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The settings of the host that have been changed.
#[derive(Debug)]
pub(super) struct HostSettings {
    path: PathBuf,
}

/// What was changed since the machine was started. Settings do not outlive that. Fields are only ever added.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Record {
    boot_id: String,
    /// By dotted name.
    changed: BTreeMap<String, Change>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Change {
    was: String,
    set: String,
}

impl HostSettings {
    pub(super) fn kept_in(folder: &Path) -> Self {
        Self { path: folder.join(FILE) }
    }

    /// Switches forwarding on, for the families of the pods' addresses. Blocking. Without it pods reach each other and the
    /// node, and nothing else; so a refusal is logged, not fatal.
    pub(super) fn allow_forwarding(&self, ipv4: bool, ipv6: bool) {
        if ipv4 {
            self.change("net.ipv4.ip_forward", "1");
        }
        if ipv6 && read("net.ipv6.conf.all.forwarding").is_ok_and(|value| value == "0") {
            // A router does not believe other routers, unless it is told to (`accept_ra` 2): the host would lose its own
            // default route where that is by router advertisement.
            for interface in interfaces() {
                let name = format!("net.ipv6.conf.{interface}.accept_ra");
                if read(&name).is_ok_and(|value| value == "1") {
                    self.change(&name, "2");
                }
            }
            self.change("net.ipv6.conf.all.forwarding", "1");
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts back what was changed and is still as it was set then. Gives names and values. Blocking.
    ///
    /// # Errors
    /// A record that cannot be read or removed; a setting that the kernel refuses.
    pub(super) fn restore(&self) -> io::Result<Vec<(String, String)>> {
        let mut restored = Vec::new();
        let record = self.read()?;
        // Forwarding of IPv6 goes first: it is `all`, before the interfaces by name.
        for (name, change) in &record.changed {
            if read(name).is_ok_and(|value| value == change.set) {
                sysctl::set(name, &change.was)?;
                restored.push((name.clone(), change.was.clone()));
            }
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(restored),
        }
    }

    fn change(&self, name: &str, value: &str) {
        match self.try_change(name, value) {
            Ok(false) => {}
            Ok(true) => info!(sysctl = name, value, "changed a setting of the host, for pods"),
            Err(error) => {
                warn!(sysctl = name, value, %error, "cannot change a setting of the host: pods reach only this node");
            }
        }
    }

    /// False: it was so already.
    fn try_change(&self, name: &str, value: &str) -> io::Result<bool> {
        let was = read(name)?;
        if was == value {
            return Ok(false);
        }
        let mut record = self.read().unwrap_or_else(|error| {
            warn!(path = %self.path.display(), %error, "cannot read what settings of the host were");
            Record::default()
        });
        record.boot_id = boot_id()?;
        // Written down first: who finds the record after a crash sees that the setting is not as it says.
        let change = record.changed.entry(name.into()).or_insert_with(|| Change { was, set: String::new() });
        change.set = value.into();
        let text = serde_json::to_string_pretty(&record).map_err(io::Error::other)?;
        let new = self.path.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &self.path))?;
        sysctl::set(name, value)?;
        Ok(true)
    }

    /// The record, if it is of this boot.
    fn read(&self) -> io::Result<Record> {
        let file = match fs::File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::default()),
            file => file?,
        };
        let record: Record = serde_json::from_reader(io::Read::take(file, RECORD_BYTES_MAX))?;
        Ok(if record.boot_id == boot_id()? { record } else { Record::default() })
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

fn read(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(sysctl::path(name))?.trim().to_owned())
}

/// The interfaces that have settings, as they are written in the name of one.
fn interfaces() -> Vec<String> {
    let entries = fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let own = names.filter(|name| !["all", "default", "lo"].contains(&name.as_str()));
    own.map(|name| name.replace('.', "/")).collect()
}

/// Lets the host's loopback addresses lead out by an interface of this host, for host ports on 127.0.0.1
/// (ip-sysctl, `route_localnet`). What comes in by it with such an address the firewall drops.
pub(super) fn route_loopback(interface: &str) {
    let name = format!("net.ipv4.conf.{}.route_localnet", interface.replace('.', "/"));
    if let Err(error) = sysctl::set(&name, "1") {
        warn!(sysctl = name, %error, "host ports are not reached by 127.0.0.1");
    }
}
