//! What a lane counts beside its ledger.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::Durations;
use crate::handler::Outcome;

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
    /// Of them: failed.
    failed,
    /// Of them: ran into the timeout.
    timed_out,
    /// Of them: panicked.
    panicked,
    /// Of them: cancelled by us.
    interrupted,
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

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// Counts how a handler run ended, and how long it took where a handler ran at all.
    pub(crate) fn ended(&self, outcome: &Outcome, took: Option<Duration>) {
        self.attempts.add_one();
        if let Some(took) = took {
            self.durations.record(took);
        }
        match outcome {
            Outcome::Succeeded | Outcome::Dropped { .. } => self.succeeded.add_one(),
            Outcome::TimedOut { .. } => self.timed_out.add_one(),
            Outcome::Panicked { .. } => self.panicked.add_one(),
            Outcome::Interrupted => self.interrupted.add_one(),
            Outcome::Failed(_) | Outcome::Undecodable(_) | Outcome::Unroutable { .. } => {
                self.failed.add_one();
            }
            Outcome::Snoozed { .. } => {}
        }
    }
}
