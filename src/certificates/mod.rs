//! Files of certificates and private keys in PEM, as operators name them in configuration, and the cryptography that
//! every TLS connection of this program uses.
//!
//! Invariant: a file is read with a limit, and one that cannot be used is named with the reason.
//! Not here: whom to trust and what to show, which differs for registries (`image`), for clients of streams
//! (`streaming`) and for the command line as one of those (`cli`).

mod pem;

pub use pem::{Unusable, key, read};

use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// The implementation of ciphers, key exchanges and signatures; one for the whole program.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}
