//! System call filters: from a profile to the program that the kernel runs before every call.
//!
//! ```text
//! default.rs (our table) ─┐
//!                         ├→ policy.rs → compile.rs → bpf.rs → bytes for seccomp(2)
//! profile.rs (JSON) ──────┘       ↑ numbers: abi.rs
//! ```
//! The daemon compiles; the process that becomes the container only loads. The default is compiled once
//! for each set of capabilities that makes a difference.
//!
//! Invariant: what cannot be compiled is an error. Nothing here ever gives out a weaker filter instead.
//! Invariant: a call that the profile's author cannot have known is answered ENOSYS, never EPERM.
//! Not here: reading profiles from disk, and loading filters (`launcher`).

mod abi;
mod bpf;
mod compile;
#[cfg(test)]
mod containerd;
mod default;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
#[cfg(any(test, feature = "fuzzing"))]
mod interpret;
mod policy;
mod profile;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use self::{
    abi::NATIVE,
    profile::{Profile, Subject},
};

/// A profile's size in bytes at most. The longest in use are near 20 KiB.
pub const PROFILE_BYTES_MAX: usize = 1 << 20;
/// Compiled defaults kept, some 3 KiB each. A node has a handful of different capability sets.
const CACHE_ENTRIES_MAX: usize = 64;

/// Why a profile could not be made into a filter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("seccomp profile has both architectures and archMap")]
    ArchitecturesTwice,
    #[error("seccomp profile has errno {number}, above the largest there is")]
    Errno { number: u32 },
    #[error("seccomp profile has errno {name:?} without errnoRet, and that name has no number here")]
    ErrnoName { name: String },
    #[error("seccomp profile tests argument {index}, but a system call has arguments 0 to 5")]
    Index { index: u32 },
    #[error("seccomp profile is not valid")]
    Json(#[source] serde_json::Error),
    #[error("seccomp profile asks for kernel {version:?}, which is no version")]
    Kernel { version: String },
    #[error("seccomp profile has a rule with both name and names")]
    Names,
    #[error("seccomp profile uses SCMP_ACT_NOTIFY or listenerPath: pintle has no listener that would answer")]
    Notify,
    #[error("seccomp profile of {bytes} bytes exceeds {PROFILE_BYTES_MAX}")]
    TooLarge { bytes: usize },
    #[error(
        "seccomp profile needs {instructions} or more instructions, the kernel takes {}",
        bpf::INSTRUCTIONS_MAX
    )]
    TooLong { instructions: usize },
}

/// The filter that a process with these capabilities (bit N is capability N) gets by default, ready to
/// load: `struct sock_filter` after `struct sock_filter`.
pub fn default(capabilities: u64) -> Arc<[u8]> {
    static CACHE: Mutex<BTreeMap<u64, Arc<[u8]>>> = Mutex::new(BTreeMap::new());
    static RELEVANT: LazyLock<u64> = LazyLock::new(default::relevant_capabilities);

    let capabilities = capabilities & *RELEVANT;
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(filter) = cache.get(&capabilities) {
        return Arc::clone(filter);
    }
    #[expect(clippy::expect_used, reason = "a table of ours, whose size a test asserts")]
    let program = compile::compile(&default::policy(NATIVE, capabilities)).expect("our table fits");
    let filter: Arc<[u8]> = bpf::bytes(&program).into();
    if cache.len() >= CACHE_ENTRIES_MAX {
        cache.pop_first();
    }
    cache.insert(capabilities, Arc::clone(&filter));
    filter
}

/// The filter that a profile was compiled to.
#[derive(Debug)]
pub struct Filter {
    /// Ready to load: `struct sock_filter` after `struct sock_filter`.
    pub program: Arc<[u8]>,
    /// How it is loaded: `SECCOMP_FILTER_FLAG_*` (seccomp(2)).
    pub flags: u32,
    /// Keys of the profile that are not known and have no effect; some, if there are many.
    pub unknown_keys: Vec<String>,
}

/// The filter that a profile in JSON asks for, for a process with these capabilities on a kernel of that major and
/// minor version.
///
/// Names of calls and capabilities that do not exist here are passed over: profiles are written for many
/// machines.
///
/// # Errors
/// [`Error`] if the profile is not valid, uses what is not supported or is too long.
pub fn from_json(bytes: &[u8], capabilities: u64, kernel: (u32, u32)) -> Result<Filter, Error> {
    if bytes.len() > PROFILE_BYTES_MAX {
        return Err(Error::TooLarge { bytes: bytes.len() });
    }
    let profile: Profile = serde_json::from_slice(bytes).map_err(Error::Json)?;
    let policy = profile.policy(Subject { machine: NATIVE, capabilities, kernel })?;
    let program = bpf::bytes(&compile::compile(&policy)?).into();
    let unknown_keys = profile.unknown_keys().into_iter().map(str::to_owned).collect();
    Ok(Filter { program, flags: profile.flags(), unknown_keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_is_compiled_once_for_all_sets_that_make_no_difference() {
        let plain = default(0xa804_25fb);
        assert!(Arc::ptr_eq(&plain, &default(0xa804_25fb | 1 << 12))); // NET_ADMIN
        assert_ne!(plain, default(0xa804_25fb | 1 << 21)); // SYS_ADMIN
        assert_eq!(plain.len() % 8, 0);
    }

    #[test]
    fn a_profile_over_the_limit_is_not_even_read() {
        let bytes = vec![b' '; PROFILE_BYTES_MAX + 1];
        assert!(
            matches!(from_json(&bytes, 0, (5, 14)), Err(Error::TooLarge { bytes }) if bytes == PROFILE_BYTES_MAX + 1)
        );
        assert!(matches!(from_json(&bytes[1..], 0, (5, 14)), Err(Error::Json(_))));
    }

    #[test]
    fn a_deeply_nested_profile_is_an_error() {
        let bytes = "[".repeat(100_000);
        assert!(matches!(from_json(bytes.as_bytes(), 0, (5, 14)), Err(Error::Json(_))));
    }
}
