//! The delay before a retry.

use std::time::Duration;

use super::RetrySettings;

/// The delay after the `attempt`-th failure (counted from 1): base × factorⁿ⁻¹, at most the cap,
/// times a random part in `[1 − jitter, 1]` that `random` (in `[0, 1)`) selects.
#[must_use]
pub fn exponential_backoff(retry: &RetrySettings, attempt: u32, random: f64) -> Duration {
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let cap = retry.cap.as_secs_f64();
    // A high attempt number overflows to infinity, which the cap limits again.
    let delay = (retry.base.as_secs_f64() * retry.factor.powi(exponent)).min(cap);
    let jittered = delay * (1.0 - retry.jitter * random);
    Duration::try_from_secs_f64(jittered).unwrap_or(retry.cap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_delays_double_and_stop_at_the_cap() {
        let retry = RetrySettings::default();
        let at = |attempt| exponential_backoff(&retry, attempt, 0.0).as_millis();
        assert_eq!([at(1), at(2), at(3), at(4)], [500, 1000, 2000, 4000]);
        assert_eq!(at(40), 4 * 3_600_000);
        assert_eq!(at(u32::MAX), 4 * 3_600_000);
    }

    proptest! {
        #[test]
        fn delays_stay_within_jitter_and_cap(
            attempt in 0u32..100, random in 0.0..1.0, jitter in 0.0..=1.0, factor in 1.0..10.0f64,
        ) {
            let retry = RetrySettings { jitter, factor, ..RetrySettings::default() };
            let most = exponential_backoff(&retry, attempt, 0.0);
            let delay = exponential_backoff(&retry, attempt, random);
            prop_assert!(delay <= most && most <= retry.cap);
            prop_assert!(delay >= most.mul_f64((1.0 - jitter).max(0.0) * 0.999_999));
        }
    }
}
