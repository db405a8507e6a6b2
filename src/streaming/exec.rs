//! An exec, from the arrival of its client to its end.

use std::{io, sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Fuse, FusedFuture as _},
};
use tokio::time::timeout;

use super::{
    config::Config,
    copy::{self, Ends, Gone},
    descriptor::Descriptor,
    remote::{self, Receiver, Sender, Streams},
    request::Exec,
    server::Socket,
    status::Outcome,
    upgrade::Protocol,
};
use crate::{
    pod::{ExecEnds, Pods, RunningExec, Wanted},
    telemetry::{log::chain, task},
};

/// How long a client with a terminal is given to say how large it is, before the program runs in one without a size.
const FIRST_SIZE_MAX: Duration = Duration::from_millis(250);

/// The end of a command, whoever waits for it: the session of its client, and when that has gone a task of its own.
type Exit = Fuse<BoxFuture<'static, Outcome>>;

/// Serves the client of one exec.
pub(super) async fn serve(config: &Config, pods: &Pods, exec: Exec, protocol: Protocol, socket: Socket) {
    let container = exec.container.as_str();
    let opened = timeout(config.setup_timeout(), remote::open(socket, exec.streams, protocol)).await;
    let (mut receiver, sender) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            tracing::info!(container, %error, "exec not run: its client did not open its streams");
            return;
        }
        Err(_) => {
            tracing::info!(container, "exec not run: its client did not open its streams in time");
            return;
        }
    };
    let wanted = if exec.streams.tty {
        Wanted::Terminal { size: receiver.first_size(FIRST_SIZE_MAX).await }
    } else {
        Wanted::Pipes { stdin: exec.streams.stdin }
    };
    let started = match pods.exec(&exec.container, exec.command, wanted).await {
        Ok(RunningExec { ends, exit }) => {
            ends_of(ends, exec.streams).map(|ends| (ends, exit)).map_err(|error| error.to_string())
        }
        Err(error) => Err(chain(&error)),
    };
    let (ends, exit) = match started {
        Ok(started) => started,
        Err(why) => return tell(&mut receiver, &sender, &Outcome::Failed(why)).await,
    };
    let mut exit: Exit = exit
        .map(|exit| match exit {
            Ok(code) => Outcome::Exited(code),
            Err(error) => Outcome::Failed(chain(&error)),
        })
        .boxed()
        .fuse();
    match copy::run(&mut receiver, &sender, ends, &mut exit, config.idle_timeout()).await {
        Ok(outcome) => tell(&mut receiver, &sender, &outcome).await,
        Err(gone) => {
            let (why, error) = match gone {
                Gone::Client(Ok(())) => ("its client has gone", None),
                Gone::Client(Err(error)) => ("the connection of its client broke", Some(error)),
                Gone::Idle => ("nothing went over it for too long", None),
            };
            tracing::debug!(container, error = error.map(tracing::field::display), "exec left: {why}");
            leave(config, exec.streams, exit);
        }
    }
}

async fn tell(receiver: &mut Receiver, sender: &Sender, outcome: &Outcome) {
    // A client that is not there any more does not want to know.
    if sender.end(outcome).await.is_ok() {
        receiver.linger().await;
    }
}

/// Sees to a command whose client has gone: its streams are closed already, which has hung up its terminal.
fn leave(config: &Config, streams: Streams, exit: Exit) {
    if exit.is_terminated() {
        // The command has ended, and only its output had not when the client went: nothing is left to wait for.
        return;
    }
    let grace = match (streams.tty, config.orphan_grace_s) {
        (_, Some(seconds)) => Some(Duration::from_secs(seconds)),
        (true, None) => Some(HANG_UP_GRACE),
        (false, None) => None,
    };
    task::spawn("exec-orphan", async move {
        match grace {
            // Dropping it kills the command.
            Some(grace) => drop(timeout(grace, exit).await),
            None => drop(exit.await),
        }
    });
}

/// How long a command has to end after its terminal was hung up.
const HANG_UP_GRACE: Duration = Duration::from_secs(10);

fn ends_of(ends: ExecEnds, streams: Streams) -> io::Result<Ends> {
    let end = |fd| Descriptor::new(fd).map(Arc::new);
    Ok(match ends {
        ExecEnds::Pipes { stdin, stdout, stderr } => Ends {
            stdin: stdin.map(end).transpose()?,
            stdout: Some(end(stdout)?),
            stderr: Some(end(stderr)?),
            terminal: None,
        },
        ExecEnds::Terminal(master) => {
            let master = end(master)?;
            Ends {
                stdin: streams.stdin.then(|| Arc::clone(&master)),
                stdout: Some(Arc::clone(&master)),
                stderr: None,
                terminal: Some(master),
            }
        }
    })
}
