//! The long proofs: what is promised, and how it is shown. One that is not built says so and fails.

mod page;
mod report;

use super::{Result, cargo};

/// One promise.
struct Proof {
    name: &'static str,
    promise: &'static str,
    how: How,
}

enum How {
    /// Arguments of cargo.
    Cargo(&'static str),
    /// An end-to-end test that writes down its figures; they go into a page of `docs/proof`.
    Reported(&'static str),
    /// An hour of every fuzz target; the figures go into a page of `docs/proof`.
    Fuzzed,
    NotBuilt,
}

const PROOFS: [Proof; 15] = [
    Proof {
        name: "conformance",
        promise: "critest passes",
        how: How::Cargo("test --features failpoints --test e2e -- conformance"),
    },
    Proof {
        name: "recovery",
        promise: "a daemon that dies loses no container, no exit code and no log line",
        how: How::Cargo("test --features failpoints --test e2e -- restart"),
    },
    Proof {
        name: "kills",
        promise: "a daemon that is killed at 200 random moments, while pods come and go, loses nothing",
        how: How::Reported("random_kills_under_churn"),
    },
    Proof {
        name: "events",
        promise: "over 1,000 pods that come and go, every step of every life is told once, in order, with its state",
        how: How::Reported("event::churn"),
    },
    Proof {
        name: "oom",
        promise: "of 200 containers that end when memory runs out each is told with the right reason",
        how: How::Reported("oom::every_end"),
    },
    Proof {
        name: "cni",
        promise: "of 500 pods whose plugins fail, hang and fork at random nothing is left, and nothing is freed too early",
        how: How::Reported("cni::plugins_that_fail_and_hang"),
    },
    Proof {
        name: "streams",
        promise: "10,000 sessions of clients that come and go leave nothing, 990 idle ones cost next to nothing, and what a client does not read is not kept",
        how: How::Reported("streaming::many"),
    },
    Proof {
        name: "execs",
        promise: "100,000 ExecSync, four at a time, leave no process, cgroup, descriptor or memory",
        how: How::Reported("exec::many_one"),
    },
    Proof {
        name: "speed",
        promise: "the budgets of a pod's life, of execs and of memory hold",
        how: How::Cargo("bench --bench cri"),
    },
    Proof {
        name: "density",
        promise: "200 pods run, and a daemon finds 100 again in a second",
        how: How::NotBuilt,
    },
    Proof {
        name: "fuzz",
        promise: "every parser of foreign bytes survives an hour of noise",
        how: How::Fuzzed,
    },
    Proof {
        name: "gauntlet",
        promise: "every known attack on a container runtime fails",
        how: How::Cargo("run -q -p xtask -- gauntlet"),
    },
    Proof {
        name: "power-cut",
        promise: "an image that is listed is whole after a power cut",
        how: How::NotBuilt,
    },
    Proof { name: "soak", promise: "12,000 pods in eight hours leave nothing behind", how: How::NotBuilt },
    Proof { name: "upgrade", promise: "pods of the last release live on under this one", how: How::NotBuilt },
];

/// Where to try it: `--vm` is the test machine, `--driver NAME` who makes the cgroups.
#[derive(Debug, Default, Eq, PartialEq)]
struct Where {
    vm: bool,
    driver: Option<String>,
}

impl Where {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut place = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--vm" => place.vm = true,
                "--driver" => place.driver = Some(arguments.next().ok_or("--driver needs a value")?),
                other => return Err(format!("{other:?}: there are --vm and --driver").into()),
            }
        }
        Ok(place)
    }
}

/// Runs the proof that the first of the arguments names; without any, lists them.
pub fn prove(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let Some(name) = arguments.next() else {
        for proof in &PROOFS {
            let built = if matches!(proof.how, How::NotBuilt) { "not built yet" } else { "built" };
            println!("{:12} {built:14} {}", proof.name, proof.promise);
        }
        return Ok(());
    };
    let Some(proof) = PROOFS.iter().find(|proof| proof.name == name) else {
        return Err(format!("no proof is called {name:?}; `cargo xtask proof` lists them").into());
    };
    let place = Where::parse(arguments)?;
    match proof.how {
        How::Cargo(_) | How::Fuzzed | How::NotBuilt if place != Where::default() => {
            Err(format!("{name} is tried here only").into())
        }
        How::Cargo(arguments) => cargo(arguments.split(' ').map(String::from)),
        How::Reported(story) => report::run(proof.name, proof.promise, story, &place),
        How::Fuzzed => report::fuzz(proof.name, proof.promise),
        How::NotBuilt => Err(format!("{name} is not built yet").into()),
    }
}
