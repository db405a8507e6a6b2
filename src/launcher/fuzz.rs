//! The fuzz target of the image's user databases.

use super::user::lookup;
use crate::model::{GroupsPolicy, UserChoice};

/// `/etc/passwd`, `/etc/group`, the image's user and the request's, with a NUL between: nobody becomes −1, and nobody
/// leaves their primary group.
pub fn users(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut parts = text.split('\0');
    let mut part = || parts.next().unwrap_or_default();
    let (passwd, group, image_user) = (part(), part(), part());
    let choice =
        UserChoice { name: part().into(), groups_policy: GroupsPolicy::Merge, ..UserChoice::default() };
    let Ok(identity) = lookup(passwd, group, &choice, image_user) else { return };
    let user = identity.user;
    assert!(user.uid != u32::MAX && !user.groups.contains(&u32::MAX));
    assert_eq!(user.groups.first(), Some(&user.gid));
    assert!(identity.home.starts_with('/') && !identity.home.contains('\0'));
}
