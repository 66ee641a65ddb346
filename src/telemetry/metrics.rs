//! The instruments of the [catalogue](super::catalogue), fed.
//!
//! What is counted already is observed when somebody collects, which costs a message nothing; only
//! durations are recorded as they happen.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Counter, Histogram, Meter},
};
use tokio::sync::watch;

use super::{
    catalogue::{self, BUCKETS, Instrument, Kind, attributes},
    stats::LaneStats,
};
use crate::{
    broker::connections_opened,
    handler::Outcome,
    state::MailboxGauge,
    worker::{LaneHealth, LaneState},
};

/// A worker, as it is observed.
pub(crate) struct Observed {
    pub(crate) lanes: Vec<ObservedLane>,
    /// Why nothing can be published, where nothing can.
    pub(crate) publishing: watch::Receiver<Option<String>>,
    pub(crate) mailbox: MailboxGauge,
}

/// A lane, as it is observed.
pub(crate) struct ObservedLane {
    pub(crate) name: Arc<str>,
    pub(crate) queue: Arc<str>,
    pub(crate) prefetch: u16,
    pub(crate) stats: Arc<LaneStats>,
    pub(crate) health: watch::Receiver<LaneHealth>,
}

type Report<'a> = &'a dyn AsyncInstrument<u64>;

/// Makes the instruments that are observed.
pub(crate) fn observe(meter: &Meter, observed: Observed) {
    let observed = Arc::new(observed);
    let register = |instrument: &Instrument, report: fn(&Observed, Report<'_>)| {
        let observed = Arc::clone(&observed);
        let callback = move |to: Report<'_>| report(&observed, to);
        let (name, unit) = (instrument.name, instrument.unit);
        match instrument.kind {
            Kind::Gauge => drop(
                meter
                    .u64_observable_gauge(name)
                    .with_unit(unit)
                    .with_description(instrument.meaning)
                    .with_callback(callback)
                    .build(),
            ),
            Kind::Counter | Kind::Histogram => drop(
                meter
                    .u64_observable_counter(name)
                    .with_unit(unit)
                    .with_description(instrument.meaning)
                    .with_callback(callback)
                    .build(),
            ),
        }
    };
    register(&catalogue::CONSUMED, |all, to| {
        for lane in &all.lanes {
            let attributes = process_attributes(&lane.name, &lane.queue);
            to.observe(lane.stats.received.get(), &attributes);
        }
    });
    register(&catalogue::SETTLED, |all, to| {
        each(all, to, attributes::END, |stats| stats.ends());
    });
    register(&catalogue::ATTEMPTS, |all, to| {
        each(all, to, attributes::OUTCOME, |stats| {
            stats.counters.outcomes()
        });
    });
    register(&catalogue::PARKED, |all, to| {
        each(all, to, attributes::RUNG, |stats| {
            let counts = stats.parked.iter();
            counts.map(|(rung, count)| (rung.clone(), count.get()))
        });
    });
    register(&catalogue::DEAD_LETTERS, |all, to| {
        each(all, to, attributes::REASON, |stats| stats.dead_letters());
    });
    register(&catalogue::DROPPED, |all, to| {
        lanes(all, to, |s| s.dropped.get())
    });
    register(&catalogue::DUPLICATES, |all, to| {
        lanes(all, to, |s| s.duplicates.get())
    });
    register(&catalogue::STALE_SETTLES, |all, to| {
        lanes(all, to, |s| s.counters.stale_settles.get())
    });
    register(&catalogue::STUCK, |all, to| {
        lanes(all, to, |s| s.counters.handler_stuck.get())
    });
    register(&catalogue::INLINE, |all, to| {
        lanes(all, to, |s| s.counters.inline_retries.get())
    });
    register(&catalogue::PUBLISH_FAILURES, |all, to| {
        lanes(all, to, |s| s.counters.publish_failures.get())
    });
    register(&catalogue::SESSIONS, |all, to| {
        lanes(all, to, |s| s.counters.sessions.get())
    });
    register(&catalogue::IN_FLIGHT, |all, to| {
        lanes(all, to, |s| s.in_flight.get())
    });
    register(&catalogue::BUFFERED, |all, to| {
        lanes(all, to, |s| s.buffered.get())
    });
    register(&catalogue::WAITING, |all, to| {
        lanes(all, to, |s| s.waiting.get())
    });
    register(&catalogue::CONCURRENCY, |all, to| {
        lanes(all, to, |s| s.slots.wanted() as u64)
    });
    register(&catalogue::PREFETCH, |all, to| {
        for lane in &all.lanes {
            let labels = [KeyValue::new(attributes::LANE, Arc::clone(&lane.name))];
            to.observe(u64::from(lane.prefetch), &labels);
        }
    });
    register(&catalogue::RUNNING, |all, to| {
        lanes(all, to, |s| s.slots.in_use() as u64)
    });
    register(&catalogue::LANE_STATE, |all, to| {
        for lane in &all.lanes {
            let now = lane.health.borrow().state;
            for state in LaneState::ALL {
                let labels = [
                    KeyValue::new(attributes::LANE, Arc::clone(&lane.name)),
                    KeyValue::new(attributes::STATE, state.name()),
                ];
                to.observe(u64::from(state == now), &labels);
            }
        }
    });
    register(&catalogue::CONNECTIONS, |_, to| {
        for (purpose, count) in connections_opened() {
            to.observe(count, &[KeyValue::new(attributes::CONNECTION, purpose)]);
        }
    });
    register(&catalogue::PUBLISHER_BLOCKED, |all, to| {
        to.observe(u64::from(all.publishing.borrow().is_some()), &[]);
    });
    register(&catalogue::MAILBOX, |all, to| {
        to.observe(all.mailbox.waiting(), &[]);
    });
}

/// One number a lane.
fn lanes(all: &Observed, to: Report<'_>, value: fn(&LaneStats) -> u64) {
    for lane in &all.lanes {
        let labels = [KeyValue::new(attributes::LANE, Arc::clone(&lane.name))];
        to.observe(value(&lane.stats), &labels);
    }
}

/// Several numbers a lane, told apart by one more attribute.
fn each<'a, K, I>(
    all: &'a Observed,
    to: Report<'_>,
    key: &'static str,
    values: impl Fn(&'a LaneStats) -> I,
) where
    K: Into<opentelemetry::Value>,
    I: Iterator<Item = (K, u64)>,
{
    for lane in &all.lanes {
        for (name, value) in values(&lane.stats) {
            let labels = [
                KeyValue::new(attributes::LANE, Arc::clone(&lane.name)),
                KeyValue::new(key, name),
            ];
            to.observe(value, &labels);
        }
    }
}

fn process_attributes(lane: &Arc<str>, queue: &Arc<str>) -> [KeyValue; 4] {
    [
        KeyValue::new(attributes::SYSTEM, "rabbitmq"),
        KeyValue::new(attributes::OPERATION, "process"),
        KeyValue::new(attributes::DESTINATION, Arc::clone(queue)),
        KeyValue::new(attributes::LANE, Arc::clone(lane)),
    ]
}

fn histogram(meter: &Meter, instrument: &Instrument) -> Histogram<f64> {
    meter
        .f64_histogram(instrument.name)
        .with_unit(instrument.unit)
        .with_description(instrument.meaning)
        .with_boundaries(BUCKETS.to_vec())
        .build()
}

/// What a lane records as it happens.
pub(crate) struct LaneMetrics {
    lane: Arc<str>,
    queue: Arc<str>,
    process: Histogram<f64>,
    operation: Histogram<f64>,
    latency: Histogram<f64>,
    sent: Counter<u64>,
    /// The attributes of a run that succeeded.
    succeeded: [KeyValue; 4],
    errors: ErrorTypes,
}

impl LaneMetrics {
    pub(crate) fn new(meter: &Meter, lane: &Arc<str>, queue: &Arc<str>) -> Self {
        Self {
            lane: Arc::clone(lane),
            queue: Arc::clone(queue),
            process: histogram(meter, &catalogue::PROCESS_DURATION),
            operation: histogram(meter, &catalogue::OPERATION_DURATION),
            latency: histogram(meter, &catalogue::LATENCY),
            sent: meter
                .u64_counter(catalogue::SENT.name)
                .with_unit(catalogue::SENT.unit)
                .with_description(catalogue::SENT.meaning)
                .build(),
            succeeded: process_attributes(lane, queue),
            errors: ErrorTypes::default(),
        }
    }

    /// A handler run has ended.
    pub(crate) fn ran(&self, outcome: &Outcome, took: Duration) {
        let took = took.as_secs_f64();
        let Some(class) = error_type(outcome) else {
            return self.process.record(took, &self.succeeded);
        };
        let mut labels = self.succeeded.to_vec();
        let class = self.errors.bounded(&class);
        labels.push(KeyValue::new(attributes::ERROR_TYPE, class));
        self.process.record(took, &labels);
    }

    /// A message that was handled is done.
    pub(crate) fn done(&self, since_published: Duration) {
        let labels = [KeyValue::new(attributes::LANE, Arc::clone(&self.lane))];
        self.latency.record(since_published.as_secs_f64(), &labels);
    }

    /// A copy was published, or was not.
    pub(crate) fn published(&self, to: &str, took: Duration, error: Option<&'static str>) {
        let mut labels = vec![
            KeyValue::new(attributes::SYSTEM, "rabbitmq"),
            KeyValue::new(attributes::OPERATION, "publish"),
            KeyValue::new(attributes::DESTINATION, to.to_owned()),
        ];
        labels.extend(error.map(|class| KeyValue::new(attributes::ERROR_TYPE, class)));
        self.sent.add(1, &labels);
        labels.push(KeyValue::new(attributes::OPERATION_TYPE, "send"));
        self.operation.record(took.as_secs_f64(), &labels);
    }

    /// Acks were written, or were not.
    pub(crate) fn acked(&self, took: Duration, written: bool) {
        let mut labels = vec![
            KeyValue::new(attributes::SYSTEM, "rabbitmq"),
            KeyValue::new(attributes::OPERATION, "ack"),
            KeyValue::new(attributes::OPERATION_TYPE, "settle"),
            KeyValue::new(attributes::DESTINATION, Arc::clone(&self.queue)),
        ];
        if !written {
            labels.push(KeyValue::new(attributes::ERROR_TYPE, "not-written"));
        }
        self.operation.record(took.as_secs_f64(), &labels);
    }
}

/// Records how long a drain took.
pub(crate) fn drained(meter: &Meter, took: Duration) {
    histogram(meter, &catalogue::DRAIN_DURATION).record(took.as_secs_f64(), &[]);
}

/// The class of an outcome that is a failure.
pub(crate) fn error_type(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Interrupted => Some("interrupted".to_owned()),
        // What has not failed is told without making a failure of it.
        Outcome::Succeeded | Outcome::Dropped { .. } | Outcome::Snoozed { .. } => None,
        _ => outcome.failure().map(|failure| failure.class.into_owned()),
    }
}

/// The error types that a lane has shown. Handlers make them up, and an attribute must not have
/// many values.
#[derive(Default)]
struct ErrorTypes(Mutex<HashSet<String>>);

impl ErrorTypes {
    const MOST: usize = 32;
    const LONGEST: usize = 64;

    fn bounded(&self, class: &str) -> String {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let class = crate::text::cut(class, Self::LONGEST);
        if known.contains(class) || known.len() < Self::MOST && known.insert(class.to_owned()) {
            return class.to_owned();
        }
        // The conventions' word for what is not told apart.
        "_OTHER".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_types_are_few_and_short() {
        let types = ErrorTypes::default();
        let long = "x".repeat(1000);
        assert_eq!(types.bounded(&long).len(), ErrorTypes::LONGEST);
        let all: HashSet<_> = (0..1000)
            .map(|n| types.bounded(&format!("class-{n}")))
            .collect();
        assert_eq!(all.len(), ErrorTypes::MOST, "31 more and _OTHER");
        assert!(all.contains("_OTHER") && all.contains("class-0"));
        assert_eq!(types.bounded("class-0"), "class-0", "the first stay");
    }
}
