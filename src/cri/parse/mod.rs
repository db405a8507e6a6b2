//! Wire → model: the door. Every check of what a caller sent is made here, once.
//!
//! Invariant: what leaves here is well formed and within [`limits`]; later rooms do not look again.
//! Invariant: nothing has happened yet when a request is refused.
//! Invariant: what pintle cannot do is refused by name, never dropped in silence. The exceptions do nothing
//! on a host without the mechanism or where it is not enabled, and peers ignore them there too: SELinux options and
//! relabelling.
//! Not here: whether an id, an image or a handler exists, and whether a state allows the request.

mod container;
mod exec;
mod filter;
mod id;
mod image;
pub(crate) mod limits;
mod pod;
mod resources;
mod security;
mod selinux;
mod text;
mod users;

use std::{borrow::Cow, fmt};

pub(crate) use container::create_container;
pub(crate) use exec::{Attach, Exec, PortForward, attach, exec, exec_sync, grace, port_forward};
pub(crate) use filter::{ContainerFilter, PodFilter};
pub(crate) use id::id;
pub(crate) use image::{credentials, pod_cidrs, reference};
pub(crate) use pod::run_pod;
pub(crate) use resources::{update_container, update_pod};

/// Why a request was turned away at the door: which object, which field, what about it. The field is the
/// path of its name in the CRI, from the request down.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{object}{field} {why}")]
pub(crate) struct Refusal {
    /// `pod default/web: `, or empty while the object has no name yet.
    object: String,
    field: String,
    why: Cow<'static, str>,
}

impl Refusal {
    fn under(mut self, parent: impl fmt::Display) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }

    fn of(mut self, object: &str) -> Self {
        self.object = format!("{object}: ");
        self
    }
}

/// Why a value will not do, before its place is known.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Why(Cow<'static, str>);

impl From<&'static str> for Why {
    fn from(why: &'static str) -> Self {
        Self(why.into())
    }
}

impl From<String> for Why {
    fn from(why: String) -> Self {
        Self(why.into())
    }
}

/// Gives a [`Why`] its place.
trait At<T> {
    fn at(self, field: impl fmt::Display) -> Result<T, Refusal>;
}

impl<T> At<T> for Result<T, Why> {
    fn at(self, field: impl fmt::Display) -> Result<T, Refusal> {
        self.map_err(|Why(why)| Refusal { object: String::new(), field: field.to_string(), why })
    }
}

/// Puts a refused field below the message that holds it.
trait Under<T> {
    fn under(self, parent: impl fmt::Display) -> Result<T, Refusal>;
}

impl<T> Under<T> for Result<T, Refusal> {
    fn under(self, parent: impl fmt::Display) -> Result<T, Refusal> {
        self.map_err(|refusal| refusal.under(parent))
    }
}

/// A message that must be there.
fn present<T>(field: &'static str, value: Option<T>) -> Result<T, Refusal> {
    value.ok_or_else(|| Why::from("is missing")).at(field)
}

/// Refuses what pintle has no part for.
fn absent(field: &'static str, given: bool, why: &'static str) -> Result<(), Refusal> {
    if given { Err(Why::from(why)).at(field) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::cri::{fuzz, wire};

    #[test]
    fn a_refusal_names_object_field_and_reason() {
        let refusal = Err::<(), _>(Why::from("is empty")).at("name").under("config.metadata").unwrap_err();
        assert_eq!(refusal.to_string(), "config.metadata.name is empty");
        assert_eq!(
            refusal.of("pod default/web").to_string(),
            "pod default/web: config.metadata.name is empty"
        );
    }

    /// Bytes that begin like a message of ours, so that random changes reach the parsers.
    fn messages() -> impl Strategy<Value = Vec<u8>> {
        let seeds = [
            container::tests::request().encode_to_vec(),
            pod::tests::request().encode_to_vec(),
            wire::ExecSyncRequest { container_id: "a".into(), cmd: vec!["b".into()], timeout: 1 }
                .encode_to_vec(),
        ];
        let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12);
        (prop::sample::select(seeds.to_vec()), changes).prop_map(|(mut bytes, changes)| {
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn no_message_makes_the_door_panic(bytes in messages()) {
            fuzz::requests(&bytes);
        }

        #[test]
        fn no_bytes_make_the_door_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            fuzz::requests(&bytes);
        }
    }
}
