//! Statistics RPCs of pods and containers, one and all.

use std::sync::Arc;

use tonic::{Status, codegen::BoxStream};

use super::RuntimeService;
use crate::{
    cri::{chunk::read_chunks, code, parse, render, wire},
    pod::{ContainerView, PodView},
};

impl RuntimeService {
    pub(super) async fn container_stats(
        &self,
        request: wire::ContainerStatsRequest,
    ) -> Result<wire::ContainerStatsResponse, Status> {
        let id = parse::id("container_id", &request.container_id).map_err(code::of)?;
        let container = self.pods.container(&id).map_err(code::of)?;
        let stats = self.meter.container_stats(vec![container]).await;
        Ok(wire::ContainerStatsResponse { stats: stats.first().map(render::container_stats) })
    }

    pub(super) async fn list_container_stats(
        &self,
        request: wire::ListContainerStatsRequest,
    ) -> Result<wire::ListContainerStatsResponse, Status> {
        let filter = parse::ContainerFilter::of_stats(request.filter).map_err(code::of)?;
        let stats = self.meter.container_stats(self.containers_with(&filter)).await;
        Ok(wire::ListContainerStatsResponse { stats: stats.iter().map(render::container_stats).collect() })
    }

    pub(super) async fn stream_container_stats(
        &self,
        request: wire::StreamContainerStatsRequest,
    ) -> Result<BoxStream<wire::StreamContainerStatsResponse>, Status> {
        let filter = parse::ContainerFilter::of_stats(request.filter).map_err(code::of)?;
        let meter = Arc::clone(&self.meter);
        let read = move |batch| {
            let meter = Arc::clone(&meter);
            async move { meter.container_stats(batch).await }
        };
        let message = |container_stats| wire::StreamContainerStatsResponse { container_stats };
        Ok(read_chunks(self.containers_with(&filter), read, render::container_stats, message))
    }

    pub(super) async fn pod_sandbox_stats(
        &self,
        request: wire::PodSandboxStatsRequest,
    ) -> Result<wire::PodSandboxStatsResponse, Status> {
        let id = parse::id("pod_sandbox_id", &request.pod_sandbox_id).map_err(code::of)?;
        let pod = self.pods.pod(&id).map_err(code::of)?;
        let stats = self.meter.pod_stats(vec![pod]).await;
        Ok(wire::PodSandboxStatsResponse { stats: stats.first().map(render::pod_stats) })
    }

    pub(super) async fn list_pod_sandbox_stats(
        &self,
        request: wire::ListPodSandboxStatsRequest,
    ) -> Result<wire::ListPodSandboxStatsResponse, Status> {
        let filter = parse::PodFilter::of_stats(request.filter).map_err(code::of)?;
        let stats = self.meter.pod_stats(self.measured_pods(&filter)).await;
        Ok(wire::ListPodSandboxStatsResponse { stats: stats.iter().map(render::pod_stats).collect() })
    }

    pub(super) async fn stream_pod_sandbox_stats(
        &self,
        request: wire::StreamPodSandboxStatsRequest,
    ) -> Result<BoxStream<wire::StreamPodSandboxStatsResponse>, Status> {
        let filter = parse::PodFilter::of_stats(request.filter).map_err(code::of)?;
        let meter = Arc::clone(&self.meter);
        let read = move |batch| {
            let meter = Arc::clone(&meter);
            async move { meter.pod_stats(batch).await }
        };
        let message = |pod_sandbox_stats| wire::StreamPodSandboxStatsResponse { pod_sandbox_stats };
        Ok(read_chunks(self.measured_pods(&filter), read, render::pod_stats, message))
    }

    /// Pods that use anything. One that has ended is still answered for when it is asked for by itself.
    pub(super) fn measured_pods(&self, filter: &parse::PodFilter) -> Vec<Arc<PodView>> {
        let pods = self.pods_with(filter.id.as_ref()).into_iter();
        pods.filter(|pod| pod.ready && filter.admits(pod)).collect()
    }

    /// Containers in every state that pass the filter: ended ones still have their writable layer.
    pub(super) fn containers_with(&self, filter: &parse::ContainerFilter) -> Vec<Arc<ContainerView>> {
        // An id is resolved by the room that knows all of them: a prefix must fit one container only.
        let only = match &filter.id {
            None => None,
            Some(id) => match self.pods.container(id) {
                Ok(container) => Some(container.id.clone()),
                Err(_) => return Vec::new(),
            },
        };
        let pods = self.pods_with(filter.pod.as_ref());
        let containers = pods.iter().flat_map(|pod| &pod.containers);
        containers
            .filter(|container| only.as_ref().is_none_or(|id| *id == container.id))
            .filter(|container| filter.admits(container))
            .cloned()
            .collect()
    }
}
