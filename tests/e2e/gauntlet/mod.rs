//! The gauntlet: the public holes of other container runtimes, tried on ours.
//!
//! `docs/gauntlet.md` has a row for each, with the id that the stories here begin with, and names the story or
//! unit test that holds it; `cargo xtask gauntlet` runs them all. What an attack must not reach is a [`Canary`].

mod api;
mod canary;
mod cgroup;
mod files;
mod identity;
mod image;
mod kernel;
mod rootfs;

use api::{g_07_bind, g_10_reset_storm, g_11_sockets, g_13_ids};
use canary::Canary;
use cgroup::{b_11_user_namespace_cgroup, c_01_sysctls, c_02_annotations, c_05_supervisor_cgroup};
use files::{
    h_01_log_path, h_04_pipe_as_volume, h_05_log_injection, k_01_modes, k_01_umask, k_03_temporary_files,
};
use identity::{
    b_01_image_user, b_01_uid_overflow, b_03_exec_user, b_04_capabilities, b_05_group_policies, b_05_groups,
    b_07_passwd_injection, b_10_seccomp_empty, b_12_no_new_privs, b_13_same_user_again,
};
use image::{f_03_working_directory, f_04_links_in_etc, f_06_programs_of_the_image, f_09_image_volume};
use kernel::{
    a_10_cgroup, a_11_masked_paths, a_14_namespaces, a_14_system_calls, a_15_socketcall, a_16_terminal,
};
use rootfs::{
    a_01_dev_symlink, a_03_dev_null, a_03_given_device, a_03_volume_over_dev, a_04_fd_leak, a_04_listen_fds,
    a_05_self_exe, a_07_mount_destination, a_07_mount_race, a_08_mount_source,
};

use crate::harness::{BUSYBOX, Container, Pod, runner::tests, v1};

tests![
    a_01_dev_symlink,
    a_03_dev_null,
    a_03_given_device,
    a_03_volume_over_dev,
    a_04_fd_leak,
    a_04_listen_fds,
    a_05_self_exe,
    a_07_mount_destination,
    a_07_mount_race,
    a_08_mount_source,
    a_10_cgroup,
    a_11_masked_paths,
    a_14_namespaces,
    a_14_system_calls,
    a_15_socketcall,
    a_16_terminal,
    b_01_uid_overflow,
    b_01_image_user,
    b_03_exec_user,
    b_04_capabilities,
    b_05_groups,
    b_05_group_policies,
    b_07_passwd_injection,
    b_10_seccomp_empty,
    b_11_user_namespace_cgroup,
    b_12_no_new_privs,
    b_13_same_user_again,
    c_01_sysctls,
    c_02_annotations,
    c_05_supervisor_cgroup,
    f_03_working_directory,
    f_04_links_in_etc,
    f_06_programs_of_the_image,
    f_09_image_volume,
    g_07_bind,
    g_10_reset_storm,
    g_11_sockets,
    g_13_ids,
    h_01_log_path,
    h_04_pipe_as_volume,
    h_05_log_injection,
    k_01_modes,
    k_01_umask,
    k_03_temporary_files,
];

fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// A started container whose config `change` decides.
fn run_with<'n>(pod: &Pod<'n>, name: &str, change: impl FnOnce(&mut v1::ContainerConfig)) -> Container<'n> {
    let container = pod.create_with(name, BUSYBOX, ["sleep", "1000"], change);
    container.start();
    container
}

/// Whether a container with this config can be created and started.
fn starts(pod: &Pod<'_>, name: &str, change: impl FnOnce(&mut v1::ContainerConfig)) -> bool {
    let created = pod.try_create(name, BUSYBOX, ["sleep", "1000"], change);
    created.is_ok_and(|container| {
        let started = container.try_start().is_ok();
        container.remove();
        started
    })
}

/// A line of `/proc/<pid>/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap_or_default().trim()
}

fn number(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

fn bind(container_path: &str, host_path: &str) -> v1::Mount {
    v1::Mount { container_path: container_path.into(), host_path: host_path.into(), ..Default::default() }
}
