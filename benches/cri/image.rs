//! A busybox image as an OCI layout in a tar, made on the spot from Debian's busybox-static.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest as _, Sha256};

use super::Result;

/// Applets that the benchmarks call.
const APPLETS: [&str; 9] = ["sh", "sleep", "true", "yes", "head", "cat", "dd", "echo", "nc"];

/// Writes the archive `name` into `folder`; the image is named `reference`.
pub(crate) fn archive(folder: &Path, reference: &str, command: &[&str]) -> Result<PathBuf> {
    let work = folder.join(format!("image-{}", reference.replace(['/', ':'], "-")));
    let (root, layout) = (work.join("root"), work.join("layout"));
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir_all(root.join("etc"))?;
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(busybox.ok_or("busybox-static is not installed")?, root.join("bin/busybox"))?;
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;

    let tar = work.join("layer.tar");
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."))?;
    let layer = fs::read(&tar)?;
    let (layer_digest, layer_size) = blob(&layout, &layer)?;
    let config = config(&serde_json::json!({ "Env": ["PATH=/bin"], "Cmd": command }), &[&layer_digest])?;
    blob(&layout, &config)?;
    let manifest =
        manifest(&config, &[("application/vnd.oci.image.layer.v1.tar", &layer_digest, layer_size)])?;
    let (manifest_digest, manifest_size) = blob(&layout, &manifest)?;
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest, "size": manifest_size,
            "annotations": { "io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference },
        }],
    });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let archive = work.join("image.tar");
    run(Command::new("tar").arg("-C").arg(&layout).arg("-cf").arg(&archive).arg("."))?;
    Ok(archive)
}

/// The configuration of an image; `config` is the part that says how it runs.
pub(crate) fn config(config: &serde_json::Value, diff_ids: &[&str]) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }))?)
}

/// The manifest of an image; of each layer media type, digest and size.
pub(crate) fn manifest(config: &[u8], layers: &[(&str, &str, usize)]) -> Result<Vec<u8>> {
    let descriptor = |(media_type, digest, size): (&str, &str, usize)| serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size });
    Ok(serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor(("application/vnd.oci.image.config.v1+json", &digest(config), config.len())),
        "layers": layers.iter().copied().map(descriptor).collect::<Vec<_>>(),
    }))?)
}

fn blob(layout: &Path, bytes: &[u8]) -> Result<(String, usize)> {
    let digest = digest(bytes);
    fs::write(layout.join("blobs").join(digest.replace(':', "/")), bytes)?;
    Ok((digest, bytes.len()))
}

/// As images name their parts.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}
