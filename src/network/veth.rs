//! How a pod's links are known again without any record: the host's end of its pair, and its intermediate device, bear part
//! of the pod's id in their name, and the whole of it in their alias.

use std::collections::HashSet;

use super::netlink::{Kind, Link};
use crate::model::PodId;

const NAME_PREFIX: &str = "pt";
/// Of the intermediate device of a pod whose sending is limited.
const INTERMEDIATE_PREFIX: &str = "pi";
/// With the prefix 13 of the 15 bytes that a name may have; 44 bits do not meet by chance on one node.
const NAME_ID_DIGITS: usize = 11;
const ALIAS_PREFIX: &str = "pintle:";

/// Name of the host's end.
pub(super) fn host_name(pod: &PodId) -> String {
    format!("{NAME_PREFIX}{}", short(pod))
}

/// Name of the intermediate device through which what the pod sends is led.
pub(super) fn intermediate_name(pod: &PodId) -> String {
    format!("{INTERMEDIATE_PREFIX}{}", short(pod))
}

/// Alias of the links that the pod has on the host.
pub(super) fn alias(pod: &PodId) -> String {
    format!("{ALIAS_PREFIX}{pod}")
}

fn short(pod: &PodId) -> &str {
    &pod.as_str()[..NAME_ID_DIGITS]
}

/// The digits of a pod's id in the name of a link that looks like one of ours.
fn digits(link: &Link) -> Option<&str> {
    let prefix = match link.kind {
        Kind::Veth => NAME_PREFIX,
        Kind::Intermediate => INTERMEDIATE_PREFIX,
        Kind::Bridge | Kind::Other => return None,
    };
    let digits = link.name.strip_prefix(prefix)?;
    let hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (hex && digits.len() == NAME_ID_DIGITS).then_some(digits)
}

/// Whether a link that has the pod's name is the pod's. The alias is written just after the link is made,
/// so it may be missing after a crash, but it never is another's.
pub(super) fn may_be_of(link: &Link, pod: &PodId) -> bool {
    digits(link).is_some() && link.alias.as_ref().is_none_or(|given| *given == alias(pod))
}

/// The pod that a link's alias names, if the link looks like one of ours.
pub(super) fn pod_of(link: &Link) -> Option<PodId> {
    let pod = PodId::parse(link.alias.as_ref()?.strip_prefix(ALIAS_PREFIX)?).ok()?;
    (digits(link)? == short(&pod)).then_some(pod)
}

/// Whether a link was made by us for a pod that is not in `live`. Without an alias an end of a pair must be on our
/// bridge too, since the form of a name alone proves little; an intermediate device is on none.
pub(super) fn is_orphan(link: &Link, live: &HashSet<PodId>, bridge: Option<u32>) -> bool {
    let Some(digits) = digits(link) else { return false };
    match &link.alias {
        Some(alias) => {
            let pod = alias.strip_prefix(ALIAS_PREFIX).and_then(|id| PodId::parse(id).ok());
            pod.is_some_and(|pod| !live.contains(&pod))
        }
        None => {
            let ours = link.kind == Kind::Intermediate || link.master.is_some() && link.master == bridge;
            ours && !live.iter().any(|pod| short(pod) == digits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_tell_pods_apart() {
        let pod = PodId::from_bytes([0xab; 32]);
        assert_eq!(
            (host_name(&pod), intermediate_name(&pod)),
            ("ptabababababa".into(), "piabababababa".into())
        );
        assert_eq!(alias(&pod), format!("pintle:{}", "ab".repeat(32)));
    }

    #[test]
    fn only_links_of_ours_whose_pod_is_gone_are_orphans() {
        let (live, dead) = (PodId::from_bytes([1; 32]), PodId::from_bytes([2; 32]));
        let of = |pod: &PodId| Link {
            name: host_name(pod),
            kind: Kind::Veth,
            alias: Some(alias(pod)),
            master: Some(7),
            ..Link::default()
        };
        for (what, link, expected) in [
            ("a dead pod's", of(&dead), true),
            ("a live pod's", of(&live), false),
            ("a dead pod's, off the bridge", Link { master: None, ..of(&dead) }, true),
            ("a dead pod's without alias", Link { alias: None, ..of(&dead) }, true),
            ("a live pod's without alias", Link { alias: None, ..of(&live) }, false),
            ("on another bridge, without alias", Link { alias: None, master: Some(8), ..of(&dead) }, false),
            ("on no bridge, without alias", Link { alias: None, master: None, ..of(&dead) }, false),
            ("of another kind", Link { kind: Kind::Other, ..of(&dead) }, false),
            ("with another's alias", Link { alias: Some("uplink".into()), ..of(&dead) }, false),
            ("with another's name", Link { name: "veth0".into(), ..of(&dead) }, false),
            ("with a longer name", Link { name: format!("{}0", host_name(&dead)), ..of(&dead) }, false),
            ("with a name that is not hex", Link { name: "ptolemaios_00".into(), ..of(&dead) }, false),
        ] {
            assert_eq!(is_orphan(&link, &[live.clone()].into(), Some(7)), expected, "{what}");
        }
        let intermediate = |pod: &PodId| Link {
            name: intermediate_name(pod),
            kind: Kind::Intermediate,
            master: None,
            ..of(pod)
        };
        for (what, link, expected) in [
            ("a dead pod's", intermediate(&dead), true),
            ("a live pod's", intermediate(&live), false),
            ("a dead pod's without alias", Link { alias: None, ..intermediate(&dead) }, true),
            ("a live pod's without alias", Link { alias: None, ..intermediate(&live) }, false),
            ("with another's name", Link { name: "ifb0".into(), ..intermediate(&dead) }, false),
            ("with a pair's name", Link { name: host_name(&dead), ..intermediate(&dead) }, false),
        ] {
            assert_eq!(is_orphan(&link, &[live.clone()].into(), Some(7)), expected, "intermediate: {what}");
        }
        let lost = Link { alias: None, master: None, ..of(&dead) };
        assert!(!is_orphan(&lost, &HashSet::new(), None), "no bridge is not a bridge in common");
    }

    #[test]
    fn a_name_alone_does_not_make_a_link_the_pods() {
        let (pod, other) = (PodId::from_bytes([1; 32]), PodId::from_bytes([2; 32]));
        let link = |alias| Link { name: host_name(&pod), kind: Kind::Veth, alias, ..Link::default() };
        assert!(may_be_of(&link(Some(alias(&pod))), &pod));
        assert!(may_be_of(&link(None), &pod));
        assert!(!may_be_of(&link(Some(alias(&other))), &pod));
        assert!(!may_be_of(&Link { kind: Kind::Other, ..link(None) }, &pod));
    }
}
