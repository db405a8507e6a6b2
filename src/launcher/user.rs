//! The identity of a process, resolved against the image's own passwd(5) and group(5).
//!
//! Never through NSS: that would load libraries of the image into our process.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::fs::{FileType, OFlags};

use serde::{Deserialize, Serialize};

use crate::model::{Failure, GroupsPolicy, ResolvedUser, Stage, UserChoice};

/// Bytes of passwd and group that are read at most.
const DATABASE_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// Supplementary groups at most. Linux takes 65,536, but they must fit into a report, and whoever is in more is
/// no user of an image. More are an error: a group that is left out may be one that files deny something.
const GROUPS_MAX: usize = 1_000;
/// Bytes of a home directory at most: a path.
const HOME_BYTES_MAX: usize = 4_095;

/// The user and groups that a process runs as, and its home.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Identity {
    pub user: ResolvedUser,
    /// The value of HOME when the environment has none.
    pub home: String,
}

/// Resolves `choice` (and `image_user` where it names nobody) in the root file system `root`.
///
/// # Errors
/// Stage `User`, naming the user or group that is not there.
pub(super) fn resolve(root: &OwnedFd, choice: &UserChoice, image_user: &str) -> Result<Identity, Failure> {
    let read = |path: &str| {
        let unreadable = |error: &io::Error| Failure::io(Stage::User, "", path, error);
        let bytes = read_file(root, path, DATABASE_BYTES_MAX).map_err(|error| unreadable(&error))?;
        Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    };
    lookup(&read("/etc/passwd")?, &read("/etc/group")?, choice, image_user)
}

/// Reads a small file of the root, as its own processes would see it. `None`: it is not there.
///
/// # Errors
/// When it is no regular file, too large or unreadable. What is no regular file is not opened: the open alone
/// of a device of the image could do something.
fn read_file(root: &OwnedFd, path: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let unfit = || io::Error::other(format!("not a regular file of at most {bytes_max} bytes"));
    let found = match crate::sys::path::open_in_root(root.as_fd(), Path::new(path), OFlags::PATH) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::RegularFile {
        return Err(unfit());
    }
    // The very inode that was looked at.
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    let metadata = file.metadata()?;
    if metadata.len() > bytes_max {
        return Err(unfit());
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, bytes_max), &mut bytes)?;
    Ok(Some(bytes))
}

struct Account<'a> {
    name: &'a str,
    /// Both as they are written.
    uid: &'a str,
    gid: &'a str,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        Some(Account { name, uid, gid, home })
    })
}

struct Group<'a> {
    name: &'a str,
    /// As it is written.
    gid: &'a str,
    members: &'a str,
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members, ..] = fields[..] else { return None };
        Some(Group { name, gid, members })
    })
}

pub(super) fn lookup(
    passwd: &str,
    group: &str,
    choice: &UserChoice,
    image_user: &str,
) -> Result<Identity, Failure> {
    let (image_name, image_group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let (wanted, group_wanted) = match (choice.uid, choice.name.as_str()) {
        (Some(uid), _) => (uid.to_string(), ""),
        (None, "") => (image_name.to_owned(), image_group),
        (None, name) => (name.to_owned(), ""),
    };
    let number = if wanted.is_empty() { Some(0) } else { number(&wanted) };
    let account = accounts(passwd).find(|account| match number {
        Some(uid) => self::number(account.uid) == Some(uid),
        None => account.name == wanted,
    });
    let uid = match (number, &account) {
        (Some(uid), _) => uid,
        (None, Some(account)) => id("user", account.name, account.uid, "/etc/passwd")?,
        (None, None) => return Err(unknown("user", &wanted, "/etc/passwd")),
    };
    let gid = match (choice.gid, group_wanted) {
        (Some(gid), _) => gid,
        (None, "") => match &account {
            Some(account) => id("group", account.name, account.gid, "/etc/passwd")?,
            None => 0,
        },
        (None, name) => match self::number(name) {
            Some(gid) => gid,
            None => {
                let found = groups(group).find(|group| group.name == name);
                let found = found.ok_or_else(|| unknown("group", name, "/etc/group"))?;
                id("group", found.name, found.gid, "/etc/group")?
            }
        },
    };
    // The primary group is always among the supplementary ones: a file's mode may deny a group, and a
    // process that could leave the group would escape the denial.
    let mut all = vec![gid];
    all.extend(&choice.supplemental_groups);
    if let (GroupsPolicy::Merge, Some(account)) = (choice.groups_policy, &account) {
        let mine = |group: &Group<'_>| group.members.split(',').any(|member| member == account.name);
        for group in groups(group).filter(mine) {
            // One that is left out may be one that files deny something.
            all.push(id("group", group.name, group.gid, "/etc/group")?);
        }
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|gid| seen.insert(*gid));
    if all.len() > GROUPS_MAX {
        let text = format!("{} groups, and at most {GROUPS_MAX} are possible", all.len());
        return Err(Failure::new(Stage::User, format!("{wanted:?}"), text));
    }
    let home = account.map_or("/", |account| account.home);
    let is_path = home.starts_with('/') && home.len() <= HOME_BYTES_MAX && !home.contains(char::is_control);
    let home = if is_path { home.to_owned() } else { "/".to_owned() };
    Ok(Identity { user: ResolvedUser { uid, gid, groups: all }, home })
}

/// A user or group id: decimal digits only, and never the "no change" value −1.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number != u32::MAX)
}

/// The id that a file of the image gives `name`.
fn id(kind: &str, name: &str, text: &str, file: &str) -> Result<u32, Failure> {
    number(text).ok_or_else(|| {
        let text = format!("the image's {file} gives it the {kind} id {text:?}, which is none");
        Failure::new(Stage::User, format!("{name:?}"), text)
    })
}

fn unknown(kind: &str, name: &str, file: &str) -> Failure {
    Failure::new(Stage::User, format!("{name:?}"), format!("the image's {file} has no such {kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nwww-data:x:33:34::/var/www:/bin/false\nfar:x:70:70::rel:x\n";
    const GROUP: &str = "root:x:0:\nwww-data:x:34:\nbad:x\nlogs:x:50:far,www-data\nops:x:51:other,www-data\n";

    fn check(choice: UserChoice, image_user: &str, expected: Result<(u32, u32, &[u32], &str), &str>) {
        let found = lookup(PASSWD, GROUP, &choice, image_user);
        let found = found.map(|id| (id.user.uid, id.user.gid, id.user.groups, id.home));
        let expected = expected.map(|(uid, gid, groups, home)| (uid, gid, groups.to_vec(), home.to_owned()));
        assert_eq!(found.map_err(|failure| failure.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn names_and_numbers_resolve_in_the_image() {
        let nobody = UserChoice::default;
        let uid = |uid| UserChoice { uid: Some(uid), ..UserChoice::default() };
        check(nobody(), "", Ok((0, 0, &[0], "/root")));
        check(nobody(), "www-data", Ok((33, 34, &[34, 50, 51], "/var/www")));
        check(nobody(), "33:root", Ok((33, 0, &[0, 50, 51], "/var/www")));
        check(nobody(), "1234:77", Ok((1234, 77, &[77], "/")));
        check(nobody(), "far", Ok((70, 70, &[70, 50], "/")));
        check(uid(33), "root", Ok((33, 34, &[34, 50, 51], "/var/www")));
        check(uid(5), "33", Ok((5, 0, &[0], "/")));
    }

    #[test]
    fn the_request_wins_and_strict_takes_only_what_it_gives() {
        let choice = UserChoice {
            name: "www-data".into(),
            gid: Some(9),
            supplemental_groups: vec![60, 9],
            groups_policy: GroupsPolicy::Strict,
            ..UserChoice::default()
        };
        check(choice.clone(), "far", Ok((33, 9, &[9, 60], "/var/www")));
        let merge = UserChoice { groups_policy: GroupsPolicy::Merge, ..choice };
        check(merge, "far", Ok((33, 9, &[9, 60, 50, 51], "/var/www")));
    }

    #[test]
    fn what_is_not_there_is_an_error_and_numbers_do_not_wrap() {
        let nobody = UserChoice::default;
        let no_user =
            |name| format!("could not resolve user {name:?}: the image's /etc/passwd has no such user");
        for bad in ["4294967295", "4294967296", "-1", "+1", "0x0", " 0", "ghost"] {
            check(nobody(), bad, Err(&no_user(bad)));
        }
        let no_group = "could not resolve user \"ghosts\": the image's /etc/group has no such group";
        check(nobody(), "root:ghosts", Err(no_group));
    }

    #[test]
    fn the_id_that_means_no_change_is_none_in_any_file() {
        const PASSWD: &str =
            "max:x:4294967295:1::/:\nin:x:7:4294967295::/:\nfar:x:4294967296:-1::/:\nok:x:8:8::/:\n";
        const GROUP: &str = "top:x:4294967295:ok\n";
        let resolve = |user: &str, policy| {
            let choice = UserChoice { groups_policy: policy, ..UserChoice::default() };
            lookup(PASSWD, GROUP, &choice, user).map_err(|failure| failure.to_string())
        };
        for (user, kind, id, of, file) in [
            ("max", "user", "4294967295", "max", "passwd"),
            ("in", "group", "4294967295", "in", "passwd"),
            ("far", "user", "4294967296", "far", "passwd"),
            ("ok", "group", "4294967295", "top", "group"),
            ("8:top", "group", "4294967295", "top", "group"),
        ] {
            let said = format!(
                "could not resolve user {of:?}: the image's /etc/{file} gives it the {kind} id {id:?}, which is none"
            );
            assert_eq!(resolve(user, GroupsPolicy::Merge), Err(said), "{user}");
        }
        assert_eq!(resolve("ok", GroupsPolicy::Strict).unwrap().user.groups, [8]);
        assert!(resolve("4294967295", GroupsPolicy::Strict).is_err());
    }
}
