//! The observable instruments of the [catalogue](super::catalogue). Their values are existing counters,
//! read when metrics are collected, so they add no work for a message.

use std::{sync::Arc, time::Duration};

use opentelemetry::{
    KeyValue, Value,
    metrics::{AsyncInstrument, Meter},
};
use tokio::sync::watch;

use super::{
    catalogue::{self, Instrument, Kind, attributes},
    logs::lines_dropped,
    metrics::attributes_of,
};
use crate::{
    broker::connections_opened,
    outcome::OutcomeKind,
    state::MailboxGauge,
    status::{self, ConsumerHealth, ConsumerReport, ConsumerState, Figures, Looks},
    text::snake_case,
};

/// The parts of a worker that the instruments read.
pub(crate) struct Observed {
    pub(crate) consumers: Vec<ObservedConsumer>,
    /// Why retries and dead letters cannot be published; `None` if they can.
    pub(crate) publishing: watch::Receiver<Option<String>>,
    pub(crate) mailbox: MailboxGauge,
}

/// The parts of a consumer that the instruments read.
pub(crate) struct ObservedConsumer {
    pub(crate) name: Arc<str>,
    pub(crate) queue: Arc<str>,
    pub(crate) figures: Arc<Figures>,
    pub(crate) health: watch::Receiver<ConsumerHealth>,
}

impl ObservedConsumer {
    fn label(&self) -> KeyValue {
        KeyValue::new(attributes::CONSUMER, Arc::clone(&self.name))
    }
}

type Known = fn(&Looks) -> Option<u64>;

/// Instruments about the queue of each consumer; `None` if the number is not known.
const COUNTED: [(Instrument, Known); 4] = [
    (catalogue::QUEUE_READY, |looks| {
        looks.backlog().ready.map(u64::from)
    }),
    (catalogue::QUEUE_OLDEST, |looks| {
        let oldest = looks.backlog().oldest_seconds.map(Duration::from_secs_f64);
        oldest.map(|oldest| oldest.as_secs())
    }),
    (catalogue::DEAD_LETTERS_NOW, |looks| {
        looks.backlog().dead_letters.map(u64::from)
    }),
    (catalogue::AT_LIMIT, |looks| {
        looks.is_at_limit().map(u64::from)
    }),
];

type Report<'a> = &'a dyn AsyncInstrument<u64>;

type Number = fn(&ObservedConsumer, &ConsumerReport) -> u64;

/// Instruments with one number for each consumer.
const NUMBERS: [(Instrument, Number); 14] = [
    (catalogue::DROPPED, |consumer, _| {
        consumer.figures.counted().dropped
    }),
    (catalogue::DUPLICATES, |consumer, _| {
        consumer.figures.counted().duplicates
    }),
    (catalogue::STALE_SETTLES, |_, report| {
        report.counts.stale_settles
    }),
    (catalogue::STUCK, |_, report| report.counts.handler_stuck),
    (catalogue::PROBES, |_, report| report.counts.probes),
    (catalogue::INLINE, |_, report| report.counts.inline_retries),
    (catalogue::PUBLISH_FAILURES, |_, report| {
        report.counts.publish_failures
    }),
    (catalogue::SESSIONS, |_, report| report.counts.sessions),
    (catalogue::IN_FLIGHT, |_, report| report.in_flight as u64),
    (catalogue::BUFFERED, |_, report| report.buffered as u64),
    (catalogue::WAITING, |_, report| report.waiting as u64),
    (catalogue::CONCURRENCY, |consumer, _| {
        consumer.figures.slots.limit() as u64
    }),
    (catalogue::PREFETCH, |consumer, _| {
        u64::from(consumer.figures.settings.prefetch)
    }),
    (catalogue::RUNNING, |_, report| report.running as u64),
];

/// Takes a value of the attribute, and the number for that value.
type Take<'a> = &'a mut dyn FnMut(Value, u64);
type Group = fn(&ObservedConsumer, Take<'_>);

/// Instruments with several numbers for each consumer, one for each value of a further attribute.
const GROUPS: [(Instrument, &str, Group); 5] = [
    (catalogue::SETTLED, attributes::END, |consumer, take| {
        let ends = consumer.figures.counted().ends().into_iter();
        ends.for_each(|(end, n)| take(snake_case(end).into(), n));
    }),
    (
        catalogue::ATTEMPTS,
        attributes::OUTCOME,
        |consumer, take| {
            for kind in OutcomeKind::ALL {
                let count = consumer.figures.counters.outcome(*kind).get();
                take(snake_case(kind.name()).into(), count);
            }
        },
    ),
    (
        catalogue::PARKED,
        attributes::RETRY_QUEUE,
        |consumer, take| {
            let rungs = consumer.figures.rungs();
            rungs.for_each(|(rung, n)| take(rung.queue.clone().into(), n));
        },
    ),
    (
        catalogue::DEAD_LETTERS,
        attributes::REASON,
        |consumer, take| {
            let reasons = consumer.figures.dead_letters();
            reasons.for_each(|(reason, n)| take(snake_case(reason.name()).into(), n));
        },
    ),
    (
        catalogue::CONSUMER_STATE,
        attributes::STATE,
        |consumer, take| {
            let now = consumer.health.borrow().state;
            for state in ConsumerState::ALL {
                take(snake_case(state.name()).into(), u64::from(*state == now));
            }
        },
    ),
];

type Other = fn(&Observed, Report<'_>);

/// Instruments that fit neither table above.
const OTHERS: [(Instrument, Other); 7] = [
    (catalogue::BUILD, |_, to| {
        let version = KeyValue::new(attributes::VERSION, env!("CARGO_PKG_VERSION"));
        to.observe(1, &[version]);
    }),
    (catalogue::CONSUMED, |all, to| {
        for consumer in &all.consumers {
            let attributes = attributes_of("consume", &consumer.name, &consumer.queue);
            to.observe(consumer.figures.report().ledger.received, &attributes);
        }
    }),
    (catalogue::CONNECTIONS, |_, to| {
        for (purpose, count) in connections_opened() {
            to.observe(count, &[KeyValue::new(attributes::CONNECTION, purpose)]);
        }
    }),
    (catalogue::PUBLISHER_BLOCKED, |all, to| {
        to.observe(u64::from(all.publishing.borrow().is_some()), &[]);
    }),
    (catalogue::LOG_LINES_DROPPED, |_, to| {
        to.observe(lines_dropped(), &[]);
    }),
    (catalogue::ADMIN_REFUSED, |_, to| {
        to.observe(status::admin_refused(), &[]);
    }),
    (catalogue::MAILBOX, |all, to| {
        to.observe(all.mailbox.waiting(), &[]);
    }),
];

/// Registers the observable instruments.
pub(crate) fn observe(meter: &Meter, observed: Observed) {
    let observed = Arc::new(observed);
    for (instrument, number) in NUMBERS {
        register(meter, &instrument, &observed, move |all, to| {
            for consumer in &all.consumers {
                to.observe(
                    number(consumer, &consumer.figures.report()),
                    &[consumer.label()],
                );
            }
        });
    }
    for (instrument, number) in COUNTED {
        register(meter, &instrument, &observed, move |all, to| {
            for consumer in &all.consumers {
                if let Some(number) = number(&consumer.figures.looks) {
                    to.observe(number, &[consumer.label()]);
                }
            }
        });
    }
    for (instrument, attribute, group) in GROUPS {
        register(meter, &instrument, &observed, move |all, to| {
            for consumer in &all.consumers {
                group(consumer, &mut |value, number| {
                    to.observe(number, &[consumer.label(), KeyValue::new(attribute, value)]);
                });
            }
        });
    }
    for (instrument, report) in OTHERS {
        register(meter, &instrument, &observed, report);
    }
}

fn register(
    meter: &Meter,
    instrument: &Instrument,
    observed: &Arc<Observed>,
    report: impl Fn(&Observed, Report<'_>) + Send + Sync + 'static,
) {
    let observed = Arc::clone(observed);
    let callback = move |to: Report<'_>| report(&observed, to);
    let (name, unit) = (instrument.name, instrument.unit);
    // The meter keeps the instruments that it builds.
    macro_rules! build {
        ($kind:ident) => {{
            let instrument = meter.$kind(name).with_description(instrument.meaning);
            instrument.with_unit(unit).with_callback(callback).build();
        }};
    }
    match instrument.kind {
        Kind::Gauge => build!(u64_observable_gauge),
        Kind::Counter => build!(u64_observable_counter),
        Kind::Histogram | Kind::Sizes => {
            unreachable!("{name}: distributions are recorded, not observed")
        }
    }
}
