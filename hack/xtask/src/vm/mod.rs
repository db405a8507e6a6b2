//! A test machine with systemd, cgroup v2 and swap: what most machines of ours have not.
//!
//! It is User-mode Linux, which needs no virtualisation and runs programs at nearly the host's speed, with a
//! root image of Debian packages; both are kept in the cache. It lives in process and mount namespaces of its
//! own, writes to memory only, and reads the host's folders as they are: the end-to-end tests that run inside
//! are the program that the host built. `docs/vm.md` says what each kernel can show; the parts that are not
//! Rust are in `hack/vm`.

mod built;
mod debian;
mod image;
mod job;
mod kernel;
mod machine;
mod prebuilt;

use std::time::Duration;

use image::Release;
use kernel::{Choice, Kernel};
use machine::Machine;

use crate::images::Result;

/// Longest that anything may take inside; the slowest is critest on a loaded machine.
const RUN_MAX: Duration = Duration::from_secs(40 * 60);

/// What the words after `cargo xtask vm` ask for.
#[derive(Debug, Default, Eq, PartialEq)]
struct Order {
    kernel: Option<Choice>,
    driver: Option<String>,
    root: Release,
    words: Vec<String>,
}

/// `vm build|test|run …`
pub(crate) fn command(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let what = arguments.next().unwrap_or_default();
    let order = Order::parse(arguments)?;
    match what.as_str() {
        "build" => {
            let kernel = kernel::find(order.kernel)?;
            println!("{}\n{}", kernel.program.display(), image::build(order.root)?.display());
            Ok(())
        }
        "test" => {
            run(&order, |order| job::stories(&order.driver, process_namespace(order.root), &order.words))
        }
        "run" => run(&order, |order| job::shell(&order.words.join(" "))),
        other => Err(format!("unknown command {other:?}; there are build, test and run").into()),
    }
}

/// Starts a machine, has it do its job, and ends it.
fn run(order: &Order, job: impl FnOnce(&Order) -> Result<job::Job>) -> Result<()> {
    let kernel = kernel::find(order.kernel)?;
    let image = image::build(order.root)?;
    let job = job(order)?;
    tell(&kernel);
    match (Machine { kernel: &kernel, image: &image, job: &job }).run(RUN_MAX)? {
        0 => Ok(()),
        code => Err(format!("inside the machine: exit code {code}").into()),
    }
}

fn tell(kernel: &Kernel) {
    eprintln!("xtask vm: kernel {}", kernel.name);
    if let Some(lacks) = kernel.lacks {
        eprintln!("xtask vm: it has no {lacks}: what needs one of them cannot be shown");
    }
}

impl Order {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut order = Self::default();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--kernel" => order.kernel = Some(value()?.parse()?),
                "--root" => order.root = value()?.parse()?,
                "--driver" => order.driver = Some(driver(value()?)?),
                "--" => order.words.extend(arguments.by_ref()),
                _ => order.words.push(argument),
            }
        }
        Ok(order)
    }
}

/// Where the tests' nodes have their processes, if not in a namespace of their own: a systemd without `PIDFDs` is given
/// numbers of processes, which must mean the same to both.
fn process_namespace(root: Release) -> Option<&'static str> {
    match root {
        Release::Debian13 => None,
        Release::Debian12 => Some("machine"),
    }
}

fn driver(name: String) -> Result<String> {
    if matches!(name.as_str(), "systemd" | "cgroupfs") {
        return Ok(name);
    }
    Err(format!("--driver is systemd or cgroupfs, not {name:?}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Order> {
        Order::parse(words.split_whitespace().map(String::from))
    }

    #[test]
    fn options_may_stand_anywhere_and_the_rest_is_the_stories() {
        let order = parse("pod:: --driver systemd exec:: --kernel debian-6.1").unwrap();
        let words = vec!["pod::".to_owned(), "exec::".to_owned()];
        let (kernel, driver) = (Some(Choice::Floor), Some("systemd".into()));
        assert_eq!(order, Order { kernel, driver, root: Release::Debian13, words });
        assert_eq!(parse("--root debian-12").unwrap().root, Release::Debian12);
    }

    #[test]
    fn after_two_dashes_everything_is_taken_as_it_is() {
        assert_eq!(parse("-- ls --kernel").unwrap().words, ["ls", "--kernel"]);
    }

    #[test]
    fn an_unknown_driver_or_kernel_or_a_missing_value_is_refused() {
        for words in ["--driver systemd2", "--kernel mine", "--driver", "--root debian-11"] {
            assert!(parse(words).is_err(), "{words}");
        }
    }
}
