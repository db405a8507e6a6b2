//! RuntimeService. Each file holds the RPCs of one noun, under their own names.

mod container;
mod event;
mod exec;
mod metrics;
mod pod;
mod stats;
mod status;

use std::sync::Arc;

use super::{Node, rpcs, wire};
use crate::{meter::Meter, pod::Pods, streaming};

/// Pods and containers, as the kubelet asks for them.
#[derive(Clone, Debug)]
pub(crate) struct RuntimeService {
    pods: Pods,
    meter: Arc<Meter>,
    streams: streaming::Server,
    node: Node,
}

impl RuntimeService {
    pub(crate) fn new(pods: Pods, meter: Arc<Meter>, streams: streaming::Server, node: Node) -> Self {
        Self { pods, meter, streams, node }
    }
}

rpcs! {
    wire::runtime_service_server::RuntimeService, RuntimeService:
    "Version" version(VersionRequest) -> VersionResponse;
    "RunPodSandbox" run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    "StopPodSandbox" stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    "RemovePodSandbox" remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    "PodSandboxStatus" pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    "ListPodSandbox" list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    "CreateContainer" create_container(CreateContainerRequest) -> CreateContainerResponse;
    "StartContainer" start_container(StartContainerRequest) -> StartContainerResponse;
    "StopContainer" stop_container(StopContainerRequest) -> StopContainerResponse;
    "RemoveContainer" remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    "ListContainers" list_containers(ListContainersRequest) -> ListContainersResponse;
    "ContainerStatus" container_status(ContainerStatusRequest) -> ContainerStatusResponse;
    "UpdateContainerResources" update_container_resources(UpdateContainerResourcesRequest)
        -> UpdateContainerResourcesResponse;
    "ReopenContainerLog" reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    "ContainerStats" container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    "ListContainerStats" list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
    "PodSandboxStats" pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
    "ListPodSandboxStats" list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
    "ListMetricDescriptors" list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
    "ListPodSandboxMetrics" list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
    "ExecSync" exec_sync(ExecSyncRequest) -> ExecSyncResponse;
    "Exec" exec(ExecRequest) -> ExecResponse;
    "Attach" attach(AttachRequest) -> AttachResponse;
    "PortForward" port_forward(PortForwardRequest) -> PortForwardResponse;
    "UpdateRuntimeConfig" update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
    "Status" status(StatusRequest) -> StatusResponse;
    "RuntimeConfig" runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
    "UpdatePodSandboxResources" update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest)
        -> UpdatePodSandboxResourcesResponse;
    stream "StreamPodSandboxes" stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesResponse;
    stream "StreamContainers" stream_containers(StreamContainersRequest) -> StreamContainersResponse;
    stream "StreamContainerStats" stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsResponse;
    stream "StreamPodSandboxStats" stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse;
    stream "StreamPodSandboxMetrics" stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse;
    stream "GetContainerEvents" get_container_events(GetEventsRequest) -> ContainerEventResponse;
}
