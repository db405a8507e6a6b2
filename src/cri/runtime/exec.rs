//! ExecSync.

use tonic::Status;

use super::RuntimeService;
use crate::{
    cri::{code, parse, wire},
    streaming,
};

impl RuntimeService {
    /// The answer is a URL at which the client itself has the command run.
    pub(super) async fn exec(&self, request: wire::ExecRequest) -> Result<wire::ExecResponse, Status> {
        let parse::Exec { container, command, streams } = parse::exec(request).map_err(code::of)?;
        let container = self.pods.running_container(&container).map_err(code::of)?;
        let exec = streaming::Exec { container, command, streams };
        let url = self.streams.url(streaming::Request::Exec(exec)).map_err(code::of)?;
        Ok(wire::ExecResponse { url })
    }

    /// The answer is a URL at which the client itself is attached.
    pub(super) async fn attach(&self, request: wire::AttachRequest) -> Result<wire::AttachResponse, Status> {
        let parse::Attach { container, streams } = parse::attach(request).map_err(code::of)?;
        let container = self.pods.attachable_container(&container).map_err(code::of)?;
        let attach = streaming::Attach { container, streams };
        let url = self.streams.url(streaming::Request::Attach(attach)).map_err(code::of)?;
        Ok(wire::AttachResponse { url })
    }

    /// The answer is a URL at which the client itself connects to ports.
    pub(super) async fn port_forward(
        &self,
        request: wire::PortForwardRequest,
    ) -> Result<wire::PortForwardResponse, Status> {
        let parse::PortForward { pod, ports } = parse::port_forward(request).map_err(code::of)?;
        let pod = self.pods.ready_pod(&pod).map_err(code::of)?;
        let forward = streaming::PortForward { pod, ports };
        let url = self.streams.url(streaming::Request::PortForward(forward)).map_err(code::of)?;
        Ok(wire::PortForwardResponse { url })
    }

    /// A non-zero exit code is an answer, a timeout an error. `pod` keeps the output below what fits into
    /// one message.
    pub(super) async fn exec_sync(
        &self,
        request: wire::ExecSyncRequest,
    ) -> Result<wire::ExecSyncResponse, Status> {
        let exec = parse::exec_sync(request).map_err(code::of)?;
        let output =
            self.pods.exec_sync(&exec.container, exec.command, exec.timeout).await.map_err(code::of)?;
        Ok(wire::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        })
    }
}
