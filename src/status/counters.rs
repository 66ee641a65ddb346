//! The counters of a consumer, apart from its ledger.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::outcome::{OutcomeKind, outcomes};

/// Makes the counters: one for each row of the table of outcomes, and those listed here.
macro_rules! counters {
    ($($(#[$doc:meta])* $kind:ident $outcome:ident $name:literal,)*) => {
        counters! {
            [$($(#[$doc])* $kind $outcome,)*]
            /// Handlers that ignored their cancellation or blocked their thread.
            handler_stuck,
            /// Handlers that a drain cancelled. Their messages went back to the queue.
            cut_off,
            /// Probes: messages tried to see whether a service that was down is back.
            probes,
            /// Retries that waited in the worker.
            inline_retries,
            /// Publishes of retries and dead letters that the broker did not confirm.
            publish_failures,
            /// Deliveries whose channel closed before they could be settled. The broker redelivers
            /// them.
            stale_settles,
            /// Subscriptions made, including those after a lost connection or channel.
            sessions,
        }
    };
    (
        [$($(#[$doc:meta])* $kind:ident $outcome:ident,)*]
        $($(#[$other_doc:meta])* $other:ident,)*
    ) => {
        /// Counts of one consumer since it started.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            outcomes: [Counter; OutcomeKind::ALL.len()],
            $($(#[$other_doc])* pub(crate) $other: Counter,)*
        }

        /// A copy of a consumer's counts.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
        #[non_exhaustive]
        pub struct Counts {
            /// Attempts that ended, whatever their outcome.
            pub attempts: u64,
            $($(#[$doc])* pub $outcome: u64,)*
            $($(#[$other_doc])* pub $other: u64,)*
        }

        impl Counters {
            /// A copy.
            pub(crate) fn counts(&self) -> Counts {
                Counts {
                    attempts: self.outcomes.iter().map(Counter::get).sum(),
                    $($outcome: self.outcome(OutcomeKind::$kind).get(),)*
                    $($other: self.$other.get(),)*
                }
            }
        }
    };
}

outcomes!(counters);

impl Counters {
    /// The counter of attempts that ended in this outcome.
    pub(crate) fn outcome(&self, kind: OutcomeKind) -> &Counter {
        &self.outcomes[kind as usize]
    }
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
