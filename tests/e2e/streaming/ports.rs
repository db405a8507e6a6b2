//! Port-forward as protocols have it, connection by connection.

use std::collections::BTreeMap;

use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    BUSYBOX, Container, Node, Pod, Spdy, WebSocket,
    runner::tests,
    spdy::{Frame, RST_STREAM},
    v1, wait_until,
};

tests![
    a_hundred_connections_share_a_session_and_a_refused_one_hurts_none,
    each_side_of_a_connection_ends_by_itself,
    a_stream_for_a_port_that_cannot_be_is_refused,
    an_old_websocket_client_has_two_channels_for_each_port,
];

/// A pod in which `script` serves, once it listens on 8080.
fn serve<'n>(node: &'n Node, script: &str) -> (Pod<'n>, Container<'n>) {
    let pod = node.run_pod("web");
    let server = pod.create("server", BUSYBOX, ["sh", "-c", script]);
    server.start();
    wait_until("it listens", || server.shell("cat /proc/net/tcp*").contains(":1F90"));
    (pod, server)
}

/// What answers with what it hears, for any number of clients.
const ECHO: &str = "exec nc -ll -p 8080 -e cat";

fn url(node: &Node, pod: &Pod<'_>, ports: &[i32]) -> String {
    let request = v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: ports.to_vec() };
    node.cri().port_forward(request).unwrap().url
}

fn session(node: &Node, pod: &Pod<'_>) -> Spdy {
    Spdy::open(node, &url(node, pod, &[]), "portforward.k8s.io")
}

/// What comes on each stream until `count` streams have ended.
fn read(client: &mut Spdy, count: usize) -> BTreeMap<u32, Vec<u8>> {
    let (mut streams, mut ended) = (BTreeMap::<u32, Vec<u8>>::new(), 0);
    while ended < count {
        match client.frame() {
            Frame::Data { id, bytes, fin } => {
                streams.entry(id).or_default().extend(bytes);
                ended += usize::from(fin);
            }
            Frame::Control { .. } => {}
            Frame::Closed => panic!("closed after {ended} streams of {count}"),
        }
    }
    streams
}

fn a_hundred_connections_share_a_session_and_a_refused_one_hurts_none() {
    let node = Node::start();
    let pod = node.run_pod("web");
    // The image's own configuration is for 64.
    let script = "sed 's/connections 64/connections 256/' /etc/nginx/nginx.conf > /tmp/nginx.conf && \
                  exec nginx -c /tmp/nginx.conf -g 'daemon off;'";
    super::serve_with(&pod, ["sh", "-c", script]);
    let mut client = session(&node, &pod);
    let mut expected = BTreeMap::new();
    for request in 0..100 {
        let (error, data) = client.forward(if request == 50 { "81" } else { "80" }, request);
        client.data(data, b"GET / HTTP/1.0\r\n", false);
        expected.insert(request, (error, data));
    }
    for (_, data) in expected.values() {
        client.data(*data, b"\r\n", true);
    }
    let heard = read(&mut client, 200);
    let text = |id| String::from_utf8_lossy(heard.get(&id).map_or(&[][..], Vec::as_slice)).into_owned();
    for (request, (error, data)) in expected {
        let (error, page) = (text(error), text(data));
        if request == 50 {
            assert!(error.contains(":81 in pod") && error.contains("refused") && page.is_empty(), "{error}");
        } else {
            assert!(error.is_empty() && page.contains(super::WELCOME), "{request}: {error}: {page}");
        }
    }
    drop(client);
    node.assert_clean();
}

fn each_side_of_a_connection_ends_by_itself() {
    let node = Node::start();
    // The client's side first: what the program writes after that still comes.
    let (pod, server) = serve(&node, "exec nc -ll -p 8080 -e sh -c 'cat; echo after the end'");
    let mut client = session(&node, &pod);
    let (_, data) = client.forward("8080", 0);
    client.data(data, b"hello, ", true);
    assert_eq!(read(&mut client, 2)[&data], b"hello, after the end\n");
    server.kill();

    // The program's side first: what the client sends after that still arrives.
    let one_way = "echo early | nc -l -p 8080 > /tmp/heard; echo all >> /tmp/heard; sleep 1000";
    let server = pod.run_in("one-way", ["sh", "-c", one_way]);
    wait_until("it listens", || server.shell("cat /proc/net/tcp*").contains(":1F90"));
    let mut client = session(&node, &pod);
    let (_, data) = client.forward("8080", 0);
    assert_eq!(read(&mut client, 1)[&data], b"early\n");
    client.data(data, b"late, ", true);
    wait_until("it was heard", || server.shell("cat /tmp/heard") == "late, all\n");
    node.assert_clean();
}

fn a_stream_for_a_port_that_cannot_be_is_refused() {
    let node = Node::start();
    let (pod, _server) = serve(&node, ECHO);
    let mut client = session(&node, &pod);
    for (request, port) in ["0", "65536", "-1", "+8080", "127.0.0.1:8080", "http", ""].into_iter().enumerate()
    {
        let headers = [("streamtype", "error"), ("port", port), ("requestid", &request.to_string())];
        let id = client.start(&headers);
        let refused = [&id.to_be_bytes()[..], &[0, 0, 0, 3]].concat();
        assert_eq!(client.frame(), Frame::Control { kind: RST_STREAM, body: refused }, "{port:?}");
    }
    let (_, data) = client.forward("8080", 100);
    client.data(data, b"good", true);
    assert_eq!(read(&mut client, 2)[&data], b"good");
    node.assert_clean();
}

/// The next message that has more than its channel.
fn message(client: &mut WebSocket) -> Vec<u8> {
    match client.next() {
        Some(Message::Binary(bytes)) => bytes.to_vec(),
        Some(Message::Text(text)) => text.as_bytes().to_vec(),
        other => panic!("{other:?}"),
    }
}

fn an_old_websocket_client_has_two_channels_for_each_port() {
    let node = Node::start();
    let (pod, _server) = serve(&node, ECHO);
    for protocol in ["v4.channel.k8s.io", "channel.k8s.io"] {
        let mut client = WebSocket::open(&node, &url(&node, &pod, &[8081, 8080]), protocol);
        // Each channel begins with the number of its port, the low byte first; nobody listens on the first one.
        let mut heard: Vec<_> = (0..5).map(|_| message(&mut client)).collect();
        heard.sort();
        let numbers = [[0, 0x91, 0x1f], [1, 0x91, 0x1f], [2, 0x90, 0x1f], [3, 0x90, 0x1f]];
        let refused = heard.iter().position(|message| message.len() > 3).expect("an error");
        let refused = heard.remove(refused);
        assert_eq!(heard, numbers, "{protocol}");
        let text = String::from_utf8_lossy(&refused[1..]);
        assert!(refused[0] == 1 && text.contains("refused"), "{protocol}: {text}");
        client.send(2, b"hello").unwrap();
        assert_eq!(message(&mut client), b"\x02hello", "{protocol}");
    }
    let mut client = WebSocket::open(&node, &url(&node, &pod, &[8080]), "v4.base64.channel.k8s.io");
    assert_eq!((message(&mut client), message(&mut client)), (b"0kB8=".to_vec(), b"1kB8=".to_vec()));
    client.message(Message::text("0aGVsbG8=")).unwrap();
    assert_eq!(message(&mut client), b"0aGVsbG8=");
    node.assert_clean();
}
