//! What a consumer counts beside its ledger.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::outcome::{OutcomeKind, outcomes};

/// Takes the rows of the table of outcomes, and adds the counters that are none.
macro_rules! counters {
    ($($(#[$doc:meta])* $kind:ident $outcome:ident $name:literal,)*) => {
        counters! {
            [$($(#[$doc])* $kind $outcome,)*]
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
            /// Attempts that ended, however they did.
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
    /// Attempts that ended in this.
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
