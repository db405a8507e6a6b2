//! The rights of a process: user, capabilities, hidden paths, system call filter.

use std::sync::Arc;

use super::{Error, capability, capability::bit};
use crate::model::{SeccompChoice, Security};

/// The default capabilities of a container of root: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID,
/// SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP.
const CAPABILITIES_DEFAULT: u64 = 0xa804_25fb;

/// Capabilities that the set-up needs beyond the container's own; dropped just before execve.
const SETUP_CAPABILITIES: u64 = capability::SYS_ADMIN
    | capability::SETPCAP
    | capability::SETUID
    | capability::SETGID
    | capability::DAC_OVERRIDE;

/// Hidden from containers: what tells of the host, or of others on it.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Not to be written: settings of the whole machine.
pub const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Masked or read-only paths in one request at most; a kubelet sends some ten.
const PATHS_MAX: usize = 1000;
/// A user or group name's length in bytes at most (`LOGIN_NAME_MAX`).
const NAME_BYTES_MAX: usize = 256;

/// The capabilities of a root process: bounding, permitted and effective.
pub(super) fn capabilities(security: &Security) -> Result<u64, Error> {
    let asked = &security.capabilities;
    let (add_all, add) = set(&asked.add)?;
    // One that does not exist here is held by nobody: dropped it is anyway.
    let (drop_all, drop) = set(asked.drop.iter().filter(|name| is_known(name)))?;
    if security.privileged {
        return Ok(capability::ALL);
    }
    // "Drop all, add one" is how a careful pod is written, and a drop by name always holds.
    let base = match (add_all, drop_all) {
        (_, true) => 0,
        (true, false) => capability::ALL,
        (false, false) => CAPABILITIES_DEFAULT,
    };
    Ok((base | add) & !drop)
}

/// Of those, the ones a user other than root keeps.
pub(super) fn ambient(security: &Security, permitted: u64) -> Result<u64, Error> {
    let (all, named) = set(&security.capabilities.ambient)?;
    Ok(if all { permitted } else { named & permitted })
}

fn is_known(name: &str) -> bool {
    name.strip_prefix("CAP_").unwrap_or(name) == "ALL" || bit(name).is_some()
}

/// Whether ALL is among the names, and the set of the others.
fn set<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<(bool, u64), Error> {
    let (mut all, mut set) = (false, 0);
    for name in names {
        match name.strip_prefix("CAP_").unwrap_or(name) {
            "ALL" => all = true,
            _ => set |= bit(name).ok_or_else(|| Error::Capability { name: name.clone() })?,
        }
    }
    Ok((all, set))
}

/// The capabilities that libcontainer is to leave for the set-up. SYS_RESOURCE raises the limit of open files above the
/// daemon's own; a node whose root lacks it does without.
pub(super) fn setup_capabilities(own: u64, held: u64) -> u64 {
    own | SETUP_CAPABILITIES | (capability::SYS_RESOURCE & held)
}

/// The masked and the read-only paths. A list in the request stands in for ours, also when empty.
pub(super) fn hidden_paths(security: &Security) -> Result<(Vec<String>, Vec<String>), Error> {
    if security.privileged {
        return Ok((Vec::new(), Vec::new()));
    }
    let choose = |asked: &Option<Vec<String>>, ours: &[&str], what| {
        let Some(asked) = asked else { return Ok(ours.iter().map(ToString::to_string).collect()) };
        if asked.len() > PATHS_MAX {
            return Err(Error::Limit { what, given: asked.len(), max: PATHS_MAX });
        }
        asked.iter().try_for_each(|path| super::mounts::absolute(what, path))?;
        Ok(asked.clone())
    };
    Ok((
        choose(&security.masked_paths, &MASKED_PATHS, "masked path")?,
        choose(&security.readonly_paths, &READONLY_PATHS, "read-only path")?,
    ))
}

/// The filter to load. A privileged container has none, whatever it asks for.
pub(super) fn filter(security: &Security, compiled: Option<&Arc<[u8]>>) -> Result<Option<Arc<[u8]>>, Error> {
    match (&security.seccomp, compiled) {
        _ if security.privileged => Ok(None),
        (SeccompChoice::Unconfined | SeccompChoice::Unsaid, _) => Ok(None),
        (SeccompChoice::RuntimeDefault | SeccompChoice::Localhost(_), Some(filter)) if !filter.is_empty() => {
            Ok(Some(Arc::clone(filter)))
        }
        (SeccompChoice::RuntimeDefault | SeccompChoice::Localhost(_), _) => Err(Error::NoFilter),
    }
}

/// Checks the ids and names in a request; they are looked up in the image later.
pub(super) fn check_user(security: &Security) -> Result<(), Error> {
    let user = &security.user;
    if user.gid.is_some() && user.uid.is_none() && user.name.is_empty() {
        return Err(Error::GroupWithoutUser);
    }
    let ids = user.uid.iter().chain(&user.gid).chain(&user.supplemental_groups);
    if let Some(id) = ids.into_iter().find(|id| **id == u32::MAX) {
        return Err(Error::User {
            user: id.to_string(),
            problem: "this id means \"no change\" to the kernel",
        });
    }
    if user.name.is_empty() { Ok(()) } else { check_name(&user.name, &user.name) }
}

/// The image's `user[:group]`, checked. A group may be left out after the colon.
pub(super) fn image_user(text: &str) -> Result<String, Error> {
    let text = text.strip_suffix(':').unwrap_or(text);
    if !text.is_empty() {
        let (user, group) = text.split_once(':').unwrap_or((text, text));
        check_name(text, user)?;
        check_name(text, group)?;
    }
    Ok(text.into())
}

/// A name, or a number that is an id. What looks like a number but is none must not become a name that
/// another reader takes for a number, least of all for 0.
fn check_name(user: &str, name: &str) -> Result<(), Error> {
    let refuse = |problem| Err(Error::User { user: user.into(), problem });
    let numeric = name.bytes().all(|byte| byte.is_ascii_digit());
    match name.chars().next() {
        None => refuse("a name is empty"),
        Some(_) if name.len() > NAME_BYTES_MAX => refuse("a name is longer than 256 bytes"),
        Some(_) if numeric => match name.parse::<u32>() {
            Ok(id) if id < u32::MAX => Ok(()),
            _ => refuse("an id is larger than 4294967294"),
        },
        Some('0'..='9' | '+' | '-') => refuse("a name begins like a number"),
        Some(_) if name.contains(|c: char| c.is_control() || c.is_whitespace() || c == ':' || c == '/') => {
            refuse("a name contains white space, a control character, ':' or '/'")
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{Capabilities, UserChoice};

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn asking(add: &[&str], drop: &[&str], ambient: &[&str]) -> Security {
        let capabilities = Capabilities { add: names(add), drop: names(drop), ambient: names(ambient) };
        Security { capabilities, ..Default::default() }
    }

    #[test]
    fn the_set_up_has_sys_resource_where_the_node_has_it() {
        let resource = capability::SYS_RESOURCE;
        assert_eq!(setup_capabilities(0, u64::MAX) & resource, resource);
        assert_eq!(setup_capabilities(0, !resource) & resource, 0);
    }

    #[test]
    fn capabilities_are_added_and_dropped_by_name_or_all() {
        let net_raw = 1 << 13;
        for (add, drop, expected) in [
            (&[][..], &[][..], CAPABILITIES_DEFAULT),
            (&["SYS_ADMIN"], &[], CAPABILITIES_DEFAULT | capability::SYS_ADMIN),
            (&["CAP_SYS_ADMIN"], &["CAP_NET_RAW"], CAPABILITIES_DEFAULT & !net_raw | capability::SYS_ADMIN),
            (&["ALL"], &[], capability::ALL),
            (&["ALL"], &["NET_RAW"], capability::ALL & !net_raw),
            (&[], &["ALL"], 0),
            (&["SETUID"], &["ALL"], capability::SETUID),
            (&["ALL"], &["ALL"], 0),
            (&["NET_RAW"], &["NET_RAW"], CAPABILITIES_DEFAULT & !net_raw),
            (&[], &["OF_TOMORROW", "CAP_NET_RAW"], CAPABILITIES_DEFAULT & !net_raw),
        ] {
            assert_eq!(capabilities(&asking(add, drop, &[])).unwrap(), expected, "+{add:?} -{drop:?}");
        }
        let privileged = Security { privileged: true, ..asking(&[], &["ALL"], &[]) };
        assert_eq!(capabilities(&privileged).unwrap(), capability::ALL);
    }

    #[test]
    fn an_unknown_capability_is_an_error_that_names_it() {
        let security = asking(&["FLY"], &[], &[]);
        assert!(matches!(capabilities(&security), Err(Error::Capability { name }) if name == "FLY"));
        let ambient = ambient(&asking(&[], &[], &["sys_admin"]), capability::ALL);
        assert!(matches!(ambient, Err(Error::Capability { name }) if name == "sys_admin"));
    }

    #[test]
    fn ambient_capabilities_are_among_the_permitted() {
        for (asked, permitted, expected) in [
            (&[][..], capability::ALL, 0),
            (&["SETUID", "SYS_ADMIN"], capability::SETUID, capability::SETUID),
            (&["ALL"], CAPABILITIES_DEFAULT, CAPABILITIES_DEFAULT),
        ] {
            assert_eq!(ambient(&asking(&[], &[], asked), permitted).unwrap(), expected, "{asked:?}");
        }
    }

    #[test]
    fn a_list_of_hidden_paths_replaces_ours_exactly() {
        let ours = hidden_paths(&Security::default()).unwrap();
        assert_eq!((ours.0.len(), ours.1.len()), (12, 5));
        let security = Security {
            masked_paths: Some(vec![]),
            readonly_paths: Some(vec!["/a".into()]),
            ..Default::default()
        };
        assert_eq!(hidden_paths(&security).unwrap(), (vec![], vec!["/a".to_string()]));
        let privileged = Security { privileged: true, ..security };
        assert_eq!(hidden_paths(&privileged).unwrap(), (vec![], vec![]));
        for bad in ["", "proc", "/a\0"] {
            let security = Security { masked_paths: Some(vec![bad.into()]), ..Default::default() };
            assert!(hidden_paths(&security).is_err(), "{bad:?}");
        }
        let security = Security { masked_paths: Some(vec!["/a".into(); 1001]), ..Default::default() };
        assert!(matches!(hidden_paths(&security), Err(Error::Limit { given: 1001, .. })));
    }

    #[test]
    fn a_filter_is_there_unless_it_is_waived() {
        let compiled: Arc<[u8]> = [0; 8].as_slice().into();
        let empty: Arc<[u8]> = [].as_slice().into();
        let localhost = SeccompChoice::Localhost("/p.json".into());
        for (choice, privileged, given, expected) in [
            (SeccompChoice::RuntimeDefault, false, Some(&compiled), Some(true)),
            (SeccompChoice::RuntimeDefault, false, None, None),
            (SeccompChoice::RuntimeDefault, true, None, Some(false)),
            (SeccompChoice::RuntimeDefault, true, Some(&compiled), Some(false)),
            (localhost.clone(), false, Some(&compiled), Some(true)),
            (localhost.clone(), false, Some(&empty), None),
            (localhost, false, None, None),
            (SeccompChoice::Unconfined, false, None, Some(false)),
            (SeccompChoice::Unsaid, false, None, Some(false)),
        ] {
            let security = Security { privileged, seccomp: choice.clone(), ..Default::default() };
            let filtered = filter(&security, given).ok().map(|filter| filter.is_some());
            assert_eq!(filtered, expected, "{choice:?} {privileged} {given:?}");
        }
    }

    #[test]
    fn only_a_name_or_an_id_is_a_user() {
        for (text, expected) in [
            ("", Some("")),
            ("0", Some("0")),
            ("1000:", Some("1000")),
            ("web:www-data", Some("web:www-data")),
            ("4294967294:4294967294", Some("4294967294:4294967294")),
            ("_apt", Some("_apt")),
            ("2147483648", Some("2147483648")),
            ("4294967295", None),
            ("4294967296", None),
            ("18446744073709551616", None),
            ("1:4294967296", None),
            ("-1", None),
            ("+1", None),
            ("0x0", None),
            (" 0", None),
            ("0 ", None),
            ("a b", None),
            ("a\nb", None),
            (":0", None),
            ("a:b:c", None),
            ("../a", None),
        ] {
            assert_eq!(image_user(text).ok().as_deref(), expected, "{text:?}");
        }
        assert!(image_user(&"a".repeat(257)).is_err());
    }

    #[test]
    fn a_group_needs_a_user_and_ids_are_ids() {
        let of = |user| check_user(&Security { user, ..Default::default() });
        let id = |uid, gid| UserChoice { uid, gid, ..Default::default() };
        assert!(of(id(Some(0), Some(0))).is_ok());
        assert!(matches!(of(id(None, Some(1))), Err(Error::GroupWithoutUser)));
        assert!(of(UserChoice { name: "web".into(), ..id(None, Some(1)) }).is_ok());
        assert!(of(UserChoice { name: "a:b".into(), ..id(None, None) }).is_err());
        assert!(of(id(Some(u32::MAX), None)).is_err());
        assert!(of(UserChoice { supplemental_groups: vec![1, u32::MAX], ..id(None, None) }).is_err());
    }
}
