//! TLS with the daemon's streaming server: how it is known, and how this command makes itself known.

use std::{io, path::PathBuf, sync::Arc};

use clap::Args;
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    certificates::{self, Unusable},
    streaming,
};

/// A TLS session with the streaming server.
pub(super) type Connection = TlsStream<TcpStream>;

/// Files of the command line, which are named as crictl names them.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Files {
    /// Authorities that may have signed the certificate of the daemon's streaming server; needed only where the
    /// configuration does not name that certificate
    #[arg(long = "tls-ca", value_name = "FILE")]
    authorities: Option<PathBuf>,
    /// Certificate to show to the streaming server, where it has tls_client_ca
    #[arg(long = "tls-cert", value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long = "tls-key", value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

/// The certificates that a TLS session with the streaming server is made with.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    files: Files,
    /// The server's own certificate, as the configuration of this host names it.
    served: Option<PathBuf>,
}

/// Why there is no TLS session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "streams are served over TLS, and the configuration does not name the certificate: give --tls-ca FILE, or \
         --config FILE as the daemon has it"
    )]
    Unknown,
    #[error(transparent)]
    File(#[from] Unusable),
    #[error("{0}")]
    Unfit(rustls::Error),
    #[error("the address {0:?} can have no certificate")]
    Name(String),
    #[error("the daemon's certificate is not the one in {}", .0.display())]
    Other(PathBuf),
    #[error("TLS with the daemon")]
    Handshake(#[source] io::Error),
}

impl Trust {
    /// The certificates that the command line gives, and the one that `config` gives the daemon.
    pub(super) fn new(files: Files, config: &streaming::Config) -> Self {
        Self { files, served: config.tls_certificate.clone() }
    }

    /// A TLS session with the server at `host`, over a connection to it.
    ///
    /// # Errors
    /// When a file cannot be used, or the server is another one. That it refuses this client is seen only when it is
    /// spoken to, for TLS 1.3 has it so.
    pub(super) async fn connect(&self, host: &str, stream: TcpStream) -> Result<Connection, Error> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|_| Error::Name(host.to_owned()))?;
        let connector = TlsConnector::from(Arc::new(self.config()?));
        connector.connect(name, stream).await.map_err(|error| match (&self.served, tls_error(&error)) {
            (Some(path), Some(rustls::Error::InvalidCertificate(_))) if self.files.authorities.is_none() => {
                Error::Other(path.clone())
            }
            _ => Error::Handshake(error),
        })
    }

    fn config(&self) -> Result<ClientConfig, Error> {
        let provider = certificates::provider();
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(Error::Unfit)?;
        let config = match (&self.files.authorities, &self.served) {
            (Some(path), _) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates::read(path)? {
                    roots.add(certificate).map_err(Error::Unfit)?;
                }
                config.with_root_certificates(roots)
            }
            (None, Some(path)) => {
                let known = certificates::read(path)?.swap_remove(0);
                let verifier = Arc::new(Known { certificate: known, provider });
                config.dangerous().with_custom_certificate_verifier(verifier)
            }
            (None, None) => return Err(Error::Unknown),
        };
        match (&self.files.certificate, &self.files.key) {
            (Some(certificate), Some(key)) => {
                let (chain, key) = (certificates::read(certificate)?, certificates::key(key)?);
                config.with_client_auth_cert(chain, key).map_err(Error::Unfit)
            }
            _ => Ok(config.with_no_client_auth()),
        }
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Whether the server has closed the connection because this client showed no certificate, or none that it knows.
pub(super) fn is_refusal_of_client(error: &io::Error) -> bool {
    use AlertDescription::{BadCertificate, CertificateRequired, DecryptError, UnknownCA};
    matches!(
        tls_error(error),
        Some(rustls::Error::AlertReceived(CertificateRequired | BadCertificate | UnknownCA | DecryptError))
    )
}

/// Believes one certificate, whatever name and dates are in it: the file that the daemon serves it from is on this
/// host. The server has to prove that it has the key.
#[derive(Debug)]
struct Known {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
