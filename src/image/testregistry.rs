//! A registry on loopback for tests: as correct or as evil as its faults make it.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

use super::{document::digest_of, unpack::testtar::TestTar};
use crate::model::Digest;

pub(super) struct TestRegistry {
    state: Arc<State>,
    address: String,
}

#[derive(Default)]
struct State {
    /// By path (`/v2/repo/blobs/sha256:…`): content type and bytes.
    content: Mutex<HashMap<String, (&'static str, Vec<u8>)>>,
    /// (part of a path, times, what happens instead)
    faults: Mutex<Vec<(String, usize, Fault)>>,
    requests: Mutex<Vec<Asked>>,
    /// `Authorization` that every request to `/v2/` must have.
    required: Mutex<Option<(String, String)>>,
}

#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) line: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: String,
}

#[derive(Clone, Debug)]
pub(super) enum Fault {
    Status(u16, Vec<(&'static str, String)>),
    /// The connection is reset after so many bytes of the body.
    CutAfter(usize),
    /// Other bytes than were asked for.
    Body(Vec<u8>),
    /// Ranges are not understood.
    WholeBody,
    /// A range that nobody asked for.
    WrongRange,
    /// The answer begins after this.
    Delay(Duration),
    /// The answer begins when this is no longer so.
    While(Arc<AtomicBool>),
    /// A refusal and its body.
    Says(u16, String),
    /// So many bytes and no more, in an answer that is well-formed.
    Short(usize),
    /// A byte now and then, for ever.
    Trickle,
}

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl TestRegistry {
    pub(super) fn start() -> Self {
        Self::serving(|state, stream| state.serve(stream))
    }

    /// With TLS: shows `server.pem`, and wants a certificate that `authority` has signed.
    pub(super) fn start_tls(authority: &str) -> Self {
        let config = Arc::new(tls_config(authority));
        Self::serving(move |state, stream| {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            state.serve(rustls::StreamOwned::new(connection, stream));
        })
    }

    fn serving(serve: impl Fn(&State, TcpStream) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        let served = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if Arc::strong_count(&served) == 1 {
                    return;
                }
                let (state, serve) = (served.clone(), serve.clone());
                thread::spawn(move || serve(&state, stream));
            }
        });
        Self { state, address }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// `127.0.0.1:port/repo:tag`
    pub(super) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub(super) fn put(&self, path: &str, kind: &'static str, bytes: &[u8]) {
        self.state.content.lock().unwrap().insert(format!("/v2/{path}"), (kind, bytes.to_vec()));
    }

    pub(super) fn put_blob(&self, repo: &str, bytes: &[u8]) -> Digest {
        let digest = digest_of(bytes);
        self.put(&format!("{repo}/blobs/{digest}"), "application/octet-stream", bytes);
        digest
    }

    pub(super) fn put_manifest(&self, repo: &str, tag: &str, kind: &'static str, text: &str) -> Digest {
        let digest = digest_of(text.as_bytes());
        self.put(&format!("{repo}/manifests/{tag}"), kind, text.as_bytes());
        self.put(&format!("{repo}/manifests/{digest}"), kind, text.as_bytes());
        digest
    }

    /// Publishes an image and returns (id, manifest's digest).
    pub(super) fn put_image(&self, repo: &str, tag: &str, image: &TestImage) -> (Digest, Digest) {
        for blob in &image.blobs {
            self.put_blob(repo, blob);
        }
        let id = self.put_blob(repo, image.config.as_bytes());
        (id, self.put_manifest(repo, tag, OCI_MANIFEST, &image.manifest()))
    }

    pub(super) fn fault(&self, part: &str, times: usize, fault: Fault) {
        self.state.faults.lock().unwrap().push((part.into(), times, fault));
    }

    pub(super) fn clear_faults(&self) {
        self.state.faults.lock().unwrap().clear();
    }

    /// Every request below `/v2/` needs `authorization`, else `challenge` is what it gets.
    pub(super) fn require(&self, authorization: &str, challenge: &str) {
        *self.state.required.lock().unwrap() = Some((authorization.into(), challenge.into()));
    }

    /// An answer outside `/v2/`.
    pub(super) fn put_plain(&self, path: &str, bytes: &[u8]) {
        self.state.content.lock().unwrap().insert(path.into(), ("application/json", bytes.to_vec()));
    }

    pub(super) fn requests(&self) -> Vec<Asked> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Requests whose line has `part`.
    pub(super) fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|asked| asked.line.contains(part)).count()
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.state = Arc::default();
        let _ = TcpStream::connect(&self.address);
    }
}

impl State {
    fn serve(&self, stream: impl Read + Write) {
        let mut reader = BufReader::new(stream);
        while let Some(asked) = read_request(&mut reader) {
            self.requests.lock().unwrap().push(asked.clone());
            if !self.answer(&asked, reader.get_mut()) {
                return;
            }
        }
    }

    fn answer(&self, asked: &Asked, stream: &mut impl Write) -> bool {
        let mut words = asked.line.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let path = target.split('?').next().unwrap();
        let fault = self.take_fault(&asked.line);
        match &fault {
            Some(Fault::Delay(delay)) => thread::sleep(*delay),
            Some(Fault::While(held)) => {
                while held.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(5));
                }
            }
            Some(Fault::Status(status, headers)) => return respond(stream, *status, headers, &[], method),
            Some(Fault::Says(status, said)) => {
                return respond(stream, *status, &[], said.as_bytes(), method);
            }
            _ => {}
        }
        if path.starts_with("/v2/")
            && let Some((authorization, challenge)) = &*self.required.lock().unwrap()
            && asked.headers.get("authorization") != Some(authorization)
        {
            return respond(stream, 401, &[("WWW-Authenticate", challenge.clone())], &[], method);
        }
        let Some((kind, body)) = self.content.lock().unwrap().get(path).cloned() else {
            return respond(stream, 404, &[], &[], method);
        };
        let body = match &fault {
            Some(Fault::Body(other)) => other.clone(),
            Some(Fault::Short(length)) => body[..*length].to_vec(),
            _ => body,
        };
        let mut headers =
            vec![("Content-Type", kind.to_string()), ("Docker-Content-Digest", digest_of(&body).to_string())];
        let from = asked
            .headers
            .get("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let (status, from) = match (from, &fault) {
            (None, _) | (_, Some(Fault::WholeBody)) => (200, 0),
            (Some(from), Some(Fault::WrongRange)) => (206, from - 1),
            (Some(from), _) => (206, from),
        };
        if status == 206 {
            headers.push(("Content-Range", format!("bytes {from}-{}/{}", body.len() - 1, body.len())));
        }
        if let Some(Fault::CutAfter(length)) = fault {
            let head = head(status, &headers, body.len() - from);
            let _ =
                stream.write_all(&[head.as_bytes(), &body[from..][..length.min(body.len() - from)]].concat());
            return false;
        }
        if let Some(Fault::Trickle) = fault {
            let head = head(status, &headers, body.len().max(1 << 20));
            let mut sent = stream.write_all(head.as_bytes());
            while sent.is_ok() {
                thread::sleep(Duration::from_millis(20));
                sent = stream.write_all(b" ");
            }
            return false;
        }
        respond(stream, status, &headers, &body[from..], method)
    }

    fn take_fault(&self, line: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let (_, times, fault) =
            faults.iter_mut().find(|(part, times, _)| *times > 0 && line.contains(part.as_str()))?;
        *times -= 1;
        Some(fault.clone())
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_string());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { line: line.trim_end().into(), headers, body: String::from_utf8_lossy(&body).into() })
}

fn head(status: u16, headers: &[(&'static str, String)], length: usize) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status} Whatever\r\n{headers}Content-Length: {length}\r\n\r\n")
}

fn respond(
    stream: &mut impl Write,
    status: u16,
    headers: &[(&'static str, String)],
    body: &[u8],
    method: &str,
) -> bool {
    let head = head(status, headers, body.len());
    let body = if method == "HEAD" { &[][..] } else { body };
    stream.write_all(&[head.as_bytes(), body].concat()).is_ok()
}

/// A file of `testtls`, whose `make` made them.
pub(super) fn tls_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/image/testtls").join(name)
}

fn tls_config(authority: &str) -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certificate = |name: &str| CertificateDer::from_pem_file(tls_file(name)).unwrap();
    let mut authorities = rustls::RootCertStore::empty();
    authorities.add(certificate(authority)).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider.clone());
    let key = PrivateKeyDer::from_pem_file(tls_file("server.key")).unwrap();
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(vec![certificate("server.pem")], key)
        .unwrap()
}

/// An image made of tars.
#[derive(Clone, Debug)]
pub(super) struct TestImage {
    pub(super) config: String,
    /// Layers as they are served.
    pub(super) blobs: Vec<Vec<u8>>,
}

impl TestImage {
    pub(super) fn new(layers: &[TestTar]) -> Self {
        let tars: Vec<Vec<u8>> = layers.iter().map(|tar| tar.clone().done()).collect();
        let diff_ids: Vec<String> = tars.iter().map(|tar| format!("\"{}\"", digest_of(tar))).collect();
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"User":"1000","Env":["A=1"],"Cmd":["sh"]}},
            "rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        Self { config, blobs: tars.iter().map(|tar| gzip(tar)).collect() }
    }

    pub(super) fn manifest(&self) -> String {
        let layers: Vec<String> = self
            .blobs
            .iter()
            .map(|blob| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blob))
            .collect();
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
            descriptor("application/vnd.oci.image.config.v1+json", self.config.as_bytes()),
            layers.join(",")
        )
    }
}

pub(super) fn descriptor(kind: &str, bytes: &[u8]) -> String {
    format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, digest_of(bytes), bytes.len())
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
