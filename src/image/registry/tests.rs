//! Whole pulls against registries, mirrors and token services that work, fail or attack.

use std::net::TcpListener;

use crate::image::{
    Credentials, Error, document,
    testnode::{Node, digest_part, image, tokio_test},
    testregistry::{Fault, TestImage, TestRegistry, tls_file},
    unpack::testtar::TestTar,
};

#[test]
fn a_cut_transfer_goes_on_where_it_was() {
    tokio_test(async {
        for ranges in [None, Some(Fault::WholeBody)] {
            let node = Node::new();
            let mut seed = 1_u32;
            let noise = std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                char::from(b' ' + (seed >> 24) as u8 % 64)
            });
            let noise: String = noise.take(200_000).collect();
            let image = TestImage::new(&[TestTar::new().file("noise", &noise)]);
            let (id, _) = node.registry.put_image("app", "v1", &image);
            let layer = digest_part(&image.blobs[0]);
            node.registry.fault(&layer, 1, Fault::CutAfter(50_000));
            if let Some(fault) = &ranges {
                node.registry.fault(&layer, 1, fault.clone());
            } else {
                node.registry.fault(&layer, 1, Fault::CutAfter(10_000));
            }
            assert_eq!(node.pull("app:v1").await.unwrap().id, id);
            let asked = node.registry.requests();
            let ranges: Vec<_> = asked
                .iter()
                .filter(|a| a.line.contains(&layer))
                .map(|a| a.headers.get("range").cloned())
                .collect();
            assert_eq!(ranges[0], None);
            let second: usize =
                ranges[1].as_ref().unwrap()["bytes=".len()..].trim_end_matches('-').parse().unwrap();
            assert!((1..=50_000).contains(&second), "{second}");
        }
    });
}

#[test]
fn a_wrong_range_is_refused() {
    tokio_test(async {
        let node = Node::new();
        let image = image();
        node.registry.put_image("app", "v1", &image);
        let layer = digest_part(&image.blobs[1]);
        node.registry.fault(&layer, 1, Fault::CutAfter(100));
        node.registry.fault(&layer, 1, Fault::WrongRange);
        let error = node.pull("app:v1").await.unwrap_err();
        assert!(matches!(error, Error::RegistryRefused { .. }), "{error}");
    });
}

#[test]
fn answers_become_their_own_errors() {
    tokio_test(async {
        let node = Node::new();
        node.registry.put_image("app", "v1", &image());
        let fails = async |status: u16| {
            node.registry.clear_faults();
            node.registry.fault("manifests", 20, Fault::Status(status, vec![("Retry-After", "0".into())]));
            node.pull("app:v1").await.unwrap_err()
        };
        assert!(matches!(fails(404).await, Error::NotInRegistry { .. }));
        assert!(fails(401).await.to_string().contains("unauthorized or denied"));
        assert!(matches!(fails(403).await, Error::Unauthorized { .. }));
        assert!(matches!(fails(400).await, Error::RegistryRefused { .. }));
        for status in [429, 500, 503] {
            assert!(fails(status).await.to_string().starts_with("RegistryUnavailable: "), "{status}");
        }
        let nobody = node.images.pull("127.0.0.1:1/app:v1", None).await.unwrap_err();
        assert!(nobody.to_string().starts_with("RegistryUnavailable: 127.0.0.1:1: "), "{nobody}");
        node.registry.clear_faults();
        node.registry.fault("manifests", 3, Fault::Status(500, vec![]));
        node.pull("app:v1").await.unwrap();
    });
}

#[test]
fn documents_over_their_limit_are_not_read() {
    tokio_test(async {
        let node = Node::new();
        node.registry.put_image("app", "v1", &image());
        let large = vec![b' '; document::MANIFEST_BYTES_MAX as usize + 1];
        node.registry.fault("manifests", 20, Fault::Body(large));
        assert!(matches!(node.pull("app:v1").await, Err(Error::Limit { .. })));
    });
}

#[test]
fn a_login_becomes_a_token_and_goes_nowhere_else() {
    tokio_test(async {
        let node = Node::new();
        let (id, _) = node.registry.put_image("app", "v1", &image());
        let realm = format!("http://{}/token", node.registry.address());
        node.registry.put_plain("/token", br#"{"token":"canary-token"}"#);
        node.registry.require("Bearer canary-token", &format!("Bearer realm=\"{realm}\",service=\"test\""));
        let login =
            Credentials { username: "user".into(), password: "canary-pass".into(), ..Credentials::default() };
        let name = node.registry.name("app:v1");
        assert_eq!(node.images.pull(&name, Some(login)).await.unwrap().id, id);
        let asked = node.registry.requests();
        let token = asked.iter().find(|asked| asked.line.contains("/token")).unwrap();
        assert!(token.line.contains("service=test&scope=repository%3Aapp%3Apull"), "{}", token.line);
        assert_eq!(token.headers["authorization"], "Basic dXNlcjpjYW5hcnktcGFzcw==");

        // Another pull without a login asks for a token of its own.
        let before = node.registry.count("/token");
        let _ = node.images.remove(&name).await;
        node.pull("app:v1").await.unwrap();
        let asked = node.registry.requests();
        assert!(node.registry.count("/token") > before);
        assert!(
            !asked
                .iter()
                .rev()
                .find(|a| a.line.contains("/token"))
                .unwrap()
                .headers
                .contains_key("authorization")
        );
    });
}

#[test]
fn no_login_leaves_its_registry() {
    tokio_test(async {
        let (node, evil) = (Node::new(), TestRegistry::start());
        let image = image();
        node.registry.put_image("app", "v1", &image);
        let login = || {
            Some(Credentials { username: "user".into(), password: "canary".into(), ..Credentials::default() })
        };
        let name = node.registry.name("app:v1");
        // Its token service is said to be elsewhere. (Another port of this machine is the same host.)
        for realm in ["http://elsewhere.test/token", "https://elsewhere.test/token", "file:///etc/passwd"] {
            node.registry.require("Bearer x", &format!("Bearer realm=\"{realm}\""));
            let error = node.images.pull(&name, login()).await.unwrap_err();
            assert!(matches!(error, Error::RegistryRefused { .. }), "{error}");
        }
        // It redirects to another host with the login in hand.
        node.registry.require("Basic dXNlcjpjYW5hcnk=", "Basic realm=\"x\"");
        let layer = digest_part(&image.blobs[0]);
        evil.put_plain(&format!("/{layer}"), &image.blobs[0]);
        let to = format!("http://{}/{layer}", evil.address());
        node.registry.fault(&layer, 1, Fault::Status(307, vec![("Location", to)]));
        node.images.pull(&name, login()).await.unwrap();
        assert_eq!(evil.requests().len(), 1);
        assert!(!evil.requests()[0].headers.contains_key("authorization"));
        for asked in node.registry.requests() {
            assert!(!asked.line.contains("canary"), "{}", asked.line);
        }
    });
}

#[test]
fn errors_show_no_secret() {
    tokio_test(async {
        let node = Node::new();
        let realm = format!("http://{}/token?secret=canary", node.registry.address());
        node.registry.require("Bearer never", &format!("Bearer realm=\"{realm}\""));
        node.registry.put_plain("/token", br#"{"token":"canary"}"#);
        let login = Credentials { identity_token: "canary".into(), ..Credentials::default() };
        let error = node.images.pull(&node.registry.name("app:v1"), Some(login)).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        let token = node.registry.requests().into_iter().find(|asked| asked.line.contains("/token")).unwrap();
        assert!(token.line.starts_with("POST") && token.body.contains("refresh_token=canary"));
    });
}

#[test]
fn mirrors_are_asked_first_and_without_the_login() {
    tokio_test(async {
        let (node, mirror) = (Node::new(), TestRegistry::start());
        let (id, _) = mirror.put_image("team/app", "v1", &image());
        let login = Credentials { username: "u".into(), password: "p".into(), ..Credentials::default() };
        node.hosts(
            "registry.test",
            &format!(
                "server = \"http://127.0.0.1:1\"\n[host.\"http://127.0.0.1:1\"]\n[host.\"http://{}\"]\n[host.\"http://{}\".header]\nX-Key = \"k\"",
                mirror.address(),
                mirror.address()
            ),
        );
        let pulled = node.images.pull("registry.test/team/app:v1", Some(login)).await.unwrap();
        assert_eq!(
            (pulled.id.clone(), pulled.repo_tags.as_slice()),
            (id, &["registry.test/team/app:v1".to_string()][..])
        );
        for asked in mirror.requests() {
            assert!(asked.line.contains("?ns=registry.test"), "{}", asked.line);
            assert_eq!((asked.headers["x-key"].as_str(), asked.headers.get("authorization")), ("k", None));
        }
    });
}

/// An image of twelve layers.
fn twelve_layers() -> TestImage {
    let layers: Vec<_> = (0..12).map(|n| TestTar::new().file(&format!("file{n}"), "content")).collect();
    TestImage::new(&layers)
}

fn login() -> Option<Credentials> {
    Some(Credentials { username: "user".into(), password: "canary".into(), ..Credentials::default() })
}

#[test]
fn a_broken_mirror_costs_one_request_of_all_pulls() {
    tokio_test(async {
        let (node, mirror, server) = (Node::new(), TestRegistry::start(), TestRegistry::start());
        server.put_image("app", "v1", &twelve_layers());
        server.put_image("app", "v2", &image());
        mirror.fault("GET", 1000, Fault::Status(503, vec![]));
        mirror.fault("HEAD", 1000, Fault::Status(503, vec![]));
        let hosts =
            |mirror: &str| format!("server = \"http://{}\"\n[host.\"http://{mirror}\"]", server.address());
        node.hosts("registry.test", &hosts(mirror.address()));
        for tag in ["v1", "v2"] {
            node.images.pull(&format!("registry.test/app:{tag}"), None).await.unwrap();
        }
        assert_eq!(mirror.requests().len(), 1);
        // One that cannot be reached at all.
        server.put_image("app", "v3", &TestImage::new(&[]));
        node.hosts("registry.test", &hosts("127.0.0.1:1"));
        node.images.pull("registry.test/app:v3", None).await.unwrap();
    });
}

#[test]
fn where_only_a_mirror_can_be_reached_the_mirror_gets_the_patience() {
    tokio_test(async {
        let (node, mirror) = (Node::new(), TestRegistry::start());
        mirror.put_image("app", "v1", &image());
        let text = format!("server = \"http://127.0.0.1:1\"\n[host.\"http://{}\"]", mirror.address());
        node.hosts("registry.test", &text);
        let fail = |times| mirror.fault("manifests/v", times, Fault::Status(503, vec![]));
        let pull = async |tag: &str| node.images.pull(&format!("registry.test/app:{tag}"), None).await;
        fail(1);
        let error = pull("v1").await.unwrap_err();
        assert!(matches!(error.decisive(), Error::RegistryUnavailable { .. }), "{error}");
        // Both failed of late, so both are asked again; the mirror is back the second time.
        fail(1);
        pull("v1").await.unwrap();
        // Now it is known that the server is the one that fails.
        mirror.put_image("app", "v2", &image());
        fail(3);
        pull("v2").await.unwrap();
    });
}

#[test]
fn what_every_host_said_is_in_the_message_and_the_registry_decides() {
    tokio_test(async {
        let (node, sick, empty) = (Node::new(), TestRegistry::start(), TestRegistry::start());
        sick.fault("manifests", 1000, Fault::Says(503, r#"{"errors":[{"message":"disk full"}]}"#.into()));
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = silent.local_addr().unwrap();
        let text = format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]\n[host.\"https://{silent}\"]\ndial_timeout = \"0.05s\"",
            empty.address(),
            sick.address()
        );
        node.hosts("registry.test", &text);
        let error = node.images.pull("registry.test/app:v1", None).await.unwrap_err();
        assert!(matches!(error.decisive(), Error::NotInRegistry { .. }), "{error}");
        let (sick, empty) = (sick.address(), empty.address());
        let expected = format!(
            "registry.test/app:v1 is not in registry {empty} (before it: {sick}: 503 Service Unavailable: \
             disk full; {silent}: no connection in time)"
        );
        assert_eq!(error.to_string(), expected);

        let text = format!("[host.\"http://{sick}\"]\n[host.\"http://127.0.0.1:1\"]\n");
        node.hosts("127.0.0.1:2", &text);
        let error = node.images.pull("127.0.0.1:2/app:v1", None).await.unwrap_err().to_string();
        assert!(error.starts_with("RegistryUnavailable: 127.0.0.1:2: "), "{error}");
        assert!(error.contains(sick) && error.contains("127.0.0.1:1"), "{error}");
    });
}

#[test]
fn a_document_that_trickles_loses_its_place() {
    tokio_test(async {
        let (node, mirror) = (Node::new(), TestRegistry::start());
        let (id, _) = node.registry.put_image("app", "v1", &image());
        mirror.put_image("app", "v1", &image());
        mirror.fault("GET", 1000, Fault::Trickle);
        let text = format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]",
            node.registry.address(),
            mirror.address()
        );
        node.hosts("registry.test", &text);
        assert_eq!(node.images.pull("registry.test/app:v1", None).await.unwrap().id, id);
        assert_eq!(mirror.count("GET"), 1);
    });
}

#[test]
fn a_blob_that_is_shorter_than_its_descriptor_is_an_error_at_once() {
    tokio_test(async {
        for part in [0, 1] {
            let node = Node::new();
            let image = image();
            node.registry.put_image("app", "v1", &image);
            let blob = if part == 0 { image.config.as_bytes() } else { &image.blobs[0] };
            let digest = digest_part(blob);
            node.registry.fault(&digest, 1000, Fault::Short(blob.len() - 1));
            let error = node.pull("app:v1").await.unwrap_err();
            assert!(matches!(error, Error::Mismatch { .. }), "{error}");
            assert!(error.to_string().contains(&format!("{} bytes", blob.len() - 1)), "{error}");
            assert_eq!(node.registry.count(&digest), 1);
            node.assert_no_ingest();
        }
    });
}

#[test]
fn a_short_blob_of_a_mirror_is_finished_by_the_registry() {
    tokio_test(async {
        let (node, mirror) = (Node::new(), TestRegistry::start());
        let image = image();
        let (id, _) = node.registry.put_image("app", "v1", &image);
        mirror.put_image("app", "v1", &image);
        mirror.fault(&digest_part(&image.blobs[0]), 1000, Fault::Short(20));
        let text = format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]",
            node.registry.address(),
            mirror.address()
        );
        node.hosts("registry.test", &text);
        assert_eq!(node.images.pull("registry.test/app:v1", None).await.unwrap().id, id);
    });
}

#[test]
fn a_registry_with_mutual_tls_is_shown_the_certificate_that_it_knows() {
    tokio_test(async {
        let registry = TestRegistry::start_tls("authority.pem");
        let (id, _) = registry.put_image("app", "v1", &image());
        let (address, pem) = (registry.address(), |name: &str| tls_file(name).display().to_string());
        let (client, key, both) = (pem("client.pem"), pem("client.key"), pem("client-both.pem"));
        let (other, other_key) = (pem("other-client.pem"), pem("other-client.key"));
        for (form, may) in [
            (format!("{both:?}"), true),
            (format!("[{both:?}]"), true),
            (format!("[[{client:?}, {key:?}]]"), true),
            (format!("[[{both:?}, \"\"]]"), true),
            (format!("[[{other:?}, {other_key:?}], [{client:?}, {key:?}]]"), true),
            (format!("[[{other:?}, {other_key:?}]]"), false),
            ("[]".into(), false),
        ] {
            let node = Node::new();
            let ca = pem("authority.pem");
            let text = format!("server = \"https://{address}\"\nca = {ca:?}\nclient = {form}\n");
            node.hosts("registry.test", &text);
            let pulled = node.images.pull("registry.test/app:v1", None).await;
            assert_eq!(pulled.as_ref().is_ok_and(|image| image.id == id), may, "{form}: {pulled:?}");
        }
    });
}

#[test]
fn dockers_folder_of_certificates_needs_no_hosts_toml() {
    tokio_test(async {
        let (node, registry) = (Node::new(), TestRegistry::start_tls("authority.pem"));
        let (id, _) = registry.put_image("app", "v1", &image());
        let folder = node.root.path().join("hosts.d").join(registry.address());
        std::fs::create_dir_all(&folder).unwrap();
        for (from, to) in
            [("authority.pem", "ca.crt"), ("client.pem", "client.cert"), ("client.key", "client.key")]
        {
            std::fs::copy(tls_file(from), folder.join(to)).unwrap();
        }
        assert_eq!(node.images.pull(&registry.name("app:v1"), None).await.unwrap().id, id);
        // Without the authority it is not believed, unless nobody asks.
        std::fs::remove_file(folder.join("ca.crt")).unwrap();
        registry.put_image("app", "v2", &image());
        let error = node.images.pull(&registry.name("app:v2"), None).await.unwrap_err().to_string();
        assert!(error.contains("UnknownIssuer"), "{error}");
        let server = format!("server = \"https://{}\"\nskip_verify = true\n", registry.address());
        let client = format!("client = {:?}\n", tls_file("client-both.pem"));
        std::fs::write(folder.join("hosts.toml"), server + &client).unwrap();
        assert_eq!(node.images.pull(&registry.name("app:v2"), None).await.unwrap().id, id);
    });
}

#[test]
fn certificates_that_are_no_use_are_named() {
    tokio_test(async {
        let node = Node::new();
        let pem = |name: &str| tls_file(name).display().to_string();
        let (client, other_key, make) = (pem("client.pem"), pem("other-client.key"), pem("make"));
        for (text, words) in [
            (format!("ca = {:?}", "/nonexistent"), "/nonexistent: No such file".to_string()),
            (format!("ca = {make:?}"), format!("{make}: there is no certificate in it")),
            (format!("client = {client:?}"), format!("{client}: there is no private key in it")),
            (
                format!("client = [[{client:?}, {other_key:?}]]"),
                format!("{other_key}: it is not the key of {client}"),
            ),
        ] {
            node.hosts("registry.test", &text);
            let error = node.images.pull("registry.test/app:v1", None).await.unwrap_err().to_string();
            assert!(error.contains(&words), "{error}");
        }
    });
}

#[test]
fn a_host_that_is_named_http_is_asked_without_tls_only_if_it_has_none() {
    tokio_test(async {
        let (node, plain) = (Node::new(), TestRegistry::start());
        let secure = TestRegistry::start_tls("authority.pem");
        let (id, _) = plain.put_image("app", "v1", &image());
        secure.put_image("app", "v1", &image());
        for address in [plain.address(), secure.address()] {
            let both = tls_file("client-both.pem");
            let text = format!("server = \"http://{address}\"\nskip_verify = true\nclient = {both:?}\n");
            node.hosts("registry.test", &text);
            let _ = node.images.remove(id.hex()).await;
            assert_eq!(node.images.pull("registry.test/app:v1", None).await.unwrap().id, id);
            // What has TLS is not asked in the clear, whatever it says.
            let error = node.images.pull("registry.test/app:no", None).await.unwrap_err();
            assert!(matches!(error.decisive(), Error::NotInRegistry { .. }), "{error}");
        }
    });
}

#[test]
fn no_redirect_leads_to_the_nodes_own_services() {
    tokio_test(async {
        let node = Node::new();
        let image = image();
        node.registry.put_image("app", "v1", &image);
        let layer = digest_part(&image.blobs[0]);
        for to in [
            "http://169.254.169.254/latest/meta-data",
            "http://[::ffff:169.254.169.254]/",
            "http://[fe80::1]/",
            "http://2852039166/",
            "http://0.0.0.0/",
        ] {
            node.registry.clear_faults();
            node.registry.fault(&layer, 100, Fault::Status(307, vec![("Location", to.into())]));
            let error = node.pull("app:v1").await.unwrap_err().to_string();
            assert!(error.ends_with("it redirects to where nothing is fetched from"), "{to}: {error}");
        }
    });
}

#[test]
fn the_registrys_own_words_are_in_the_error_without_what_it_was_told_in_confidence() {
    tokio_test(async {
        let node = Node::new();
        node.registry.put_image("app", "v1", &image());
        let fails = async |status: u16, body: &str| {
            node.registry.clear_faults();
            node.registry.fault("manifests", 100, Fault::Says(status, body.into()));
            let error = node.images.pull(&node.registry.name("app:v1"), login()).await.unwrap_err();
            error.to_string()
        };
        node.registry.require("Basic dXNlcjpjYW5hcnk=", "Basic realm=\"x\"");
        node.registry.put_image("app", "v0", &image());
        let denied = fails(403, r#"{"errors":[{"code":"DENIED","message":"canary may not pull"}]}"#).await;
        assert!(denied.contains("403 Forbidden: DENIED: *** may not pull; "), "{denied}");
        let many = fails(429, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#).await;
        assert!(many.starts_with("RegistryUnavailable: "), "{many}");
        assert!(many.contains("429 Too Many Requests: TOOMANYREQUESTS: slow down; "), "{many}");
    });
}

#[test]
fn a_web_page_instead_of_a_manifest_says_what_to_correct() {
    tokio_test(async {
        let node = Node::new();
        let (_, digest) = node.registry.put_image("app", "v1", &image());
        node.registry.fault("GET", 100, Fault::Body(b"<!doctype html><html>Sign in".to_vec()));
        for name in ["app:v1".to_string(), format!("app@{digest}")] {
            let error = node.pull(&name).await.unwrap_err().to_string();
            let expected = format!(
                "registry {}: it answers with a web page instead of a manifest: it is no registry, or a proxy \
                 or login page stands before it; correct the image's host name, or `server` and \
                 `override_path` in hosts.toml",
                node.registry.address()
            );
            assert_eq!(error, expected);
        }
    });
}
