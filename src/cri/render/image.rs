//! Images and file system usage, model → wire.

use crate::{
    cri::wire,
    image::{FsUsage, Image},
};

pub(crate) fn image(image: &Image) -> wire::Image {
    let (uid, username) = user(&image.config.user);
    wire::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        // The kubelet takes an image of size zero for a broken answer; one without layers has that.
        size: image.size_bytes.max(1),
        uid: uid.map(|value| wire::Int64Value { value }),
        username,
        spec: None,
        pinned: image.pinned,
    }
}

/// The number or the name before the colon of the image's `User`. One of the two at most; neither is root.
/// A number that no user can have is shown as a name, so that `runAsNonRoot` does not pass it.
fn user(user: &str) -> (Option<i64>, String) {
    let name = user.split(':').next().unwrap_or_default();
    let digits = name.bytes().all(|byte| byte.is_ascii_digit());
    match name.parse::<u32>() {
        Ok(uid) if digits && uid < u32::MAX => (Some(uid.into()), String::new()),
        _ => (None, name.to_owned()),
    }
}

pub(crate) fn fs_usage(usage: &FsUsage) -> wire::FilesystemUsage {
    wire::FilesystemUsage {
        timestamp: usage.at.0,
        fs_id: Some(wire::FilesystemIdentifier { mountpoint: usage.mountpoint.display().to_string() }),
        used_bytes: Some(wire::UInt64Value { value: usage.used_bytes }),
        inodes_used: Some(wire::UInt64Value { value: usage.inodes_used }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Digest, ImageConfig, RootfsLayers, UnixNanos};

    pub(in crate::cri::render) fn busybox() -> Image {
        Image {
            id: Digest::from_bytes([3; 32]),
            repo_tags: vec!["docker.io/library/busybox:latest".into()],
            repo_digests: vec!["docker.io/library/busybox@sha256:11".into()],
            size_bytes: 0,
            config: ImageConfig { user: "1002:1003".into(), ..Default::default() },
            layers: RootfsLayers::default(),
            pinned: true,
        }
    }

    #[test]
    fn an_image_has_an_id_its_names_and_never_size_zero() {
        let expected = wire::Image {
            id: format!("sha256:{}", "03".repeat(32)),
            repo_tags: vec!["docker.io/library/busybox:latest".into()],
            repo_digests: vec!["docker.io/library/busybox@sha256:11".into()],
            size: 1,
            uid: Some(wire::Int64Value { value: 1002 }),
            username: String::new(),
            spec: None,
            pinned: true,
        };
        assert_eq!(image(&busybox()), expected);
    }

    #[test]
    fn a_user_is_a_number_or_a_name_and_nothing_wraps() {
        for (given, uid, name) in [
            ("", None, ""),
            ("0", Some(0), ""),
            ("www-data:1004", None, "www-data"),
            ("4294967294", Some(4_294_967_294), ""),
            ("4294967295", None, "4294967295"),
            ("4294967296", None, "4294967296"),
            ("+1", None, "+1"),
            ("0x0", None, "0x0"),
            ("-1", None, "-1"),
            (" 0", None, " 0"),
        ] {
            assert_eq!(user(given), (uid, name.to_owned()), "{given:?}");
        }
    }

    #[test]
    fn used_bytes_are_always_set() {
        let usage =
            FsUsage { at: UnixNanos(5), mountpoint: "/var/lib/pintle".into(), used_bytes: 0, inodes_used: 7 };
        let expected = wire::FilesystemUsage {
            timestamp: 5,
            fs_id: Some(wire::FilesystemIdentifier { mountpoint: "/var/lib/pintle".into() }),
            used_bytes: Some(wire::UInt64Value { value: 0 }),
            inodes_used: Some(wire::UInt64Value { value: 7 }),
        };
        assert_eq!(fs_usage(&usage), expected);
    }
}
