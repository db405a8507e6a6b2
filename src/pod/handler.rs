//! The room's second configuration: runtime handlers, by the names that RuntimeClasses have for them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::Error;
use crate::model::{AppArmorChoice, Handler, PodConfig, Resources, SeccompChoice};

/// The handler that is always there, and that of pods without a RuntimeClass.
const DEFAULT: &str = "pintle";
/// Bytes of a handler's name: a label of DNS (Kubernetes API, `RuntimeClass.handler`).
const NAME_BYTES_MAX: usize = 63;
/// Microseconds of the period in which a quota of CPU time holds, as the kubelet sets it.
const CPU_PERIOD_US: u64 = 100_000;
/// Thousandths of a CPU in the largest overhead: more than a machine has.
const OVERHEAD_CPU_MILLIS_MAX: u64 = 1_000_000;
/// MiB in the largest overhead: 1 TiB.
const OVERHEAD_MEMORY_MIB_MAX: u64 = 1 << 20;

/// A runtime handler, by the name that a RuntimeClass has for it; `pintle` is also that of pods without a RuntimeClass.
/// Pods keep the settings that they were made with.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Program that makes its containers: `native`, which is pintle itself.
    pub executor: Executor,
    /// System call filter of containers that name none: `unconfined`, `runtime/default`, or the absolute path of a profile.
    pub seccomp: Seccomp,
    /// AppArmor profile of containers that name none: `runtime/default`, `unconfined`, or the name of a profile of the host.
    pub apparmor: AppArmor,
    /// Whether a privileged container is kept from the devices of the host that it does not ask for.
    pub privileged_without_host_devices: bool,
    /// Keys of annotations, of pods and containers, that get into the OCI spec. One that ends in `*` stands for all that
    /// begin so.
    pub allowed_annotations: Vec<String>,
    /// Thousandths of a CPU that a pod costs besides its containers, where its RuntimeClass names no overhead.
    pub overhead_cpu_millis: u64,
    /// MiB of memory that a pod costs besides its containers, where its RuntimeClass names no overhead.
    pub overhead_memory_mib: u64,
}

/// See [`Config::executor`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Executor {
    Native,
}

/// See [`Config::seccomp`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub struct Seccomp(SeccompChoice);

/// See [`Config::apparmor`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub struct AppArmor(AppArmorChoice);

impl Default for Config {
    fn default() -> Self {
        Self {
            executor: Executor::Native,
            seccomp: Seccomp(SeccompChoice::Unconfined),
            apparmor: AppArmor(AppArmorChoice::RuntimeDefault),
            privileged_without_host_devices: false,
            allowed_annotations: vec![],
            overhead_cpu_millis: 0,
            overhead_memory_mib: 0,
        }
    }
}

impl TryFrom<String> for Seccomp {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "unconfined" => Ok(Self(SeccompChoice::Unconfined)),
            "runtime/default" => Ok(Self(SeccompChoice::RuntimeDefault)),
            path if path.starts_with('/') => Ok(Self(SeccompChoice::Localhost(text))),
            _ => Err(format!("{text:?} is neither unconfined, runtime/default nor an absolute path")),
        }
    }
}

impl TryFrom<String> for AppArmor {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "unconfined" => Ok(Self(AppArmorChoice::Unconfined)),
            "runtime/default" => Ok(Self(AppArmorChoice::RuntimeDefault)),
            "" => Err("it names no profile".into()),
            _ if text.contains(char::is_control) => Err(format!("{text:?} has control characters")),
            _ => Ok(Self(AppArmorChoice::Localhost(text))),
        }
    }
}

impl Config {
    fn settings(&self) -> Handler {
        match self.executor {
            Executor::Native => Handler {
                seccomp: self.seccomp.0.clone(),
                apparmor: self.apparmor.0.clone(),
                privileged_without_host_devices: self.privileged_without_host_devices,
                allowed_annotations: self.allowed_annotations.clone(),
            },
        }
    }

    /// `None` if nothing is configured.
    fn overhead(&self) -> Option<Resources> {
        let Self { overhead_cpu_millis: millis, overhead_memory_mib: mib, .. } = *self;
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        (millis > 0 || mib > 0).then(|| Resources {
            cpu_period_us: if millis > 0 { CPU_PERIOD_US } else { 0 },
            cpu_quota_us: signed(millis * CPU_PERIOD_US / 1_000),
            cpu_shares: millis * 1_024 / 1_000,
            memory_bytes: signed(mib << 20),
            ..Resources::default()
        })
    }
}

/// All handlers by name. `pintle` is always among them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "BTreeMap<String, Config>")]
pub struct Handlers(BTreeMap<String, Config>);

impl Default for Handlers {
    fn default() -> Self {
        Self(BTreeMap::from([(DEFAULT.to_owned(), Config::default())]))
    }
}

impl TryFrom<BTreeMap<String, Config>> for Handlers {
    type Error = String;

    fn try_from(mut handlers: BTreeMap<String, Config>) -> Result<Self, String> {
        for (name, handler) in &handlers {
            let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let is_label = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(known);
            if !is_label || name.starts_with('-') || name.ends_with('-') {
                return Err(format!("handlers.{name:?}: a name is made of a to z, 0 to 9 and \"-\""));
            }
            if handler.overhead_cpu_millis > OVERHEAD_CPU_MILLIS_MAX
                || handler.overhead_memory_mib > OVERHEAD_MEMORY_MIB_MAX
            {
                return Err(format!("handlers.{name}: the overhead is more than any machine has"));
            }
        }
        handlers.entry(DEFAULT.into()).or_default();
        Ok(Self(handlers))
    }
}

impl Handlers {
    /// The names by which pods may ask for them; the empty one means `pintle`.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// Gives a pod that is to be made the settings of its handler.
    ///
    /// # Errors
    /// [`Error::UnknownHandler`], with those that there are.
    pub(super) fn settle(&self, pod: &mut PodConfig) -> Result<(), Error> {
        let name = if pod.runtime_handler.is_empty() { DEFAULT } else { &pod.runtime_handler };
        let Some(handler) = self.0.get(name) else {
            return Err(Error::UnknownHandler { name: name.into(), known: self.names().join(", ") });
        };
        pod.handler = handler.settings();
        // A kubelet sends an empty one for a pod without overhead.
        if pod.overhead.as_ref().is_none_or(|overhead| *overhead == Resources::default()) {
            pod.overhead = handler.overhead().or(pod.overhead.take());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handlers(toml: &str) -> Result<Handlers, String> {
        toml::from_str(toml).map_err(|error| error.to_string())
    }

    fn settled(handlers: &Handlers, name: &str, overhead: Option<Resources>) -> Result<PodConfig, Error> {
        let mut pod = PodConfig { runtime_handler: name.into(), overhead, ..PodConfig::default() };
        handlers.settle(&mut pod).map(|()| pod)
    }

    #[test]
    fn a_pod_gets_the_settings_of_its_handler_and_the_empty_name_is_pintle() {
        let handlers = handlers(
            "[pintle]\nseccomp = 'runtime/default'\n[gpu]\nseccomp = '/etc/gpu.json'\napparmor = 'gpu'\n\
             privileged_without_host_devices = true\nallowed_annotations = ['a/*']\n",
        );
        let handlers = handlers.unwrap();
        assert_eq!(handlers.names(), ["gpu", "pintle"]);
        for name in ["", "pintle"] {
            let pod = settled(&handlers, name, None).unwrap();
            assert_eq!(pod.runtime_handler, name);
            assert_eq!(pod.handler.seccomp, SeccompChoice::RuntimeDefault);
            assert_eq!(pod.handler.apparmor, AppArmorChoice::RuntimeDefault);
        }
        let expected = Handler {
            seccomp: SeccompChoice::Localhost("/etc/gpu.json".into()),
            apparmor: AppArmorChoice::Localhost("gpu".into()),
            privileged_without_host_devices: true,
            allowed_annotations: vec!["a/*".into()],
        };
        assert_eq!(settled(&handlers, "gpu", None).unwrap().handler, expected);
    }

    #[test]
    fn an_unknown_handler_is_an_error_that_names_those_there_are() {
        let refused = settled(&handlers("[gpu]").unwrap(), "runc", None).unwrap_err();
        assert_eq!(refused.to_string(), "unknown runtime handler \"runc\"; there are gpu, pintle");
        assert_eq!(settled(&Handlers::default(), "", None).unwrap().handler, Config::default().settings());
    }

    #[test]
    fn the_overhead_is_that_of_the_runtime_class_and_else_the_handlers() {
        let handlers = handlers("[vm]\noverhead_cpu_millis = 250\noverhead_memory_mib = 64").unwrap();
        let ours = Resources {
            cpu_period_us: 100_000,
            cpu_quota_us: 25_000,
            cpu_shares: 256,
            memory_bytes: 64 << 20,
            ..Resources::default()
        };
        let asked = Resources { memory_bytes: 5, ..Resources::default() };
        for (overhead, name, expected) in [
            (None, "vm", Some(&ours)),
            (Some(Resources::default()), "vm", Some(&ours)),
            (Some(asked.clone()), "vm", Some(&asked)),
            (None, "pintle", None),
            (Some(Resources::default()), "pintle", Some(&Resources::default())),
        ] {
            assert_eq!(settled(&handlers, name, overhead).unwrap().overhead.as_ref(), expected, "{name}");
        }
    }

    #[test]
    fn a_handler_that_cannot_be_is_refused_with_its_name() {
        for (toml, words) in [
            ("[UPPER]", "UPPER"),
            ("['']", "made of a to z"),
            ("[-a]", "-a"),
            ("[a]\nexecutor = 'runc'", "native"),
            ("[a]\nseccomp = 'profile.json'", "profile.json"),
            ("[a]\napparmor = ''", "names no profile"),
            ("[a]\nruntime = 'native'", "unknown field `runtime`"),
            ("[a]\noverhead_memory_mib = 1048577", "more than any machine has"),
        ] {
            let problem = handlers(toml).unwrap_err();
            assert!(problem.contains(words), "{toml}: {problem}");
        }
        assert!(handlers(&format!("[{}]", "a".repeat(NAME_BYTES_MAX + 1))).is_err());
    }
}
