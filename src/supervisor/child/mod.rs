//! The processes that a supervisor forks: the helper that makes a container or an exec, and the anchor of a pid
//! namespace that all containers of a pod share.

mod anchor;
pub(super) mod helper;

pub use anchor::anchor_main;
