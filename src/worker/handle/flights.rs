//! The messages in flight, as a handle lists and finds them.

use std::sync::Arc;

use tokio::time::Instant;

use super::WorkerHandle;
use crate::{
    flight::Flight,
    lane::{CallError, Command},
    status::{InFlight, InFlightPage, Window},
};

impl WorkerHandle {
    /// Messages in flight, of one consumer or of all, oldest first: skips `offset` messages, and
    /// returns at most `limit`. The consumer takes about 100 ns for each of `offset + limit`
    /// messages, and does nothing else meanwhile.
    ///
    /// # Errors
    /// When there is no such consumer, or when it does not answer. Without a consumer's name there
    /// is no error: the page names the consumers that did not answer.
    pub async fn in_flight(
        &self,
        consumer: Option<&str>,
        offset: usize,
        limit: usize,
    ) -> Result<InFlightPage, CallError> {
        if let Some(consumer) = consumer {
            let window = self.window(consumer, offset, limit).await?;
            let now = Instant::now();
            let runs = window.runs.iter();
            return Ok(InFlightPage {
                total: window.total,
                messages: runs.map(|run| InFlight::of(run, now)).collect(),
                unanswered: Vec::new(),
            });
        }
        let most = offset.saturating_add(limit);
        let ask = async |name| (name, self.window(name, 0, most).await);
        let names = self.consumers.keys().map(String::as_str);
        let mut page = InFlightPage::default();
        let mut all = Vec::new();
        for (name, window) in futures_util::future::join_all(names.map(ask)).await {
            match window {
                Ok(window) => {
                    page.total += window.total;
                    all.extend(window.runs);
                }
                // It has no message, and will have none.
                Err(CallError::NotRunning) => {}
                Err(_) => page.unanswered.push(name.to_owned()),
            }
        }
        // A stable sort keeps each consumer's own order.
        all.sort_by_key(|run| run.received);
        let page_of = all.iter().skip(offset).take(limit);
        let now = Instant::now();
        page.messages = page_of.map(|run| InFlight::of(run, now)).collect();
        Ok(page)
    }

    /// A consumer's messages in flight, oldest first: skips `skip` messages, and gives at most
    /// `limit`.
    async fn window(&self, consumer: &str, skip: usize, limit: usize) -> Result<Window, CallError> {
        let ask = |answer| Command::InFlight {
            skip,
            limit,
            answer,
        };
        self.call(consumer, ask).await
    }

    /// The messages in flight with this `message-id`, and the consumers that did not answer.
    pub(crate) async fn flights_of(&self, id: &str) -> (Vec<Arc<Flight>>, Vec<String>) {
        let find = |answer| Command::Find(id.to_owned(), answer);
        let ask = async |name| (name, self.call(name, find).await);
        let names = self.consumers.keys().map(String::as_str);
        let (mut found, mut unanswered) = (Vec::new(), Vec::new());
        for (name, flights) in futures_util::future::join_all(names.map(ask)).await {
            match flights {
                Ok(flights) => found.extend(flights),
                Err(CallError::NotRunning) => {}
                Err(_) => unanswered.push(name.to_owned()),
            }
        }
        (found, unanswered)
    }
}
