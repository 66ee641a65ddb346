//! The history of the consumers: read once a second, kept for five minutes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    api::App,
    views::{History, Latency, Pace, Rates, Recent},
};
use crate::{
    ConsumerReport,
    lock::lock,
    status::{Added, Counts, Durations, Tally},
    text::rfc3339,
};

/// The time between two looks.
const STEP: Duration = Duration::from_secs(1);
/// The number of steps that are kept.
const STEPS: usize = 300;
/// The number of steps over which rates are computed.
const RATES: usize = 10;
/// The number of steps over which latencies are computed, and recent runs counted.
const MINUTE: usize = 60;
/// The number of steps over which the percentiles of the history are computed. Those of a single second
/// jump about if few handlers end in it.
const SMOOTH: usize = 30;

/// The history of one consumer.
struct ConsumerMonitor {
    /// Its report at the last look.
    report: Option<ConsumerReport>,
    /// All handler durations up to the last look.
    durations: Tally,
    /// The durations of the last [`MINUTE`] steps.
    minute: Window,
    /// The durations of the last [`SMOOTH`] steps.
    recent: Window,
    steps: VecDeque<Step>,
}

impl Default for ConsumerMonitor {
    fn default() -> Self {
        Self {
            report: None,
            durations: Tally::default(),
            minute: Window::new(MINUTE),
            recent: Window::new(SMOOTH),
            steps: VecDeque::new(),
        }
    }
}

/// The durations of the last steps.
struct Window {
    /// The number of steps.
    most: usize,
    /// The durations that each step added.
    added: VecDeque<Added>,
    /// The sum of `added`.
    sum: Tally,
}

impl Window {
    fn new(most: usize) -> Self {
        Self {
            most,
            added: VecDeque::new(),
            sum: Tally::default(),
        }
    }

    /// Adds what so many steps have added.
    fn push(&mut self, added: &Added, steps: usize) {
        self.sum.add(added);
        self.added.push_back(added.clone());
        self.added.extend((1..steps).map(|_| Added::default()));
        while self.added.len() > self.most {
            if let Some(old) = self.added.pop_front() {
                self.sum.subtract(&old);
            }
        }
    }
}

/// What happened within a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Step {
    received: u64,
    succeeded: u64,
    failed: u64,
    p50: Option<f64>,
    p95: Option<f64>,
    in_flight: usize,
    ready: Option<u32>,
}

/// The figures of a consumer at a look.
struct Now<'a> {
    report: ConsumerReport,
    durations: &'a Durations,
    /// The messages that were ready in its queue when they were last counted.
    ready: Option<u32>,
}

/// The history of all consumers.
#[derive(Default)]
pub(super) struct Monitor(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    consumers: BTreeMap<String, ConsumerMonitor>,
    /// When the last look was.
    until: Option<SystemTime>,
}

impl Monitor {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        lock(&self.0)
    }

    /// How fast a consumer works, and how its handler runs ended.
    pub(super) fn pace(&self, consumer: &str) -> Pace {
        let kept = self.lock();
        let pace = kept.consumers.get(consumer).map(ConsumerMonitor::pace);
        pace.unwrap_or_default()
    }

    /// The history of a consumer, step by step.
    pub(super) fn history(&self, consumer: &str) -> History {
        let kept = self.lock();
        let until = kept.until.unwrap_or_else(SystemTime::now);
        let none = VecDeque::new();
        let steps = kept
            .consumers
            .get(consumer)
            .map_or(&none, |consumer| &consumer.steps);
        fn each<T>(steps: &VecDeque<Step>, field: impl Fn(&Step) -> T) -> Vec<T> {
            steps.iter().map(field).collect()
        }
        History {
            step_seconds: STEP.as_secs_f64(),
            until: rfc3339(until),
            received: each(steps, |step| step.received),
            succeeded: each(steps, |step| step.succeeded),
            failed: each(steps, |step| step.failed),
            p50_seconds: each(steps, |step| step.p50),
            p95_seconds: each(steps, |step| step.p95),
            in_flight: each(steps, |step| step.in_flight),
            ready: each(steps, |step| step.ready),
        }
    }

    fn add(&self, consumer: &str, now: Now<'_>, steps: usize) {
        let mut kept = self.lock();
        kept.until = Some(SystemTime::now());
        if !kept.consumers.contains_key(consumer) {
            kept.consumers
                .insert(consumer.to_owned(), ConsumerMonitor::default());
        }
        if let Some(consumer) = kept.consumers.get_mut(consumer) {
            consumer.add(now, steps);
        }
    }
}

impl ConsumerMonitor {
    /// Adds what happened since the last look, `steps` steps ago. The first look adds nothing: it
    /// only gives the numbers to subtract from the next ones.
    fn add(&mut self, now: Now<'_>, steps: usize) {
        let Now {
            report,
            durations,
            ready,
        } = now;
        let added = durations.since(&mut self.durations);
        let in_flight = report.in_flight;
        let Some(before) = self.report.replace(report.clone()) else {
            return;
        };
        let [received, succeeded, failed] = [
            report
                .ledger
                .received
                .saturating_sub(before.ledger.received),
            report
                .counts
                .succeeded
                .saturating_sub(before.counts.succeeded),
            failures(&report.counts).saturating_sub(failures(&before.counts)),
        ];
        // A late look covers several steps: each of them gets an equal part.
        let part = |all: u64, step: usize| {
            let (step, steps) = (step as u64, steps as u64);
            all * (step + 1) / steps - all * step / steps
        };
        self.minute.push(&added, steps);
        self.recent.push(&added, steps);
        let [p50, p95] = [0.5, 0.95].map(|part| self.recent.sum.quantile(part));
        for step in 0..steps {
            self.steps.push_back(Step {
                received: part(received, step),
                succeeded: part(succeeded, step),
                failed: part(failed, step),
                p50,
                p95,
                in_flight,
                ready,
            });
        }
        let spare = self.steps.len().saturating_sub(STEPS);
        self.steps.drain(..spare);
    }

    fn pace(&self) -> Pace {
        let last = self.steps.iter().rev().take(RATES);
        let seconds = last.len().max(1) as f64 * STEP.as_secs_f64();
        let rate = |field: fn(&Step) -> u64| last.clone().map(field).sum::<u64>() as f64 / seconds;
        let rates = Rates {
            received: rate(|step| step.received),
            succeeded: rate(|step| step.succeeded),
            failed: rate(|step| step.failed),
        };
        let latency = Latency {
            p50_seconds: self.minute.sum.quantile(0.5),
            p95_seconds: self.minute.sum.quantile(0.95),
            p99_seconds: self.minute.sum.quantile(0.99),
        };
        let minute = self.steps.iter().rev().take(MINUTE);
        let recent = Recent {
            succeeded: minute.clone().map(|step| step.succeeded).sum(),
            failed: minute.map(|step| step.failed).sum(),
        };
        Pace {
            rates,
            latency,
            recent,
        }
    }
}

fn failures(counts: &Counts) -> u64 {
    counts.failed + counts.unavailable + counts.timed_out + counts.panicked
}

/// Reads the figures of all consumers once a second, and sends the state to the streams of events.
/// Never returns.
pub(super) async fn watch(app: Arc<App>) {
    let mut ticks = interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last = None;
    let is_keeping = Arc::new(AtomicBool::new(false));
    loop {
        let now = ticks.tick().await;
        let steps = last.map_or(1, |last| steps_between(last, now));
        last = Some(now);
        look(&app, steps);
        app.note_start();
        app.liveness.look(&app.worker);
        app.tell();
        app.refused.tell();
        app.dead.forget();
        if app.worker.readiness().draining {
            app.dead.close();
        }
        if !is_keeping.swap(true, Ordering::Relaxed) {
            let (app, is_keeping) = (Arc::clone(&app), Arc::clone(&is_keeping));
            // In a task of its own: a disk that hangs does not hold up the monitor.
            tokio::spawn(async move {
                // The first failure is logged.
                let _ = app.pauses.keep(&app.worker).await;
                is_keeping.store(false, Ordering::Relaxed);
            });
        }
    }
}

/// The number of steps between two looks: one, or more if the second look is late.
fn steps_between(last: Instant, now: Instant) -> usize {
    let steps = now.duration_since(last).as_secs_f64() / STEP.as_secs_f64();
    (steps.round() as usize).clamp(1, STEPS)
}

fn look(app: &App, steps: usize) {
    for name in app.worker.consumers() {
        if let Some(figures) = app.worker.figures(name) {
            let now = Now {
                report: figures.report(),
                durations: &figures.durations,
                ready: figures.looks.backlog().ready,
            };
            app.monitor.add(name, now, steps);
        }
    }
}

#[cfg(test)]
mod tests;
