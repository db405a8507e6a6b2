//! What the server answers to requests, sessions and messages that are right, wrong, or made to break it.

use std::{collections::BTreeMap, io::Write as _, thread};

use tokio_tungstenite::tungstenite::Message;

use super::{sleeper, urls};
use crate::harness::{
    Container, Node, Spdy, WebSocket, request, request_websocket,
    runner::tests,
    spdy::{Compressor, Frame, GOAWAY, PING, RST_STREAM, SYN_REPLY, control, data_frame, plain, syn_stream},
    v1, wait_until,
};

tests![
    the_first_protocol_of_the_client_that_is_known_is_agreed_on,
    nothing_but_loopback_is_listened_to,
    what_is_no_upgrade_is_answered_and_the_log_says_for_whom,
    malformed_spdy_sessions_end_alone,
    wrong_spdy_frames_of_one_stream_concern_no_other,
    ten_thousand_streams_in_a_session_are_refused,
    websocket_frames_of_every_wrong_kind_close_their_connection,
    a_flood_of_pings_is_answered,
    a_terminal_has_the_sizes_that_can_be_and_no_others,
    a_hundred_thousand_sizes_leave_the_last,
];

const UPGRADE: [&str; 2] = ["Connection: Upgrade", "Upgrade: SPDY/3.1"];
/// The streams of an exec without a terminal.
const STREAMS: [&str; 4] = ["error", "stdin", "stdout", "stderr"];

fn url(node: &Node, container: &Container<'_>) -> String {
    urls(node, container, &["cat"], 1).remove(0)
}

fn the_first_protocol_of_the_client_that_is_known_is_agreed_on() {
    let node = Node::start();
    let container = sleeper(&node);
    let ask = |method: &str, versions: &[&str]| {
        let versions = versions.iter().map(|list| format!("X-Stream-Protocol-Version: {list}"));
        let versions: Vec<_> = versions.collect();
        let lines: Vec<_> = UPGRADE.into_iter().chain(versions.iter().map(String::as_str)).collect();
        request(&node, method, &url(&node, &container), &lines)
    };
    for (method, versions, chosen) in [
        ("POST", &["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"][..], "v4.channel.k8s.io"),
        ("GET", &["v5.channel.k8s.io, v4.channel.k8s.io, v3.channel.k8s.io"], "v4.channel.k8s.io"),
        ("POST", &["v2.channel.k8s.io, v4.channel.k8s.io"], "v2.channel.k8s.io"),
        ("POST", &["channel.k8s.io"], "channel.k8s.io"),
    ] {
        let answer = ask(method, versions);
        assert_eq!(answer.status, "101 Switching Protocols", "{versions:?}");
        assert_eq!(answer.header("x-stream-protocol-version"), [chosen]);
        assert_eq!(
            (answer.header("upgrade"), answer.header("connection")),
            (vec!["SPDY/3.1"], vec!["Upgrade"])
        );
    }
    let refused = ask("POST", &["v9.channel.k8s.io"]);
    assert_eq!(refused.status, "403 Forbidden");
    let accepted = refused.header("x-accepted-stream-protocol-versions");
    let known = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
    assert_eq!(accepted, known);
    assert_eq!(ask("POST", &[]).status, "400 Bad Request");

    for protocol in
        ["v5.channel.k8s.io", "v4.channel.k8s.io", "base64.channel.k8s.io", "v4.base64.channel.k8s.io"]
    {
        WebSocket::open(&node, &url(&node, &container), protocol);
    }
    let refused = request_websocket(&node, &url(&node, &container), "v9.channel.k8s.io");
    assert_eq!(refused.status, "403 Forbidden");
    node.assert_clean();
}

fn nothing_but_loopback_is_listened_to() {
    let node = Node::start();
    let _pod = node.run_pod("web");
    let of = |name: &str| node.namespaces().read_proc(name);
    // State 0A is LISTEN, 07 an UDP socket that takes from anybody.
    let (tcp, others) = (of("net/tcp"), of("net/tcp6") + &of("net/udp") + &of("net/udp6"));
    let places = |table: &str| -> Vec<String> {
        let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let listens = |fields: &Vec<&str>| matches!(fields.get(3), Some(&("0A" | "07")));
        fields.filter(listens).map(|fields| fields[1].to_owned()).collect()
    };
    assert_eq!(places(&others), [""; 0]);
    let tcp = places(&tcp);
    // The test's registry, and the server.
    assert!(tcp.len() == 2 && tcp.iter().all(|place| place.starts_with("0100007F:")), "{tcp:?}");
    node.assert_clean();
}

fn what_is_no_upgrade_is_answered_and_the_log_says_for_whom() {
    let node = Node::start();
    let container = sleeper(&node);
    let url = url(&node, &container);
    let long = format!("X: {}", "x".repeat(10 << 20));
    let version = "X-Stream-Protocol-Version: v4.channel.k8s.io";
    for (method, lines, status) in [
        ("GET", &[][..], "400 Bad Request"),
        ("PUT", &[UPGRADE[0], UPGRADE[1], version], "405 Method Not Allowed"),
        ("GET", &["Connection: Upgrade", "Upgrade: h2c", version], "400 Bad Request"),
    ] {
        let answer = request(&node, method, &url, lines);
        assert_eq!(
            (answer.status.as_str(), answer.header("connection")),
            (status, vec!["close"]),
            "{lines:?}"
        );
        assert!(!answer.rest().is_empty());
    }
    // The server need not read all of it, so that the answer may be lost with what was not.
    let status = request(&node, "GET", &url, &[&long]).status;
    assert!(["", "431 Request Header Fields Too Large"].contains(&status.as_str()), "{status}");
    let origin = [
        "Origin: https://example.com",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
    ];
    assert_eq!(request(&node, "GET", &url, &origin).status, "403 Forbidden");
    // None of them has used up the URL.
    let mut client = WebSocket::open(&node, &url, "v4.channel.k8s.io");
    client.send(0, b"hello").unwrap();
    assert_eq!(output(&mut client), b"hello");
    let log = std::fs::read_to_string(node.path("daemon.log")).unwrap();
    let refused = log.lines().filter(|line| line.contains("stream refused"));
    assert!(refused.filter(|line| line.contains(&container.id)).count() >= 3, "{log}");
    drop(client);
    node.assert_clean();
}

/// The next data of standard output.
fn output(client: &mut WebSocket) -> Vec<u8> {
    loop {
        match client.next() {
            Some(Message::Binary(bytes)) if bytes.len() > 1 && bytes[0] == 1 => return bytes[1..].to_vec(),
            Some(Message::Binary(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A line of a terminal, which may come in pieces.
fn line(client: &mut WebSocket) -> Vec<u8> {
    let mut line = output(client);
    while !line.ends_with(b"\r\n") {
        line.extend(output(client));
    }
    line
}

/// An exec of `cat` whose streams are open: the session, and their numbers by type.
fn exec(node: &Node, container: &Container<'_>) -> (Spdy, BTreeMap<&'static str, u32>) {
    let mut client = Spdy::open(node, &url(node, container), "v4.channel.k8s.io");
    let streams = STREAMS.map(|kind| (kind, client.start(&[("streamtype", kind)])));
    for (_, id) in streams {
        let reply = client.frame();
        assert!(matches!(&reply, Frame::Control { kind: SYN_REPLY, body } if body[..4] == id.to_be_bytes()));
    }
    (client, streams.into())
}

#[track_caller]
fn assert_repeats((client, streams): &mut (Spdy, BTreeMap<&'static str, u32>), text: &str) {
    client.data(streams["stdin"], text.as_bytes(), false);
    let expected = Frame::Data { id: streams["stdout"], bytes: text.into(), fin: false };
    assert_eq!(client.frame(), expected);
}

fn malformed_spdy_sessions_end_alone() {
    let node = Node::start();
    let container = sleeper(&node);
    let mut good = exec(&node, &container);
    let first = |block: &[u8]| syn_stream(1, block);
    let empty = || Compressor::default().block(&[]);
    let two = |one: u32, other: u32| {
        let mut compressor = Compressor::default();
        let frames = [one, other].map(|id| syn_stream(id, &compressor.block(&[("streamtype", "error")])));
        frames.concat()
    };
    let many: Vec<_> = (0..101).map(|number| format!("h{number}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "")).collect();
    let mut old = first(&empty());
    old[1] = 2;
    let mut huge = first(&empty());
    huge[5..8].copy_from_slice(&[0xff; 3]);
    let malformed = [
        ("another dictionary", first(&Compressor::with(b"options head post").block(&[]))),
        ("no compression", first(b"GET / HTTP/1.1")),
        ("an empty header block", first(b"")),
        ("a header bomb", first(&Compressor::default().raw(&vec![0; 32 << 20]))),
        ("101 headers", first(&Compressor::default().block(&many))),
        ("headers that are cut", first(&Compressor::default().raw(&plain(&[("a", "b")])[..9]))),
        ("a header twice", first(&Compressor::default().block(&[("A", "1"), ("a", "2")]))),
        (
            "a header that is not UTF-8",
            first(&Compressor::default().raw(&[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0])),
        ),
        ("2^32-1 headers", first(&Compressor::default().raw(&u32::MAX.to_be_bytes()))),
        ("a number twice", two(1, 1)),
        ("a lower number", two(5, 3)),
        ("an even number", syn_stream(2, &empty())),
        ("the number 0", syn_stream(0, &empty())),
        ("version 2", old),
        ("a control frame of 2^24-1 bytes", huge),
        ("a short SYN_STREAM", control(1, 0, &[0; 4])),
        ("a short SYN_REPLY", control(2, 0, &[0; 3])),
        ("a short RST_STREAM", control(3, 0, &[0; 4])),
        ("a long PING", control(PING, 0, &[0; 8])),
        ("a long GOAWAY", control(GOAWAY, 0, &[0; 9])),
        ("a short HEADERS", control(8, 0, &[])),
    ];
    assert!(malformed.len() > 20);
    for (what, bytes) in malformed {
        let mut client = Spdy::open(&node, &url(&node, &container), "v4.channel.k8s.io");
        client.send(&bytes);
        let mut last = None;
        loop {
            match client.frame() {
                Frame::Closed => break,
                frame => last = Some(frame),
            }
        }
        let Some(Frame::Control { kind: GOAWAY, body }) = last else { panic!("{what}: {last:?}") };
        assert_eq!(body[4..], 1_u32.to_be_bytes(), "{what}: the status is PROTOCOL_ERROR");
        assert_repeats(&mut good, what);
    }
    drop(good);
    node.assert_clean();
}

fn wrong_spdy_frames_of_one_stream_concern_no_other() {
    let node = Node::start();
    let container = sleeper(&node);
    let mut good = exec(&node, &container);
    let reset = |id: u32, status: u32| Frame::Control {
        kind: RST_STREAM,
        body: [id.to_be_bytes(), status.to_be_bytes()].concat(),
    };
    // What a client has ended it cannot send on: STREAM_ALREADY_CLOSED.
    let stderr = good.1["stderr"];
    good.0.data(stderr, b"", true);
    good.0.data(stderr, b"more", false);
    assert_eq!(good.0.frame(), reset(stderr, 9));
    // A stream that was never opened, INVALID_STREAM, and one too many, REFUSED_STREAM.
    good.0.data(99, b"x", false);
    assert_eq!(good.0.frame(), reset(99, 2));
    let late = good.0.start(&[("streamtype", "stdin")]);
    assert_eq!(good.0.frame(), reset(late, 3));
    // What nobody needs is passed over: SETTINGS, WINDOW_UPDATE, an unknown type, a ping of the server's own parity.
    let ping = |id: u32| control(PING, 0, &id.to_be_bytes());
    let unneeded = [control(4, 0, &[0; 12]), control(9, 0, &[0; 8]), control(99, 7, b"?"), ping(2), ping(7)];
    good.0.send(&unneeded.concat());
    assert_eq!(good.0.frame(), Frame::Control { kind: PING, body: 7_u32.to_be_bytes().into() });
    assert_repeats(&mut good, "still here");

    // The largest frame there is, in one piece.
    let much = vec![b'x'; (1 << 24) - 1];
    let frame = data_frame(good.1["stdin"], &much, true);
    let mut socket = good.0.socket();
    let sending = thread::spawn(move || socket.write_all(&frame).unwrap());
    let mut seen = 0;
    while seen < much.len() {
        match good.0.frame() {
            Frame::Data { bytes, .. } => seen += bytes.len(),
            other => panic!("{other:?} after {seen} bytes"),
        }
    }
    sending.join().unwrap();
    drop(good);
    node.assert_clean();
}

fn ten_thousand_streams_in_a_session_are_refused() {
    let node = Node::start();
    let container = sleeper(&node);
    let mut client = Spdy::open(&node, &url(&node, &container), "v4.channel.k8s.io");
    let mut socket = client.socket();
    let mut compressor = std::mem::take(&mut client.compressor);
    let strange: Vec<u8> = (0..10_000)
        .flat_map(|nth| syn_stream(2 * nth + 1, &compressor.block(&[("streamtype", "strange")])))
        .collect();
    let sending = thread::spawn(move || socket.write_all(&strange).map(|()| compressor));
    for nth in 0..10_000_u32 {
        let body = [(2 * nth + 1).to_be_bytes(), 3_u32.to_be_bytes()].concat();
        assert_eq!(client.frame(), Frame::Control { kind: RST_STREAM, body });
    }
    // And then those that were wanted.
    let mut compressor = sending.join().unwrap().unwrap();
    for (kind, id) in STREAMS.into_iter().zip((20_001..).step_by(2)) {
        client.send(&syn_stream(id, &compressor.block(&[("streamtype", kind)])));
        assert!(matches!(client.frame(), Frame::Control { kind: SYN_REPLY, .. }));
    }
    client.data(20_003, b"hello", true);
    assert_eq!(client.frame(), Frame::Data { id: 20_005, bytes: b"hello".into(), fin: false });
    drop(client);
    node.assert_clean();
}

fn websocket_frames_of_every_wrong_kind_close_their_connection() {
    let node = Node::start();
    let container = sleeper(&node);
    let mut good = WebSocket::open(&node, &url(&node, &container), "v5.channel.k8s.io");
    let masked = |head: u8, length: &[u8], body: &[u8]| [&[head][..], length, &[0; 4], body].concat();
    let mut fragments = masked(0x02, &[0x81], &[0]);
    for _ in 0..1_000_000 {
        fragments.extend_from_slice(&[0x00, 0x82, 0, 0, 0, 0, b'x', b'x']);
    }
    for (bytes, code, what) in [
        (vec![0x82, 1, 0], 1002, "not masked"),
        (masked(0x82, &[0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255], b""), 1009, "2^63 bytes"),
        (masked(0x82, &[0xff, 0, 0, 0, 0, 0x40, 0, 0, 0], b""), 1009, "1 GiB"),
        (masked(0x80, &[0x81], b"x"), 1002, "continues nothing"),
        (masked(0xc2, &[0x81], b"x"), 1002, "a reserved bit"),
        (masked(0x83, &[0x81], b"x"), 1002, "an unknown kind"),
        (masked(0x09, &[0x81], b"x"), 1002, "a ping in fragments"),
        (masked(0x89, &[0xfe, 0, 126], &[b'x'; 126]), 1002, "a long ping"),
        (masked(0x82, &[0x82], &[5, 1]), 1002, "channel 5"),
        (masked(0x82, &[0x82], &[255, 9]), 1002, "the end of channel 9"),
        (fragments, 1009, "a million fragments"),
    ] {
        let mut client = WebSocket::open(&node, &url(&node, &container), "v5.channel.k8s.io");
        let mut socket = client.socket();
        let sending = thread::spawn(move || socket.write_all(&bytes));
        let closed = loop {
            match client.next() {
                Some(Message::Close(frame)) => break frame.map(|frame| u16::from(frame.code)),
                Some(_) => {}
                None => break None,
            }
        };
        assert_eq!(closed, Some(code), "{what}");
        drop(client);
        let _ = sending.join().unwrap();
        good.send(0, what.as_bytes()).unwrap();
        assert_eq!(output(&mut good), what.as_bytes());
    }
    drop(good);
    node.assert_clean();
}

fn a_flood_of_pings_is_answered() {
    const PINGS: usize = 100_000;
    let node = Node::start();
    let container = sleeper(&node);
    let mut client = WebSocket::open(&node, &url(&node, &container), "v5.channel.k8s.io");
    let mut sender = client.socket();
    let hello = [0x82, 0x86, 0, 0, 0, 0, 0, b'h', b'e', b'l', b'l', b'o'];
    let flood = [&[0x89, 0x80, 0, 0, 0, 0].repeat(PINGS)[..], &hello].concat();
    let sending = thread::spawn(move || sender.write_all(&flood));
    assert_eq!(output(&mut client), b"hello");
    sending.join().unwrap().unwrap();
    client.send(0, b"again").unwrap();
    assert_eq!(output(&mut client), b"again");
    node.assert_clean();
}

/// Shows the size of the terminal for each line.
const SHOW_SIZES: &str = "stty -echo; echo begun; while read line; do stty size; done";

/// A client with a terminal in which `script` runs.
pub(super) fn in_a_terminal(node: &Node, container: &Container<'_>, script: &str) -> WebSocket {
    let request = v1::ExecRequest {
        container_id: container.id.clone(),
        cmd: ["sh", "-c", script].map(str::to_owned).into(),
        stdin: true,
        stdout: true,
        tty: true,
        ..Default::default()
    };
    WebSocket::open(node, &node.cri().exec(request).unwrap().url, "v4.channel.k8s.io")
}

fn size(columns: u32, rows: u32) -> String {
    format!(r#"{{"Width":{columns},"Height":{rows}}}"#)
}

/// (columns, rows) of the one terminal in which [`SHOW_SIZES`] runs. What `stty` shows of large ones is its own idea.
fn terminal_size(node: &Node) -> (u16, u16) {
    let processes = node.namespaces().processes();
    let (pid, _) = processes.iter().find(|(_, line)| line.contains("echo begun")).expect("it runs");
    let path = node.namespaces().root().join(format!("proc/{pid}/fd/0"));
    let size = rustix::termios::tcgetwinsize(std::fs::File::open(path).unwrap()).unwrap();
    (size.ws_col, size.ws_row)
}

fn a_terminal_has_the_sizes_that_can_be_and_no_others() {
    let node = Node::start();
    let container = sleeper(&node);
    let mut client = in_a_terminal(&node, &container, SHOW_SIZES);
    assert_eq!(line(&mut client), b"begun\r\n");
    let mut sends = |text: &str| {
        client.send(4, text.as_bytes()).unwrap();
        // What comes after a size is done after it.
        client.send(0, b"\n").unwrap();
        line(&mut client);
        terminal_size(&node)
    };
    for ((columns, rows), has) in [
        ((80, 24), (80, 24)),
        ((0, 0), (80, 24)),
        ((80, 0), (80, 24)),
        ((65_536, 65_536), (80, 24)),
        ((65_535, 65_535), (65_535, 65_535)),
        ((1, 1), (1, 1)),
    ] {
        assert_eq!(sends(&size(columns, rows)), has, "{columns} x {rows}");
    }
    assert_eq!(sends("this is no size"), (1, 1));
    assert_eq!(sends(&size(80, 24)), (1, 1), "what follows is not looked at");
    drop(client);
    node.assert_clean();
}

fn a_hundred_thousand_sizes_leave_the_last() {
    let node = Node::start();
    let container = sleeper(&node);
    let mut client = in_a_terminal(&node, &container, SHOW_SIZES);
    assert_eq!(line(&mut client), b"begun\r\n");
    let mut socket = client.socket();
    let mut storm = Vec::new();
    for nth in 0..100_000 {
        let size = size(80 + nth % 7, 24 + nth % 5);
        storm.extend([0x82, 0x80 | (1 + size.len() as u8), 0, 0, 0, 0, 4]);
        storm.extend(size.as_bytes());
    }
    socket.write_all(&storm).unwrap();
    client.send(4, size(99, 33).as_bytes()).unwrap();
    client.send(0, b"\n").unwrap();
    assert_eq!(line(&mut client), b"33 99\r\n");
    // The client is gone before and after a size.
    for after in [true, false] {
        let mut client = in_a_terminal(&node, &container, "sleep 4321");
        if after {
            client.send(4, size(80, 24).as_bytes()).unwrap();
        }
        drop(client);
    }
    drop(client);
    wait_until("all of them have ended", || !container.shell("ps").contains("4321"));
    node.assert_clean();
}
