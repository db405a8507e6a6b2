//! The format of a record: a header with version and checksum, then JSON.

use std::{io, str};

use serde::{Serialize, de::DeserializeOwned};

/// Bytes of one record file. A pod's record carries labels and annotations (256 KiB at most) and a
/// container's its arguments and environment (2 MiB each), which JSON may write four times as long.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// The layout of header and body. Raised only when an old reader would misread a new record; a record
/// that merely grows a field keeps it.
pub(super) const VERSION: u32 = 1;

/// `pintle-record VVVV LLLLLLLL CCCCCCCC\n`, in every version.
const HEADER_BYTES: usize = 37;

/// Why a record could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BadRecord {
    /// There is nothing at the path.
    #[error("no record")]
    Absent,
    /// The file system failed.
    #[error("read record")]
    Io(#[from] io::Error),
    /// Damaged: not what `put` wrote, or not a file of ours at all.
    #[error("record is damaged: {0}")]
    Damaged(String),
    /// Whole, and of a later release.
    #[error("record has version {0}, which this release does not know")]
    UnknownVersion(u32),
}

/// The bytes of a record that holds `value`.
///
/// # Errors
/// `InvalidData` when `value` has no JSON form or is longer than [`RECORD_BYTES_MAX`].
pub(super) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![b' '; HEADER_BYTES];
    serde_json::to_writer(&mut bytes, value)?;
    if bytes.len() > RECORD_BYTES_MAX {
        let text = format!("record of {} bytes is over the limit of {RECORD_BYTES_MAX}", bytes.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let head = header(VERSION, &bytes[HEADER_BYTES..]);
    bytes[..HEADER_BYTES].copy_from_slice(head.as_bytes());
    Ok(bytes)
}

/// Reads what [`encode`] wrote.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadRecord> {
    let damaged = |what: &str| BadRecord::Damaged(what.into());
    let Some((head, body)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(damaged("shorter than its header"));
    };
    let version = str::from_utf8(head)
        .ok()
        .and_then(|text| text.get(14..18))
        .and_then(|hex| u32::from_str_radix(hex, 16).ok())
        .ok_or_else(|| damaged("no header"))?;
    // The header is rebuilt and compared as a whole, so that no byte of it has a second spelling.
    if header(version, body).as_bytes() != head {
        return Err(damaged("header does not fit the body"));
    }
    if version != VERSION {
        return Err(BadRecord::UnknownVersion(version));
    }
    serde_json::from_slice(body).map_err(|error| BadRecord::Damaged(error.to_string()))
}

/// The checksum covers version and length too: a flipped version must read as damage, not as a later release.
pub(super) fn header(version: u32, body: &[u8]) -> String {
    let start = format!("pintle-record {version:04x} {:08x} ", body.len());
    let sum = crc32c::crc32c_append(crc32c::crc32c(start.as_bytes()), body);
    format!("{start}{sum:08x}\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn sample() -> BTreeMap<String, String> {
        BTreeMap::from([("name".into(), "web".into()), ("note".into(), "ü\0\"".into())])
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let bytes = encode(&sample()).unwrap();
        assert_eq!(decode::<BTreeMap<String, String>>(&bytes).unwrap(), sample());
        assert!(bytes.starts_with(b"pintle-record 0001 "), "{bytes:?}");
    }

    #[test]
    fn every_truncation_is_damage() {
        let bytes = encode(&sample()).unwrap();
        for cut in 0..bytes.len() {
            let got = decode::<BTreeMap<String, String>>(&bytes[..cut]);
            assert!(matches!(got, Err(BadRecord::Damaged(_))), "cut at {cut}: {got:?}");
        }
    }

    #[test]
    fn every_other_value_of_every_byte_is_damage() {
        let bytes = encode(&sample()).unwrap();
        for at in 0..bytes.len() {
            for flip in 1..=255 {
                let mut bytes = bytes.clone();
                bytes[at] ^= flip;
                let got = decode::<BTreeMap<String, String>>(&bytes);
                assert!(matches!(got, Err(BadRecord::Damaged(_))), "byte {at} ^ {flip}: {got:?}");
            }
        }
    }

    #[test]
    fn bytes_after_the_body_are_damage() {
        let mut bytes = encode(&sample()).unwrap();
        bytes.push(b' ');
        assert!(matches!(decode::<BTreeMap<String, String>>(&bytes), Err(BadRecord::Damaged(_))));
    }

    #[test]
    fn a_whole_record_of_a_later_release_is_told_from_a_damaged_one() {
        let body = br#"{"shape":"other"}"#;
        let mut bytes = header(2, body).into_bytes();
        bytes.extend_from_slice(body);
        assert!(matches!(decode::<BTreeMap<String, String>>(&bytes), Err(BadRecord::UnknownVersion(2))));
    }

    #[test]
    fn a_record_over_the_limit_is_not_written() {
        let error = encode(&"x".repeat(RECORD_BYTES_MAX)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    proptest::proptest! {
        #[test]
        fn foreign_bytes_are_never_a_record(bytes: Vec<u8>) {
            proptest::prop_assert!(decode::<serde_json::Value>(&bytes).is_err());
        }
    }
}
