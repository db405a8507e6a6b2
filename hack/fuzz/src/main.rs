//! The fuzzer: libFuzzer around the target of `pintle::fuzzing` that `PINTLE_FUZZ_TARGET` names. One program for all,
//! because each would be a copy of pintle. `cargo xtask fuzz` builds and runs it.
#![no_main]

use std::{env, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use pintle::fuzzing::TARGETS;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = env::var("PINTLE_FUZZ_TARGET").expect("PINTLE_FUZZ_TARGET names a target");
    TARGETS.iter().find(|(name, _)| *name == wanted).expect("a target of that name").1
});

fuzz_target!(|input: &[u8]| TARGET(input));
