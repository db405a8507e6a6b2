//! Exec, attach and port-forward: how much goes through, how soon, and what sessions cost that do nothing.

use std::{
    io::Read as _,
    net::TcpStream,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    Figures, Result, load, mib, ms, percentile,
    runtime::{Node, Peer, v1},
    spdy::{Frame, Spdy},
};

/// Bytes of each transfer.
const MUCH: u64 = 1 << 30;
/// Transfers of each kind; the middle one counts.
const TRANSFERS: usize = 5;
/// Runs of crictl, and sessions of the client of this program.
const RUNS: usize = 60;
/// Attach sessions that are open at once, and the containers that they are of: a container has a limit of clients.
const IDLERS: usize = 1000;
const CONTAINERS: usize = 4;
/// How long those are watched, and how long before that they are left alone.
const WATCHED: Duration = Duration::from_secs(10);
const SETTLE: Duration = Duration::from_secs(2);
/// ExecSync calls, and how many are under way at a time.
const EXECS: usize = 4000;
const EXECS_AT_A_TIME: usize = 4;
/// On the host's network, where each runtime of this benchmark has its pods.
const PORT: u16 = 38_731;

pub(crate) async fn measure(peer: Peer) -> Result<Figures> {
    let mut node = Node::start(peer).await?;
    let mut figures = vec![("load before the streams", load())];
    exec_output(&mut node, &mut figures).await?;
    port_forward(&mut node, &mut figures).await?;
    first_bytes(&mut node, &mut figures).await?;
    idlers(&mut node, &mut figures).await?;
    exec_syncs(&mut node, &mut figures).await?;
    node.stop()?;
    Ok(figures)
}

async fn exec_output(node: &mut Node, figures: &mut Figures) -> Result<()> {
    let (pod, container) = node.start_pod("exec-output", &["sleep", "1000"]).await?;
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..TRANSFERS {
        let url = exec_url(node, &container, &much()).await?;
        let (cpu, began) = (node.daemon_cpu_nanos()?, Instant::now());
        let mut client = Spdy::open(&url, "v4.channel.k8s.io")?;
        client.stream(&[("streamtype", "error")])?;
        let output = client.stream(&[("streamtype", "stdout")])?;
        drain(&mut client, output)?;
        rates.push(began.elapsed());
        costs.push(Duration::from_nanos(node.daemon_cpu_nanos()? - cpu));
    }
    figures.push(("exec, 1 GiB of stdout over SPDY, MiB/s", rate(&mut rates)));
    figures.push(("CPU of the daemon for it, ms", ms(percentile(&mut costs, 50))));
    node.end_pod(&pod, &container).await
}

/// The command that writes [`MUCH`].
fn much() -> Vec<String> {
    let count = format!("count={}", MUCH >> 16);
    ["dd", "if=/dev/zero", "bs=65536", &count].map(str::to_owned).to_vec()
}

/// Reads until the stream has ended; everything must have come.
fn drain(client: &mut Spdy, output: u32) -> Result<()> {
    let mut seen = 0;
    loop {
        match client.frame()? {
            Frame::Data { id, length, fin } if id == output => {
                seen += length;
                if fin && seen == MUCH {
                    return Ok(());
                }
                if fin {
                    return Err(format!("{seen} bytes instead of {MUCH}").into());
                }
            }
            Frame::Data { .. } | Frame::Other => {}
            Frame::Closed => return Err(format!("closed after {seen} bytes").into()),
        }
    }
}

async fn port_forward(node: &mut Node, figures: &mut Figures) -> Result<()> {
    let serve = format!("nc -ll -p {PORT} -e {}", much().join(" "));
    let (pod, container) = node.start_pod("forward", &["sh", "-c", &serve]).await?;
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..TRANSFERS {
        let request = v1::PortForwardRequest { pod_sandbox_id: pod.clone(), port: vec![PORT.into()] };
        let url = node.runtime.port_forward(request).await?.into_inner().url;
        let (cpu, began) = (node.daemon_cpu_nanos()?, Instant::now());
        let mut client = Spdy::open(&url, "portforward.k8s.io")?;
        let port = PORT.to_string();
        client.stream(&[("streamtype", "error"), ("port", &port), ("requestid", "0")])?;
        let data = client.stream(&[("streamtype", "data"), ("port", &port), ("requestid", "0")])?;
        drain(&mut client, data)?;
        rates.push(began.elapsed());
        costs.push(Duration::from_nanos(node.daemon_cpu_nanos()? - cpu));
    }
    figures.push(("port-forward, 1 GiB from the pod over SPDY, MiB/s", rate(&mut rates)));
    figures.push(("CPU of the daemon for this, ms", ms(percentile(&mut costs, 50))));
    node.end_pod(&pod, &container).await
}

fn rate(times: &mut [Duration]) -> String {
    format!("{:.0}", (MUCH >> 20) as f64 / percentile(times, 50).as_secs_f64())
}

async fn exec_url(node: &mut Node, container: &str, command: &[String]) -> Result<String> {
    let request = v1::ExecRequest {
        container_id: container.into(),
        cmd: command.to_vec(),
        stdout: true,
        ..Default::default()
    };
    Ok(node.runtime.exec(request).await?.into_inner().url)
}

/// From the start of crictl, and from the request of a URL, to the first byte of output and the exit code.
async fn first_bytes(node: &mut Node, figures: &mut Figures) -> Result<()> {
    let (pod, container) = node.start_pod("first", &["sleep", "1000"]).await?;
    let (mut firsts, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let began = Instant::now();
        let url = exec_url(node, &container, &["echo".into(), "x".into()]).await?;
        let mut client = Spdy::open(&url, "v4.channel.k8s.io")?;
        client.stream(&[("streamtype", "error")])?;
        let output = client.stream(&[("streamtype", "stdout")])?;
        while !matches!(client.frame()?, Frame::Data { id, length: 1.., .. } if id == output) {}
        firsts.push(began.elapsed());
        while !matches!(client.frame()?, Frame::Closed) {}
        ends.push(began.elapsed());
    }
    figures.push(("exec echo, first byte, p50, ms", ms(percentile(&mut firsts, 50))));
    figures.push(("exec echo, session ended, p50, ms", ms(percentile(&mut ends, 50))));
    let crictl = std::env::var("PINTLE_CRICTL").unwrap_or_else(|_| "crictl".into());
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        let mut command = Command::new(&crictl);
        command.arg("--runtime-endpoint").arg(node.endpoint()).args(["exec", &container, "echo", "x"]);
        let Ok(mut running) = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn() else { break };
        let mut first = [0];
        running.stdout.take().ok_or("no stdout")?.read_exact(&mut first)?;
        times.push(began.elapsed());
        running.wait()?;
    }
    let text = if times.is_empty() { "no crictl".into() } else { ms(percentile(&mut times, 50)) };
    figures.push(("crictl exec echo, first byte, p50, ms", text));
    node.end_pod(&pod, &container).await
}

async fn idlers(node: &mut Node, figures: &mut Figures) -> Result<()> {
    let mut pods = Vec::new();
    for index in 0..CONTAINERS {
        pods.push(node.start_pod(&format!("idle-{index}"), &["sleep", "1000"]).await?);
    }
    // The first ones make room that stays.
    drop(attach(node, &pods, CONTAINERS).await?);
    tokio::time::sleep(SETTLE).await;
    let before = node.daemon_rss_kib()?;
    let sessions = attach(node, &pods, IDLERS).await?;
    tokio::time::sleep(SETTLE).await;
    let (more, cpu) = (node.daemon_rss_kib()?.saturating_sub(before), node.daemon_cpu_nanos()?);
    tokio::time::sleep(WATCHED).await;
    let used = node.daemon_cpu_nanos()?.saturating_sub(cpu);
    let percent = used as f64 / WATCHED.as_nanos() as f64 * 100.0;
    figures.push(("1,000 idle attach sessions, more RSS, MiB", mib(more)));
    figures.push(("the daemon meanwhile, % of a core", format!("{percent:.2}")));
    drop(sessions);
    for (pod, container) in pods {
        node.end_pod(&pod, &container).await?;
    }
    Ok(())
}

/// Sessions whose streams are all open.
async fn attach(node: &mut Node, pods: &[(String, String)], count: usize) -> Result<Vec<TcpStream>> {
    let mut sessions = Vec::new();
    for nth in 0..count {
        let (_, container) = &pods[nth % pods.len()];
        let request = v1::AttachRequest {
            container_id: container.clone(),
            stdout: true,
            stderr: true,
            ..Default::default()
        };
        let url = node.runtime.attach(request).await?.into_inner().url;
        let mut client = Spdy::open(&url, "v4.channel.k8s.io")?;
        for kind in ["error", "stdout", "stderr"] {
            client.stream(&[("streamtype", kind)])?;
        }
        for _ in 0..3 {
            client.frame()?;
        }
        sessions.push(client.into_socket());
    }
    Ok(sessions)
}

async fn exec_syncs(node: &mut Node, figures: &mut Figures) -> Result<()> {
    let (pod, container) = node.start_pod("exec-sync", &["sleep", "1000"]).await?;
    let mut workers = tokio::task::JoinSet::new();
    let began = Instant::now();
    for _ in 0..EXECS_AT_A_TIME {
        let (mut runtime, container_id) = (node.runtime.clone(), container.clone());
        workers.spawn(async move {
            let mut times = Vec::new();
            for _ in 0..EXECS / EXECS_AT_A_TIME {
                let began = Instant::now();
                let cmd = vec!["true".into()];
                let request = v1::ExecSyncRequest { container_id: container_id.clone(), cmd, timeout: 10 };
                let reply = runtime.exec_sync(request).await.map_err(|status| status.to_string())?;
                times.push(began.elapsed());
                if reply.get_ref().exit_code != 0 {
                    return Err(format!("exec ended with {}", reply.get_ref().exit_code));
                }
            }
            Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(worker) = workers.join_next().await {
        times.extend(worker??);
    }
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    figures.push(("ExecSync, 4 at a time, p50, ms", ms(percentile(&mut times, 50))));
    figures.push(("ExecSync, 4 at a time, p99, ms", ms(percentile(&mut times, 99))));
    figures.push(("ExecSync, 4 at a time, per second", format!("{rate:.0}")));
    node.end_pod(&pod, &container).await
}
