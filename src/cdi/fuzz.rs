//! The fuzz target of CDI spec files.

use super::spec::{Format, parse};
use crate::model::ContainerConfig;

/// A spec file: JSON means the same when it is read as YAML's subset, and every edit can be made.
pub fn cdi(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    drop(parse(text, Format::Yaml));
    let Ok(file) = parse(text, Format::Json) else { return };
    assert!(!file.devices.is_empty());
    for edits in file.devices.into_values() {
        edits.apply(&mut ContainerConfig::default());
    }
}
