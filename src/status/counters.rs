//! What a lane counts beside its ledger.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::Durations;
use crate::outcome::Outcome;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counts of one lane since it started.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: Counter,)*
            /// How long handlers ran.
            pub(crate) durations: Durations,
        }

        /// A copy of a lane's counts.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// A copy.
            pub(crate) fn counts(&self) -> Counts {
                Counts { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Handler runs that ended, whatever in.
    attempts,
    /// Of them: succeeded.
    succeeded,
    /// Of them: the handler did not want the message.
    dropped,
    /// Of them: failed.
    failed,
    /// Of them: asked to come back later.
    snoozed,
    /// Of them: ran into the timeout.
    timed_out,
    /// Of them: panicked.
    panicked,
    /// Of them: cancelled by us.
    interrupted,
    /// Of them: not begun, as the body is not what the handler takes.
    undecodable,
    /// Of them: not begun, as no handler takes the message's type.
    unroutable,
    /// Handlers that ignored their cancellation, or blocked their thread.
    handler_stuck,
    /// Retries that waited in the worker.
    inline_retries,
    /// Publishes of retries and dead letters that did not count.
    publish_failures,
    /// Ends that came after their channel had died.
    stale_settles,
    /// Subscriptions made.
    sessions,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// Handler runs by what they ended in, by [`Outcome::name`].
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.counts();
        [
            ("succeeded", counts.succeeded),
            ("dropped", counts.dropped),
            ("failed", counts.failed),
            ("snoozed", counts.snoozed),
            ("timed-out", counts.timed_out),
            ("panicked", counts.panicked),
            ("interrupted", counts.interrupted),
            ("undecodable", counts.undecodable),
            ("unroutable-type", counts.unroutable),
        ]
        .into_iter()
    }

    /// Counts how a handler run ended, and how long it took where a handler ran at all.
    pub(crate) fn ended(&self, outcome: &Outcome, took: Option<Duration>) {
        self.attempts.add_one();
        if let Some(took) = took {
            self.durations.record(took);
        }
        let counter = match outcome {
            Outcome::Succeeded => &self.succeeded,
            Outcome::Dropped { .. } => &self.dropped,
            Outcome::Failed(_) => &self.failed,
            Outcome::Snoozed { .. } => &self.snoozed,
            Outcome::TimedOut { .. } => &self.timed_out,
            Outcome::Panicked { .. } => &self.panicked,
            Outcome::Interrupted => &self.interrupted,
            Outcome::Undecodable(_) => &self.undecodable,
            Outcome::Unroutable { .. } => &self.unroutable,
        };
        counter.add_one();
    }
}
