//! What a plugin is given: its environment and its standard input, for each verb. Pure.

use serde::Serialize;
use serde_json::{Map, Value};

use super::config::{NEWEST, NetworkList, PluginConfig, WITH_CHECK};

/// Where a plugin finds programs of its own, such as iptables.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a plugin may be asked for (`CNI_COMMAND`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// One call of one plugin.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Invocation {
    /// The name of the program, to be looked for in the folders of plugins.
    pub(super) program: String,
    pub(super) verb: Verb,
    /// All of it: nothing of the daemon's own environment.
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) stdin: Vec<u8>,
}

/// The pod that plugins are asked about. Kept with its attachment: DEL gets what ADD got.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Subject {
    /// The pod's id (`CNI_CONTAINERID`).
    pub(super) container: String,
    /// Path of the pod's network namespace; empty when it is gone.
    pub(super) netns: String,
    /// The pod's interface (`CNI_IFNAME`).
    pub(super) interface: String,
    /// In their order (`CNI_ARGS`).
    pub(super) args: Vec<(String, String)>,
    /// By capability (`runtimeConfig`); a plugin gets those that it takes.
    pub(super) capabilities: Map<String, Value>,
}

/// An attachment that GC has to leave alone.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Valid {
    #[serde(rename = "containerID")]
    pub(super) container: String,
    #[serde(rename = "ifname")]
    pub(super) interface: String,
}

/// The folders of plugins, as `CNI_PATH` has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Folders<'a>(pub(super) &'a str);

/// ADD, DEL or CHECK. `previous`: for ADD the result of the plugin before, for the others that of the whole list.
pub(super) fn for_pod(
    verb: Verb,
    list: &NetworkList,
    plugin: &PluginConfig,
    subject: &Subject,
    previous: Option<&Value>,
    folders: Folders<'_>,
) -> Invocation {
    let mut stdin = of_list(list, plugin);
    if let Some(previous) = previous.filter(|_| verb == Verb::Add || list.version >= WITH_CHECK) {
        stdin.insert("prevResult".into(), previous.clone());
    }
    let taken = |(capability, _): &(&String, &Value)| plugin.capabilities.contains(capability);
    let runtime: Map<String, Value> = subject
        .capabilities
        .iter()
        .filter(taken)
        .map(|(capability, argument)| (capability.clone(), argument.clone()))
        .collect();
    if !runtime.is_empty() {
        stdin.insert("runtimeConfig".into(), Value::Object(runtime));
    }
    let args: Vec<String> = subject.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut environment = environment(verb, folders);
    environment.extend([
        ("CNI_CONTAINERID", subject.container.clone()),
        ("CNI_NETNS", subject.netns.clone()),
        ("CNI_IFNAME", subject.interface.clone()),
        ("CNI_ARGS", args.join(";")),
    ]);
    invocation(verb, plugin, environment, stdin)
}

/// STATUS: whether the plugin could serve an ADD.
pub(super) fn for_status(list: &NetworkList, plugin: &PluginConfig, folders: Folders<'_>) -> Invocation {
    invocation(Verb::Status, plugin, environment(Verb::Status, folders), of_list(list, plugin))
}

/// GC: all that is not for one of `valid` may go.
pub(super) fn for_gc(
    list: &NetworkList,
    plugin: &PluginConfig,
    valid: &[Valid],
    folders: Folders<'_>,
) -> Invocation {
    let mut stdin = of_list(list, plugin);
    let valid = serde_json::to_value(valid).unwrap_or_default();
    stdin.insert("cni.dev/valid-attachments".into(), valid);
    invocation(Verb::Gc, plugin, environment(Verb::Gc, folders), stdin)
}

/// VERSION: which versions the program knows.
pub(super) fn for_version(program: &str, folders: Folders<'_>) -> Invocation {
    Invocation {
        program: program.into(),
        verb: Verb::Version,
        environment: environment(Verb::Version, folders),
        stdin: format!("{{\"cniVersion\":\"{NEWEST}\"}}").into_bytes(),
    }
}

/// Whether `text` may be a value in `CNI_ARGS`, in which nothing can be quoted.
pub(super) fn is_argument(text: &str) -> bool {
    !text.contains([';', '=']) && !text.contains(char::is_control)
}

/// The plugin's own configuration, under the name and version of the list.
fn of_list(list: &NetworkList, plugin: &PluginConfig) -> Map<String, Value> {
    let mut object = plugin.object.clone();
    object.insert("name".into(), list.name.clone().into());
    object.insert("cniVersion".into(), list.version.to_string().into());
    object
}

fn environment(verb: Verb, folders: Folders<'_>) -> Vec<(&'static str, String)> {
    vec![("CNI_COMMAND", verb.as_str().into()), ("CNI_PATH", folders.0.into()), ("PATH", PATH.into())]
}

fn invocation(
    verb: Verb,
    plugin: &PluginConfig,
    environment: Vec<(&'static str, String)>,
    stdin: Map<String, Value>,
) -> Invocation {
    let stdin = Value::Object(stdin).to_string().into_bytes();
    Invocation { program: plugin.program.clone(), verb, environment, stdin }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FOLDERS: Folders<'_> = Folders("/opt/cni/bin:/usr/lib/cni");

    fn list(version: &str) -> NetworkList {
        let text = json!({"cniVersion": version, "name": "pods", "plugins": [
            {"type": "bridge", "name": "ignored", "mtu": 1400},
            {"type": "portmap", "capabilities": {"portMappings": true, "bandwidth": false}},
        ]});
        NetworkList::parse("a.conflist", text.to_string().as_bytes()).unwrap()
    }

    fn subject() -> Subject {
        let capabilities =
            json!({"portMappings": [{"hostPort": 80}], "bandwidth": {"ingressRate": 1}, "dns": {}});
        Subject {
            container: "abc".into(),
            netns: "/run/netns/x".into(),
            interface: "eth0".into(),
            args: vec![("IgnoreUnknown".into(), "1".into()), ("K8S_POD_NAME".into(), "web".into())],
            capabilities: capabilities.as_object().unwrap().clone(),
        }
    }

    fn stdin(invocation: &Invocation) -> Value {
        serde_json::from_slice(&invocation.stdin).unwrap()
    }

    #[test]
    fn a_plugin_gets_its_configuration_what_it_takes_and_what_came_before() {
        let (list, subject) = (list("1.0.0"), subject());
        let first = for_pod(Verb::Add, &list, &list.plugins[0], &subject, None, FOLDERS);
        assert_eq!(
            stdin(&first),
            json!({"type": "bridge", "name": "pods", "cniVersion": "1.0.0", "mtu": 1400})
        );
        let previous = json!({"ips": [], "unknown": {"kept": true}});
        let second = for_pod(Verb::Add, &list, &list.plugins[1], &subject, Some(&previous), FOLDERS);
        assert_eq!(
            stdin(&second),
            json!({"type": "portmap", "name": "pods", "cniVersion": "1.0.0", "prevResult": previous,
                "capabilities": {"portMappings": true, "bandwidth": false},
                "runtimeConfig": {"portMappings": [{"hostPort": 80}]}})
        );
        assert_eq!((second.program.as_str(), second.verb), ("portmap", Verb::Add));
        let expected = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
            ("PATH", PATH),
            ("CNI_CONTAINERID", "abc"),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web"),
        ];
        assert_eq!(second.environment, expected.map(|(key, value)| (key, value.to_owned())));
    }

    #[test]
    fn before_check_was_there_only_add_gets_a_previous_result() {
        for (version, verb, expected) in [
            ("0.3.1", Verb::Add, true),
            ("0.3.1", Verb::Del, false),
            ("0.4.0", Verb::Del, true),
            ("1.1.0", Verb::Check, true),
        ] {
            let list = list(version);
            let call = for_pod(verb, &list, &list.plugins[0], &subject(), Some(&json!({})), FOLDERS);
            assert_eq!(stdin(&call).get("prevResult").is_some(), expected, "{version} {verb:?}");
        }
    }

    #[test]
    fn what_is_not_about_a_pod_names_none() {
        let list = list("1.1.0");
        let valid = [Valid { container: "abc".into(), interface: "eth0".into() }];
        let gc = for_gc(&list, &list.plugins[0], &valid, FOLDERS);
        let expected = json!([{"containerID": "abc", "ifname": "eth0"}]);
        assert_eq!(stdin(&gc)["cni.dev/valid-attachments"], expected);
        let status = for_status(&list, &list.plugins[0], FOLDERS);
        let version = for_version("bridge", FOLDERS);
        assert_eq!(stdin(&version), json!({"cniVersion": "1.1.0"}));
        for (call, command) in [(gc, "GC"), (status, "STATUS"), (version, "VERSION")] {
            let names: Vec<_> = call.environment.iter().map(|(name, _)| *name).collect();
            assert_eq!(
                (names, call.environment[0].1.as_str()),
                (vec!["CNI_COMMAND", "CNI_PATH", "PATH"], command)
            );
        }
    }

    #[test]
    fn a_value_that_would_end_an_argument_is_none() {
        for (text, fits) in [
            ("web-0", true),
            ("", true),
            ("a;b", false),
            ("a;K8S_POD_NAME=b", false),
            ("a=b", false),
            ("a\nb", false),
        ] {
            assert_eq!(is_argument(text), fits, "{text:?}");
        }
    }
}
