//! User namespaces and the maps of id-mapped mounts.

use super::{
    At as _, Refusal, Why,
    limits::*,
    text::{count, known},
};
use crate::{
    cri::wire,
    model::{IdMap, IdRange, UserMode},
};

/// Whose users a pod or container has. As with every runtime a pod's map has one range of users and one of groups, both
/// of one length, which begin with the container's root.
pub(super) fn mode(wire: wire::UserNamespace) -> Result<UserMode, Refusal> {
    use wire::NamespaceMode::{Container, Node, Pod, Target};
    match known(wire.mode).at("mode")? {
        Node => Ok(UserMode::Node),
        Container | Target => Err(Why::from("may only be POD or NODE")).at("mode"),
        Pod => {
            let uids = whole(wire.uids).at("uids")?;
            let gids = whole(wire.gids).at("gids")?;
            if uids.length != gids.length {
                let why = format!("have {} ids, and uids have {}", gids.length, uids.length);
                return Err(Why::from(why)).at("gids");
            }
            Ok(UserMode::Pod(IdMap { uids: vec![uids], gids: vec![gids] }))
        }
    }
}

/// The one range of a pod's users, or of its groups.
fn whole(wire: Vec<wire::IdMapping>) -> Result<IdRange, Why> {
    let [only] = wire.as_slice() else {
        return Err(format!("has {} ranges, not one", wire.len()).into());
    };
    let range = range(only)?;
    if range.container != 0 {
        return Err(
            format!("begins with id {} of the container, so that it has no root", range.container).into()
        );
    }
    if range.host == 0 {
        return Err("begins with the host's root, so that there would be no isolation".into());
    }
    Ok(range)
}

/// How the ids on a mount are mapped; `None`: neither kind is. The ranges need not be the pod's, nor begin with root.
pub(super) fn of_mount(uids: &[wire::IdMapping], gids: &[wire::IdMapping]) -> Result<Option<IdMap>, Refusal> {
    match (uids, gids) {
        ([], []) => Ok(None),
        ([_, ..], []) => Err(Why::from("is missing, and uidMappings is not")).at("gidMappings"),
        ([], [_, ..]) => Err(Why::from("is missing, and gidMappings is not")).at("uidMappings"),
        ([_, ..], [_, ..]) => {
            let (uids, gids) = (ranges(uids).at("uidMappings")?, ranges(gids).at("gidMappings")?);
            Ok(Some(IdMap { uids, gids }))
        }
    }
}

fn ranges(wire: &[wire::IdMapping]) -> Result<Vec<IdRange>, Why> {
    count(ID_RANGES_MAX, wire.len())?;
    let ranges = wire.iter().map(range).collect::<Result<Vec<_>, _>>()?;
    for (at, one) in ranges.iter().enumerate() {
        let before = ranges.iter().take(at);
        if before.into_iter().any(|other| one.overlaps_in_container(*other) || one.overlaps_on_host(*other)) {
            return Err(format!("has an id twice, in the range of {}", one.container).into());
        }
    }
    Ok(ranges)
}

/// 2^32 - 1 is no id (user_namespaces(7)).
fn range(wire: &wire::IdMapping) -> Result<IdRange, Why> {
    let wire::IdMapping { host_id: host, container_id: container, length } = *wire;
    if length == 0 {
        return Err("has a range without ids".into());
    }
    for first in [container, host] {
        if u64::from(first) + u64::from(length) > u64::from(u32::MAX) {
            return Err(format!("has {length} ids from {first} on, which go past the last there is").into());
        }
    }
    Ok(IdRange { container, host, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(container_id: u32, host_id: u32, length: u32) -> wire::IdMapping {
        wire::IdMapping { host_id, container_id, length }
    }

    fn parse(uids: &[wire::IdMapping], gids: &[wire::IdMapping]) -> Result<UserMode, String> {
        let mode = wire::NamespaceMode::Pod.into();
        let wire = wire::UserNamespace { mode, uids: uids.to_vec(), gids: gids.to_vec() };
        super::mode(wire).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn a_pods_map_is_one_range_of_users_and_one_of_groups() {
        let (uids, gids) = (mapping(0, 65_536, 65_536), mapping(0, 131_072, 65_536));
        let range = |host| vec![IdRange { container: 0, host, length: 65_536 }];
        let map = IdMap { uids: range(65_536), gids: range(131_072) };
        assert_eq!(parse(&[uids], &[gids]), Ok(UserMode::Pod(map)));
        let last = mapping(0, u32::MAX - 10, 10);
        assert!(parse(&[last], &[last]).is_ok());
    }

    #[test]
    fn a_map_that_makes_no_pod_is_refused_in_words() {
        let good = mapping(0, 1000, 100_000);
        for (uids, gids, why) in [
            (&[][..], &[good][..], "uids has 0 ranges, not one"),
            (&[good], &[], "gids has 0 ranges, not one"),
            (&[good, mapping(0, 2000, 100_000)], &[good], "uids has 2 ranges, not one"),
            (
                &[mapping(1, 1000, 10)],
                &[good],
                "uids begins with id 1 of the container, so that it has no root",
            ),
            (
                &[good],
                &[mapping(0, 0, 100_000)],
                "gids begins with the host's root, so that there would be no isolation",
            ),
            (&[mapping(0, 1000, 0)], &[good], "uids has a range without ids"),
            (
                &[mapping(0, u32::MAX - 10, 11)],
                &[good],
                "uids has 11 ids from 4294967285 on, which go past the last there is",
            ),
            (&[good], &[mapping(0, 1000, 99_999)], "gids have 99999 ids, and uids have 100000"),
        ] {
            assert_eq!(parse(uids, gids), Err(why.to_owned()));
        }
    }

    #[test]
    fn a_mount_is_mapped_for_users_and_groups_or_not_at_all() {
        let parse = |uids: &[_], gids: &[_]| of_mount(uids, gids).map_err(|refusal| refusal.to_string());
        let one = mapping(5, 1000, 10);
        assert_eq!(parse(&[], &[]), Ok(None));
        let several = [one, mapping(0, 2000, 5)];
        assert_eq!(parse(&several, &[one]).map(|map| map.map(|map| map.uids.len())), Ok(Some(2)));
        for (uids, gids, why) in [
            (&[one][..], &[][..], "gidMappings is missing, and uidMappings is not"),
            (&[], &[one], "uidMappings is missing, and gidMappings is not"),
            (&[one, mapping(14, 3000, 1)], &[one], "uidMappings has an id twice, in the range of 14"),
            (&[one], &[one, mapping(99, 1009, 1)], "gidMappings has an id twice, in the range of 99"),
        ] {
            assert_eq!(parse(uids, gids), Err(why.to_owned()));
        }
        let many: Vec<_> = (0..=340).map(|at| mapping(at, at, 1)).collect();
        assert!(parse(&many, &[one]).unwrap_err().contains("340"));
        assert!(parse(&many[..340], &[one]).is_ok());
    }
}
