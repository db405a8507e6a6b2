//! Streams over TLS, as crictl asks for them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{TRANSPORTS, WELCOME, crictl, feed, kill, serve, sleeper};
use crate::harness::{Node, Setup, pintle, runner::tests, wait_until};

tests![
    clients_show_and_are_shown_certificates,
    a_renewed_authority_counts_for_the_next_client,
    certificates_that_cannot_be_used_are_an_error_at_the_start,
];

/// A file that `src/image/testtls/make` made.
fn made(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/image/testtls").join(name)
}

/// Copies a file of certificates to where the daemon has it.
fn put(name: &str, to: &Path) {
    let new = to.with_extension("new");
    std::fs::copy(made(name), &new).unwrap();
    std::fs::rename(new, to).unwrap();
}

fn config(authority: &Path) -> String {
    format!(
        "[streaming]\ntls_certificate = {:?}\ntls_key = {:?}\ntls_client_ca = {authority:?}\n",
        made("server.pem"),
        made("server.key")
    )
}

/// A command of crictl with one of the certificates.
fn crictl_as<const N: usize>(node: &Node, client: &str, name: &str, arguments: [&str; N]) -> Command {
    let mut command = crictl(node, [name]);
    command.arg("--tls-ca").arg(made("authority.pem"));
    command.arg("--tls-cert").arg(made(&format!("{client}.pem")));
    command.arg("--tls-key").arg(made(&format!("{client}.key")));
    command.args(arguments);
    command
}

fn clients_show_and_are_shown_certificates() {
    let node = Node::start_with(&Setup { config: config(&made("authority.pem")), ..Setup::default() });
    let container = sleeper(&node);
    let url = super::urls(&node, &container, &["true"], 1).remove(0);
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let script = "cat; echo problem >&2; exit 42";
    for transport in TRANSPORTS {
        let exec = ["--transport", transport, "-i", &container.id, "sh", "-c", script];
        let output = feed(crictl_as(&node, "client", "exec", exec), vec![b'x'; 300_000]);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.stdout.len(), 300_000, "{transport}: {err}");
        assert!(err.contains("problem") && err.contains("exit code 42"), "{transport}: {err}");
        // One without any certificate is not asked for by crictl, which insists on one; pintle's own commands are.
        let exec = ["--transport", transport, "-i", &container.id, "echo", "inside"];
        let output = feed(crictl_as(&node, "other-client", "exec", exec), Vec::new());
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{transport}");
        assert!(err.contains("remote error: tls:"), "{transport}: {err}");
    }
    // HTTP in the clear has an alert of TLS for an answer, if any.
    let answer = crate::harness::request(&node, "GET", &url.replace("https", "http"), &[]);
    assert!(!answer.status.starts_with(|first: char| first.is_ascii_digit()), "{answer:?}");

    let pod = node.run_pod("served");
    serve(&pod);
    for transport in TRANSPORTS {
        let forward = ["--transport", transport, &pod.id, "18080:80"];
        let mut running = crictl_as(&node, "client", "port-forward", forward)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the port is forwarded", || node.http_get("127.0.0.1:18080").contains(WELCOME));
        kill(&mut running);
    }
    node.assert_clean();
}

fn a_renewed_authority_counts_for_the_next_client() {
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("authority");
    put("authority.pem", &authority);
    let node = Node::start_with(&Setup { config: config(&authority), ..Setup::default() });
    let container = sleeper(&node);
    let may = |client: &str| {
        let exec = crictl_as(&node, client, "exec", [&container.id, "echo", "inside"]).output().unwrap();
        exec.stdout == b"inside\n"
    };
    assert_eq!((may("client"), may("other-client")), (true, false));
    put("other-authority.pem", &authority);
    assert_eq!((may("client"), may("other-client")), (false, true));
    // One that cannot be used changes nothing, and the log says so.
    std::fs::write(&authority, "hello").unwrap();
    assert_eq!((may("client"), may("other-client")), (false, true));
    let log = std::fs::read_to_string(node.path("daemon.log")).unwrap();
    assert!(
        log.contains("kept the old certificates") && log.contains("there is no certificate in it"),
        "{log}"
    );
    node.assert_clean();
}

fn certificates_that_cannot_be_used_are_an_error_at_the_start() {
    let node = Node::start();
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let places = format!("root = {:?}\nstate = {:?}\n", place("root"), place("state"));
    let (server, key, authority) = (made("server.pem"), made("server.key"), made("authority.pem"));
    for (keys, words) in [
        (format!("tls_certificate = {server:?}"), "streaming.tls_key must both be set"),
        (format!("tls_client_ca = {authority:?}"), "must both be set"),
        (
            format!("tls_certificate = {server:?}\ntls_key = {:?}", made("client.key")),
            "client.key: it is not the key of",
        ),
        (format!("tls_certificate = {server:?}\ntls_key = \"/none.key\""), "/none.key: No such file"),
        (
            format!("tls_certificate = {server:?}\ntls_key = {key:?}\ntls_client_ca = {key:?}"),
            "there is no certificate in it",
        ),
        ("listen = \"0.0.0.0:0\"".to_owned(), "streaming.listen"),
        (
            format!("listen = \"0.0.0.0:0\"\ntls_certificate = {server:?}\ntls_key = {key:?}"),
            "streaming.listen",
        ),
    ] {
        let file = folder.path().join("config.toml");
        std::fs::write(&file, format!("{places}[streaming]\n{keys}\n")).unwrap();
        let output = node.command(pintle()).arg("serve").arg("--config").arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{keys}: {said}");
    }
    node.assert_clean();
}
