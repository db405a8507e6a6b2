//! Which signal asks a container to end.

use crate::model::signal;

/// SIGTERM on every architecture.
const SIGTERM: i32 = 15;

/// What was asked for, else what the image says, else SIGTERM. An image that says nonsense gets SIGTERM.
pub(super) fn stop_signal(asked: Option<i32>, image: &str) -> i32 {
    asked.or_else(|| signal::parse(image)).unwrap_or(SIGTERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_wins_over_the_image_and_nonsense_is_sigterm() {
        assert_eq!(stop_signal(Some(9), "SIGQUIT"), 9);
        assert_eq!(stop_signal(None, "SIGQUIT"), 3);
        assert_eq!(stop_signal(None, "gibberish"), SIGTERM);
        assert_eq!(stop_signal(None, ""), SIGTERM);
    }
}
