//! Exec, attach and port-forward to clients: a small HTTP server whose connections turn into SPDY or WebSocket.
//!
//! ```text
//! CRI request ── Server::url ──► URL with a one-time token
//! client with the URL ── server, upgrade ──► exec, attach, forward ── pod::Pods ──► descriptors
//! ```
//!
//! | file | what |
//! |---|---|
//! | `token.rs`, `request.rs` | what a URL stands for, until it is used or expires |
//! | `server.rs`, `upgrade.rs` | HTTP: from a request's head to a protocol, or to a refusal |
//! | `tls.rs` | certificates, the server's and its clients' |
//! | `spdy/` | SPDY/3.1: frames, headers and session, purely; a session on a socket |
//! | `websocket.rs`, `tunnel.rs` | channels in messages; a byte stream in messages |
//! | `remote/` | the client of an exec or attach: what it types, what it is shown, over either |
//! | `status.rs` | how it hears what came of its command |
//! | `copy.rs`, `descriptor.rs` | bytes between a client and a process |
//! | `activity.rs`, `heartbeat.rs` | when a client last did something; whether it is still there |
//! | `exec.rs`, `attach.rs` | an exec, an attach, from its client's arrival to its end |
//! | `forward/` | port-forward: which streams belong together, and their connections |
//!
//! Invariant: a URL serves once, within a minute; its token is 128 random bits, compared in constant time, never logged.
//! Invariant: whatever a client does, what is kept for it is bounded; a slow client is slowed, nobody else.
//! Invariant: a codec knows no socket and no clock.
//! Not here: who may do what (`cri`, `pod`), namespaces and processes (`supervisor`).

mod activity;
mod attach;
mod config;
mod copy;
mod descriptor;
mod exec;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod heartbeat;
mod remote;
mod request;
mod server;
mod spdy;
mod status;
mod tls;
mod token;
mod tunnel;
mod upgrade;
mod websocket;

pub use config::Config;
pub use remote::Streams;
pub use request::{Attach, Exec, PortForward, Request};
pub use server::Server;
pub(crate) use token::TooManyPending;

use std::io;

use tokio::net::TcpListener;

use crate::{pod::Pods, telemetry::task};

/// A bound address whose clients wait to be served.
#[derive(Debug)]
pub struct Listening {
    server: Server,
    listener: TcpListener,
}

/// Binds the configured address.
///
/// # Errors
/// As bind(2); `InvalidInput` for certificates that cannot be used, and for an address that others than this node can
/// reach when they need not show one.
pub async fn bind(config: Config) -> io::Result<Listening> {
    let (server, listener) = Server::bind(config).await?;
    Ok(Listening { server, listener })
}

impl Listening {
    /// Starts to serve clients; gives what makes URLs for them.
    pub fn serve(self, pods: Pods) -> Server {
        let Self { server, listener } = self;
        let config = server.config().clone();
        let serve = move |visit: server::Visit| {
            let (config, pods) = (config.clone(), pods.clone());
            async move {
                match visit.request {
                    Request::Exec(exec) => {
                        exec::serve(&config, &pods, exec, visit.protocol, visit.socket).await;
                    }
                    Request::Attach(attach) => {
                        attach::serve(&config, &pods, attach, visit.protocol, visit.socket).await;
                    }
                    Request::PortForward(forward) => {
                        forward::serve(&config, &pods, forward, visit.protocol, visit.socket).await;
                    }
                }
            }
        };
        task::spawn("stream-server", server.clone().accept(listener, serve));
        server
    }
}
