//! The object of a request, for the log: a pod, a container or an image, by the name that the request has for it.

use super::wire;

/// A request whose failures can be told apart.
pub(super) trait Subject {
    /// Empty for a request that is about no one object.
    fn subject(&self) -> String;
}

macro_rules! subjects {
    ($($request:ident: $subject:expr;)*) => {
        $(impl Subject for wire::$request {
            fn subject(&self) -> String {
                let subject: fn(&Self) -> String = $subject;
                subject(self)
            }
        })*
    };
}

subjects! {
    VersionRequest: |_| String::new();
    StatusRequest: |_| String::new();
    RuntimeConfigRequest: |_| String::new();
    UpdateRuntimeConfigRequest: |_| String::new();
    RunPodSandboxRequest: |request| pod_name(request.config.as_ref());
    StopPodSandboxRequest: |request| request.pod_sandbox_id.clone();
    RemovePodSandboxRequest: |request| request.pod_sandbox_id.clone();
    PodSandboxStatusRequest: |request| request.pod_sandbox_id.clone();
    PodSandboxStatsRequest: |request| request.pod_sandbox_id.clone();
    UpdatePodSandboxResourcesRequest: |request| request.pod_sandbox_id.clone();
    CreateContainerRequest: |request| {
        let metadata = request.config.as_ref().and_then(|config| config.metadata.as_ref());
        let name = metadata.map_or("", |metadata| &metadata.name);
        format!("{}/{name}", pod_name(request.sandbox_config.as_ref()))
    };
    StartContainerRequest: |request| request.container_id.clone();
    StopContainerRequest: |request| request.container_id.clone();
    RemoveContainerRequest: |request| request.container_id.clone();
    ContainerStatusRequest: |request| request.container_id.clone();
    ContainerStatsRequest: |request| request.container_id.clone();
    UpdateContainerResourcesRequest: |request| request.container_id.clone();
    ReopenContainerLogRequest: |request| request.container_id.clone();
    ExecSyncRequest: |request| request.container_id.clone();
    ExecRequest: |request| request.container_id.clone();
    AttachRequest: |request| request.container_id.clone();
    PortForwardRequest: |request| request.pod_sandbox_id.clone();
    ListPodSandboxRequest: |_| String::new();
    ListContainersRequest: |_| String::new();
    ListContainerStatsRequest: |_| String::new();
    ListPodSandboxStatsRequest: |_| String::new();
    ListMetricDescriptorsRequest: |_| String::new();
    ListPodSandboxMetricsRequest: |_| String::new();
    StreamPodSandboxesRequest: |_| String::new();
    StreamContainersRequest: |_| String::new();
    StreamContainerStatsRequest: |_| String::new();
    StreamPodSandboxStatsRequest: |_| String::new();
    StreamPodSandboxMetricsRequest: |_| String::new();
    GetEventsRequest: |_| String::new();
    ListImagesRequest: |_| String::new();
    StreamImagesRequest: |_| String::new();
    ImageStatusRequest: |request| image_name(request.image.as_ref());
    PullImageRequest: |request| image_name(request.image.as_ref());
    RemoveImageRequest: |request| image_name(request.image.as_ref());
    ImageFsInfoRequest: |_| String::new();
}

/// `namespace/name`. A pod that is made anew after each failure has a new id and uid, and keeps its name.
fn pod_name(config: Option<&wire::PodSandboxConfig>) -> String {
    let metadata = config.and_then(|config| config.metadata.as_ref());
    metadata.map_or_else(String::new, |metadata| format!("{}/{}", metadata.namespace, metadata.name))
}

fn image_name(image: Option<&wire::ImageSpec>) -> String {
    image.map_or_else(String::new, |image| image.image.clone())
}
