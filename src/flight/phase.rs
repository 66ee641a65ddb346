//! The phase of a delivery, which also decides who settles it: its path or its lane.
//!
//! ```text
//!             handler starts              path or lane claims
//! Buffered ───────────────────▶ Handling ─────────────────────▶ Settling
//!     │                            ▲                              │  ▲
//!     │                            │ handler starts               │  │ path claims:
//!     │                            └─────────── Waiting ◀─────────┘  │ parked instead
//!     │                                            └─────────────────┤
//!     └──────────────────────────────────────────────────────────────┘
//!       path claims: parked early, or no handler takes it
//! ```
//!
//! To claim a delivery is to move it to `Settling`: whoever claims it settles it, and nobody else.
//! The path can claim a delivery in every phase. The lane can claim it only while its handler runs,
//! and does so when the handler is stuck.

use std::sync::atomic::{AtomicU8, Ordering};

/// The phase of a delivery inside the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
#[repr(u8)]
pub enum Phase {
    /// The delivery waits for a handler slot.
    Buffered,
    /// The handler runs.
    Handling,
    /// The delivery waits in the worker for its next attempt.
    Waiting,
    /// The handler has ended. The worker publishes a retry or dead letter, or is about to ack or
    /// return the delivery.
    Settling,
}

/// The phase of one delivery, which its path and its lane change.
#[derive(Debug)]
pub(super) struct SharedPhase(AtomicU8);

impl SharedPhase {
    /// A delivery that has arrived.
    pub(super) fn buffered() -> Self {
        Self(AtomicU8::new(Phase::Buffered as u8))
    }

    pub(super) fn get(&self) -> Phase {
        Self::phase(self.0.load(Ordering::Acquire))
    }

    fn phase(number: u8) -> Phase {
        const ALL: [Phase; 4] = [
            Phase::Buffered,
            Phase::Handling,
            Phase::Waiting,
            Phase::Settling,
        ];
        ALL[usize::from(number)]
    }

    /// The path: the handler starts.
    pub(super) fn handle(&self) {
        self.0.store(Phase::Handling as u8, Ordering::Release);
    }

    /// The path: a delivery that the path had claimed waits for its next attempt.
    pub(super) fn wait(&self) {
        self.0.store(Phase::Waiting as u8, Ordering::Release);
    }

    /// The path claims the delivery. False: the lane has claimed it before.
    pub(super) fn claim(&self) -> bool {
        let before = self.0.swap(Phase::Settling as u8, Ordering::AcqRel);
        Self::phase(before) != Phase::Settling
    }

    /// The lane claims a delivery whose handler runs. False: no handler runs.
    pub(super) fn claim_from_handler(&self) -> bool {
        let (from, to) = (Phase::Handling as u8, Phase::Settling as u8);
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_path_claims_in_every_phase_and_the_lane_while_the_handler_runs() {
        type Enter = fn(&SharedPhase);
        let phases: [(Enter, Phase, bool); 3] = [
            (|_| {}, Phase::Buffered, false),
            (SharedPhase::handle, Phase::Handling, true),
            (SharedPhase::wait, Phase::Waiting, false),
        ];
        for (enter, phase, by_lane) in phases {
            let shared = SharedPhase::buffered();
            enter(&shared);
            assert_eq!(shared.get(), phase);
            assert_eq!(shared.claim_from_handler(), by_lane, "{phase:?}");
            assert_eq!(shared.claim(), !by_lane, "{phase:?}");
            assert_eq!(shared.get(), Phase::Settling);
            assert!(!shared.claim() && !shared.claim_from_handler());
        }
    }

    proptest! {
        /// A path with some attempts, and a lane that tries to claim in any order with its steps.
        #[test]
        fn each_attempt_is_settled_once_and_none_follows_one_that_the_lane_settled(
            attempts in 1u32..4,
            tries in prop::collection::vec(0u8..3, 12),
        ) {
            let phase = SharedPhase::buffered();
            let (mut settled, mut by_lane) = (0, false);
            let mut tries = tries.into_iter();
            let mut lane = |settled: &mut u32| {
                for _ in 0..tries.next().unwrap_or_default() {
                    let got = phase.claim_from_handler();
                    *settled += u32::from(got);
                    by_lane |= got;
                }
                by_lane
            };
            for attempt in 1..=attempts {
                prop_assert!(!lane(&mut settled), "no handler runs");
                phase.handle();
                lane(&mut settled);
                let claimed = phase.claim();
                settled += u32::from(claimed);
                prop_assert_eq!(settled, attempt);
                let by_lane = lane(&mut settled);
                prop_assert_eq!(claimed, !by_lane);
                if by_lane {
                    break;
                }
                if attempt < attempts {
                    phase.wait();
                }
            }
            prop_assert_eq!(phase.get(), Phase::Settling);
        }
    }

    #[test]
    fn of_a_path_and_a_lane_on_two_threads_one_claims() {
        for _ in 0..500 {
            let phase = SharedPhase::buffered();
            phase.handle();
            let claims = std::thread::scope(|scope| {
                let lane = scope.spawn(|| phase.claim_from_handler());
                usize::from(phase.claim()) + usize::from(lane.join().unwrap())
            });
            assert_eq!(claims, 1);
        }
    }
}
