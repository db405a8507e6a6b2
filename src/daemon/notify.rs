//! States of the daemon for systemd (sd_notify(3)), sent from a thread of its own: sending waits while systemd does
//! not read.

use std::{
    env,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
};

use sd_notify::NotifyState;
use tracing::warn;

/// States that wait to be sent; one more is dropped. There are few, and each beat of the watchdog is as good as the
/// last.
const WAITING_MAX: usize = 8;

/// The service manager that started the daemon; `None`, if it asked for no states.
#[derive(Clone, Debug)]
pub(super) struct ServiceManager(Option<SyncSender<NotifyState<'static>>>);

impl ServiceManager {
    /// Starts the thread that speaks to systemd, if systemd started us.
    pub(super) fn find() -> Self {
        if env::var_os("NOTIFY_SOCKET").is_none() {
            return Self(None);
        }
        let (states, waiting) = sync_channel::<NotifyState<'static>>(WAITING_MAX);
        let speak = move || {
            for state in waiting {
                if let Err(error) = sd_notify::notify(&[state]) {
                    warn!(%error, "cannot tell systemd");
                }
            }
        };
        match thread::Builder::new().name("notify".into()).spawn(speak) {
            Ok(_) => Self(Some(states)),
            Err(error) => {
                warn!(%error, "cannot start the thread that speaks to systemd");
                Self(None)
            }
        }
    }

    /// Never waits.
    pub(super) fn tell(&self, state: NotifyState<'static>) {
        if let Some(states) = &self.0
            && states.try_send(state).is_err()
        {
            warn!("systemd does not read the states of the daemon, one is dropped");
        }
    }
}
