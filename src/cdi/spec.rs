//! One CDI spec file, read and checked (github.com/cncf-tags/container-device-interface, SPEC.md).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use super::{content::ContainerEdits, edits::Edits};
use crate::model::{CdiDeviceName, check_cdi_kind};

/// Bytes of a file. The largest seen in the field, of a machine with many sliced GPUs, have some hundred KiB.
pub(super) const FILE_BYTES_MAX: u64 = 4 << 20;
/// Devices of one file.
const DEVICES_MAX: usize = 10_000;
/// How deep a YAML file may nest; a device's mount options are at six.
const YAML_DEPTH_MAX: usize = 32;
/// Values in a YAML file.
const YAML_NODES_MAX: usize = 250_000;
/// Uses of anchors in a YAML file, which could make a short file a long one.
const YAML_ALIASES_MAX: usize = 1_000;

/// The versions of the format that there are, in their order.
const VERSIONS: [&str; 10] =
    ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// How a file is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Format {
    Json,
    Yaml,
}

/// A file's devices and what each of them changes.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct SpecFile {
    pub(super) devices: BTreeMap<CdiDeviceName, Edits>,
    /// The changes that any of them makes too.
    pub(super) common: Edits,
}

/// Reads a file's text.
///
/// # Errors
/// In words that follow the file's name.
pub(super) fn parse(text: &str, format: Format) -> Result<SpecFile, String> {
    let file: File = match format {
        Format::Json => serde_json::from_str(text).map_err(|error| error.to_string())?,
        Format::Yaml => from_yaml(text)?,
    };
    check_version(&file)?;
    check_cdi_kind(&file.kind).map_err(|error| format!("kind {:?}: {error}", file.kind))?;
    if file.devices.is_empty() {
        return Err("it has no devices".into());
    }
    if file.devices.len() > DEVICES_MAX {
        return Err(format!("it has {} devices, more than the {DEVICES_MAX} allowed", file.devices.len()));
    }
    let common = file.container_edits.read().map_err(|error| format!("containerEdits: {error}"))?;
    let mut devices = BTreeMap::new();
    for device in file.devices {
        let name = CdiDeviceName::new(&file.kind, &device.name)
            .map_err(|error| format!("device {:?}: {error}", device.name))?;
        let edits = device.container_edits.read().map_err(|error| format!("device {name}: {error}"))?;
        if devices.insert(name, edits).is_some() {
            return Err(format!("it has two devices {:?}", device.name));
        }
    }
    Ok(SpecFile { devices, common })
}

fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: YAML_DEPTH_MAX,
            max_nodes: YAML_NODES_MAX,
            max_aliases: YAML_ALIASES_MAX,
            max_documents: 1,
        },
        // As the vendors' own YAML writers and readers have it: 0660 is a file mode.
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

/// A version is known, and has all that the file uses: a runtime that reads it by its version would pass over the rest.
fn check_version(file: &File) -> Result<(), String> {
    let index = |version: &str| VERSIONS.iter().position(|known| *known == version);
    let given = file.cdi_version.strip_prefix('v').unwrap_or(&file.cdi_version);
    let Some(given_index) = index(given) else {
        return Err(format!("cdiVersion {:?} is none of {}", file.cdi_version, VERSIONS.join(", ")));
    };
    let mut uses = BTreeSet::new();
    file.uses(&mut uses);
    for (needed, what) in uses {
        if index(needed) > Some(given_index) {
            return Err(format!("{what} needs cdiVersion {needed}, and the file's is {given}"));
        }
    }
    Ok(())
}

/// A list or map of which `null` is the same as none, as in Go's encoders.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

type Strings = BTreeMap<String, String>;
/// Something that a file uses, and the version that brought it.
pub(super) type Uses = BTreeSet<(&'static str, &'static str)>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    cdi_version: String,
    kind: String,
    #[serde(default, deserialize_with = "nullable")]
    annotations: Strings,
    #[serde(default, deserialize_with = "nullable")]
    devices: Vec<Device>,
    #[serde(default, deserialize_with = "nullable")]
    container_edits: ContainerEdits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    annotations: Strings,
    #[serde(default, deserialize_with = "nullable")]
    container_edits: ContainerEdits,
}

impl File {
    fn uses(&self, uses: &mut Uses) {
        self.container_edits.uses(uses);
        let mut annotated = !self.annotations.is_empty();
        for device in &self.devices {
            device.container_edits.uses(uses);
            annotated |= !device.annotations.is_empty();
            if device.name.starts_with(|c: char| c.is_ascii_digit()) {
                uses.insert(("0.5.0", "a device whose name begins with a digit"));
            }
        }
        if annotated {
            uses.insert(("0.6.0", "annotations"));
        }
        if self.kind.split_once('/').is_some_and(|(_, class)| class.contains('.')) {
            uses.insert(("0.6.0", "a class with a dot"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/class.x",
        "annotations": {"a": "b"},
        "devices": [
            {"name": "0", "annotations": null, "containerEdits": {"env": ["A=1"], "mounts": null}},
            {"name": "all"}
        ],
        "containerEdits": {"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/y", "fileMode": 432}]}}"#;

    const YAML: &str = "---\ncdiVersion: \"0.6.0\"\nkind: vendor.com/class.x\nannotations: {a: b}\ndevices:\n\
        - name: \"0\"\n  annotations:\n  containerEdits:\n    env:\n    - A=1\n- name: all\ncontainerEdits:\n  \
        deviceNodes:\n  - path: /dev/x\n    hostPath: /dev/y\n    fileMode: 0660\n";

    fn problem(text: &str, format: Format) -> String {
        parse(text, format).unwrap_err()
    }

    /// A JSON file of this version and kind, with this device beside one that is good.
    fn file(version: &str, kind: &str, device: &str) -> String {
        format!(
            r#"{{"cdiVersion": "{version}", "kind": "{kind}", "devices": [{{"name": "good"}}, {device}]}}"#
        )
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        let read = parse(JSON, Format::Json).unwrap();
        assert_eq!(read, parse(YAML, Format::Yaml).unwrap());
        let names: Vec<_> = read.devices.keys().map(CdiDeviceName::as_str).collect();
        assert_eq!(names, ["vendor.com/class.x=0", "vendor.com/class.x=all"]);
        assert_eq!(read.common.devices[0].form.mode, Some(0o660));
    }

    #[test]
    fn every_version_is_read_and_none_that_is_to_come() {
        for version in VERSIONS.into_iter().chain(["v1.1.0"]) {
            assert!(parse(&file(version, "v/c", r#"{"name": "d"}"#), Format::Json).is_ok(), "{version}");
        }
        for version in ["1.2.0", "", "1.1", "latest"] {
            let problem = problem(&file(version, "v/c", r#"{"name": "d"}"#), Format::Json);
            assert!(problem.starts_with(&format!("cdiVersion {version:?} is none of 0.1.0,")), "{problem}");
        }
    }

    #[test]
    fn a_file_uses_nothing_that_is_newer_than_its_version() {
        let edits = |edits: &str| format!(r#"{{"name": "d", "containerEdits": {{{edits}}}}}"#);
        let mount = r#""mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "bind"}]"#;
        let node = r#""deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/b"}]"#;
        for (before, since, kind, device) in [
            ("0.3.0", "0.4.0", "v/c", edits(mount)),
            ("0.4.0", "0.5.0", "v/c", edits(node)),
            ("0.4.0", "0.5.0", "v/c", r#"{"name": "0"}"#.into()),
            ("0.5.0", "0.6.0", "v/c", r#"{"name": "d", "annotations": {"a": "b"}}"#.into()),
            ("0.5.0", "0.6.0", "v/c.d", r#"{"name": "d"}"#.into()),
            ("0.6.0", "0.7.0", "v/c", edits(r#""additionalGids": [7]"#)),
            ("0.6.0", "0.7.0", "v/c", edits(r#""intelRdt": {"closID": "a"}"#)),
            ("1.0.0", "1.1.0", "v/c", edits(r#""intelRdt": {"schemata": ["L3:0=f"]}"#)),
            (
                "1.0.0",
                "1.1.0",
                "v/c",
                edits(r#""netDevices": [{"hostInterfaceName": "eth1", "name": "net1"}]"#),
            ),
        ] {
            let problem = problem(&file(before, kind, &device), Format::Json);
            let needs = format!("needs cdiVersion {since}, and the file's is {before}");
            assert!(problem.ends_with(&needs), "{device}: {problem}");
            assert!(parse(&file(since, kind, &device), Format::Json).is_ok(), "{device}");
        }
    }

    #[test]
    fn what_is_no_spec_is_refused_in_words() {
        let one = |device: &str| file("1.1.0", "v/c", device);
        for (text, word) in [
            (String::new(), "EOF"),
            ("{}".into(), "missing field `cdiVersion`"),
            (r#"{"cdiVersion": "0.6.0", "kind": "v/c"}"#.into(), "it has no devices"),
            (file("1.1.0", "vendor", r#"{"name": "d"}"#), "there is no \"/\""),
            (file("1.1.0", "1/c", r#"{"name": "d"}"#), "the vendor"),
            (one(r#"{"name": "a b"}"#), "device \"a b\": it is not vendor/class=name"),
            (one(r#"{"name": "good"}"#), "it has two devices \"good\""),
            (one(r#"{"name": "d", "containerEdit": {}}"#), "unknown field `containerEdit`"),
            (one(r#"{"name": "d", "containerEdits": {"env": "A=1"}}"#), "invalid type"),
            (one(r#"{"name": "d", "containerEdits": {"env": ["A"]}}"#), "env \"A\" is not NAME=value"),
        ] {
            let problem = problem(&text, Format::Json);
            assert!(problem.contains(word), "{text}: {problem}");
        }
    }

    #[test]
    fn devices_depth_and_anchors_have_limits() {
        let devices: Vec<_> = (0..=DEVICES_MAX).map(|number| format!(r#"{{"name": "{number}"}}"#)).collect();
        let many = format!(r#"{{"cdiVersion": "1.0.0", "kind": "v/c", "devices": [{}]}}"#, devices.join(","));
        assert!(problem(&many, Format::Json).starts_with("it has 10001 devices, more than"));

        let head = "cdiVersion: 1.0.0\nkind: v/c\ndevices:\n- name: d\n";
        assert!(parse(head, Format::Yaml).is_ok());
        let deep = format!("{head}annotations: {}{}\n", "[".repeat(5_000), "]".repeat(5_000));
        let aliases = format!("{head}annotations:\n  a: &a {}\n{}", "x".repeat(1_000), {
            (0..2_000).map(|number| format!("  k{number}: *a\n")).collect::<String>()
        });
        let nested = format!(r#"{{"cdiVersion": {}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
        for (text, format) in [
            (deep.as_str(), Format::Yaml),
            (&aliases, Format::Yaml),
            ("a: &a [*a, *a]", Format::Yaml),
            (&format!("{head}---\n{head}"), Format::Yaml),
            (&nested, Format::Json),
        ] {
            let problem = problem(text, format);
            assert!(problem.len() < 500 && !problem.contains('\n'), "{problem}");
        }
    }
}
