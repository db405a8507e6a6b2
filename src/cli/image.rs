//! `pintle image`: load, list and remove images.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use tokio::runtime::{self, Runtime};

use super::{client::Client, exit::Exit, place::Place, say::say};
use crate::{
    config::Config,
    image::{Images, Input, Loaded, LoadedImage, NoWorkers, Progress, Workers},
    supervisor::ImageWorkers,
    telemetry::log::chain,
};

/// Hex digits of an id that are shown.
const ID_SHOWN: usize = 12;

/// `pintle image load`: straight into the store, whether a daemon runs or not. All files and all images in them
/// are tried; a failure shows in the exit code.
pub(super) fn load(place: Place, name: Option<&str>, files: &[PathBuf]) -> Result<Exit, Exit> {
    if name.is_some() && files.len() > 1 {
        eprintln!("pintle: --tag is for one file at a time: the images of the last would take the name");
        return Err(Exit::USAGE);
    }
    let config = place.load(None)?.config;
    let runtime = runtime()?;
    let workers = runtime.block_on(ImageWorkers::start());
    let workers = workers.map_err(|error| Exit::SOFTWARE.because(&error))?;
    let images = open(&config, Arc::new(workers))?;
    let mut exit = Exit::OK;
    for file in files {
        let bar = Bar::new(file);
        let shown = bar.clone();
        let progress = move |progress| shown.show(&progress);
        let name = name.map(ToOwned::to_owned);
        let loading = async { images.load(Input::open(file)?, name, progress).await };
        let loaded = runtime.block_on(loading);
        bar.0.finish_and_clear();
        match loaded {
            Ok(loaded) => exit = report(file, &loaded)?.unwrap_or(exit),
            Err(error) => exit = Exit::FAILED.because(&error),
        }
    }
    Ok(exit)
}

/// Says what became of an archive; the exit code if not all is well.
fn report(file: &Path, loaded: &Loaded) -> Result<Option<Exit>, Exit> {
    for LoadedImage { image, bare_tag } in &loaded.images {
        let text = match (image.repo_tags.as_slice(), bare_tag) {
            ([], Some(tag)) => {
                format!("{}, which the archive calls only {tag:?}: name it with --tag", image.id)
            }
            ([], None) => format!("{}, which has no name: name it with --tag", image.id),
            (tags, _) => tags.join(" "),
        };
        say(&format!("loaded {text}\n"))?;
    }
    let file = file.display();
    for (called, error) in &loaded.skipped {
        eprintln!("pintle: {file}: skipped {called}: {}", chain(error));
    }
    for (called, error) in &loaded.failed {
        eprintln!("pintle: {file}: could not load {called}: {}", chain(error));
    }
    let all_well = loaded.failed.is_empty() && !loaded.images.is_empty();
    Ok((!all_well).then_some(Exit::FAILED))
}

/// `pintle image ls`: by the daemon, else from the store.
pub(super) fn list(place: Place) -> Result<Exit, Exit> {
    let config = place.load(None)?.config;
    let rows = match daemon(&config)? {
        Some((runtime, mut client)) => {
            let images = runtime.block_on(client.images()).map_err(|error| Exit::FAILED.because(&error))?;
            let rows = images.into_iter().map(|image| Row {
                names: [image.repo_tags, image.repo_digests].concat(),
                id: image.id,
                size_bytes: image.size,
            });
            rows.collect()
        }
        None => {
            let images =
                open(&config, Arc::new(NoWorkers))?.list().map_err(|error| Exit::FAILED.because(&error))?;
            let rows = images.iter().map(|image| Row {
                names: [image.repo_tags.clone(), image.repo_digests.clone()].concat(),
                id: image.id.to_string(),
                size_bytes: image.size_bytes,
            });
            rows.collect()
        }
    };
    say(&table(rows))
}

/// `pintle image rm`: by the daemon, else from the store. All are tried; a failure shows in the exit code, and so does
/// an image that is not here, which the CRI takes for removed.
pub(super) fn remove(place: Place, references: &[String]) -> Result<Exit, Exit> {
    let config = place.load(None)?.config;
    let mut exit = Exit::OK;
    match daemon(&config)? {
        Some((runtime, mut client)) => {
            for reference in references {
                let removed = runtime.block_on(async {
                    let found = client.find_image(reference).await?.is_some();
                    client.remove_image(reference).await.map(|()| found)
                });
                exit = after_removal(reference, removed).unwrap_or(exit);
            }
        }
        None => {
            let (images, runtime) = (open(&config, Arc::new(NoWorkers))?, runtime()?);
            for reference in references {
                let removed = runtime.block_on(async {
                    let found = images.find(reference)?.is_some();
                    images.remove(reference).await.map(|()| found)
                });
                exit = after_removal(reference, removed).unwrap_or(exit);
            }
        }
    }
    Ok(exit)
}

/// Says what went wrong with a removal, and the exit code for it. `removed`: whether there was an image.
fn after_removal<E: std::error::Error>(reference: &str, removed: Result<bool, E>) -> Option<Exit> {
    match removed {
        Ok(true) => None,
        Ok(false) => {
            eprintln!("pintle: remove image {reference}: it is not here");
            Some(Exit::FAILED)
        }
        Err(error) => Some(Exit::FAILED.because(&error)),
    }
}

fn open(config: &Config, workers: Arc<dyn Workers>) -> Result<Images, Exit> {
    Images::open(&config.root, &config.image, workers).map_err(|error| Exit::SOFTWARE.because(&error))
}

fn runtime() -> Result<Runtime, Exit> {
    runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| Exit::SOFTWARE.because(&error))
}

/// The daemon, when one answers.
fn daemon(config: &Config) -> Result<Option<(Runtime, Client)>, Exit> {
    let runtime = runtime()?;
    let client = runtime.block_on(Client::connect(config.listen().path()));
    Ok(client.ok().map(|client| (runtime, client)))
}

struct Row {
    names: Vec<String>,
    id: String,
    size_bytes: u64,
}

/// One line for each name: what `image rm` and `run` take.
fn table(rows: Vec<Row>) -> String {
    let mut lines = vec![["IMAGE".to_owned(), "ID".into(), "SIZE".into()]];
    for row in rows {
        let id = row.id.strip_prefix("sha256:").unwrap_or(&row.id);
        let id: String = id.chars().take(ID_SHOWN).collect();
        let names = if row.names.is_empty() { vec!["<none>".into()] } else { row.names };
        for name in names {
            lines.push([name, id.clone(), HumanBytes(row.size_bytes).to_string()]);
        }
    }
    lines[1..].sort();
    let width = lines.iter().map(|line| line[0].chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for [image, id, size] in lines {
        // Writing to a String cannot fail.
        let _written = writeln!(text, "{image:width$}  {id:ID_SHOWN$}  {size}");
    }
    text
}

/// Layers, on one line that is drawn again on a terminal, as lines elsewhere.
#[derive(Clone)]
struct Bar(ProgressBar);

impl Bar {
    fn new(file: &Path) -> Self {
        // Hidden by itself when stderr is not a terminal.
        let bar = ProgressBar::new(0).with_prefix(file.display().to_string());
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg} {elapsed}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn show(&self, progress: &Progress) {
        let Progress::Layer { digest, number, of } = progress else { return };
        let digest: String = digest.to_string().chars().take("sha256:".len() + ID_SHOWN).collect();
        if self.0.is_hidden() {
            eprintln!("unpacking layer {number} of {of}, {digest}");
        }
        self.0.set_length(*of as u64);
        self.0.set_position(*number as u64 - 1);
        self.0.set_message(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_of_an_image_has_a_line() {
        let row = |names: &[&str], id: &str, size_bytes| Row {
            names: names.iter().map(ToString::to_string).collect(),
            id: id.into(),
            size_bytes,
        };
        let rows = vec![
            row(&["docker.io/library/busybox:1", "a:2"], "sha256:0123456789abcdef", 2048),
            row(&[], "sha256:ffff", 10),
        ];
        let lines = [
            "IMAGE                        ID            SIZE",
            "<none>                       ffff          10 B",
            "a:2                          0123456789ab  2.00 KiB",
            "docker.io/library/busybox:1  0123456789ab  2.00 KiB",
            "",
        ];
        assert_eq!(table(rows), lines.join("\n"));
    }
}
