//! Image references and credentials. The grammar of a reference is the `image` room's.

use std::net::IpAddr;

use super::{
    At as _, Refusal, Why,
    limits::{CREDENTIAL_BYTES_MAX, NAME_BYTES_MAX, REFERENCE_BYTES_MAX},
    present,
    text::{at_most, line, quote},
};
use crate::{cri::wire, image::Credentials};

/// The reference or id to look an image up by.
pub(crate) fn reference(image: Option<wire::ImageSpec>) -> Result<String, Refusal> {
    let image = present("image", image)?.image;
    check(&image).at("image.image")?;
    Ok(image)
}

fn check(value: &str) -> Result<(), Why> {
    if value.is_empty() {
        return Err("is empty".into());
    }
    line(REFERENCE_BYTES_MAX, value)?;
    if value.contains(char::is_whitespace) {
        return Err(format!("{} has spaces", quote(value)).into());
    }
    Ok(())
}

/// Credentials that say nothing are none. No error repeats any part of a secret.
pub(crate) fn credentials(auth: Option<wire::AuthConfig>) -> Result<Option<Credentials>, Refusal> {
    let Some(auth) = auth else { return Ok(None) };
    if auth == wire::AuthConfig::default() {
        return Ok(None);
    }
    for (field, value) in [
        ("username", &auth.username),
        ("password", &auth.password),
        ("auth", &auth.auth),
        ("identity_token", &auth.identity_token),
        ("registry_token", &auth.registry_token),
    ] {
        secret(value).at(format_args!("auth.{field}"))?;
    }
    line(REFERENCE_BYTES_MAX, &auth.server_address).at("auth.server_address")?;
    Ok(Some(Credentials {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    }))
}

/// Goes into an HTTP header, where a newline would begin another one.
fn secret(value: &str) -> Result<(), Why> {
    at_most(CREDENTIAL_BYTES_MAX, value)?;
    if value.contains(char::is_control) { Err("has control characters".into()) } else { Ok(()) }
}

/// UpdateRuntimeConfig's only content: at most one range of addresses for each family, in the kubelet's order; none when
/// it was not given.
pub(crate) fn pod_cidrs(config: Option<wire::RuntimeConfig>) -> Result<Vec<String>, Refusal> {
    let network = config.and_then(|config| config.network_config).unwrap_or_default();
    let text = network.pod_cidr;
    line(NAME_BYTES_MAX, &text).at("runtime_config.network_config.pod_cidr")?;
    let ranges: Vec<&str> = text.split(',').map(str::trim).filter(|range| !range.is_empty()).collect();
    let checked = ranges.iter().map(|range| family(range)).collect::<Result<Vec<IpFamily>, Why>>();
    let families = checked.at("runtime_config.network_config.pod_cidr")?;
    match families[..] {
        [] | [_] | [IpFamily::V4, IpFamily::V6] | [IpFamily::V6, IpFamily::V4] => {
            Ok(ranges.into_iter().map(str::to_owned).collect())
        }
        _ => {
            let why = Why::from(format!("{text:?} has more than one range of a family"));
            Err(why).at("runtime_config.network_config.pod_cidr")
        }
    }
}

/// Of an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum IpFamily {
    V4,
    V6,
}

/// The family of a range such as `10.1.0.0/24`.
fn family(range: &str) -> Result<IpFamily, Why> {
    let parts = range
        .split_once('/')
        .and_then(|(address, prefix)| Some((address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?)));
    match parts {
        Some((IpAddr::V4(_), prefix)) if prefix <= 32 => Ok(IpFamily::V4),
        Some((IpAddr::V6(_), prefix)) if prefix <= 128 => Ok(IpFamily::V6),
        _ => Err(format!("{range:?} is not a range of addresses such as 10.1.0.0/24").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_cidrs_are_one_range_for_each_family() {
        let parsed = |text: &str| {
            let network_config = Some(wire::NetworkConfig { pod_cidr: text.into() });
            pod_cidrs(Some(wire::RuntimeConfig { network_config })).map_err(|refusal| refusal.to_string())
        };
        assert_eq!(parsed("").unwrap(), [""; 0]);
        assert_eq!(pod_cidrs(None).unwrap(), [""; 0]);
        assert_eq!(parsed("10.1.0.0/24").unwrap(), ["10.1.0.0/24"]);
        assert_eq!(parsed("fd00::/64, 10.1.0.0/24").unwrap(), ["fd00::/64", "10.1.0.0/24"]);
        for bad in
            ["10.1.0.0", "10.1.0.0/33", "x/8", "10.1.0.0/8,10.2.0.0/16", "fd00::/64,10.0.0.0/8,::/0", "a\nb"]
        {
            let error = parsed(bad).unwrap_err();
            assert!(error.contains("runtime_config.network_config.pod_cidr"), "{bad}: {error}");
        }
    }

    fn spec(image: &str) -> Option<wire::ImageSpec> {
        Some(wire::ImageSpec { image: image.into(), ..Default::default() })
    }

    #[test]
    fn a_reference_is_one_word_of_bounded_length() {
        let longest = "a".repeat(REFERENCE_BYTES_MAX);
        for good in ["busybox", "sha256:00", "localhost:5000/a/b:c@sha256:00", &longest] {
            assert_eq!(reference(spec(good)), Ok(good.into()));
        }
        for bad in ["", "a b", "a\n", "a\0", &format!("{longest}a")] {
            assert_eq!(reference(spec(bad)).unwrap_err().field, "image.image");
        }
        assert_eq!(reference(None).unwrap_err().to_string(), "image is missing");
    }

    #[test]
    fn empty_credentials_are_none_and_others_arrive_whole() {
        assert!(credentials(None).unwrap().is_none());
        assert!(credentials(Some(wire::AuthConfig::default())).unwrap().is_none());
        let auth = wire::AuthConfig {
            username: "u".into(),
            password: "p".into(),
            auth: "a".into(),
            server_address: "s".into(),
            identity_token: "i".into(),
            registry_token: "r".into(),
        };
        let got = credentials(Some(auth)).unwrap().unwrap();
        let fields = [
            got.username,
            got.password,
            got.auth,
            got.server_address,
            got.identity_token,
            got.registry_token,
        ];
        assert_eq!(fields, ["u", "p", "a", "s", "i", "r"]);
    }

    #[test]
    fn a_bad_secret_is_refused_but_not_repeated() {
        let newline = wire::AuthConfig { password: "hush\r\nX-Header: 1".into(), ..Default::default() };
        let refusal = credentials(Some(newline)).err().unwrap();
        assert_eq!(refusal.to_string(), "auth.password has control characters");
        let long =
            wire::AuthConfig { registry_token: "t".repeat(CREDENTIAL_BYTES_MAX + 1), ..Default::default() };
        let refusal = credentials(Some(long)).err().unwrap();
        assert_eq!(refusal.to_string(), "auth.registry_token has 65537 bytes, more than the 65536 allowed");
    }
}
