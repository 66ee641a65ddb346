//! A stream of events for the console: the state every second, and outcomes as they come.
//!
//! A stream keeps nothing for its client but the number of the last outcome it told. One that reads
//! slowly finds the newest state next; one that is gone is ended by the socket's own time-out.

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
    error::{ApiError, ErrorBody},
    views::{self, OutcomeList},
};

/// Outcomes of one event; where there are more, the oldest are left out.
const OUTCOMES: usize = 100;

impl App {
    /// The state as it was last looked at.
    fn state(&self) -> Arc<str> {
        let state = views::State {
            worker: self.worker(),
            consumers: self.consumers(),
        };
        json(&state).into()
    }

    /// Tells the streams, if there are any, that the state was looked at.
    pub(super) fn tell(&self) {
        if self.state.receiver_count() > 0 {
            self.state.send_replace(self.state());
        }
    }
}

/// Our views have text keys and no failing parts.
fn json(view: &impl Serialize) -> String {
    serde_json::to_string(view).unwrap_or_default()
}

struct Feed {
    app: Arc<App>,
    ticks: watch::Receiver<Arc<str>>,
    /// The last outcome that was told.
    told: u64,
    /// The state goes out first, then the outcomes that came until then.
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

/// The state of the worker and its consumers every second, and outcomes as they come
///
/// Server-sent events: `state`, at once and every second, has the schema `State`; `outcomes`, when
/// there are new ones, has the schema `OutcomeList`, with at most 100, newest first. At most 32
/// streams at a time.
#[utoipa::path(get, path = "/api/v1/events", tag = "state", responses(
    (status = 200, description = "The events", body = String, content_type = "text/event-stream"),
    (status = 503, description = "There are 32 streams already", body = ErrorBody),
))]
pub(super) async fn events(
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
