//! What a container's set-up would touch if it could be led onto the node.

use crate::harness::{Node, Setup};

/// Makes the canary where only this node has it, before the daemon starts: so it is also what the daemon's
/// supervisors and helpers see at that place.
const MAKE: &str = r#"
    set -e
    mount -t tmpfs canary /srv
    (
        cd /srv
        echo the canary sings > secret
        chmod 600 secret
        mkdir -m 700 closed
        mkdir -m 751 half-open
        mkdir -m 1777 open
        echo of somebody > foreign
        chown 12345:12345 foreign
        mknod -m 640 null c 1 5
        : > ptmx
        cp /bin/true setuid
        chmod 4755 setuid
    )
    exec "$@"
"#;

/// Every name with its inode, mode, owner, size, times and target, and what the files hold.
const LOOK: &str = r"find /srv -printf '%p %i %y %m %U:%G %s %T@ %C@ %l\n' | sort; find /srv -type f -exec sha256sum {} + | sort";

/// A directory of the node, at [`Canary::PLACE`], that must stay as it was.
#[derive(Debug)]
pub(super) struct Canary {
    before: String,
    mounts: String,
}

impl Canary {
    pub(super) const PLACE: &str = "/srv";

    /// What its file `secret` holds: no container may ever read it.
    pub(super) const SECRET: &str = "the canary sings";

    /// A node that has one.
    pub(super) fn start() -> (Node, Self) {
        let under = ["sh", "-c", MAKE, "sh"].map(String::from).to_vec();
        let node = Node::start_with(&Setup { under, ..Setup::default() });
        let made = look(&node);
        node.run("chmod", ["600", "/srv/secret"]);
        let before = look(&node);
        assert_ne!(made, before, "a change to what was there before is not seen");
        let mounts = node.namespaces().read_proc("mountinfo");
        (node, Self { before, mounts })
    }

    /// Fails the test if anything of it was made, changed or removed, or something was mounted on the node.
    #[track_caller]
    pub(super) fn assert_untouched(&self, node: &Node, by: &str) {
        assert_eq!(look(node), self.before, "changed by {by}");
        assert_eq!(node.namespaces().read_proc("mountinfo"), self.mounts, "mounted by {by}");
    }
}

fn look(node: &Node) -> String {
    node.run("sh", ["-c", LOOK])
}
