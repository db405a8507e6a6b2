//! Moments as the CRI counts them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment as CRI gives it: nanoseconds since 1970-01-01 UTC. Zero stands for "has not happened".
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct UnixNanos(pub i64);

impl From<SystemTime> for UnixNanos {
    /// A clock before 1970 reads as zero.
    fn from(at: SystemTime) -> Self {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }
}
