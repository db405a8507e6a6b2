//! TLS for clients: the certificate that they are served with, and the authorities of theirs.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::config::Config;
use crate::{
    certificates::{self, Unusable},
    telemetry::task,
};

/// The files of the configuration.
#[derive(Clone, Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// The marks of a file that change when it is written, or another takes its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    file: (u64, u64),
    modified: (i64, i64),
    bytes: u64,
}

/// The configuration that new clients are served with, and the marks of its files.
#[derive(Debug)]
struct Current {
    stamps: [Option<Stamp>; 3],
    config: Arc<ServerConfig>,
}

/// Makes TLS sessions of connections. The files are read again when they have changed.
#[derive(Debug)]
pub(super) struct Tls {
    files: Files,
    current: Mutex<Current>,
}

impl Tls {
    /// TLS as it is configured; `None`: clients are served in the clear.
    ///
    /// # Errors
    /// `InvalidInput`, which names the key and the file that cannot be used.
    pub(super) fn configured(config: &Config) -> io::Result<Option<Self>> {
        let (certificate, key) = match (&config.tls_certificate, &config.tls_key) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
            (None, None) if config.tls_client_ca.is_none() => return Ok(None),
            _ => {
                let text = "streaming.tls_certificate and streaming.tls_key must both be set, or none of \
                            them, without which there can be no streaming.tls_client_ca either";
                return Err(unusable(text.into()));
            }
        };
        let files = Files { certificate, key, client_ca: config.tls_client_ca.clone() };
        files.absolute()?;
        let current = Mutex::new(Current { stamps: files.stamps(), config: Arc::new(files.load()?) });
        Ok(Some(Self { files, current }))
    }

    /// Whether a client has to show a certificate.
    pub(super) fn knows_clients(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// The session of a client that has connected.
    ///
    /// # Errors
    /// When it shows no certificate where one is wanted, or breaks TLS.
    pub(super) async fn accept(self: &Arc<Self>, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let this = Arc::clone(self);
        let config = task::blocking("stream-certificates", move || this.current()).await;
        TlsAcceptor::from(config).accept(socket).await
    }

    fn current(&self) -> Arc<ServerConfig> {
        let stamps = self.files.stamps();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.stamps != stamps {
            // One of two files may have been written, and the other not yet: then both are looked at again.
            current.stamps = stamps;
            match self.files.load() {
                Ok(config) => {
                    tracing::info!("read the changed certificates of the streaming server");
                    current.config = Arc::new(config);
                }
                Err(error) => {
                    tracing::warn!(%error, "kept the old certificates of the streaming server");
                }
            }
        }
        Arc::clone(&current.config)
    }
}

impl Files {
    fn stamps(&self) -> [Option<Stamp>; 3] {
        let stamp = |path: &Path| {
            let data = fs::metadata(path).ok()?;
            let modified = (data.mtime(), data.mtime_nsec());
            Some(Stamp { file: (data.dev(), data.ino()), modified, bytes: data.len() })
        };
        [stamp(&self.certificate), stamp(&self.key), self.client_ca.as_deref().and_then(stamp)]
    }

    /// A relative path would be of whatever folder the daemon was started in.
    fn absolute(&self) -> io::Result<()> {
        let named = [("tls_certificate", Some(&self.certificate)), ("tls_key", Some(&self.key))];
        for (key, path) in named.into_iter().chain([("tls_client_ca", self.client_ca.as_ref())]) {
            if let Some(path) = path.filter(|path| !path.is_absolute()) {
                return Err(of(key, path, "it must be an absolute path"));
            }
        }
        Ok(())
    }

    fn load(&self) -> io::Result<ServerConfig> {
        let provider = certificates::provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unusable(error.to_string()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let bad = |why: String| of("tls_client_ca", path, &why);
                let mut roots = RootCertStore::empty();
                for certificate in certificates::read(path).map_err(|bad| of_file("tls_client_ca", &bad))? {
                    roots.add(certificate).map_err(|error| bad(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(|error| bad(error.to_string()))?)
            }
        };
        let chain = certificates::read(&self.certificate).map_err(|bad| of_file("tls_certificate", &bad))?;
        let key = certificates::key(&self.key).map_err(|bad| of_file("tls_key", &bad))?;
        builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let why = format!("it is not the key of {}", self.certificate.display());
                of("tls_key", &self.key, &why)
            }
            other => of("tls_certificate", &self.certificate, &other.to_string()),
        })
    }
}

/// The error of one key of the configuration, which names a file.
fn of(key: &str, path: &Path, why: &str) -> io::Error {
    unusable(format!("streaming.{key} {}: {why}", path.display()))
}

fn of_file(key: &str, bad: &Unusable) -> io::Error {
    of(key, &bad.path, &bad.why)
}

fn unusable(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> Option<PathBuf> {
        Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/image/testtls").join(name))
    }

    fn configured(
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
        ca: Option<PathBuf>,
    ) -> io::Result<Option<Tls>> {
        let config =
            Config { tls_certificate: certificate, tls_key: key, tls_client_ca: ca, ..Config::default() };
        Tls::configured(&config)
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).unwrap();
            Some(folder.path().join(name))
        };
        let (server, key) = (|| file("server.pem"), || file("server.key"));
        for (found, words) in [
            (configured(server(), None, None), "must both be set"),
            (configured(None, key(), None), "must both be set"),
            (configured(None, None, file("authority.pem")), "must both be set"),
            (configured(server(), file("client.key"), None), "client.key: it is not the key of"),
            (configured(server(), file("none"), None), "none: No such file"),
            (configured(server(), put("empty", ""), None), "empty: there is no private key in it"),
            (
                configured(server(), put("locked", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), None),
                "locked: its key is encrypted",
            ),
            (configured(key(), key(), None), "tls_certificate"),
            (configured(server(), key(), put("no-ca", "hello")), "no-ca: there is no certificate in it"),
            (configured(server(), key(), Some("authority.pem".into())), "it must be an absolute path"),
            (configured(put("large", &"x".repeat(2 << 20)), key(), None), "large: it is larger than 1048576"),
        ] {
            let text = found.unwrap_err().to_string();
            assert!(text.starts_with("streaming.tls_") && text.contains(words), "{text}");
        }
        assert!(configured(None, None, None).unwrap().is_none());
        assert!(!configured(server(), key(), None).unwrap().unwrap().knows_clients());
    }

    #[test]
    fn changed_files_are_read_again_once_they_belong_together() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("certificate"), folder.path().join("key"));
        let put = |from: &str, to: &Path| {
            // As tools do that renew certificates: the new file takes the place of the old one.
            let new = to.with_extension("new");
            fs::copy(file(from).unwrap(), &new).unwrap();
            fs::rename(new, to).unwrap();
        };
        put("server.pem", &certificate);
        put("server.key", &key);
        let tls = configured(Some(certificate.clone()), Some(key.clone()), None).unwrap().unwrap();
        let first = tls.current();
        assert!(Arc::ptr_eq(&first, &tls.current()), "nothing has changed");
        put("client.pem", &certificate);
        assert!(Arc::ptr_eq(&first, &tls.current()), "the key is not the new certificate's");
        put("client.key", &key);
        let second = tls.current();
        assert!(!Arc::ptr_eq(&first, &second));
        fs::remove_file(&key).unwrap();
        assert!(Arc::ptr_eq(&second, &tls.current()), "it is gone");
    }
}
