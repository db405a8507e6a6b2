//! The moment that `--since` names, purely.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::Offset};

/// A text that names no moment.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is neither a time (2026-11-28T10:00:00Z), nor how long ago (10m, 1h30m), nor seconds since 1970"
)]
pub(super) struct NotAMoment(String);

/// Reads a time in RFC 3339 (UTC where no offset is given, also a date alone), how long before `now`, or seconds since
/// 1970, perhaps with decimals: what podman and docker take.
pub(super) fn parse(text: &str, now: Timestamp) -> Result<Timestamp, NotAMoment> {
    let ago = || now.checked_sub(text.parse::<SignedDuration>().ok()?).ok();
    let civil = || Offset::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok();
    seconds(text)
        .or_else(|| text.parse().ok())
        .or_else(civil)
        .or_else(ago)
        .ok_or_else(|| NotAMoment(text.to_owned()))
}

/// `1136073600`, or `1136073600.000000001`.
fn seconds(text: &str) -> Option<Timestamp> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > 9 {
        return None;
    }
    let nanoseconds = format!("{decimals:0<9}").parse().ok()?;
    Timestamp::new(whole.parse().ok()?, nanoseconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago_or_seconds() {
        let now: Timestamp = "2026-11-28T10:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-11-28T09:30:00Z", "2026-11-28T09:30:00Z"),
            ("2026-11-28T09:30:00.000000001Z", "2026-11-28T09:30:00.000000001Z"),
            ("2026-11-28T11:30:00+02:00", "2026-11-28T09:30:00Z"),
            ("2026-11-28T09:30:00", "2026-11-28T09:30:00Z"),
            ("2026-11-27", "2026-11-27T00:00:00Z"),
            ("10m", "2026-11-28T09:50:00Z"),
            ("1h30m", "2026-11-28T08:30:00Z"),
            ("1.5h", "2026-11-28T08:30:00Z"),
            ("1500ms", "2026-11-28T09:59:58.5Z"),
            ("0", "1970-01-01T00:00:00Z"),
            ("1795860000", "2026-11-28T10:00:00Z"),
            ("1795860000.25", "2026-11-28T10:00:00.25Z"),
        ] {
            assert_eq!(parse(text, now), Ok(expected.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_names_no_moment_is_refused() {
        for text in ["", "yesterday", "10x", "1.", ".5", "1.0000000001", "99999999999999999999", "2026-13-01"]
        {
            let refused = parse(text, Timestamp::UNIX_EPOCH).unwrap_err();
            assert!(refused.to_string().starts_with(&format!("{text:?} is neither a time")), "{refused}");
        }
    }
}
