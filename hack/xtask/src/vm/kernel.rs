//! The machine's kernel: which, and where it is.

use std::{env, path::PathBuf, str::FromStr};

use super::{built, prebuilt};
use crate::images::Result;

/// What Debian's own kernels for User-mode Linux are built without.
const DEBIANS_LACK: &str = "cpuset, PSI, second processor or NAT";

/// Which kernel was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Choice {
    /// Built from Debian's newest source with `hack/vm/kernel.config`.
    Built,
    /// Debian's newest prebuilt one.
    Debian,
    /// Debian 12's prebuilt one: the oldest kernel that pintle claims to run on.
    Floor,
}

/// A kernel that can be started.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) name: String,
    /// Of the program; inside `tree` if that is set.
    pub(super) program: PathBuf,
    /// A root folder with the C library that a prebuilt one wants.
    pub(super) tree: Option<PathBuf>,
    /// The folder of its modules, if it has any.
    pub(super) modules: Option<PathBuf>,
    /// What cannot be shown with it.
    pub(super) lacks: Option<&'static str>,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "built" => Ok(Self::Built),
            "debian" => Ok(Self::Debian),
            "debian-6.1" => Ok(Self::Floor),
            other => Err(format!("--kernel is built, debian or debian-6.1, not {other:?}")),
        }
    }
}

/// The kernel asked for. Without a choice: the one that `PINTLE_VM_KERNEL` names, else a built one, else, where
/// it cannot be built, Debian's.
pub(super) fn find(choice: Option<Choice>) -> Result<Kernel> {
    match (choice, env::var_os("PINTLE_VM_KERNEL")) {
        (Some(Choice::Debian), _) => take("sid"),
        (Some(Choice::Floor), _) => take("bookworm"),
        (_, Some(program)) => Ok(whole("PINTLE_VM_KERNEL", program.into())),
        (Some(Choice::Built), None) => build(),
        (None, None) => build().or_else(|error| {
            eprintln!("xtask vm: no kernel could be built ({error}); Debian's own is taken instead");
            take("sid")
        }),
    }
}

/// One with everything that is needed in one file.
fn whole(name: &str, program: PathBuf) -> Kernel {
    Kernel { name: name.into(), program, tree: None, modules: None, lacks: None }
}

fn build() -> Result<Kernel> {
    Ok(whole("built from Debian's source", built::program()?))
}

fn take(release: &str) -> Result<Kernel> {
    let tree = prebuilt::tree(release)?;
    Ok(Kernel {
        name: format!("Debian {release}, prebuilt"),
        program: "/usr/bin/linux.uml".into(),
        modules: Some(tree.join("usr/lib/uml/modules")),
        tree: Some(tree),
        lacks: Some(DEBIANS_LACK),
    })
}
