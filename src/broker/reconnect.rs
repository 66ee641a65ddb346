//! The waits before the next attempt to connect or to subscribe.

use std::time::Duration;

use super::ReconnectSettings;

/// Decorrelated jitter: each wait is random, between the base and three times the last wait.
#[derive(Clone, Debug)]
pub(crate) struct Reconnect {
    base: Duration,
    cap: Duration,
    last: Duration,
}

impl Reconnect {
    pub(crate) fn new(settings: &ReconnectSettings) -> Self {
        Self {
            base: settings.base,
            cap: settings.cap,
            last: settings.base,
        }
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        let high = self.last.saturating_mul(3).max(self.base);
        let wait = self.base + high.saturating_sub(self.base).mul_f64(rand::random());
        // Whole milliseconds: people read them.
        let millis = u64::try_from(wait.min(self.cap).as_millis()).unwrap_or(u64::MAX);
        self.last = Duration::from_millis(millis);
        self.last
    }

    /// Starts again with short waits, after a success.
    pub(crate) fn reset(&mut self) {
        self.last = self.base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reconnect_waits_lie_between_base_and_cap(tries in 1usize..50) {
            let settings = ReconnectSettings::default();
            let mut reconnect = Reconnect::new(&settings);
            for _ in 0..tries {
                let wait = reconnect.next();
                prop_assert!(wait >= settings.base && wait <= settings.cap);
            }
        }
    }
}
