//! What the fake broker was asked for, for tests to look up.

use std::collections::BTreeMap;

use super::{Channel, FakeBroker, Stored};

/// One command that settles deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// The delivery tag that it names.
    pub(crate) tag: u64,
    /// Whether it settles all deliveries up to the tag.
    pub(crate) multiple: bool,
    /// Whether it is a nack, and the messages go back to their queue.
    pub(crate) back: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Record {
    /// In the order in which they came, of all channels.
    commands: Vec<Command>,
    /// The most deliveries that were unsettled at once, of all channels.
    most_unacked: usize,
    /// Requests whose answers are late.
    requests: usize,
}

impl Record {
    pub(super) fn note_settled(&mut self, tags: &[u64], multiple: bool, back: bool) {
        let commands = tags.iter().map(|tag| Command {
            tag: *tag,
            multiple,
            back,
        });
        self.commands.extend(commands);
    }

    pub(super) fn note_unacked(&mut self, channels: &BTreeMap<u64, Channel>) {
        let unacked = channels.values().map(|channel| channel.unacked.len()).sum();
        self.most_unacked = self.most_unacked.max(unacked);
    }
}

/// A request whose answer is late. Dropping it gives it up.
pub(super) struct Asked<'a>(&'a FakeBroker);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.lock().record.requests -= 1;
    }
}

impl FakeBroker {
    pub(super) fn note_request(&self) -> Asked<'_> {
        self.lock().record.requests += 1;
        Asked(self)
    }

    /// Requests that wait for a late answer: see [`answer_after`](Self::answer_after).
    pub(crate) fn late_requests(&self) -> usize {
        self.read().record.requests
    }

    /// The acks and nacks so far, oldest first.
    pub(crate) fn commands(&self) -> Vec<Command> {
        self.read().record.commands.clone()
    }

    /// The most deliveries that were unsettled at once.
    pub(crate) fn most_unacked(&self) -> usize {
        self.read().record.most_unacked
    }

    /// The messages that are ready, of all queues.
    pub(crate) fn all_ready(&self) -> Vec<Stored> {
        let model = self.read();
        let queues = model.queues.values();
        queues
            .flat_map(|queue| queue.ready.iter().cloned())
            .collect()
    }
}
