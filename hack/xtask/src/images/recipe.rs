//! The sound images: what critest names, and what our own tests need beside it.

use std::{env, path::Path, process::Command};

use serde_json::{Value, json};

use super::{
    Result,
    layer::{Layer, Tar},
    package::{Packages, run},
    registry::{Dialect, Image, Registry, architecture},
};

pub(crate) const PASSWD: &str = include_str!("../../../../tests/e2e/images/passwd");
pub(crate) const GROUP: &str = include_str!("../../../../tests/e2e/images/group");
pub(crate) const PGREP: &str = include_str!("../../../../tests/e2e/images/pgrep");
pub(crate) const HTTPD: &str = include_str!("../../../../tests/e2e/images/httpd");
pub(crate) const NGINX_CONF: &str = include_str!("../../../../tests/e2e/images/nginx.conf");
pub(crate) const NONEWPRIVS: &str = include_str!("../../../../tests/e2e/images/nonewprivs.rs");
pub(crate) const SEIZER: &str = include_str!("../../../../tests/e2e/images/seizer.rs");
pub(crate) const KEYRING: &str = include_str!("../../../../tests/e2e/images/keyring.rs");
pub(crate) const PROBE: &str = include_str!("../../../../tests/e2e/images/probe.rs");
pub(crate) const TRAP: &str = include_str!("../../../../tests/e2e/images/trap.rs");

/// nginx and what it is linked with.
const NGINX_LIBRARIES: [&str; 5] =
    ["libcrypt.so.1", "libpcre2-8.so.0", "libssl.so.3", "libcrypto.so.3", "libz.so.1"];

/// `cap_net_raw=ep` as the kernel keeps it (version 2, little-endian).
const CAP_NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Stores them all. `scratch` is for what has to be compiled.
pub(crate) fn write(packages: &Packages, scratch: &Path, registry: &mut Registry) -> Result<()> {
    let base = busybox(packages)?;
    write_busybox(packages, &base, registry)?;
    write_web_servers(packages, &base, registry)?;
    write_critest_users(&base, registry)?;
    write_critest_tags(&base, registry)?;
    write_privilege_probes(&base, scratch, registry)?;
    write_unpacking(&base, registry)?;
    write_bare(packages, registry)?;
    write_volumes(&base, registry)
}

/// busybox, its libraries, and the users that tests ask for.
///
/// Each program is a hard link, so that one can be masked alone. Not Debian's busybox-static: the shell in
/// there runs its own `ls` even where `/bin/ls` is masked.
pub(crate) fn busybox(packages: &Packages) -> Result<Layer> {
    let mut tar = Tar::new();
    for folder in ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "var"] {
        tar.dir(&format!("{folder}/"), 0o755)?;
    }
    tar.dir("tmp/", 0o1777)?;
    tar.symlink("var/run", "/run")?;
    tar.file("etc/passwd", 0o644, PASSWD.as_bytes())?;
    tar.file("etc/group", 0o644, GROUP.as_bytes())?;
    libraries(&mut tar, packages, &packages.library_folder()?, &["libc.so.6", "libresolv.so.2"])?;
    tar.file("bin/busybox", 0o755, &packages.read("bin/busybox")?)?;
    // busybox's httpd would hide the one of the image of that name.
    let others = ["busybox", "httpd"];
    for applet in packages.applets()?.iter().filter(|name| !others.contains(&name.as_str())) {
        tar.hardlink(&format!("bin/{applet}"), "bin/busybox")?;
    }
    tar.file("bin/pgrep", 0o755, PGREP.as_bytes())?;
    tar.finish()
}

fn write_busybox(packages: &Packages, base: &Layer, registry: &mut Registry) -> Result<()> {
    let mut tools = Tar::new();
    tools.file("usr/bin/ipcs", 0o755, &packages.read("usr/bin/ipcs")?)?;
    let tools = tools.finish()?;

    let shell = json!({"Cmd": ["sh"], "Env": [PATH]});
    let small = Image { config: shell.clone(), layers: vec![base.clone()] };
    let whole = Image { config: shell, layers: vec![base.clone(), tools] };
    registry.put_index("e2e-test-images/busybox:1.29-2", &whole, &sibling()?)?;
    let tags = ["1", "1-glibc", "1-musl", "1-uclibc", "1.35.0-glibc"]
        .map(|tag| format!("docker/library/busybox:{tag}"));
    for (nth, name) in tags.iter().enumerate() {
        let image = marked(&small, &format!("benchmark-{nth}"))?;
        registry.put(&[name], &image, Dialect::Oci)?;
    }
    registry.put(&["library/busybox:latest"], &small, Dialect::Oci)?;
    for tag in ["3.9", "3.10.1", "3.10.2"] {
        let pause =
            Image { config: json!({"Entrypoint": ["/bin/sleep", "2147483647"]}), layers: vec![base.clone()] };
        registry.put(&[&format!("pause:{tag}")], &marked(&pause, &format!("pause-{tag}"))?, Dialect::Oci)?;
    }
    Ok(())
}

fn write_web_servers(packages: &Packages, base: &Layer, registry: &mut Registry) -> Result<()> {
    let folder = packages.library_folder()?;
    let mut tar = Tar::new();
    for library in NGINX_LIBRARIES {
        tar.file(&format!("{folder}/{library}"), 0o755, &packages.library(&folder, library)?)?;
    }
    tar.file("usr/sbin/nginx", 0o755, &packages.read("usr/sbin/nginx")?)?;
    for path in ["var/log/nginx/", "var/lib/nginx/"] {
        tar.dir(path, 0o755)?;
    }
    let nginx = tar.finish()?;

    let serve = json!({"Cmd": ["nginx", "-g", "daemon off;"], "Env": [PATH], "ExposedPorts": {"80/tcp": {}}});
    let web = |port: &str, greeting: &str, config: &Value| -> Result<Image> {
        let site = site(port, greeting)?;
        Ok(Image { config: config.clone(), layers: vec![base.clone(), nginx.clone(), site] })
    };
    let welcome = web("80", "Welcome to nginx!", &serve)?;
    registry.put(&["e2e-test-images/nginx:1.14-2"], &welcome, Dialect::Oci)?;
    let apache = json!({"Cmd": ["httpd", "-D", "FOREGROUND"], "Env": [PATH]});
    registry.put(&["e2e-test-images/httpd:2.4.39-4"], &web("80", "It works!", &apache)?, Dialect::Docker)?;
    let on_host = format!("k8s-staging-cri-tools/hostnet-nginx-{}:latest", architecture());
    registry.put(&[&on_host], &web("12003", "Welcome to nginx!", &serve)?, Dialect::Docker)?;
    Ok(())
}

/// What differs between the web servers.
fn site(port: &str, greeting: &str) -> Result<Layer> {
    let mut tar = Tar::new();
    let page = format!("<html><body><h1>{greeting}</h1></body></html>\n");
    tar.file("etc/nginx/nginx.conf", 0o644, NGINX_CONF.replace("@PORT@", port).as_bytes())?;
    tar.file("usr/share/nginx/html/index.html", 0o644, page.as_bytes())?;
    tar.file("usr/bin/httpd", 0o755, HTTPD.as_bytes())?;
    tar.finish()
}

fn write_critest_users(base: &Layer, registry: &mut Registry) -> Result<()> {
    let users = [
        ("test-image-user-uid", "1002"),
        ("test-image-user-username", "www-data"),
        ("test-image-user-uid-group", "1003:1004"),
        ("test-image-user-username-group", "www-data:1004"),
        ("test-image-predefined-group", "1000"),
    ];
    for (name, user) in users {
        let config = json!({"Cmd": ["sh"], "Env": [PATH], "User": user});
        let image = Image { config, layers: vec![base.clone()] };
        registry.put(&[&format!("k8s-staging-cri-tools/{name}:latest")], &image, Dialect::Docker)?;
    }
    Ok(())
}

fn write_critest_tags(base: &Layer, registry: &mut Registry) -> Result<()> {
    let shell = Image { config: json!({"Cmd": ["sh"], "Env": [PATH]}), layers: vec![base.clone()] };
    let one_name_each = [
        "test-image-latest:latest",
        "test-image-digest:latest",
        "test-image-tag:test",
        "test-image-tag:all",
        "test-image-1:latest",
        "test-image-2:latest",
        "test-image-3:latest",
    ];
    for name in one_name_each {
        let image = marked(&shell, name)?;
        registry.put(&[&format!("k8s-staging-cri-tools/{name}")], &image, Dialect::Docker)?;
    }
    let tags = ["1", "2", "3"].map(|tag| format!("k8s-staging-cri-tools/test-image-tags:{tag}"));
    registry.put(
        &tags.each_ref().map(String::as_str),
        &marked(&shell, "test-image-tags")?,
        Dialect::Docker,
    )?;
    Ok(())
}

/// Programs of ours that try what a workload may do.
fn write_privilege_probes(base: &Layer, scratch: &Path, registry: &mut Registry) -> Result<()> {
    let probes = [
        ("nonewprivs", NONEWPRIVS, 0o4755, "e2e-test-images/nonewprivs:1.3"),
        ("seizer", SEIZER, 0o755, "pintle/seizer:1"),
        ("keyring", KEYRING, 0o755, "pintle/keyring:1"),
        ("probe", PROBE, 0o755, "pintle/probe:1"),
    ];
    for (name, source, mode, image) in probes {
        let mut tar = Tar::new();
        tar.file(name, mode, &compiled(scratch, name, source)?)?;
        let config = json!({"Cmd": [format!("/{name}")], "Env": [PATH]});
        let layers = vec![base.clone(), tar.finish()?];
        registry.put(&[image], &Image { config, layers }, Dialect::Oci)?;
    }
    Ok(())
}

/// The program, linked whole, because the images have no libraries.
fn compiled(scratch: &Path, name: &str, text: &str) -> Result<Vec<u8>> {
    rustc(scratch, name, text, &["-Ctarget-feature=+crt-static"])
}

/// A library that needs no other but libc.
pub(crate) fn compiled_library(scratch: &Path, name: &str, text: &str) -> Result<Vec<u8>> {
    rustc(scratch, name, text, &["--crate-type=cdylib", "-Clink-arg=-nostartfiles"])
}

fn rustc(scratch: &Path, name: &str, text: &str, flags: &[&str]) -> Result<Vec<u8>> {
    let (source, made) = (scratch.join(format!("{name}.rs")), scratch.join(name));
    std::fs::write(&source, text)?;
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut compile = Command::new(rustc);
    compile.args(["--edition=2024", "-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols"]).args(flags);
    run(compile.arg("-o").arg(&made).arg(&source))?;
    Ok(std::fs::read(&made)?)
}

/// Images of our own: everything that a layer can hold, and everything that a config can ask for.
fn write_unpacking(base: &Layer, registry: &mut Registry) -> Result<()> {
    let mut lower = Tar::new();
    for folder in ["data/", "kept/", "hidden/"] {
        lower.dir(folder, 0o750)?;
    }
    lower.file("data/removed", 0o644, b"of the lower layer\n")?;
    lower.file("data/replaced", 0o644, b"of the lower layer\n")?;
    lower.file("kept/file", 0o640, b"of the lower layer\n")?;
    lower.file("hidden/old", 0o644, b"of the lower layer\n")?;

    let mut upper = Tar::new();
    upper.dir("data/", 0o700)?;
    upper.whiteout("data", "removed")?;
    upper.file("data/replaced", 0o600, b"of the upper layer\n")?;
    upper.dir("hidden/", 0o755)?;
    upper.opaque("hidden")?;
    upper.file("hidden/new", 0o644, b"of the upper layer\n")?;
    upper.file("data/first", 0o644, b"one file, two names\n")?;
    upper.hardlink("data/second", "data/first")?;
    upper.file_with_xattr("data/raw", 0o755, b"#!/bin/sh\n", ("security.capability", &CAP_NET_RAW))?;
    upper.char_device("data/null", 0o666, 1, 3)?;
    let layers = vec![base.clone(), lower.finish()?, upper.finish()?];
    let image = Image { config: json!({"Cmd": ["sh"], "Env": [PATH]}), layers };
    registry.put(&["pintle/layers:1"], &image, Dialect::Oci)?;

    let config = json!({
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["echo $GREETING from $(pwd) as $(id -u); trap 'exit 7' USR1; while :; do sleep 0.1; done"],
        "Env": [PATH, "GREETING=hello", "EMPTY="],
        "User": "1002", "WorkingDir": "/not/there/yet", "StopSignal": "SIGUSR1",
    });
    registry.put(&["pintle/config:1"], &Image { config, layers: vec![base.clone()] }, Dialect::Oci)?;
    Ok(())
}

/// A program and nothing else, for a user of no name: what is missing has to be made for it.
fn write_bare(packages: &Packages, registry: &mut Registry) -> Result<()> {
    let mut tar = Tar::new();
    libraries(&mut tar, packages, &packages.library_folder()?, &["libc.so.6", "libresolv.so.2"])?;
    tar.file("bin/busybox", 0o755, &packages.read("bin/busybox")?)?;
    for applet in
        ["sh", "stat", "cat", "id", "sleep", "ls", "grep", "touch", "readlink", "dd", "head", "mkdir"]
    {
        tar.hardlink(&format!("bin/{applet}"), "bin/busybox")?;
    }
    let config = json!({"Cmd": ["sh"], "Env": [PATH], "User": "65532", "WorkingDir": "/work/deep"});
    registry.put(&["pintle/bare:1"], &Image { config, layers: vec![tar.finish()?] }, Dialect::Oci)?;
    Ok(())
}

/// Volumes with content of every kind, behind a link, and where the image has nothing.
fn write_volumes(base: &Layer, registry: &mut Registry) -> Result<()> {
    const OWNER: (u64, u64) = (1000, 2000);
    let mut lower = Tar::new();
    lower.owned("data/", 0o2750, OWNER, None)?;
    lower.owned("data/kept", 0o640, OWNER, Some(b"of the image\n"))?;
    lower.owned("data/removed", 0o640, OWNER, Some(b"of the lower layer\n"))?;
    lower.owned("data/inner/", 0o1777, (0, 0), None)?;
    lower.file("data/inner/tool", 0o4755, b"#!/bin/sh\n")?;
    lower.hardlink("data/inner/second", "data/kept")?;
    lower.symlink("data/link", "inner/tool")?;
    lower.file_with_xattr("data/raw", 0o755, b"#!/bin/sh\n", ("security.capability", &CAP_NET_RAW))?;
    lower.char_device("data/null", 0o666, 1, 3)?;
    lower.owned("run/spool/", 0o700, OWNER, None)?;
    let mut upper = Tar::new();
    upper.whiteout("data", "removed")?;
    let config = json!({
        "Cmd": ["sh"], "Env": [PATH],
        "Volumes": {"/data": {}, "/var/run/spool": {}, "missing/deep/": {}, "/cache": {}},
    });
    let layers = vec![base.clone(), lower.finish()?, upper.finish()?];
    registry.put(&["pintle/volumes:1"], &Image { config, layers }, Dialect::Docker)?;
    Ok(())
}

/// Where busybox's and Debian's programs are.
pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The image with one file more, so that it has a digest of its own.
pub(crate) fn marked(image: &Image, mark: &str) -> Result<Image> {
    let mut tar = Tar::new();
    tar.file("etc/mark", 0o644, mark.as_bytes())?;
    let mut image = image.clone();
    image.layers.push(tar.finish()?);
    Ok(image)
}

/// What a machine of another architecture would take.
fn sibling() -> Result<Image> {
    let mut tar = Tar::new();
    tar.file("wrong-architecture", 0o644, b"")?;
    Ok(Image { config: json!({}), layers: vec![tar.finish()?] })
}

/// Shared libraries and the loader that programs name.
fn libraries(tar: &mut Tar, packages: &Packages, folder: &str, names: &[&str]) -> Result<()> {
    let (place, loader) = match architecture() {
        "arm64" => ("lib", "ld-linux-aarch64.so.1"),
        _ => ("lib64", "ld-linux-x86-64.so.2"),
    };
    tar.file(&format!("{place}/{loader}"), 0o755, &packages.library(folder, loader)?)?;
    for name in names {
        tar.file(&format!("{folder}/{name}"), 0o755, &packages.library(folder, name)?)?;
    }
    Ok(())
}
