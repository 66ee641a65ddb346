//! Two rules that must hold at any moment: a consumer never runs more handlers than it has slots,
//! and no slot stays free for long while a delivery waits for one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapwing::{ConsumerState, WorkerHandle};

use super::CONSUMERS;
use crate::support::ms;

/// A handler that runs now got its slot at most this long ago, under the limit at that time.
const LATE: Duration = Duration::from_secs(2);
/// Far more than the time that a slot may stay free, because the machine may be busy.
const STALL: Duration = Duration::from_secs(1);

/// The handlers of one consumer.
#[derive(Debug, Default)]
struct Consumer {
    inside: usize,
    peak: usize,
    /// The number of handlers that may run, and since when.
    limits: Vec<(Instant, usize)>,
    /// The highest number of unsettled deliveries.
    unsettled: usize,
}

impl Consumer {
    fn limit(&self) -> usize {
        self.limits.last().map_or(0, |(_, limit)| *limit)
    }

    /// The highest limit in the recent past.
    fn most(&self) -> usize {
        let until = self.limits.iter().skip(1).map(|(since, _)| Some(*since));
        let ends = until.chain([None]);
        let of_late = self
            .limits
            .iter()
            .zip(ends)
            .filter_map(|((_, limit), end)| {
                end.is_none_or(|end| end.elapsed() < LATE).then_some(*limit)
            });
        of_late.max().unwrap_or(0)
    }
}

/// Watches the handlers of all consumers, and records each violation of the two rules.
#[derive(Debug, Default)]
pub(super) struct Load {
    consumers: Mutex<BTreeMap<String, Consumer>>,
    faults: Mutex<Vec<String>>,
}

/// A running handler.
pub(super) struct Inside<'a>(&'a Load, String);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.with(&self.1, |consumer| consumer.inside -= 1);
    }
}

impl Load {
    fn with<T>(&self, consumer: &str, change: impl FnOnce(&mut Consumer) -> T) -> T {
        let mut consumers = self.consumers.lock().expect("no holder panics");
        change(consumers.entry(consumer.to_owned()).or_default())
    }

    fn fault(&self, fault: String) {
        println!("{fault}");
        self.faults.lock().expect("no holder panics").push(fault);
    }

    /// From now on this many handlers may run.
    pub(super) fn limit(&self, consumer: &str, limit: u16) {
        self.with(consumer, |consumer| {
            consumer.limits.push((Instant::now(), limit.into()));
        });
    }

    /// Counts a handler as running until the guard is dropped.
    pub(super) fn enter(&self, consumer: &str) -> Inside<'_> {
        let (inside, most) = self.with(consumer, |consumer| {
            consumer.inside += 1;
            consumer.peak = consumer.peak.max(consumer.inside);
            (consumer.inside, consumer.most())
        });
        if inside > most {
            self.fault(format!(
                "{inside} handlers of {consumer}, which may have {most}"
            ));
        }
        Inside(self, consumer.to_owned())
    }

    /// Observes a worker's consumers until the worker drains.
    pub(super) async fn watch(self: Arc<Self>, handle: WorkerHandle) {
        // Since when a slot has been free while a delivery waits, and the number of attempts then.
        let mut free: BTreeMap<&str, (Instant, u64)> = BTreeMap::new();
        while !handle.readiness().draining {
            tokio::time::sleep(ms(50)).await;
            for consumer in CONSUMERS {
                let report = handle.report(consumer);
                let consumes =
                    handle.readiness().consumers[consumer].state == ConsumerState::Consuming;
                let (Ok(report), true) = (report, consumes) else {
                    free.remove(consumer);
                    continue;
                };
                let unsettled = report.in_flight;
                let limit = self.with(consumer, |consumer| {
                    consumer.unsettled = consumer.unsettled.max(unsettled);
                    consumer.limit()
                });
                let attempts = report.counts.attempts;
                let begin = (Instant::now(), attempts);
                let since = free.entry(consumer).or_insert(begin);
                if report.buffered == 0 || report.running >= limit || since.1 != attempts {
                    *since = begin;
                } else if since.0.elapsed() > STALL {
                    self.fault(format!("{consumer} has a free slot of {limit}: {report:?}"));
                    *since = begin;
                }
            }
        }
    }

    /// Panics if a rule was violated; otherwise prints each consumer's peaks.
    pub(super) fn check(&self) -> String {
        let faults = self.faults.lock().expect("no holder panics");
        assert!(faults.is_empty(), "{faults:#?}");
        let consumers = self.consumers.lock().expect("no holder panics");
        let peaks = consumers.iter().map(|(name, consumer)| {
            format!(
                "{name}: {} handlers, {} unsettled; ",
                consumer.peak, consumer.unsettled
            )
        });
        peaks.collect()
    }
}
