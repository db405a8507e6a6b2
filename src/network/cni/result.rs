//! Results of plugins, of every version of the specification: what a pod got, or the plugin's own words on why not.
//! Pure.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::config::Version;

/// Most that a plugin may write to its standard output; bytes. Real results have some hundred.
pub(super) const RESULT_BYTES_MAX: usize = 1 << 20;
/// Most addresses of one pod: more would not fit into what the kubelet keeps of it.
const ADDRESSES_MAX: usize = 64;
/// Longest piece of a plugin's words in an error; bytes. gRPC cuts a message off at some kilobytes.
const WORDS_BYTES_MAX: usize = 1024;

/// Why a result is of no use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadResult(String);

/// Since 0.3.0: `ips` of all interfaces.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Result {
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Address>>,
    /// Before 0.3.0: at most one address of each family.
    ip4: Option<OldAddress>,
    ip6: Option<OldAddress>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Interface {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Address {
    /// With the length of its prefix.
    address: String,
    /// Which of `interfaces` has it; the one that was asked for, if that is not said.
    interface: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct OldAddress {
    ip: String,
}

/// What an ADD has printed, as JSON.
///
/// # Errors
/// [`BadResult`] for what is no object.
pub(super) fn parse(stdout: &[u8]) -> std::result::Result<Value, BadResult> {
    if stdout.iter().all(u8::is_ascii_whitespace) {
        return Err(BadResult("printed no result".into()));
    }
    match serde_json::from_slice(stdout) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(BadResult(format!("printed no result, but {}", words(stdout)))),
        Err(error) => Err(BadResult(format!("printed no JSON ({error}): {}", words(stdout)))),
    }
}

/// The addresses that `interface` got, in the plugin's order.
///
/// # Errors
/// [`BadResult`] for addresses that are none, or have no interface, and for none at all.
pub(super) fn addresses(result: &Value, interface: &str) -> std::result::Result<Vec<IpAddr>, BadResult> {
    let bad = |error| BadResult(format!("printed a result that cannot be read: {error}"));
    let Result { interfaces, ips, ip4, ip6 } = Result::deserialize(result).map_err(bad)?;
    let interfaces = interfaces.unwrap_or_default();
    let mut found = Vec::new();
    for Address { address, interface: at } in ips.unwrap_or_default() {
        let name = match at {
            None => interface,
            Some(at) => match usize::try_from(at).ok().and_then(|at| interfaces.get(at)) {
                Some(owner) => &owner.name,
                None => {
                    return Err(BadResult(format!(
                        "gave {address} to interface {at}, which it does not list"
                    )));
                }
            },
        };
        if name == interface {
            found.push(ip(&address)?);
        }
    }
    for OldAddress { ip: address } in [ip4, ip6].into_iter().flatten() {
        found.push(ip(&address)?);
    }
    if found.is_empty() {
        return Err(BadResult(format!("gave no address to {interface}")));
    }
    if found.len() > ADDRESSES_MAX {
        return Err(BadResult(format!(
            "gave {} addresses to {interface}, more than {ADDRESSES_MAX}",
            found.len()
        )));
    }
    Ok(found)
}

fn ip(text: &str) -> std::result::Result<IpAddr, BadResult> {
    let (address, prefix) =
        text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: Option<IpAddr> = address.parse().ok();
    let bits = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
    let fits = |prefix: &str, address| prefix.parse::<u8>().is_ok_and(|prefix| prefix <= bits(address));
    match address {
        Some(address) if prefix.is_none_or(|prefix| fits(prefix, address)) => Ok(address),
        _ => Err(BadResult(format!("gave the address {}, which is none", words(text.as_bytes())))),
    }
}

/// What a plugin that failed says of it: its error object, else the last that it has written.
pub(super) fn complaint(stdout: &[u8], stderr: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Complaint {
        #[serde(default)]
        code: i64,
        msg: String,
        #[serde(default)]
        details: String,
    }
    if let Ok(Complaint { code, msg, details }) = serde_json::from_slice(stdout) {
        let details = if details.is_empty() { details } else { format!("; {details}") };
        let code = if code == 0 { String::new() } else { format!(" (code {code})") };
        return words(format!("{msg}{details}{code}").as_bytes());
    }
    for said in [stderr, stdout] {
        if !said.iter().all(u8::is_ascii_whitespace) {
            return words(said.get(said.len().saturating_sub(WORDS_BYTES_MAX)..).unwrap_or(said));
        }
    }
    "it does not say why".into()
}

/// The versions that a plugin says it knows (VERSION).
pub(super) fn versions(stdout: &[u8]) -> std::result::Result<Vec<Version>, BadResult> {
    #[derive(Deserialize)]
    struct Versions {
        #[serde(rename = "supportedVersions")]
        supported: Vec<String>,
    }
    let versions: Versions = serde_json::from_slice(stdout)
        .map_err(|error| BadResult(format!("printed no versions ({error}): {}", words(stdout))))?;
    Ok(versions.supported.iter().filter_map(|text| Version::parse(text)).collect())
}

/// Untrusted bytes as one line of text.
fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.get(..WORDS_BYTES_MAX).unwrap_or(bytes));
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if bytes.len() > WORDS_BYTES_MAX { format!("{line}…") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn of(result: &Value) -> std::result::Result<Vec<String>, String> {
        addresses(result, "eth0")
            .map(|all| all.iter().map(ToString::to_string).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_addresses_of_the_interface_are_found_in_every_version() {
        let interfaces =
            json!([{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/x"}, {"name": "net1"}]);
        for (result, expected) in [
            (
                json!({"ips": [{"version": "4", "address": "10.1.2.3/24", "interface": 1}], "interfaces": interfaces}),
                &["10.1.2.3"][..],
            ),
            (
                json!({"ips": [{"address": "fd00::2/64", "interface": 1}, {"address": "10.1.2.3/24", "interface": 1}, {"address": "10.9.9.9/24", "interface": 2}], "interfaces": interfaces}),
                &["fd00::2", "10.1.2.3"],
            ),
            (json!({"ips": [{"address": "10.1.2.3/24"}]}), &["10.1.2.3"]),
            (json!({"ips": [{"address": "10.1.2.3/32"}], "interfaces": null, "dns": {}}), &["10.1.2.3"]),
            (
                json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.2.3/24"}, "ip6": {"ip": "fd00::2/64"}}),
                &["10.1.2.3", "fd00::2"],
            ),
        ] {
            assert_eq!(of(&result).unwrap(), expected, "{result}");
        }
    }

    #[test]
    fn a_result_without_an_address_is_none() {
        let many: Vec<_> = (0..65).map(|nth| json!({"address": format!("10.0.0.{nth}/8")})).collect();
        for (result, expected) in [
            (json!({}), "gave no address to eth0"),
            (json!({"ips": []}), "gave no address to eth0"),
            (
                json!({"ips": [{"address": "10.0.0.1/8", "interface": 0}], "interfaces": [{"name": "net1"}]}),
                "gave no address to eth0",
            ),
            (
                json!({"ips": [{"address": "10.0.0.1/8", "interface": 3}]}),
                "to interface 3, which it does not list",
            ),
            (
                json!({"ips": [{"address": "10.0.0.1/8", "interface": -1}]}),
                "to interface -1, which it does not list",
            ),
            (json!({"ips": [{"address": "10.0.0.1/33"}]}), "which is none"),
            (json!({"ips": [{"address": "10.0.0.256/8"}]}), "which is none"),
            (json!({"ips": "10.0.0.1"}), "cannot be read"),
            (json!({"ips": many}), "gave 65 addresses to eth0, more than 64"),
        ] {
            let error = of(&result).unwrap_err();
            assert!(error.contains(expected), "{result}: {error}");
        }
    }

    #[test]
    fn what_is_printed_instead_of_a_result_is_shown() {
        for (stdout, expected) in [
            (&b""[..], "printed no result"),
            (b" \n", "printed no result"),
            (b"[1]", "printed no result, but [1]"),
            (
                b"hello\x1b[31m\nworld",
                "printed no JSON (expected value at line 1 column 1): hello [31m world",
            ),
            (
                b"{\"ips\": []} trailing",
                "printed no JSON (trailing characters at line 1 column 13): {\"ips\": []} trailing",
            ),
        ] {
            assert_eq!(parse(stdout).unwrap_err().to_string(), expected);
        }
        let long = parse(&[b'x'; 5000]).unwrap_err().to_string();
        assert!(long.len() < 1200 && long.ends_with('…'), "{long}");
    }

    #[test]
    fn a_plugin_that_fails_is_quoted() {
        for (stdout, stderr, expected) in [
            (
                &br#"{"code": 11, "msg": "no addresses", "details": "pool is empty"}"#[..],
                &b"noise"[..],
                "no addresses; pool is empty (code 11)",
            ),
            (br#"{"msg": "no"}"#, b"", "no"),
            (b"plain", b"", "plain"),
            (b"{}", b"Segmentation fault\n", "Segmentation fault"),
            (b"", b"\n", "it does not say why"),
        ] {
            assert_eq!(complaint(stdout, stderr), expected);
        }
        assert!(complaint(b"", &[b'y'; 100_000]).len() <= WORDS_BYTES_MAX);
    }

    #[test]
    fn versions_are_read_and_those_unknown_are_left_out() {
        let all =
            versions(br#"{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "x", "1.0.0"]}"#).unwrap();
        assert_eq!(all.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0.4.0", "1.0.0"]);
        assert!(versions(b"{}").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_upset_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(value) = parse(&bytes) {
                let _ = addresses(&value, "eth0");
            }
            let _ = (complaint(&bytes, &bytes), versions(&bytes));
        }
    }
}
