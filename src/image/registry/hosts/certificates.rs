//! Docker's layout of a registry's folder: `*.crt` are authorities, `*.cert` with `*.key` are client
//! certificates (docs.docker.com, "Verify repository client with certificates").

use std::path::Path;

use super::{ClientCertificate, Tls};
use crate::image::Error;

/// Files of a registry's folder that are looked at.
const FILES_MAX: usize = 1000;

/// The TLS settings of a registry from the files in `folder`.
///
/// # Errors
/// [`Error::BadHosts`]: a folder that cannot be read, and a key without its certificate, which is a file that
/// has the wrong name.
pub(super) fn read(folder: &Path) -> Result<Tls, Error> {
    let bad = |why: String| Error::BadHosts { path: folder.into(), why };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| bad(error.to_string()))? {
        let entry = entry.map_err(|error| bad(error.to_string()))?;
        if names.len() == FILES_MAX {
            return Err(bad(format!("it has more than {FILES_MAX} files")));
        }
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    let mut tls = Tls::default();
    for name in &names {
        let path = folder.join(name);
        let Some((stem, kind)) = name.rsplit_once('.') else { continue };
        let beside = |kind: &str| format!("{stem}.{kind}");
        match kind {
            "crt" => tls.ca.push(path),
            "cert" => {
                let key = beside("key");
                let key = if names.contains(&key) { folder.join(key) } else { path.clone() };
                tls.client.push(ClientCertificate { certificate: path, key });
            }
            "key" if !names.contains(&beside("cert")) => {
                return Err(bad(format!(
                    "{name} is a key without its certificate {}; authorities are *.crt, client certificates *.cert",
                    beside("cert")
                )));
            }
            _ => {}
        }
    }
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| std::fs::write(folder.path().join(name), "").unwrap());
        folder
    }

    #[test]
    fn certificates_are_told_by_the_ends_of_their_names() {
        let folder = folder(&["ca.crt", "b.crt", "client.cert", "client.key", "both.cert", "README"]);
        let path = |name: &str| folder.path().join(name);
        let tls = read(folder.path()).unwrap();
        assert_eq!(tls.ca, [path("b.crt"), path("ca.crt")]);
        let pair = |certificate: &str, key: &str| ClientCertificate {
            certificate: path(certificate),
            key: path(key),
        };
        assert_eq!(tls.client, [pair("both.cert", "both.cert"), pair("client.cert", "client.key")]);
        assert!(!tls.skip_verify);
    }

    #[test]
    fn a_key_without_a_certificate_is_an_error_that_names_it() {
        let folder = folder(&["client.crt", "client.key"]);
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("client.key is a key without its certificate client.cert"), "{error}");
    }
}
