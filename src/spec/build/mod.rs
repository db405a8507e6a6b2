//! Puts a plan together.

use std::{collections::BTreeMap, path::PathBuf};

use oci_spec::runtime::{Linux, LinuxCapabilities, Process, Root, Spec, User};

use super::{
    Error, Inputs, capability, devices, environment, mounts, security,
    selinux::{ContainerLabels, container_labels},
};
use crate::model::{ContainerPlan, Label, LogPath, ProcessPlan, Security};

/// The version of the OCI runtime spec that the field writes; libcontainer takes any 1.x.
const OCI_VERSION: &str = "1.2.0";
/// libcontainer looks a missing HOME up with the image's own libraries. The process itself gets its
/// HOME from the helper.
const SETUP_HOME: &str = "HOME=/";
/// Soft and hard limit of open files. More than 1,024 breaks programs that loop over all of them or use
/// select(2); those that need more raise the soft limit themselves.
const NOFILE: (u64, u64) = (1024, 524_288);
/// linux/oom.h.
const OOM_SCORE_ADJ_MAX: i64 = 1000;

/// Decides all that is to be decided about a container.
///
/// # Errors
/// [`Error`] names what was asked for and cannot be.
pub fn build(inputs: &Inputs<'_>) -> Result<ContainerPlan, Error> {
    let Inputs { container, image, .. } = inputs;
    let arguments = environment::arguments(container, image)?;
    // What the node's own root lacks can be given to nobody.
    let capabilities = security::capabilities(&container.security)? & inputs.held_capabilities;
    let setup = security::setup_capabilities(capabilities, inputs.held_capabilities);
    let labels = inputs.pod.selinux.as_ref();
    let labels = labels.map(|labels| container_labels(labels, &container.security, &container.namespaces));
    let host_devices = container.security.privileged && !inputs.pod.handler.privileged_without_host_devices;
    Ok(ContainerPlan {
        id: inputs.id.clone(),
        oci: oci(&container.security, setup, container.tty, &annotations(inputs))?,
        process: process(inputs, arguments, capabilities, labels.as_ref())?,
        lower: inputs.layers.lower.clone(),
        writable: inputs.writable.clone(),
        mount_label: text(labels.as_ref().map(|labels| &labels.file)),
        readonly_rootfs: container.security.readonly_rootfs,
        volumes: mounts::volumes(inputs, labels.as_ref().is_some_and(|labels| labels.relabels))?,
        devices: devices::nodes(container)?,
        device_rules: devices::rules(host_devices),
        resources: container.resources.clone(),
        pid: container.namespaces.pid.clone(),
        privileged: container.security.privileged,
        host_devices,
        log: log(inputs)?,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
    })
}

fn process(
    inputs: &Inputs<'_>,
    arguments: Vec<String>,
    capabilities: u64,
    labels: Option<&ContainerLabels>,
) -> Result<ProcessPlan, Error> {
    let Inputs { pod, container, image, .. } = inputs;
    security::check_user(&container.security)?;
    let oom_score_adj = container.resources.oom_score_adj;
    if !(-OOM_SCORE_ADJ_MAX..=OOM_SCORE_ADJ_MAX).contains(&oom_score_adj) {
        return Err(Error::OomScore { value: oom_score_adj });
    }
    Ok(ProcessPlan {
        args: arguments.into_iter().map(String::into_bytes).collect(),
        env: environment::environment(pod, container, image)?,
        cwd: environment::working_dir(container, image)?,
        user: container.security.user.clone(),
        image_user: security::image_user(&image.user)?,
        tty: container.tty,
        capabilities,
        ambient: security::ambient(&container.security, capabilities)?,
        no_new_privs: container.security.no_new_privs,
        seccomp: security::filter(&container.security, inputs.seccomp.as_ref())?,
        seccomp_flags: inputs.seccomp_flags,
        apparmor: inputs.apparmor.clone(),
        selinux: text(labels.and_then(|labels| labels.process.as_ref())),
        oom_score_adj,
        nofile: NOFILE,
    })
}

/// A label as the kernel reads it; none is empty.
fn text(label: Option<&Label>) -> String {
    label.map(Label::to_string).unwrap_or_default()
}

/// The file of the log; `None` if either half of the path is missing.
fn log(inputs: &Inputs<'_>) -> Result<Option<LogPath>, Error> {
    let (directory, path) = (&inputs.pod.log_directory, &inputs.container.log_path);
    if directory.is_empty() || path.is_empty() {
        return Ok(None);
    }
    mounts::absolute("log", &format!("{directory}/{path}"))?;
    if path.split('/').any(|part| part == "..") {
        return Err(Error::Path { what: "log", path: path.clone(), problem: "leaves the log directory" });
    }
    let file = mounts::clean(path).trim_start_matches('/').into();
    Ok(Some(LogPath { directory: mounts::clean(directory).into(), file }))
}

/// The annotations that the handler lets into the spec; those of the container win.
fn annotations<'a>(inputs: &Inputs<'a>) -> BTreeMap<&'a String, &'a String> {
    let all = inputs.pod.annotations.iter().chain(&inputs.container.annotations);
    all.filter(|(key, _)| inputs.pod.handler.allows_annotation(key)).collect()
}

/// The spec for libcontainer. Every field is set or cleared by name, since the types come with defaults
/// of their own: a filter, limits or namespaces that got in that way would go unseen.
fn oci(
    security: &Security,
    setup: u64,
    tty: bool,
    annotations: &BTreeMap<&String, &String>,
) -> Result<Vec<u8>, Error> {
    let mut process = Process::default();
    process
        .set_terminal(Some(tty))
        .set_console_size(None)
        .set_user(User::default())
        // libcontainer executes nothing: `ProcessPlan` has the arguments, and each would travel twice.
        .set_args(Some(vec!["init".into()]))
        .set_command_line(None)
        .set_env(Some(vec![environment::PATH_DEFAULT.into(), SETUP_HOME.into()]))
        .set_cwd("/".into())
        .set_capabilities(Some(LinuxCapabilities::default()))
        .set_rlimits(None)
        .set_no_new_privileges(None)
        .set_apparmor_profile(None)
        .set_oom_score_adj(None)
        .set_selinux_label(None)
        .set_io_priority(None)
        .set_scheduler(None)
        .set_exec_cpu_affinity(None);

    let (masked, readonly) = security::hidden_paths(security)?;
    let mut linux = Linux::default();
    linux
        .set_net_devices(None)
        .set_uid_mappings(None)
        .set_gid_mappings(None)
        .set_sysctl(None)
        .set_resources(None)
        .set_cgroups_path(None)
        .set_namespaces(None)
        .set_devices(None)
        .set_seccomp(None)
        .set_rootfs_propagation(None)
        .set_masked_paths(Some(masked))
        .set_readonly_paths(Some(readonly))
        .set_mount_label(None)
        .set_intel_rdt(None)
        .set_memory_policy(None)
        .set_personality(None)
        .set_time_offsets(None);

    let mut root = Root::default();
    root.set_path(PathBuf::new()).set_readonly(Some(false));

    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.into())
        .set_process(Some(process))
        .set_root(Some(root))
        .set_hostname(None)
        .set_domainname(None)
        .set_mounts(Some(mounts::oci(security.privileged)))
        .set_annotations(None)
        .set_linux(Some(linux))
        .set_hooks(None)
        .set_uid_mappings(None)
        .set_gid_mappings(None);

    let mut spec = serde_json::to_value(&spec).map_err(Error::Oci)?;
    if !annotations.is_empty() {
        spec["annotations"] = serde_json::json!(annotations);
    }
    // The crate keeps capabilities in hash sets, so that their order would differ from plan to plan.
    let names: Vec<_> = capability::names(setup).collect();
    spec["process"]["capabilities"] = serde_json::json!({
        "bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": [],
    });
    serde_json::to_vec(&spec).map_err(Error::Oci)
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod rules;
#[cfg(test)]
mod tests;
