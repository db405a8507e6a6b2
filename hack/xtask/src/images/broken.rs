//! The images that no runtime should swallow, one for each way to be broken. All are `broken/<way>:1`.
//!
//! Each has a layer of its own: a blob that is spoilt here must not be part of a sound image.

use serde_json::json;

use super::{
    Result,
    digest::digest,
    layer::{Layer, Tar},
    package::Packages,
    recipe::{PATH, busybox},
    registry::{Dialect, Image, Registry},
};

/// What a tar that escapes would write to on the node: tests look here.
const ESCAPE: &str = "tmp/pintle-escaped";

pub(crate) fn write(packages: &Packages, registry: &mut Registry) -> Result<()> {
    let base = busybox(packages)?;
    write_false_blobs(&base, registry)?;
    write_false_manifests(&base, registry)?;
    write_escapes(&base, registry)?;
    write_unsafe_roots(&base, registry)?;
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

/// Roots in which `/dev`, `/proc` or `/sys` leads to a folder of the node.
fn write_unsafe_roots(base: &Layer, registry: &mut Registry) -> Result<()> {
    for folder in ["dev", "proc", "sys"] {
        let mut tar = Tar::new();
        tar.symlink(folder, &format!("/{ESCAPE}-{folder}"))?;
        tar.dir(&format!("{ESCAPE}-{folder}/"), 0o755)?;
        let name = format!("broken/{folder}-symlink:1");
        registry.put(&[&name], &image(base, tar.finish()?), Dialect::Oci)?;
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
