//! A layer on its way from a stream of bytes to the shelf, wherever the stream comes from.

use std::{io::BufRead, sync::Arc};

use super::{
    Error,
    content::{self, Verified},
    document::Blob,
    layers::{Layer, Layers, layer_error},
    local::Local,
    unpack::{self, Archive, LayerError, Limits},
};
use crate::model::Digest;

/// Times that an image is taken again because another process removed a layer under it.
const RACES_MAX: usize = 3;

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

/// Takes an image, and takes it again when another process has removed one of its layers meanwhile.
pub(super) async fn despite_removals<T, F>(take: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    for _ in 1..RACES_MAX {
        match take().await {
            Err(Error::LayerRemoved(_)) => {}
            result => return result,
        }
    }
    take().await
}
