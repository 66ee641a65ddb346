//! The stream of events for the console: the state every second, and outcomes as they happen.
//!
//! A stream keeps only one thing for its client: the number of the last outcome sent. A client that
//! reads slowly gets the newest state next. If a client is gone, the timeout of the socket ends its
//! stream.

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::State,
    http::StatusCode,
    response::sse::{Event, Sse},
};
use futures_util::{Stream, stream};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{
    api::App,
    error::{ApiError, ErrorBody, NoQuery},
    views::{self, OutcomeList},
};

/// The most outcomes in one event. If there are more, the oldest are left out.
const OUTCOMES: usize = 100;

impl App {
    /// The current state of the worker and its consumers, as JSON.
    fn state(&self) -> Arc<str> {
        let state = views::State {
            worker: self.worker(),
            consumers: self.consumers(),
        };
        json(&state).into()
    }

    /// Sends the current state to the streams, if there are any.
    pub(super) fn tell(&self) {
        if self.state.receiver_count() > 0 {
            self.state.send_replace(self.state());
        }
    }
}

/// Serialising a view cannot fail: its keys are strings, and no part returns an error.
fn json(view: &impl Serialize) -> String {
    serde_json::to_string(view).unwrap_or_default()
}

/// One client's stream of events.
struct Feed {
    app: Arc<App>,
    ticks: watch::Receiver<Arc<str>>,
    /// The number of the last outcome sent.
    told: u64,
    /// The next event: the state comes first, then the outcomes up to then.
    next: Next,
    _place: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    First,
    State,
    Outcomes,
}

impl Feed {
    async fn next(&mut self) -> Option<Event> {
        loop {
            match self.next {
                Next::First => {
                    self.next = Next::State;
                    return Some(event("state", &self.app.state()));
                }
                Next::State => {
                    tokio::select! {
                        ticked = self.ticks.changed() => ticked.ok()?,
                        () = self.app.stop.cancelled() => return None,
                    }
                    self.next = Next::Outcomes;
                    return Some(event("state", &self.ticks.borrow_and_update().clone()));
                }
                Next::Outcomes => {
                    self.next = Next::State;
                    let store = self.app.worker.outcome_store();
                    let new = store.after(self.told, None, None, OUTCOMES);
                    let Some(newest) = new.first() else { continue };
                    self.told = newest.seq;
                    return Some(event("outcomes", &json(&OutcomeList::from(new))));
                }
            }
        }
    }
}

fn event(name: &str, json: &str) -> Event {
    Event::default().event(name).data(json)
}

/// The state of the worker and its consumers every second, and outcomes as they happen
///
/// Server-sent events. `state` is sent at once and then every second; its schema is `State`.
/// `outcomes` is sent when there are new ones, at most 100, newest first; its schema is
/// `OutcomeList`. The server holds at most 32 streams at a time.
#[utoipa::path(get, path = "/api/v1/events", tag = "state", responses(
    (status = 200, description = "The events", body = String, content_type = "text/event-stream"),
    (status = 503, description = "There are already 32 streams", body = ErrorBody),
))]
pub(super) async fn events(
    _: NoQuery,
    State(app): State<Arc<App>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let place = Arc::clone(&app.streams).try_acquire_owned();
    let place = place.map_err(|_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many streams of events",
        )
    })?;
    let feed = Feed {
        ticks: app.state.subscribe(),
        told: app.worker.outcome_store().last(),
        app,
        next: Next::First,
        _place: place,
    };
    Ok(Sse::new(stream::unfold(feed, async |mut feed| {
        let event = feed.next().await?;
        Some((Ok(event), feed))
    })))
}
