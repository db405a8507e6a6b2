//! What the stories are told with: a node of its own for each test, a kubelet's client, and a way to see
//! what was left behind.
//!
//! A [`Node`] has its own network, mount and process namespaces, so two tests never meet, and whatever a
//! failed test leaves dies with it. Inside runs a registry on loopback and `pintle serve`.

mod cgroups;
pub(crate) mod chance;
mod cri;
pub(crate) mod figures;
mod folders;
mod frozen;
mod http;
mod init;
mod leak;
mod node;
mod pod;
mod programs;
pub(crate) mod runner;
pub(crate) mod spdy;
mod upgrade;
mod wait;

pub(crate) use cgroups::{Driver, is_unified};
pub(crate) use cri::{
    Cri, Messages,
    v1::{self, ContainerState},
};
pub(crate) use frozen::{Frozen, FrozenDisk, freezer_of};
pub(crate) use http::{ROLE as NODE_GET, node_get};
pub(crate) use init::{ROLE as NODE_INIT, node_init, pid_of_program};
pub(crate) use node::{Node, Setup};
pub(crate) use pod::{Container, Output, Pod, pod_config};
pub(crate) use programs::{client, new_plugins, other_clients, patched_critest, pintle, streams};
pub(crate) use spdy::Spdy;
pub(crate) use upgrade::{Idlers, WebSocket, request, request_websocket};
pub(crate) use wait::{wait_for, wait_until};

/// The small image that most tests run.
pub(crate) const BUSYBOX: &str = "docker.io/library/busybox:latest";

/// The part of a node's cgroup that a kubelet makes and removes itself: this folder and the pods' in it. What
/// is below a pod's folder is pintle's.
const KUBELETS: &str = "kubepods";
