//! Finds out that a client has gone while nothing is read from it.
//!
//! A program that does not read its input stops its client: nothing more is read from the connection. The end of the
//! connection, which comes behind everything that was not read, is not seen then, and may never arrive: the client's
//! kernel keeps it behind what it could not deliver. What is sent to a client that has gone is answered by a reset,
//! though, so it is sent something that means nothing. It must not be a ping: the SPDY client of Kubernetes answers
//! one before it reads on, and cannot send that answer either, so that program and client would wait for each other.

use std::{io, time::Duration};

/// Between two heartbeats. The first one after the client has gone brings the reset, the second one fails.
const PERIOD: Duration = Duration::from_secs(2);

/// Waits for `work`, during which nothing is read from the client, and calls `beat` now and then.
///
/// # Errors
/// When a heartbeat cannot be sent: the client has gone.
pub(super) async fn while_not_reading<T, B>(
    work: impl Future<Output = T>,
    beat: impl Fn() -> B,
) -> io::Result<T>
where
    B: Future<Output = io::Result<()>>,
{
    let beats = async {
        loop {
            tokio::time::sleep(PERIOD).await;
            if let Err(error) = beat().await {
                return error;
            }
        }
    };
    // A heartbeat that waits, since the client does not read either, keeps nothing from going on.
    tokio::select! {
        biased;
        done = work => Ok(done),
        error = beats => Err(error),
    }
}
