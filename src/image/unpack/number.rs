//! Numbers of a tar: the fields of a header, and pax values that stand in for them.
//!
//! Writers of thirty years have put signs, fractions, base 256 and rubbish there. tar-core reads plain octal
//! and unsigned integers, takes base 256 modulo 2^64 and refuses the rest (docs/upstream.md), so the fields that
//! say nothing about the stream are read here and hidden from it ([`Numbers::take`]). The size is not: what it
//! is must be beyond doubt, or two readers would see two archives.

use std::ops::Range;

use tar_core::{Header, PaxExtensions};

use super::LayerError;

const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const MAGIC: Range<usize> = 257..262;
const DEV_MAJOR: Range<usize> = 329..337;
const DEV_MINOR: Range<usize> = 337..345;

/// The owner of files whose owner cannot exist: the kernel's own id for that (`overflowuid`).
const NOBODY: u32 = 65_534;

/// Fields of one entry's header. `None` is "not a number".
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Numbers {
    mode: Option<i128>,
    uid: Option<i128>,
    gid: Option<i128>,
    mtime: Option<i128>,
    device: (Option<i128>, Option<i128>),
}

/// The same as the entry means them, pax values applied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Meant {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970, and nanoseconds after that.
    pub(super) mtime: (i64, u32),
    /// `None` if it has no device numbers that the kernel takes.
    pub(super) device: Option<(u32, u32)>,
}

impl Numbers {
    /// Reads the fields of a header block and writes zeros in their place. `None`, and nothing is changed: its
    /// checksum is wrong.
    pub(super) fn take(block: &mut [u8; 512]) -> Option<Self> {
        if !has_checksum(block) {
            return None;
        }
        let is_ustar = &block[MAGIC] == b"ustar";
        let mut read = |field: Range<usize>| {
            let number = number(&block[field.clone()]);
            block[field].fill(0);
            number
        };
        let numbers = Self {
            mode: read(MODE),
            uid: read(UID),
            gid: read(GID),
            mtime: read(MTIME),
            device: if is_ustar { (read(DEV_MAJOR), read(DEV_MINOR)) } else { (Some(0), Some(0)) },
        };
        let sum = format!("{:06o}\0 ", sums(block).0);
        block[CHECKSUM].copy_from_slice(sum.as_bytes());
        Some(numbers)
    }

    /// # Errors
    /// [`LayerError::Entry`] for an owner or a mode that is no number.
    pub(super) fn meant(&self, path: &[u8], pax: Option<&[u8]>) -> Result<Meant, LayerError> {
        let bad = |why| LayerError::entry(path, why);
        let text = |key| pax.and_then(|pax| last_value(pax, key)).filter(|text| !text.is_empty());
        let owner = |key, of_header: Option<i128>| {
            let number = match text(key) {
                Some(text) => decimal(text).map(|(seconds, _)| seconds),
                None => of_header,
            };
            number.map(id).ok_or_else(|| bad("its owner is no number"))
        };
        let mtime = text("mtime").and_then(decimal).or_else(|| Some((self.mtime?, 0))).unwrap_or_default();
        let device = |number: Option<i128>| number.and_then(|number| u32::try_from(number).ok());
        Ok(Meant {
            mode: (self.mode.ok_or_else(|| bad("its mode is no number"))? & 0o7777) as u32,
            uid: owner("uid", self.uid)?,
            gid: owner("gid", self.gid)?,
            mtime: moment(mtime),
            device: device(self.device.0).zip(device(self.device.1)),
        })
    }
}

/// Whether the size is one that all readers take for the same: neither negative nor over 64 bits.
pub(super) fn has_size(header: &Header) -> bool {
    number(&header.as_bytes()[SIZE]).is_some_and(|size| u64::try_from(size).is_ok())
}

/// Refuses pax values that say where content lies and are no numbers. (tar-core is told to pass over all that
/// it cannot read, for the sake of the others.)
pub(super) fn check_pax(path: &[u8], pax: &[u8]) -> Result<(), LayerError> {
    for record in PaxExtensions::new(pax).map_while(Result::ok) {
        let value = record.value_bytes();
        let is_good = match record.key_bytes() {
            b"size" => value.is_empty() || is_unsigned(value),
            b"GNU.sparse.map" => {
                value.split(|byte| *byte == b',').all(|part| part.is_empty() || is_unsigned(part))
            }
            b"GNU.sparse.name" => true,
            key if key.starts_with(b"GNU.sparse.") => is_unsigned(value),
            _ => true,
        };
        if !is_good {
            return Err(LayerError::entry(path, "a pax value that says where its content lies is no number"));
        }
    }
    Ok(())
}

fn is_unsigned(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(u8::is_ascii_digit)
        && str::from_utf8(text).is_ok_and(|text| text.parse::<u64>().is_ok())
}

/// The last value of `key` in a pax header: later records override earlier ones (pax(1), Extended Header).
fn last_value<'a>(pax: &'a [u8], key: &str) -> Option<&'a str> {
    let records = PaxExtensions::new(pax).map_while(Result::ok);
    records.filter(|record| record.key_bytes() == key.as_bytes()).last()?.value().ok()
}

/// A field of a header: octal digits in blanks, with a sign perhaps, or base 256 (GNU), in two's complement.
fn number(field: &[u8]) -> Option<i128> {
    if let [first, rest @ ..] = field
        && first & 0x80 != 0
    {
        // The second bit is the sign.
        let start = i128::from((first << 1).cast_signed() >> 1);
        return Some(rest.iter().fold(start, |number, byte| number << 8 | i128::from(*byte)));
    }
    let is_blank = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace() || *byte == 0x0b;
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    match &digits[..end] {
        [] => Some(0),
        digits => i128::from_str_radix(str::from_utf8(digits).ok()?, 8).ok(),
    }
}

/// A decimal number as seconds and nanoseconds, the latter counted upwards: −1.5 is 0.5 s after −2.
fn decimal(text: &str) -> Option<(i128, u32)> {
    let (negative, text) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) {
        return None;
    }
    // More digits than an i128 has are as far away as any.
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().unwrap_or(i128::MAX - 1) };
    let nanos: u32 = format!("{fraction:0<9}")[..9].parse().ok()?;
    Some(match (negative, nanos) {
        (false, nanos) => (whole, nanos),
        (true, 0) => (-whole, 0),
        (true, nanos) => (-whole - 1, 1_000_000_000 - nanos),
    })
}

/// The nearest moment that the kernel can be given; the file system has limits of its own and keeps to them.
fn moment((seconds, nanos): (i128, u32)) -> (i64, u32) {
    match i64::try_from(seconds) {
        Ok(seconds) => (seconds, nanos),
        Err(_) if seconds < 0 => (i64::MIN, 0),
        Err(_) => (i64::MAX, 0),
    }
}

/// 4294967295 means "do not change" to the kernel and is no id, nor is anything beyond it or below 0.
fn id(number: i128) -> u32 {
    u32::try_from(number).ok().filter(|id| *id != u32::MAX).unwrap_or(NOBODY)
}

/// Whether one of the two sums is the header's: of unsigned bytes, or of signed ones as old writers added them.
fn has_checksum(block: &[u8; 512]) -> bool {
    let (unsigned, signed) = sums(block);
    number(&block[CHECKSUM]).is_some_and(|sum| sum == i128::from(unsigned) || sum == i128::from(signed))
}

/// Of all bytes, with blanks for the sum itself.
fn sums(block: &[u8; 512]) -> (i32, i32) {
    let bytes = block.iter().enumerate().map(|(at, byte)| if CHECKSUM.contains(&at) { b' ' } else { *byte });
    bytes.fold((0, 0), |(unsigned, signed), byte| {
        (unsigned + i32::from(byte), signed + i32::from(byte.cast_signed()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_octal_or_base_256_with_either_sign() {
        let mut base_256 = [0xff_u8; 12];
        assert_eq!(number(&base_256), Some(-1));
        base_256[11] = 0;
        assert_eq!(number(&base_256), Some(-256));
        let mut wide = [0_u8; 12];
        (wide[0], wide[3]) = (0x80, 1);
        assert_eq!(number(&wide), Some(1 << 64));
        wide[0] = 0xc0;
        assert!(number(&wide).unwrap() < i128::from(i64::MIN));
        for (text, value) in [
            ("00000001750\0", Some(1000)),
            ("        1750", Some(1000)),
            ("\0\x00001750 \0\0", Some(1000)),
            ("-1\0\0\0", Some(-1)),
            ("            ", Some(0)),
            ("", Some(0)),
            ("8", None),
            ("17 5", Some(15)),
            ("0x10", None),
        ] {
            assert_eq!(number(text.as_bytes()), value, "{text:?}");
        }
    }

    #[test]
    fn a_time_has_a_sign_and_a_fraction() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("1234.5", Some((1234, 500_000_000))),
            ("1234.", Some((1234, 0))),
            (".25", Some((0, 250_000_000))),
            ("+7.0", Some((7, 0))),
            ("-1", Some((-1, 0))),
            ("-0.25", Some((-1, 750_000_000))),
            ("-62135596800.000000001", Some((-62_135_596_801, 999_999_999))),
            ("1.9999999999999", Some((1, 999_999_999))),
            ("", None),
            (".", None),
            ("-", None),
            ("--1", None),
            ("1e9", None),
            ("1.5.5", None),
            ("1.-5", None),
            ("today", None),
        ] {
            assert_eq!(decimal(text), expected, "{text:?}");
        }
        let far = "9".repeat(100);
        assert_eq!(moment(decimal(&far).unwrap()), (i64::MAX, 0));
        assert_eq!(moment(decimal(&format!("-{far}.5")).unwrap()), (i64::MIN, 0));
    }

    #[test]
    fn an_id_is_never_the_last_number() {
        for (number, expected) in [
            (0, 0),
            (1000, 1000),
            (4_294_967_294, 4_294_967_294),
            (4_294_967_295, NOBODY),
            (1 << 32, NOBODY),
            (-2, NOBODY),
        ] {
            assert_eq!(id(number), expected, "{number}");
        }
    }
}
