//! The instruments of the [catalogue](super::catalogue) that are observed: what is counted already is
//! read when somebody collects, which costs a message nothing.

use std::sync::Arc;

use opentelemetry::{
    KeyValue, Value,
    metrics::{AsyncInstrument, Meter},
};
use tokio::sync::watch;

use super::{
    catalogue::{self, Instrument, Kind, attributes},
    metrics::process_attributes,
};
use crate::{
    broker::connections_opened,
    state::MailboxGauge,
    status::{LaneHealth, LaneState, LaneStats},
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

impl ObservedLane {
    fn label(&self) -> KeyValue {
        KeyValue::new(attributes::LANE, Arc::clone(&self.name))
    }
}

type Report<'a> = &'a dyn AsyncInstrument<u64>;

type Number = fn(&ObservedLane) -> u64;

/// One number a lane.
const NUMBERS: [(Instrument, Number); 13] = [
    (catalogue::DROPPED, |lane| lane.stats.dropped.get()),
    (catalogue::DUPLICATES, |lane| lane.stats.duplicates.get()),
    (catalogue::STALE_SETTLES, |lane| {
        lane.stats.counters.stale_settles.get()
    }),
    (catalogue::STUCK, |lane| {
        lane.stats.counters.handler_stuck.get()
    }),
    (catalogue::INLINE, |lane| {
        lane.stats.counters.inline_retries.get()
    }),
    (catalogue::PUBLISH_FAILURES, |lane| {
        lane.stats.counters.publish_failures.get()
    }),
    (catalogue::SESSIONS, |lane| {
        lane.stats.counters.sessions.get()
    }),
    (catalogue::IN_FLIGHT, |lane| lane.stats.in_flight.get()),
    (catalogue::BUFFERED, |lane| lane.stats.buffered.get()),
    (catalogue::WAITING, |lane| lane.stats.waiting.get()),
    (catalogue::CONCURRENCY, |lane| {
        lane.stats.slots.limit() as u64
    }),
    (catalogue::PREFETCH, |lane| u64::from(lane.prefetch)),
    (catalogue::RUNNING, |lane| lane.stats.slots.in_use() as u64),
];

/// Takes a value of the attribute, and the number that it has.
type Take<'a> = &'a mut dyn FnMut(Value, u64);
type Group = fn(&ObservedLane, Take<'_>);

/// Several numbers a lane, told apart by one more attribute.
const GROUPS: [(Instrument, &str, Group); 5] = [
    (catalogue::SETTLED, attributes::END, |lane, take| {
        lane.stats.ends().for_each(|(end, n)| take(end.into(), n));
    }),
    (catalogue::ATTEMPTS, attributes::OUTCOME, |lane, take| {
        let outcomes = lane.stats.counters.outcomes();
        outcomes.for_each(|(outcome, n)| take(outcome.into(), n));
    }),
    (catalogue::PARKED, attributes::RUNG, |lane, take| {
        let rungs = lane.stats.parked.iter();
        rungs.for_each(|(rung, count)| take(rung.clone().into(), count.get()));
    }),
    (catalogue::DEAD_LETTERS, attributes::REASON, |lane, take| {
        let reasons = lane.stats.dead_letters();
        reasons.for_each(|(reason, n)| take(reason.into(), n));
    }),
    (catalogue::LANE_STATE, attributes::STATE, |lane, take| {
        let now = lane.health.borrow().state;
        for state in LaneState::ALL {
            take(state.name().into(), u64::from(state == now));
        }
    }),
];

type Other = fn(&Observed, Report<'_>);

/// What does not fit the tables above.
const OTHERS: [(Instrument, Other); 4] = [
    (catalogue::CONSUMED, |all, to| {
        for lane in &all.lanes {
            let attributes = process_attributes(&lane.name, &lane.queue);
            to.observe(lane.stats.received.get(), &attributes);
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
    (catalogue::MAILBOX, |all, to| {
        to.observe(all.mailbox.waiting(), &[]);
    }),
];

/// Makes the instruments that are observed.
pub(crate) fn observe(meter: &Meter, observed: Observed) {
    let observed = Arc::new(observed);
    for (instrument, number) in NUMBERS {
        register(meter, &instrument, &observed, move |all, to| {
            for lane in &all.lanes {
                to.observe(number(lane), &[lane.label()]);
            }
        });
    }
    for (instrument, attribute, group) in GROUPS {
        register(meter, &instrument, &observed, move |all, to| {
            for lane in &all.lanes {
                group(lane, &mut |value, number| {
                    to.observe(number, &[lane.label(), KeyValue::new(attribute, value)]);
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
}
