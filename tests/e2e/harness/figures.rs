//! The figures of a long test: one `name: value` a line, for its page in `docs/proof`.

use std::{env, fs};

use super::{Driver, is_unified};

/// The variable that names the file for them.
const FILE: &str = "PINTLE_E2E_FIGURES";

/// Prints them, and writes them down where the environment says, with what only this machine knows.
pub(crate) fn keep(figures: &str) {
    print!("{figures}");
    let Some(file) = env::var_os(FILE) else { return };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let (version, driver) = (if is_unified() { 2 } else { 1 }, Driver::chosen().name());
    let here = format!("kernel: {}\ncgroup version: {version}\ndriver: {driver}\n", kernel.trim());
    fs::write(file, here + figures).unwrap();
}
