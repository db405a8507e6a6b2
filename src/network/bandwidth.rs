//! How much a pod may receive and send, by its annotations. Pure.

use std::collections::BTreeMap;

/// The annotations of a pod that limit its traffic, each with a quantity of bits per second.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// The limits of the kubelet for those annotations, bits per second.
const RATE_BITS_MIN: u64 = 1_000;
const RATE_BITS_MAX: u64 = 1_000_000_000_000_000;

/// Room for two of the largest packets that a pod hands over in one piece (64 KiB): a bucket that is smaller has each of
/// them cut, or dropped.
const BUCKET_BYTES_MIN: u64 = 128 << 10;
/// How long a pod may send as fast as it can after it has been silent for as long; ms.
const BURST_MS: u64 = 20;
/// How long a packet waits in a full queue; ms. As the CNI plugin bandwidth has it.
const QUEUE_MS: u64 = 25;

/// The limits of one pod's traffic, bits per second; none: as much as the links carry.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Bandwidth {
    /// What the pod receives.
    pub(super) ingress: Option<u64>,
    /// What the pod sends.
    pub(super) egress: Option<u64>,
}

/// An annotation that limits nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("annotation {annotation}: {text:?} {reason}")]
pub struct BadRate {
    annotation: &'static str,
    text: String,
    reason: &'static str,
}

impl Bandwidth {
    /// What the annotations of a pod say.
    ///
    /// # Errors
    /// [`BadRate`] for one that is no quantity, or one that the kubelet would not have let pass.
    pub(super) fn of(annotations: &BTreeMap<String, String>) -> Result<Self, BadRate> {
        let rate = |name| annotations.get(name).map(|text| bits(name, text)).transpose();
        Ok(Self { ingress: rate(INGRESS)?, egress: rate(EGRESS)? })
    }
}

/// A token bucket: what a link may send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Bucket {
    /// Bytes per second.
    pub(super) rate_bytes: u64,
    /// Sent at once by who has been silent.
    pub(super) burst_bytes: u32,
    /// What may wait; the rest is dropped.
    pub(super) queue_bytes: u32,
}

impl Bucket {
    /// The bucket for a rate in bits per second.
    pub(super) fn of(rate_bits: u64) -> Self {
        let rate_bytes = rate_bits.div_ceil(8);
        let within = |ms: u64| rate_bytes / 1000 * ms;
        // The kernel counts in `int` here and there.
        let fitting = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX).min(i32::MAX as u32);
        Self {
            rate_bytes,
            burst_bytes: fitting(within(BURST_MS).max(BUCKET_BYTES_MIN)),
            queue_bytes: fitting(within(QUEUE_MS).max(BUCKET_BYTES_MIN)),
        }
    }
}

/// A quantity of Kubernetes, as far as one makes sense for a rate: `10M`, `1.5Gi`, `800000`, `1e9`.
fn bits(annotation: &'static str, text: &str) -> Result<u64, BadRate> {
    let bad = |reason| BadRate { annotation, text: text.into(), reason };
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match text.get(number.len()..).unwrap_or_default() {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        _ => return Err(bad("is not a quantity such as 10M")),
    };
    let plain =
        number.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    let rate = number.parse::<f64>().ok().filter(|rate| plain && rate.is_finite());
    let rate = rate.ok_or_else(|| bad("is not a quantity such as 10M"))? * scale;
    if !(RATE_BITS_MIN as f64..=RATE_BITS_MAX as f64).contains(&rate) {
        return Err(bad("is not between 1k and 1P bits per second"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its range was just checked")]
    Ok(rate.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_quantity_of_bits() {
        let of = |text: &str| Bandwidth::of(&[(EGRESS.to_owned(), text.to_owned())].into());
        for (text, expected) in [
            ("1k", 1_000),
            ("1000000", 1_000_000),
            ("10M", 10_000_000),
            ("1.5G", 1_500_000_000),
            ("1Mi", 1_048_576),
            ("2e6", 2_000_000),
            ("1500000m", 1_500),
            ("1P", 1_000_000_000_000_000),
        ] {
            assert_eq!(of(text), Ok(Bandwidth { ingress: None, egress: Some(expected) }), "{text}");
        }
        for text in ["", "M", "999", "2P", "-1M", "10MB", "1 M", "inf", "NaN", "0x10", "1e999"] {
            let error = of(text).unwrap_err().to_string();
            let expected = format!("annotation kubernetes.io/egress-bandwidth: {text:?} is not ");
            assert!(error.starts_with(&expected), "{error}");
        }
        assert_eq!(Bandwidth::of(&BTreeMap::new()), Ok(Bandwidth::default()));
    }

    #[test]
    fn a_bucket_holds_whole_packets_of_slow_pods_and_no_more_than_the_kernel_counts() {
        for (bits, rate_bytes, burst_bytes, queue_bytes) in [
            (1_000, 125, 131_072, 131_072),
            (1_001, 126, 131_072, 131_072),
            (1_000_000_000, 125_000_000, 2_500_000, 3_125_000),
            (RATE_BITS_MAX, 125_000_000_000_000, i32::MAX as u32, i32::MAX as u32),
        ] {
            assert_eq!(Bucket::of(bits), Bucket { rate_bytes, burst_bytes, queue_bytes }, "{bits}");
        }
    }
}
