//! The time of day.

use std::time::{Instant, SystemTime};

/// The time of day, shifted by the difference between tokio's clock and the machine's. Without a
/// paused clock the two are equal. Under a paused clock, a test sees the time of day move with
/// tokio's clock.
pub(crate) fn now() -> SystemTime {
    #[cfg(test)]
    if let Some(now) = set::now() {
        return now;
    }
    let (tokio, machine) = (tokio::time::Instant::now().into_std(), Instant::now());
    let now = SystemTime::now();
    match tokio.checked_duration_since(machine) {
        Some(ahead) => now + ahead,
        None => now - machine.duration_since(tokio),
    }
}

#[cfg(test)]
pub(crate) use set::Set;

#[cfg(test)]
mod set {
    use std::{
        cell::Cell,
        time::{Duration, SystemTime},
    };

    use tokio::time::Instant;

    thread_local! {
        static SET: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
    }

    pub(super) fn now() -> Option<SystemTime> {
        let (since, time) = SET.get()?;
        Some(time + since.elapsed())
    }

    /// Sets the time of day for this thread until it is dropped. It goes on with tokio's clock.
    #[must_use]
    pub(crate) struct Set(());

    impl Set {
        pub(crate) fn to(time: SystemTime) -> Self {
            SET.set(Some((Instant::now(), time)));
            Self(())
        }

        /// The time of day jumps, forth or back. Tokio's clock does not.
        pub(crate) fn jump(&self, by: Duration, back: bool) {
            if let Some((since, time)) = SET.get() {
                let time = if back { time - by } else { time + by };
                SET.set(Some((since, time)));
            }
        }
    }

    impl Drop for Set {
        fn drop(&mut self) {
            SET.set(None);
        }
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

    #[tokio::test(start_paused = true)]
    async fn a_set_time_of_day_passes_with_tokios_clock_alone_and_can_jump() {
        let (day, hour) = (Duration::from_hours(24), Duration::from_hours(1));
        let set = Set::to(SystemTime::UNIX_EPOCH + day);
        tokio::time::advance(hour).await;
        assert_eq!(now(), SystemTime::UNIX_EPOCH + day + hour);
        set.jump(day, true);
        assert_eq!(now(), SystemTime::UNIX_EPOCH + hour);
    }

    #[test]
    fn without_a_paused_clock_it_is_the_systems() {
        let passed = now().duration_since(SystemTime::now() - Duration::from_mins(1));
        assert!(passed.unwrap() > Duration::from_secs(59));
    }
}
