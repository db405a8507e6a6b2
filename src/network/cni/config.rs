//! Network configurations as the CNI specification has them: which file counts, and what it says. Pure.

use std::{cmp::Ordering, fmt, path::Path};

use serde_json::{Map, Value};

/// The newest version of the CNI specification that is spoken here.
pub(super) const NEWEST: Version = Version(1, 1, 0);
/// CHECK, and a previous result for DEL, begin here.
pub(super) const WITH_CHECK: Version = Version(0, 4, 0);
/// STATUS and GC begin here.
pub(super) const WITH_STATUS: Version = Version(1, 1, 0);

/// Largest configuration file; bytes. Real ones have some hundred.
pub(super) const CONFIG_BYTES_MAX: usize = 1 << 20;
/// Largest list with the plugins that have files of their own; bytes. It is recorded with each pod.
const LIST_BYTES_MAX: usize = 2 << 20;
/// Most plugins in one list. Each is a process for each pod; real lists have at most six.
const PLUGINS_MAX: usize = 32;
/// Longest name of a network or a plugin; bytes. It is part of a file's name.
const NAME_BYTES_MAX: usize = 128;

/// Ends of the names of files that are configurations.
const EXTENSIONS: [&str; 3] = ["conflist", "conf", "json"];

/// A version of the CNI specification.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Version(u8, u8, u8);

impl Version {
    /// What a configuration without `cniVersion` has.
    const OLDEST: Self = Self(0, 1, 0);

    /// `None` for a text that is no version.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        let version = Self(parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// One network: the plugins that a pod is attached by, in their order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NetworkList {
    pub(super) name: String,
    pub(super) version: Version,
    pub(super) disable_check: bool,
    pub(super) disable_gc: bool,
    /// Only `plugins` counts, not the files in the folder of the network's name.
    pub(super) inlined_only: bool,
    pub(super) plugins: Vec<PluginConfig>,
    /// The list as JSON, which libcni's cache has of it.
    pub(super) bytes: Vec<u8>,
}

/// One plugin of a list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PluginConfig {
    /// The name of its program (`type`).
    pub(super) program: String,
    /// Which arguments of the runtime it takes (`capabilities`).
    pub(super) capabilities: Vec<String>,
    /// Everything, as it was written.
    pub(super) object: Map<String, Value>,
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadConfig(String);

type Result<T> = std::result::Result<T, BadConfig>;

fn bad<T>(reason: impl Into<String>) -> Result<T> {
    Err(BadConfig(reason.into()))
}

/// The configuration that counts among the files of a folder: the first by name.
pub(super) fn first<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names.into_iter().filter(|name| extension(name).is_some()).min_by(|a, b| by_bytes(a, b))
}

/// The plugins of a network in the folder of its name, in their order.
pub(super) fn plugin_files<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut files: Vec<&str> =
        names.into_iter().filter(|name| extension(name).is_some_and(|end| end == "conf")).collect();
    files.sort_by(|a, b| by_bytes(a, b));
    files
}

fn by_bytes(a: &str, b: &str) -> Ordering {
    a.as_bytes().cmp(b.as_bytes())
}

fn extension(name: &str) -> Option<&str> {
    let end = Path::new(name).extension()?.to_str()?;
    EXTENSIONS.contains(&end).then_some(end)
}

impl NetworkList {
    /// Reads the file `name`: a list, or one plugin, of which a list is made.
    pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        let object = object(bytes)?;
        let object = match extension(name) {
            Some("conflist") => object,
            _ if object.contains_key("plugins") && !object.contains_key("type") => object,
            _ => list_of(object),
        };
        // What tools read from the cache is a list, whatever the file was.
        let text = serde_json::to_vec(&object).map_err(|error| BadConfig(error.to_string()))?;
        Self::read(&object, text)
    }

    /// Reads a list as libcni's cache has it.
    pub(super) fn from_cache(bytes: &[u8]) -> Result<Self> {
        Self::read(&object_of_own(bytes)?, bytes.to_vec())
    }

    fn read(object: &Map<String, Value>, bytes: Vec<u8>) -> Result<Self> {
        let name = text(object, "name")?.unwrap_or_default();
        check_name("name", &name)?;
        let version = version(object)?;
        let inlined_only = flag(object, "loadOnlyInlinedPlugins")?;
        let mut list = Self {
            name,
            version,
            disable_check: flag(object, "disableCheck")?,
            disable_gc: flag(object, "disableGC")?,
            inlined_only,
            plugins: Vec::new(),
            bytes,
        };
        match object.get("plugins") {
            None if inlined_only => return bad("loadOnlyInlinedPlugins is true, and there are no plugins"),
            None => {}
            Some(Value::Array(plugins)) if plugins.is_empty() => return bad("plugins: is empty"),
            Some(Value::Array(plugins)) => {
                for (nth, plugin) in plugins.iter().enumerate() {
                    let Value::Object(plugin) = plugin else {
                        return bad(format!("plugins[{nth}]: is not an object"));
                    };
                    list.add(PluginConfig::read(plugin.clone()))
                        .map_err(|error| BadConfig(format!("plugins[{nth}]: {error}")))?;
                }
            }
            Some(_) => return bad("plugins: is not a list"),
        }
        Ok(list)
    }

    /// Adds a plugin from a file of its own, and to what the cache will have.
    pub(super) fn add_file(&mut self, bytes: &[u8]) -> Result<()> {
        let plugin = object(bytes)?;
        let mut list = object_of_own(&self.bytes)?;
        let plugins = list.entry("plugins").or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(plugins) = plugins {
            plugins.push(Value::Object(plugin.clone()));
        }
        self.add(PluginConfig::read(plugin))?;
        self.bytes = serde_json::to_vec(&list).map_err(|error| BadConfig(error.to_string()))?;
        if self.bytes.len() > LIST_BYTES_MAX {
            return bad(format!("makes a list of more than {LIST_BYTES_MAX} bytes"));
        }
        Ok(())
    }

    fn add(&mut self, plugin: Result<PluginConfig>) -> Result<()> {
        if self.plugins.len() == PLUGINS_MAX {
            return bad(format!("has more than {PLUGINS_MAX} plugins"));
        }
        self.plugins.push(plugin?);
        Ok(())
    }

    /// The names of all programs that it needs, those of address management among them, each once.
    pub(super) fn programs(&self) -> Vec<&str> {
        let mut programs = Vec::new();
        for plugin in &self.plugins {
            for program in [Some(plugin.program.as_str()), plugin.address_program()].into_iter().flatten() {
                if !programs.contains(&program) {
                    programs.push(program);
                }
            }
        }
        programs
    }

    /// Whether a plugin takes the argument `capability`.
    pub(super) fn takes(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.capabilities.iter().any(|taken| taken == capability))
    }
}

impl PluginConfig {
    fn read(object: Map<String, Value>) -> Result<Self> {
        let program = text(&object, "type")?.unwrap_or_default();
        check_name("type", &program)?;
        let capabilities = match object.get("capabilities") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(all)) => all
                .iter()
                .filter(|(_, taken)| **taken == Value::Bool(true))
                .map(|(name, _)| name.clone())
                .collect(),
            Some(_) => return bad("capabilities: is not an object"),
        };
        let plugin = Self { program, capabilities, object };
        plugin.address_program().map_or(Ok(()), |program| check_name("ipam.type", program))?;
        Ok(plugin)
    }

    /// The program to which it leaves addresses (`ipam.type`).
    fn address_program(&self) -> Option<&str> {
        self.object.get("ipam")?.get("type")?.as_str().filter(|program| !program.is_empty())
    }
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>> {
    if bytes.len() > CONFIG_BYTES_MAX {
        return bad(format!("has more than {CONFIG_BYTES_MAX} bytes"));
    }
    object_of_own(bytes)
}

/// As [`object`], of what was made here, and may have grown over the limit of one file.
fn object_of_own(bytes: &[u8]) -> Result<Map<String, Value>> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => bad("is not a JSON object"),
        Err(error) => bad(format!("is not JSON: {error}")),
    }
}

/// A file with one plugin, as the list of that one.
fn list_of(plugin: Map<String, Value>) -> Map<String, Value> {
    let mut list: Map<String, Value> = ["name", "cniVersion"]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), plugin.get(key)?.clone())))
        .collect();
    list.insert("loadOnlyInlinedPlugins".into(), true.into());
    list.insert("plugins".into(), Value::Array(vec![Value::Object(plugin)]));
    list
}

/// The newest of `cniVersion` and `cniVersions` that is spoken here.
fn version(object: &Map<String, Value>) -> Result<Version> {
    let one = text(object, "cniVersion")?.filter(|text| !text.is_empty());
    let several = match object.get("cniVersions") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(all)) => all
            .iter()
            .map(|each| {
                each.as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| BadConfig("cniVersions: has one that is no text".into()))
            })
            .collect::<Result<_>>()?,
        Some(_) => return bad("cniVersions: is not a list"),
    };
    let offered = one.into_iter().chain(several).map(|text| {
        Version::parse(&text)
            .ok_or_else(|| BadConfig(format!("cniVersion: {text:?} is not a version such as {NEWEST}")))
    });
    let offered = offered.collect::<Result<Vec<_>>>()?;
    let spoken = offered.iter().copied().filter(|version| *version <= NEWEST).max();
    match (spoken, offered.first()) {
        (Some(version), _) => Ok(version),
        (None, None) => Ok(Version::OLDEST),
        (None, Some(newer)) => {
            bad(format!("cniVersion: {newer} is newer than {NEWEST}, the newest known here"))
        }
    }
}

fn text(object: &Map<String, Value>, key: &str) -> Result<Option<String>> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => bad(format!("{key}: is not a text")),
    }
}

/// libcni takes booleans in quotes too.
fn flag(object: &Map<String, Value>, key: &str) -> Result<bool> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => bad(format!("{key}: is neither true nor false")),
    }
}

/// The specification's rule for names of networks; that for programs is stricter than it, so that no path passes.
fn check_name(key: &str, name: &str) -> Result<()> {
    if name.is_empty() {
        return bad(format!("{key}: is missing"));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let first = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if !first || !name.bytes().all(plain) || name.len() > NAME_BYTES_MAX {
        return bad(format!(
            "{key}: {name:?} has other characters than letters, digits, '_', '.' and '-', or is too long"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn list(value: &Value) -> Result<NetworkList> {
        NetworkList::parse("10-net.conflist", value.to_string().as_bytes())
    }

    #[test]
    fn the_first_by_name_counts_and_other_files_do_not() {
        for (names, expected) in [
            (&["10-b.conflist", "05-a.conf", "20.json"][..], Some("05-a.conf")),
            (&["README", "x.conflist.bak", ".conflist", "a.CONF"], None),
            (&["b.conflist", "B.conflist"], Some("B.conflist")),
            (&["10-calico.conflist", "00-multus.conf"], Some("00-multus.conf")),
            (&[], None),
        ] {
            assert_eq!(first(names.iter().copied()), expected, "{names:?}");
        }
        assert_eq!(plugin_files(["b.conf", "a.conf", "c.json", "d.conflist"]), ["a.conf", "b.conf"]);
    }

    #[test]
    fn a_list_says_which_plugins_and_what_they_take() {
        let parsed = list(&json!({
            "cniVersion": "1.0.0", "name": "pods", "disableCheck": "TRUE", "disableGC": true,
            "plugins": [
                {"type": "bridge", "ipam": {"type": "host-local"}, "capabilities": {"ips": true, "mac": false}},
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ]
        }))
        .unwrap();
        assert_eq!((parsed.name.as_str(), parsed.version), ("pods", Version(1, 0, 0)));
        assert!(parsed.disable_check && parsed.disable_gc && !parsed.inlined_only);
        assert_eq!(parsed.programs(), ["bridge", "host-local", "portmap"]);
        assert_eq!(parsed.plugins[0].capabilities, ["ips"]);
        assert!(parsed.takes("portMappings") && !parsed.takes("mac"));
        assert_eq!(NetworkList::from_cache(&parsed.bytes).unwrap(), parsed);
    }

    #[test]
    fn one_plugin_in_a_file_is_a_list_of_one() {
        let single = json!({"cniVersion": "0.3.1", "name": "pods", "type": "bridge", "mtu": 1400});
        for name in ["10.conf", "10.json"] {
            let parsed = NetworkList::parse(name, single.to_string().as_bytes()).unwrap();
            assert_eq!((parsed.version, parsed.inlined_only), (Version(0, 3, 1), true));
            assert_eq!(Value::Object(parsed.plugins[0].object.clone()), single);
            assert_eq!(NetworkList::from_cache(&parsed.bytes).unwrap().plugins, parsed.plugins);
        }
        let whole = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp"}]});
        let parsed = NetworkList::parse("10.json", whole.to_string().as_bytes()).unwrap();
        assert_eq!(parsed.programs(), ["ptp"], "a list under the name of a single plugin");
    }

    #[test]
    fn plugins_of_their_own_files_come_after_and_are_cached() {
        let mut parsed =
            list(&json!({"cniVersion": "1.1.0", "name": "pods", "plugins": [{"type": "a"}]})).unwrap();
        parsed.add_file(br#"{"type": "b", "x": 1}"#).unwrap();
        assert_eq!(parsed.programs(), ["a", "b"]);
        assert_eq!(NetworkList::from_cache(&parsed.bytes).unwrap().programs(), ["a", "b"]);
        assert_eq!(parsed.add_file(b"{}").unwrap_err().to_string(), "type: is missing");
        let large = |bytes: usize| format!("{{\"type\": \"b\", \"x\": \"{}\"}}", "x".repeat(bytes));
        parsed.add_file(large(CONFIG_BYTES_MAX - 100).as_bytes()).unwrap();
        assert_eq!(
            NetworkList::from_cache(&parsed.bytes).unwrap(),
            parsed,
            "it is larger than one file may be"
        );
        parsed.add_file(large(CONFIG_BYTES_MAX - 200).as_bytes()).unwrap();
        let error = parsed.add_file(large(CONFIG_BYTES_MAX - 100).as_bytes()).unwrap_err().to_string();
        assert!(error.contains("a list of more than 2097152 bytes"), "{error}");
        let empty = list(&json!({"name": "pods"})).unwrap();
        assert_eq!(empty.plugins, [], "they may all be in files");
    }

    #[test]
    fn the_newest_version_that_both_know_is_spoken() {
        for (versions, expected) in [
            (json!({}), "0.1.0"),
            (json!({"cniVersion": ""}), "0.1.0"),
            (json!({"cniVersion": "0.3.0"}), "0.3.0"),
            (json!({"cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0", "1.2.0"]}), "1.1.0"),
            (json!({"cniVersion": "9.0.0", "cniVersions": ["0.3.1"]}), "0.3.1"),
        ] {
            assert_eq!(version(versions.as_object().unwrap()).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        let plugins = |count: usize| json!({"name": "n", "plugins": vec![json!({"type": "a"}); count]});
        for (config, expected) in [
            (json!([]), "is not a JSON object"),
            (json!({"plugins": []}), "name: is missing"),
            (json!({"name": 1}), "name: is not a text"),
            (json!({"name": "../x", "plugins": []}), "has other characters"),
            (json!({"name": "-n", "plugins": []}), "has other characters"),
            (json!({"name": "n".repeat(129), "plugins": []}), "or is too long"),
            (json!({"name": "n", "plugins": []}), "plugins: is empty"),
            (json!({"name": "n", "plugins": {}}), "plugins: is not a list"),
            (json!({"name": "n", "plugins": [1]}), "plugins[0]: is not an object"),
            (json!({"name": "n", "plugins": [{"type": "a"}, {}]}), "plugins[1]: type: is missing"),
            (json!({"name": "n", "plugins": [{"type": "../../bin/sh"}]}), "has other characters"),
            (
                json!({"name": "n", "plugins": [{"type": "a", "ipam": {"type": "../sh"}}]}),
                "ipam.type: \"../sh\" has other characters",
            ),
            (
                json!({"name": "n", "plugins": [{"type": "a", "capabilities": 1}]}),
                "capabilities: is not an object",
            ),
            (json!({"name": "n", "loadOnlyInlinedPlugins": true}), "there are no plugins"),
            (json!({"name": "n", "disableCheck": 1}), "disableCheck: is neither true nor false"),
            (json!({"name": "n", "cniVersion": "1.2.0"}), "1.2.0 is newer than 1.1.0"),
            (json!({"name": "n", "cniVersion": "one"}), "\"one\" is not a version"),
            (json!({"name": "n", "cniVersion": "1.0.0.0"}), "is not a version"),
            (json!({"name": "n", "cniVersions": [1]}), "cniVersions: has one that is no text"),
            (plugins(33), "has more than 32 plugins"),
        ] {
            let error = list(&config).unwrap_err().to_string();
            assert!(error.contains(expected), "{config}: {error}");
        }
        assert!(list(&plugins(32)).is_ok());
        let large = vec![b' '; CONFIG_BYTES_MAX + 1];
        assert!(
            NetworkList::parse("a.conf", &large).unwrap_err().to_string().contains("more than 1048576 bytes")
        );
        assert!(NetworkList::parse("a.conf", b"{").unwrap_err().to_string().starts_with("is not JSON"));
    }

    proptest! {
        #[test]
        fn no_bytes_upset_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200), name in "[a-z.]{0,12}") {
            let _ = NetworkList::parse(&name, &bytes);
        }
    }
}
