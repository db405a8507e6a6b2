//! Whether the plugins of a network could serve a pod: asked in a task of its own, so that nobody waits for a plugin.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{chain::Chain, folder::Loaded, plugin::Plugins};
use crate::{
    network::Error,
    telemetry::{log::chain, task},
};

/// For how long an answer counts. The kubelet asks for the runtime's status every five to ten seconds.
const FRESH: Duration = Duration::from_secs(5);

/// The last answer of the plugins of one network.
#[derive(Debug)]
pub(super) struct Probe {
    plugins: Arc<Plugins>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of which configuration the rest speaks.
    loaded: Option<Arc<Loaded>>,
    asked: Option<Instant>,
    asking: bool,
    /// Why they could not serve; `None` until they have answered.
    answer: Option<Result<(), String>>,
}

impl Probe {
    pub(super) fn new(plugins: Arc<Plugins>) -> Self {
        Self { plugins, state: Mutex::default() }
    }

    /// Has the plugins asked, unless they are being asked or have answered a moment ago.
    pub(super) fn ask(self: &Arc<Self>, loaded: &Arc<Loaded>) {
        {
            let mut state = self.locked();
            if !state.loaded.as_ref().is_some_and(|known| Arc::ptr_eq(known, loaded)) {
                *state = State { loaded: Some(Arc::clone(loaded)), ..State::default() };
            }
            if state.asking || state.asked.is_some_and(|asked| asked.elapsed() < FRESH) {
                return;
            }
            state.asking = true;
        }
        let (probe, loaded) = (Arc::clone(self), Arc::clone(loaded));
        task::spawn("CNI status", async move {
            let answer = probe.answer(&loaded).await.map_err(|error| chain(&error).to_string());
            probe.take(&loaded, answer);
        });
    }

    /// Asks, and waits for the answers.
    pub(super) async fn answer(&self, loaded: &Loaded) -> Result<(), Error> {
        let list = &loaded.list;
        for program in list.programs() {
            self.plugins.find(program).map_err(|source| Error::Plugin {
                program: program.into(),
                verb: "look for it",
                source,
            })?;
        }
        let plugins = Chain { plugins: &self.plugins, list };
        // What a program knows does not change while the configuration stays.
        let known = self.locked().answer.as_ref().is_some_and(Result::is_ok);
        if !known {
            plugins.versions().await?;
        }
        plugins.status().await
    }

    fn take(&self, loaded: &Arc<Loaded>, answer: Result<(), String>) {
        let mut state = self.locked();
        // Another configuration may be in use by now.
        if !state.loaded.as_ref().is_some_and(|known| Arc::ptr_eq(known, loaded)) {
            return;
        }
        match (&state.answer, &answer) {
            (before, Err(reason)) if before.as_ref() != Some(&answer) => {
                warn!(error = reason, "the CNI network is not ready");
            }
            (Some(Err(_)), Ok(())) => info!(network = loaded.list.name, "the CNI network is ready"),
            _ => {}
        }
        (state.asking, state.asked, state.answer) = (false, Some(Instant::now()), Some(answer));
    }

    /// The plugins' last word on `loaded`.
    ///
    /// # Errors
    /// [`Error::NotReady`], also while they have not answered yet.
    pub(super) fn verdict(&self, loaded: &Arc<Loaded>) -> Result<(), Error> {
        let state = self.locked();
        let known = state.loaded.as_ref().is_some_and(|known| Arc::ptr_eq(known, loaded));
        match &state.answer {
            Some(answer) if known => answer.clone().map_err(Error::NotReady),
            _ => Err(Error::NotReady("the CNI plugins have not said yet whether they are ready".into())),
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
