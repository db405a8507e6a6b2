//! Bodies of answers: blobs that go on where they broke, small documents whole; neither for ever.

use std::time::{Duration, Instant};

use reqwest::{
    Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap},
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    endpoint::{Endpoint, chain},
    no_answer::{refused, unavailable},
    round::{Cure, Failure},
};
use crate::{
    failpoint,
    image::{Error, content::Chunk, document::Blob},
};

/// Between two pieces of a body.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// For the whole body of a document, whose largest has 8 MiB.
const DOCUMENT_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 60_000 });
/// The lowest rate of a blob in each window of waiting, so that it ends; bytes per second. The first
/// window allows for a bad start; each further one asks for twice as much, up to the last. Fifteen layers at a
/// time on one megabit are at the last.
const RATE_FIRST: u64 = 1 << 10;
const RATE_LAST: u64 = 8 << 10;
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// A blob on its way.
pub(super) struct Transfer<'a> {
    pub(super) blob: &'a Blob,
    chunks: mpsc::Sender<Chunk>,
    /// Bytes that were handed on.
    pub(super) done: u64,
    pace: Pace,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(blob: &'a Blob, chunks: mpsc::Sender<Chunk>) -> Self {
        Self { blob, chunks, done: 0, pace: Pace::default() }
    }

    /// Whether all of it is here, from earlier answers.
    pub(super) fn is_whole(&self) -> bool {
        self.done > 0 && self.done == self.blob.size
    }

    /// Hands on what one answer brings.
    pub(super) async fn receive(
        &mut self,
        mut response: Response,
        endpoint: &Endpoint,
    ) -> Result<(), Failure> {
        let mut skip = self.skip(&response, endpoint)?;
        loop {
            let began = Instant::now();
            let piece = match timeout(IDLE_TIMEOUT, response.chunk()).await {
                Ok(Ok(piece)) => piece,
                Ok(Err(error)) => {
                    let why = chain(&error);
                    return Err(Failure { cure: Cure::Again, ..unavailable(endpoint, why) });
                }
                Err(_) => return Err(unavailable(endpoint, "the transfer stands still".into())),
            };
            let Some(mut piece) = piece else { break };
            if let Some(rate) = self.pace.missed(began.elapsed(), piece.len() as u64) {
                let why = format!("the transfer is slower than {} KiB/s", rate >> 10);
                return Err(unavailable(endpoint, why));
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
                return Err(self.mismatch(format!(
                    "{} sends more than {} bytes",
                    endpoint.name(),
                    self.blob.size
                )));
            }
            if self.chunks.send(Chunk::Data(piece)).await.is_err() {
                return Ok(()); // the receiver has failed and says why
            }
        }
        // An answer that is cut ends with an error. This is all that there is.
        if self.done < self.blob.size {
            let why = format!("{} has only {} of its {} bytes", endpoint.name(), self.done, self.blob.size);
            return Err(self.mismatch(why));
        }
        self.end().await;
        Ok(())
    }

    /// How many bytes of an answer are here already; checks that it is of the right blob.
    fn skip(&self, response: &Response, endpoint: &Endpoint) -> Result<u64, Failure> {
        let headers = response.headers();
        let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
        let whole = if is_part { range(headers).and_then(|(_, whole)| whole) } else { length(headers) };
        check_size(self.blob, whole, endpoint)?;
        match range(headers) {
            Some((from, _)) if is_part && from == self.done => Ok(0),
            _ if is_part => {
                Err(refused(endpoint, "it sends another part of the blob than was asked for".into()))
            }
            // It does not know ranges: from the start again, and what is here already is passed over.
            _ => Ok(self.done),
        }
    }

    fn mismatch(&self, why: String) -> Failure {
        Error::Mismatch { what: "blob", expected: self.blob.digest.clone(), why }.into()
    }

    pub(super) async fn end(&mut self) {
        // A receiver that has gone has failed, and says why.
        let _sent = self.chunks.send(Chunk::End).await;
        failpoint!("image.blob-done");
    }
}

/// Holds what a host says of a blob's size against its descriptor.
pub(super) fn check_size(blob: &Blob, said: Option<u64>, endpoint: &Endpoint) -> Result<(), Failure> {
    match said {
        Some(said) if said != blob.size => {
            let why = format!(
                "{} has {said} bytes of it, not the {} of its descriptor",
                endpoint.name(),
                blob.size
            );
            Err(Error::Mismatch { what: "blob", expected: blob.digest.clone(), why }.into())
        }
        _ => Ok(()),
    }
}

/// Tells a transfer that trickles. Counts only time spent waiting for the network, not for our own disk.
#[derive(Debug, Default)]
struct Pace {
    /// Windows that are over.
    windows: u32,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// The rate that was missed, in bytes per second.
    fn missed(&mut self, waited: Duration, bytes: u64) -> Option<u64> {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < RATE_WINDOW {
            return None;
        }
        let rate = RATE_FIRST.saturating_mul(1 << self.windows.min(16)).min(RATE_LAST);
        let missed = self.bytes < rate * self.waited.as_secs();
        *self = Self { windows: self.windows.saturating_add(1), ..Self::default() };
        missed.then_some(rate)
    }
}

/// Reads the whole body of a document.
pub(super) async fn read_body(
    mut response: Response,
    bytes_max: u64,
    what: &'static str,
    endpoint: &Endpoint,
) -> Result<Vec<u8>, Failure> {
    let limit = || Failure::from(Error::Limit { what, limit: bytes_max });
    if response.content_length().is_some_and(|length| length > bytes_max) {
        return Err(limit());
    }
    let mut body = Vec::new();
    let reading = async {
        while let Some(piece) = response
            .chunk()
            .await
            .map_err(|error| Failure { cure: Cure::Again, ..unavailable(endpoint, chain(&error)) })?
        {
            if (body.len() + piece.len()) as u64 > bytes_max {
                return Err(limit());
            }
            body.extend_from_slice(&piece);
        }
        Ok(())
    };
    let late = |_| unavailable(endpoint, format!("it takes too long to send a {what}"));
    timeout(DOCUMENT_TIMEOUT, reading).await.map_err(late)??;
    Ok(body)
}

/// The length that an answer states, that to a HEAD included.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// `bytes 100-199/200` → (100, 200); the length may be unknown (`*`).
fn range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (part, whole) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((part.split_once('-')?.0.trim().parse().ok()?, whole.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_told_from_a_slow_disk_and_must_become_faster() {
        let minute = Duration::from_secs(60);
        let mut pace = Pace::default();
        assert_eq!(pace.missed(Duration::from_secs(59), 10), None);
        assert_eq!(pace.missed(Duration::from_secs(1), 10), Some(RATE_FIRST));

        let mut pace = Pace::default();
        for rate in [1, 2, 4, 8, 8, 8] {
            assert_eq!(pace.missed(minute, 60 * (rate << 10)), None, "{rate}");
        }
        assert_eq!(pace.missed(minute, 60 * RATE_LAST - 1), Some(RATE_LAST));
        // A window that ended late is as long as it was.
        assert_eq!(Pace::default().missed(minute * 2, 60 * RATE_FIRST), Some(RATE_FIRST));
    }

    #[test]
    fn a_content_range_is_read() {
        for (text, expected) in [
            ("bytes 100-199/200", Some((100, Some(200)))),
            ("bytes 0-0/*", Some((0, None))),
            ("bytes */200", None),
            ("items 1-2/3", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, text.parse().unwrap())]);
            assert_eq!(range(&headers), expected, "{text}");
        }
    }
}
