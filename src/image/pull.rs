//! One pull: from a reference to a published image.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::{
    Error, Image,
    content::Chunks,
    document::{self, Blob, Config, IndexWalk, Manifest, Step},
    ingest,
    layers::Layer,
    local::{Draft, Local},
    reference::{Reference, Target},
    registry::{Registries, Session},
    secret::Login,
    worker::Leash,
};
use crate::{model::Digest, telemetry::task};

/// Pieces of a layer between network and disk. One is at most 16 KiB or so.
const CHUNKS_MAX: usize = 64;

/// Fetches one image and publishes it.
///
/// # Errors
/// [`Error::LayerRemoved`] is worth another try at once.
pub(super) async fn pull(
    local: &Arc<Local>,
    registries: &Arc<Registries>,
    reference: &Reference,
    login: &Login,
) -> Result<Arc<Image>, Error> {
    let session = open(local, registries, reference, login).await?;
    if let Some(image) = unchanged(local, &session, reference).await? {
        debug!(%reference, image = %image.id, "image is up to date");
        return Ok(image);
    }
    let (manifest, digest) = resolve(&session, reference).await?;
    let config = config(&session, &manifest).await?;
    let draft = Draft {
        id: manifest.config.digest.clone(),
        repo_tags: match &reference.target {
            Target::Tag(_) => vec![reference.to_string()],
            Target::Digest(_) => Vec::new(),
        },
        repo_digests: vec![reference.with_digest(&digest)],
        config: config.process,
        layers: layers(local, &session, &manifest, &config.diff_ids).await?,
    };
    let shelf = local.clone();
    let image = task::blocking("publish image", move || shelf.publish(draft)).await?;
    info!(%reference, image = %image.id, bytes = image.size_bytes, "image pulled");
    Ok(image)
}

async fn open(
    local: &Arc<Local>,
    registries: &Arc<Registries>,
    reference: &Reference,
    login: &Login,
) -> Result<Session, Error> {
    let (local, registries, reference, login) =
        (local.clone(), registries.clone(), reference.clone(), login.clone());
    let open = move || Session::open(&registries, &local.config, &reference, login);
    task::blocking("read registry hosts", open).await
}

/// The image that is here, if the registry still means the same by the reference.
async fn unchanged(
    local: &Arc<Local>,
    session: &Session,
    reference: &Reference,
) -> Result<Option<Arc<Image>>, Error> {
    let Some(image) = local.view()?.find(&reference.to_string()) else { return Ok(None) };
    let Some(digest) = session.head(&reference.target).await else { return Ok(None) };
    Ok(image.repo_digests.contains(&reference.with_digest(&digest)).then_some(image))
}

/// From a reference to one manifest, through an index or two, and the digest of what the reference itself
/// names.
async fn resolve(session: &Session, reference: &Reference) -> Result<(Manifest, Digest), Error> {
    let (mut bytes, digest) = session.manifest(&reference.target).await?;
    let (mut name, mut walk) = (reference.to_string(), IndexWalk::default());
    loop {
        let blob = match walk.step(&name, &bytes)? {
            Step::Manifest(manifest) => return Ok((manifest, digest)),
            Step::Next(blob) => blob,
        };
        (bytes, _) = session.manifest(&Target::Digest(blob.digest.clone())).await?;
        if bytes.len() as u64 != blob.size {
            let why = format!("it has {} bytes, and its index says {}", bytes.len(), blob.size);
            return Err(Error::Mismatch { what: "manifest", expected: blob.digest, why });
        }
        name = blob.digest.to_string();
    }
}

/// The config that belongs to a manifest.
async fn config(session: &Session, manifest: &Manifest) -> Result<Config, Error> {
    let blob = &manifest.config;
    let bytes = session.small_blob(blob, document::CONFIG_BYTES_MAX).await?;
    let config = Config::parse(&blob.digest.to_string(), &bytes)?;
    if config.diff_ids.len() == manifest.layers.len() {
        return Ok(config);
    }
    let why = format!("it has {} layers and its manifest {}", config.diff_ids.len(), manifest.layers.len());
    Err(Error::document("image config", &blob.digest, why))
}

/// All layers of an image, bottom first.
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

/// One layer: here already and the caller's to have, or fetched.
async fn layer(
    local: &Arc<Local>,
    session: &Session,
    blob: &Blob,
    diff_id: &Digest,
) -> Result<Arc<Layer>, Error> {
    let bytes_max = local.config.layer_compressed_bytes_max;
    if blob.size > bytes_max {
        return Err(Error::Limit { what: "size of a layer", limit: bytes_max });
    }
    let _turn = local.layers.turn(diff_id.hex()).await;
    let (shelf, name) = (local.clone(), diff_id.hex().to_string());
    match task::blocking("find layer", move || shelf.layers.find(&name)).await? {
        // That it is here says nothing about who may have it: whoever may write a manifest can name it.
        Some(layer) if layer.record.is_of(&blob.digest) => session.grants(blob).await.map(|()| layer),
        // Another blob was it, or a file: that this one is the same is still to be seen.
        Some(layer) => {
            fetch(local, session, blob, diff_id, ingest::prove).await?;
            let (shelf, noted, digest) = (local.clone(), layer.clone(), blob.digest.clone());
            task::blocking("note blob", move || shelf.layers.note_blob(&noted, digest)).await;
            Ok(layer)
        }
        None => fetch(local, session, blob, diff_id, ingest::take).await,
    }
}

/// Has a blob consumed while it arrives.
async fn fetch<T: Send + 'static>(
    local: &Arc<Local>,
    session: &Session,
    blob: &Blob,
    diff_id: &Digest,
    consume: fn(&Local, Chunks, Blob, &Digest, &Leash) -> Result<T, Error>,
) -> Result<T, Error> {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let (shelf, wanted, diff) = (local.clone(), blob.clone(), diff_id.clone());
    // A pull that is given up is dropped here, whatever its thread waits for.
    let leash = Leash::default();
    let _cut = leash.cut_on_drop();
    let consuming =
        task::blocking("unpack layer", move || consume(&shelf, Chunks::new(receiver), wanted, &diff, &leash));
    let (sent, consumed) = tokio::join!(session.blob(blob, sender), consuming);
    // A download that failed is why the unpacking did.
    sent?;
    consumed
}

#[cfg(test)]
mod tests {
    use super::super::{
        Credentials,
        document::Platform,
        testnode::{Node, digest_part, image, tokio_test},
        testregistry::{Fault, OCI_INDEX, OCI_MANIFEST, TestImage, descriptor},
        unpack::testtar::TestTar,
    };
    use super::*;

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
    fn what_has_not_moved_costs_one_request() {
        tokio_test(async {
            let node = Node::new();
            let (_, digest) = node.registry.put_image("app", "v1", &image());
            node.pull("app:v1").await.unwrap();
            let before = node.registry.requests().len();
            node.pull("app:v1").await.unwrap();
            assert_eq!(node.registry.requests().len(), before + 1);
            node.pull(&format!("app@{digest}")).await.unwrap();
            assert_eq!(node.registry.requests().len(), before + 2);
        });
    }

    #[test]
    fn an_image_that_is_here_is_the_callers_only_with_the_registrys_word() {
        tokio_test(async {
            let node = Node::new();
            node.registry.require("Basic dXNlcjpwYXNz", "Basic realm=\"x\"");
            let (_, digest) = node.registry.put_image("app", "v1", &image());
            let login =
                Credentials { username: "user".into(), password: "pass".into(), ..Credentials::default() };
            for name in ["app:v1".to_string(), format!("app@{digest}")] {
                let name = node.registry.name(&name);
                node.images.pull(&name, Some(login.clone())).await.unwrap();
                let refused = node.images.pull(&name, None).await;
                assert!(matches!(refused, Err(Error::Unauthorized { .. })), "{name} {refused:?}");
            }
        });
    }

    #[test]
    fn a_layer_that_is_here_is_asked_for_as_if_it_were_not() {
        tokio_test(async {
            let node = Node::new();
            let secret = image();
            node.registry.put_image("secret", "v1", &secret);
            node.pull("secret:v1").await.unwrap();
            let layers: Vec<_> = secret.blobs.iter().map(|blob| digest_part(blob)).collect();
            let count = |method: &str, repository: &str| {
                let asked = |layer: &String| format!("{method} /v2/{repository}/blobs/{layer}");
                layers.iter().map(|layer| node.registry.count(&asked(layer))).sum::<usize>()
            };
            // Manifest and config can be written by whoever knows the digests; the blobs are not there.
            node.registry.put_blob("thief", secret.config.as_bytes());
            node.registry.put_manifest("thief", "v1", OCI_MANIFEST, &secret.manifest());
            let refused = node.pull("thief:v1").await;
            assert!(matches!(refused, Err(Error::NotInRegistry { .. })), "{refused:?}");
            // A registry that has them is believed, and sends nothing.
            node.registry.put_image("copy", "v1", &secret);
            node.pull("copy:v1").await.unwrap();
            assert_eq!((count("HEAD", "copy"), count("GET", "copy")), (2, 0));
            // One that knows no HEAD of blobs is asked otherwise, one that redirects has agreed.
            node.registry.put_image("old", "v1", &secret);
            node.registry.fault("HEAD /v2/old/blobs", 100, Fault::Status(405, vec![]));
            node.pull("old:v1").await.unwrap();
            assert_eq!((count("HEAD", "old"), count("GET", "old")), (2, 2));
            node.registry.put_image("cdn", "v1", &secret);
            let elsewhere = ("Location", "http://127.0.0.1:1/signed".to_string());
            node.registry.fault("HEAD /v2/cdn/blobs", 100, Fault::Status(307, vec![elsewhere]));
            node.pull("cdn:v1").await.unwrap();
            // Its size is another.
            node.registry.put_image("liar", "v1", &secret);
            node.registry.fault(&format!("HEAD /v2/liar/blobs/{}", layers[0]), 1, Fault::Short(1));
            assert!(matches!(node.pull("liar:v1").await, Err(Error::Mismatch { .. })));
        });
    }

    #[test]
    fn another_blob_that_is_said_to_be_a_layer_that_is_here_has_to_show_it() {
        tokio_test(async {
            let node = Node::new();
            let secret = image();
            node.registry.put_image("secret", "v1", &secret);
            node.pull("secret:v1").await.unwrap();
            // The thief's own blobs, and the diff ids of the others.
            let mut thief = secret.clone();
            thief.blobs =
                TestImage::new(&[TestTar::new().file("a", "a"), TestTar::new().file("b", "b")]).blobs;
            node.registry.put_image("thief", "v1", &thief);
            let refused = node.pull("thief:v1").await;
            assert!(matches!(refused, Err(Error::Mismatch { what: "layer", .. })), "{refused:?}");
            // The same tars, packed in another way: fetched once to see it, and then known.
            let mut again = secret.clone();
            for (blob, packed) in again.blobs.iter_mut().zip(&secret.blobs) {
                let tar = std::io::read_to_string(flate2::read::GzDecoder::new(packed.as_slice())).unwrap();
                *blob = zstd::encode_all(tar.as_bytes(), 1).unwrap();
            }
            for (repository, expected) in [("zstd", 1), ("zstd2", 0)] {
                node.registry.put_image(repository, "v1", &again);
                node.pull(&format!("{repository}:v1")).await.unwrap();
                let layer = digest_part(&again.blobs[0]);
                let asked = format!("GET /v2/{repository}/blobs/{layer}");
                assert_eq!(node.registry.count(&asked), expected, "{repository}");
            }
            assert_eq!(node.layers(), 3);
            node.assert_no_ingest();
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
}
