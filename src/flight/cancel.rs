//! The switch that tells a handler to end.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tokio::sync::Notify;

/// Why a handler run is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancelReason {
    /// The handler ran longer than the consumer's `timeout`.
    Timeout,
    /// The worker stops, and its `drain.grace` has ended.
    Drain,
    /// An operator cancelled the handler.
    Operator,
}

/// The switch behind [`Cancellation`](crate::handler::Cancellation).
#[derive(Debug, Default)]
pub(crate) struct Cancel {
    reason: AtomicU8,
    pub(crate) wake: Notify,
    pub(crate) observed: AtomicBool,
}

/// [`CancelReason::Timeout`] as a number; 0 stands for no reason.
const TIMEOUT: u8 = 1;
/// [`CancelReason::Drain`] as a number.
const DRAIN: u8 = 2;
/// [`CancelReason::Operator`] as a number.
const OPERATOR: u8 = 3;

impl Cancel {
    /// An attempt begins. A timeout or an operator's cancellation was meant for the attempt before,
    /// so the switch is reset. A drain stays: it is meant for all attempts.
    pub(crate) fn begin(&self) {
        self.observed.store(false, Ordering::Relaxed);
        self.replace(|before| (before != DRAIN).then_some(0));
    }

    /// Asks the run to end. The first reason stays, except that a drain replaces any other: a drain
    /// is requested only once, and is meant for the attempts that follow too.
    pub(crate) fn request(&self, reason: CancelReason) {
        let (number, replaces_all) = match reason {
            CancelReason::Timeout => (TIMEOUT, false),
            CancelReason::Drain => (DRAIN, true),
            CancelReason::Operator => (OPERATOR, false),
        };
        if self.replace(|before| (before == 0 || replaces_all).then_some(number)) {
            self.wake.notify_waiters();
        }
    }

    /// Replaces the reason, unless `by` gives `None`. True: the reason was replaced.
    fn replace(&self, by: impl FnMut(u8) -> Option<u8>) -> bool {
        self.reason
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, by)
            .is_ok()
    }

    pub(crate) fn reason(&self) -> Option<CancelReason> {
        match self.reason.load(Ordering::Acquire) {
            0 => None,
            TIMEOUT => Some(CancelReason::Timeout),
            DRAIN => Some(CancelReason::Drain),
            _ => Some(CancelReason::Operator),
        }
    }

    /// Waits until the run is asked to end.
    pub(crate) async fn requested(&self) -> CancelReason {
        loop {
            let woken = self.wake.notified();
            if let Some(reason) = self.reason() {
                return reason;
            }
            woken.await;
        }
    }

    /// Whether the handler asked for its [`Cancellation`](crate::handler::Cancellation). Such a
    /// handler gets `cancel_grace` to end by itself.
    pub(crate) fn is_observed(&self) -> bool {
        self.observed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_begins_anew_but_for_a_drain() {
        let cancel = Cancel::default();
        cancel.request(CancelReason::Operator);
        cancel.request(CancelReason::Timeout);
        assert_eq!(cancel.reason(), Some(CancelReason::Operator));
        cancel.begin();
        assert_eq!(cancel.reason(), None);

        cancel.request(CancelReason::Timeout);
        cancel.request(CancelReason::Drain);
        cancel.begin();
        assert_eq!(cancel.reason(), Some(CancelReason::Drain));
    }
}
