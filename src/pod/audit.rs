//! The audit: what kernel and disk have of pods, against the pods that this daemon knows. At start and every few
//! minutes. What is ours beyond doubt and belongs to no pod becomes a debt; the rest is reported, once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use tracing::{debug, warn};

use super::{
    error::chain,
    findings::Finding,
    keep::{
        self, blocking,
        debts::{Debt, Outstanding},
    },
    node::Node,
};
use crate::{
    cgroup,
    model::{PodId, UnixNanos},
    network::{self, NetworkKind},
};

/// The longest that one audit may take: the kernel and the disk answer in milliseconds or are in trouble.
const AUDIT_MAX: Duration = Duration::from_secs(30);

/// What there may be of a pod.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Kind {
    /// A link, an address or an attachment.
    Network,
    /// A mounted network namespace.
    Namespace,
    Cgroup,
    Folder,
    Mount,
}

/// Something that bears a pod's id.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Trace {
    pod: PodId,
    kind: Kind,
    /// For an operator.
    object: String,
}

/// A pod that is ready, and what it therefore has.
#[derive(Clone, Debug)]
struct ReadyPod {
    id: PodId,
    has_address: bool,
    has_cgroup: bool,
}

/// What follows from an audit.
#[derive(Debug, Default, PartialEq)]
struct Verdict {
    findings: BTreeSet<Finding>,
    /// Pods that left something in our own folders and networks, which nobody else fills.
    debts: BTreeMap<PodId, Debt>,
}

/// Compares. `known`: every pod that exists, is being made, is a debt or is left alone.
fn compare(traces: &BTreeSet<Trace>, known: &BTreeSet<PodId>, ready: &[ReadyPod]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut report = |object: String, fault: &str| {
        verdict.findings.insert(Finding { object, fault: fault.to_owned() });
    };
    for trace in traces.iter().filter(|trace| !known.contains(&trace.pod)) {
        match trace.kind {
            Kind::Network => {
                report(trace.object.clone(), "it belongs to no pod and is released");
                verdict.debts.entry(trace.pod.clone()).or_default().network = true;
            }
            // Another runtime may use the same parent, and its names look like ours.
            Kind::Cgroup => report(trace.object.clone(), "it belongs to no pod that is known here"),
            Kind::Folder => report(trace.object.clone(), "it belongs to no pod; the next start looks at it"),
            Kind::Mount | Kind::Namespace => {
                report(trace.object.clone(), "it belongs to no pod that is known here")
            }
        }
    }
    let has = |pod: &PodId, kind| traces.iter().any(|trace| trace.pod == *pod && trace.kind == kind);
    for pod in ready {
        let object = || format!("pod {}", pod.id);
        if pod.has_address && !has(&pod.id, Kind::Network) {
            report(object(), "it is ready, and neither its link nor its address is there");
        }
        if pod.has_cgroup && !has(&pod.id, Kind::Cgroup) {
            report(object(), "it is ready, and its cgroup is not there");
        }
        if !has(&pod.id, Kind::Folder) {
            report(object(), "it is ready, and its records are gone: a restart of the daemon will end it");
        }
    }
    verdict
}

/// Audits at once, and then as often as is configured, for ever.
pub(super) async fn run(node: Arc<Node>) {
    loop {
        let began = Instant::now();
        if tokio::time::timeout(AUDIT_MAX, audit(&node)).await.is_err() {
            warn!("the audit took too long; the next one looks again");
        }
        debug!(took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX), "audited");
        let Some(interval) = node.config.audit_interval() else { return };
        tokio::time::sleep(interval + jitter(interval)).await;
    }
}

/// Up to a tenth more, so that the daemons of a cluster do not audit in step.
fn jitter(interval: Duration) -> Duration {
    let mut byte = [0];
    // Without random bytes there is no jitter, which harms nobody.
    let _filled = getrandom::fill(&mut byte);
    interval / 10 * u32::from(byte[0]) / 255
}

/// One audit. Kernel and disk are read between two looks at which pods there are, so that a pod that comes or goes
/// meanwhile is in one of them.
async fn audit(node: &Arc<Node>) {
    let mut known = known_pods(node);
    let view = node.board.view();
    let handles: Vec<_> = view.pods.iter().filter_map(|pod| pod.cgroup.clone()).collect();
    let ready = view.pods.iter().filter(|pod| pod.ready).map(|pod| ReadyPod {
        id: pod.id.clone(),
        // Of other kinds of network the plugins know.
        has_address: pod
            .attachment
            .as_ref()
            .is_some_and(|own| own.made_by == NetworkKind::Bridge && !own.addresses.is_empty()),
        has_cgroup: pod.cgroup.is_some(),
    });
    let ready: Vec<_> = ready.collect();
    let reader = Arc::clone(node);
    let mut traces = match blocking(move || traces_on_disk(&reader, &handles)).await {
        Ok(traces) => traces,
        Err(error) => return warn!(%error, "could not audit"),
    };
    match node.network.traces().await {
        Ok(network::Traces { owned, pinned }) => {
            let trace = |kind| move |(pod, object)| Trace { pod, kind, object };
            traces.extend(owned.into_iter().map(trace(Kind::Network)));
            traces.extend(pinned.into_iter().map(trace(Kind::Namespace)));
        }
        Err(error) => return warn!(error = %chain(&error), "could not audit the network"),
    }
    known.extend(known_pods(node));
    // What was ready when it was read may be stopped by now.
    let still: BTreeSet<_> =
        node.board.view().pods.iter().filter(|pod| pod.ready).map(|pod| pod.id.clone()).collect();
    let ready: Vec<_> = ready.into_iter().filter(|pod| still.contains(&pod.id)).collect();
    let Verdict { findings, debts } = compare(&traces, &known, &ready);
    node.findings.replace(findings);
    for (pod, debt) in debts {
        node.debts.add(&node.places, &pod, debt.because("the audit found it without a pod")).await;
    }
}

fn known_pods(node: &Node) -> BTreeSet<PodId> {
    let mut known: BTreeSet<_> = node.names().pods().collect();
    known.extend(node.debts.pods());
    known.extend(node.findings.left_alone());
    known
}

/// Folders, mounts and cgroups. Blocking.
fn traces_on_disk(node: &Node, handles: &[cgroup::Handle]) -> std::io::Result<BTreeSet<Trace>> {
    let mut traces = BTreeSet::new();
    for pods in [node.places.live_pods(), node.places.known_pods()] {
        for pod in keep::pods_in(&pods)? {
            let object = format!("folder {}", pods.join(pod.as_str()).display());
            traces.insert(Trace { pod, kind: Kind::Folder, object });
        }
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        traces.extend(mounts_below(&table, &pods));
    }
    let nobody = PodId::from_bytes([0; 32]);
    let configured = node.cgroups.plan_pod("", &nobody).ok();
    for handle in handles.iter().chain(&configured) {
        for (pod, path) in handle.pods_beside() {
            let object = format!("cgroup {}", path.display());
            traces.insert(Trace { pod, kind: Kind::Cgroup, object });
        }
    }
    Ok(traces)
}

/// Mounts in the folders of pods (proc_pid_mountinfo(5), the fifth field). A pod's own are in its own namespace.
fn mounts_below(table: &str, pods: &Path) -> Vec<Trace> {
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    let trace = |place: &str| {
        let name = Path::new(place).strip_prefix(pods).ok()?.components().next()?;
        let pod = PodId::parse(name.as_os_str().to_str()?).ok()?;
        Some(Trace { pod, kind: Kind::Mount, object: format!("mount {place}") })
    };
    places.filter_map(trace).collect()
}

/// What an operator should know of this node's pods.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What is still to be taken away.
    pub debts: Vec<DebtReport>,
    /// What is not as the records say.
    pub findings: Vec<Finding>,
}

/// Something that could not be taken away yet.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DebtReport {
    pub pod: String,
    pub objects: Vec<String>,
    /// Why the last try failed.
    pub cause: String,
    pub age_seconds: u64,
    pub next_try_seconds: u64,
}

/// Everything that is outstanding now.
pub(super) fn report(node: &Node) -> Report {
    let now = UnixNanos::from(SystemTime::now()).0;
    let debt = |outstanding: Outstanding| DebtReport {
        pod: outstanding.pod.to_string(),
        objects: outstanding.debt.objects(),
        age_seconds: u64::try_from(now.saturating_sub(outstanding.debt.since.0)).unwrap_or(0) / 1_000_000_000,
        cause: outstanding.debt.cause,
        next_try_seconds: outstanding.next_try.as_secs(),
    };
    Report {
        debts: node.debts.outstanding().into_iter().map(debt).collect(),
        findings: node.findings.all().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> PodId {
        PodId::from_bytes([byte; 32])
    }

    fn trace(byte: u8, kind: Kind) -> Trace {
        Trace { pod: id(byte), kind, object: format!("{kind:?} {byte}") }
    }

    #[test]
    fn what_belongs_to_no_pod_is_released_if_it_is_ours_and_reported() {
        let all = [Kind::Network, Kind::Namespace, Kind::Cgroup, Kind::Folder, Kind::Mount];
        let traces = all.iter().flat_map(|kind| [trace(1, *kind), trace(2, *kind)]).collect();
        let verdict = compare(&traces, &[id(1)].into(), &[]);
        let objects: Vec<_> = verdict.findings.iter().map(|finding| finding.object.as_str()).collect();
        assert_eq!(objects, ["Cgroup 2", "Folder 2", "Mount 2", "Namespace 2", "Network 2"]);
        let network = Debt { network: true, ..Debt::default() };
        assert_eq!(verdict.debts, BTreeMap::from([(id(2), network)]));
    }

    #[test]
    fn a_ready_pod_has_what_it_should_have() {
        let ready = ReadyPod { id: id(1), has_address: true, has_cgroup: true };
        let all = [Kind::Network, Kind::Cgroup, Kind::Folder];
        let traces: BTreeSet<_> = all.map(|kind| trace(1, kind)).into();
        assert_eq!(compare(&traces, &[id(1)].into(), std::slice::from_ref(&ready)), Verdict::default());
        for missing in all {
            let rest = traces.iter().filter(|trace| trace.kind != missing).cloned().collect();
            let verdict = compare(&rest, &[id(1)].into(), std::slice::from_ref(&ready));
            assert_eq!((verdict.findings.len(), verdict.debts.len()), (1, 0), "{missing:?}");
        }
        // One on the node's network has no address.
        let plain = ReadyPod { has_address: false, has_cgroup: false, ..ready };
        let folder = [trace(1, Kind::Folder)].into();
        assert_eq!(compare(&folder, &[id(1)].into(), &[plain]), Verdict::default());
    }

    #[test]
    fn mounts_are_found_by_the_folder_that_they_are_in() {
        let table = format!(
            "22 1 0:21 / /run/pintle/pods/{0}/shm rw - tmpfs tmpfs rw\n23 1 0:21 / /run/pintle/pods rw - tmpfs x rw\n\
             24 1 0:21 / /run/other/{0} rw - tmpfs x rw\n",
            id(1)
        );
        let found = mounts_below(&table, Path::new("/run/pintle/pods"));
        let object = format!("mount /run/pintle/pods/{}/shm", id(1));
        assert_eq!(found, [Trace { pod: id(1), kind: Kind::Mount, object }]);
    }

    #[tokio::test]
    async fn an_audit_of_a_healthy_node_finds_nothing_and_a_folder_without_a_pod_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        audit(&node).await;
        assert_eq!(node.findings.all(), [].into());
        let stray = node.places.known(&id(7));
        keep::make_folder(&stray).unwrap();
        audit(&node).await;
        assert_eq!(node.findings.all().len(), 1);
        assert!(stray.exists() && node.debts.pods().is_empty());
        // One that recovery has left alone is known.
        node.findings.leave_alone(id(7));
        audit(&node).await;
        assert_eq!(node.findings.all(), [].into());
    }
}
