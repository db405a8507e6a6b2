//! The three files that all containers of a pod see: `hostname`, `resolv.conf` and `hosts`.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    net::IpAddr,
    path::Path,
};

use crate::{
    model::{Dns, NetworkMode, PodConfig},
    pod::error::Error,
};

/// Bytes of the host's own `resolv.conf` and `hosts`: far more than a resolver reads, far less than hurts.
const HOST_FILE_BYTES_MAX: u64 = 64 << 10;

/// Name servers, search domains and resolver options, each. The kubelet sends 3, 32 and a handful at most.
const DNS_ENTRIES_MAX: usize = 128;

/// Bytes of one such entry: a domain name has 253, an address far fewer.
const DNS_ENTRY_BYTES_MAX: usize = 256;

/// Bytes of a hostname (`HOST_NAME_MAX`).
const HOSTNAME_BYTES_MAX: usize = 64;

/// What the pod is called inside: what was asked for; else the host's name with the host's network, else the
/// pod's name.
pub(in crate::pod) fn hostname(config: &PodConfig) -> String {
    let name = match (config.hostname.as_str(), config.namespaces.network) {
        ("", NetworkMode::Node) => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        ("", NetworkMode::Pod) => config.metadata.name.clone(),
        (name, NetworkMode::Node | NetworkMode::Pod) => name.to_owned(),
    };
    let end = (0..=name.len().min(HOSTNAME_BYTES_MAX)).rev().find(|&at| name.is_char_boundary(at));
    name[..end.unwrap_or(0)].to_owned()
}

/// A resolv.conf(5) that says what `dns` says.
///
/// # Errors
/// [`Error::Dns`] for an entry that would break out of its line, and for too many or too long ones.
pub(in crate::pod) fn resolv_conf(dns: &Dns) -> Result<String, Error> {
    let mut text = String::new();
    let lines = [("name server", &dns.servers), ("search domain", &dns.searches), ("option", &dns.options)];
    for (what, entries) in lines {
        if entries.len() > DNS_ENTRIES_MAX {
            let fault = format!("{} entries are over the limit of {DNS_ENTRIES_MAX}", entries.len());
            return Err(Error::Dns { what, fault });
        }
        if let Some(bad) = entries.iter().find(|entry| !fits_a_line(entry)) {
            return Err(Error::Dns { what, fault: format!("{bad:?} is not one word") });
        }
    }
    if !dns.searches.is_empty() {
        // Writing to a String cannot fail.
        let _written = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _written = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _written = writeln!(text, "options {}", dns.options.join(" "));
    }
    Ok(text)
}

fn fits_a_line(entry: &str) -> bool {
    let word = entry.chars().all(|c| !c.is_whitespace() && !c.is_control());
    word && !entry.is_empty() && entry.len() <= DNS_ENTRY_BYTES_MAX
}

/// A hosts(5) that knows the pod itself. The kubelet mounts its own over it.
pub(in crate::pod) fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for address in addresses {
        let _written = writeln!(text, "{address}\t{hostname}");
    }
    text
}

/// Writes the three into the pod's folder, from which its supervisor copies them to where containers see them.
/// Blocking.
///
/// # Errors
/// A bad DNS entry, or what the file system says.
pub(in crate::pod) fn write(folder: &Path, config: &PodConfig, addresses: &[IpAddr]) -> Result<(), Error> {
    let name = hostname(config);
    let resolv = match &config.dns {
        Some(dns) if *dns != Dns::default() => resolv_conf(dns)?,
        Some(_) | None => host_file(Path::new("/etc/resolv.conf"))?,
    };
    let hosts = match config.namespaces.network {
        NetworkMode::Pod => hosts(&name, addresses),
        NetworkMode::Node => match host_file(Path::new("/etc/hosts"))? {
            text if text.is_empty() => hosts(&name, addresses),
            text => text,
        },
    };
    for (file, text) in [("hostname", format!("{name}\n")), ("resolv.conf", resolv), ("hosts", hosts)] {
        let path = folder.join(file);
        std::fs::write(&path, text).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

/// A file of the host, cut at the limit; one that is missing is empty.
fn host_file(path: &Path) -> Result<String, Error> {
    let read = || -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(path)?.take(HOST_FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(Error::io("read", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(servers: &[&str], searches: &[&str], options: &[&str]) -> Dns {
        let own = |all: &[&str]| all.iter().map(|&s| s.to_owned()).collect();
        Dns { servers: own(servers), searches: own(searches), options: own(options) }
    }

    #[test]
    fn resolv_conf_says_what_was_asked() {
        let text = resolv_conf(&dns(&["10.0.0.10", "fd00::a"], &["a.local", "b"], &["ndots:5"])).unwrap();
        assert_eq!(text, "search a.local b\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5\n");
        assert_eq!(resolv_conf(&dns(&["10.0.0.10"], &[], &[])).unwrap(), "nameserver 10.0.0.10\n");
    }

    #[test]
    fn an_entry_cannot_bring_a_line_of_its_own() {
        let long = "x".repeat(DNS_ENTRY_BYTES_MAX + 1);
        for bad in ["1.1.1.1\nnameserver 6.6.6.6", "a b", "", "a\0", &long] {
            assert!(matches!(resolv_conf(&dns(&[bad], &[], &[])), Err(Error::Dns { .. })), "{bad:?}");
            assert!(matches!(resolv_conf(&dns(&[], &[bad], &[])), Err(Error::Dns { .. })), "{bad:?}");
            assert!(matches!(resolv_conf(&dns(&[], &[], &[bad])), Err(Error::Dns { .. })), "{bad:?}");
        }
        let many = vec!["a"; DNS_ENTRIES_MAX + 1];
        assert!(matches!(resolv_conf(&dns(&[], &many, &[])), Err(Error::Dns { .. })));
    }

    #[test]
    fn hosts_names_every_address_of_the_pod() {
        let text = hosts("web", &["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()]);
        assert_eq!(
            text,
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.2.3\tweb\nfd00::3\tweb\n"
        );
    }

    #[test]
    fn a_pod_without_a_hostname_is_called_by_its_name_and_never_too_long() {
        let mut config = PodConfig::default();
        config.metadata.name = "ü".repeat(40);
        assert_eq!(hostname(&config), "ü".repeat(32));
        config.hostname = "given".into();
        assert_eq!(hostname(&config), "given");
        config.hostname.clear();
        config.namespaces.network = NetworkMode::Node;
        assert_eq!(hostname(&config), rustix::system::uname().nodename().to_str().unwrap());
    }

    #[test]
    fn the_three_files_say_what_was_asked() {
        let folder = tempfile::tempdir().unwrap();
        let config = PodConfig {
            hostname: "web".into(),
            dns: Some(dns(&["1.1.1.1"], &[], &[])),
            ..Default::default()
        };
        write(folder.path(), &config, &["10.0.0.9".parse().unwrap()]).unwrap();
        let read = |file: &str| std::fs::read_to_string(folder.path().join(file)).unwrap();
        assert_eq!(read("hostname"), "web\n");
        assert_eq!(read("resolv.conf"), "nameserver 1.1.1.1\n");
        assert!(read("hosts").ends_with("10.0.0.9\tweb\n"));
    }

    proptest::proptest! {
        #[test]
        fn a_resolv_conf_has_one_line_for_each_server_and_two_more_at_most(
            servers: Vec<String>, searches: Vec<String>, options: Vec<String>
        ) {
            let asked = Dns { servers, searches, options };
            if let Ok(text) = resolv_conf(&asked) {
                let more = usize::from(!asked.searches.is_empty()) + usize::from(!asked.options.is_empty());
                proptest::prop_assert_eq!(text.lines().count(), asked.servers.len() + more);
            }
        }
    }
}
