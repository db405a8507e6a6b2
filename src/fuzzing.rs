//! The targets of `hack/fuzz`: one for each parser of foreign bytes. A target takes any bytes and panics for a defect.
//!
//! They stand beside what they try, in the `fuzz.rs` of each room. The inputs of `hack/fuzz/corpus`, among them all that
//! ever broke one, are tried in every run of the tests.

use crate::{cdi, cri, image, launcher, network, pod, spec, streaming, supervisor};

/// A target and the name of its folder in the corpus.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, by its name.
pub const TARGETS: [Target; 21] = [
    ("authority", cri::fuzz::authority),
    ("cdi", cdi::fuzz::cdi),
    ("challenge", image::fuzz::challenge),
    ("cni-config", network::fuzz::cni_config),
    ("cni-result", network::fuzz::cni_result),
    ("compressed", image::fuzz::compressed),
    ("cri", cri::fuzz::requests),
    ("decompressor", image::fuzz::decompressor),
    ("hosts-toml", image::fuzz::hosts_toml),
    ("image-config", image::fuzz::config),
    ("image-record", image::fuzz::record),
    ("image-worker", image::fuzz::worker),
    ("manifest", image::fuzz::manifest),
    ("pod-records", pod::fuzz::records),
    ("reference", image::fuzz::reference),
    ("seccomp", spec::fuzz::seccomp_profile),
    ("spdy", streaming::fuzz::spdy),
    ("supervisor", supervisor::fuzz::frames),
    ("tar", image::fuzz::tar),
    ("users", launcher::fuzz::users),
    ("websocket", streaming::fuzz::websocket),
];

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_stored_input_is_survived_and_every_target_has_some() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/fuzz/corpus");
        let folders: BTreeSet<_> =
            fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(folders, TARGETS.iter().map(|(name, _)| (*name).into()).collect());
        for (name, target) in TARGETS {
            let inputs: Vec<_> =
                fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(!inputs.is_empty(), "{name}");
            for input in inputs {
                eprintln!("{}", input.display()); // the last one shown is the one that panics
                target(&fs::read(&input).unwrap());
            }
        }
    }
}
