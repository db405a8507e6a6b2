//! System calls that no safe crate offers, each typed on both sides. The only room with `unsafe`.
//!
//! `rustix` is safe and used everywhere; what is here is what it lacks: fork, vfork, identity and capabilities,
//! seccomp, keyrings, `bpf`, `mount_setattr`, `setns` by pidfd, the flags of a link, memory shared with forked processes,
//! a heap that forgets. Mechanism only: no policy, nothing of ours below it.
#![expect(unsafe_code, reason = "this room is the fence around it")]
#![warn(clippy::multiple_unsafe_ops_per_block)]

pub mod bpf;
pub mod descriptors;
pub mod fdpass;
pub mod heap;
pub mod idmap;
pub mod link;
pub mod memfd;
pub mod mount;
pub mod passage;
pub mod path;
pub mod pids;
pub mod privilege;
pub mod process;
pub mod ready;
pub mod signal;
pub mod spawn;
pub mod sysctl;
pub mod terminal;
pub mod title;
