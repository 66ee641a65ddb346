//! The messages that wait for a call.

use std::time::Duration;

use tokio::time::Instant;

use super::{BatchSettings, Entry, attend::Batch};

/// The messages that wait for a call, in the order in which their paths came.
#[derive(Default)]
pub(super) struct Waiting {
    entries: Vec<Entry>,
    /// The bytes of their bodies.
    bytes: usize,
    /// A collector makes batches of them.
    has_collector: bool,
}

impl Waiting {
    pub(super) fn add(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.push(entry);
    }

    /// Whether the caller must start a collector. It is then taken to run.
    pub(super) fn needs_collector(&mut self) -> bool {
        !std::mem::replace(&mut self.has_collector, true)
    }

    /// No message waits, and the collector ends.
    pub(super) fn collector_ends(&mut self) {
        self.has_collector = false;
    }

    /// Whether a batch goes before its time: it is full, or no other message can come before it ends.
    pub(super) fn is_due(&self, settings: &BatchSettings) -> bool {
        let Some(last) = self.entries.last() else {
            return false;
        };
        self.entries.len() >= usize::from(settings.size)
            || self.bytes >= settings.max_bytes as usize
            || last.context.holds_all_slots_with(self.entries.len())
    }

    /// The message that waits longest. Messages that have left are forgotten before.
    pub(super) fn first(&mut self) -> Option<&Entry> {
        self.entries.retain(|entry| !entry.has_left());
        self.bytes = self.entries.iter().map(Entry::bytes).sum();
        self.entries.first()
    }

    /// Takes the next batch: the messages that were delivered first, as many as fit.
    pub(super) fn take(&mut self, settings: &BatchSettings) -> Batch {
        self.entries.retain(|entry| !entry.has_left());
        // Paths run on several threads, so the order may differ a little from that of the deliveries.
        self.entries.sort_by_key(|entry| entry.context.delivered());
        let mut bytes = 0;
        let now = Instant::now();
        let first = self.entries.first().and_then(|entry| entry.left(now));
        let fitting = self.entries.iter().take(settings.size.into());
        let fitting = fitting.take_while(|entry| {
            let is_first = bytes == 0;
            bytes += entry.bytes().max(1);
            is_first || bytes <= settings.max_bytes as usize && entry.has_time_of(first, now)
        });
        let count = fitting.count();
        let taken: Vec<_> = self.entries.drain(..count).collect();
        self.bytes = self.entries.iter().map(Entry::bytes).sum();
        Batch::new(taken)
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        self.context.message().body().len()
    }

    fn left(&self, now: Instant) -> Option<Duration> {
        let deadline = self.context.deadline();
        deadline.map(|deadline| deadline.saturating_duration_since(now))
    }

    /// Whether the time that this message has left is near enough to that of another one for both to be
    /// in one call.
    fn has_time_of(&self, other: Option<Duration>, now: Instant) -> bool {
        match (self.left(now), other) {
            (Some(own), Some(other)) => own <= other * 2 && other <= own * 2,
            _ => true,
        }
    }
}
