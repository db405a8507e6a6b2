//! `pintle logs`

use std::{fs, process::Stdio};

use super::{command, run, stderr, stdout};
use crate::harness::{BUSYBOX, Node, runner::tests, v1, wait_until};

tests![the_log_is_the_output_that_it_was, the_log_is_followed_over_rotations_to_the_end];

fn the_log_is_the_output_that_it_was() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let script = "echo one; sleep 0.1; echo two >&2; sleep 0.1; head -c 40000 /dev/zero | tr '\\0' x; echo; printf end";
    let container = pod.run_in("main", ["sh", "-c", script]);
    container.wait();
    let long = "x".repeat(40_000);
    for name in [&container.id, &container.id[..12], "main", "web/main", "e2e/web/main", "web"] {
        let shown = run(&node, "logs", [name]);
        assert!(shown.status.success(), "{name}: {}", stderr(&shown));
        assert_eq!(stderr(&shown), "two\n", "{name}");
        assert!(stdout(&shown) == format!("one\n{long}\nend"), "{name}: {} bytes", shown.stdout.len());
    }
    let last = run(&node, "logs", ["--tail", "2", "main"]);
    assert!((stdout(&last), stderr(&last)) == (format!("{long}\nend"), String::new()));
    assert_eq!(stdout(&run(&node, "logs", ["-n", "0", "main"])), "");

    let timed = stdout(&run(&node, "logs", ["--timestamps", "main"]));
    let times: Vec<&str> = timed.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(timed.lines().next().unwrap().split_once(' ').unwrap().1, "one");
    assert_eq!(times.len(), 3);
    let later = run(&node, "logs", ["--since", times[1], "main"]);
    assert!((stdout(&later), stderr(&later)) == (format!("{long}\nend"), String::new()));
    assert!(stdout(&run(&node, "logs", ["--since", "1h", "main"])).starts_with("one\n"));
    let refused = run(&node, "logs", ["--since", "yesterday", "main"]);
    assert_eq!(refused.status.code(), Some(125));
    assert!(stderr(&refused).contains("\"yesterday\" is neither a time"), "{}", stderr(&refused));

    let unknown = run(&node, "logs", ["nobody"]);
    assert_eq!(unknown.status.code(), Some(125));
    assert_eq!(stderr(&unknown), "pintle: no container has the ID or name \"nobody\"\n");
    let silent = pod.create_with("silent", BUSYBOX, ["true"], |config| config.log_path.clear());
    let none = stderr(&run(&node, "logs", ["silent"]));
    assert!(none.contains(&format!("container {} has no log", silent.id)), "{none}");
    let several = stderr(&run(&node, "logs", ["web"]));
    assert!(several.contains("\"web\" means 2 containers: e2e/web/"), "{several}");
    node.assert_clean();
}

fn the_log_is_followed_over_rotations_to_the_end() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let script =
        "for n in $(seq 0 9); do seq $((n * 2000 + 1)) $((n * 2000 + 2000)); sleep 0.2; done; exit 3";
    let container = pod.run_in("main", ["sh", "-c", script]);
    let following = command(&node, "logs", ["--follow", "main"]).stdout(Stdio::piped()).spawn().unwrap();
    for nth in 0..4 {
        let written = || fs::metadata(container.log_file()).is_ok_and(|data| data.len() > 10_000);
        wait_until("the log is written", written);
        let away = container.log_file().with_extension(format!("log.20260101-00000{nth}"));
        fs::rename(container.log_file(), &away).unwrap();
        let request = v1::ReopenContainerLogRequest { container_id: container.id.clone() };
        node.cri().reopen_container_log(request).unwrap();
    }

    let followed = following.wait_with_output().unwrap();

    let all: String = (1..=20_000).map(|nth| format!("{nth}\n")).collect();
    assert!(stdout(&followed) == all, "{} lines", stdout(&followed).lines().count());
    assert!(followed.status.success(), "it is not the command's exit code: {}", followed.status);
    assert_eq!(container.wait(), 3);
    // The files that were rotated away are part of it afterwards, too.
    assert!(stdout(&run(&node, "logs", ["main"])) == all);
    let last: String = (1_001..=20_000).map(|nth| format!("{nth}\n")).collect();
    assert!(stdout(&run(&node, "logs", ["--tail", "19000", "main"])) == last);
    node.assert_clean();
}
