//! The instruments of the [catalogue](super::catalogue) that are recorded when something happens,
//! mostly durations. The others are [observed](super::observed).

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter},
};

use super::catalogue::{self, BUCKETS, Instrument, Kind, SIZES, attributes};
use crate::{lock::lock, outcome::Ending, text::snake_case};

/// The attributes of an operation on the messages of a consumer.
pub(super) fn attributes_of(
    operation: &'static str,
    consumer: &Arc<str>,
    queue: &Arc<str>,
) -> [KeyValue; 4] {
    [
        KeyValue::new(attributes::SYSTEM, "rabbitmq"),
        KeyValue::new(attributes::OPERATION, operation),
        KeyValue::new(attributes::DESTINATION, Arc::clone(queue)),
        KeyValue::new(attributes::CONSUMER, Arc::clone(consumer)),
    ]
}

fn histogram(meter: &Meter, instrument: &Instrument) -> Histogram<f64> {
    meter
        .f64_histogram(instrument.name)
        .with_unit(instrument.unit)
        .with_description(instrument.meaning)
        .with_boundaries(match instrument.kind {
            Kind::Sizes => SIZES.to_vec(),
            _ => BUCKETS.to_vec(),
        })
        .build()
}

/// The recorded instruments of one consumer.
pub(crate) struct ConsumerMetrics {
    consumer: Arc<str>,
    queue: Arc<str>,
    process: Histogram<f64>,
    operation: Histogram<f64>,
    latency: Histogram<f64>,
    batch: Histogram<f64>,
    sent: Counter<u64>,
    /// The attributes of a handler run that succeeded.
    succeeded: [KeyValue; 4],
    errors: ErrorTypes,
}

impl ConsumerMetrics {
    pub(crate) fn new(meter: &Meter, consumer: &Arc<str>, queue: &Arc<str>) -> Self {
        Self {
            consumer: Arc::clone(consumer),
            queue: Arc::clone(queue),
            process: histogram(meter, &catalogue::PROCESS_DURATION),
            operation: histogram(meter, &catalogue::OPERATION_DURATION),
            latency: histogram(meter, &catalogue::LATENCY),
            batch: histogram(meter, &catalogue::BATCH_SIZE),
            sent: meter
                .u64_counter(catalogue::SENT.name)
                .with_unit(catalogue::SENT.unit)
                .with_description(catalogue::SENT.meaning)
                .build(),
            succeeded: attributes_of("process", consumer, queue),
            errors: ErrorTypes::default(),
        }
    }

    /// A handler run has ended.
    pub(crate) fn ran(&self, ending: &Ending, took: Duration) {
        let took = took.as_secs_f64();
        let Some(class) = ending.error_class() else {
            return self.process.record(took, &self.succeeded);
        };
        let mut labels = self.succeeded.to_vec();
        let class = self.errors.bounded(&snake_case(&class));
        labels.push(KeyValue::new(attributes::ERROR_TYPE, class));
        self.process.record(took, &labels);
    }

    /// The handler has succeeded with a message, or has dropped it.
    pub(crate) fn done(&self, since_published: Duration) {
        let labels = [self.label()];
        self.latency.record(since_published.as_secs_f64(), &labels);
    }

    /// A call of the handler had so many messages.
    pub(crate) fn called(&self, messages: u32) {
        self.batch.record(messages.into(), &[self.label()]);
    }

    fn label(&self) -> KeyValue {
        KeyValue::new(attributes::CONSUMER, Arc::clone(&self.consumer))
    }

    /// The publish of a copy has ended.
    pub(crate) fn published(&self, to: &str, took: Duration, error: Option<&'static str>) {
        let mut labels = vec![
            KeyValue::new(attributes::SYSTEM, "rabbitmq"),
            KeyValue::new(attributes::OPERATION, "publish"),
            KeyValue::new(attributes::DESTINATION, to.to_owned()),
        ];
        labels.extend(error.map(|class| KeyValue::new(attributes::ERROR_TYPE, snake_case(class))));
        self.sent.add(1, &labels);
        labels.push(KeyValue::new(attributes::OPERATION_TYPE, "send"));
        self.operation.record(took.as_secs_f64(), &labels);
    }

    /// Acks were written, or writing them failed.
    pub(crate) fn acked(&self, took: Duration, written: bool) {
        let mut labels = vec![
            KeyValue::new(attributes::SYSTEM, "rabbitmq"),
            KeyValue::new(attributes::OPERATION, "ack"),
            KeyValue::new(attributes::OPERATION_TYPE, "settle"),
            KeyValue::new(attributes::DESTINATION, Arc::clone(&self.queue)),
        ];
        if !written {
            labels.push(KeyValue::new(attributes::ERROR_TYPE, "not_written"));
        }
        self.operation.record(took.as_secs_f64(), &labels);
    }
}

/// Records how long a drain took.
pub(crate) fn drained(meter: &Meter, took: Duration) {
    histogram(meter, &catalogue::DRAIN_DURATION).record(took.as_secs_f64(), &[]);
}

/// The error types of a consumer so far. Handlers choose them freely, but an attribute must not have
/// many values, so their number is limited.
#[derive(Default)]
struct ErrorTypes(Mutex<HashSet<String>>);

impl ErrorTypes {
    const MOST: usize = 32;
    const LONGEST: usize = 64;

    fn bounded(&self, class: &str) -> String {
        let mut known = lock(&self.0);
        let class = crate::text::cut(class, Self::LONGEST);
        if known.contains(class) || known.len() < Self::MOST && known.insert(class.to_owned()) {
            return class.to_owned();
        }
        // The value that the conventions give for all other error types.
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
