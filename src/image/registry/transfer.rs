//! Bodies of answers: blobs that go on where they broke, small documents whole; neither for ever.

use std::time::{Duration, Instant};

use reqwest::{
    Response, StatusCode,
    header::{CONTENT_RANGE, HeaderMap},
};
use tokio::{sync::mpsc, time::timeout};

use super::endpoint::chain;
use crate::{
    failpoint,
    image::{Error, content::Chunk, document::Blob},
};

/// Between two pieces of a body.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// A body must bring this many bytes within this time of waiting for it, or it would never end.
const SLOW_BYTES_MIN: u64 = 60 << 10;
const SLOW_WINDOW: Duration = Duration::from_secs(60);

/// A blob on its way.
pub(super) struct Transfer<'a> {
    pub(super) blob: &'a Blob,
    chunks: mpsc::Sender<Chunk>,
    /// Bytes that were handed on.
    pub(super) done: u64,
    slow: Slow,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(blob: &'a Blob, chunks: mpsc::Sender<Chunk>) -> Self {
        Self { blob, chunks, done: 0, slow: Slow::default() }
    }

    /// Hands on what one answer brings.
    pub(super) async fn receive(&mut self, mut response: Response, host: &str) -> Result<(), Error> {
        let unavailable = |why: String| Error::RegistryUnavailable { host: host.into(), why };
        let mut skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if range_start(response.headers()) == Some(self.done) => 0,
            StatusCode::PARTIAL_CONTENT => {
                let why = "it sends another part of the blob than was asked for".into();
                return Err(Error::RegistryRefused { host: host.into(), why });
            }
            // It does not know ranges: from the start again, and what is here already is passed over.
            _ => self.done,
        };
        loop {
            let began = Instant::now();
            let piece = timeout(IDLE_TIMEOUT, response.chunk()).await;
            let piece = piece
                .map_err(|_| unavailable("the transfer stands still".into()))?
                .map_err(|error| unavailable(chain(&error)))?;
            let Some(mut piece) = piece else { break };
            if self.slow.too_slow(began.elapsed(), piece.len() as u64) {
                return Err(unavailable("the transfer is slower than 1 KiB/s".into()));
            }
            let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= passed as u64;
            drop(piece.split_to(passed));
            if piece.is_empty() {
                continue;
            }
            if self.done < self.blob.size / 2 && self.done + piece.len() as u64 >= self.blob.size / 2 {
                failpoint!("image.blob-half");
            }
            self.done += piece.len() as u64;
            if self.done > self.blob.size {
                let why = format!("{host} sends more than {} bytes", self.blob.size);
                return Err(Error::Mismatch { what: "layer", expected: self.blob.digest.clone(), why });
            }
            if self.chunks.send(Chunk::Data(piece)).await.is_err() {
                return Ok(()); // the receiver has failed and says why
            }
        }
        if self.done < self.blob.size {
            return Err(unavailable(format!(
                "the transfer ended after {} of {} bytes",
                self.done, self.blob.size
            )));
        }
        self.end().await
    }

    pub(super) async fn end(&mut self) -> Result<(), Error> {
        let _ = self.chunks.send(Chunk::End).await;
        failpoint!("image.blob-done");
        Ok(())
    }
}

/// Tells a transfer that trickles. Counts only time spent waiting for the network, not for our own disk.
#[derive(Debug, Default)]
struct Slow {
    waited: Duration,
    bytes: u64,
}

impl Slow {
    fn too_slow(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < SLOW_WINDOW {
            return false;
        }
        let slow = self.bytes < SLOW_BYTES_MIN;
        *self = Self::default();
        slow
    }
}

/// Reads a whole body of limited size.
pub(super) async fn read_body(
    mut response: Response,
    bytes_max: u64,
    what: &'static str,
    host: &str,
) -> Result<Vec<u8>, Error> {
    let unavailable = |why: String| Error::RegistryUnavailable { host: host.into(), why };
    if response.content_length().is_some_and(|length| length > bytes_max) {
        return Err(Error::Limit { what, limit: bytes_max });
    }
    let mut body = Vec::new();
    let mut slow = Slow::default();
    loop {
        let began = Instant::now();
        let piece = timeout(IDLE_TIMEOUT, response.chunk()).await;
        let piece = piece
            .map_err(|_| unavailable("it stops in the middle".into()))?
            .map_err(|e| unavailable(chain(&e)))?;
        let Some(piece) = piece else { return Ok(body) };
        if (body.len() + piece.len()) as u64 > bytes_max {
            return Err(Error::Limit { what, limit: bytes_max });
        }
        if slow.too_slow(began.elapsed(), piece.len() as u64) {
            return Err(unavailable("it is slower than 1 KiB/s".into()));
        }
        body.extend_from_slice(&piece);
    }
}

/// `bytes 100-199/200` → 100
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_told_from_a_slow_disk() {
        let mut slow = Slow::default();
        assert!(!slow.too_slow(Duration::from_secs(59), 10));
        assert!(slow.too_slow(Duration::from_secs(2), 10));
        assert!(!slow.too_slow(Duration::from_secs(61), SLOW_BYTES_MIN));
    }
}
