//! The time of day.

use std::time::{Instant, SystemTime};

/// The time of day, as far ahead of the system's as tokio's clock is of the machine's. Without a
/// paused clock the two are the same. Under a paused clock a test sees the time of day pass with it.
pub(crate) fn now() -> SystemTime {
    let (tokio, machine) = (tokio::time::Instant::now().into_std(), Instant::now());
    let now = SystemTime::now();
    match tokio.checked_duration_since(machine) {
        Some(ahead) => now + ahead,
        None => now - machine.duration_since(tokio),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_of_day_passes_with_a_paused_clock() {
        let hour = Duration::from_hours(1);
        let before = now();
        tokio::time::advance(hour).await;
        let passed = now().duration_since(before).unwrap();
        assert!(passed.abs_diff(hour) < Duration::from_secs(1), "{passed:?}");
    }

    #[test]
    fn without_a_paused_clock_it_is_the_systems() {
        let passed = now().duration_since(SystemTime::now() - Duration::from_mins(1));
        assert!(passed.unwrap() > Duration::from_secs(59));
    }
}
