//! Fuzz targets of the kubelet's door.

use prost::Message as _;

use super::{authority, parse, wire};
use crate::{
    model::{ContainerConfig, PodConfig},
    spec,
};

/// One message, read as every request: what gets past the door makes a plan that keeps all rules, or none.
pub(crate) fn requests(input: &[u8]) {
    let mut pod = PodConfig::default();
    if let Ok(request) = wire::RunPodSandboxRequest::decode(input)
        && let Ok(parsed) = parse::run_pod(request)
    {
        pod = parsed;
        spec::fuzz::plan(&pod, &ContainerConfig { command: vec!["sh".into()], ..ContainerConfig::default() });
    }
    if let Ok(request) = wire::CreateContainerRequest::decode(input)
        && let Ok((_, container)) = parse::create_container(request)
    {
        spec::fuzz::plan(&pod, &container);
    }
    if let Ok(request) = wire::ExecSyncRequest::decode(input) {
        drop(parse::exec_sync(request));
    }
    if let Ok(request) = wire::ExecRequest::decode(input) {
        drop(parse::exec(request));
    }
    if let Ok(request) = wire::AttachRequest::decode(input) {
        drop(parse::attach(request));
    }
    if let Ok(request) = wire::PortForwardRequest::decode(input) {
        drop(parse::port_forward(request));
    }
    if let Ok(request) = wire::StopContainerRequest::decode(input) {
        drop(parse::grace(request.timeout));
        drop(parse::id("container_id", &request.container_id));
    }
    if let Ok(request) = wire::ListContainersRequest::decode(input) {
        drop(parse::ContainerFilter::parse(request.filter));
    }
    if let Ok(request) = wire::ListPodSandboxRequest::decode(input) {
        drop(parse::PodFilter::parse(request.filter));
    }
    if let Ok(request) = wire::PullImageRequest::decode(input) {
        drop(parse::reference(request.image));
        drop(parse::credentials(request.auth));
    }
}

/// A client's bytes on their way to the HTTP/2 library: the same in any pieces, never more than came, and nothing left
/// to change in what went out.
pub(crate) fn authority(input: &[u8]) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let pass = |bytes: &[u8], piece: usize| {
        let (mut rewriter, mut output) = (authority::Rewriter::default(), Vec::new());
        bytes.chunks(piece).for_each(|piece| rewriter.feed(piece, &mut output));
        rewriter.finish(&mut output);
        output
    };
    let Some((&piece, frames)) = input.split_first() else { return };
    let came = [PREFACE, frames].concat();
    let whole = pass(&came, came.len());
    assert!(whole.len() <= came.len());
    assert_eq!(pass(&came, usize::from(piece) + 1), whole);
    assert_eq!(pass(&whole, whole.len()), whole);
}
