//! The keys that detach a terminal from what runs in it, and how they are recognized among what is typed. Pure.

use std::{collections::VecDeque, str::FromStr};

/// Keys of one sequence.
const KEYS_MAX: usize = 8;

/// The keys that detach, as the bytes that a terminal sends. None: nothing detaches.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct DetachKeys(Vec<u8>);

/// A text that names no keys.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is not a list of keys such as ctrl-p,ctrl-q: each is a character, or ctrl- and one of a-z @ [ \\ ] ^ _"
)]
pub(super) struct NotKeys(String);

impl DetachKeys {
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }
}

impl FromStr for DetachKeys {
    type Err = NotKeys;

    /// As podman and docker write them: `ctrl-p,ctrl-q`, `ctrl-@,x`. The empty text is no keys.
    fn from_str(text: &str) -> Result<Self, NotKeys> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.filter(|keys| keys.len() <= KEYS_MAX).map(Self).ok_or_else(|| NotKeys(text.to_owned()))
    }
}

fn key(name: &str) -> Option<u8> {
    match (name.as_bytes(), name.strip_prefix("ctrl-").map(str::as_bytes)) {
        ([byte], _) if byte.is_ascii() => Some(*byte),
        (_, Some(&[byte])) => match byte.to_ascii_uppercase() {
            byte @ b'@'..=b'_' => Some(byte - b'@'),
            _ => None,
        },
        _ => None,
    }
}

/// Looks for the keys in what is typed, however it is cut into pieces.
#[derive(Debug)]
pub(super) struct Recognizer {
    keys: Vec<u8>,
    /// Typed, and maybe the beginning of the keys.
    held: VecDeque<u8>,
}

impl Recognizer {
    pub(super) fn new(DetachKeys(keys): DetachKeys) -> Self {
        Self { keys, held: VecDeque::new() }
    }

    /// Takes what was typed. Gives what of it, and of what was held before, is for the program, and whether the keys
    /// are complete: then what was typed behind them is dropped.
    pub(super) fn take(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            self.held.push_back(*byte);
            while !self.held.iter().zip(&self.keys).all(|(held, key)| held == key)
                || self.held.len() > self.keys.len()
            {
                passed.extend(self.held.pop_front());
            }
            if !self.keys.is_empty() && self.held.len() == self.keys.len() {
                self.held.clear();
                return (passed, true);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn recognizer(keys: &str) -> Recognizer {
        Recognizer::new(keys.parse().unwrap())
    }

    #[test]
    fn keys_are_written_as_podman_writes_them() {
        let bytes = |text: &str| text.parse::<DetachKeys>().map(|keys| keys.0);
        assert_eq!(bytes("ctrl-p,ctrl-q").unwrap(), [16, 17]);
        assert_eq!(bytes("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_").unwrap(), [0, 27, 28, 29, 30, 31]);
        assert_eq!(bytes("a,ctrl-Z,~").unwrap(), [b'a', 26, b'~']);
        assert!(bytes("").unwrap().is_empty());
        for bad in ["ctrl-", "ctrl-1", "ctrl-pp", "pq", "a,,b", "ü", "a,a,a,a,a,a,a,a,a"] {
            assert!(bytes(bad).unwrap_err().to_string().contains(bad), "{bad}");
        }
    }

    #[test]
    fn the_keys_detach_and_their_beginning_alone_is_typed_on() {
        let mut keys = recognizer("ctrl-p,ctrl-q");
        assert_eq!(keys.take(b"ls\n"), (b"ls\n".to_vec(), false));
        assert_eq!(keys.take(b"\x10"), (vec![], false));
        assert_eq!(keys.take(b"\x10"), (vec![0x10], false));
        assert_eq!(keys.take(b"x"), (b"\x10x".to_vec(), false));
        assert_eq!(keys.take(b"y\x10\x11z"), (b"y".to_vec(), true));
    }

    #[test]
    fn a_beginning_within_a_beginning_is_seen() {
        let mut keys = recognizer("a,a,b");
        assert_eq!(keys.take(b"aaab"), (b"a".to_vec(), true));
    }

    #[test]
    fn without_keys_all_is_typed() {
        assert_eq!(recognizer("").take(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }

    proptest! {
        #[test]
        fn all_that_is_no_detaching_arrives_wherever_it_is_cut(
            typed in prop::collection::vec(prop::sample::select(vec![b'a', b'b', b'c']), 0..40),
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = recognizer("a,b,a").take(&typed);
            let at = cut.index(typed.len() + 1);
            let mut keys = recognizer("a,b,a");
            let (mut passed, mut detached) = keys.take(&typed[..at]);
            if !detached {
                let (rest, then) = keys.take(&typed[at..]);
                passed.extend(rest);
                detached = then;
            }
            prop_assert_eq!((passed.clone(), detached), whole);
            let end = typed.windows(3).position(|keys| keys == b"aba");
            prop_assert_eq!(detached, end.is_some());
            prop_assert!(typed.starts_with(&passed));
            let expected = end.unwrap_or(typed.len() - keys.held.len());
            prop_assert_eq!(passed.len(), expected);
        }
    }
}
