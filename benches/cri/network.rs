//! What a network of its own costs a pod: the built-in bridge, and CNI's bridge plugin, beside the host's network.
//!
//! Each daemon runs in a network namespace of its own, so the host gets no bridge and no rule.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    Figures, Result,
    image::run,
    ms, percentile,
    runtime::{Network, Node, Peer, v1},
};

/// Pods whose start is timed, after `WARM_UP` that are not.
const PODS: usize = 60;
const WARM_UP: usize = 5;
/// Pods that are started together, and how many at a time.
const CROWD: usize = 100;
const AT_A_TIME: usize = 10;
/// Debian's plugins.
const PLUGINS: &str = "/usr/lib/cni";

pub(super) async fn measure(peer: Peer) -> Result<Figures> {
    let mut figures = Vec::new();
    let built_in = if peer == Peer::Pintle { Network::Bridge } else { Network::Cni };
    let mut node = Node::start_in(peer, Some(built_in)).await?;
    let host = starts(&mut node, "host", v1::NamespaceMode::Node).await?;
    let bridge = starts(&mut node, "bridge", v1::NamespaceMode::Pod).await?;
    figures.push(("RunPodSandbox on the host's network p50, ms", ms(host)));
    figures.push(("RunPodSandbox on the bridge p50, ms", ms(bridge)));
    figures.push(("the bridge adds, ms", ms(bridge.saturating_sub(host))));
    figures.push(("100 pods on the bridge, 10 at a time, s", seconds(crowd(&mut node).await?)));
    node.stop()?;

    let mut node = Node::start_in(peer, Some(Network::Cni)).await?;
    let host = starts(&mut node, "host", v1::NamespaceMode::Node).await?;
    let plugins = starts(&mut node, "cni", v1::NamespaceMode::Pod).await?;
    let own = plugin_alone(&node)?;
    figures.push(("RunPodSandbox with CNI's bridge p50, ms", ms(plugins)));
    figures.push(("CNI's bridge adds, ms", ms(plugins.saturating_sub(host))));
    figures.push(("ADD of the plugin alone p50, ms", ms(own)));
    figures.push(("above the plugin, ms", ms(plugins.saturating_sub(host).saturating_sub(own))));
    node.stop()?;
    Ok(figures)
}

/// The middle of the times of RunPodSandbox.
async fn starts(node: &mut Node, name: &str, network: v1::NamespaceMode) -> Result<Duration> {
    let mut times = Vec::new();
    for index in 0..WARM_UP + PODS {
        let config = node.pod_config(&format!("{name}-{index}"), network);
        let request = v1::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let began = Instant::now();
        let pod = node.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        times.push(began.elapsed());
        remove(node, pod).await?;
    }
    Ok(percentile(&mut times[WARM_UP..], 50))
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

/// The middle of the times that the plugin takes for an ADD, asked by nobody but us.
fn plugin_alone(node: &Node) -> Result<Duration> {
    let input = configuration(node.folder(), |plugin| {
        format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"bench\",{plugin}}}")
    });
    let mut times = Vec::new();
    for index in 0..WARM_UP + PODS {
        // A namespace that lives as long as the process in it.
        let mut pod = node.in_network("unshare").args(["--net", "sleep", "1000"]).spawn()?;
        let netns = format!("/proc/{}/ns/net", pod.id());
        let of_daemon = fs::read_link(format!("/proc/{}/ns/net", node.daemon()))?;
        while fs::read_link(&netns).is_ok_and(|namespace| namespace == of_daemon) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let call = |command: &str| -> Result<Duration> {
            let began = Instant::now();
            let mut plugin = node.in_network(&format!("{PLUGINS}/bridge"));
            plugin.env("CNI_COMMAND", command).env("CNI_CONTAINERID", format!("alone-{index}"));
            plugin.env("CNI_NETNS", &netns).env("CNI_IFNAME", "eth0").env("CNI_PATH", PLUGINS);
            let mut plugin = plugin.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
            plugin.stdin.take().ok_or("no stdin")?.write_all(input.as_bytes())?;
            let status = plugin.wait()?;
            if status.success() { Ok(began.elapsed()) } else { Err(format!("{command}: {status}").into()) }
        };
        times.push(call("ADD")?);
        call("DEL")?;
        run(Command::new("kill").arg(pod.id().to_string()))?;
        pod.wait()?;
    }
    Ok(percentile(&mut times[WARM_UP..], 50))
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}
