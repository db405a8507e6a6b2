//! The fuzz target of records.

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

use super::record::{VERSION, decode, encode, header};

/// Reads `body` as a record of that type behind a header that fits it. A value that is read is written, and then reads
/// as it was written.
pub fn record<T: DeserializeOwned + Serialize + Debug>(body: &[u8]) -> Option<T> {
    let value: T = decode(&[header(VERSION, body).as_bytes(), body].concat()).ok()?;
    let written = encode(&value).expect("what was read can be written");
    let again: T = decode(&written).expect("what was written can be read");
    assert_eq!(encode(&again).ok(), Some(written), "{value:?}");
    Some(value)
}
