//! An attach, from the arrival of its client to its end.

use std::io;

use tokio::time::timeout;

use super::{
    config::Config,
    heartbeat::while_not_reading,
    remote::{self, CHUNK_ROOM, Input, Output, Receiver, Sender},
    request::Attach,
    server::Socket,
    status::Outcome,
    upgrade::Protocol,
};
use crate::{
    pod::Pods,
    supervisor::{Attachment, Shown},
    telemetry::log::chain,
};

/// Why a client is cut off that a supervisor has dropped.
const DROPPED: &str = "detached: this client did not read as fast as the container wrote";

/// Serves the client of one attach. Whatever becomes of it, the container goes on.
pub(super) async fn serve(config: &Config, pods: &Pods, attach: Attach, protocol: Protocol, socket: Socket) {
    let (container, streams) = (attach.container.as_str(), attach.streams);
    let opened = timeout(config.setup_timeout(), remote::open(socket, streams, protocol)).await;
    let Ok(Ok((mut receiver, sender))) = opened else {
        tracing::info!(container, "not attached: the client did not open its streams");
        return;
    };
    let attached = pods.attach(&attach.container, streams.stdin, streams.stdout, streams.stderr).await;
    let outcome = match attached {
        Ok(attachment) => {
            let activity = receiver.activity();
            let shown = tokio::select! {
                biased;
                shown = show(&attachment, &sender) => shown,
                gone = feed(&mut receiver, &sender, &attachment) => gone.map(|()| None),
                () = activity.idle(config.idle_timeout()) => Ok(None),
            };
            match shown {
                Ok(Some(outcome)) => outcome,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(container, %error, "detached: the client has gone");
                    return;
                }
            }
        }
        Err(error) => Outcome::Failed(chain(&error)),
    };
    // A client that is not there any more does not want to know.
    if sender.end(&outcome).await.is_ok() {
        receiver.linger().await;
    }
}

/// Shows the client what the container writes, to its end.
async fn show(attachment: &Attachment, sender: &Sender) -> io::Result<Option<Outcome>> {
    let mut chunk = Vec::new();
    loop {
        match attachment.next(&mut chunk, CHUNK_ROOM).await? {
            Some(Shown::Stdout) => sender.write(Output::Stdout, &mut chunk).await?,
            Some(Shown::Stderr) => sender.write(Output::Stderr, &mut chunk).await?,
            // The exit code is the container's, and its status has it.
            Some(Shown::Ended) => return Ok(Some(Outcome::Exited(0))),
            None => return Ok(Some(Outcome::Failed(DROPPED.into()))),
        }
    }
}

/// Gives the container what the client types, until the client has gone.
async fn feed(receiver: &mut Receiver, sender: &Sender, attachment: &Attachment) -> io::Result<()> {
    while let Some(input) = receiver.next().await? {
        let give = async {
            match input {
                Input::Stdin(bytes) => attachment.stdin(&bytes).await,
                Input::StdinEnded => attachment.end_stdin().await,
                Input::Resize(size) => attachment.resize(size).await,
            }
        };
        if while_not_reading(give, || sender.heartbeat()).await?.is_err() {
            // The end of the container, which is shown; or the client was dropped, which is seen there too.
            return std::future::pending().await;
        }
    }
    Ok(())
}
