//! Durations in JSON: seconds.

use std::time::Duration;

use serde::Serializer;

pub(super) fn list<S: Serializer>(times: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(times.iter().map(Duration::as_secs_f64))
}
