//! Which labels of SELinux the processes and files of pods and containers get.

use crate::model::{IpcMode, Label, LabelParts, Level, NamespaceModes, PidMode, PodLabels, Security};

/// The type of processes that the policy keeps from nothing: what containers run as that are not kept from the host.
const UNCONFINED: &str = "spc_t";

/// The labels that a policy has for containers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SelinuxContexts {
    process: Label,
    file: Label,
    /// `None`: the policy has no type for containers that are kept from nothing.
    unconfined: Option<Label>,
}

impl SelinuxContexts {
    /// The label of processes that are kept from nothing, which a policy need not know.
    pub fn unconfined(&self) -> Option<&Label> {
        self.unconfined.as_ref()
    }

    /// The labels of a policy that does not know the one of processes that are kept from nothing.
    #[must_use]
    pub fn without_unconfined(self) -> Self {
        Self { unconfined: None, ..self }
    }
}

/// The labels of one container of a pod that has some.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ContainerLabels {
    /// Of its init and of what is executed in it; `None`: as the policy has it for programs that pintle executes.
    pub process: Option<Label>,
    /// Of its root and of what is mounted for it alone.
    pub file: Label,
    /// Whether the volumes get `file` that are to be relabelled: whoever is kept from nothing needs that on none.
    pub relabels: bool,
}

/// The name of the policy that the host has loaded, as `/etc/selinux/config` says (selinux_config(5)).
pub fn selinux_policy(config: &str) -> Option<&str> {
    let lines = config.lines().map(str::trim);
    let name = lines.filter_map(|line| line.strip_prefix("SELINUXTYPE=")).next_back()?.trim();
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    plain.then_some(name)
}

/// The labels in a policy's file `contexts/lxc_contexts` (package container-selinux): `KEY = "LABEL"` lines, of which
/// `process` and `file` are used.
///
/// # Errors
/// The line that is missing or has no label.
pub fn selinux_contexts(text: &str) -> Result<SelinuxContexts, String> {
    let find = |wanted: &str| -> Result<Label, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
        let mut pairs = lines.filter_map(|line| line.split_once('='));
        let (_, value) = pairs
            .find(|(key, _)| key.trim() == wanted)
            .ok_or_else(|| format!("it has no line {wanted:?}"))?;
        let value = value.trim().trim_matches('"');
        value.parse().map_err(|error| format!("{wanted}: {error}"))
    };
    let process = find("process")?;
    let unconfined = Some(Label { kind: UNCONFINED.into(), ..process.clone() });
    Ok(SelinuxContexts { process, file: find("file")?, unconfined })
}

/// The labels of a pod; `parts`: what it asks for, `own`: the level that is its alone, for one that asks for none.
pub fn pod_labels(contexts: &SelinuxContexts, parts: &LabelParts, own: Option<Level>) -> PodLabels {
    let level = own.filter(|_| parts.level.is_none());
    let leveled = |label: &Label| match (&level, &label.level) {
        // A policy without levels knows none.
        (Some(level), Some(_)) => Label { level: Some(level.clone()), ..label.clone() },
        _ => label.clone(),
    };
    PodLabels {
        process: leveled(&contexts.process).with(parts),
        unconfined: contexts.unconfined.clone().map(|label| label.with(parts)),
        file: leveled(&contexts.file).with(&of_files(parts)),
    }
}

/// The labels of a container of a pod that has `pod`. A container that is privileged, or among the processes or messages
/// of the host, is kept from nothing, unless it asks for a type.
pub fn container_labels(
    pod: &PodLabels,
    security: &Security,
    namespaces: &NamespaceModes,
) -> ContainerLabels {
    let shares_host = namespaces.pid == PidMode::Node || namespaces.ipc == IpcMode::Node;
    let base = if security.privileged || shares_host { pod.unconfined.as_ref() } else { Some(&pod.process) };
    let process = base.map(|base| base.clone().with(&security.selinux));
    ContainerLabels {
        relabels: process.as_ref().is_some_and(|process| process.kind != UNCONFINED),
        file: pod.file.clone().with(&of_files(&security.selinux)),
        process,
    }
}

/// The parts of a process's label that its files have too: role and type are of other kinds there.
fn of_files(parts: &LabelParts) -> LabelParts {
    LabelParts { user: parts.user.clone(), level: parts.level.clone(), ..LabelParts::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# of the policy\nprocess = \"system_u:system_r:container_t:s0\"\ncontent = \"x\"\n\
                        file = \"system_u:object_r:container_file_t:s0\"\nro_file=\"a:b:c:s0\"\n";

    fn contexts() -> SelinuxContexts {
        selinux_contexts(TEXT).unwrap()
    }

    fn level(text: &str) -> Option<Level> {
        text.parse().ok()
    }

    fn pod(parts: &LabelParts) -> PodLabels {
        pod_labels(&contexts(), parts, level("s0:c1,c2"))
    }

    fn labels(pod: &PodLabels, security: &Security, namespaces: &NamespaceModes) -> (String, String, bool) {
        let labels = container_labels(pod, security, namespaces);
        let process = labels.process.map(|label| label.to_string()).unwrap_or_default();
        (process, labels.file.to_string(), labels.relabels)
    }

    #[test]
    fn the_hosts_policy_is_the_last_one_that_its_file_names() {
        let config = "# SELINUXTYPE=mls\nSELINUX=enforcing\nSELINUXTYPE=minimum\n SELINUXTYPE=targeted \n";
        assert_eq!(selinux_policy(config), Some("targeted"));
        for bad in
            ["", "SELINUX=enforcing", "SELINUXTYPE=", "SELINUXTYPE=../x", "SELINUXTYPE=a/b", "SELINUXTYPE=.."]
        {
            assert_eq!(selinux_policy(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_file_without_a_label_is_refused_by_its_line() {
        assert_eq!(contexts().process.to_string(), "system_u:system_r:container_t:s0");
        assert_eq!(selinux_contexts("file=\"u:r:t\""), Err("it has no line \"process\"".into()));
        let bad = selinux_contexts("process=\"u\"\nfile=\"u:r:t\"").unwrap_err();
        assert!(bad.contains("process") && bad.contains("\"u\""), "{bad}");
    }

    #[test]
    fn containers_of_a_pod_have_its_level() {
        let (plain, namespaces) = (Security::default(), NamespaceModes::default());
        let process = "system_u:system_r:container_t:s0:c1,c2".to_owned();
        let file = "system_u:object_r:container_file_t:s0:c1,c2".to_owned();
        let own = pod(&LabelParts::default());
        assert_eq!(labels(&own, &plain, &namespaces), (process, file, true));

        let asked = LabelParts { level: level("s0:c7"), kind: "web_t".into(), ..LabelParts::default() };
        let process = "system_u:system_r:web_t:s0:c7".to_owned();
        let file = "system_u:object_r:container_file_t:s0:c7".to_owned();
        assert_eq!(labels(&pod(&asked), &plain, &namespaces), (process, file, true));
    }

    #[test]
    fn what_a_container_asks_for_completes_the_labels_of_its_pod() {
        let asks = |selinux| Security { selinux, ..Security::default() };
        let namespaces = NamespaceModes::default();
        let own = pod(&LabelParts::default());
        let (process, file, _) =
            labels(&own, &asks(LabelParts { level: level("s0:c9"), ..Default::default() }), &namespaces);
        assert_eq!(
            (process.as_str(), file.as_str()),
            ("system_u:system_r:container_t:s0:c9", "system_u:object_r:container_file_t:s0:c9",)
        );
        let all = LabelParts { user: "u".into(), role: "r".into(), kind: "t".into(), level: None };
        let (process, file, _) = labels(&own, &asks(all), &namespaces);
        assert_eq!(
            (process.as_str(), file.as_str()),
            ("u:r:t:s0:c1,c2", "u:object_r:container_file_t:s0:c1,c2")
        );
    }

    #[test]
    fn who_is_not_kept_from_the_host_is_kept_from_nothing_unless_it_names_a_type() {
        let own = pod(&LabelParts::default());
        let (plain, privileged) = (Security::default(), Security { privileged: true, ..Security::default() });
        let host_pid = NamespaceModes { pid: PidMode::Node, ..NamespaceModes::default() };
        let host_ipc = NamespaceModes { ipc: IpcMode::Node, ..NamespaceModes::default() };
        let file = "system_u:object_r:container_file_t:s0:c1,c2".to_owned();
        for (security, namespaces) in
            [(&privileged, &NamespaceModes::default()), (&plain, &host_pid), (&plain, &host_ipc)]
        {
            let expected = ("system_u:system_r:spc_t:s0".to_owned(), file.clone(), false);
            assert_eq!(labels(&own, security, namespaces), expected);
        }
        let typed = Security {
            selinux: LabelParts { kind: "container_t".into(), ..LabelParts::default() },
            ..privileged.clone()
        };
        assert_eq!(labels(&own, &typed, &host_pid).0, "system_u:system_r:container_t:s0");
        let unknown = pod_labels(&contexts().without_unconfined(), &LabelParts::default(), None);
        let privileged = Security { privileged: true, ..Security::default() };
        assert_eq!(labels(&unknown, &privileged, &NamespaceModes::default()).0, "", "as the policy has it");
        let named =
            Security { selinux: LabelParts { kind: "spc_t".into(), ..LabelParts::default() }, ..plain };
        assert!(!labels(&own, &named, &NamespaceModes::default()).2, "spc_t by name");
    }

    #[test]
    fn a_policy_without_levels_gets_none() {
        let contexts = selinux_contexts("process = u:r:t\nfile = u:o:f\n").unwrap();
        let labels = pod_labels(&contexts, &LabelParts::default(), level("s0:c1,c2"));
        assert_eq!((labels.process.to_string(), labels.file.to_string()), ("u:r:t".into(), "u:o:f".into()));
    }
}
