//! Programs run in a container beside its own.
//!
//! `PINTLE_E2E_EXECS` is how many of them one story runs, four at a time; `cargo xtask proof execs` has 100,000.

use std::{
    env, fs, thread,
    time::{Duration, Instant},
};

use tonic::Code;

use crate::harness::{BUSYBOX, Node, Output, figures, runner::tests, wait_for, wait_until};

tests![
    streams_and_exit_code_come_back_apart,
    a_program_is_run_as_the_container_is,
    time_that_is_up_ends_the_whole_tree,
    a_child_that_holds_the_pipe_does_not_hold_the_answer,
    much_output_comes_whole,
    many_at_once_all_answer,
    many_one_after_the_other_leave_nothing,
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

/// Without the variable: CI has other things to do.
const EXECS: usize = 400;
/// How many are under way at a time.
const WORKERS: usize = 4;
/// How far the memory of a process may be from what it was.
const SLACK_KIB: u64 = 4 << 10;

/// The resident memory in the text of a process's status file; KiB.
fn resident_kib(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn descriptors(node: &Node, pid: &str) -> usize {
    node.run("ls", [&format!("/proc/{pid}/fd")]).lines().count()
}

fn many_one_after_the_other_leave_nothing() {
    let count = env::var("PINTLE_E2E_EXECS").ok().and_then(|text| text.parse().ok()).unwrap_or(EXECS);
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000000"]);
    let stat = node.read(&format!("/proc/{}/stat", container.pid()));
    let supervisor = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap();
    let resident = || {
        let daemon = fs::read_to_string(format!("/proc/{}/status", node.daemon_pid())).unwrap();
        [node.read(&format!("/proc/{supervisor}/status")), daemon].map(|status| resident_kib(&status))
    };
    // One that has ended and was not reaped counts, too. The shell counts by itself, and starts none.
    let processes = || node.run("sh", ["-c", "set -- /proc/[0-9]*; echo $#"]);
    // Cgroups of other tests may go while it looks, which it would take for a failure.
    let find = format!("find /sys/fs/cgroup -type d -path '*{}*/exec-*' 2>/dev/null; true", pod.id);
    let cgroups = || node.run("sh", ["-c", &find]);
    let run = |count: usize| {
        let workers: Vec<Vec<Duration>> = thread::scope(|scope| {
            let one = |nth| {
                let container = &container;
                scope.spawn(move || (nth..count).step_by(WORKERS).map(|_| timed(container)).collect())
            };
            let workers: Vec<_> = (0..WORKERS).map(one).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        workers.concat()
    };
    // The first ones make room that stays.
    run(EXECS / 2);
    let (alive, left, open) = (processes(), cgroups(), descriptors(&node, supervisor));
    let before = resident();
    let begun = Instant::now();
    let mut times = run(count);
    let took = begun.elapsed();
    wait_for("no process is left", &alive, processes);
    wait_for("no cgroup is left", &left, cgroups);
    wait_for("no descriptor is left", &open, || descriptors(&node, supervisor));
    let after = resident();
    let [supervisor_kib, daemon_kib] = [0, 1].map(|nth| after[nth].saturating_sub(before[nth]));
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    figures::keep(&format!(
        "execs: {count}\nseconds for them: {}\nmilliseconds of one, p50: {:.1}\np99: {:.1}\nprocesses left: 0\n\
         cgroups left: 0\ndescriptors left: 0\nKiB more of the supervisor: {supervisor_kib}\n\
         KiB more of the daemon: {daemon_kib}\n",
        took.as_secs(),
        at(50),
        at(99),
    ));
    assert!(supervisor_kib < SLACK_KIB && daemon_kib < SLACK_KIB, "{supervisor_kib}, {daemon_kib}");
    node.assert_clean();
}

/// How long one takes, whose exit code must be 0.
fn timed(container: &crate::harness::Container<'_>) -> Duration {
    let begun = Instant::now();
    assert_eq!(container.exec(["true"]).code, 0);
    begun.elapsed()
}
