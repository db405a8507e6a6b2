//! A layer on its way from a stream of bytes to the shelf, wherever the stream comes from.

use std::{
    io::{self, BufRead, Read},
    sync::Arc,
};

use super::{
    Error,
    content::{Packing, Unpacked, Verified, recognise},
    document::Blob,
    layers::{Layer, layer_error},
    local::Local,
    record::LayerRecord,
    unpack::{LayerError, Limits},
    worker::{Decompression, Leash, Unpacking},
};
use crate::model::Digest;

/// Attempts at an image whose layers another process removes meanwhile.
const ATTEMPTS_MAX: usize = 3;

/// Has one layer unpacked from a stream, by workers on `leash`, and holds it against both its digests. Blocks. When it
/// fails, or the stream ends early, nothing is left.
pub(super) fn take(
    local: &Local,
    stream: impl BufRead + Send,
    blob: Blob,
    diff_id: &Digest,
    leash: &Leash,
) -> Result<Arc<Layer>, Error> {
    let (folder, root) = local.layers.begin()?;
    let limits = Limits { file_bytes_max: local.config.layer_unpacked_bytes_max };
    let digest = blob.digest.clone();
    let name = digest.to_string();
    let unpacked = consume(local, stream, blob, diff_id, leash, |tar| {
        Unpacking::begin(&*local.workers, leash, &name, root, limits)?.finish(tar)
    })?;
    local.layers.finish(diff_id.hex(), folder, LayerRecord::from(unpacked).with_blob(digest))
}

/// Holds a stream against both digests of a layer, and keeps nothing of it. Blocks.
pub(super) fn prove(
    local: &Local,
    stream: impl BufRead + Send,
    blob: Blob,
    diff_id: &Digest,
    leash: &Leash,
) -> Result<(), Error> {
    let read = |tar: &mut Unpacked<'_>| io::copy(tar, &mut io::sink()).map_err(LayerError::Read);
    consume(local, stream, blob, diff_id, leash, read).map(drop)
}

/// Gives a layer's tar to `use_tar`, to its end, and then says whether it was the right one. What is compressed goes
/// through a worker on `leash`.
fn consume<T>(
    local: &Local,
    stream: impl BufRead + Send,
    blob: Blob,
    diff_id: &Digest,
    leash: &Leash,
    use_tar: impl FnOnce(&mut Unpacked<'_>) -> Result<T, LayerError>,
) -> Result<T, Error> {
    let digest = blob.digest.clone();
    let failed = |source: LayerError| layer_error(&digest, &local.root, source);
    let (verified, receipt) = Verified::new(stream, blob);
    let open = || -> io::Result<Box<dyn Read + Send + '_>> {
        let (packing, stream) = recognise(verified)?;
        if packing == Packing::None {
            return Ok(Box::new(stream));
        }
        let workers = &*local.workers;
        Ok(Box::new(Decompression::begin(workers, leash, &digest.to_string(), stream)?))
    };
    let tar = open().map_err(|error| failed(LayerError::Read(error)))?;
    let mut tar = Unpacked::new(tar, receipt.clone(), local.config.layer_unpacked_bytes_max);
    let made = use_tar(&mut tar).map_err(failed)?;
    let found = tar.digest();
    let mismatch = |why: String| Error::Mismatch { what: "layer", expected: digest.clone(), why };
    receipt.check().map_err(mismatch)?;
    if found != *diff_id {
        return Err(mismatch(format!("it unpacks to {found}, not to {diff_id} as the image says")));
    }
    Ok(made)
}

/// The attempts at one image: it is taken again when another process has removed one of its layers meanwhile.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    made: usize,
}

impl Attempts {
    /// Counts an attempt. Whether its result is the one to keep.
    pub(super) fn end_with<T>(&mut self, result: &Result<T, Error>) -> bool {
        self.made += 1;
        self.made >= ATTEMPTS_MAX || !matches!(result, Err(Error::LayerRemoved(_)))
    }
}

/// Takes an image, as often as [`Attempts`] allows.
pub(super) async fn despite_removals<T, F>(take: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut attempts = Attempts::default();
    loop {
        let result = take().await;
        if attempts.end_with(&result) {
            return result;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_removed_layer_causes_another_attempt_and_there_are_three() {
        let removed = || Err(Error::LayerRemoved(super::super::document::digest_of(b"layer")));
        let mut attempts = Attempts::default();
        assert!(!attempts.end_with::<()>(&removed()));
        assert!(!attempts.end_with::<()>(&removed()));
        assert!(attempts.end_with::<()>(&removed()), "the third is the last");
        assert!(Attempts::default().end_with(&Ok(())));
        let other = Error::Limit { what: "size of a layer", limit: 1 };
        assert!(Attempts::default().end_with::<()>(&Err(other)));
    }
}
