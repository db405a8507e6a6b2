//! Long lists come in pieces: the same items, each of them once, and never more at a time than is asked for.

use std::collections::BTreeSet;

use prost::Message as _;

use crate::harness::{BUSYBOX, Node, Pod, runner::tests, v1};

tests![
    lists_in_pieces_are_the_same_lists,
    what_is_not_there_is_an_end_without_a_message,
    a_long_list_comes_in_pieces_of_one_moment,
    figures_in_pieces_are_of_the_same_objects,
    a_client_that_hangs_up_is_forgotten,
];

/// What the daemon puts into one message, unless one item is more.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// Nearly as much as a pod's annotations may have.
const NOTE_BYTES: usize = 250 << 10;

fn streamed_pods(node: &Node, filter: Option<v1::PodSandboxFilter>) -> Vec<Vec<v1::PodSandbox>> {
    let messages = node.cri().stream_pod_sandboxes(v1::StreamPodSandboxesRequest { filter }).unwrap();
    messages.all().into_iter().map(|message| message.pod_sandboxes).collect()
}

fn streamed_containers(node: &Node, filter: Option<v1::ContainerFilter>) -> Vec<Vec<v1::Container>> {
    let messages = node.cri().stream_containers(v1::StreamContainersRequest { filter }).unwrap();
    messages.all().into_iter().map(|message| message.containers).collect()
}

fn streamed_images(node: &Node, filter: Option<v1::ImageFilter>) -> Vec<Vec<v1::Image>> {
    let messages = node.cri().stream_images(v1::StreamImagesRequest { filter }).unwrap();
    messages.all().into_iter().map(|message| message.images).collect()
}

fn lists_in_pieces_are_the_same_lists() {
    let node = Node::start();
    let (web, batch) = (node.run_pod("web"), node.run_pod("batch"));
    let main = web.run_in("main", ["sleep", "1000"]);
    batch.create("side", BUSYBOX, ["sleep", "1000"]);
    batch.stop();
    node.pull("registry.test/pintle/layers:1");

    let pods = |filter: Option<v1::PodSandboxFilter>| {
        let listed =
            node.cri().list_pod_sandbox(v1::ListPodSandboxRequest { filter: filter.clone() }).unwrap();
        assert_eq!(streamed_pods(&node, filter), std::slice::from_ref(&listed.items));
        listed.items.len()
    };
    let ready = v1::PodSandboxFilter {
        state: Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady.into() }),
        ..Default::default()
    };
    let prefix = v1::PodSandboxFilter { id: web.id[..20].into(), ..Default::default() };
    assert_eq!([None, Some(ready), Some(prefix)].map(pods), [2, 1, 1]);

    let containers = |filter: Option<v1::ContainerFilter>| {
        let listed =
            node.cri().list_containers(v1::ListContainersRequest { filter: filter.clone() }).unwrap();
        assert_eq!(streamed_containers(&node, filter), std::slice::from_ref(&listed.containers));
        listed.containers.len()
    };
    let one = v1::ContainerFilter { id: main.id[..20].into(), ..Default::default() };
    let of_pod = v1::ContainerFilter { pod_sandbox_id: batch.id.clone(), ..Default::default() };
    assert_eq!([None, Some(one), Some(of_pod)].map(containers), [2, 1, 1]);

    let images = |filter: Option<v1::ImageFilter>| {
        let listed = node.cri().list_images(v1::ListImagesRequest { filter: filter.clone() }).unwrap();
        assert_eq!(streamed_images(&node, filter), std::slice::from_ref(&listed.images));
        listed.images.len()
    };
    let busybox = v1::ImageSpec { image: BUSYBOX.into(), ..Default::default() };
    assert_eq!([None, Some(v1::ImageFilter { image: Some(busybox) })].map(images), [2, 1]);
    node.assert_clean();
}

fn what_is_not_there_is_an_end_without_a_message() {
    let node = Node::start();
    assert_eq!(streamed_pods(&node, None), Vec::<Vec<_>>::new());
    assert_eq!(streamed_containers(&node, None), Vec::<Vec<_>>::new());
    assert_eq!(streamed_images(&node, None), Vec::<Vec<_>>::new());
    let pod = node.run_pod("web");
    let unknown = v1::ContainerFilter { id: pod.id, ..Default::default() };
    assert_eq!(streamed_containers(&node, Some(unknown)), Vec::<Vec<_>>::new());
    let refused = v1::PodSandboxFilter { id: "../x".into(), ..Default::default() };
    let refused = node.cri().stream_pod_sandboxes(v1::StreamPodSandboxesRequest { filter: Some(refused) });
    assert_eq!(refused.unwrap_err().code(), tonic::Code::InvalidArgument);
    node.assert_clean();
}

fn big_pods<'n>(node: &'n Node, count: usize) -> Vec<Pod<'n>> {
    let note = |config: &mut v1::PodSandboxConfig| {
        config.annotations.insert("note".into(), "x".repeat(NOTE_BYTES));
    };
    (0..count).map(|nth| node.run_pod_with(&format!("big-{nth}"), note)).collect()
}

fn a_long_list_comes_in_pieces_of_one_moment() {
    let node = Node::start();
    let pods = big_pods(&node, 24);
    let mut messages = node.cri().stream_pod_sandboxes(v1::StreamPodSandboxesRequest::default()).unwrap();
    let first = messages.next().unwrap().unwrap();
    // More than fits on the way is still to be rendered; what happens now changes nothing of it.
    pods.iter().for_each(Pod::stop);
    let mut pieces = vec![first];
    pieces.extend(messages.all());

    assert!(pieces.iter().all(|piece| !piece.pod_sandboxes.is_empty()));
    assert!(pieces.iter().all(|piece| piece.encoded_len() <= PIECE_BYTES_MAX));
    assert_eq!(pieces.len(), 6);
    let received: Vec<_> = pieces.into_iter().flat_map(|piece| piece.pod_sandboxes).collect();
    let ready = v1::PodSandboxState::SandboxReady;
    assert!(received.iter().all(|pod| pod.state() == ready), "a piece is of another moment");
    let ids: Vec<_> = received.into_iter().map(|pod| pod.id).collect();
    assert_eq!(ids.len(), 24);
    let all: BTreeSet<_> = pods.into_iter().map(|pod| pod.id).collect();
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), all);
    node.assert_clean();
}

fn a_client_that_hangs_up_is_forgotten() {
    let node = Node::start();
    big_pods(&node, 16);
    let before = resident_kib(&node);
    // More than a connection may have at a time: those that ended must not count. Not too quickly: our own HTTP/2
    // client remembers 50 hang-ups for a second, and ends the connection over what still comes for others.
    for _ in 0..300 {
        let mut messages = node.cri().stream_pod_sandboxes(v1::StreamPodSandboxesRequest::default()).unwrap();
        messages.next().unwrap().unwrap();
        drop(messages);
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    let grown = resident_kib(&node).saturating_sub(before);
    // Rendered as a whole and kept, they would be more than a GiB.
    assert!(grown < 64 << 10, "{grown} KiB for streams that nobody reads");
    node.assert_clean();
}

fn resident_kib(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.daemon_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn figures_in_pieces_are_of_the_same_objects() {
    let node = Node::start();
    let stats = |filter| {
        let messages = node.cri().stream_container_stats(v1::StreamContainerStatsRequest { filter }).unwrap();
        let all = messages.all().into_iter().flat_map(|message| message.container_stats);
        all.map(|stats| stats.attributes.expect("attributes").id).collect::<Vec<_>>()
    };
    let pod_stats = || {
        let request = v1::StreamPodSandboxStatsRequest { filter: None };
        let messages = node.cri().stream_pod_sandbox_stats(request).unwrap().all();
        messages.into_iter().flat_map(|message| message.pod_sandbox_stats).collect::<Vec<_>>()
    };
    let metrics = || {
        let request = v1::StreamPodSandboxMetricsRequest {};
        let messages = node.cri().stream_pod_sandbox_metrics(request).unwrap().all();
        messages.into_iter().flat_map(|message| message.pod_sandbox_metrics).collect::<Vec<_>>()
    };
    assert_eq!((stats(None), pod_stats(), metrics()), (vec![], vec![], vec![]));

    let (web, batch) = (node.run_pod("web"), node.run_pod("batch"));
    let (main, side) = (web.run_in("main", ["sleep", "1000"]), web.run_in("side", ["sleep", "1000"]));
    let one = v1::ContainerStatsFilter { id: main.id.clone(), ..Default::default() };
    assert_eq!(stats(Some(one)), std::slice::from_ref(&main.id));
    let all: BTreeSet<_> = stats(None).into_iter().collect();
    assert_eq!(all, BTreeSet::from([main.id, side.id]));
    let pods = BTreeSet::from([web.id, batch.id]);
    let measured = pod_stats();
    assert_eq!(measured.len(), 2);
    let measured = measured.into_iter().map(|stats| stats.attributes.expect("attributes").id);
    assert_eq!(measured.collect::<BTreeSet<_>>(), pods);
    let received = metrics();
    assert!(received.iter().map(|pod| pod.container_metrics.len()).sum::<usize>() >= 2);
    assert_eq!(received.into_iter().map(|pod| pod.pod_sandbox_id).collect::<BTreeSet<_>>(), pods);
    node.assert_clean();
}
