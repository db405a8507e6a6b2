use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use toml::{Table, Value};
use tracing::warn;

use crate::image::Error;

/// Largest `hosts.toml`; bytes. A hundred mirrors fit many times.
const HOSTS_BYTES_MAX: u64 = 1 << 20;

/// One place to ask, as configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Host {
    /// With the API's path (`https://mirror.test/v2`), without a slash at the end.
    pub(super) base: Url,
    /// May turn a tag into a digest.
    pub(super) resolve: bool,
    /// May give content by digest.
    pub(super) pull: bool,
    pub(super) ca: Vec<PathBuf>,
    pub(super) skip_verify: bool,
    pub(super) headers: HeaderMap,
    pub(super) dial_timeout: Option<Duration>,
    /// The registry itself: gets the login, and no `ns` parameter.
    pub(super) is_upstream: bool,
}

/// The places to ask for images of `registry`, in order; the registry itself comes last.
///
/// # Errors
/// [`Error::BadHosts`] for a file that is there and cannot be understood. Asking the registry instead could
/// be just what the operator meant to prevent.
pub(super) fn hosts(folder: &Path, registry: &str) -> Result<Vec<Host>, Error> {
    for path in candidates(folder, registry) {
        let bad = |why: String| Error::BadHosts { path: path.clone(), why };
        let length = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(bad(error.to_string())),
        };
        if length > HOSTS_BYTES_MAX {
            return Err(bad(format!("it is larger than {HOSTS_BYTES_MAX} bytes")));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| bad(error.to_string()))?;
        return parse(&text, &path, registry).map_err(bad);
    }
    Ok(vec![upstream(registry).map_err(|why| Error::BadHosts { path: folder.into(), why })?])
}

/// `registry.test:5000` may be a folder of that name or, for file systems without colons, `registry.test_5000_`.
fn candidates(folder: &Path, registry: &str) -> Vec<PathBuf> {
    let mut names = vec![registry.to_string()];
    if let Some((host, port)) = registry.rsplit_once(':') {
        names.push(format!("{host}_{port}_"));
    }
    names.push("_default".into());
    names.into_iter().map(|name| folder.join(name).join("hosts.toml")).collect()
}

fn parse(text: &str, path: &Path, registry: &str) -> Result<Vec<Host>, String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| error.message().to_string())?;
    let folder = path.parent().unwrap_or(path);
    let mut found = Vec::new();
    let mut last = upstream(registry)?;
    let mut settings = Table::new();
    for (key, value) in &table {
        match (key.as_str(), value) {
            ("host", Value::Table(hosts)) => {
                for (address, settings) in hosts {
                    let Value::Table(settings) = settings else {
                        return Err(format!("host {address:?} is no table"));
                    };
                    found.push(configured(address, settings, folder, false)?);
                }
            }
            ("server", Value::String(address)) => last.base = base(address, false)?,
            ("host" | "server", _) => return Err(format!("{key} has the wrong type")),
            // What stands beside `server` is about the server.
            (key, value) => drop(settings.insert(key.into(), value.clone())),
        }
    }
    if table.contains_key("server") || !settings.is_empty() {
        let address = table.get("server").and_then(Value::as_str).unwrap_or(last.base.as_str()).to_string();
        let server = configured(&address, &settings, folder, table.get("server").is_none())?;
        let is_upstream = true;
        last = Host { is_upstream, ..server };
    }
    found.push(last);
    Ok(found)
}

/// The registry where nothing is configured: `https`, but plain `http` on this machine's own addresses.
fn upstream(registry: &str) -> Result<Host, String> {
    let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    let scheme = if is_loopback_authority(host) && !host.ends_with(":443") { "http" } else { "https" };
    let base = base(&format!("{scheme}://{host}"), false)?;
    let mut host = configured(base.as_str(), &Table::new(), Path::new("/"), true)?;
    host.is_upstream = true;
    Ok(host)
}

fn configured(address: &str, settings: &Table, folder: &Path, has_path: bool) -> Result<Host, String> {
    let flag = |key: &str| match settings.get(key) {
        None => Ok(false),
        Some(Value::Boolean(flag)) => Ok(*flag),
        Some(_) => Err(format!("{key} of {address:?} is not true or false")),
    };
    let mut host = Host {
        base: base(address, has_path || flag("override_path")?)?,
        resolve: true,
        pull: true,
        ca: Vec::new(),
        skip_verify: flag("skip_verify")?,
        headers: HeaderMap::new(),
        dial_timeout: None,
        is_upstream: false,
    };
    for (key, value) in settings {
        match key.as_str() {
            "override_path" | "skip_verify" => {}
            "capabilities" => {
                let capabilities = texts(key, value)?;
                host.resolve = capabilities.contains(&"resolve");
                host.pull = capabilities.contains(&"pull");
            }
            "ca" => host.ca = texts(key, value)?.into_iter().map(|path| folder.join(path)).collect(),
            "header" => host.headers = headers(value)?,
            "dial_timeout" => host.dial_timeout = Some(duration(value)?),
            other => warn!(host = address, key = other, "a setting in hosts.toml is not known and ignored"),
        }
    }
    Ok(host)
}

/// Reads the address of a registry; containerd's rule for where its API is.
fn base(address: &str, has_path: bool) -> Result<Url, String> {
    let full = if address.contains("://") { address.to_string() } else { format!("https://{address}") };
    let mut url = Url::parse(&full).map_err(|error| format!("{address:?} is no address: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(format!("{address:?} is neither http nor https"));
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err("an address of a registry has no user, query or fragment".into());
    }
    let path = url.path().trim_end_matches('/').to_string();
    url.set_path(&if has_path || path.ends_with("/v2") { path } else { format!("{path}/v2") });
    Ok(url)
}

fn texts<'a>(key: &str, value: &'a Value) -> Result<Vec<&'a str>, String> {
    let wrong = || format!("{key} is not a text or a list of texts");
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(list) => list.iter().map(|text| text.as_str().ok_or_else(wrong)).collect(),
        _ => Err(wrong()),
    }
}

fn headers(value: &Value) -> Result<HeaderMap, String> {
    let table = value.as_table().ok_or("header is no table")?;
    let mut headers = HeaderMap::new();
    for (name, value) in table {
        let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header name"))?;
        for text in texts(name.as_str(), value)? {
            // The value may be a secret: it is neither shown here nor in any log.
            let mut value =
                HeaderValue::from_str(text).map_err(|_| format!("header {name} has a bad value"))?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    Ok(headers)
}

/// `10s`, `500ms`, `1m30s`, as Go writes durations; a plain number is seconds.
fn duration(value: &Value) -> Result<Duration, String> {
    let wrong = || "dial_timeout is no duration like \"10s\"".to_string();
    if let Some(seconds) = value.as_integer() {
        return u64::try_from(seconds).map(Duration::from_secs).map_err(|_| wrong());
    }
    let mut rest = value.as_str().ok_or_else(wrong)?;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |next| digits + next);
        let one = match &rest[digits..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        total = one.checked_mul(number).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[unit..];
    }
    if total.is_zero() { Err(wrong()) } else { Ok(total) }
}

/// Whether `host[:port]` is this machine.
fn is_loopback_authority(authority: &str) -> bool {
    Url::parse(&format!("http://{authority}")).is_ok_and(|url| is_loopback(&url))
}

/// Whether an address is this machine's own.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(host) => {
            let text = host.to_string();
            let text = text.trim_start_matches('[').trim_end_matches(']');
            text == "localhost" || text.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Host>, String> {
        parse(text, Path::new("/etc/hosts.d/registry.test/hosts.toml"), "registry.test")
    }

    fn bases(hosts: &[Host]) -> Vec<&str> {
        hosts.iter().map(|host| host.base.as_str()).collect()
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
            assert!(hosts[0].is_upstream && hosts[0].resolve && hosts[0].pull);
        }
    }

    #[test]
    fn mirrors_come_in_the_order_of_the_file_and_the_server_last() {
        let hosts = read(
            r#"
            server = "https://upstream.test"
            [host."http://zebra.test:5000"]
              capabilities = ["pull"]
              dial_timeout = "1m500ms"
              [host."http://zebra.test:5000".header]
                X-Key = ["a", "b"]
            [host."https://ape.test/cache"]
              ca = "ape.crt"
              skip_verify = true
              client = [["a", "b"]]
            [host."https://bee.test/a/b"]
              override_path = true
            "#,
        )
        .unwrap();
        assert_eq!(
            bases(&hosts),
            [
                "http://zebra.test:5000/v2",
                "https://ape.test/cache/v2",
                "https://bee.test/a/b",
                "https://upstream.test/v2"
            ]
        );
        let [zebra, ape, _, server] = &hosts[..] else { panic!() };
        assert_eq!((zebra.resolve, zebra.pull), (false, true));
        assert_eq!(zebra.dial_timeout, Some(Duration::from_millis(60_500)));
        assert_eq!(zebra.headers.get_all("x-key").iter().count(), 2);
        assert_eq!(
            (ape.ca.clone(), ape.skip_verify),
            (vec!["/etc/hosts.d/registry.test/ape.crt".into()], true)
        );
        assert!(server.is_upstream && !zebra.is_upstream);
    }

    #[test]
    fn settings_at_the_top_are_the_servers() {
        let hosts = read("skip_verify = true\n[host.\"https://mirror.test\"]\n").unwrap();
        assert_eq!(bases(&hosts), ["https://mirror.test/v2", "https://registry.test/v2"]);
        assert_eq!([hosts[0].skip_verify, hosts[1].skip_verify], [false, true]);
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        for text in [
            "server = 1",
            "server = \"ftp://a\"",
            "server = \"https://user:pass@a\"",
            "host = 1",
            "[host.\"https://a\"]\ncapabilities = 1",
            "[host.\"https://a\"]\nskip_verify = \"yes\"",
            "[host.\"https://a\"]\ndial_timeout = \"soon\"",
            "[host.\"https://a\"]\nheader = 1",
            "[[",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_folder_of_a_registry_goes_before_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, server: &str| {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("hosts.toml"), format!("server = \"{server}\""))
                .unwrap();
        };
        write("_default", "https://default.test");
        write("registry.test_5000_", "https://own.test");
        let base = |registry: &str| hosts(folder.path(), registry).unwrap()[0].base.to_string();
        assert_eq!(base("registry.test:5000"), "https://own.test/v2");
        assert_eq!(base("other.test"), "https://default.test/v2");
    }
}
