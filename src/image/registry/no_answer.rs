//! Failures of requests that got no answer, or none that may be used.

use std::time::Duration;

use super::{
    address::Forbidden,
    endpoint::{Endpoint, chain},
    round::{Cure, Failure},
};
use crate::image::Error;

/// From a connection to the end of the answer's headers. To make the connection has a limit of its own.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request got no answer; `what` of the host, if it is not the registry itself.
pub(super) fn unreachable(endpoint: &Endpoint, what: &str, error: &reqwest::Error) -> Failure {
    match Forbidden::behind(error) {
        Some(forbidden) => refused(endpoint, forbidden.to_string()),
        None if error.is_timeout() => unavailable(endpoint, format!("{what}no connection in time")),
        None => unavailable(endpoint, format!("{what}{}", chain(error))),
    }
}

pub(super) fn unavailable(endpoint: &Endpoint, why: String) -> Failure {
    Failure {
        error: Error::RegistryUnavailable { host: endpoint.name(), why },
        cure: Cure::Rest,
        status: None,
    }
}

pub(super) fn refused(endpoint: &Endpoint, why: String) -> Failure {
    Error::RegistryRefused { host: endpoint.name(), why }.into()
}
