//! What the supervisor has to say to an operator: the daemon logs it. While there is no daemon it is written into the
//! pod's folder (`last_words.rs`). It is bounded, and nothing ever waits for it.

use std::{fmt::Display, time::Instant};

use super::{
    super::{
        last_words,
        wire::{self, v1},
    },
    event_loop::Supervisor,
};
use crate::model::ContainerId;

pub(super) use v1::Level;

/// Bytes that may wait for a daemon that does not read before log lines are dropped: its answers are more important.
const WAITING_BYTES_MAX: usize = 64 * 1024;

impl Supervisor {
    /// Says something that is no answer to anybody, about a container or about the pod.
    pub(super) fn say(&mut self, level: Level, about: Option<&ContainerId>, text: impl Display) {
        if self.allowance.admits_line(Instant::now()) && !self.deliver(wire::log_line(level, about, text)) {
            self.allowance.count_dropped(1);
        }
    }

    /// Says how many lines were dropped, if that is due.
    pub(super) fn report_dropped_lines(&mut self, now: Instant) {
        let Some(dropped) = self.allowance.take_dropped(now) else { return };
        let text = format!("{dropped} messages of the supervisor were dropped");
        if !self.deliver(wire::log_line(Level::Warn, None, text)) {
            self.allowance.count_dropped(dropped);
        }
    }

    /// Says why the supervisor ends. The file first: nobody may read what is sent now.
    pub(super) fn say_last(&mut self, text: impl Display) {
        let line = wire::log_line(Level::Error, None, text);
        if last_words::write(&line).is_err() {
            self.deliver(line);
        }
    }

    /// Whether the line was queued for a daemon or written.
    fn deliver(&mut self, line: v1::LogLine) -> bool {
        // The one that came last, during an upgrade.
        let greeted = self.connections.iter().rev().find(|(_, connection)| connection.greeted);
        match greeted.map(|(token, connection)| (*token, connection.waiting_bytes())) {
            Some((_, waiting)) if waiting > WAITING_BYTES_MAX => false,
            Some((token, _)) => {
                self.send(token, wire::log_line_frame(line));
                true
            }
            None => last_words::write(&line).is_ok(),
        }
    }
}
