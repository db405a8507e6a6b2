//! What a network of its own costs a pod: the built-in bridge, and CNI's bridge plugin, beside the host's network.
//!
//! Each daemon runs in a network namespace of its own, so the host gets no bridge and no rule.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use super::{
    Figures, Result, ms, percentile,
    runtime::{Network, Node, Peer, v1},
};

/// Pods whose start is timed, after `WARM_UP` that are not.
const PODS: usize = 60;
const WARM_UP: usize = 5;
/// How long the kernel has to clear away what was removed.
const SETTLE: Duration = Duration::from_secs(2);
/// Between two starts: the kernel ends in it what it does after the answer.
const PAUSE: Duration = Duration::from_millis(20);
/// Pods that are started together, and how many at a time.
const CROWD: usize = 100;
const AT_A_TIME: usize = 10;
/// Debian's plugins.
const PLUGINS: &str = "/usr/lib/cni";

pub(super) async fn measure(peer: Peer) -> Result<Figures> {
    let mut figures = Vec::new();
    let built_in = if peer == Peer::Pintle { Network::Bridge } else { Network::Cni };
    let mut node = Node::start_in(peer, Some(built_in)).await?;
    let Starts { host, own, namespace, .. } = starts(&mut node, false).await?;
    figures.push(("a network namespace of the kernel's p50, ms", ms(namespace)));
    figures.push(("RunPodSandbox on the host's network p50, ms", ms(host)));
    figures.push(("RunPodSandbox on the bridge p50, ms", ms(own)));
    figures.push(("the bridge adds, ms", ms(own.saturating_sub(host))));
    figures.push(("100 pods on the bridge, 10 at a time, s", seconds(crowd(&mut node).await?)));
    node.stop()?;

    let mut node = Node::start_in(peer, Some(Network::Cni)).await?;
    let Starts { host, own, plugin, namespace } = starts(&mut node, true).await?;
    let adds = own.saturating_sub(host);
    figures.push(("RunPodSandbox with CNI's bridge p50, ms", ms(own)));
    figures.push(("CNI's bridge adds, ms", ms(adds)));
    figures.push(("ADD of the plugin alone p50, ms", ms(plugin)));
    figures.push(("above the plugin, ms", ms(adds.saturating_sub(plugin))));
    figures.push(("above plugin and namespace, ms", ms(adds.saturating_sub(plugin + namespace))));
    node.stop()?;
    Ok(figures)
}

/// The middle of the times of each kind of start.
struct Starts {
    /// RunPodSandbox on the host's network.
    host: Duration,
    /// RunPodSandbox on a network of the pod's own.
    own: Duration,
    /// An ADD of the plugin, asked by nobody but us.
    plugin: Duration,
    /// A network namespace, made by nobody but the kernel.
    namespace: Duration,
}

/// Times the kinds of start in turn, so that a slower minute of the machine is a slower minute of all of them. The pods are
/// removed when all have started: the kernel clears a network namespace away in the background, and holds its lock on links
/// meanwhile.
async fn starts(node: &mut Node, with_plugin: bool) -> Result<Starts> {
    let (mut host, mut own, mut plugin, mut bare) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut pods, mut namespaces, mut bare_namespaces) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..WARM_UP + PODS {
        for (network, times) in [(v1::NamespaceMode::Node, &mut host), (v1::NamespaceMode::Pod, &mut own)] {
            let config = node.pod_config(&format!("{}-{index}", network.as_str_name()), network);
            let request = v1::RunPodSandboxRequest { config: Some(config), ..Default::default() };
            let began = Instant::now();
            pods.push(node.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id);
            times.push(began.elapsed());
            tokio::time::sleep(PAUSE).await;
        }
        let (took, namespace) = bare_namespace()?;
        bare.push(took);
        bare_namespaces.push(namespace);
        tokio::time::sleep(PAUSE).await;
        if with_plugin {
            let namespace = OwnNetwork::of_a_process(node)?;
            plugin.push(call_plugin(node, "ADD", index, &namespace.path())?);
            namespaces.push(namespace);
            tokio::time::sleep(PAUSE).await;
        }
    }
    for pod in pods {
        remove(node, pod).await?;
    }
    for (index, namespace) in namespaces.into_iter().enumerate() {
        call_plugin(node, "DEL", index, &namespace.path())?;
    }
    tokio::time::sleep(SETTLE).await;
    let middle = |times: &mut Vec<Duration>| match times.get_mut(WARM_UP..) {
        Some(times) => percentile(times, 50),
        None => Duration::ZERO,
    };
    Ok(Starts {
        host: middle(&mut host),
        own: middle(&mut own),
        plugin: middle(&mut plugin),
        namespace: middle(&mut bare),
    })
}

/// How long the kernel takes to make a network namespace, and the namespace, which is to live as long as the others.
fn bare_namespace() -> Result<(Duration, fs::File)> {
    let make = || -> std::io::Result<_> {
        let began = Instant::now();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        Ok((began.elapsed(), fs::File::open("/proc/thread-self/ns/net")?))
    };
    // Of a thread of its own, which ends with it.
    Ok(std::thread::spawn(make).join().map_err(|_| "a thread panicked")??)
}

/// How long it takes to start many pods.
async fn crowd(node: &mut Node) -> Result<Duration> {
    let configs: Vec<_> =
        (0..CROWD).map(|index| node.pod_config(&format!("crowd-{index}"), v1::NamespaceMode::Pod)).collect();
    let runtime = node.runtime.clone();
    let began = Instant::now();
    let lanes = configs.chunks(CROWD.div_ceil(AT_A_TIME)).map(|lane| {
        let mut runtime = runtime.clone();
        async move {
            let mut pods = Vec::new();
            for config in lane {
                let request = v1::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
                pods.push(runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id);
            }
            Ok::<_, tonic::Status>(pods)
        }
    });
    let pods = futures_util::future::try_join_all(lanes).await?.concat();
    let took = began.elapsed();
    for pod in pods {
        remove(node, pod).await?;
    }
    Ok(took)
}

async fn remove(node: &mut Node, pod: String) -> Result<()> {
    let stop = v1::StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
    node.runtime.stop_pod_sandbox(stop).await?;
    node.runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: pod }).await?;
    Ok(())
}

/// The configuration of both runtimes' plugins, below `folder`.
pub(super) fn write_configuration(folder: &Path) -> Result<()> {
    let text = configuration(folder, |plugin| {
        format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"bench\",\"plugins\":[{{{plugin}}}]}}")
    });
    fs::create_dir_all(folder.join("cni"))?;
    Ok(fs::write(folder.join("cni/10-bench.conflist"), text)?)
}

fn configuration(folder: &Path, around: impl FnOnce(&str) -> String) -> String {
    let leases = folder.join("leases");
    around(&format!(
        "\"type\":\"bridge\",\"bridge\":\"bench0\",\"isGateway\":true,\"ipMasq\":false,\
         \"ipam\":{{\"type\":\"host-local\",\"dataDir\":{leases:?},\"ranges\":[[{{\"subnet\":\"10.89.0.0/16\"}}]]}}"
    ))
}

/// A network namespace that lives as long as a process in it.
struct OwnNetwork(Child);

impl OwnNetwork {
    fn of_a_process(node: &Node) -> Result<Self> {
        let new = Self(node.in_network("unshare").args(["--net", "sleep", "1000"]).spawn()?);
        // It leaves this program's for the daemon's first.
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
        let others = [of("self")?, of(&node.daemon().to_string())?];
        while others.contains(&fs::read_link(new.path())?) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(new)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for OwnNetwork {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait()); // it may have ended
    }
}

fn call_plugin(node: &Node, command: &str, index: usize, netns: &str) -> Result<Duration> {
    let input = configuration(node.folder(), |plugin| {
        format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"bench\",{plugin}}}")
    });
    let began = Instant::now();
    let mut plugin = node.in_network(&format!("{PLUGINS}/bridge"));
    plugin.env("CNI_COMMAND", command).env("CNI_CONTAINERID", format!("alone-{index}"));
    plugin.env("CNI_NETNS", netns).env("CNI_IFNAME", "eth0").env("CNI_PATH", PLUGINS);
    let mut plugin = plugin.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    plugin.stdin.take().ok_or("no stdin")?.write_all(input.as_bytes())?;
    let status = plugin.wait()?;
    if status.success() { Ok(began.elapsed()) } else { Err(format!("{command}: {status}").into()) }
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}
