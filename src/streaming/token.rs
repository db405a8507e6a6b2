//! One-time tokens: what a URL of Exec, Attach or PortForward stands for, until it is used or has expired.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use subtle::ConstantTimeEq as _;

/// How long a URL may be used after it was given out.
pub(super) const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// URLs that wait to be used.
pub(super) const PENDING_MAX: usize = 1000;
/// Random bytes of a token: loopback is shared with every pod on the host's network, so it is the only guard.
const TOKEN_BYTES: usize = 16;

/// [`PENDING_MAX`] URLs were given out in the last minute and not used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{PENDING_MAX} streaming URLs wait to be used already; each expires after {TOKEN_LIFE:?}")]
pub(crate) struct TooManyPending;

/// Requests that wait for their client to connect.
pub(super) struct Tokens<T> {
    /// The oldest first.
    pending: Mutex<VecDeque<Pending<T>>>,
}

struct Pending<T> {
    token: String,
    expires: Instant,
    request: T,
}

impl<T> Default for Tokens<T> {
    fn default() -> Self {
        Self { pending: Mutex::default() }
    }
}

impl<T> fmt::Debug for Tokens<T> {
    /// Without the tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("pending", &self.pending().len()).finish_non_exhaustive()
    }
}

impl<T> Tokens<T> {
    fn pending(&self) -> MutexGuard<'_, VecDeque<Pending<T>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token that stands for `request` for a minute: 32 hexadecimal digits.
    pub(super) fn issue(&self, request: T, now: Instant) -> Result<String, TooManyPending> {
        let mut random = [0_u8; TOKEN_BYTES];
        // Without random numbers no token is safe, so none is given out.
        getrandom::fill(&mut random).map_err(|_| TooManyPending)?;
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut pending = self.pending();
        forget_expired(&mut pending, now);
        if pending.len() >= PENDING_MAX {
            return Err(TooManyPending);
        }
        pending.push_back(Pending { token: token.clone(), expires: now + TOKEN_LIFE, request });
        Ok(token)
    }

    /// Looks at what `token` stands for, and uses it up if `take` says so with `Ok`; `None`: nothing is pending
    /// under it. Every pending token is compared, each in the same time.
    pub(super) fn redeem<U, E>(
        &self,
        token: &str,
        now: Instant,
        take: impl FnOnce(&T) -> Result<U, E>,
    ) -> Option<Result<(T, U), E>> {
        let mut pending = self.pending();
        forget_expired(&mut pending, now);
        let mut found = None;
        for (index, one) in pending.iter().enumerate() {
            if bool::from(one.token.as_bytes().ct_eq(token.as_bytes())) {
                found = Some(index);
            }
        }
        let index = found?;
        match take(&pending.get(index)?.request) {
            Ok(taken) => pending.remove(index).map(|one| Ok((one.request, taken))),
            Err(refusal) => Some(Err(refusal)),
        }
    }
}

fn forget_expired<T>(pending: &mut VecDeque<Pending<T>>, now: Instant) {
    while pending.front().is_some_and(|one| one.expires <= now) {
        pending.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn use_up<T: Clone>(tokens: &Tokens<T>, token: &str, now: Instant) -> Option<T> {
        tokens.redeem(token, now, |_| Ok::<_, ()>(())).map(|taken| taken.unwrap().0)
    }

    #[test]
    fn a_token_is_used_once_and_within_a_minute() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let (first, second) = (tokens.issue("first", now).unwrap(), tokens.issue("second", now).unwrap());
        assert_eq!((first.len(), first == second), (32, false));
        assert_eq!(use_up(&tokens, &first, now), Some("first"));
        assert_eq!(use_up(&tokens, &first, now), None);
        assert_eq!(use_up(&tokens, &second, now + TOKEN_LIFE), None);
        assert_eq!(use_up(&tokens, "", now), None);
    }

    #[test]
    fn a_request_that_is_refused_leaves_the_token_to_another_try() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let token = tokens.issue("x", now).unwrap();
        assert_eq!(tokens.redeem(&token, now, |_| Err::<(), _>("refused")), Some(Err("refused")));
        assert_eq!(use_up(&tokens, &token, now), Some("x"));
    }

    #[test]
    fn so_many_may_be_pending_and_no_more() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let first = tokens.issue(0, now).unwrap();
        for number in 1..PENDING_MAX {
            tokens.issue(number, now).unwrap();
        }
        assert_eq!(tokens.issue(0, now), Err(TooManyPending));
        use_up(&tokens, &first, now).unwrap();
        tokens.issue(0, now).unwrap();
        assert_eq!(tokens.issue(0, now), Err(TooManyPending));
        tokens.issue(0, now + TOKEN_LIFE).unwrap();
        assert_eq!(tokens.pending().len(), 1);
    }

    #[test]
    fn no_guess_is_right() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let token = tokens.issue((), now).unwrap();
        for guess in 0..100_000_u32 {
            assert!(tokens.redeem(&format!("{guess:032x}"), now, |()| Ok::<_, ()>(())).is_none());
        }
        assert!(!format!("{tokens:?}").contains(&token));
    }
}
