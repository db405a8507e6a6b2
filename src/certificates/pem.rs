//! PEM files, read into certificates and keys.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// Bytes of a file of certificates, or of a key. All authorities of the web together are a quarter of it.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// A file that cannot be used, and why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct Unusable {
    pub path: PathBuf,
    pub why: String,
}

/// The certificates in a file, at least one, in their order.
///
/// # Errors
/// When it cannot be read, is too large, or has no certificate or a broken one.
pub fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let pem = bytes(path)?;
    match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(path, "there is no certificate in it")),
        Err(error) => Err(unusable(path, &format!("it is no PEM file: {error}"))),
    }
}

/// The first private key in a file.
///
/// # Errors
/// When it cannot be read, is too large, or has no key that can be read without a password.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Unusable> {
    let pem = bytes(path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        let locked = pem.windows(9).any(|word| word == b"ENCRYPTED");
        unusable(path, if locked { "its key is encrypted" } else { "there is no private key in it" })
    })
}

fn bytes(path: &Path) -> Result<Vec<u8>, Unusable> {
    let failed = |error: std::io::Error| unusable(path, &error.to_string());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > PEM_BYTES_MAX {
        return Err(unusable(path, &format!("it is larger than {PEM_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn unusable(path: &Path, why: &str) -> Unusable {
    Unusable { path: path.into(), why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/image/testtls").join(name)
    }

    #[test]
    fn certificates_and_keys_are_read_also_from_one_file() {
        assert_eq!(read(&made("server.pem")).unwrap().len(), 1);
        assert_eq!(read(&made("client-both.pem")).unwrap(), read(&made("client.pem")).unwrap());
        assert_eq!(key(&made("client-both.pem")).unwrap(), key(&made("client.key")).unwrap());
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        let large = put("large", &"x".repeat(2 << 20));
        let broken = put("broken", "-----BEGIN CERTIFICATE-----\nnot base64\n-----END CERTIFICATE-----\n");
        let locked = put("locked", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n");
        for (unusable, words) in [
            (read(&made("none")).unwrap_err(), "none: No such file"),
            (read(&made("server.key")).unwrap_err(), "server.key: there is no certificate in it"),
            (read(&broken).unwrap_err(), "broken: it is no PEM file"),
            (read(&large).unwrap_err(), "large: it is larger than 1048576 bytes"),
            (key(&large).unwrap_err(), "large: it is larger than 1048576 bytes"),
            (key(&made("server.pem")).unwrap_err(), "server.pem: there is no private key in it"),
            (key(&locked).unwrap_err(), "locked: its key is encrypted"),
        ] {
            assert!(unusable.to_string().contains(words), "{unusable}");
        }
    }
}
