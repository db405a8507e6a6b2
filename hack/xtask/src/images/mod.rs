//! The images that the end-to-end tests and critest pull, and the storage of the registry that serves them.
//!
//! Nothing is downloaded but Debian packages. A layer is written entry by entry ([`layer`]), an image is
//! put straight into the folder tree that Debian's `docker-registry` reads ([`registry`]): so a broken image
//! is as easy to make as a sound one. What is made is kept in a cache outside git, in a folder named after
//! this code and its data, and is never changed afterwards.
//!
//! ```text
//! <cache>/images/<key>/registry/docker/registry/v2/…   the registry's storage
//!                      hosts/<host>/hosts.toml         makes 127.0.0.1:5000 a mirror of every host named
//!                      digests.json                    "repository:tag" → digest of its manifest
//!                      complete                        empty; written last
//! ```

mod broken;
pub(crate) mod digest;
mod layer;
pub(crate) mod package;
mod recipe;
mod registry;

use std::{env, error::Error, fs, path::PathBuf};

use registry::Registry;
use sha2::{Digest as _, Sha256};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where each test node's registry listens; every node has a loopback of its own.
const MIRROR: &str = "http://127.0.0.1:5000";

/// Hosts that critest or our tests name.
const HOSTS: [&str; 6] =
    ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "docker.io", "public.ecr.aws", "registry.test"];

/// All that decides what the images hold.
const SOURCES: [&str; 17] = [
    include_str!("mod.rs"),
    include_str!("broken.rs"),
    include_str!("layer.rs"),
    include_str!("package.rs"),
    include_str!("recipe.rs"),
    include_str!("registry.rs"),
    recipe::PASSWD,
    recipe::GROUP,
    recipe::PGREP,
    recipe::HTTPD,
    recipe::NGINX_CONF,
    recipe::NONEWPRIVS,
    recipe::SEIZER,
    recipe::KEYRING,
    recipe::PROBE,
    recipe::TRAP,
    package::NAMES,
];

/// Makes the images unless the cache has them, and answers with their folder.
pub(crate) fn build() -> Result<PathBuf> {
    let folder = cache()?.join("images").join(key_of(&SOURCES));
    if folder.join("complete").exists() {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)?; // an earlier run was cut short
    }
    let packages = package::unpack(&folder.join("packages"))?;
    let mut registry = Registry::create(&folder.join("registry"))?;
    recipe::write(&packages, &folder, &mut registry)?;
    broken::write(&packages, &folder, &mut registry)?;
    for host in HOSTS {
        let hosts = folder.join("hosts").join(host);
        fs::create_dir_all(&hosts)?;
        let mirror = format!(
            "server = \"{MIRROR}\"\n\n[host.\"{MIRROR}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        fs::write(hosts.join("hosts.toml"), mirror)?;
    }
    fs::write(folder.join("digests.json"), serde_json::to_vec_pretty(registry.digests())?)?;
    fs::remove_dir_all(folder.join("packages"))?;
    fs::write(folder.join("complete"), "")?;
    Ok(folder)
}

/// A folder of the cache, made if it is not there.
pub(crate) fn folder_of(name: &str) -> Result<PathBuf> {
    let folder = cache()?.join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// `$PINTLE_CACHE`, else the user's cache folder.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(cache) = env::var_os("PINTLE_CACHE") {
        return Ok(cache.into());
    }
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let user = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).ok_or("HOME is not set")?;
    Ok(user.join("pintle"))
}

/// The name of what is made from these sources, and from these only.
pub(crate) fn key_of(sources: &[&str]) -> String {
    let mut hash = Sha256::new();
    for source in sources {
        hash.update(source);
    }
    digest::hex(&hash.finalize())[..16].into()
}
