//! Canaries of a replay: letters whose first outcome a worker reports to the program that replays
//! them.

use serde::{Deserialize, Serialize};

use crate::broker::{Header, HeaderValue, Properties, headers::names};

/// The beginning of the names of the queues for reports. A worker sends no report to another queue, so
/// whoever can write the header cannot make a worker publish to the queues of others.
pub(crate) const QUEUES_OF_REPORTS: &str = "lapwing-canary.";
/// The longest name of a queue, in bytes: a short string of AMQP.
const LONGEST: usize = 255;

/// Where the first outcome of a canary is to be reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Canary {
    /// The queue for the report.
    pub(crate) queue: String,
    /// The number of the canary in its replay. Several letters can have the same id.
    pub(crate) number: u64,
}

impl Canary {
    /// The header of the canary.
    pub(crate) fn header(&self) -> (&'static str, Header) {
        let Self { queue, number } = self;
        (names::CANARY, Header::Text(format!("{queue} {number}")))
    }

    /// Reads the header; `None` for a message that is no canary.
    pub(crate) fn read(properties: &Properties) -> Option<Self> {
        let text = properties
            .header(names::CANARY)
            .and_then(HeaderValue::as_str)?;
        let (queue, number) = text.rsplit_once(' ')?;
        let is_for_reports = queue.starts_with(QUEUES_OF_REPORTS) && queue.len() <= LONGEST;
        is_for_reports.then_some(Self {
            queue: queue.to_owned(),
            number: number.parse().ok()?,
        })
    }
}

/// A report: the first outcome of a canary, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CanaryReport {
    /// The number of the canary.
    pub(crate) number: u64,
    /// The kind of the outcome.
    pub(crate) outcome: String,
    /// The kind of the settlement that follows.
    pub(crate) settlement: String,
    /// The error with its class; empty without one.
    pub(crate) error: String,
    /// The worker that reports.
    pub(crate) worker: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::CopyHeaders;

    fn with(text: &str) -> Properties {
        let headers = CopyHeaders {
            set: vec![(names::CANARY, Header::Text(text.to_owned()))],
            ..CopyHeaders::default()
        };
        headers.on(&Properties::default())
    }

    #[test]
    fn the_header_of_a_canary_is_read_as_it_was_written() {
        let canary = Canary {
            queue: "lapwing-canary.0197f0c3".to_owned(),
            number: 7,
        };
        let headers = CopyHeaders {
            set: vec![canary.header()],
            ..CopyHeaders::default()
        };
        let copied = headers.on(&Properties::default());
        assert_eq!(Canary::read(&copied), Some(canary));
    }

    #[test]
    fn no_header_makes_a_worker_publish_to_a_queue_of_others() {
        let long = format!("lapwing-canary.{} 1", "x".repeat(250));
        for text in [
            "orders 1",
            "",
            " 1",
            "lapwing-canary.a",
            "lapwing-canary.a x",
            &long,
        ] {
            assert_eq!(Canary::read(&with(text)), None, "{text}");
        }
    }
}
