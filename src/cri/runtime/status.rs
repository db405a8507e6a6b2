//! Version, Status, UpdateRuntimeConfig and RuntimeConfig.

use std::collections::HashMap;

use serde_json::json;
use tonic::Status;

use super::RuntimeService;
use crate::{
    cgroup::Driver,
    cri::{Node, code, parse, wire},
    network,
    pod::{self, Report, StorageFault, View},
    telemetry::log,
};

/// Version of the kubelet's API to runtimes, unchanged since its beginning.
const KUBELET_API_VERSION: &str = "0.1.0";
const RUNTIME_NAME: &str = "pintle";
/// The package that api.proto declares, without "runtime.".
const RUNTIME_API_VERSION: &str = "v1";

impl RuntimeService {
    pub(super) async fn version(
        &self,
        _request: wire::VersionRequest,
    ) -> Result<wire::VersionResponse, Status> {
        Ok(version(&self.node))
    }

    pub(super) async fn status(&self, request: wire::StatusRequest) -> Result<wire::StatusResponse, Status> {
        let (storage, network) = (self.pods.storage_ready().await, self.pods.network_ready().await);
        let info = if request.verbose {
            let report = self.pods.report();
            let mut info = info(&self.node, &self.pods.view(), self.pods.cgroup_notice(), &report);
            // The names that containerd has for them: tools look for these.
            if let Some((config, status)) = self.pods.cni_info() {
                info.insert("cniconfig".into(), config.to_string());
                info.insert("lastCNILoadStatus".into(), status);
            }
            info
        } else {
            HashMap::new()
        };
        Ok(status(&self.node, storage, network, info))
    }

    pub(super) async fn runtime_config(
        &self,
        _request: wire::RuntimeConfigRequest,
    ) -> Result<wire::RuntimeConfigResponse, Status> {
        Ok(runtime_config(&self.node))
    }

    pub(super) async fn update_runtime_config(
        &self,
        request: wire::UpdateRuntimeConfigRequest,
    ) -> Result<wire::UpdateRuntimeConfigResponse, Status> {
        let ranges = parse::pod_cidrs(request.runtime_config).map_err(code::of)?;
        self.pods.set_pod_ranges(ranges).await.map_err(|error| code::of(pod::Error::from(error)))?;
        Ok(wire::UpdateRuntimeConfigResponse {})
    }
}

fn version(node: &Node) -> wire::VersionResponse {
    wire::VersionResponse {
        version: KUBELET_API_VERSION.into(),
        runtime_name: RUNTIME_NAME.into(),
        runtime_version: node.runtime_version.clone(),
        runtime_api_version: RUNTIME_API_VERSION.into(),
    }
}

fn status(
    node: &Node,
    storage: Result<(), StorageFault>,
    network: Result<(), network::Error>,
    info: HashMap<String, String>,
) -> wire::StatusResponse {
    let runtime =
        condition("RuntimeReady", storage.err().map(|fault| ("StorageNotReady", code::chain(&fault))));
    // The word that the kubelet's own messages use for this state.
    let network = network.err().map(|fault| ("NetworkPluginNotReady", code::chain(&fault)));
    let network = condition("NetworkReady", network);
    wire::StatusResponse {
        status: Some(wire::RuntimeStatus { conditions: vec![runtime, network] }),
        info,
        runtime_handlers: handlers(&node.runtime_handlers, node.user_namespaces),
        features: Some(wire::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: node.user_namespaces,
            mount_options: true,
        }),
    }
}

/// The default handler, which goes by the empty name, and each that is configured. The kubelet refuses what needs a
/// feature to pods of a handler that is not listed with it.
fn handlers(configured: &[String], user_namespaces: bool) -> Vec<wire::RuntimeHandler> {
    let mut names = vec![""];
    for name in configured {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let features = wire::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces };
    names.iter().map(|&name| wire::RuntimeHandler { name: name.into(), features: Some(features) }).collect()
}

/// `fault`: its reason, in one word, and its message.
fn condition(name: &str, fault: Option<(&str, String)>) -> wire::RuntimeCondition {
    let status = fault.is_none();
    let (reason, message) = fault.unwrap_or_default();
    wire::RuntimeCondition { r#type: name.into(), status, reason: reason.into(), message }
}

fn runtime_config(node: &Node) -> wire::RuntimeConfigResponse {
    let cgroup_driver = match node.cgroup_driver {
        Driver::Cgroupfs => wire::CgroupDriver::Cgroupfs,
        Driver::Systemd => wire::CgroupDriver::Systemd,
    };
    let linux = wire::LinuxRuntimeConfiguration { cgroup_driver: cgroup_driver.into() };
    wire::RuntimeConfigResponse { linux: Some(linux) }
}

fn info(node: &Node, view: &View, notice: Option<String>, report: &Report) -> HashMap<String, String> {
    let mut info = json!({
        "version": node.runtime_version,
        "cgroupDriver": node.cgroup_driver,
        "pods": view.pods.len(),
        "containers": view.pods.iter().map(|pod| pod.containers.len()).sum::<usize>(),
        "logLinesLost": log::lost(),
        "debts": report.debts,
        "findings": report.findings,
    });
    if let (Some(notice), Some(info)) = (notice, info.as_object_mut()) {
        info.insert("cgroupNotice".into(), notice.into());
    }
    HashMap::from([("info".to_owned(), info.to_string())])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        cri::render::tests::pod,
        pod::{DebtReport, Finding},
    };

    fn node(cgroup_driver: Driver) -> Node {
        let runtime_handlers = ["pintle", "fast", "", "fast"].map(Into::into).into();
        Node { runtime_version: "1.2.3".into(), cgroup_driver, runtime_handlers, user_namespaces: true }
    }

    fn nothing() -> Report {
        Report { debts: vec![], findings: vec![] }
    }

    #[test]
    fn a_disk_that_cannot_be_written_to_is_a_condition_of_the_runtime() {
        let fault = StorageFault::ReadOnly { folder: "/var/lib/pintle".into() };
        let reply = status(&node(Driver::Cgroupfs), Err(fault), Ok(()), HashMap::new());
        let [runtime, network] = &reply.status.unwrap().conditions[..] else { panic!() };
        assert_eq!(
            (runtime.status, runtime.reason.as_str(), network.status),
            (false, "StorageNotReady", true)
        );
        assert!(runtime.message.contains("/var/lib/pintle is on a read-only"), "{}", runtime.message);
    }

    #[test]
    fn verbose_status_shows_what_is_outstanding() {
        let debt = DebtReport {
            pod: "ab".into(),
            objects: vec!["network".into()],
            cause: "the plugin is down".into(),
            age_seconds: 7,
            next_try_seconds: 3,
        };
        let finding = Finding { object: "lease of 10.1.2.3".into(), fault: "it belongs to no pod".into() };
        let report = Report { debts: vec![debt], findings: vec![finding] };
        let info = &info(&node(Driver::Systemd), &View { pods: vec![] }, None, &report)["info"];
        let info: serde_json::Value = serde_json::from_str(info).unwrap();
        let debt = json!({"pod": "ab", "objects": ["network"], "cause": "the plugin is down", "ageSeconds": 7, "nextTrySeconds": 3});
        assert_eq!((&info["debts"][0], &info["findings"][0]["object"]), (&debt, &json!("lease of 10.1.2.3")));
    }

    #[test]
    fn no_version_is_empty() {
        let expected = wire::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "pintle".into(),
            runtime_version: "1.2.3".into(),
            runtime_api_version: "v1".into(),
        };
        assert_eq!(version(&node(Driver::Systemd)), expected);
    }

    #[test]
    fn a_missing_network_is_told_with_its_reason() {
        let node = node(Driver::Cgroupfs);
        let conditions = |network| status(&node, Ok(()), network, HashMap::new()).status.unwrap().conditions;
        let ready =
            wire::RuntimeCondition { r#type: "RuntimeReady".into(), status: true, ..Default::default() };
        let network =
            wire::RuntimeCondition { r#type: "NetworkReady".into(), status: true, ..Default::default() };
        assert_eq!(conditions(Ok(())), [ready.clone(), network.clone()]);
        let missing = wire::RuntimeCondition {
            status: false,
            reason: "NetworkPluginNotReady".into(),
            message: "no network is configured: pods of their own network are switched off (network.mode = \"none\")".into(),
            ..network
        };
        assert_eq!(conditions(Err(network::Error::NotConfigured)), [ready, missing]);
    }

    #[test]
    fn each_handler_is_listed_once_with_what_the_door_lets_in() {
        for user_namespaces in [true, false] {
            let node = Node { user_namespaces, ..node(Driver::Cgroupfs) };
            let status = status(&node, Ok(()), Ok(()), HashMap::new());
            let features =
                Some(wire::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces });
            let expected =
                ["", "pintle", "fast"].map(|name| wire::RuntimeHandler { name: name.into(), features });
            assert_eq!(status.runtime_handlers, expected);
            let features = wire::RuntimeFeatures {
                supplemental_groups_policy: true,
                mount_options: true,
                user_namespaces_host_network: user_namespaces,
            };
            assert_eq!(status.features, Some(features));
        }
    }

    #[test]
    fn the_cgroup_driver_is_said_aloud_because_zero_means_systemd() {
        let driver = |driver| runtime_config(&node(driver)).linux.unwrap().cgroup_driver;
        assert_eq!((driver(Driver::Systemd), driver(Driver::Cgroupfs)), (0, 1));
    }

    #[test]
    fn verbose_status_counts() {
        let view = View { pods: vec![Arc::new(pod())] };
        let info: serde_json::Value =
            serde_json::from_str(&info(&node(Driver::Cgroupfs), &view, None, &nothing())["info"]).unwrap();
        let expected = json!({"version": "1.2.3", "cgroupDriver": "Cgroupfs", "pods": 1, "containers": 1, "logLinesLost": 0, "debts": [], "findings": []});
        assert_eq!(info, expected);
    }

    #[test]
    fn verbose_status_tells_what_an_operator_should_know() {
        let view = View { pods: vec![] };
        let info =
            info(&node(Driver::Systemd), &view, Some("the kubelet uses another driver".into()), &nothing());
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        assert_eq!(info["cgroupNotice"], "the kubelet uses another driver");
    }
}
