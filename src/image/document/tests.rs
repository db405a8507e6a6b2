//! Tests of manifests, indexes, image configs and the choice of a platform.

use std::collections::BTreeMap;

use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn manifest_text(config_type: &str, layer_type: &str, digest: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}",
            "config":{{"mediaType":"{config_type}","digest":"sha256:{HEX}","size":2}},
            "layers":[{{"mediaType":"{layer_type}","digest":"{digest}","size":3}}]}}"#
    )
}

#[track_caller]
fn refuse(text: &str, words: &str) {
    let error = Document::parse("test", text.as_bytes()).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

#[test]
fn a_manifest_is_its_config_and_layers() {
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    let digest = Digest::parse(&format!("sha256:{HEX}")).unwrap();
    let text = manifest_text(OCI_CONFIG, layer, &format!("sha256:{HEX}"));
    assert_eq!(
        Document::parse("test", text.as_bytes()).unwrap(),
        Document::Manifest(Manifest {
            config: Blob { digest: digest.clone(), size: 2 },
            layers: vec![Blob { digest, size: 3 }],
        })
    );
}

#[test]
fn what_is_no_image_is_refused_in_words() {
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    let good = format!("sha256:{HEX}");
    refuse(&manifest_text("application/vnd.cncf.helm.config.v1+json", layer, &good), "artifact");
    refuse(&manifest_text(OCI_CONFIG, "text/plain", &good), "text/plain");
    refuse(&manifest_text(OCI_CONFIG, &format!("{layer}+encrypted"), &good), "encrypted");
    refuse(r#"{"schemaVersion":1,"fsLayers":[]}"#, "push the image again with a current tool");
    refuse(r#"{"schemaVersion":3,"manifests":[]}"#, "schema version 3");
    refuse(r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, "neither");
    refuse(&format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","manifests":[]}}"#), "neither");
    refuse("[]", "manifest");
    refuse(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), "manifest");
}

#[test]
fn old_names_of_configs_and_foreign_layers_are_read() {
    let layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let good = format!("sha256:{HEX}");
    for config in ["application/octet-stream", "application/json", "text/html", ""] {
        let text = manifest_text(config, layer, &good);
        assert!(matches!(Document::parse("test", text.as_bytes()), Ok(Document::Manifest(_))), "{config}");
    }
    for foreign in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ] {
        let text = manifest_text(DOCKER_CONFIG, foreign, &good);
        let text = text.replace(r#""size":3"#, r#""size":3,"urls":["http://169.254.169.254/"]"#);
        let Ok(Document::Manifest(read)) = Document::parse("test", text.as_bytes()) else { panic!() };
        assert_eq!(read.layers.len(), 1, "{foreign}");
    }
}

#[test]
fn null_is_as_good_as_absent_in_manifests_and_indexes() {
    let config = format!(r#"{{"mediaType":null,"digest":"sha256:{HEX}","size":2,"annotations":null}}"#);
    for text in [
        format!(
            r#"{{"schemaVersion":null,"mediaType":null,"artifactType":null,"manifests":null,"config":{config},"layers":null,"annotations":null}}"#
        ),
        format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[],"annotations":{{"a":null}}}}"#
        ),
        format!(r#"{{"schemaVersion":2,"mediaType":"","config":{config}}}"#),
    ] {
        let read = Document::parse("test", text.as_bytes());
        assert!(matches!(&read, Ok(Document::Manifest(image)) if image.layers.is_empty()), "{text} {read:?}");
    }
    let entry = format!(
        r#"{{"mediaType":null,"digest":"sha256:{HEX}","size":1,"annotations":{{"a":null}},
            "platform":{{"os":"linux","architecture":"amd64","variant":null,"os.version":null}}}}"#
    );
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":null,"manifests":[{entry}],"config":null,"layers":null}}"#
    );
    let Document::Index(index) = Document::parse("test", text.as_bytes()).unwrap() else { panic!() };
    assert_eq!(index[0].platform.as_ref().unwrap().to_string(), "linux/amd64");
    let none = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":null}}"#);
    assert_eq!(Document::parse("test", none.as_bytes()).unwrap(), Document::Index(Vec::new()));
}

#[test]
fn a_digest_is_64_hex_digits_wherever_it_stands() {
    let layer = "application/vnd.oci.image.layer.v1.tar";
    for bad in ["", ":", "sha256:", "sha256:../../x", "sha256:ABC", "sha512:00", &"a".repeat(1 << 20)] {
        refuse(&manifest_text(OCI_CONFIG, layer, bad), "64 hex digits");
    }
    let config = r#"{"rootfs":{"type":"layers","diff_ids":["sha256:../../etc"]}}"#;
    assert!(matches!(Config::parse("test", config.as_bytes()), Err(Error::BadDocument { .. })));
}

#[test]
fn lists_have_limits() {
    let layer = format!(
        r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:{HEX}","size":1}}"#
    );
    let text = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"{OCI_CONFIG}","digest":"sha256:{HEX}","size":2}},"layers":[{}]}}"#,
        vec![layer.as_str(); LAYERS_MAX + 1].join(",")
    );
    refuse(&text, "number of layers");
    let entry = format!(r#"{{"digest":"sha256:{HEX}","size":1}}"#);
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        vec![entry.as_str(); INDEX_ENTRIES_MAX + 1].join(",")
    );
    refuse(&text, "number of manifests");
    let env = vec![r#""A=1""#; CONFIG_ENTRIES_MAX + 1].join(",");
    let config = format!(r#"{{"config":{{"Env":[{env}]}},"rootfs":{{"diff_ids":[]}}}}"#);
    assert!(matches!(Config::parse("test", config.as_bytes()), Err(Error::Limit { .. })));
}

#[test]
fn a_config_with_nulls_is_an_empty_one_and_wrong_types_are_errors() {
    let text = r#"{"config":{"User":"1000:1000","Env":null,"Cmd":["sh"],"Entrypoint":null,"Labels":null},
            "rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"x"}]}"#;
    let config = Config::parse("test", text.as_bytes()).unwrap();
    let expected = ImageConfig { user: "1000:1000".into(), cmd: vec!["sh".into()], ..ImageConfig::default() };
    assert_eq!(config, Config { process: expected, diff_ids: vec![] });
    let text = r#"{"config":{"User":null,"Env":["A=1",null],"Cmd":[null,"sh"],"WorkingDir":null,
            "StopSignal":null,"Labels":{"a":null,"b":"c"}},"rootfs":{"type":null,"diff_ids":null}}"#;
    let config = Config::parse("test", text.as_bytes()).unwrap();
    assert_eq!(config.process.env, ["A=1", ""]);
    assert_eq!(config.process.cmd, ["", "sh"]);
    let labels = [("a".to_string(), String::new()), ("b".into(), "c".into())];
    assert_eq!(config.process.labels, BTreeMap::from(labels));
    let none = Config::parse("test", br#"{"config":null,"rootfs":{}}"#).unwrap();
    assert_eq!(none, Config { process: ImageConfig::default(), diff_ids: vec![] });
    for bad in
        [r#"{"config":{"User":0},"rootfs":{"diff_ids":[]}}"#, r#"{"config":{"Cmd":"sh"}}"#, "{}", "null"]
    {
        assert!(matches!(Config::parse("test", bad.as_bytes()), Err(Error::BadDocument { .. })), "{bad}");
    }
}

#[test]
fn every_key_of_a_config_is_obeyed_or_documented_as_not_for_us() {
    let text = r#"{"config":{
            "User":"1000","Env":["A=1"],"Entrypoint":["/e"],"Cmd":["c"],"WorkingDir":"/w","StopSignal":"SIGHUP",
            "Volumes":{"/data":{},"/cache":{}},"Labels":{"l":"v"},
            "ArgsEscaped":true,"AttachStderr":true,"AttachStdin":true,"AttachStdout":true,"CpuShares":1,
            "Domainname":"d","ExposedPorts":{"80/tcp":{}},"Healthcheck":{"Test":["CMD","true"]},"Hostname":"h",
            "Image":"i","MacAddress":"m","Memory":1,"MemorySwap":1,"NetworkDisabled":true,"OnBuild":["RUN x"],
            "OpenStdin":true,"Shell":["sh"],"StdinOnce":true,"StopTimeout":1,"Tty":true},
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
    let all = ImageConfig {
        user: "1000".into(),
        env: vec!["A=1".into()],
        entrypoint: vec!["/e".into()],
        cmd: vec!["c".into()],
        working_dir: "/w".into(),
        stop_signal: "SIGHUP".into(),
        volumes: vec!["/cache".into(), "/data".into()],
        labels: [("l".into(), "v".into())].into(),
    };
    assert_eq!(Config::parse("test", text.as_bytes()).unwrap().process, all);

    let whole: serde_json::Value = serde_json::from_str(text).unwrap();
    let keys: Vec<String> = whole["config"].as_object().unwrap().keys().cloned().collect();
    let obeyed: Vec<&String> = keys.iter().filter(|key| !NOT_FOR_US.contains(&key.as_str())).collect();
    assert_eq!(obeyed.len(), 8, "one for each field of ImageConfig: {obeyed:?}");
    let page = include_str!("../../../docs/formats/image-config.md");
    let mut documented: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key)
        .collect();
    documented.sort_unstable();
    assert_eq!(keys, documented);
}

#[test]
fn a_key_that_nobody_knows_is_told_and_harms_nothing() {
    let keys: Vec<String> =
        ["Tty".into(), "x".repeat(100)].into_iter().chain((0..99).map(|n| format!("k{n}"))).collect();
    let reported = unknown_keys(keys.iter());
    assert_eq!(reported.len(), UNKNOWN_KEYS_MAX);
    assert_eq!(reported[0], "x".repeat(UNKNOWN_KEY_CHARS_MAX));
    let config = r#"{"config":{"NewThing":{"a":[1]},"Cmd":["c"]},"rootfs":{"diff_ids":[]}}"#;
    assert_eq!(Config::parse("test", config.as_bytes()).unwrap().process.cmd, ["c"]);
}

#[test]
fn the_platform_of_the_host_is_chosen() {
    let platform = |architecture: &str, variant: &str| Platform {
        os: "linux".into(),
        architecture: architecture.into(),
        variant: variant.into(),
    };
    let entry = |size, platform: Option<Platform>| IndexEntry {
        blob: Blob { digest: Digest::parse(&format!("sha256:{HEX}")).unwrap(), size },
        platform: platform.as_ref().and_then(Platform::normalized),
    };
    let index = [
        entry(0, None),
        entry(1, Some(platform("amd64", "v3"))),
        entry(2, Some(platform("arm", "v6"))),
        entry(3, Some(platform("amd64", ""))),
        entry(4, Some(platform("arm", "v7"))),
        entry(5, Some(Platform { os: "windows".into(), ..platform("amd64", "") })),
    ];
    let chosen = |host: &Platform| choose("test", &index, host).unwrap().blob.size;
    assert_eq!(chosen(&platform("amd64", "")), 3);
    assert_eq!(chosen(&platform("arm", "v7")), 4);
    assert_eq!(chosen(&platform("s390x", "")), 0);
    let error = choose("test", &index[1..], &platform("s390x", "")).unwrap_err();
    assert_eq!(error.to_string(), "test has no image for linux/s390x");

    // Other tools' names, and what an older mode of the processor runs.
    let index = [
        entry(0, Some(platform("i386", ""))),
        entry(1, Some(platform("x86_64", ""))),
        entry(2, Some(platform("armhf", ""))),
        entry(3, Some(platform("aarch64", "8"))),
        entry(4, Some(Platform { os: "Linux".into(), ..platform("AMD64", "v1") })),
    ];
    let chosen = |index: &[IndexEntry], host: &Platform| choose("test", index, host).map(|e| e.blob.size);
    let (amd64, arm64) = (platform("amd64", ""), platform("arm64", "v8"));
    assert_eq!(chosen(&index, &amd64).unwrap(), 1);
    assert_eq!(chosen(&index[2..], &amd64).unwrap(), 4);
    assert_eq!(chosen(&index[..1], &amd64).unwrap(), 0);
    assert_eq!(chosen(&index, &arm64).unwrap(), 3);
    assert_eq!(chosen(&index[..3], &arm64).unwrap(), 2);
    assert!(chosen(&index[2..3], &amd64).is_err());
    // A platform that says nothing is none.
    let nothing = [entry(0, Some(Platform::default()))];
    assert_eq!(chosen(&nothing, &amd64).unwrap(), 0);
}
