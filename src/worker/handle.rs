//! The handle of a worker, which reads and controls the worker while it runs.

mod flights;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{WorkerSettings, backlog::Watched, lifecycle::Health};
use crate::{
    broker::BrokerError,
    lane::{CallError, CancelError, Command, Depths, LaneChannels},
    outcome::OutcomeKind,
    path::Handlers,
    status::{
        Backlog, ConsumerHealth, ConsumerReport, ConsumerState, DeliveryId, Figures, OutcomeRecord,
        Outcomes, Readiness,
    },
};

/// Why a consumer's concurrency was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConcurrencyError {
    /// There is no consumer of this name.
    #[error("no such consumer")]
    NoSuchConsumer,
    /// The number is 0, or above the consumer's prefetch. The broker sends no more messages at once
    /// than the prefetch, so more handlers could not run.
    #[error("concurrency must be 1 to {prefetch}, the prefetch")]
    OutOfRange {
        /// The consumer's prefetch.
        prefetch: u16,
    },
}

/// Reads and controls a worker while it runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    consumers: BTreeMap<String, ConsumerHandle>,
    outcomes: Outcomes,
    publishing: watch::Receiver<Option<String>>,
    drain: CancellationToken,
    hard_stop: CancellationToken,
    drain_ends: Arc<OnceLock<SystemTime>>,
    deadline: Duration,
}

#[derive(Clone, Debug)]
struct ConsumerHandle {
    commands: mpsc::Sender<Command>,
    health: watch::Receiver<ConsumerHealth>,
    figures: Arc<Figures>,
    handlers: Health,
}

/// The worker's side of a [`WorkerHandle`].
pub(super) struct Calls {
    pub(super) consumers: BTreeMap<String, (LaneChannels, Arc<Figures>)>,
    /// The results of the consumers' attempts to subscribe, for each up to the first success.
    pub(super) first_attempts: mpsc::UnboundedReceiver<FirstAttempt>,
    pub(super) publishing: watch::Sender<Option<String>>,
    pub(super) drain: CancellationToken,
    pub(super) hard_stop: CancellationToken,
    /// The time at which a drain that has begun cancels handlers.
    pub(super) drain_ends: Arc<OnceLock<SystemTime>>,
}

impl Calls {
    /// What the watch of the queues needs of each consumer.
    pub(super) fn watched(&self) -> Vec<Watched> {
        let consumers = self.consumers.values();
        let watched = consumers.map(|(channels, figures)| Watched {
            figures: Arc::clone(figures),
            health: channels.health.subscribe(),
        });
        watched.collect()
    }
}

/// A consumer's name, and the result of its attempt to subscribe.
pub(super) type FirstAttempt = (String, Result<(), BrokerError>);

/// The number of commands that may wait for a consumer.
const MAILBOX: usize = 16;

pub(super) fn channel(settings: &WorkerSettings) -> (WorkerHandle, Calls) {
    let mut handles = BTreeMap::new();
    let mut calls = BTreeMap::new();
    let outcomes = Outcomes::default();
    let (started, first_attempts) = mpsc::unbounded_channel();
    for (name, consumer) in &settings.consumers {
        let (sender, commands) = mpsc::channel(MAILBOX);
        let (health, receiver) =
            watch::channel(ConsumerHealth::new(ConsumerState::Connecting, None));
        let handle = ConsumerHandle {
            commands: sender,
            health: receiver,
            figures: Arc::new(Figures::new(name, consumer, &outcomes)),
            handlers: Health::default(),
        };
        let figures = Arc::clone(&handle.figures);
        handles.insert(name.clone(), handle);
        let channels = LaneChannels {
            commands,
            health,
            started: started.clone(),
        };
        calls.insert(name.clone(), (channels, figures));
    }
    let (sender, publishing) = watch::channel(Some("not connected".to_owned()));
    let handle = WorkerHandle {
        consumers: handles,
        outcomes,
        publishing,
        drain: CancellationToken::new(),
        hard_stop: CancellationToken::new(),
        drain_ends: Arc::default(),
        deadline: settings.timeouts.call,
    };
    let calls = Calls {
        consumers: calls,
        first_attempts,
        publishing: sender,
        drain: handle.drain.clone(),
        hard_stop: handle.hard_stop.clone(),
        drain_ends: Arc::clone(&handle.drain_ends),
    };
    (handle, calls)
}

impl WorkerHandle {
    /// Whether the worker can do its work, and the reasons if it cannot.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let health = |consumer: &ConsumerHandle| consumer.health.borrow().clone();
        let consumers: BTreeMap<_, _> = self
            .consumers
            .iter()
            .map(|(name, consumer)| (name.clone(), health(consumer)))
            .collect();
        let errors = self.consumers.iter().filter_map(|(name, consumer)| {
            let error = consumer.handlers.error()?;
            Some((name.clone(), error))
        });
        let handlers: BTreeMap<_, _> = errors.collect();
        let draining = self.drain.is_cancelled();
        let is_ready = consumers.values().all(ConsumerHealth::is_ready) && handlers.is_empty();
        Readiness {
            ready: !draining && is_ready,
            degraded: consumers.values().any(ConsumerHealth::is_degraded),
            draining,
            drain_ends_at: self.drain_ends.get().copied(),
            consumers,
            handlers,
            publishing: self.publishing.borrow().clone(),
        }
    }

    /// Waits until `wanted` is true for the readiness, or until the worker has ended.
    pub async fn until(&mut self, wanted: impl Fn(&Readiness) -> bool) -> Readiness {
        loop {
            // Check which consumers have ended before reading the readiness, so that the readiness
            // includes the final state of every ended consumer.
            let gone = |consumer: &ConsumerHandle| consumer.health.has_changed().is_err();
            let gone: Vec<_> = self.consumers.values().map(gone).collect();
            let publishing_is_gone = self.publishing.has_changed().is_err();
            let readiness = self.readiness();
            if wanted(&readiness) || gone.iter().all(|gone| *gone) {
                return readiness;
            }
            let drain = self.drain.clone();
            let consumers = self.consumers.values_mut().zip(&gone);
            let consumers = consumers.filter(|(_, gone)| !**gone);
            let changes = consumers.map(|(consumer, _)| Box::pin(consumer.health.changed()));
            tokio::select! {
                biased;
                _ = futures_util::future::select_all(changes) => {}
                _ = self.publishing.changed(), if !publishing_is_gone => {}
                () = drain.cancelled(), if !readiness.draining => {}
            }
        }
    }

    /// A consumer's figures: counts and running handlers of now, the rest as of the last turn of
    /// its loop. A loop turns at least every 250 ms. This does not ask the consumer, so a consumer
    /// that is busy or has ended has a report too.
    ///
    /// # Errors
    /// When there is no such consumer.
    pub fn report(&self, consumer: &str) -> Result<ConsumerReport, CallError> {
        let figures = self.figures(consumer).ok_or(CallError::NoSuchConsumer)?;
        Ok(figures.report())
    }

    /// Whether a consumer keeps up with its queue, as of the last time that the worker counted it.
    ///
    /// # Errors
    /// When there is no such consumer.
    pub fn backlog(&self, consumer: &str) -> Result<Backlog, CallError> {
        let figures = self.figures(consumer).ok_or(CallError::NoSuchConsumer)?;
        Ok(figures.looks.backlog())
    }

    /// Pauses a consumer: it takes nothing new, and returns messages that have not started. Running
    /// handlers finish. Returns when the broker has cancelled the consumer and those messages are
    /// returned.
    ///
    /// # Errors
    /// When there is no such consumer, or when it does not answer.
    pub async fn pause(&self, consumer: &str) -> Result<(), CallError> {
        self.call(consumer, Command::Pause).await
    }

    /// Resumes a paused consumer.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub async fn resume(&self, consumer: &str) -> Result<(), CallError> {
        self.call(consumer, Command::Resume).await
    }

    /// Changes how many handlers of a consumer may run at once, until the process ends. A higher
    /// limit takes effect within 250 ms. A lower limit takes effect as running handlers end, and
    /// cancels none.
    ///
    /// # Errors
    /// When there is no such consumer, or the number is 0 or above its prefetch.
    pub fn set_concurrency(
        &self,
        consumer: &str,
        concurrency: u16,
    ) -> Result<(), ConcurrencyError> {
        let figures = self
            .figures(consumer)
            .ok_or(ConcurrencyError::NoSuchConsumer)?;
        let prefetch = figures.settings.prefetch;
        if !(1..=prefetch).contains(&concurrency) {
            return Err(ConcurrencyError::OutOfRange { prefetch });
        }
        figures.slots.set_limit(concurrency.into());
        Ok(())
    }

    /// Cancels the handler of a message in flight. The outcome is `Interrupted`: the message goes
    /// back to its queue, and no attempt is charged. If the handler succeeds all the same, the
    /// message is acked. A handler that blocks its thread is not cancelled before its timeout.
    ///
    /// # Errors
    /// When the message is no longer in flight, or when no handler runs for it.
    pub async fn cancel(&self, consumer: &str, delivery: DeliveryId) -> Result<(), CancelError> {
        self.call(consumer, |answer| Command::Cancel(delivery, answer))
            .await?
    }

    /// The last outcomes of handler runs, newest first, of one consumer or all and of one kind or
    /// all. The worker keeps every failure, and five other outcomes a second: for each consumer at
    /// most 500 failures and 100 others.
    #[must_use]
    pub fn outcomes(
        &self,
        consumer: Option<&str>,
        kind: Option<OutcomeKind>,
        limit: usize,
    ) -> Vec<Arc<OutcomeRecord>> {
        self.outcomes.after(0, consumer, kind, limit)
    }

    /// The store behind [`outcomes`](Self::outcomes).
    pub(crate) fn outcome_store(&self) -> &Outcomes {
        &self.outcomes
    }

    /// The consumers' names.
    pub fn consumers(&self) -> impl Iterator<Item = &str> {
        self.consumers.keys().map(String::as_str)
    }

    /// The queues that the consumers consume.
    pub(crate) fn queues(&self) -> impl Iterator<Item = &str> {
        let consumers = self.consumers.values();
        consumers.map(|consumer| consumer.figures.settings.queue.as_str())
    }

    /// A consumer's figures.
    pub(crate) fn figures(&self, consumer: &str) -> Option<&Figures> {
        self.consumers
            .get(consumer)
            .map(|consumer| &*consumer.figures)
    }

    /// A consumer's state.
    pub(crate) fn health(&self, consumer: &str) -> Option<ConsumerHealth> {
        let consumer = self.consumers.get(consumer)?;
        Some(consumer.health.borrow().clone())
    }

    /// Whether a consumer has ended without stopping: it panicked, or its worker never ran.
    pub(crate) fn is_gone(&self, consumer: &str) -> bool {
        self.consumers.get(consumer).is_none_or(|consumer| {
            consumer.health.has_changed().is_err()
                && consumer.health.borrow().state != ConsumerState::Stopped
        })
    }

    /// A number that changes while a consumer's loop turns; `None` when the consumer has stopped.
    pub(crate) fn turns(&self, consumer: &str) -> Option<u64> {
        let consumer = self.consumers.get(consumer)?;
        let stopped = consumer.health.borrow().state == ConsumerState::Stopped;
        (!stopped).then(|| consumer.figures.turns())
    }

    /// The number of messages in each of a consumer's retry queues and in its dead-letter queue.
    /// Waits for the answer for at most `limit`.
    pub(crate) async fn depths(
        &self,
        consumer: &str,
        limit: Duration,
    ) -> Result<Result<Depths, BrokerError>, CallError> {
        self.call_within(consumer, limit, Command::Depths).await
    }

    pub(super) fn set_registered(&self, consumer: &str) {
        if let Some(figures) = self.figures(consumer) {
            figures.set_registered();
        }
    }

    pub(super) fn ask_handlers(&self, consumer: &str, handlers: &Handlers) {
        if let Some(consumer) = self.consumers.get(consumer) {
            consumer.handlers.ask(handlers);
        }
    }

    /// Begins the drain, like the end of the shutdown future.
    pub fn stop(&self) {
        self.drain.cancel();
    }

    /// Begins the drain without its grace: running handlers are cancelled, and their messages
    /// returned.
    pub fn stop_now(&self) {
        self.drain.cancel();
        self.hard_stop.cancel();
    }

    pub(super) fn drain_token(&self) -> &CancellationToken {
        &self.drain
    }

    async fn call<T>(
        &self,
        consumer: &str,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, CallError> {
        self.call_within(consumer, self.deadline, command).await
    }

    async fn call_within<T>(
        &self,
        consumer: &str,
        limit: Duration,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, CallError> {
        let consumer = self
            .consumers
            .get(consumer)
            .ok_or(CallError::NoSuchConsumer)?;
        let deadline = Instant::now() + limit;
        let (answer, answered) = oneshot::channel();
        let sent = timeout_at(deadline, consumer.commands.send(command(answer))).await;
        let sent = sent.map_err(|_| CallError::TimedOut)?;
        sent.map_err(|_| CallError::NotRunning)?;
        let answer = timeout_at(deadline, answered).await;
        let answer = answer.map_err(|_| CallError::TimedOut)?;
        answer.map_err(|_| CallError::NotRunning)
    }
}

#[cfg(test)]
mod tests;
