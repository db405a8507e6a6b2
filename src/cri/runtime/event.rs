//! GetContainerEvents: the journal as a stream of the CRI.

use futures_util::{StreamExt as _, stream};
use tonic::{Status, codegen::BoxStream};

use super::RuntimeService;
use crate::{
    cri::{code, render, wire},
    event::{Error, Subscriber},
    pod::Event,
};

impl RuntimeService {
    /// Never ends by itself. One that reads too slowly is told so and has to list again.
    pub(super) async fn get_container_events(
        &self,
        _request: wire::GetEventsRequest,
    ) -> Result<BoxStream<wire::ContainerEventResponse>, Status> {
        let subscriber = self.pods.follow().map_err(code::of)?;
        tracing::debug!("a client follows the events");
        Ok(stream::unfold(Some(subscriber), next).boxed())
    }
}

type Item = Result<wire::ContainerEventResponse, Status>;

/// An event is rendered when the client has room for it. After an error there is nothing.
async fn next(subscriber: Option<Subscriber<Event>>) -> Option<(Item, Option<Subscriber<Event>>)> {
    let mut subscriber = subscriber?;
    Some(match subscriber.next().await {
        Ok(entry) => (Ok(render::event(&entry)), Some(subscriber)),
        Err(error) => {
            if let Error::Behind { .. } = error {
                tracing::warn!(%error, "a client follows the events too slowly");
            }
            (Err(code::of(error)), None)
        }
    })
}
