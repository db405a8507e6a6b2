//! The life of a pod.

use crate::harness::{Node, runner::tests};

tests![a_node_starts];

fn a_node_starts() {
    let node = Node::start();
    node.assert_clean();
}
