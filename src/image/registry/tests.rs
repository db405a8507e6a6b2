//! What a registry, its mirrors and its token service may do to a pull.

use crate::image::{
    Credentials, Error, document,
    testnode::{Node, digest_part, image, tokio_test},
    testregistry::{Fault, TestImage, TestRegistry},
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
