//! The long proofs: what is promised, and how it is shown. One that is not built says so and fails.

use super::{Result, cargo};

/// One promise.
struct Proof {
    name: &'static str,
    promise: &'static str,
    /// Arguments of cargo, when it is built.
    cargo: Option<&'static str>,
}

const PROOFS: [Proof; 9] = [
    Proof {
        name: "conformance",
        promise: "critest passes",
        cargo: Some("test --features failpoints --test e2e -- conformance"),
    },
    Proof {
        name: "recovery",
        promise: "a daemon that dies loses no container, no exit code and no log line",
        cargo: Some("test --features failpoints --test e2e -- restart"),
    },
    Proof {
        name: "speed",
        promise: "the budgets of a pod's life, of execs and of memory hold",
        cargo: Some("bench --bench cri"),
    },
    Proof { name: "density", promise: "200 pods run, and a daemon finds 100 again in a second", cargo: None },
    Proof { name: "fuzz", promise: "every parser of foreign bytes survived a day of noise", cargo: None },
    Proof { name: "gauntlet", promise: "every known attack on a container runtime fails", cargo: None },
    Proof { name: "power-cut", promise: "an image that is listed is whole after a power cut", cargo: None },
    Proof { name: "soak", promise: "12,000 pods in eight hours leave nothing behind", cargo: None },
    Proof { name: "upgrade", promise: "pods of the last release live on under this one", cargo: None },
];

/// Runs the proof `name`; without one, lists them.
pub fn prove(name: Option<&str>) -> Result<()> {
    let Some(name) = name else {
        for proof in &PROOFS {
            let built = if proof.cargo.is_some() { "built" } else { "not built yet" };
            println!("{:12} {built:14} {}", proof.name, proof.promise);
        }
        return Ok(());
    };
    match PROOFS.iter().find(|proof| proof.name == name) {
        Some(Proof { cargo: Some(arguments), .. }) => cargo(arguments.split(' ').map(String::from)),
        Some(_) => Err(format!("{name} is not built yet").into()),
        None => Err(format!("no proof is called {name:?}; `cargo xtask proof` lists them").into()),
    }
}
