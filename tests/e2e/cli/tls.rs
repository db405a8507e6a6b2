//! The commands of a person, with a daemon that serves streams over TLS.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use super::{command, run, said, seat::Seat};
use crate::harness::{BUSYBOX, Container, Node, Setup, pintle, runner::tests};

tests![
    exec_attach_and_run_know_the_daemon_by_its_own_certificate,
    a_daemon_that_is_another_is_not_spoken_to,
    a_person_shows_a_certificate_where_one_is_wanted,
];

/// A file that `src/image/testtls/make` made.
fn made(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/image/testtls").join(name)
}

/// The configuration of a daemon with this certificate.
fn streaming(certificate: &str) -> String {
    let (file, key) = (made(certificate), made(certificate).with_extension("key"));
    format!("[streaming]\ntls_certificate = {file:?}\ntls_key = {key:?}\n")
}

fn node_with(config: String) -> Node {
    Node::start_with(&Setup { config, ..Setup::default() })
}

fn shell(node: &Node) -> Container<'_> {
    let container = node.run_pod("web").create_with("main", BUSYBOX, ["sh"], |config| {
        (config.stdin, config.tty) = (true, true);
    });
    container.start();
    container
}

fn exec_attach_and_run_know_the_daemon_by_its_own_certificate() {
    // The certificate of a client, which is for no server and no address: it is known by itself.
    for certificate in ["server.pem", "client.pem"] {
        let node = node_with(streaming(certificate));
        let container = shell(&node);
        let mut piped = command(&node, "exec", ["-i", "main", "sh", "-c", "cat; echo problem >&2; exit 42"]);
        let mut running =
            piped.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let much = vec![b'x'; 3_000_000];
        let (mut stdin, sent) = (running.stdin.take().unwrap(), much.clone());
        let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
        let shown = running.wait_with_output().unwrap();
        writer.join().unwrap();
        let (out, err, code) = said(&shown);
        assert!(out.into_bytes() == much && err == "problem\n" && code == Some(42), "{err}");

        let mut seat = Seat::of(command(&node, "exec", ["-it", "main", "sh"]), 101, 37);
        seat.write("stty size; exit 7\n");
        seat.wait_for("37 101\r\n");
        assert_eq!(seat.end(), Some(7));

        let mut seat = Seat::of(command(&node, "attach", ["main"]), 99, 33);
        seat.write("stty size; exit 5\n");
        seat.wait_for("33 99\r\n");
        assert_eq!((seat.end(), container.wait()), (Some(5), 5));

        let folder = node.path("tmp");
        fs::create_dir_all(&folder).unwrap();
        let mut running = command(&node, "run", ["-it", BUSYBOX, "sh"]);
        running.env("TMPDIR", folder);
        let mut seat = Seat::of(running, 88, 44);
        seat.write("stty size; exit 8\n");
        seat.wait_for("44 88\r\n");
        assert_eq!(seat.end(), Some(8));
        node.assert_clean();
    }
}

/// `pintle exec` of a person whose configuration is `config`, which is not the daemon's.
fn exec_with(node: &Node, config: &str, flags: &[(&str, &str)]) -> Output {
    // In a folder of its own: the daemon's drop-ins are not this person's.
    let file = node.path("person").join("config.toml");
    fs::create_dir_all(node.path("person")).unwrap();
    fs::write(&file, config).unwrap();
    let mut command: Command = node.command(pintle());
    command.arg("exec").arg("--config").arg(file).args(["--listen", &node.endpoint()]);
    for (flag, name) in flags {
        command.arg(flag).arg(made(name));
    }
    command.args(["main", "echo", "inside"]).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, words: &str) {
    let (out, err, code) = said(output);
    assert!(out.is_empty() && code == Some(125) && err.contains(words), "{out}{err}");
}

fn a_daemon_that_is_another_is_not_spoken_to() {
    let node = node_with(streaming("server.pem"));
    let _container = shell(&node);
    assert_refused(&exec_with(&node, "", &[]), "does not name the certificate: give --tls-ca FILE");
    assert_refused(&exec_with(&node, &streaming("client.pem"), &[]), "is not the one in");
    assert_refused(&exec_with(&node, "", &[("--tls-ca", "other-authority.pem")]), "TLS with the daemon");
    assert_refused(&exec_with(&node, "", &[("--tls-ca", "server.key")]), "there is no certificate in it");
    for (config, flags) in [
        (String::new(), &[("--tls-ca", "authority.pem")][..]),
        // The flag is the last word.
        (streaming("client.pem"), &[("--tls-ca", "authority.pem")]),
    ] {
        assert_eq!(said(&exec_with(&node, &config, flags)), ("inside\n".into(), String::new(), Some(0)));
    }
    node.assert_clean();
}

fn a_person_shows_a_certificate_where_one_is_wanted() {
    let daemon = format!("{}tls_client_ca = {:?}\n", streaming("server.pem"), made("authority.pem"));
    let node = node_with(daemon.clone());
    let _container = shell(&node);
    let with = |flags: &[(&str, &str)]| exec_with(&node, &daemon, flags);
    let words =
        "wants a certificate of an authority in its tls_client_ca: give --tls-cert FILE and --tls-key FILE";
    assert_refused(&with(&[]), words);
    assert_refused(&with(&[("--tls-cert", "other-client.pem"), ("--tls-key", "other-client.key")]), words);
    let own = [("--tls-cert", "client.pem"), ("--tls-key", "client.key")];
    assert_eq!(said(&with(&own)), ("inside\n".into(), String::new(), Some(0)));
    assert_eq!(said(&with(&own[..1])).2, Some(64), "a certificate without its key");
    assert_refused(&with(&[("--tls-cert", "client.pem"), ("--tls-key", "server.key")]), "TLS");
    assert!(said(&run(&node, "exec", ["main", "true"])).1.contains(words));
    node.assert_clean();
}
