//! A record of the commands and requests that the fake broker received, for tests.

use std::collections::BTreeMap;

use super::{FakeBroker, Stored, channel::Channel};

/// One ack or nack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// The delivery tag of the command.
    pub(crate) tag: u64,
    /// Whether the command settles all deliveries up to the tag.
    pub(crate) multiple: bool,
    /// Whether the command is a nack that puts the messages back in their queue.
    pub(crate) back: bool,
}

/// The commands and requests that the broker has received.
#[derive(Default)]
pub(super) struct Record {
    /// The commands of all channels, in the order of their arrival.
    commands: Vec<Command>,
    /// The most deliveries that were unsettled at once, of all channels.
    most_unacked: usize,
    /// The number of requests that still wait for a late answer.
    requests: usize,
}

impl Record {
    pub(super) fn note_settled(&mut self, tag: u64, multiple: bool, back: bool) {
        self.commands.push(Command {
            tag,
            multiple,
            back,
        });
    }

    pub(super) fn note_unacked(&mut self, channels: &BTreeMap<u64, Channel>) {
        let unacked = channels.values().map(|channel| channel.unacked.len()).sum();
        self.most_unacked = self.most_unacked.max(unacked);
    }
}

/// A request that waits for a late answer. Dropping this value cancels the request.
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

    /// The number of requests that wait for a late answer: see
    /// [`answer_after`](Self::answer_after).
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
