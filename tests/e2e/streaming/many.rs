//! Many sessions: what they leave, and what they cost.
//!
//! `PINTLE_E2E_SESSIONS` is how many come and go, a tenth of it how many are idle at once; `PINTLE_E2E_FIGURES` names a
//! file for the figures. `cargo xtask proof streams` has 10,000.

use std::{
    env, fs,
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use super::{gone::Sessions, protocol::in_a_terminal};
use crate::harness::{
    BUSYBOX, Container, Idlers, Node, Pod, Spdy, WebSocket, figures, runner::tests, spdy::Frame, v1,
    wait_for, wait_until,
};

tests![many_sessions_leave_nothing_and_cost_little];

/// Without the variable: CI has other things to do.
const SESSIONS: usize = 200;
/// URLs: a thousand may be pending, a few of which are this test's own.
const PENDING: usize = 990;
/// Clients at once.
const WORKERS: usize = 4;
/// Clients that read nothing, at once.
const SILENT: usize = 20;
/// How far memory may be from what it was.
const SLACK_KIB: u64 = 16 << 10;
/// How long idle sessions are watched.
const WATCHED: Duration = Duration::from_secs(3);

/// The daemon's figures of /proc.
struct Figures<'n>(&'n Node);

impl Figures<'_> {
    fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.daemon_pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Processor time, in hundredths of a second (proc(5), stat, fields 14 and 15).
    fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.daemon_pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        [11, 12].iter().map(|&field| fields[field].parse::<u64>().unwrap()).sum()
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0.daemon_pid())).unwrap().count()
    }
}

fn many_sessions_leave_nothing_and_cost_little() {
    let count = env::var("PINTLE_E2E_SESSIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(SESSIONS);
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.create_with("main", BUSYBOX, ["nc", "-ll", "-p", "8080", "-e", "cat"], |config| {
        config.stdin = true;
    });
    container.start();
    wait_until("it listens", || container.shell("cat /proc/net/tcp*").contains(":1F90"));
    let other = pod.run_in("other", ["sleep", "1000"]);
    let (daemon, sessions) = (Figures(&node), Sessions::of(&node));

    // The first of each kind make room that stays.
    come_and_go(&node, &pod, &container, SESSIONS / 2);
    let (early, begun) = (exec_url(&node, &container, &["true"]), Instant::now());
    let (before, descriptors) = (daemon.resident_kib(), daemon.descriptors());
    come_and_go(&node, &pod, &container, count);
    wait_for("no descriptor is left", &descriptors, || daemon.descriptors());
    let left = daemon.resident_kib().saturating_sub(before);
    let took = begun.elapsed();
    if took > Duration::from_secs(60) {
        assert_eq!(Idlers::connect(&node, &[early]).statuses, ["404 Not Found"], "it has expired");
    }
    // A token that was kept would be one of the thousand that may be pending.
    let urls: Vec<_> = (0..PENDING).map(|nth| attach_url(&node, [&container, &other][nth % 2])).collect();

    let idle = (count / 10).min(urls.len());
    let before = daemon.resident_kib();
    let idlers = Idlers::connect(&node, &urls[..idle]);
    assert!(
        idlers.statuses.iter().all(|status| status == "101 Switching Protocols"),
        "{:?}",
        idlers.statuses
    );
    let ticks = daemon.ticks();
    thread::sleep(WATCHED);
    let (ticks, of_idle) = (daemon.ticks() - ticks, daemon.resident_kib().saturating_sub(before));
    drop(idlers);
    wait_until("they have gone", || sessions.count() == 0);

    let before = daemon.resident_kib();
    let silent: Vec<_> = (0..SILENT).map(|nth| silent(&node, &pod, &container, nth)).collect();
    thread::sleep(WATCHED);
    let of_silent = daemon.resident_kib().saturating_sub(before);
    drop(silent);
    wait_until("they have gone", || sessions.count() == 0);

    figures::keep(&format!(
        "sessions: {count}\nseconds for them: {}\nKiB more after them: {left}\ndescriptors more after them: 0\n\
         tokens more after them: 0\nidle attach sessions: {idle}\nKiB of those: {of_idle}\n\
         hundredths of a second of processor time in {} s of those: {ticks}\n\
         clients that never read: {SILENT}\nKiB of those: {of_silent}\n",
        took.as_secs(),
        WATCHED.as_secs()
    ));
    assert!(left < SLACK_KIB, "{left} KiB were left");
    assert!(of_silent < 2 * SLACK_KIB, "{of_silent} KiB for {SILENT} clients that do not read");
    assert!(of_idle < 2 * SLACK_KIB, "{of_idle} KiB for {idle} idle sessions");
    node.assert_clean();
}

fn come_and_go(node: &Node, pod: &Pod<'_>, container: &Container<'_>, count: usize) {
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || {
                (worker..count).step_by(WORKERS).for_each(|nth| visit(node, pod, container, nth));
            });
        }
    });
    let sessions = Sessions::of(node);
    wait_until("all have gone", || sessions.count() == 0);
}

/// One session of one kind, from beginning to end.
fn visit(node: &Node, pod: &Pod<'_>, container: &Container<'_>, nth: usize) {
    match nth % 8 {
        0 => {
            let mut client = exec(node, container, &["true"]);
            let closed = std::iter::from_fn(|| client.next()).any(|message| message.is_close());
            assert!(closed, "it was not closed");
        }
        1 => {
            while !is_repeated(node, container) {
                // As many run as may: those that others have just left.
                thread::sleep(Duration::from_millis(50));
            }
        }
        2 => drop(Spdy::open(node, &exec_url(node, container, &["cat"]), "v4.channel.k8s.io")),
        3 => drop(in_a_terminal(node, container, "cat")),
        4 => {
            let mut client = in_a_terminal(node, container, "cat");
            client.send(4, br#"{"Width":80,"Height":24}"#).unwrap();
        }
        5 => drop(WebSocket::open(node, &attach_url(node, container), "v5.channel.k8s.io")),
        6 => {
            let mut client = Spdy::open(node, &forward_url(node, pod), "portforward.k8s.io");
            let (_, data) = client.forward("8080", nth);
            client.data(data, b"hello", false);
            let mut frames =
                std::iter::from_fn(|| Some(client.frame()).filter(|frame| *frame != Frame::Closed));
            assert!(frames.any(|frame| matches!(frame, Frame::Data { bytes, .. } if bytes == b"hello")));
        }
        _ => {
            let url = exec_url(node, container, &["cat"]);
            let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
            let mut stream = node.namespaces().connect(address);
            stream.write_all(format!("GET /{path} HTTP/1.1\r\nHost:").as_bytes()).unwrap();
            drop(stream);
            // What was not used up would wait for a minute.
            drop(Idlers::connect(node, &[url]));
        }
    }
}

/// Whether `cat` repeats what it is sent; else too many commands run in the container.
fn is_repeated(node: &Node, container: &Container<'_>) -> bool {
    let mut client = exec(node, container, &["cat"]);
    client.send(0, b"hello").unwrap();
    let answer = std::iter::from_fn(|| client.next()).find(|message| message.len() > 1);
    let answer = answer.expect("an answer").into_data();
    let refused = String::from_utf8_lossy(&answer).contains("64 commands are running");
    assert!(refused || answer == b"\x01hello"[..], "{answer:?}");
    !refused
}

/// A client that is sent much and reads nothing.
fn silent(node: &Node, pod: &Pod<'_>, container: &Container<'_>, nth: usize) -> Box<dyn std::any::Any> {
    match nth % 3 {
        0 => Box::new(exec(node, container, &["cat", "/dev/zero"])),
        1 => {
            let url = exec_url(node, container, &["cat", "/dev/zero"]);
            let mut client = Spdy::open(node, &url, "v4.channel.k8s.io");
            for kind in ["error", "stdin", "stdout", "stderr"] {
                client.start(&[("streamtype", kind)]);
            }
            Box::new(client)
        }
        _ => {
            let mut client = Spdy::open(node, &forward_url(node, pod), "portforward.k8s.io");
            let (_, data) = client.forward("8080", nth);
            let mut socket = client.socket();
            let frame = crate::harness::spdy::data_frame(data, &[b'x'; 64 << 10], false);
            // It ends when the session does.
            thread::spawn(move || while socket.write_all(&frame).is_ok() {});
            Box::new(Closing(client))
        }
    }
}

/// A session whose connection is closed with it, whoever else has a handle.
struct Closing(Spdy);

impl Drop for Closing {
    fn drop(&mut self) {
        let _ = self.0.socket().shutdown(std::net::Shutdown::Both);
    }
}

fn exec_url(node: &Node, container: &Container<'_>, command: &[&str]) -> String {
    super::urls(node, container, command, 1).remove(0)
}

fn exec(node: &Node, container: &Container<'_>, command: &[&str]) -> WebSocket {
    WebSocket::open(node, &exec_url(node, container, command), "v5.channel.k8s.io")
}

fn attach_url(node: &Node, container: &Container<'_>) -> String {
    let request = v1::AttachRequest {
        container_id: container.id.clone(),
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    node.cri().attach(request).unwrap().url
}

fn forward_url(node: &Node, pod: &Pod<'_>) -> String {
    let request = v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![8080] };
    node.cri().port_forward(request).unwrap().url
}
