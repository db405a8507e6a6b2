//! ListMetricDescriptors and ListPodSandboxMetrics.

use std::sync::Arc;

use tonic::{Status, codegen::BoxStream};

use super::RuntimeService;
use crate::cri::{chunk::read_chunks, render, wire};

impl RuntimeService {
    /// The same from the first call on: the kubelet asks once.
    pub(super) async fn list_metric_descriptors(
        &self,
        _request: wire::ListMetricDescriptorsRequest,
    ) -> Result<wire::ListMetricDescriptorsResponse, Status> {
        Ok(wire::ListMetricDescriptorsResponse { descriptors: render::metric_descriptors() })
    }

    pub(super) async fn list_pod_sandbox_metrics(
        &self,
        _request: wire::ListPodSandboxMetricsRequest,
    ) -> Result<wire::ListPodSandboxMetricsResponse, Status> {
        let metrics = self.meter.metrics(self.pods.view().pods.clone()).await;
        Ok(wire::ListPodSandboxMetricsResponse {
            pod_metrics: metrics.iter().map(render::pod_metrics).collect(),
        })
    }

    pub(super) async fn stream_pod_sandbox_metrics(
        &self,
        _request: wire::StreamPodSandboxMetricsRequest,
    ) -> Result<BoxStream<wire::StreamPodSandboxMetricsResponse>, Status> {
        let meter = Arc::clone(&self.meter);
        let read = move |batch| {
            let meter = Arc::clone(&meter);
            async move { meter.metrics(batch).await }
        };
        let message = |pod_sandbox_metrics| wire::StreamPodSandboxMetricsResponse { pod_sandbox_metrics };
        Ok(read_chunks(self.pods.view().pods.clone(), read, render::pod_metrics, message))
    }
}
