//! TLS with one host: which certificates of it are believed, and which of ours it is shown.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use tracing::warn;

use super::hosts::{ClientCertificate, Tls};
use crate::{
    certificates::{self, Unusable},
    image::Error,
};

/// How to speak TLS with a host that has these settings. Reads their files, so that a changed certificate
/// counts at the next pull.
///
/// # Errors
/// [`Error::BadHosts`] naming the file that is no use, and why.
pub(super) fn config(tls: &Tls) -> Result<ClientConfig, Error> {
    let provider = certificates::provider();
    let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let config =
        config.map_err(|error| Error::RegistryRefused { host: "TLS".into(), why: error.to_string() })?;
    let config = if tls.skip_verify {
        let believing = Arc::new(Believing(provider.clone()));
        config.dangerous().with_custom_certificate_verifier(believing)
    } else {
        config.with_root_certificates(authorities(tls)?)
    };
    let mut config = if tls.client.is_empty() {
        config.with_no_client_auth()
    } else {
        let own = tls.client.iter().map(|files| own_certificate(files, &provider));
        let own = own.collect::<Result<_, _>>()?;
        config.with_client_cert_resolver(Arc::new(OwnCertificates(own)))
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The authorities that the machine trusts, and the host's own.
fn authorities(tls: &Tls) -> Result<RootCertStore, Error> {
    let mut store = machine().as_ref().clone();
    for path in &tls.ca {
        for certificate in certificates::read(path).map_err(unusable)? {
            store.add(certificate).map_err(|error| bad(path, &error.to_string()))?;
        }
    }
    Ok(store)
}

/// The authorities that the machine trusts. Read once: a process that trusts others is a new one. None is no
/// error: mirrors may be asked in the clear, or have an authority of their own.
fn machine() -> &'static Arc<RootCertStore> {
    static MACHINE: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.certs);
        if store.is_empty() {
            let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            warn!(
                ?errors,
                "this machine trusts no certificate authority: registries need a `ca` of their own"
            );
        }
        Arc::new(store)
    })
}

fn own_certificate(files: &ClientCertificate, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let chain = certificates::read(&files.certificate).map_err(unusable)?;
    let key = certificates::key(&files.key).map_err(unusable)?;
    let own = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            bad(&files.key, &format!("it is not the key of {}", files.certificate.display()))
        }
        other => bad(&files.key, &other.to_string()),
    })?;
    Ok(Arc::new(own))
}

fn unusable(Unusable { path, why }: Unusable) -> Error {
    Error::BadHosts { path, why }
}

fn bad(path: &Path, why: &str) -> Error {
    Error::BadHosts { path: path.into(), why: why.into() }
}

/// Our certificates for one host; it is shown the one that it can use.
#[derive(Debug)]
struct OwnCertificates(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for OwnCertificates {
    /// The first that one of the authorities which the host names has signed; else the first whose key it can
    /// check, for hosts name authorities by halves.
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = || self.0.iter().filter(|own| own.key.choose_scheme(schemes).is_some());
        usable().find(|own| signed_by_one_of(authorities, own)).or_else(|| usable().next()).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

fn signed_by_one_of(authorities: &[&[u8]], own: &CertifiedKey) -> bool {
    own.cert.iter().any(|certificate| {
        let read = webpki::EndEntityCert::try_from(certificate);
        // Their names come as a whole SEQUENCE, ours is what is in it.
        read.is_ok_and(|read| authorities.iter().any(|name| name.ends_with(read.issuer())))
    })
}

/// Believes every certificate (`skip_verify`), those of old forms included. Who may show any certificate gains
/// nothing by a signature that is not checked either.
#[derive(Debug)]
struct Believing(Arc<CryptoProvider>);

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
