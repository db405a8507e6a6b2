//! Pulls: how long PullImage takes from a registry on this machine, Debian's docker-registry, and what it costs.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    Figures, Result,
    image::{config, digest, manifest, run},
    mib, ms, percentile,
    runtime::{Node, Peer, v1},
};

/// What the large layer is made of: a thousand programs, large and small.
const CONTENT: &str = "/usr/bin";
const LARGE_PULLS: usize = 5;
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Layers of one small file each.
const SMALL_LAYERS: usize = 8;
const SMALL_PULLS: usize = 30;
/// After an image was removed: what is deleted in the background is done.
const SETTLE: Duration = Duration::from_secs(2);
const START_MAX: Duration = Duration::from_secs(10);

pub(super) async fn measure(peer: Peer) -> Result<Figures> {
    let mut node = Node::start(peer).await?;
    let registry = Registry::start(&node.folder().join("registry"))?;
    let large = registry.layer_of(Path::new(CONTENT))?;
    let mut figures = vec![
        ("large layer, MiB packed", mib(large.packed_bytes as u64 >> 10)),
        ("large layer, MiB unpacked", mib(large.bytes as u64 >> 10)),
    ];
    registry.put("large", &[large])?;
    let small: Result<Vec<_>> = (0..SMALL_LAYERS).map(|index| registry.small_layer(index)).collect();
    registry.put("small", &small?)?;
    let (took, cpu) = pulls(&mut node, &registry.name("large"), LARGE_PULLS).await?;
    figures.push(("pull of the large layer p50, s", format!("{:.2}", took.as_secs_f64())));
    figures.push(("CPU for it, s", format!("{:.2}", cpu.as_secs_f64())));
    let (took, cpu) = pulls(&mut node, &registry.name("small"), SMALL_PULLS).await?;
    figures.push(("pull of 8 small layers p50, ms", ms(took)));
    figures.push(("CPU for it, ms", ms(cpu)));
    drop(registry);
    node.stop()?;
    Ok(figures)
}

/// Pulls and removes an image so often, once more before; the middle of the times, and the processor time of one.
async fn pulls(node: &mut Node, image: &str, count: usize) -> Result<(Duration, Duration)> {
    let mut images = node.images().await?;
    let spec = v1::ImageSpec { image: image.into(), ..Default::default() };
    let (mut times, mut cpu_before) = (Vec::new(), 0);
    for index in 0..=count {
        if index == 1 {
            cpu_before = node.cpu_nanos()?;
        }
        let began = Instant::now();
        images.pull_image(v1::PullImageRequest { image: Some(spec.clone()), ..Default::default() }).await?;
        times.push(began.elapsed());
        images.remove_image(v1::RemoveImageRequest { image: Some(spec.clone()) }).await?;
        tokio::time::sleep(SETTLE).await;
    }
    let cpu = (node.cpu_nanos()? - cpu_before) / count as u64;
    Ok((percentile(&mut times[1..], 50), Duration::from_nanos(cpu)))
}

/// A layer among the registry's blobs.
struct Layer {
    diff_id: String,
    digest: String,
    packed_bytes: usize,
    bytes: usize,
}

/// The registry and its folder.
struct Registry {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Registry {
    fn start(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        // Free a moment ago; nobody else asks for ports here.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let config = folder.join("config.yml");
        let storage = folder.display();
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {storage}}}}}\n\
                 http: {{addr: '127.0.0.1:{port}'}}\n"
            ),
        )?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().map_err(|error| format!("docker-registry: {error}"))?;
        let registry = Self { process, folder: folder.into(), port };
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if began.elapsed() > START_MAX {
                return Err("docker-registry does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    fn name(&self, repository: &str) -> String {
        format!("127.0.0.1:{}/{repository}:1", self.port)
    }

    fn small_layer(&self, index: usize) -> Result<Layer> {
        let folder = self.folder.join(format!("small-{index}"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("file-{index}")), "small")?;
        self.layer_of(&folder)
    }

    /// A layer with what is in `content`.
    fn layer_of(&self, content: &Path) -> Result<Layer> {
        let (tar, packed) = (self.folder.join("layer.tar"), self.folder.join("layer.tar.gz"));
        run(Command::new("tar").arg("-C").arg(content).arg("-cf").arg(&tar).arg("."))?;
        run(Command::new("gzip").arg("--keep").arg("--force").arg(&tar))?;
        let (bytes, packed_bytes) = (fs::read(&tar)?, fs::read(&packed)?);
        let layer = Layer {
            diff_id: digest(&bytes),
            digest: digest(&packed_bytes),
            packed_bytes: packed_bytes.len(),
            bytes: bytes.len(),
        };
        let blob = self.blob(&layer.digest)?;
        fs::rename(&packed, blob)?;
        fs::remove_file(tar)?;
        Ok(layer)
    }

    /// Puts an image of these layers there, under the tag 1.
    fn put(&self, repository: &str, layers: &[Layer]) -> Result<()> {
        let diff_ids: Vec<_> = layers.iter().map(|layer| &*layer.diff_id).collect();
        let config = config(&serde_json::json!({}), &diff_ids)?;
        let parts: Vec<_> = layers.iter().map(|layer| (LAYER, &*layer.digest, layer.packed_bytes)).collect();
        let manifest = manifest(&config, &parts)?;
        for bytes in [&config, &manifest] {
            fs::write(self.blob(&digest(bytes))?, bytes)?;
        }
        for blob in layers.iter().map(|layer| &*layer.digest).chain([&*digest(&config)]) {
            self.link(repository, &format!("_layers/{}", blob.replace(':', "/")), blob)?;
        }
        let manifest = digest(&manifest);
        self.link(repository, &format!("_manifests/revisions/{}", manifest.replace(':', "/")), &manifest)?;
        self.link(repository, "_manifests/tags/1/current", &manifest)
    }

    /// Where a blob is kept (the distribution project's `registry/storage/paths.go`).
    fn blob(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest.strip_prefix("sha256:").ok_or("a digest of another kind")?;
        let folder = self.folder.join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex);
        fs::create_dir_all(&folder)?;
        Ok(folder.join("data"))
    }

    fn link(&self, repository: &str, place: &str, digest: &str) -> Result<()> {
        let folder = self.folder.join("docker/registry/v2/repositories").join(repository).join(place);
        fs::create_dir_all(&folder)?;
        Ok(fs::File::create(folder.join("link"))?.write_all(digest.as_bytes())?)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ended = self.process.kill().and_then(|()| self.process.wait()); // it may have ended
    }
}
