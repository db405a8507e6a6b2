//! Recovery at start: records, supervisors and kernel, and what is true of them together.
//!
//! - `survey.rs`: reads what is on disk of each pod into plain data.
//! - `decide.rs`: what becomes of each pod. Pure.
//! - `resume.rs`: lists the pods that go on, and starts their drivers.
//! - `undo.rs`: takes away what was never finished, or cannot be known any more.
//!
//! Reading the records makes the lists right at once; asking the supervisors goes on behind, for many pods at
//! a time. One bad record costs its own pod or container. What follows from what is found:
//!
//! | found | becomes |
//! |---|---|
//! | Ready, its supervisor answers | what the supervisor says of each container |
//! | Ready, its supervisor is gone | killed, Exited as written down or SupervisorDied, stopped |
//! | Ready, its supervisor does not answer | as recorded, until it answers or is gone |
//! | Starting, or a container only intended | undone; the name is free |
//! | Stopping | stopped further |
//! | known on disk and not in `/run`, after a reboot | NotReady, Exited as kept or NodeReboot, network released once |
//! | known on disk and not in `/run`, in one boot | stopped: killed by its cgroup, Exited once the kernel says so |
//! | the same, written by a daemon with another root folder | left alone, and reported: it is that daemon's pod |
//! | a damaged record, its cgroup and supervisor prove that it runs | Ready, rebuilt from the disk and the leases |
//! | a damaged record of a pod whose supervisor is gone | undone as far as it can be read |
//! | a record of a later release | left alone, and reported |
//! | a record of another pod or container, copied here | nothing of that other is touched |
//!
//! Invariant: nothing is Exited that a supervisor or the kernel was not asked about.
//! Invariant: what is killed and removed is named by the id of the folder that it was found in, never by an id in a
//! record.

pub(super) mod decide;
mod resume;
pub(super) mod survey;
mod undo;

pub(super) use resume::recover;
