use tonic::Status;

use super::RuntimeService;
use crate::cri::{code, parse, wire};

impl RuntimeService {
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
