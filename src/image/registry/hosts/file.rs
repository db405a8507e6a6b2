//! `hosts.toml`, as containerd reads it (containerd, docs/hosts.md). A key that is not known is reported and
//! changes nothing else; a value of the wrong type is an error.

use std::path::Path;

use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use toml::{Table, Value};

use super::{ClientCertificate, Host, Hosts, Proxy, base, duration, upstream};
use crate::image::registry::host_name::name_of;

/// Most hosts of one file.
const HOSTS_MAX: usize = 100;

/// Reads a file's text; `folder` is the one that it is in.
pub(super) fn parse(text: &str, folder: &Path, registry: &str) -> Result<Hosts, String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| error.message().to_string())?;
    let mut reader = Reader { folder, registry, notes: Vec::new() };
    let mut hosts = Vec::new();
    let mut address = None;
    // What stands beside `server` is about the server.
    let mut settings = Table::new();
    for (key, value) in table {
        match (key.as_str(), value) {
            ("host", Value::Table(mirrors)) => {
                if mirrors.len() > HOSTS_MAX {
                    return Err(format!("it has more than {HOSTS_MAX} hosts"));
                }
                for (address, settings) in &mirrors {
                    let settings = settings.as_table().ok_or(format!("host {address:?} is no table"))?;
                    hosts.push(reader.host(Some(address), settings)?);
                }
            }
            ("server", Value::String(text)) => address = Some(text).filter(|text| !text.is_empty()),
            ("host", _) => return Err("host is no table".into()),
            ("server", _) => return Err("server is no text".into()),
            (_, value) => drop(settings.insert(key, value)),
        }
    }
    let mut server = reader.host(address.as_deref(), &settings)?;
    server.is_upstream = true;
    // containerd's own example names Docker's registry as a host and as the server.
    if !hosts.iter().any(|host: &Host| host.can_all_of(&server)) {
        hosts.push(server);
    }
    Ok(Hosts { hosts, notes: reader.notes })
}

struct Reader<'a> {
    folder: &'a Path,
    registry: &'a str,
    notes: Vec<String>,
}

impl Reader<'_> {
    /// The host at `address`, or the registry itself, with its settings.
    fn host(&mut self, address: Option<&str>, settings: &Table) -> Result<Host, String> {
        let registry = upstream(self.registry)?;
        let mut host = match address {
            Some(address) => Host::new(base(address, flag(settings, "override_path")?)?),
            None => registry.clone(),
        };
        host.is_upstream = name_of(&host.base) == name_of(&registry.base);
        host.needs_namespace = !host.is_upstream;
        for (key, value) in settings {
            let of = |why: String| format!("{key} of {:?}: {why}", name_of(&host.base));
            match key.as_str() {
                "override_path" => {}
                "skip_verify" => host.tls.skip_verify = flag(settings, "skip_verify")?,
                "capabilities" => {
                    let said = texts(value).map_err(of)?;
                    (host.resolve, host.pull) = self.capabilities(&host.base, &said);
                }
                "ca" => {
                    host.tls.ca =
                        texts(value).map_err(of)?.iter().map(|path| self.folder.join(path)).collect();
                }
                "client" => host.tls.client = self.client_certificates(value).map_err(of)?,
                "header" => host.headers = headers(value).map_err(of)?,
                "dial_timeout" => host.dial_timeout = dial_timeout(value).map_err(of)?,
                "proxy" => host.proxy = proxy(value).map_err(of)?,
                "host" | "server" => {
                    self.notes.push(format!("{key} inside of host {:?} is not read", name_of(&host.base)));
                }
                _ => self.notes.push(format!("{key} of {:?} is not known", name_of(&host.base))),
            }
        }
        Ok(host)
    }

    /// (resolve, pull). No list, or an empty one, is all.
    fn capabilities(&mut self, base: &Url, said: &[&str]) -> (bool, bool) {
        let (mut resolve, mut pull) = (said.is_empty(), said.is_empty());
        for capability in said {
            match capability.to_ascii_lowercase().as_str() {
                "resolve" => resolve = true,
                "pull" => pull = true,
                // Nothing here pushes, or looks for what refers to an image.
                "push" | "referrers" => {}
                _ => {
                    self.notes.push(format!("capability {capability:?} of {:?} is not known", name_of(base)))
                }
            }
        }
        (resolve, pull)
    }

    /// A file with certificate and key, a list of such files, or a list of pairs of files.
    fn client_certificates(&self, value: &Value) -> Result<Vec<ClientCertificate>, String> {
        let wrong = || "it is not a file, a list of files, or a list of pairs of files".to_string();
        let pair = |certificate: &str, key: &str| {
            let certificate = self.folder.join(certificate);
            let key = if key.is_empty() { certificate.clone() } else { self.folder.join(key) };
            ClientCertificate { certificate, key }
        };
        let one = |value: &Value| match value {
            Value::String(both) => Ok(pair(both, "")),
            Value::Array(files) => match files.as_slice() {
                [Value::String(certificate), Value::String(key)] => Ok(pair(certificate, key)),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        };
        match value {
            Value::String(_) => Ok(vec![one(value)?]),
            Value::Array(list) => list.iter().map(one).collect(),
            _ => Err(wrong()),
        }
    }
}

fn flag(settings: &Table, key: &str) -> Result<bool, String> {
    match settings.get(key) {
        None => Ok(false),
        Some(Value::Boolean(flag)) => Ok(*flag),
        Some(_) => Err(format!("{key} is not true or false")),
    }
}

fn texts(value: &Value) -> Result<Vec<&str>, String> {
    let wrong = || "it is not a text or a list of texts".to_string();
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(list) => list.iter().map(|text| text.as_str().ok_or_else(wrong)).collect(),
        _ => Err(wrong()),
    }
}

fn headers(value: &Value) -> Result<HeaderMap, String> {
    let table = value.as_table().ok_or("it is no table")?;
    let mut headers = HeaderMap::new();
    for (name, value) in table {
        let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header name"))?;
        for text in texts(value).map_err(|why| format!("{name}: {why}"))? {
            // The value may be a secret: it is neither shown here nor in any log.
            let mut value = HeaderValue::from_str(text).map_err(|_| format!("{name} has a bad value"))?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    Ok(headers)
}

/// A Go duration; a plain number is seconds. Zero, which in containerd is no limit, is the usual one here: a
/// host that never answers must not hold a pull for ever.
fn dial_timeout(value: &Value) -> Result<Option<std::time::Duration>, String> {
    let read = match value {
        Value::Integer(seconds) => u64::try_from(*seconds).ok().map(std::time::Duration::from_secs),
        Value::String(text) if text.is_empty() => return Ok(None),
        Value::String(text) => duration::parse(text),
        _ => None,
    };
    let duration = read.ok_or("it is no duration like \"1.5s\"")?;
    Ok(Some(duration).filter(|duration| !duration.is_zero()))
}

/// The error never shows the address, which may hold a password.
fn proxy(value: &Value) -> Result<Option<Proxy>, String> {
    let text = value.as_str().ok_or("it is no text")?;
    if text.is_empty() {
        return Ok(None);
    }
    let url = Url::parse(text).map_err(|error| format!("it is no address: {error}"))?;
    if !matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") || url.host().is_none() {
        return Err("it is no address of http, https, socks5 or socks5h".into());
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("the address of a proxy has no path, query or fragment".into());
    }
    Ok(Some(Proxy(url)))
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use super::*;

    fn read(text: &str) -> Result<Hosts, String> {
        parse(text, Path::new("/etc/hosts.d/registry.test"), "registry.test")
    }

    fn bases(hosts: &[Host]) -> Vec<&str> {
        hosts.iter().map(|host| host.base.as_str()).collect()
    }

    #[test]
    fn mirrors_come_in_the_order_of_the_file_and_the_server_last() {
        let hosts = read(
            r#"
            server = "https://upstream.test"
            [host."http://zebra.test:5000"]
              capabilities = ["PULL", "push"]
              dial_timeout = "1m1.5s"
              [host."http://zebra.test:5000".header]
                X-Key = ["a", "b"]
            [host."https://ape.test/cache"]
              ca = "ape.crt"
              skip_verify = true
              proxy = "socks5://user:canary@proxy.test:1080"
            [host."https://bee.test/a/b"]
              override_path = true
              capabilities = []
            [host."registry.test"]
            "#,
        )
        .unwrap();
        assert_eq!(hosts.notes, [""; 0]);
        assert_eq!(
            bases(&hosts.hosts),
            [
                "http://zebra.test:5000/v2",
                "https://ape.test/cache/v2",
                "https://bee.test/a/b",
                "https://registry.test/v2",
                "https://upstream.test/v2"
            ]
        );
        let [zebra, ape, bee, registry, server] = &hosts.hosts[..] else { panic!() };
        assert_eq!((zebra.resolve, zebra.pull), (false, true));
        assert_eq!((bee.resolve, bee.pull), (true, true));
        assert_eq!(zebra.dial_timeout, Some(Duration::from_millis(61_500)));
        assert_eq!(zebra.headers.get_all("x-key").iter().count(), 2);
        assert_eq!(
            (ape.tls.ca.clone(), ape.tls.skip_verify),
            (vec!["/etc/hosts.d/registry.test/ape.crt".into()], true)
        );
        assert_eq!(ape.proxy.as_ref().unwrap().0.host_str(), Some("proxy.test"));
        assert!(!format!("{ape:?}").contains("canary"), "{ape:?}");
        let found: Vec<_> = hosts.hosts.iter().map(|host| (host.is_upstream, host.needs_namespace)).collect();
        let mirror = (false, true);
        assert_eq!(found, [mirror, mirror, mirror, (true, false), (true, true)]);
        assert!(registry.is_upstream && server.is_upstream);
    }

    #[test]
    fn every_form_of_client_certificates_is_read() {
        let path = |name: &str| PathBuf::from("/etc/hosts.d/registry.test").join(name);
        let pair = |certificate: &str, key: &str| ClientCertificate {
            certificate: path(certificate),
            key: path(key),
        };
        for (text, expected) in [
            (r#""both.pem""#, vec![pair("both.pem", "both.pem")]),
            (r#"["a.pem", "/b.pem"]"#, vec![pair("a.pem", "a.pem"), pair("/b.pem", "/b.pem")]),
            (
                r#"[["a.cert", "a.key"], ["b.pem", ""]]"#,
                vec![pair("a.cert", "a.key"), pair("b.pem", "b.pem")],
            ),
            (r#"["a.pem", ["b.cert", "b.key"]]"#, vec![pair("a.pem", "a.pem"), pair("b.cert", "b.key")]),
            ("[]", vec![]),
        ] {
            let read = read(&format!("client = {text}")).unwrap();
            assert_eq!(read.hosts[0].tls.client, expected, "{text}");
        }
    }

    #[test]
    fn settings_at_the_top_are_the_servers() {
        let hosts = read("skip_verify = true\n[host.\"https://mirror.test\"]\n").unwrap().hosts;
        assert_eq!(bases(&hosts), ["https://mirror.test/v2", "https://registry.test/v2"]);
        assert_eq!([hosts[0].tls.skip_verify, hosts[1].tls.skip_verify], [false, true]);
        assert!(hosts[1].is_upstream && !hosts[1].needs_namespace);
    }

    #[test]
    fn dockers_registry_is_asked_once_under_all_its_names() {
        let text = r#"
            server = "https://docker.io"
            [host."https://registry-1.docker.io"]
              capabilities = ["pull", "resolve"]
        "#;
        let hosts = parse(text, Path::new("/etc"), "docker.io").unwrap().hosts;
        assert_eq!(bases(&hosts), ["https://registry-1.docker.io/v2"]);
        assert!(hosts[0].is_upstream && !hosts[0].needs_namespace);
        let only_pull = text.replace(", \"resolve\"", "");
        assert_eq!(parse(&only_pull, Path::new("/etc"), "docker.io").unwrap().hosts.len(), 2);
    }

    #[test]
    fn what_is_not_known_is_reported_and_changes_nothing_else() {
        let text = r#"
            colour = "red"
            capabilities = ["pull", "resolve", "fly"]
            [host."https://mirror.test"]
              dial_time = "1s"
              [host."https://mirror.test".host."https://deeper.test"]
        "#;
        let read = read(text).unwrap();
        assert_eq!(bases(&read.hosts), ["https://mirror.test/v2", "https://registry.test/v2"]);
        assert_eq!(
            read.notes,
            [
                "dial_time of \"mirror.test\" is not known",
                "host inside of host \"mirror.test\" is not read",
                "colour of \"registry.test\" is not known",
                "capability \"fly\" of \"registry.test\" is not known",
            ]
        );
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
            "[host.\"https://a\"]\ndial_timeout = \"-1s\"",
            "[host.\"https://a\"]\nheader = 1",
            "[host.\"https://a\"]\nclient = 1",
            "[host.\"https://a\"]\nclient = [[\"a\", \"b\", \"c\"]]",
            "[host.\"https://a\"]\nclient = [[\"a\"]]",
            "[host.\"https://a\"]\nproxy = \"ftp://user:canary@p\"",
            "[host.\"https://a\"]\nproxy = \"http://user:canary@p/path\"",
            "[host.\"https://a\"]\nproxy = 1",
            "[[",
        ] {
            let error = read(text).unwrap_err();
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn every_key_has_a_row_in_the_docs() {
        let docs = include_str!("../../../../docs/registries.md");
        for key in [
            "server",
            "capabilities",
            "ca",
            "client",
            "skip_verify",
            "header",
            "override_path",
            "dial_timeout",
            "proxy",
        ] {
            assert!(docs.contains(&format!("\n| `{key}` |")), "{key}");
            // The reader knows it: it is no cause for a note, whatever else is wrong with it.
            let notes = read(&format!("{key} = \"x.test\"")).map(|hosts| hosts.notes);
            assert!(notes.is_err() || notes.unwrap().iter().all(|note| !note.starts_with(key)), "{key}");
        }
        assert!(docs.contains("\n| `[host."));
    }

    #[test]
    fn no_limit_on_connecting_is_our_own_limit() {
        for text in ["\"\"", "\"0\"", "\"0s\"", "0"] {
            assert_eq!(read(&format!("dial_timeout = {text}")).unwrap().hosts[0].dial_timeout, None);
        }
    }
}
