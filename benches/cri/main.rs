//! Speed and memory through the CRI, beside Debian's containerd and runc when they are installed.
//!
//! `cargo bench --bench cri` (as root) starts each runtime on folders and a cgroup of its own, gives it the
//! same busybox image, and prints one table. Figures are of the machine they were taken on; compare columns,
//! not runs. `cargo bench --bench cri -- pods` measures the lives of pods only, `-- network` their networks,
//! `-- stream` exec, attach and port-forward, `-- pull` pulls from Debian's docker-registry on this machine.

mod image;
mod network;
mod pull;
mod runtime;
mod spdy;
mod stream;

use std::{
    env,
    fmt::Write as _,
    fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use runtime::{Peer, v1};

/// Pod lives measured, after `WARM_UP` that are not.
const LIVES: usize = 60;
const WARM_UP: usize = 5;
const EXECS: usize = 200;
/// Pods alive at once for the memory figures.
const PODS: usize = 50;
/// Daemons one after the other, and the pods that each of them makes and the next one finds.
const GENERATIONS: usize = 3;
const PODS_OF_EACH: usize = 10;
/// Containers alive at once for the lists.
const LISTED: usize = 100;
const LISTS: usize = 200;
/// How long the idle daemon is watched, and how long before that it is left alone. Several of its samples fit.
const IDLE: Duration = Duration::from_secs(40);
const SETTLE: Duration = Duration::from_secs(3);
/// Bytes that one container writes to its log.
const LOG_BYTES: u64 = 500_000_000;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    // cargo adds `--bench`.
    let only: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let (mut rows, mut failed) = (Vec::new(), false);
    for peer in [Peer::Pintle, Peer::Containerd] {
        if !peer.is_installed() {
            println!("{}: not installed, left out", peer.name());
            continue;
        }
        match runtime.block_on(measure(peer, &only)) {
            Ok(figures) => rows.push((peer.name(), figures)),
            Err(error) => {
                eprintln!("{}: {error}", peer.name());
                failed = true;
            }
        }
    }
    print_table(&rows);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// (what, figure)
type Figures = Vec<(&'static str, String)>;

/// Measures what `only` names; everything when it names nothing.
async fn measure(peer: Peer, only: &[String]) -> Result<Figures> {
    let wanted = |group: &str| only.is_empty() || only.iter().any(|word| word == group);
    let mut figures = vec![("load at the start", load())];
    if wanted("pods") {
        figures.extend(pods(peer).await?);
    }
    if wanted("network") {
        figures.extend(network::measure(peer).await?);
    }
    if wanted("stream") {
        figures.extend(stream::measure(peer).await?);
    }
    if wanted("pull") {
        figures.extend(pull::measure(peer).await?);
    }
    Ok(figures)
}

async fn pods(peer: Peer) -> Result<Figures> {
    let mut node = runtime::Node::start(peer).await?;
    let mut figures = vec![("version", node.version().await?)];
    figures.push(("daemon RSS idle, MiB", mib(node.daemon_rss_kib()?)));
    lives(&mut node, &mut figures).await?;
    execs(&mut node, &mut figures).await?;
    memory(&mut node, &mut figures).await?;
    generations(&mut node, &mut figures).await?;
    lists(&mut node, &mut figures).await?;
    logs(&mut node, &mut figures).await?;
    node.stop()?;
    Ok(figures)
}

/// RunPodSandbox, CreateContainer, StartContainer; then stop and remove.
async fn lives(node: &mut runtime::Node, figures: &mut Figures) -> Result<()> {
    let mut starts = Vec::new();
    let mut cpu_before = 0;
    for life in 0..WARM_UP + LIVES {
        if life == WARM_UP {
            cpu_before = node.cpu_nanos()?;
        }
        let began = Instant::now();
        let (pod, container) = node.start_pod(&format!("life-{life}"), &["sleep", "1000"]).await?;
        starts.push(began.elapsed());
        node.end_pod(&pod, &container).await?;
    }
    let cpu = (node.cpu_nanos()? - cpu_before) / LIVES as u64;
    let starts = &mut starts[WARM_UP..];
    figures.push(("pod start p50, ms", ms(percentile(starts, 50))));
    figures.push(("pod start p99, ms", ms(percentile(starts, 99))));
    figures.push(("CPU per pod life, ms", ms(Duration::from_nanos(cpu))));
    Ok(())
}

async fn execs(node: &mut runtime::Node, figures: &mut Figures) -> Result<()> {
    let (pod, container) = node.start_pod("exec", &["sleep", "1000"]).await?;
    let mut times = Vec::new();
    for _ in 0..EXECS {
        let began = Instant::now();
        let request =
            v1::ExecSyncRequest { container_id: container.clone(), cmd: vec!["true".into()], timeout: 10 };
        let reply = node.runtime.exec_sync(request).await?.into_inner();
        times.push(began.elapsed());
        if reply.exit_code != 0 {
            return Err(format!("exec ended with {}", reply.exit_code).into());
        }
    }
    figures.push(("ExecSync true p50, ms", ms(percentile(&mut times, 50))));
    figures.push(("ExecSync true p99, ms", ms(percentile(&mut times, 99))));
    node.end_pod(&pod, &container).await
}

async fn memory(node: &mut runtime::Node, figures: &mut Figures) -> Result<()> {
    let mut pods = Vec::new();
    for index in 0..PODS {
        pods.push(node.start_pod(&format!("memory-{index}"), &["sleep", "1000"]).await?);
    }
    let total: u64 = node.helpers_kib()?;
    figures.push(("per pod, PSS + page tables, KiB (50 pods)", (total / PODS as u64).to_string()));
    figures.push(("daemon RSS with 50 pods, MiB", mib(node.daemon_rss_kib()?)));
    for (pod, container) in pods {
        node.end_pod(&pod, &container).await?;
    }
    Ok(())
}

/// What the pods of several daemons cost together: of one program that is restarted, and of one that is upgraded.
async fn generations(node: &mut runtime::Node, figures: &mut Figures) -> Result<()> {
    let restarted = ["per pod of 3 daemons, PSS + page tables, KiB", "copies of the program, MiB"];
    let upgraded = ["per pod of 3 daemons and upgrades, KiB", "copies of the programs, MiB"];
    for (names, is_upgrade) in [(restarted, false), (upgraded, true)] {
        let mut pods = Vec::new();
        for generation in 0..GENERATIONS {
            if generation > 0 {
                node.restart(is_upgrade).await?;
            }
            for index in 0..PODS_OF_EACH {
                let name = format!("generation-{is_upgrade}-{generation}-{index}");
                pods.push(node.start_pod(&name, &["sleep", "1000"]).await?);
            }
        }
        figures.push((names[0], (node.helpers_kib()? / pods.len() as u64).to_string()));
        figures.push((names[1], mib(node.copies_kib()?)));
        for (pod, container) in pods {
            node.end_pod(&pod, &container).await?;
        }
    }
    Ok(())
}

async fn lists(node: &mut runtime::Node, figures: &mut Figures) -> Result<()> {
    let mut pods = Vec::new();
    for index in 0..LISTED {
        pods.push(node.start_pod(&format!("list-{index}"), &["sleep", "1000"]).await?);
    }
    let mut times = Vec::new();
    for _ in 0..LISTS {
        let began = Instant::now();
        let reply = node.runtime.list_containers(v1::ListContainersRequest::default()).await?;
        times.push(began.elapsed());
        if reply.into_inner().containers.len() != LISTED {
            return Err("a list that is not complete".into());
        }
    }
    figures.push(("ListContainers of 100 p50, ms", ms(percentile(&mut times, 50))));
    figures.push(("ListContainers of 100 p99, ms", ms(percentile(&mut times, 99))));
    stats(node, figures).await?;
    // Nobody asks for anything: what is used is what the daemon does by itself.
    tokio::time::sleep(SETTLE).await;
    let before = node.daemon_cpu_nanos()?;
    tokio::time::sleep(IDLE).await;
    let used = node.daemon_cpu_nanos()?.saturating_sub(before);
    let percent = used as f64 / IDLE.as_nanos() as f64 * 100.0;
    figures.push(("daemon idle with 100 pods, % of a core", format!("{percent:.2}")));
    for (pod, container) in pods {
        node.end_pod(&pod, &container).await?;
    }
    Ok(())
}

/// The figures of all containers and of all pods, as the kubelet asks for them.
async fn stats(node: &mut runtime::Node, figures: &mut Figures) -> Result<()> {
    let (mut of_containers, mut of_pods) = (Vec::new(), Vec::new());
    for _ in 0..LISTS {
        let began = Instant::now();
        let reply = node.runtime.list_container_stats(v1::ListContainerStatsRequest::default()).await?;
        of_containers.push(began.elapsed());
        if reply.into_inner().stats.len() != LISTED {
            return Err("statistics that are not complete".into());
        }
        let began = Instant::now();
        let reply = node.runtime.list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest::default()).await?;
        of_pods.push(began.elapsed());
        if reply.into_inner().stats.len() != LISTED {
            return Err("statistics that are not complete".into());
        }
    }
    figures.push(("ListContainerStats of 100 p50, ms", ms(percentile(&mut of_containers, 50))));
    figures.push(("ListContainerStats of 100 p99, ms", ms(percentile(&mut of_containers, 99))));
    figures.push(("ListPodSandboxStats of 100 p50, ms", ms(percentile(&mut of_pods, 50))));
    figures.push(("ListPodSandboxStats of 100 p99, ms", ms(percentile(&mut of_pods, 99))));
    Ok(())
}

/// One container writes lines as fast as it can; every one must be in its log.
async fn logs(node: &mut runtime::Node, figures: &mut Figures) -> Result<()> {
    const LINE: &str =
        "the quick brown fox jumps over the lazy dog and the quick brown fox jumps over it again, 100 bytes";
    let lines = LOG_BYTES / (LINE.len() as u64 + 1);
    let script = format!("yes '{LINE}' | head -n {lines}");
    let began = Instant::now();
    let (pod, container) = node.start_pod("log", &["sh", "-c", &script]).await?;
    loop {
        let request = v1::ContainerStatusRequest { container_id: container.clone(), verbose: false };
        let status = node.runtime.container_status(request).await?.into_inner().status;
        if status.is_some_and(|status| status.state() == v1::ContainerState::ContainerExited) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = began.elapsed();
    let log = node.log_of("log");
    let written = count_lines(&log)?;
    let rate = LOG_BYTES as f64 / 1e6 / took.as_secs_f64();
    figures.push(("log of one container, MB/s", format!("{rate:.0}")));
    figures.push(("log lines lost", (lines - written.min(lines)).to_string()));
    fs::remove_file(&log)?;
    node.end_pod(&pod, &container).await
}

fn count_lines(path: &Path) -> Result<u64> {
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut lines = 0;
    loop {
        let length = std::io::Read::read(&mut file, &mut buffer)?;
        if length == 0 {
            return Ok(lines);
        }
        lines += buffer[..length].iter().filter(|byte| **byte == b'\n').count() as u64;
    }
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

fn ms(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

fn mib(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("").to_owned()
}

fn print_table(rows: &[(&str, Figures)]) {
    let mut table = String::from("\n| what |");
    for (name, _) in rows {
        let _ = write!(table, " {name} |");
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(rows.len()));
    let Some((_, first)) = rows.first() else { return };
    for (index, (what, _)) in first.iter().enumerate() {
        let _ = write!(table, "\n| {what} |");
        for (_, figures) in rows {
            let _ = write!(table, " {} |", figures[index].1);
        }
    }
    println!("{table}\n");
}
