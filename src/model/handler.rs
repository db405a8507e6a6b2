//! Runtime handlers: settings that a pod's RuntimeClass chooses.

use serde::{Deserialize, Serialize};

use super::{AppArmorChoice, SeccompChoice, Security};

/// The settings of a runtime handler, as they were when the pod was made: a later configuration changes no pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Handler {
    /// The filter of a container that names none.
    pub seccomp: SeccompChoice,
    /// The AppArmor profile of a container that names none.
    pub apparmor: AppArmorChoice,
    /// Whether a privileged container has only the devices that every container has, and those that it asks for.
    pub privileged_without_host_devices: bool,
    /// Keys of annotations that get into the OCI spec; one that ends in `*` stands for all that begin so.
    pub allowed_annotations: Vec<String>,
}

impl Handler {
    /// Decides what the request for a container has left to the handler.
    pub fn complete(&self, security: &mut Security) {
        if security.seccomp == SeccompChoice::Unsaid && !security.privileged {
            security.seccomp = self.seccomp.clone();
        }
        if security.apparmor == AppArmorChoice::Unsaid && !security.privileged {
            security.apparmor = self.apparmor.clone();
        }
    }

    /// Whether an annotation with this key gets into the OCI spec.
    pub fn allows_annotation(&self, key: &str) -> bool {
        self.allowed_annotations.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(prefix) => key.starts_with(prefix),
            None => key == allowed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_decides_only_what_a_container_has_left_open() {
        let handler = Handler {
            seccomp: SeccompChoice::RuntimeDefault,
            apparmor: AppArmorChoice::Localhost("web".into()),
            ..Handler::default()
        };
        let completed = |mut security: Security| {
            handler.complete(&mut security);
            (security.seccomp, security.apparmor)
        };
        let given = (handler.seccomp.clone(), handler.apparmor.clone());
        assert_eq!(completed(Security::default()), given);
        let asked = Security {
            seccomp: SeccompChoice::Unconfined,
            apparmor: AppArmorChoice::RuntimeDefault,
            ..Security::default()
        };
        assert_eq!(completed(asked.clone()), (asked.seccomp, asked.apparmor));
        let privileged = Security { privileged: true, ..Security::default() };
        assert_eq!(completed(privileged), (SeccompChoice::Unsaid, AppArmorChoice::Unsaid));
    }

    #[test]
    fn an_annotation_is_allowed_by_its_key_or_its_beginning() {
        let allowed_annotations = vec!["a.io/exact".into(), "b.io/*".into()];
        let handler = Handler { allowed_annotations, ..Handler::default() };
        for (key, allowed) in [
            ("a.io/exact", true),
            ("a.io/exactly", false),
            ("b.io/x", true),
            ("x.b.io/x", false),
            ("b.i", false),
            ("", false),
        ] {
            assert_eq!(handler.allows_annotation(key), allowed, "{key}");
        }
        assert!(!Handler::default().allows_annotation("b.io/x"));
    }
}
