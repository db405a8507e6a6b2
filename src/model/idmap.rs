//! Maps of user and group ids, of a user namespace or of an id-mapped mount (user_namespaces(7)).

use serde::{Deserialize, Serialize};

use super::{NamespaceModes, PidMode};

/// A range of ids (CRI `IDMapping`, a line of `/proc/PID/uid_map`).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct IdRange {
    /// The first id as the container sees it.
    pub container: u32,
    /// The first id as the host sees it.
    pub host: u32,
    /// Ids in the range; never 0, and no id is 2^32 - 1 or more.
    pub length: u32,
}

impl IdRange {
    /// The host's id for one of the container's.
    fn to_host(self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.container)?;
        (offset < self.length).then(|| self.host.checked_add(offset)).flatten()
    }

    /// Whether the two have an id of the container in common.
    pub fn overlaps_in_container(self, other: Self) -> bool {
        overlap((self.container, self.length), (other.container, other.length))
    }

    /// Whether the two have an id of the host in common.
    pub fn overlaps_on_host(self, other: Self) -> bool {
        overlap((self.host, self.length), (other.host, other.length))
    }
}

/// Whether two ranges, each the first id and the number of ids, have one in common.
fn overlap(one: (u32, u32), other: (u32, u32)) -> bool {
    let end = |(first, length): (u32, u32)| u64::from(first) + u64::from(length);
    u64::from(one.0) < end(other) && u64::from(other.0) < end(one)
}

/// The map of a user namespace or of an id-mapped mount. Ranges of one kind do not overlap.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct IdMap {
    /// Ranges of users.
    pub uids: Vec<IdRange>,
    /// Ranges of groups.
    pub gids: Vec<IdRange>,
}

impl IdMap {
    /// The host's id of a user of the container; `None`: it has no such user.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        self.uids.iter().find_map(|range| range.to_host(uid))
    }

    /// The host's id of a group of the container; `None`: it has no such group.
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        self.gids.iter().find_map(|range| range.to_host(gid))
    }

    /// Whether an id of the host is in both maps: whoever gets out of one could be whoever is in the other.
    pub fn shares_host_ids(&self, other: &Self) -> bool {
        let any = |ours: &[IdRange], theirs: &[IdRange]| {
            ours.iter().any(|one| theirs.iter().any(|other| one.overlaps_on_host(*other)))
        };
        any(&self.uids, &other.uids) || any(&self.gids, &other.gids)
    }
}

/// Whose users and groups there are (CRI `UserNamespace`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum UserMode {
    /// Nothing was said: for a pod the host's, for a container its pod's.
    #[default]
    Unsaid,
    /// The host's.
    Node,
    /// A user namespace that the pod has for itself.
    Pod(IdMap),
}

impl UserMode {
    /// The map of the pod's own user namespace, if it has one.
    pub fn map(&self) -> Option<&IdMap> {
        match self {
            Self::Pod(map) => Some(map),
            Self::Unsaid | Self::Node => None,
        }
    }

    /// Whether a container may have the namespaces that it asks for, in a pod with these users: it has the pod's users,
    /// and may say so.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn admits(&self, asked: &NamespaceModes) -> Result<(), &'static str> {
        match (self.map(), &asked.users) {
            (Some(_), _) if asked.pid == PidMode::Node => Err(
                "a container of a pod with a user namespace of its own cannot be in the host's pid namespace",
            ),
            (_, Self::Unsaid) | (None, Self::Node) => Ok(()),
            (Some(pods), Self::Pod(asked)) if pods == asked => Ok(()),
            (Some(_), Self::Pod(_)) => {
                Err("the container's user namespace has other ids than that of its pod")
            }
            (Some(_), Self::Node) => {
                Err("the container asks for the host's users, and its pod has a user namespace of its own")
            }
            (None, Self::Pod(_)) => {
                Err("the container asks for a user namespace, and its pod has the host's")
            }
        }
    }

    /// For records, which leave out what was not said.
    pub fn is_unsaid(&self) -> bool {
        *self == Self::Unsaid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(container: u32, host: u32, length: u32) -> IdRange {
        IdRange { container, host, length }
    }

    #[test]
    fn an_id_is_found_in_its_range_and_nowhere_else() {
        let map = IdMap {
            uids: vec![range(0, 100_000, 10), range(20, 5, 1)],
            gids: vec![range(0, 4_294_967_290, 5)],
        };
        for (uid, host) in [(0, Some(100_000)), (9, Some(100_009)), (10, None), (20, Some(5)), (21, None)] {
            assert_eq!(map.host_uid(uid), host, "{uid}");
        }
        assert_eq!((map.host_gid(4), map.host_gid(5)), (Some(4_294_967_294), None));
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        let at = |host| IdMap { uids: vec![range(0, host, 65_536)], gids: vec![range(0, 1 << 31, 1)] };
        let users = |one, other| at(one).uids[0].overlaps_on_host(at(other).uids[0]);
        assert!(!users(65_536, 131_072) && !users(131_072, 65_536));
        assert!(users(65_536, 131_071) && users(131_071, 65_536) && users(65_536, 65_536));
        assert!(at(65_536).shares_host_ids(&at(1 << 20)), "their groups are the same");
        let other = IdMap { gids: vec![range(0, 1, 1)], ..at(1 << 20) };
        assert!(!at(65_536).shares_host_ids(&other));
        assert!(range(0, 1, 2).overlaps_in_container(range(1, 9, 1)));
        assert!(!range(0, 1, 2).overlaps_in_container(range(2, 1, 1)));
    }

    #[test]
    fn a_container_has_the_users_of_its_pod() {
        let own = |host| {
            let range = vec![IdRange { container: 0, host, length: 10 }];
            UserMode::Pod(IdMap { uids: range.clone(), gids: range })
        };
        let asked =
            |users: &UserMode, pid| NamespaceModes { users: users.clone(), pid, ..Default::default() };
        let (unsaid, node, one, other) = (UserMode::Unsaid, UserMode::Node, own(100), own(200));
        for (pod, container, fits) in [
            (&unsaid, &unsaid, true),
            (&unsaid, &node, true),
            (&node, &node, true),
            (&node, &one, false),
            (&unsaid, &one, false),
            (&one, &unsaid, true),
            (&one, &one, true),
            (&one, &other, false),
            (&one, &node, false),
        ] {
            assert_eq!(pod.admits(&asked(container, PidMode::Pod)).is_ok(), fits, "{pod:?} {container:?}");
        }
        assert!(one.admits(&asked(&unsaid, PidMode::Node)).is_err());
        assert!(node.admits(&asked(&unsaid, PidMode::Node)).is_ok());
    }
}
