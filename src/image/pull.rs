use std::{
    collections::{HashMap, hash_map::RandomState},
    io::BufRead,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::AbortHandle,
};
use tracing::{debug, info};

use super::{
    Credentials, Error, Image,
    content::{self, Chunks, Verified},
    document::{self, Blob, Document, Manifest, Platform},
    layers::{Layer, Layers, layer_error},
    local::{Draft, Local},
    reference::{Reference, Target},
    registry::{Clients, Session},
    secret::Login,
    unpack::{self, Archive, LayerError, Limits},
};
use crate::{model::Digest, telemetry::task};

/// Images fetched at the same time; more wait. Each has its own layers in parallel.
const PULLS_PARALLEL: usize = 5;
/// Pieces of a layer between network and disk. One is at most 16 KiB or so.
const CHUNKS_MAX: usize = 64;
/// Times that an image is fetched again because another process removed a layer under it.
const RACES_MAX: usize = 3;

/// The pulls that are going on.
#[derive(Debug)]
pub(super) struct Pulls {
    local: Arc<Local>,
    clients: Arc<Clients>,
    gate: Arc<Semaphore>,
    /// For fingerprints of logins.
    keys: RandomState,
    running: Arc<Mutex<HashMap<Key, Running>>>,
}

/// Pulls with equal keys are one: the reference, and the login by its fingerprint.
type Key = (Reference, u64);
type Outcome = Option<Result<Arc<Image>, Error>>;

#[derive(Debug)]
struct Running {
    outcome: watch::Receiver<Outcome>,
    task: AbortHandle,
    callers: usize,
}

impl Pulls {
    pub(super) fn new(local: Arc<Local>) -> Self {
        Self {
            local,
            clients: Arc::default(),
            gate: Arc::new(Semaphore::new(PULLS_PARALLEL)),
            keys: RandomState::new(),
            running: Arc::default(),
        }
    }

    /// Joins the pull that is under way, or starts one.
    pub(super) async fn pull(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
    ) -> Result<Arc<Image>, Error> {
        let reference = Reference::parse(reference)?;
        let login = Login::for_host(credentials, &reference.host);
        let caller = self.join((reference.clone(), login.fingerprint(&self.keys)), login);
        let mut outcome = caller.outcome.clone();
        let abandoned = || Error::Abandoned(reference.to_string());
        let done = outcome.wait_for(Option::is_some).await.map_err(|_| abandoned())?;
        done.clone().unwrap_or_else(|| Err(abandoned()))
    }

    fn join(&self, key: Key, login: Login) -> Caller {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pull) = running.get_mut(&key)
            && pull.outcome.borrow().is_none()
            && !pull.task.is_finished()
        {
            pull.callers += 1;
            return Caller { outcome: pull.outcome.clone(), key, running: self.running.clone() };
        }
        let (sender, outcome) = watch::channel(None);
        let (local, clients, gate) = (self.local.clone(), self.clients.clone(), self.gate.clone());
        let reference = key.0.clone();
        let task = task::spawn("image pull", async move {
            let _turn = gate.acquire().await;
            let result = pull(&local, &clients, &reference, login).await;
            let _ = sender.send(Some(result));
        });
        let pull = Running { outcome: outcome.clone(), task: task.abort_handle(), callers: 1 };
        running.insert(key.clone(), pull);
        Caller { outcome, key, running: self.running.clone() }
    }
}

/// One who waits. When the last goes, the pull stops: its downloads are dropped, the threads that unpack
/// see their streams end and delete what they have made.
struct Caller {
    outcome: watch::Receiver<Outcome>,
    key: Key,
    running: Arc<Mutex<HashMap<Key, Running>>>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pull) = running.get_mut(&self.key) else { return };
        if !pull.outcome.same_channel(&self.outcome) {
            return; // a later pull has taken the place
        }
        pull.callers -= 1;
        if pull.callers == 0 {
            pull.task.abort();
            running.remove(&self.key);
        }
    }
}

async fn pull(
    local: &Arc<Local>,
    clients: &Arc<Clients>,
    reference: &Reference,
    login: Login,
) -> Result<Arc<Image>, Error> {
    let session = {
        let (local, clients, reference) = (local.clone(), clients.clone(), reference.clone());
        task::blocking("read registry hosts", move || {
            Session::open(&clients, &local.config, &reference, login)
        })
        .await?
    };
    if let Some(image) = unchanged(local, &session, reference).await? {
        debug!(%reference, image = %image.id, "image is up to date");
        return Ok(image);
    }
    let (manifest, digest) = resolve(&session, reference).await?;
    let config = session.small_blob(&manifest.config, document::CONFIG_BYTES_MAX).await?;
    let config = document::Config::parse(&manifest.config.digest.to_string(), &config)?;
    if config.diff_ids.len() != manifest.layers.len() {
        let why =
            format!("it has {} layers and its manifest {}", config.diff_ids.len(), manifest.layers.len());
        return Err(Error::document("image config", &manifest.config.digest, why));
    }
    for _ in 0..RACES_MAX {
        let draft = Draft {
            id: manifest.config.digest.clone(),
            repo_tags: match &reference.target {
                Target::Tag(_) => vec![reference.to_string()],
                Target::Digest(_) => Vec::new(),
            },
            repo_digests: vec![reference.with_digest(&digest)],
            config: config.process.clone(),
            layers: layers(local, &session, &manifest, &config.diff_ids).await?,
        };
        let shelf = local.clone();
        if let Some(image) = task::blocking("publish image", move || shelf.publish(draft)).await? {
            info!(%reference, image = %image.id, bytes = image.size_bytes, "image pulled");
            return Ok(image);
        }
    }
    Err(Error::Abandoned(reference.to_string()))
}

/// The image that is here, if the registry still means the same by the reference.
async fn unchanged(
    local: &Arc<Local>,
    session: &Session,
    reference: &Reference,
) -> Result<Option<Arc<Image>>, Error> {
    let Some(image) = local.view()?.find(&reference.to_string()) else { return Ok(None) };
    let Target::Tag(tag) = &reference.target else { return Ok(Some(image)) };
    let Some(digest) = session.head(tag).await else { return Ok(None) };
    Ok(image.repo_digests.contains(&reference.with_digest(&digest)).then_some(image))
}

/// From a reference to one manifest, through an index or two, and the digest of what the reference itself
/// names.
async fn resolve(session: &Session, reference: &Reference) -> Result<(Manifest, Digest), Error> {
    let (bytes, digest) = session.manifest(&reference.target).await?;
    let (mut name, mut document) = (reference.to_string(), Document::parse(&reference.to_string(), &bytes)?);
    for _ in 0..=document::INDEX_DEPTH_MAX {
        let index = match document {
            Document::Manifest(manifest) => return Ok((manifest, digest)),
            Document::Index(index) => index,
        };
        let entry = document::choose(&name, &index, &Platform::host())?;
        let target = Target::Digest(entry.blob.digest.clone());
        name = entry.blob.digest.to_string();
        let (bytes, _) = session.manifest(&target).await?;
        if bytes.len() as u64 != entry.blob.size {
            let why = format!("it has {} bytes, and its index says {}", bytes.len(), entry.blob.size);
            return Err(Error::Mismatch { what: "manifest", expected: entry.blob.digest.clone(), why });
        }
        document = Document::parse(&name, &bytes)?;
    }
    Err(Error::Limit { what: "depth of indexes in indexes", limit: document::INDEX_DEPTH_MAX as u64 })
}

async fn layers(
    local: &Arc<Local>,
    session: &Session,
    manifest: &Manifest,
    diff_ids: &[Digest],
) -> Result<Vec<Arc<Layer>>, Error> {
    // The same layer twice in an image is legal, and waits for its own turn for nothing: fetched once.
    let mut jobs = Vec::new();
    for (place, (blob, diff_id)) in manifest.layers.iter().zip(diff_ids).enumerate() {
        jobs.push(async move { Ok::<_, Error>((place, layer(local, session, blob, diff_id).await?)) });
    }
    let parallel = local.config.layers_parallel.max(1);
    let mut layers: Vec<_> = stream::iter(jobs).buffer_unordered(parallel).try_collect().await?;
    layers.sort_by_key(|(place, _)| *place);
    Ok(layers.into_iter().map(|(_, layer)| layer).collect())
}

/// One layer: here already, or fetched and unpacked while it arrives.
async fn layer(
    local: &Arc<Local>,
    session: &Session,
    blob: &Blob,
    diff_id: &Digest,
) -> Result<Arc<Layer>, Error> {
    if blob.size > local.config.layer_compressed_bytes_max {
        return Err(Error::Limit { what: "size of a layer", limit: local.config.layer_compressed_bytes_max });
    }
    let _turn = local.layers.turn(diff_id.hex()).await;
    let (shelf, name) = (local.clone(), diff_id.hex().to_string());
    if let Some(layer) = task::blocking("find layer", move || shelf.layers.find(&name)).await? {
        return Ok(layer);
    }
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let (shelf, wanted, diff) = (local.clone(), blob.clone(), diff_id.clone());
    let unpacking =
        task::blocking("unpack layer", move || take(&shelf, Chunks::new(receiver), wanted, &diff));
    let (sent, taken) = tokio::join!(session.blob(blob, sender), unpacking);
    // A download that failed is why the unpacking did.
    sent?;
    taken
}

/// Unpacks one layer from a stream and holds it against both its digests. Blocks. When it fails, or the
/// stream ends early, nothing is left.
pub(super) fn take(
    local: &Local,
    stream: impl BufRead + Send,
    blob: Blob,
    diff_id: &Digest,
) -> Result<Arc<Layer>, Error> {
    let layers: &Layers = &local.layers;
    let digest = blob.digest.clone();
    let (folder, root) = layers.begin()?;
    let failed = |source: LayerError| layer_error(&digest, &local.root, source);
    let (verified, receipt) = Verified::new(stream, blob);
    let mut tar = content::Unpacked::new(verified, receipt.clone(), local.config.layer_unpacked_bytes_max)
        .map_err(|error| failed(LayerError::Read(error)))?;
    let limits = Limits { file_bytes_max: local.config.layer_unpacked_bytes_max };
    let unpacked = unpack::unpack(&mut Archive::new(&mut tar), root, limits).map_err(failed)?;
    receipt.check().map_err(|why| Error::Mismatch { what: "layer", expected: digest.clone(), why })?;
    if tar.digest() != *diff_id {
        let why = format!("it unpacks to {}, not to {diff_id} as the image says", tar.digest());
        return Err(Error::Mismatch { what: "layer", expected: digest, why });
    }
    drop(tar);
    layers.finish(diff_id.hex(), folder, unpacked)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::super::{
        Config, Images,
        testregistry::{Fault, OCI_INDEX, OCI_MANIFEST, TestImage, TestRegistry, descriptor},
        unpack::testtar::TestTar,
    };
    use super::*;

    /// A registry and a node's image store.
    struct Node {
        registry: TestRegistry,
        root: tempfile::TempDir,
        images: Images,
    }

    impl Node {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let images = Images::open(&root.path().join("store"), &Self::config(root.path())).unwrap();
            Self { registry: TestRegistry::start(), root, images }
        }

        fn config(root: &Path) -> Config {
            Config { registry_config_dir: root.join("hosts.d"), ..Config::default() }
        }

        fn store(&self, path: &str) -> std::path::PathBuf {
            self.root.path().join("store").join(path)
        }

        fn hosts(&self, registry: &str, text: &str) {
            let folder = self.root.path().join("hosts.d").join(registry);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("hosts.toml"), text).unwrap();
        }

        async fn pull(&self, name: &str) -> Result<Arc<Image>, Error> {
            self.images.pull(&self.registry.name(name), None).await
        }

        fn layers(&self) -> usize {
            std::fs::read_dir(self.store("layers")).unwrap().count()
        }

        /// No unfinished work is left by this process; threads that unpack may need a moment to notice.
        #[track_caller]
        fn assert_no_ingest(&self) {
            let mine = std::fs::read_dir(self.store("ingest")).unwrap().next().unwrap().unwrap().path();
            for _ in 0..200 {
                if std::fs::read_dir(&mine).unwrap().count() == 0 {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            panic!("ingest is not empty");
        }
    }

    fn image() -> TestImage {
        TestImage::new(&[
            TestTar::new().dir("etc", 0o755).file("etc/base", "base"),
            TestTar::new().file("etc/top", &"top".repeat(100_000)),
        ])
    }

    fn tokio_test(test: impl Future<Output = ()>) {
        tokio::runtime::Runtime::new().unwrap().block_on(test);
    }

    #[test]
    fn an_image_is_pulled_listed_and_found_by_all_its_names() {
        tokio_test(async {
            let node = Node::new();
            let (id, digest) = node.registry.put_image("team/app", "v1", &image());
            let pulled = node.pull("team/app:v1").await.unwrap();
            assert_eq!(pulled.id, id);
            assert_eq!(pulled.repo_tags, [node.registry.name("team/app:v1")]);
            assert_eq!(pulled.repo_digests, [node.registry.name(&format!("team/app@{digest}"))]);
            assert_eq!(
                (pulled.config.user.as_str(), pulled.config.cmd.as_slice()),
                ("1000", &["sh".to_string()][..])
            );
            // Two layers, and one for the mode of the `etc` that the second only implies.
            assert_eq!(pulled.layers.lower.len(), 3);
            assert_eq!(std::fs::read_to_string(pulled.layers.lower[2].join("etc/base")).unwrap(), "base");
            assert_eq!(
                std::fs::read_to_string(pulled.layers.lower[1].join("etc/top")).unwrap().len(),
                300_000
            );
            for name in [
                node.registry.name("team/app:v1"),
                node.registry.name(&format!("team/app@{digest}")),
                node.registry.name(&format!("team/app:other@{digest}")),
                id.to_string(),
                id.hex().into(),
                id.hex()[..12].into(),
            ] {
                assert_eq!(
                    node.images.find(&name).unwrap().map(|image| image.id.clone()),
                    Some(id.clone()),
                    "{name}"
                );
            }
            assert_eq!(node.images.list().unwrap().len(), 1);
            assert!(node.images.usage().unwrap().0.used_bytes >= 300_000);
            assert!(node.images.find("other").unwrap().is_none());
            node.assert_no_ingest();
        });
    }

    #[test]
    fn a_tag_that_has_not_moved_costs_one_request_and_a_digest_none() {
        tokio_test(async {
            let node = Node::new();
            let (_, digest) = node.registry.put_image("app", "v1", &image());
            node.pull("app:v1").await.unwrap();
            let before = node.registry.requests().len();
            node.pull("app:v1").await.unwrap();
            assert_eq!(node.registry.requests().len(), before + 1);
            node.pull(&format!("app@{digest}")).await.unwrap();
            assert_eq!(node.registry.requests().len(), before + 1);
        });
    }

    #[test]
    fn a_tag_that_moved_leaves_its_old_image() {
        tokio_test(async {
            let node = Node::new();
            let (old, digest) = node.registry.put_image("app", "v1", &image());
            node.pull("app:v1").await.unwrap();
            let other = TestImage::new(&[TestTar::new().file("x", "x")]);
            let (new, _) = node.registry.put_image("app", "v1", &other);
            assert_eq!(node.pull("app:v1").await.unwrap().id, new);
            let old = node.images.find(&old.to_string()).unwrap().unwrap();
            assert_eq!(old.repo_tags, [""; 0]);
            assert_eq!(old.repo_digests, [node.registry.name(&format!("app@{digest}"))]);
        });
    }

    #[test]
    fn an_index_leads_to_this_machines_image_and_no_deeper_than_allowed() {
        tokio_test(async {
            let node = Node::new();
            let image = image();
            let (id, _) = node.registry.put_image("app", "plain", &image);
            let mut inner = image.manifest();
            let arch = Platform::host().to_string().split('/').nth(1).unwrap().to_string();
            let mut kind = OCI_MANIFEST;
            for depth in 1..=17 {
                let entry = descriptor(kind, inner.as_bytes());
                let entry = entry.trim_end_matches('}');
                inner = format!(
                    r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[
                    {{"mediaType":"{OCI_MANIFEST}","digest":"sha256:{}","size":1,"platform":{{"os":"plan9","architecture":"{arch}"}}}},
                    {entry},"platform":{{"os":"linux","architecture":"{arch}"}}}}]}}"#,
                    "0".repeat(64)
                );
                kind = OCI_INDEX;
                let digest = node.registry.put_manifest("app", &format!("deep{depth}"), OCI_INDEX, &inner);
                let pulled = node.pull(&format!("app:deep{depth}")).await;
                if depth <= 2 {
                    let pulled = pulled.unwrap();
                    assert_eq!(pulled.id, id);
                    assert!(pulled.repo_digests.contains(&node.registry.name(&format!("app@{digest}"))));
                } else {
                    assert!(matches!(pulled, Err(Error::Limit { .. })), "{depth}");
                }
            }
        });
    }

    #[test]
    fn bytes_that_are_not_what_was_promised_leave_nothing() {
        tokio_test(async {
            let node = Node::new();
            let image = image();
            let (_, digest) = node.registry.put_image("app", "v1", &image);
            let layer = digest_part(&image.blobs[1]);
            let mut flipped = image.blobs[1].clone();
            let last = flipped.len() - 20;
            flipped[last] ^= 1;
            let longer = [image.blobs[1].as_slice(), b"more"].concat();
            let other = TestImage::new(&[TestTar::new().file("evil", "evil")]);
            for (part, body) in [
                (layer.as_str(), flipped),
                (&layer, longer),
                (&layer, other.blobs[0].clone()),
                (&layer, b"no tar".to_vec()),
                (&digest_part(image.config.as_bytes()), b"{}".to_vec()),
                (&digest.to_string(), other.manifest().into_bytes()),
            ] {
                // Twice, because some are asked for again.
                node.registry.fault(part, 20, Fault::Body(body));
                let pulled = node.images.pull(&node.registry.name(&format!("app@{digest}")), None).await;
                assert!(pulled.is_err(), "{part}");
                node.registry.clear_faults();
                assert_eq!((node.images.list().unwrap().len(), node.layers()), (0, 0), "{part}");
                node.assert_no_ingest();
            }
            node.pull(&format!("app@{digest}")).await.unwrap();
        });
    }

    fn digest_part(bytes: &[u8]) -> String {
        document::digest_of(bytes).to_string()
    }

    #[test]
    fn a_layer_with_another_diff_id_is_refused() {
        tokio_test(async {
            let node = Node::new();
            let mut image = image();
            image.blobs[0] = TestImage::new(&[TestTar::new().file("evil", "evil")]).blobs[0].clone();
            node.registry.put_image("app", "v1", &image);
            let error = node.pull("app:v1").await.unwrap_err();
            assert!(matches!(error, Error::Mismatch { what: "layer", .. }), "{error}");
            assert_eq!(node.layers(), 0);
        });
    }

    #[test]
    fn a_cut_transfer_goes_on_where_it_was() {
        tokio_test(async {
            for ranges in [None, Some(Fault::WholeBody)] {
                let node = Node::new();
                let mut seed = 1_u32;
                let noise = std::iter::repeat_with(|| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    char::from(b' ' + (seed >> 24) as u8 % 64)
                });
                let noise: String = noise.take(200_000).collect();
                let image = TestImage::new(&[TestTar::new().file("noise", &noise)]);
                let (id, _) = node.registry.put_image("app", "v1", &image);
                let layer = digest_part(&image.blobs[0]);
                node.registry.fault(&layer, 1, Fault::CutAfter(50_000));
                if let Some(fault) = &ranges {
                    node.registry.fault(&layer, 1, fault.clone());
                } else {
                    node.registry.fault(&layer, 1, Fault::CutAfter(10_000));
                }
                assert_eq!(node.pull("app:v1").await.unwrap().id, id);
                let asked = node.registry.requests();
                let ranges: Vec<_> = asked
                    .iter()
                    .filter(|a| a.line.contains(&layer))
                    .map(|a| a.headers.get("range").cloned())
                    .collect();
                assert_eq!(ranges[0], None);
                let second: usize =
                    ranges[1].as_ref().unwrap()["bytes=".len()..].trim_end_matches('-').parse().unwrap();
                assert!((1..=50_000).contains(&second), "{second}");
            }
        });
    }

    #[test]
    fn a_wrong_range_is_refused() {
        tokio_test(async {
            let node = Node::new();
            let image = image();
            node.registry.put_image("app", "v1", &image);
            let layer = digest_part(&image.blobs[1]);
            node.registry.fault(&layer, 1, Fault::CutAfter(100));
            node.registry.fault(&layer, 1, Fault::WrongRange);
            let error = node.pull("app:v1").await.unwrap_err();
            assert!(matches!(error, Error::RegistryRefused { .. }), "{error}");
        });
    }

    #[test]
    fn answers_become_their_own_errors() {
        tokio_test(async {
            let node = Node::new();
            node.registry.put_image("app", "v1", &image());
            let fails = async |status: u16| {
                node.registry.clear_faults();
                node.registry.fault(
                    "manifests",
                    20,
                    Fault::Status(status, vec![("Retry-After", "0".into())]),
                );
                node.pull("app:v1").await.unwrap_err()
            };
            assert!(matches!(fails(404).await, Error::NotInRegistry { .. }));
            assert!(fails(401).await.to_string().contains("unauthorized or denied"));
            assert!(matches!(fails(403).await, Error::Unauthorized { .. }));
            assert!(matches!(fails(400).await, Error::RegistryRefused { .. }));
            for status in [429, 500, 503] {
                assert!(fails(status).await.to_string().starts_with("RegistryUnavailable: "), "{status}");
            }
            let nobody = node.images.pull("127.0.0.1:1/app:v1", None).await.unwrap_err();
            assert!(nobody.to_string().starts_with("RegistryUnavailable: 127.0.0.1:1: "), "{nobody}");
            node.registry.clear_faults();
            node.registry.fault("manifests", 3, Fault::Status(500, vec![]));
            node.pull("app:v1").await.unwrap();
        });
    }

    #[test]
    fn documents_over_their_limit_are_not_read() {
        tokio_test(async {
            let node = Node::new();
            node.registry.put_image("app", "v1", &image());
            let large = vec![b' '; document::MANIFEST_BYTES_MAX as usize + 1];
            node.registry.fault("manifests", 20, Fault::Body(large));
            assert!(matches!(node.pull("app:v1").await, Err(Error::Limit { .. })));
        });
    }

    #[test]
    fn a_login_becomes_a_token_and_goes_nowhere_else() {
        tokio_test(async {
            let node = Node::new();
            let (id, _) = node.registry.put_image("app", "v1", &image());
            let realm = format!("http://{}/token", node.registry.address());
            node.registry.put_plain("/token", br#"{"token":"canary-token"}"#);
            node.registry
                .require("Bearer canary-token", &format!("Bearer realm=\"{realm}\",service=\"test\""));
            let login = Credentials {
                username: "user".into(),
                password: "canary-pass".into(),
                ..Credentials::default()
            };
            let name = node.registry.name("app:v1");
            assert_eq!(node.images.pull(&name, Some(login)).await.unwrap().id, id);
            let asked = node.registry.requests();
            let token = asked.iter().find(|asked| asked.line.contains("/token")).unwrap();
            assert!(token.line.contains("service=test&scope=repository%3Aapp%3Apull"), "{}", token.line);
            assert_eq!(token.headers["authorization"], "Basic dXNlcjpjYW5hcnktcGFzcw==");

            // Another pull without a login asks for a token of its own.
            let before = node.registry.count("/token");
            let _ = node.images.remove(&name).await;
            node.pull("app:v1").await.unwrap();
            let asked = node.registry.requests();
            assert!(node.registry.count("/token") > before);
            assert!(
                !asked
                    .iter()
                    .rev()
                    .find(|a| a.line.contains("/token"))
                    .unwrap()
                    .headers
                    .contains_key("authorization")
            );
        });
    }

    #[test]
    fn no_login_leaves_its_registry() {
        tokio_test(async {
            let (node, evil) = (Node::new(), TestRegistry::start());
            let image = image();
            node.registry.put_image("app", "v1", &image);
            let login = || {
                Some(Credentials {
                    username: "user".into(),
                    password: "canary".into(),
                    ..Credentials::default()
                })
            };
            let name = node.registry.name("app:v1");
            // Its token service is said to be elsewhere. (Another port of this machine is the same host.)
            for realm in ["http://elsewhere.test/token", "https://elsewhere.test/token", "file:///etc/passwd"]
            {
                node.registry.require("Bearer x", &format!("Bearer realm=\"{realm}\""));
                let error = node.images.pull(&name, login()).await.unwrap_err();
                assert!(matches!(error, Error::RegistryRefused { .. }), "{error}");
            }
            // It redirects to another host with the login in hand.
            node.registry.require("Basic dXNlcjpjYW5hcnk=", "Basic realm=\"x\"");
            let layer = digest_part(&image.blobs[0]);
            evil.put_plain(&format!("/{layer}"), &image.blobs[0]);
            let to = format!("http://{}/{layer}", evil.address());
            node.registry.fault(&layer, 1, Fault::Status(307, vec![("Location", to)]));
            node.images.pull(&name, login()).await.unwrap();
            assert_eq!(evil.requests().len(), 1);
            assert!(!evil.requests()[0].headers.contains_key("authorization"));
            for asked in node.registry.requests() {
                assert!(!asked.line.contains("canary"), "{}", asked.line);
            }
        });
    }

    #[test]
    fn errors_show_no_secret() {
        tokio_test(async {
            let node = Node::new();
            let realm = format!("http://{}/token?secret=canary", node.registry.address());
            node.registry.require("Bearer never", &format!("Bearer realm=\"{realm}\""));
            node.registry.put_plain("/token", br#"{"token":"canary"}"#);
            let login = Credentials { identity_token: "canary".into(), ..Credentials::default() };
            let error = node.images.pull(&node.registry.name("app:v1"), Some(login)).await.unwrap_err();
            assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
            let token =
                node.registry.requests().into_iter().find(|asked| asked.line.contains("/token")).unwrap();
            assert!(token.line.starts_with("POST") && token.body.contains("refresh_token=canary"));
        });
    }

    #[test]
    fn mirrors_are_asked_first_and_without_the_login() {
        tokio_test(async {
            let (node, mirror) = (Node::new(), TestRegistry::start());
            let (id, _) = mirror.put_image("team/app", "v1", &image());
            let login = Credentials { username: "u".into(), password: "p".into(), ..Credentials::default() };
            node.hosts(
                "registry.test",
                &format!(
                    "server = \"http://127.0.0.1:1\"\n[host.\"http://127.0.0.1:1\"]\n[host.\"http://{}\"]\n[host.\"http://{}\".header]\nX-Key = \"k\"",
                    mirror.address(),
                    mirror.address()
                ),
            );
            let pulled = node.images.pull("registry.test/team/app:v1", Some(login)).await.unwrap();
            assert_eq!(
                (pulled.id.clone(), pulled.repo_tags.as_slice()),
                (id, &["registry.test/team/app:v1".to_string()][..])
            );
            for asked in mirror.requests() {
                assert!(asked.line.contains("?ns=registry.test"), "{}", asked.line);
                assert_eq!(
                    (asked.headers["x-key"].as_str(), asked.headers.get("authorization")),
                    ("k", None)
                );
            }
        });
    }

    #[test]
    fn equal_pulls_share_their_work() {
        tokio_test(async {
            let node = Node::new();
            let image = image();
            let (id, _) = node.registry.put_image("app", "v1", &image);
            node.registry.put_image("copy", "v1", &image);
            node.registry.fault("blobs", 1, Fault::Delay(Duration::from_millis(300)));
            let (a, b, c) = tokio::join!(node.pull("app:v1"), node.pull("app:v1"), node.pull("copy:v1"));
            for pulled in [a, b, c] {
                assert_eq!(pulled.unwrap().id, id);
            }
            for blob in &image.blobs {
                assert_eq!(node.registry.count(&digest_part(blob)), 1);
            }
            assert_eq!(node.images.find(id.hex()).unwrap().unwrap().repo_tags.len(), 2);
        });
    }

    #[test]
    fn a_pull_stops_with_its_last_caller() {
        tokio_test(async {
            let node = Node::new();
            let image = image();
            let (id, _) = node.registry.put_image("app", "v1", &image);
            node.registry.fault(&digest_part(&image.blobs[1]), 1, Fault::Delay(Duration::from_millis(1500)));
            let short = Duration::from_millis(500);
            // One goes, one stays: the work goes on.
            let (gone, stayed) =
                tokio::join!(tokio::time::timeout(short, node.pull("app:v1")), node.pull("app:v1"));
            assert!(gone.is_err());
            assert_eq!(stayed.unwrap().id, id);
            node.images.remove(id.hex()).await.unwrap();

            node.registry.fault(&digest_part(&image.blobs[1]), 1, Fault::Delay(Duration::from_millis(1500)));
            assert!(tokio::time::timeout(short, node.pull("app:v1")).await.is_err());
            tokio::time::sleep(Duration::from_millis(1500)).await;
            assert_eq!((node.images.list().unwrap().len(), node.layers()), (0, 0));
            node.assert_no_ingest();
            assert_eq!(node.pull("app:v1").await.unwrap().id, id);
        });
    }
}
