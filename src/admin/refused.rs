//! Requests that the server refused: counted, and logged at most once a second.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use tracing::warn;

use super::guard::Asked;
use crate::{lock::lock, status::note_admin_refused};

/// The refused requests that are not in the log yet.
#[derive(Debug, Default)]
pub(super) struct Refused(Mutex<Untold>);

#[derive(Debug, Default)]
struct Untold {
    requests: u64,
    told_at: Option<Instant>,
}

impl Refused {
    /// How long the answer to a refused request waits.
    pub(super) const WAIT: Duration = Duration::from_millis(300);

    /// A request was refused. Logs it at once, or counts it for the next line.
    pub(super) fn note(&self, asked: &Asked, status: StatusCode) {
        note_admin_refused();
        if !self.is_due() {
            return;
        }
        warn!(
            peer = asked.peer, agent = asked.agent, method = %asked.method, path = asked.path,
            status = status.as_u16(), "admin request refused",
        );
    }

    /// Whether no line was written within the last second. Otherwise counts the request.
    fn is_due(&self) -> bool {
        let mut untold = lock(&self.0);
        if untold.told_at.is_some_and(|at| at.elapsed() < PERIOD) {
            untold.requests += 1;
            return false;
        }
        untold.told_at = Some(Instant::now());
        true
    }

    /// Logs how many requests were refused since the last line.
    pub(super) fn tell(&self) {
        let mut untold = lock(&self.0);
        if untold.requests == 0 || untold.told_at.is_some_and(|at| at.elapsed() < PERIOD) {
            return;
        }
        let requests = std::mem::take(&mut untold.requests);
        untold.told_at = Some(Instant::now());
        drop(untold);
        warn!(requests, "further admin requests refused");
    }
}

/// The time between two lines.
const PERIOD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_of_the_first_refused_request_and_counts_those_that_follow() {
        // The clock goes on while the test runs: so the last line is of the future, or long ago.
        let refused = Refused::default();
        let told = |at: Option<Instant>| lock(&refused.0).told_at = at;
        let soon = Instant::now() + 3_600 * PERIOD;
        assert!(refused.is_due());
        assert!(lock(&refused.0).told_at.is_some());
        told(Some(soon));
        assert!(!refused.is_due() && !refused.is_due());
        refused.tell();
        assert_eq!(lock(&refused.0).requests, 2, "within a second");
        let long_ago = Instant::now().checked_sub(PERIOD);
        told(long_ago);
        refused.tell();
        assert_eq!(lock(&refused.0).requests, 0);
        assert!(lock(&refused.0).told_at > long_ago);
        told(Some(soon));
        assert!(!refused.is_due());
    }
}
