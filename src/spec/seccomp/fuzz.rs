//! The fuzz target of seccomp profiles.

use super::{
    abi::NATIVE,
    compile::{compile, reading::Reading},
    interpret::{self, Call},
    profile::{Profile, Subject},
};

/// Calls of one input: behind the profile each takes this many bytes.
const CALL_BYTES: usize = 1 + 2 + 8;

/// Compiles a profile and compares what the program answers to some calls with what the profile says. A NUL ends the
/// profile; behind it are capabilities, and calls: which ABI, which number, which first argument.
pub(crate) fn profile(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let (json, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (capabilities, calls) = rest.split_first_chunk().unwrap_or((&[0; 8], rest));
    let Ok(profile) = serde_json::from_slice::<Profile>(json) else { return };
    let capabilities = u64::from_le_bytes(*capabilities);
    let Ok(policy) = profile.policy(Subject { machine: NATIVE, capabilities, kernel: (6, 1) }) else {
        return;
    };
    let Ok(program) = compile(&policy) else { return };
    interpret::check(&program);
    let reading = Reading::of(&policy, NATIVE);
    for call in calls.chunks_exact(CALL_BYTES).take(64) {
        let abi = NATIVE.abis[usize::from(call[0]) % NATIVE.abis.len()];
        let number = abi.span().0 | u32::from(u16::from_le_bytes([call[1], call[2]]));
        let argument = call[3..].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let call = Call { audit: abi.audit(), number, args: [argument; 6] };
        assert_eq!(interpret::run(&program, &call).0, reading.expected(&call), "{call:x?}");
    }
}
