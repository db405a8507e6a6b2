//! The operator's configuration: one TOML file, drop-ins beside it, flags.
//!
//! - `settings`: [`Config`], a list of the rooms' own configurations and the three paths of the daemon.
//! - `load`: files, then flags, into one checked [`Config`]; the later wins, key by key.
//! - `listen`: the address of the CRI socket.
//! - `reference`: `default.toml`, the manual that `pintle config default` prints and `docs/config.md` shows.
//!
//! Invariant: pintle starts without any file; every key has a default.
//! Invariant: an unknown key is an error that names file, line and key, never ignored.
//! Invariant: a room gets its own part and never sees the whole.
//! Not here: registry mirrors (`hosts.toml`) and CNI lists, which have formats of their own.

mod listen;
mod load;
mod reference;
mod settings;

pub use listen::Listen;
pub use load::{Flags, Loaded, load};
pub use reference::DEFAULT;
pub use settings::Config;
