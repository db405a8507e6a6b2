//! The nftables table `pintle` of the host: masquerade of pods, host ports, isolation.
//!
//! - `table.rs`, `rule.rs`: what the table says. Pure.
//! - `encode.rs`, `netfilter.rs`: how the kernel hears of it, by netlink.
//! - `conntrack.rs`: connections that remember a pod that is gone.
//!
//! Invariant: the whole table is put in the place of the one that is there, in one transaction; so nothing of a pod that is
//! gone outlives the next change, and a failed change leaves what was there.
//! Invariant: no other table is touched.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::io::Errno;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::Error;
use crate::telemetry::{log::chain, task};

mod conntrack;
mod encode;
mod netfilter;
mod rule;
mod table;

pub use netfilter::ForwardDrop;
use netfilter::Netfilter;
use table::Wanted;
pub(super) use table::{BridgeRules, Forward};

/// The table's name, in the family inet.
const TABLE: &str = "pintle";

/// The table, and what it is to say.
#[derive(Debug, Default)]
pub(super) struct Firewall {
    /// The ruleset that was written last. One change at a time.
    written_last: Mutex<Wanted>,
    /// The kernel has no nftables with address translation.
    missing: AtomicBool,
}

impl Firewall {
    /// Whether the kernel has what the table needs, as far as it was asked. Without it pods reach each other and the
    /// node, and nothing outside; a pod with host ports is an error.
    pub(super) fn works(&self) -> bool {
        !self.missing.load(Relaxed)
    }

    /// Lets pods on the bridge out. If that is so already, the kernel is only asked whether the table is still there.
    ///
    /// # Errors
    /// [`Error::Firewall`]; then nothing has changed.
    pub(super) async fn open_bridge(&self, bridge: BridgeRules) -> Result<(), Error> {
        self.change(|wanted| wanted.bridge = Some(bridge)).await
    }

    /// Writes the table again if somebody has removed it.
    ///
    /// # Errors
    /// [`Error::Firewall`].
    pub(super) async fn check(&self) -> Result<(), Error> {
        self.change(|_| {}).await
    }

    /// Makes these the host ports that are forwarded. They are asked for when it is this change's turn.
    ///
    /// # Errors
    /// [`Error::Firewall`]; then nothing has changed.
    pub(super) async fn forward(&self, forwards: impl FnOnce() -> Vec<Forward>) -> Result<(), Error> {
        self.change(|wanted| wanted.forwards = forwards()).await
    }

    /// Both at once, whatever the table says: for a daemon that has just started.
    ///
    /// # Errors
    /// [`Error::Firewall`]; then nothing has changed.
    pub(super) async fn restore(
        &self,
        bridge: Option<BridgeRules>,
        forwards: Vec<Forward>,
    ) -> Result<(), Error> {
        self.change(|wanted| *wanted = Wanted { bridge, forwards }).await
    }

    async fn change(&self, change: impl FnOnce(&mut Wanted)) -> Result<(), Error> {
        let mut written_last = self.written_last.lock().await;
        let mut wanted = written_last.clone();
        change(&mut wanted);
        let (same, next) = (*written_last == wanted, wanted.clone());
        if same && !self.works() {
            return Ok(());
        }
        let written = task::blocking("nftables", move || write(&next, same)).await;
        if let Err(error) = &written
            && is_missing(error)
            && wanted.can_be_forgone()
        {
            if !self.missing.swap(true, Relaxed) {
                warn!(%error, "this kernel has no nftables with NAT: pods reach each other and the node, nothing outside");
            }
        } else {
            written.map_err(|source| Error::Firewall { operation: "write nftables table", source })?;
            self.missing.store(false, Relaxed);
        }
        *written_last = wanted;
        Ok(())
    }
}

/// Whether the kernel lacks nf_tables or its chains of type `nat`, built in or as modules.
fn is_missing(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        Some(
            Errno::OPNOTSUPP | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::NOPROTOOPT | Errno::NOENT
        )
    )
}

/// Somebody else may have flushed all tables since.
fn write(wanted: &Wanted, same: bool) -> io::Result<()> {
    if *wanted == Wanted::default() {
        return Netfilter::open()?.delete(TABLE).map(drop);
    }
    if same {
        if Netfilter::open()?.has(TABLE)? {
            return Ok(());
        }
        warn!(table = TABLE, "the nftables table was gone; it is written again");
    }
    Netfilter::open()?.replace(TABLE, &table::chains(wanted))
}

/// Lets the kernel forget UDP flows that know another pod, or none, behind the forwarded ports: they would go on as they
/// began, for as long as packets come. A failure costs those flows only.
pub(super) async fn forget_flows(forwards: &[Forward]) {
    let udp = |forward: &&Forward| forward.protocol == crate::model::PortProtocol::Udp;
    let forwards: Vec<Forward> = forwards.iter().filter(udp).cloned().collect();
    if forwards.is_empty() {
        return;
    }
    match task::blocking("conntrack", move || conntrack::forget(&forwards)).await {
        Ok(0) => {}
        Ok(flows) => info!(flows, "forgot UDP flows of host ports"),
        Err(error) => warn!(error = %chain(&error), "cannot forget UDP flows of host ports"),
    }
}

/// Deletes the table. False: there was none. Blocking.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn remove() -> Result<bool, Error> {
    let removed = Netfilter::open().and_then(|netfilter| netfilter.delete(TABLE));
    removed.map_err(|source| Error::Firewall { operation: "delete nftables table", source })
}

/// Chains of others that drop what is forwarded unless a rule of theirs accepts it: what our table cannot change. Blocking.
///
/// # Errors
/// The kernel's refusal; a kernel without nf_tables.
pub fn forward_drops() -> io::Result<Vec<ForwardDrop>> {
    Netfilter::open()?.forward_drops(TABLE)
}
