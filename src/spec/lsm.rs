//! Which profile of a Linux security module a container's processes run under.

use super::Error;
use crate::model::{AppArmorChoice, Security};

/// The name of pintle's own AppArmor profile (apparmor.d(5)), which containers get that ask for no other.
pub const APPARMOR_DEFAULT: &str = "pintle-default";

/// The paths where distributions have apparmor_parser(8), which loads profiles.
pub const APPARMOR_PARSERS: [&str; 2] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];

/// The text of that profile. It includes nothing, so that it means the same on every host.
const APPARMOR_DEFAULT_TEXT: &str = include_str!("apparmor.profile");

/// The rules of apparmor_parser(8) that the text is written for. Without this line newer parsers mediate more than it
/// allows, user namespaces among it.
const APPARMOR_ABI: &str = "abi <abi/3.0>,\n";

/// The AppArmor profile of a container; `None`: unconfined. `enabled`: whether the kernel has AppArmor on.
///
/// # Errors
/// [`Error::NoAppArmor`]: a profile of the host was asked for, and nothing would enforce it.
pub fn apparmor(security: &Security, enabled: bool) -> Result<Option<&str>, Error> {
    match &security.apparmor {
        AppArmorChoice::Localhost(profile) if !enabled => Err(Error::NoAppArmor { profile: profile.clone() }),
        AppArmorChoice::Localhost(profile) => Ok(Some(profile)),
        AppArmorChoice::RuntimeDefault | AppArmorChoice::Unsaid if enabled && !security.privileged => {
            Ok(Some(APPARMOR_DEFAULT))
        }
        AppArmorChoice::RuntimeDefault | AppArmorChoice::Unsaid | AppArmorChoice::Unconfined => Ok(None),
    }
}

/// The text for the parser to load; `with_abi`: whether the host has the rules of [`APPARMOR_ABI`].
pub fn apparmor_default_text(with_abi: bool) -> String {
    format!("{}{APPARMOR_DEFAULT_TEXT}", if with_abi { APPARMOR_ABI } else { "" })
}

/// Whether a profile is in the kernel's list (`/sys/kernel/security/apparmor/profiles`: a line `NAME (MODE)` each).
pub fn apparmor_lists(list: &str, profile: &str) -> bool {
    list.lines().any(|line| line.rsplit_once(" (").is_some_and(|(name, _)| name == profile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_confined_unless_it_may_not_be() {
        let host = AppArmorChoice::Localhost("web".into());
        let decided = |apparmor: &AppArmorChoice, privileged, enabled| {
            let security = Security { apparmor: apparmor.clone(), privileged, ..Security::default() };
            self::apparmor(&security, enabled).map(|profile| profile.map(str::to_owned)).ok()
        };
        let profile = |name: &str| Some(Some(name.to_owned()));
        for (choice, privileged, enabled, expected) in [
            (&AppArmorChoice::RuntimeDefault, false, true, profile("pintle-default")),
            (&AppArmorChoice::Unsaid, false, true, profile("pintle-default")),
            (&AppArmorChoice::RuntimeDefault, true, true, Some(None)),
            (&AppArmorChoice::RuntimeDefault, false, false, Some(None)),
            (&AppArmorChoice::Unconfined, false, true, Some(None)),
            (&host, false, true, profile("web")),
            (&host, true, true, profile("web")),
            (&host, false, false, None),
        ] {
            assert_eq!(decided(choice, privileged, enabled), expected, "{choice:?} {privileged} {enabled}");
        }
    }

    #[test]
    fn a_profile_is_listed_by_its_whole_name() {
        let list = "/usr/bin/man (enforce)\nname with (brackets) (complain)\npintle-default-2 (enforce)\n";
        assert!(apparmor_lists(list, "/usr/bin/man") && apparmor_lists(list, "name with (brackets)"));
        assert!(
            !apparmor_lists(list, "pintle-default")
                && !apparmor_lists(list, "man")
                && !apparmor_lists("", "")
        );
    }

    #[test]
    fn the_profile_has_the_name_by_which_it_is_used() {
        let text = apparmor_default_text(true);
        assert!(
            text.starts_with("abi <abi/3.0>,\n") && text.contains("\nprofile pintle-default flags="),
            "{text}"
        );
        assert!(!apparmor_default_text(false).contains("abi <"));
    }
}
