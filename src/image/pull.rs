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
    local::{Draft, Local, blocking},
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
    clients: &Clients,
    reference: &Reference,
    login: Login,
) -> Result<Arc<Image>, Error> {
    let session = {
        // Reads hosts.toml: two small files at most.
        Session::open(clients, &local.config, reference, login)?
    };
    if let Some(image) = unchanged(local, &session, reference).await {
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
        if let Some(image) = blocking(move || shelf.publish(draft)).await? {
            info!(%reference, image = %image.id, bytes = image.size_bytes, "image pulled");
            return Ok(image);
        }
    }
    Err(Error::Abandoned(reference.to_string()))
}

/// The image that is here, if the registry still means the same by the reference.
async fn unchanged(local: &Arc<Local>, session: &Session, reference: &Reference) -> Option<Arc<Image>> {
    let view = local.view();
    let image = view.find(&reference.to_string())?;
    let Target::Tag(tag) = &reference.target else { return Some(image) };
    let digest = session.head(tag).await?;
    image.repo_digests.contains(&reference.with_digest(&digest)).then_some(image)
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
    if let Some(layer) = blocking(move || shelf.layers.find(&name)).await {
        return Ok(layer);
    }
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let (shelf, wanted, diff) = (local.clone(), blob.clone(), diff_id.clone());
    let unpacking = blocking(move || take(&shelf, Chunks::new(receiver), wanted, &diff));
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
