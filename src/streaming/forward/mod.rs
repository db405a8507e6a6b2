//! Port-forward: connections of a client to ports of a pod.

mod flow;
mod pairs;
mod spdy;
mod websocket;

use std::sync::Arc;

use futures_util::FutureExt as _;

use super::{config::Config, request::PortForward, server::Socket, tunnel, upgrade::Protocol};
use crate::{pod::Pods, telemetry::log::chain};
use flow::Dial;

/// Serves the client of one port-forward.
pub(super) async fn serve(
    config: &Config,
    pods: &Pods,
    forward: PortForward,
    protocol: Protocol,
    socket: Socket,
) {
    let PortForward { pod, ports } = forward;
    let dial: Dial = {
        let (pods, pod) = (pods.clone(), pod.clone());
        Arc::new(move |port| {
            let (pods, pod) = (pods.clone(), pod.clone());
            async move { pods.dial(&pod, port).await.map_err(|error| chain(&error)) }.boxed()
        })
    };
    let stopped = async {
        pods.stopped(&pod).await;
        format!("pod {pod} was stopped")
    };
    let (setup, idle) = (config.setup_timeout(), config.idle_timeout());
    let ended = match protocol {
        Protocol::Spdy(_) => spdy::over_spdy(socket, dial, stopped, setup, idle).await,
        Protocol::Tunnel => {
            let (inner, carry) = tunnel::open(socket).await;
            let (served, carried) = tokio::join!(spdy::over_spdy(inner, dial, stopped, setup, idle), carry);
            served.and(carried)
        }
        Protocol::WebSocket(framing) => {
            websocket::over_websocket(socket, framing, &ports, dial, stopped, idle).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(pod = pod.as_str(), %error, "port-forward ended");
    }
}
