//! Programs run in a container beside its own.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::harness::{BUSYBOX, Node, Output, runner::tests, wait_until};

tests![
    streams_and_exit_code_come_back_apart,
    a_program_is_run_as_the_container_is,
    time_that_is_up_ends_the_whole_tree,
    a_child_that_holds_the_pipe_does_not_hold_the_answer,
    much_output_comes_whole,
    many_at_once_all_answer,
    much_output_of_many_is_cut_and_not_held,
    nothing_runs_where_nothing_is,
    a_program_that_is_not_there_is_an_error,
    an_exec_dies_for_memory_as_its_container_would,
];

fn streams_and_exit_code_come_back_apart() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);

    let output = container.exec(["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(output, Output { stdout: "out\n".into(), stderr: "err\n".into(), code: 3 });
    node.assert_clean();
}

fn a_program_is_run_as_the_container_is() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.create("main", "registry.test/pintle/config:1", []);
    container.start();

    assert_eq!(container.shell("echo $GREETING; pwd; id -u"), "hello\n/not/there/yet\n1002\n");
    for namespace in ["mnt", "net", "pid", "ipc", "uts"] {
        let own = container.shell(&format!("readlink /proc/self/ns/{namespace}"));
        let inits = node.run("readlink", [&format!("/proc/{}/ns/{namespace}", container.pid())]);
        assert_eq!(own, inits, "{namespace}");
    }
    assert_eq!(container.shell("cut -d: -f3 /proc/self/cgroup | sort -u"), "/\n");
    node.assert_clean();
}

fn time_that_is_up_ends_the_whole_tree() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);

    let script = "sleep 4321 & setsid sleep 4321 & sleep 4321";
    let late = container.try_exec(["sh", "-c", script], 1).unwrap_err();

    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    wait_until("nothing of it is left", || !container.shell("ps").contains("4321"));
    node.assert_clean();
}

fn a_child_that_holds_the_pipe_does_not_hold_the_answer() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);

    let asked = Instant::now();
    let output = container.exec(["sh", "-c", "sleep 15 & echo done"]);
    assert_eq!((output.stdout.as_str(), output.code), ("done\n", 0));
    assert!(asked.elapsed() < Duration::from_secs(10), "took {:?}", asked.elapsed());
    node.assert_clean();
}

fn much_output_comes_whole() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);

    let output = container.exec(["seq", "1", "200000"]);
    assert_eq!(output.code, 0);
    assert_eq!(output.stdout.lines().count(), 200_000);
    assert_eq!(output.stdout.lines().last(), Some("200000"));
    node.assert_clean();
}

fn many_at_once_all_answer() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);

    std::thread::scope(|scope| {
        for nth in 0..24 {
            let container = &container;
            scope.spawn(move || assert_eq!(container.shell(&format!("echo {nth}")), format!("{nth}\n")));
        }
    });
    node.assert_clean();
}

/// More than the 16 MiB that one answer takes, from sixty at once: a gigabyte, were all of it kept.
fn much_output_of_many_is_cut_and_not_held() {
    const COMMANDS: usize = 60;
    const OUTPUT_BYTES: usize = 17_000_000;
    /// The daemon's own, the 64 MiB of all outputs, and answers that are being encoded and sent.
    const DAEMON_KIB_MAX: u64 = 300 << 10;
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    let status = format!("/proc/{}/status", node.daemon_pid());
    let script = format!("head -c {OUTPUT_BYTES} /dev/zero");

    let lengths: Vec<usize> = std::thread::scope(|scope| {
        let commands: Vec<_> = (0..COMMANDS)
            .map(|_| scope.spawn(|| container.try_exec(["sh", "-c", &script], 300).unwrap()))
            .collect();
        let outputs = commands.into_iter().map(|command| command.join().unwrap());
        outputs.inspect(|output| assert_eq!(output.code, 0)).map(|output| output.stdout.len()).collect()
    });
    assert!(lengths.iter().all(|length| (64 << 10..=16 << 20).contains(length)), "{lengths:?}");
    let peak = std::fs::read_to_string(status).unwrap();
    let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < DAEMON_KIB_MAX, "the daemon held {peak} KiB");
    println!("much output of many: the daemon held {peak} KiB at most");

    // What is left of the limit is there for the next.
    let alone = container.try_exec(["sh", "-c", &script], 300).unwrap();
    assert!(alone.stdout.len() > 16_000_000, "{}", alone.stdout.len());
    node.assert_clean();
}

fn nothing_runs_where_nothing_is() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);
    container.kill();

    let code = container.try_exec(["true"], 5).unwrap_err().code();
    assert!(matches!(code, Code::FailedPrecondition | Code::NotFound), "{code:?}");
    container.remove();
    assert_eq!(container.try_exec(["true"], 5).unwrap_err().code(), Code::NotFound);
    node.assert_clean();
}

fn a_program_that_is_not_there_is_an_error() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);

    let refused = container.try_exec(["/no/such/program"], 5).unwrap_err();
    assert!(refused.message().contains("/no/such/program"), "{refused}");
    node.assert_clean();
}

fn an_exec_dies_for_memory_as_its_container_would() {
    let node = Node::start();
    let container = node.run_pod("web").create_with("main", BUSYBOX, ["sleep", "1000"], |config| {
        config.linux.get_or_insert_default().resources.get_or_insert_default().oom_score_adj = 500;
    });
    container.start();

    assert_eq!(node.read(&format!("/proc/{}/oom_score_adj", container.pid())), "500\n");
    assert_eq!(container.shell("cat /proc/self/oom_score_adj"), "500\n");
    node.assert_clean();
}
