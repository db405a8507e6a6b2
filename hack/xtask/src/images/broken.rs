//! The images that no runtime should swallow, one for each way to be broken. All are `broken/<way>:1`.
//!
//! Each has a layer of its own: a blob that is spoilt here must not be part of a sound image.

use std::path::Path;

use serde_json::json;

use super::{
    Result,
    digest::digest,
    layer::{Layer, Tar},
    package::Packages,
    recipe::{PATH, TRAP, busybox, compiled_library},
    registry::{Dialect, Image, Registry},
};

/// What a tar that escapes would write to on the node: tests look here.
const ESCAPE: &str = "tmp/pintle-escaped";

/// The directory of the node that an image's links and programs are after.
const CANARY: &str = "srv";

pub(crate) fn write(packages: &Packages, scratch: &Path, registry: &mut Registry) -> Result<()> {
    let base = busybox(packages)?;
    write_false_blobs(&base, registry)?;
    write_false_manifests(&base, registry)?;
    write_escapes(&base, registry)?;
    write_unsafe_roots(&base, registry)?;
    write_links_in_etc(&base, registry)?;
    write_programs(packages, &base, scratch, registry)?;
    write_users(&base, registry)?;
    let nothing_to_run = Image { config: json!({"Env": [PATH]}), layers: vec![base.clone()] };
    registry.put(&["broken/no-entrypoint:1"], &nothing_to_run, Dialect::Oci)?;
    let no_such_program = Image { config: json!({"Entrypoint": ["/no/such/program"]}), layers: vec![base] };
    registry.put(&["broken/no-such-program:1"], &no_such_program, Dialect::Oci)?;
    Ok(())
}

/// Blobs that are not what their digest says.
fn write_false_blobs(base: &Layer, registry: &mut Registry) -> Result<()> {
    for (way, spoil) in [("other-bytes", other_bytes as fn(&[u8]) -> Vec<u8>), ("truncated", first_half)] {
        let layer = one_file("etc/mark", way)?;
        let (name, spoilt) = (digest(&layer.gzip), spoil(&layer.gzip));
        registry.put(&[&format!("broken/{way}:1")], &image(base, layer), Dialect::Oci)?;
        registry.corrupt(&name, &spoilt)?;
    }
    Ok(())
}

fn other_bytes(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    // The time stamp in the gzip header: what unpacks is the same, what hashes is not.
    bytes[4] ^= 1;
    bytes
}

fn first_half(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() / 2].to_vec()
}

/// Manifests that lie, or are none.
fn write_false_manifests(base: &Layer, registry: &mut Registry) -> Result<()> {
    let mut wrong = one_file("etc/mark", "wrong-diff-id")?;
    wrong.diff_id = digest(b"another tar");
    registry.put(&["broken/diff-id:1"], &image(base, wrong), Dialect::Oci)?;

    let sound = image(base, one_file("etc/mark", "missing-blob")?);
    let manifest = String::from_utf8(registry.put_parts("broken/missing-blob", &sound, Dialect::Oci)?)?;
    let last = digest(&sound.layers[1].gzip);
    registry.put_raw("broken/missing-blob:1", manifest.replace(&last, &digest(b"never stored")).as_bytes())
}

type Write = fn(&mut Tar) -> Result<()>;

/// Tars that point out of the image.
fn write_escapes(base: &Layer, registry: &mut Registry) -> Result<()> {
    let ways: [(&str, Write); 5] = [
        ("dot-dot", |tar| tar.file(&format!("../../../../../../../../{ESCAPE}"), 0o644, b"out\n")),
        ("absolute", |tar| tar.file(&format!("/{ESCAPE}"), 0o644, b"in, at most\n")),
        ("through-symlink", |tar| {
            tar.symlink("door", "/")?;
            tar.file(&format!("door/{ESCAPE}"), 0o644, b"out\n")
        }),
        ("through-relative-symlink", |tar| {
            tar.symlink("etc/door", "../../../../../../../../..")?;
            tar.file(&format!("etc/door/{ESCAPE}"), 0o644, b"out\n")
        }),
        ("hardlink", |tar| tar.hardlink("etc/host-hosts", "../../../../../../../../etc/hosts")),
    ];
    for (way, build) in ways {
        let mut tar = Tar::new();
        build(&mut tar)?;
        registry.put(&[&format!("broken/{way}:1")], &image(base, tar.finish()?), Dialect::Oci)?;
    }
    Ok(())
}

/// Roots in which `/dev`, `/proc` or `/sys`, or a place in `/dev`, leads to a folder of the node.
fn write_unsafe_roots(base: &Layer, registry: &mut Registry) -> Result<()> {
    let ways: [(&str, Write); 9] = [
        ("dev", |tar| tar.symlink("dev", "/srv")),
        ("dev-bare", |tar| tar.symlink("dev", "/srv")),
        ("dev-relative", |tar| tar.symlink("dev", "../../../../../srv")),
        ("dev-second", |tar| {
            tar.symlink("etc/door", "/srv")?;
            tar.symlink("dev", "etc/door")
        }),
        ("dev-pts", |tar| tar.symlink("dev/pts", "/srv")),
        ("dev-shm", |tar| tar.symlink("dev/shm", "/srv")),
        ("dev-mqueue", |tar| tar.symlink("dev/mqueue", "/srv")),
        ("proc", |tar| tar.symlink("proc", "/srv")),
        ("sys", |tar| tar.symlink("sys", "/srv")),
    ];
    for (way, build) in ways {
        let mut tar = Tar::new();
        build(&mut tar)?;
        if way != "dev-bare" {
            tar.dir(&format!("{CANARY}/"), 0o755)?;
        }
        registry.put(&[&format!("broken/{way}-symlink:1")], &image(base, tar.finish()?), Dialect::Oci)?;
    }
    Ok(())
}

/// Files below `/etc` that the runtime mounts or reads, or `/etc` itself, lead to the node.
fn write_links_in_etc(base: &Layer, registry: &mut Registry) -> Result<()> {
    let mut whole = Tar::new();
    whole.symlink("etc", "../../../../../srv")?;
    registry.put(&["broken/etc-symlink:1"], &image(base, whole.finish()?), Dialect::Oci)?;
    let mut single = Tar::new();
    for (path, target) in [
        ("etc/hosts", "/srv/secret"),
        ("etc/hostname", "../../../../../srv/secret"),
        ("etc/resolv.conf", "/srv/new"),
        ("etc/mtab", "/srv/secret"),
        ("etc/passwd", "/srv/foreign"),
        ("etc/door", "/srv"),
        ("run/.containerenv", "/srv/secret"),
    ] {
        single.symlink(path, target)?;
    }
    registry.put(&["broken/etc-links:1"], &image(base, single.finish()?), Dialect::Oci)?;
    Ok(())
}

/// Programs and libraries with the names of those that a runtime might run by mistake; each leaves a mark.
fn write_programs(packages: &Packages, base: &Layer, scratch: &Path, registry: &mut Registry) -> Result<()> {
    let mut tar = Tar::new();
    tar.dir(&format!("{CANARY}/"), 0o1777)?;
    for program in ["mount", "umount", "tar", "ip", "nsenter", "modprobe"] {
        let script = format!("#!/bin/sh\necho by {program} >/{CANARY}/trapped\n");
        tar.file(&format!("bin/{program}"), 0o755, script.as_bytes())?;
    }
    let trap = compiled_library(scratch, "trap", TRAP)?;
    let folder = packages.library_folder()?;
    for library in ["libnss_files.so.2", "libnss_compat.so.2", "libnss_dns.so.2"] {
        tar.file(&format!("{folder}/{library}"), 0o755, &trap)?;
    }
    tar.file("trap.so", 0o755, &trap)?;
    tar.file("etc/ld.so.preload", 0o644, b"/trap.so\n")?;
    registry.put(&["broken/programs:1"], &image(base, tar.finish()?), Dialect::Oci)?;
    Ok(())
}

/// Users at the end of the numbers, and beyond: the first three are users.
fn write_users(base: &Layer, registry: &mut Registry) -> Result<()> {
    let users = [
        "2147483647",
        "2147483648",
        "4294967294",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "-1",
        "+1",
        "0x0",
        " 0",
        "1:4294967296",
        "0:-1",
    ];
    for (number, user) in users.iter().enumerate() {
        let config = json!({"Cmd": ["sh"], "Env": [PATH], "User": user});
        let image = Image { config, layers: vec![base.clone()] };
        registry.put(&[&format!("broken/user-{number}:1")], &image, Dialect::Oci)?;
    }
    Ok(())
}

fn image(base: &Layer, layer: Layer) -> Image {
    Image { config: json!({"Cmd": ["sh"], "Env": [PATH]}), layers: vec![base.clone(), layer] }
}

fn one_file(path: &str, text: &str) -> Result<Layer> {
    let mut tar = Tar::new();
    tar.file(path, 0o644, text.as_bytes())?;
    tar.finish()
}
