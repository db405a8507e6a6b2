//! The kubelet's door: CRI v1 over gRPC on a unix socket. The only room that knows the wire types.
//!
//! ```text
//! request ── parse ──► pod::Pods, image::Images ── render ──► answer
//!                              └── error ── code ──► gRPC status
//! ```
//!
//! `runtime/` and `image.rs` are named as the RPCs are; `parse/` is the door, where every check of a request is made;
//! `render/` shows views; `code.rs` gives each failure its code, and `failure.rs` its log line, with the `subject.rs` of
//! the request; `chunk.rs` cuts lists into messages; `wire.rs` is the generated protocol and its proof; `serve.rs`
//! assembles the server and its limits, `deadline.rs` keeps each caller's deadline, `authority.rs` lets clients in that
//! name the socket as their host. `docs/rpcs.md` lists what is built, `docs/cri-fields.md` what becomes of each field of a
//! request (`fields.rs` compares it with the protocol); `skew.rs` proves that clients of other releases are understood.
//!
//! Invariant: a handler is parse, call, render. When a caller hangs up, the wait ends and the work does not.
//! Invariant: lists and statuses are read from published views and wait for nothing.
//! Invariant: no credential is logged or repeated in an error.
//! Not here: whether something exists or is in the right state (`pod`), what an image is called (`image`).

mod authority;
mod chunk;
mod code;
mod deadline;
mod failure;
#[cfg(test)]
mod fields;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod image;
mod parse;
mod render;
mod runtime;
mod serve;
mod signal;
#[cfg(test)]
mod skew;
mod subject;
pub(crate) mod wire;

use crate::cgroup;
pub(crate) use image::ImageService;
pub(crate) use runtime::RuntimeService;
pub(crate) use serve::serve;

/// Facts about this node's runtime that Status and Version report.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// As a semantic version; the node's info shows `pintle://VERSION`.
    pub(crate) runtime_version: String,
    /// Must not change while pods run: the kubelet reads it once.
    pub(crate) cgroup_driver: cgroup::Driver,
    /// Names of the RuntimeClass handlers that are configured, without the empty one.
    pub(crate) runtime_handlers: Vec<String>,
    /// Pods can have user namespaces of their own.
    pub(crate) user_namespaces: bool,
}

/// Writes a service's trait from its table of RPCs: each is handed to the method of the same name, its answer
/// wrapped, its failure logged; the answers to a `stream` follow one another. An RPC that is not in the table answers Unimplemented (`proto/build.rs`).
macro_rules! rpcs {
    ($trait:path, $service:ty:
        $($name:literal $method:ident($request:ident) -> $response:ident;)*
        $(stream $stream:literal $streamed:ident($asked:ident) -> $message:ident;)*
    ) => {
        impl $service {
            /// The RPCs that are built, as the protocol names them.
            #[cfg(test)]
            pub(super) const BUILT: &[&str] = &[$($name,)* $($stream),*];
        }

        #[tonic::async_trait]
        impl $trait for $service {
            $(
                async fn $method(
                    &self,
                    request: tonic::Request<crate::cri::wire::$request>,
                ) -> Result<tonic::Response<crate::cri::wire::$response>, tonic::Status> {
                    let request = request.into_inner();
                    let object = crate::cri::subject::Subject::subject(&request);
                    let answer = <$service>::$method(self, request).await;
                    let answer = answer.inspect_err(|status| crate::cri::failure::log($name, &object, status));
                    answer.map(tonic::Response::new)
                }
            )*
            $(
                async fn $streamed(
                    &self,
                    request: tonic::Request<crate::cri::wire::$asked>,
                ) -> Result<tonic::Response<tonic::codegen::BoxStream<crate::cri::wire::$message>>, tonic::Status>
                {
                    let request = request.into_inner();
                    let object = crate::cri::subject::Subject::subject(&request);
                    let answer = <$service>::$streamed(self, request).await;
                    let answer = answer.inspect_err(|status| crate::cri::failure::log($stream, &object, status));
                    answer.map(tonic::Response::new)
                }
            )*
        }
    };
}
use rpcs;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_manual_lists_every_rpc_and_what_is_built_of_them() {
        let facts = include_str!("../../proto/runtime/v1/wire.txt");
        let rpcs = facts.lines().filter_map(|fact| fact.strip_prefix("rpc "));
        let built = |service, rpc| match service {
            "RuntimeService" => RuntimeService::BUILT.contains(&rpc),
            _ => ImageService::BUILT.contains(&rpc),
        };
        let expected: BTreeMap<&str, bool> = rpcs
            .map(|fact| {
                let mut words = fact.split(' ');
                let (service, rpc) = (words.next().unwrap(), words.next().unwrap());
                (rpc, built(service, rpc))
            })
            .collect();

        let manual = include_str!("../../docs/rpcs.md");
        let rows = manual.lines().filter_map(|line| line.strip_prefix("| "));
        let listed: BTreeMap<&str, bool> = rows
            .filter_map(|row| {
                let mut cells = row.split(" | ");
                let (rpc, built) = (cells.next()?, cells.next()?.trim_end_matches(" |"));
                matches!(built, "yes" | "no").then_some((rpc, built == "yes"))
            })
            .collect();
        assert_eq!(listed, expected);
        assert_eq!(RuntimeService::BUILT.len() + ImageService::BUILT.len(), 40);
    }
}
