//! From the head of an HTTP request to the protocol of a stream, or to the answer that refuses it.

use hyper::{
    HeaderMap, Method, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{status::Form, websocket::Framing};

const SPDY: &str = "SPDY/3.1";
const WEBSOCKET: &str = "websocket";
static PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
static ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// The purpose of a URL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    /// Exec or attach.
    Remote,
    /// With so many ports named in its request.
    PortForward { ports: usize },
}

/// The protocol that client and server agreed on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Protocol {
    /// SPDY right on the socket.
    Spdy(Remote),
    /// SPDY in the binary messages of a WebSocket; for port-forward only.
    Tunnel,
    WebSocket(Framing),
}

/// The versions of `remotecommand` over SPDY, by what differs between them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Remote {
    /// A client with a terminal opens a stream for its sizes: v3 and later.
    pub(super) resize: bool,
    pub(super) form: Form,
}

/// An agreement and the head of the answer.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) protocol: Protocol,
    pub(super) headers: HeaderMap,
}

/// An answer that refuses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), headers: Vec::new() }
    }
}

/// Versions of `remotecommand` over SPDY. client-go also offers v5, which is the same as v4 there.
const REMOTE: [(&str, Remote); 4] = [
    ("v4.channel.k8s.io", Remote { resize: true, form: Form::Status }),
    ("v3.channel.k8s.io", Remote { resize: true, form: Form::Text }),
    ("v2.channel.k8s.io", Remote { resize: false, form: Form::Text }),
    ("channel.k8s.io", Remote { resize: false, form: Form::Text }),
];

const FORWARD: [(&str, Remote); 1] = [("portforward.k8s.io", Remote { resize: false, form: Form::Text })];

/// Sub-protocols of WebSocket. A client that names none speaks the first.
const WEBSOCKET_REMOTE: [(&str, Protocol); 6] = [
    ("", Protocol::WebSocket(Framing { base64: false, form: Form::Text, close_signal: false })),
    ("channel.k8s.io", Protocol::WebSocket(Framing { base64: false, form: Form::Text, close_signal: false })),
    (
        "base64.channel.k8s.io",
        Protocol::WebSocket(Framing { base64: true, form: Form::Text, close_signal: false }),
    ),
    (
        "v4.channel.k8s.io",
        Protocol::WebSocket(Framing { base64: false, form: Form::Status, close_signal: false }),
    ),
    (
        "v4.base64.channel.k8s.io",
        Protocol::WebSocket(Framing { base64: true, form: Form::Status, close_signal: false }),
    ),
    (
        "v5.channel.k8s.io",
        Protocol::WebSocket(Framing { base64: false, form: Form::Status, close_signal: true }),
    ),
];
const WEBSOCKET_FORWARD: [(&str, Protocol); 6] = [
    WEBSOCKET_REMOTE[0],
    WEBSOCKET_REMOTE[1],
    WEBSOCKET_REMOTE[2],
    WEBSOCKET_REMOTE[3],
    WEBSOCKET_REMOTE[4],
    ("SPDY/3.1+portforward.k8s.io", Protocol::Tunnel),
];

/// The paths are `/exec/TOKEN` and the like: gives the two parts.
pub(super) fn path_parts<'a>(method: &Method, path: &'a str) -> Result<(&'a str, &'a str), Refusal> {
    let parts = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    let parts = parts.filter(|(_, token)| !token.is_empty() && !token.contains('/'));
    let parts = parts.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "there is nothing here"))?;
    if *method != Method::GET && *method != Method::POST {
        let allow = vec![(header::ALLOW, HeaderValue::from_static("GET, POST"))];
        let text = format!("{method} is not allowed; GET and POST are");
        return Err(Refusal { headers: allow, ..Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text) });
    }
    Ok(parts)
}

/// Chooses the protocol: the first of the client's that this side speaks.
pub(super) fn negotiate(method: &Method, headers: &HeaderMap, purpose: Purpose) -> Result<Agreed, Refusal> {
    let upgrade: Vec<&str> = words(headers, &header::UPGRADE).collect();
    let wants = |name: &str| {
        words(headers, &header::CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"))
            && upgrade.iter().any(|word| word.eq_ignore_ascii_case(name))
    };
    if wants(WEBSOCKET) {
        return websocket(method, headers, purpose);
    }
    let known = if purpose == Purpose::Remote { &REMOTE[..] } else { &FORWARD[..] };
    let all: Vec<&str> = words(headers, &PROTOCOL_VERSION).collect();
    if all.is_empty() {
        let text = format!("unable to upgrade: {} is required", PROTOCOL_VERSION.as_str());
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    let chosen = all.iter().find_map(|name| known.iter().find(|(known, _)| known == name));
    let Some((name, version)) = chosen else {
        let accepted =
            |(name, _): &(&'static str, _)| (ACCEPTED_VERSIONS.clone(), HeaderValue::from_static(name));
        return Err(Refusal {
            headers: known.iter().map(accepted).collect(),
            ..Refusal::new(
                StatusCode::FORBIDDEN,
                format!("unable to upgrade: none of the protocols {all:?} is spoken here"),
            )
        });
    };
    if !wants(SPDY) {
        let text = format!("unable to upgrade: \"Connection: Upgrade\" and \"Upgrade: {SPDY}\" are required");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    let mut answer = HeaderMap::new();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    answer.insert(&PROTOCOL_VERSION, HeaderValue::from_static(name));
    Ok(Agreed { protocol: Protocol::Spdy(*version), headers: answer })
}

fn websocket(method: &Method, headers: &HeaderMap, purpose: Purpose) -> Result<Agreed, Refusal> {
    let bad = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, format!("unable to upgrade: {text}"));
    if *method != Method::GET {
        return Err(bad("a WebSocket is opened with GET"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let version = vec![(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))];
        let text = "unable to upgrade: only version 13 of WebSocket is spoken here";
        return Err(Refusal { headers: version, ..Refusal::new(StatusCode::UPGRADE_REQUIRED, text) });
    }
    // A browser says which page asks. Nobody opens these URLs from a page: they are for kubelet and crictl.
    if headers.contains_key(header::ORIGIN) && !same_origin(headers) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "unable to upgrade: a page of another origin asks"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key.as_bytes()));
    let key = key.ok_or_else(|| bad("Sec-WebSocket-Key must be 16 bytes in base64"))?;
    let known = if purpose == Purpose::Remote { &WEBSOCKET_REMOTE } else { &WEBSOCKET_FORWARD };
    let offered: Vec<&str> = words(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    let wanted = if offered.is_empty() { &[""][..] } else { &offered };
    let chosen = wanted.iter().find_map(|name| known.iter().find(|(known, _)| known == name));
    let Some((name, protocol)) = chosen else {
        let text = format!("none of the sub-protocols {offered:?} is spoken here");
        return Err(Refusal::new(StatusCode::FORBIDDEN, format!("unable to upgrade: {text}")));
    };
    // The old form has no other way to say which ports.
    if matches!(protocol, Protocol::WebSocket(_)) && purpose == (Purpose::PortForward { ports: 0 }) {
        return Err(bad("the request of this URL named no port"));
    }
    let mut answer = HeaderMap::new();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept.map_err(|_| bad("bad Sec-WebSocket-Key"))?);
    if !name.is_empty() {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok(Agreed { protocol: *protocol, headers: answer })
}

/// The origin is this server itself.
fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::ORIGIN).and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    host.is_some() && host == text(header::HOST)
}

fn is_key(key: &[u8]) -> bool {
    data_encoding::BASE64.decode(key).is_ok_and(|key| key.len() == 16)
}

/// The words of a header that is a list, or several lists.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    fn ask_for(lines: &[(&str, &str)], purpose: Purpose) -> Result<(Protocol, HeaderMap), Refusal> {
        negotiate(&Method::GET, &head(lines), purpose).map(|agreed| (agreed.protocol, agreed.headers))
    }

    fn ask(lines: &[(&str, &str)]) -> Result<(Protocol, HeaderMap), Refusal> {
        ask_for(lines, Purpose::Remote)
    }

    const UPGRADE: [(&str, &str); 2] = [("Connection", "keep-alive, upgrade"), ("Upgrade", "spdy/3.1")];
    const SOCKET: [(&str, &str); 4] = [
        ("Connection", "Upgrade"),
        ("Upgrade", "WebSocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn the_clients_first_that_is_known_is_chosen() {
        for (offered, chosen) in [
            (vec!["v5.channel.k8s.io,v4.channel.k8s.io, v3.channel.k8s.io"], "v4.channel.k8s.io"),
            (vec!["v5.channel.k8s.io", "v3.channel.k8s.io", "v4.channel.k8s.io"], "v3.channel.k8s.io"),
            (vec!["channel.k8s.io"], "channel.k8s.io"),
        ] {
            let versions = offered.iter().map(|version| ("X-Stream-Protocol-Version", *version));
            let lines: Vec<_> = UPGRADE.into_iter().chain(versions).collect();
            let (_, headers) = ask(&lines).unwrap();
            assert_eq!(headers["x-stream-protocol-version"], chosen);
            assert_eq!(
                (&headers["connection"], &headers["upgrade"]),
                (&"Upgrade".parse().unwrap(), &SPDY.parse().unwrap())
            );
        }
    }

    #[test]
    fn what_cannot_be_upgraded_is_told_why() {
        let refused = ask(&[&UPGRADE[..], &[("X-Stream-Protocol-Version", "v9")]].concat());
        let refused = refused.unwrap_err();
        let accepted: Vec<_> =
            refused.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let name = "x-accepted-stream-protocol-versions";
        let versions = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
        assert_eq!(
            (refused.status, accepted),
            (StatusCode::FORBIDDEN, versions.map(|version| (name, version)).to_vec())
        );

        let refused = ask(&UPGRADE).unwrap_err();
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert_eq!(refused.text, "unable to upgrade: x-stream-protocol-version is required");
        let plain = ask(&[("X-Stream-Protocol-Version", "v4.channel.k8s.io")]).unwrap_err();
        assert_eq!(plain.status, StatusCode::BAD_REQUEST);
        assert!(plain.text.contains("Upgrade: SPDY/3.1"), "{}", plain.text);
    }

    #[test]
    fn a_websocket_gets_the_sub_protocol_it_offers() {
        let of = |protocol: &str| ask(&[&SOCKET[..], &[("Sec-WebSocket-Protocol", protocol)]].concat());
        let (protocol, headers) = of("v9, v5.channel.k8s.io, v4.channel.k8s.io").unwrap();
        let v5 = Framing { base64: false, form: Form::Status, close_signal: true };
        assert_eq!(protocol, Protocol::WebSocket(v5));
        assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(headers["sec-websocket-protocol"], "v5.channel.k8s.io");
        assert_eq!(of("v9").unwrap_err().status, StatusCode::FORBIDDEN);
        let (_, headers) = ask(&SOCKET).unwrap();
        assert!(!headers.contains_key("sec-websocket-protocol"));
    }

    #[test]
    fn a_handshake_that_is_no_websocket_of_ours_is_refused() {
        let without = |name: &str| SOCKET.into_iter().filter(|(key, _)| *key != name).collect::<Vec<_>>();
        let status = |lines: &[(&str, &str)]| ask(lines).unwrap_err().status;
        assert_eq!(status(&without("Sec-WebSocket-Version")), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(status(&without("Sec-WebSocket-Key")), StatusCode::BAD_REQUEST);
        assert_eq!(
            status(&[&without("Sec-WebSocket-Key")[..], &[("Sec-WebSocket-Key", "short")]].concat()),
            StatusCode::BAD_REQUEST
        );
        let page = [("Origin", "http://evil.example"), ("Host", "127.0.0.1:1")];
        assert_eq!(status(&[&SOCKET[..], &page].concat()), StatusCode::FORBIDDEN);
        let own = [("Origin", "http://127.0.0.1:1"), ("Host", "127.0.0.1:1")];
        assert!(ask(&[&SOCKET[..], &own].concat()).is_ok());
        let post = negotiate(&Method::POST, &head(&SOCKET), Purpose::Remote).unwrap_err();
        assert_eq!(post.status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn port_forward_has_protocols_of_its_own() {
        const FORWARD: Purpose = Purpose::PortForward { ports: 0 };
        let spdy = [&UPGRADE[..], &[("X-Stream-Protocol-Version", "portforward.k8s.io")]].concat();
        assert!(ask_for(&spdy, FORWARD).is_ok());
        assert_eq!(ask(&spdy).unwrap_err().status, StatusCode::FORBIDDEN);
        let socket = |protocol| [&SOCKET[..], &[("Sec-WebSocket-Protocol", protocol)]].concat();
        let tunnel = socket("SPDY/3.1+portforward.k8s.io");
        assert_eq!(ask_for(&tunnel, FORWARD).unwrap().0, Protocol::Tunnel);
        assert_eq!(ask(&tunnel).unwrap_err().status, StatusCode::FORBIDDEN);
        let old = socket("v4.channel.k8s.io");
        assert_eq!(ask_for(&old, FORWARD).unwrap_err().status, StatusCode::BAD_REQUEST);
        assert!(ask_for(&old, Purpose::PortForward { ports: 1 }).is_ok());
        assert_eq!(ask_for(&socket("v5.channel.k8s.io"), FORWARD).unwrap_err().status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn only_three_paths_lead_anywhere() {
        assert_eq!(path_parts(&Method::GET, "/exec/abc").unwrap(), ("exec", "abc"));
        assert_eq!(path_parts(&Method::POST, "/portforward/abc").unwrap(), ("portforward", "abc"));
        for path in ["/", "", "/exec", "/exec/", "/exec/a/b", "exec/abc"] {
            assert_eq!(path_parts(&Method::GET, path).unwrap_err().status, StatusCode::NOT_FOUND, "{path}");
        }
        let refused = path_parts(&Method::PUT, "/exec/abc").unwrap_err();
        assert_eq!((refused.status, refused.headers.len()), (StatusCode::METHOD_NOT_ALLOWED, 1));
    }
}
