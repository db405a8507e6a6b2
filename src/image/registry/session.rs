//! The conversation of one pull with the hosts of a registry.

use std::sync::{Arc, Mutex};

use reqwest::{Method, StatusCode};
use tokio::sync::mpsc;

use super::{
    endpoint::{Endpoint, Registries},
    exchange::{Asker, Request},
    no_answer::refused,
    refusal,
    round::{Failure, Round},
    transfer::{Transfer, check_size, length, read_body},
};
use crate::{
    failpoint,
    image::{
        Config, Error,
        content::Chunk,
        document::{self, Blob},
        reference::{Reference, Target},
        secret::Login,
    },
    model::Digest,
};

/// One pull's conversation with a registry and its mirrors.
#[derive(Debug)]
pub(in crate::image) struct Session {
    asker: Asker,
    registries: Arc<Registries>,
    endpoints: Vec<Endpoint>,
}

/// The capability that a host must have for a request.
#[derive(Clone, Copy, Debug)]
enum Skill {
    Resolve,
    Pull,
}

impl Skill {
    fn of(target: &Target) -> Self {
        match target {
            Target::Tag(_) => Self::Resolve,
            Target::Digest(_) => Self::Pull,
        }
    }
}

impl Session {
    /// Reads which hosts to ask; blocks.
    ///
    /// # Errors
    /// [`Error::BadHosts`].
    pub(in crate::image) fn open(
        registries: &Arc<Registries>,
        config: &Config,
        reference: &Reference,
        login: Login,
    ) -> Result<Self, Error> {
        let asker = Asker {
            reference: reference.clone(),
            login,
            trusted: config.token_hosts.clone(),
            authorizations: Mutex::default(),
        };
        let endpoints = registries.endpoints(&config.registry_config_dir, &reference.host)?;
        Ok(Self { asker, registries: registries.clone(), endpoints })
    }

    /// The digest that the reference has now, if a host names it without sending the manifest. No answer is no error: the
    /// manifest itself is asked for next, and that answer counts.
    pub(in crate::image) async fn head(&self, target: &Target) -> Option<Digest> {
        let path = manifest_path(target);
        let request = Request {
            method: Method::HEAD,
            path: &path,
            accept: Some(document::ACCEPT),
            from: 0,
            follow: true,
        };
        let mut round = self.round(Skill::of(target)).once();
        while let Some(endpoint) = round.next().await {
            match self.asker.ask(endpoint, &request).await {
                Ok(response) => {
                    round.answered(endpoint);
                    let said = response.headers().get("docker-content-digest").map(|digest| digest.to_str());
                    return match (said, target) {
                        (Some(said), _) => Digest::parse(said.ok()?).ok(),
                        // It gives by digest nothing else.
                        (None, Target::Digest(digest)) => Some(digest.clone()),
                        (None, Target::Tag(_)) => None,
                    };
                }
                Err(failure) => round.failed(endpoint, failure, false),
            }
        }
        None
    }

    /// A manifest or index, and its digest: the one that was asked for, or that of what the tag gave.
    pub(in crate::image) async fn manifest(&self, target: &Target) -> Result<(Vec<u8>, Digest), Error> {
        let path = manifest_path(target);
        let request = Request {
            method: Method::GET,
            path: &path,
            accept: Some(document::ACCEPT),
            from: 0,
            follow: true,
        };
        let got =
            self.document(Skill::of(target), &request, "manifest", document::MANIFEST_BYTES_MAX, |bytes| {
                let digest = document::digest_of(bytes);
                match target {
                    Target::Digest(expected) if *expected != digest => {
                        Err((expected, format!("it sent {digest}")))
                    }
                    _ => Ok(()),
                }
            });
        let bytes = got.await?;
        failpoint!("image.manifest-fetched");
        let digest = document::digest_of(&bytes);
        Ok((bytes, digest))
    }

    /// A small blob, whole and verified.
    pub(in crate::image) async fn small_blob(&self, blob: &Blob, bytes_max: u64) -> Result<Vec<u8>, Error> {
        if blob.size > bytes_max {
            return Err(Error::Limit { what: "image config", limit: bytes_max });
        }
        let path = format!("blobs/{}", blob.digest);
        let request = Request { method: Method::GET, path: &path, accept: None, from: 0, follow: true };
        let got = self.document(Skill::Pull, &request, "image config", bytes_max, |bytes| {
            let digest = document::digest_of(bytes);
            if bytes.len() as u64 == blob.size && digest == blob.digest {
                return Ok(());
            }
            Err((&blob.digest, format!("it sent {} bytes of {digest}", bytes.len())))
        });
        got.await
    }

    /// A document from the first host that has it as it should be.
    async fn document<'a>(
        &self,
        skill: Skill,
        request: &Request<'_>,
        what: &'static str,
        bytes_max: u64,
        check: impl Fn(&[u8]) -> Result<(), (&'a Digest, String)>,
    ) -> Result<Vec<u8>, Error> {
        let mut round = self.round(skill);
        while let Some(endpoint) = round.next().await {
            match self.document_of(endpoint, request, what, bytes_max, &check).await {
                Ok(bytes) => {
                    round.answered(endpoint);
                    return Ok(bytes);
                }
                Err(failure) => round.failed(endpoint, failure, false),
            }
        }
        Err(round.error(&self.asker.reference.host, &self.endpoints))
    }

    async fn document_of<'a>(
        &self,
        endpoint: &Endpoint,
        request: &Request<'_>,
        what: &'static str,
        bytes_max: u64,
        check: &impl Fn(&[u8]) -> Result<(), (&'a Digest, String)>,
    ) -> Result<Vec<u8>, Failure> {
        let response = self.asker.ask(endpoint, request).await?;
        let bytes = read_body(response, bytes_max, what, endpoint).await?;
        if let Some(why) = refusal::web_page_instead_of(what, &bytes) {
            return Err(refused(endpoint, why));
        }
        check(&bytes).map_err(|(expected, why)| Error::Mismatch {
            what,
            expected: expected.clone(),
            why: format!("{}: {why}", endpoint.name()),
        })?;
        Ok(bytes)
    }

    /// Sends a blob's bytes to `chunks`, in order, going on where a connection broke. Returns when all are
    /// sent or the receiver has gone. Nothing is verified here but the length: the receiver hashes.
    pub(in crate::image) async fn blob(&self, blob: &Blob, chunks: mpsc::Sender<Chunk>) -> Result<(), Error> {
        let mut transfer = Transfer::new(blob, chunks);
        let mut round = self.round(Skill::Pull);
        while let Some(endpoint) = round.next().await {
            let before = transfer.done;
            match self.transfer(endpoint, &mut transfer).await {
                Ok(()) => {
                    round.answered(endpoint);
                    return Ok(());
                }
                Err(failure) => round.failed(endpoint, failure, transfer.done > before),
            }
        }
        Err(round.error(&self.asker.reference.host, &self.endpoints))
    }

    async fn transfer(&self, endpoint: &Endpoint, transfer: &mut Transfer<'_>) -> Result<(), Failure> {
        if transfer.is_whole() {
            transfer.end().await;
            return Ok(());
        }
        let path = format!("blobs/{}", transfer.blob.digest);
        let request =
            Request { method: Method::GET, path: &path, accept: None, from: transfer.done, follow: true };
        let response = self.asker.ask(endpoint, &request).await;
        let response = response.map_err(|failure| self.of_blob(failure, transfer.blob, transfer.done))?;
        transfer.receive(response, endpoint).await
    }

    /// Asks whether the caller may have a blob that is here already: with the caller's login, as if it were
    /// fetched.
    ///
    /// # Errors
    /// As those of fetching it.
    pub(in crate::image) async fn grants(&self, blob: &Blob) -> Result<(), Error> {
        let mut round = self.round(Skill::Pull);
        while let Some(endpoint) = round.next().await {
            match self.granted(endpoint, blob).await {
                Ok(()) => {
                    round.answered(endpoint);
                    return Ok(());
                }
                Err(failure) => round.failed(endpoint, self.of_blob(failure, blob, 0), false),
            }
        }
        Err(round.error(&self.asker.reference.host, &self.endpoints))
    }

    async fn granted(&self, endpoint: &Endpoint, blob: &Blob) -> Result<(), Failure> {
        let path = format!("blobs/{}", blob.digest);
        // A redirect is the registry's consent; what lies behind it may be signed for GET alone.
        let mut request = Request { method: Method::HEAD, path: &path, accept: None, from: 0, follow: false };
        let mut answer = self.asker.ask(endpoint, &request).await;
        if let Err(failure) = &answer
            && failure.status.is_some_and(|status| {
                matches!(status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
            })
        {
            // Its body is never read.
            request.method = Method::GET;
            answer = self.asker.ask(endpoint, &request).await;
        }
        let response = answer?;
        if response.status().is_success() {
            check_size(blob, length(response.headers()), endpoint)?;
        }
        Ok(())
    }

    /// The failure of a blob, with the blob's digest in its words.
    fn of_blob(&self, failure: Failure, blob: &Blob, done: u64) -> Failure {
        let Failure { error, cure, status } = failure;
        let error = match error {
            Error::NotInRegistry { host, said, .. } => {
                let reference = format!("blob {} of {}", blob.digest, self.asker.reference);
                Error::NotInRegistry { reference, host, said }
            }
            // It sent a part and has no more: the blob is shorter than its manifest says.
            Error::RegistryRefused { host, why } if status == Some(StatusCode::RANGE_NOT_SATISFIABLE) => {
                let why = format!("{host} has only {done} of its {} bytes ({why})", blob.size);
                Error::Mismatch { what: "blob", expected: blob.digest.clone(), why }
            }
            other => other,
        };
        Failure { error, cure, status }
    }

    fn round(&self, skill: Skill) -> Round<'_> {
        let able = self.endpoints.iter().filter(move |endpoint| match skill {
            Skill::Resolve => endpoint.host.resolve,
            Skill::Pull => endpoint.host.pull,
        });
        Round::new(&self.registries.health, able)
    }
}

/// Below the repository.
fn manifest_path(target: &Target) -> String {
    match target {
        Target::Tag(tag) => format!("manifests/{tag}"),
        Target::Digest(digest) => format!("manifests/{digest}"),
    }
}
