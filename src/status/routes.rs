//! The figures of a consumer's routes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::counters::Counter;
use crate::{lock::lock, outcome::OutcomeKind, retry::RetrySettings};

/// One route: its limits, and how its attempts end.
#[derive(Debug)]
pub(crate) struct RouteFigures {
    pub(crate) name: Arc<str>,
    timeout: Duration,
    retry: RetrySettings,
    succeeded: Counter,
    dropped: Counter,
    failed: Counter,
    other: Counter,
    /// Why the service of this route counts as down, and when an attempt last said so.
    down: Mutex<Option<(String, Instant)>>,
}

/// The figures of one route.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct RouteReport {
    /// The route's name in the settings; `(others)`: messages that no route takes.
    pub route: String,
    /// The longest that one handler run may take.
    pub timeout_seconds: f64,
    /// The most attempts: after this many failures the consumer dead-letters a message.
    pub max_attempts: u32,
    /// Attempts that ended, whatever their outcome.
    pub attempts: u64,
    /// Attempts that succeeded.
    pub succeeded: u64,
    /// Messages that the handler did not want, or that no route takes and `unrouted` acks.
    pub dropped: u64,
    /// Attempts that failed, timed out or panicked, and messages that no handler could take.
    pub failed: u64,
    /// Why the messages of this route wait: its service is down. Null while they do not wait.
    pub service_down: Option<String>,
}

impl RouteFigures {
    pub(crate) fn new(name: &str, timeout: Duration, retry: &RetrySettings) -> Self {
        Self {
            name: name.into(),
            timeout,
            retry: retry.clone(),
            succeeded: Counter::default(),
            dropped: Counter::default(),
            failed: Counter::default(),
            other: Counter::default(),
            down: Mutex::new(None),
        }
    }

    /// Whether a retry with this delay waits in the worker.
    pub(super) fn waits_in_worker(&self, delay: Duration) -> bool {
        self.retry.waits_in_worker(delay)
    }

    /// Counts an attempt that ended.
    pub(super) fn attempt_ended(&self, kind: OutcomeKind) {
        let counter = match kind {
            OutcomeKind::Succeeded => &self.succeeded,
            OutcomeKind::Dropped => &self.dropped,
            kind if kind.is_failure() => &self.failed,
            _ => &self.other,
        };
        counter.add_one();
    }

    /// The service of this route counts as down for this reason, or no longer.
    pub(crate) fn set_down(&self, reason: Option<String>) {
        *lock(&self.down) = reason.map(|reason| (reason, Instant::now()));
    }

    /// Why the service of this route counts as down. A route can be without messages for long, and then
    /// nothing is known of its service.
    fn service_down(&self) -> Option<String> {
        const FRESH: Duration = Duration::from_secs(60);
        let (reason, at) = lock(&self.down).clone()?;
        let age = at.elapsed();
        Some(match age > FRESH {
            true => format!(
                "no attempt has ended for {} s; before: {reason}",
                age.as_secs()
            ),
            false => reason,
        })
    }

    pub(super) fn report(&self) -> RouteReport {
        let [succeeded, dropped, failed, other] =
            [&self.succeeded, &self.dropped, &self.failed, &self.other].map(Counter::get);
        RouteReport {
            route: self.name.to_string(),
            timeout_seconds: self.timeout.as_secs_f64(),
            max_attempts: self.retry.attempts(),
            attempts: succeeded + dropped + failed + other,
            succeeded,
            dropped,
            failed,
            service_down: self.service_down(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_known_of_a_service_a_minute_ago_is_told_as_such() {
        let route = RouteFigures::new("a", Duration::from_secs(5), &RetrySettings::default());
        route.set_down(Some("refused".to_owned()));
        tokio::time::advance(Duration::from_secs(90)).await;
        let told = route.report().service_down.unwrap();
        assert_eq!(told, "no attempt has ended for 90 s; before: refused");
    }

    #[test]
    fn the_attempts_of_a_route_are_counted_by_their_outcome() {
        let route = RouteFigures::new("a", Duration::from_secs(5), &RetrySettings::default());
        for kind in OutcomeKind::ALL {
            route.attempt_ended(*kind);
        }
        route.set_down(Some("refused".to_owned()));
        let report = route.report();
        let failures = OutcomeKind::ALL.iter().filter(|kind| kind.is_failure());
        assert_eq!(report.attempts, OutcomeKind::ALL.len() as u64);
        assert_eq!((report.succeeded, report.dropped), (1, 1));
        assert_eq!(report.failed, failures.count() as u64);
        assert_eq!(report.service_down.as_deref(), Some("refused"));
    }
}
