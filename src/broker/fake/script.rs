//! What a test wants to go wrong.

use std::{collections::VecDeque, time::Duration};

use super::FakeBroker;
use crate::broker::BrokerError;

/// How the broker answers one publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Confirm {
    /// Stored and confirmed.
    #[default]
    Ack,
    /// Stored at once, confirmed after this time. Publishers wait for a confirm for 10 s.
    AckAfter(Duration),
    /// Refused, as a full queue with `reject-publish` does.
    Nack,
    /// Returned: no queue takes it.
    Return,
    /// Stored, but the confirm is lost with the connection.
    Lost,
    /// Lost with the connection before the broker had it.
    NeverWritten,
}

/// Something that goes wrong now.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The consuming connection breaks, and stays down until [`FakeBroker::reconnect`].
    ConnectionLost,
    /// All consuming channels close; the connection stays.
    ChannelLost,
    /// The broker cancels the consumers of a queue.
    ConsumerCancelled(String),
    /// A queue is deleted, with its messages; its consumers are cancelled.
    QueueDeleted(String),
    /// The publishing connection breaks, and stays down until [`FakeBroker::reconnect`].
    PublishingLost,
    /// A memory or disk alarm blocks publishing, until [`FakeBroker::unblock`].
    Blocked,
}

/// What has been arranged.
#[derive(Default)]
pub(super) struct Script {
    /// How the next publishes are answered.
    pub(super) confirms: VecDeque<Confirm>,
    /// Why the next requests to subscribe are refused.
    pub(super) refusals: VecDeque<BrokerError>,
    /// The time before each answer to a request of a consumer.
    pub(super) delay: Duration,
    /// Acks and nacks are not written: the socket is full.
    pub(super) stalled: bool,
}

impl FakeBroker {
    /// Answers the next publishes so, one after the other; later ones are confirmed.
    pub(crate) fn answer_publishes(&self, confirms: impl IntoIterator<Item = Confirm>) {
        self.lock().script.confirms.extend(confirms);
    }

    /// Confirms all publishes from now on.
    pub(crate) fn forget_answers(&self) {
        self.lock().script.confirms.clear();
    }

    /// Refuses the next requests to subscribe.
    pub(crate) fn refuse_subscriptions(&self, errors: impl IntoIterator<Item = BrokerError>) {
        self.lock().script.refusals.extend(errors);
    }

    /// Answers subscriptions and cancellations only after this time.
    pub(crate) fn answer_after(&self, delay: Duration) {
        self.lock().script.delay = delay;
    }

    /// Lets acks and nacks hang, or write again.
    pub(crate) fn stall(&self, stalled: bool) {
        self.lock().script.stalled = stalled;
    }

    /// Lets something go wrong now.
    pub(crate) fn fail(&self, fault: Fault) {
        let mut model = self.lock();
        match fault {
            Fault::ConnectionLost => {
                model.connected.send_replace(false);
                model.close_channels("connection lost");
            }
            Fault::ChannelLost => model.close_channels("channel lost"),
            Fault::ConsumerCancelled(queue) => model.cancel_consumers(&queue),
            Fault::QueueDeleted(queue) => {
                let gone = model.queues.remove(&queue);
                let gone = gone.into_iter().flat_map(|queue| queue.ready);
                model.dropped.extend(gone);
                model.cancel_consumers(&queue);
                model.forget_queue(&queue);
            }
            Fault::PublishingLost => model.publishing = false,
            Fault::Blocked => {
                model.blocked.send_replace(true);
            }
        }
    }

    /// Both connections are up again.
    pub(crate) fn reconnect(&self) {
        let mut model = self.lock();
        model.publishing = true;
        model.connected.send_replace(true);
    }

    /// The alarm has ended.
    pub(crate) fn unblock(&self) {
        self.lock().blocked.send_replace(false);
    }

    /// Waits as long as the script says before an answer.
    pub(super) async fn answer_late(&self) {
        let delay = self.read().script.delay;
        if !delay.is_zero() {
            let _asked = self.note_request();
            tokio::time::sleep(delay).await;
        }
    }
}
