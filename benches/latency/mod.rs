//! How long messages took from their publishing to their handler.

use std::{
    sync::Mutex,
    time::{SystemTime, UNIX_EPOCH},
};

/// Microseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

/// The times of all messages, in microseconds. Empty unless `LATENCY` is set.
pub(crate) struct Times(Option<Mutex<Vec<u64>>>);

impl Default for Times {
    fn default() -> Self {
        Self(std::env::var_os("LATENCY").map(|_| Mutex::default()))
    }
}

impl Times {
    /// Whether times are taken.
    pub(crate) fn are_taken(&self) -> bool {
        self.0.is_some()
    }

    /// Called by the handler with the time of publishing.
    pub(crate) fn took(&self, published: u64) {
        if let Some(times) = &self.0
            && let Ok(mut times) = times.lock()
        {
            times.push(now().saturating_sub(published));
        }
    }

    /// Prints median and 99th percentile on stdout, in microseconds.
    pub(crate) fn print(&self) {
        let Some(mut times) = self.0.as_ref().and_then(|times| times.lock().ok()) else {
            return;
        };
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(0);
        println!("latency {} {}", at(50), at(99));
    }
}
