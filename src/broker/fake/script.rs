//! The faults that a test arranges.

use std::{collections::VecDeque, time::Duration};

use super::FakeBroker;
use crate::broker::BrokerError;

/// How the broker answers one publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Confirm {
    /// The message is stored and confirmed.
    #[default]
    Ack,
    /// The message is stored at once and confirmed after this time. A publisher waits at most 10 s
    /// for a confirm.
    AckAfter(Duration),
    /// The broker refuses the message, as a full queue with `reject-publish` does.
    Nack,
    /// The broker returns the message: no queue takes it.
    Return,
    /// The message is stored, but the confirm is lost with the connection.
    Lost,
    /// The message is lost with the connection before the broker has it.
    NeverWritten,
}

/// A fault that happens now.
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

/// The arranged faults and answers.
#[derive(Default)]
pub(super) struct Script {
    /// The answers to the next publishes.
    pub(super) confirms: VecDeque<Confirm>,
    /// The reasons for refusing the next requests to subscribe.
    pub(super) refusals: VecDeque<BrokerError>,
    /// The time before each answer to a consumer's request.
    pub(super) delay: Duration,
    /// Acks and nacks are not written, as if the socket were full.
    pub(super) stalled: bool,
}

impl FakeBroker {
    /// Gives these answers to the next publishes, one each. Later publishes are confirmed.
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

    /// Delays the answers to subscriptions and cancellations by this time.
    pub(crate) fn answer_after(&self, delay: Duration) {
        self.lock().script.delay = delay;
    }

    /// Stops the writing of acks and nacks, or lets it continue.
    pub(crate) fn stall(&self, stalled: bool) {
        self.lock().script.stalled = stalled;
    }

    /// Makes this fault happen now.
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

    /// Brings both connections up again.
    pub(crate) fn reconnect(&self) {
        let mut model = self.lock();
        model.publishing = true;
        model.connected.send_replace(true);
    }

    /// Ends the alarm.
    pub(crate) fn unblock(&self) {
        self.lock().blocked.send_replace(false);
    }

    /// Waits for the time that the script sets before an answer.
    pub(super) async fn answer_late(&self) {
        let delay = self.read().script.delay;
        if !delay.is_zero() {
            let _asked = self.note_request();
            tokio::time::sleep(delay).await;
        }
    }
}
