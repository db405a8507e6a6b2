//! Which hosts are asked for the images of a registry: containerd's `hosts.toml`, Docker's folders of
//! certificates, or the registry itself where nothing is configured.
//!
//! - `file` reads `hosts.toml`; docs/registries.md has a row for each of its keys.
//! - `certificates` reads a folder without one; `duration` reads Go's durations.

mod certificates;
mod duration;
mod file;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Url, header::HeaderMap};

use super::address;
use crate::image::Error;

/// Largest `hosts.toml`; bytes. A hundred mirrors fit many times.
const HOSTS_BYTES_MAX: u64 = 1 << 20;

/// The hosts of one registry, in the order in which they are asked.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Hosts {
    pub(super) hosts: Vec<Host>,
    /// Settings that were read and have no effect, in words; for the log.
    pub(super) notes: Vec<String>,
}

/// One place to ask, as configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Host {
    /// With the API's path (`https://mirror.test/v2`), without a slash at the end.
    pub(super) base: Url,
    /// May turn a tag into a digest.
    pub(super) resolve: bool,
    /// May give content by digest.
    pub(super) pull: bool,
    pub(super) tls: Tls,
    pub(super) headers: HeaderMap,
    /// To make a connection, TLS included.
    pub(super) dial_timeout: Option<Duration>,
    pub(super) proxy: Option<Proxy>,
    /// The registry itself, or what the operator put in its place: gets the login.
    pub(super) is_upstream: bool,
    /// Has another name than the registry, and must be told which one is meant (parameter `ns`).
    pub(super) needs_namespace: bool,
    /// The same host with TLS, when this one is only for the case that it has none.
    pub(super) instead_of: Option<Url>,
}

/// Certificates of one host.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Tls {
    /// Authorities that are trusted beside the machine's own.
    pub(super) ca: Vec<PathBuf>,
    pub(super) client: Vec<ClientCertificate>,
    pub(super) skip_verify: bool,
}

/// The certificate for a host that wants one of its clients (mutual TLS).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ClientCertificate {
    pub(super) certificate: PathBuf,
    /// May be the same file.
    pub(super) key: PathBuf,
}

/// The address of a proxy, which may have a password in it.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Proxy(pub(super) Url);

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::host_name::name_of(&self.0))
    }
}

impl Host {
    pub(super) fn new(base: Url) -> Self {
        Self {
            base,
            resolve: true,
            pull: true,
            tls: Tls::default(),
            headers: HeaderMap::new(),
            dial_timeout: None,
            proxy: None,
            is_upstream: false,
            needs_namespace: false,
            instead_of: None,
        }
    }

    /// Whether `other` can do nothing that this one cannot.
    fn can_all_of(&self, other: &Self) -> bool {
        self.base == other.base && self.resolve >= other.resolve && self.pull >= other.pull
    }
}

/// The hosts to ask for images of `registry`; the registry itself, or what stands in its place, comes last.
/// As in containerd, the first folder that is there counts alone. Blocks.
///
/// # Errors
/// [`Error::BadHosts`] for a file that is there and cannot be understood. Asking the registry instead could
/// be just what the operator meant to prevent.
pub(super) fn hosts(folder: &Path, registry: &str) -> Result<Hosts, Error> {
    for folder in candidates(folder, registry) {
        let bad = |why: String| Error::BadHosts { path: folder.clone(), why };
        match std::fs::metadata(&folder) {
            Ok(metadata) if metadata.is_dir() => return configured(&folder, registry),
            Ok(_) => return Err(bad("it is not a folder".into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(bad(error.to_string())),
        }
    }
    let upstream = upstream(registry).map_err(|why| Error::BadHosts { path: folder.into(), why })?;
    Ok(Hosts { hosts: vec![upstream], notes: Vec::new() })
}

/// For `registry.test:5000` the folder `registry.test_5000_`, for file systems without colons, or one of its
/// name; then that of all registries.
fn candidates(folder: &Path, registry: &str) -> Vec<PathBuf> {
    let mut names = Vec::new();
    if let Some((host, port)) = registry.rsplit_once(':')
        && !port.contains(']')
    {
        names.push(format!("{host}_{port}_"));
    }
    names.extend([registry.into(), "_default".into()]);
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// The hosts of one folder.
fn configured(folder: &Path, registry: &str) -> Result<Hosts, Error> {
    let path = folder.join("hosts.toml");
    let bad = |why: String| Error::BadHosts { path: path.clone(), why };
    let text = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() > HOSTS_BYTES_MAX => {
            return Err(bad(format!("it is larger than {HOSTS_BYTES_MAX} bytes")));
        }
        Ok(_) => std::fs::read_to_string(&path).map_err(|error| bad(error.to_string()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(bad(error.to_string())),
    };
    // An empty file is none (containerd).
    let mut hosts = if text.is_empty() {
        let mut upstream = upstream(registry).map_err(bad)?;
        upstream.tls = certificates::read(folder)?;
        Hosts { hosts: vec![upstream], notes: Vec::new() }
    } else {
        file::parse(&text, folder, registry).map_err(bad)?
    };
    hosts.hosts = hosts.hosts.into_iter().flat_map(with_tls_first).collect();
    Ok(hosts)
}

/// A host that is named `http` and has settings of TLS is asked with TLS first (containerd).
fn with_tls_first(host: Host) -> Vec<Host> {
    if host.base.scheme() != "http"
        || host.tls == Tls::default()
        || host.base.port_or_known_default() == Some(80)
    {
        return vec![host];
    }
    let mut secure = host.clone();
    // Of two special schemes this cannot fail.
    if secure.base.set_scheme("https").is_err() {
        return vec![host];
    }
    let plain = Host { instead_of: Some(secure.base.clone()), tls: Tls::default(), ..host };
    vec![secure, plain]
}

/// The registry where nothing is configured: `https`, but plain `http` on this machine's own addresses.
fn upstream(registry: &str) -> Result<Host, String> {
    let host = api_host(registry);
    let is_here = Url::parse(&format!("http://{host}")).is_ok_and(|url| address::is_loopback(&url));
    let scheme = if is_here && !host.ends_with(":443") { "http" } else { "https" };
    let mut host = Host::new(base(&format!("{scheme}://{host}"), false)?);
    host.is_upstream = true;
    Ok(host)
}

/// Docker's registry has another address than its name.
fn api_host(registry: &str) -> &str {
    match registry {
        "docker.io" | "index.docker.io" => "registry-1.docker.io",
        other => other,
    }
}

/// Reads the address of a registry; containerd's rule for where its API is.
fn base(address: &str, has_path: bool) -> Result<Url, String> {
    let full = if address.contains("://") { address.to_string() } else { format!("https://{address}") };
    // A user's password, which has no place here, is not shown.
    let address = address.rsplit('@').next().unwrap_or_default();
    let mut url = Url::parse(&full).map_err(|error| format!("{address:?} is no address: {error}"))?;
    let Some(host) = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https")) else {
        return Err(format!("{address:?} is neither http nor https"));
    };
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err("an address of a registry has no user, query or fragment".into());
    }
    let api = api_host(host).to_string();
    url.set_host(Some(&api)).map_err(|error| format!("{address:?} is no address: {error}"))?;
    let path = url.path().trim_end_matches('/').to_string();
    url.set_path(&if has_path || path.ends_with("/v2") { path } else { format!("{path}/v2") });
    Ok(url)
}

/// Reads the text of a `hosts.toml`, for the fuzz target.
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::image) fn fuzz(text: &str) {
    drop(file::parse(text, Path::new("/certs.d/r.test"), "r.test"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(hosts: &Hosts) -> Vec<&str> {
        hosts.hosts.iter().map(|host| host.base.as_str()).collect()
    }

    #[test]
    fn without_a_file_the_registry_itself_is_asked() {
        let none = Path::new("/nonexistent");
        for (registry, base) in [
            ("registry.test", "https://registry.test/v2"),
            ("registry.test:5000", "https://registry.test:5000/v2"),
            ("docker.io", "https://registry-1.docker.io/v2"),
            ("localhost:5000", "http://localhost:5000/v2"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
        ] {
            let hosts = hosts(none, registry).unwrap();
            assert_eq!(bases(&hosts), [base]);
            let host = &hosts.hosts[0];
            assert!(host.is_upstream && host.resolve && host.pull && !host.needs_namespace);
        }
    }

    #[test]
    fn the_first_folder_that_is_there_counts_alone() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, file: &str, text: &str| {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join(file), text).unwrap();
        };
        make("_default", "hosts.toml", "server = \"https://default.test\"");
        make("registry.test:5000", "hosts.toml", "server = \"https://colon.test\"");
        make("registry.test_5000_", "hosts.toml", "server = \"https://own.test\"");
        make("docker.test", "ca.crt", "");
        make("docker.test", "client.cert", "");
        make("empty.test", "hosts.toml", "");
        std::fs::write(folder.path().join("file.test"), "").unwrap();
        let hosts = |registry: &str| hosts(folder.path(), registry);
        assert_eq!(bases(&hosts("registry.test:5000").unwrap()), ["https://own.test/v2"]);
        assert_eq!(bases(&hosts("other.test").unwrap()), ["https://default.test/v2"]);
        // Docker's layout, which needs no hosts.toml.
        let docker = hosts("docker.test").unwrap();
        assert_eq!(bases(&docker), ["https://docker.test/v2"]);
        assert_eq!((docker.hosts[0].tls.ca.len(), docker.hosts[0].tls.client.len()), (1, 1));
        assert!(docker.hosts[0].is_upstream);
        assert_eq!(bases(&hosts("empty.test").unwrap()), ["https://empty.test/v2"]);
        let error = hosts("file.test").unwrap_err().to_string();
        assert!(error.ends_with("file.test: it is not a folder"), "{error}");
    }

    #[test]
    fn http_with_settings_of_tls_is_asked_with_tls_first() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("registry.test")).unwrap();
        let text = "[host.\"http://a.test:5000\"]\nskip_verify = true\n[host.\"http://b.test\"]\nskip_verify = true\n[host.\"http://c.test:5000\"]\n";
        std::fs::write(folder.path().join("registry.test/hosts.toml"), text).unwrap();
        let hosts = hosts(folder.path(), "registry.test").unwrap();
        assert_eq!(
            bases(&hosts),
            [
                "https://a.test:5000/v2",
                "http://a.test:5000/v2",
                "http://b.test/v2",
                "http://c.test:5000/v2",
                "https://registry.test/v2"
            ]
        );
        assert_eq!(hosts.hosts[1].instead_of.as_ref(), Some(&hosts.hosts[0].base));
        assert!(hosts.hosts.iter().skip(2).all(|host| host.instead_of.is_none()));
    }
}
