//! The places of messages: each message is in one place.

use std::collections::BTreeSet;

use super::kit::{Handling, Kit};
use crate::{Report, broker::fake::FakeBroker};

/// The ids of messages that were published to the consumer's queue.
#[derive(Default)]
pub(super) struct Published {
    ids: BTreeSet<String>,
    /// The ids of messages that were deleted with their queue.
    gone: BTreeSet<String>,
}

impl Published {
    /// Publishes this many messages.
    pub(super) fn to(kit: &Kit, count: usize) -> Self {
        let ids = (0..count).map(|_| kit.publish()).collect();
        Self {
            ids,
            gone: BTreeSet::new(),
        }
    }

    pub(super) fn another(&mut self, kit: &Kit) -> String {
        let id = kit.publish();
        self.ids.insert(id.clone());
        id
    }

    /// Records that the queue was deleted, with all messages published so far.
    pub(super) fn deleted(&mut self) {
        self.gone.append(&mut self.ids);
    }

    /// Asserts that the handler has run for each message.
    pub(super) fn all_handled(&self, kit: &Kit) {
        let handled: BTreeSet<_> = kit.handling.runs().into_iter().map(|run| run.id).collect();
        let missing: Vec<_> = self.ids.difference(&handled).collect();
        assert!(missing.is_empty(), "never handled: {missing:?}");
    }

    /// Asserts, after the worker has ended, that each message is acked or ready in one queue, and that each
    /// acked one was handled.
    pub(super) fn are_kept(&self, broker: &FakeBroker, handling: &Handling, report: &Report) {
        assert_eq!(broker.unacked(), 0);
        let ready = broker.all_ready();
        let ids = ready.iter().map(|it| it.properties.message_id());
        let ready_ids: BTreeSet<_> = ids.map(|id| id.unwrap_or_default().to_owned()).collect();
        assert_eq!(ready_ids.len(), ready.len(), "a message is there twice");
        // A message that was in the worker when its queue was deleted may have a copy elsewhere.
        let there: BTreeSet<_> = ready_ids.difference(&self.gone).cloned().collect();
        let strange: Vec<_> = there.difference(&self.ids).collect();
        assert!(strange.is_empty(), "from nowhere: {strange:?}");

        let ledger = report.ledger();
        let settled: BTreeSet<_> = self.ids.difference(&ready_ids).cloned().collect();
        let most = settled.len() + self.gone.len();
        let acked = usize::try_from(ledger.acked).unwrap();
        assert!(
            (settled.len()..=most).contains(&acked),
            "{settled:?} are in no queue: {ledger:?}"
        );
        let handled: BTreeSet<_> = handling.runs().into_iter().map(|run| run.id).collect();
        let lost: Vec<_> = settled.difference(&handled).collect();
        assert!(lost.is_empty(), "lost unseen: {lost:?}");
    }
}
