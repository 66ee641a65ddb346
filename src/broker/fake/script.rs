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
    /// The processes of all consuming channels stand still: they keep what the queues send to them.
    ChannelsStandStill,
    /// The broker cancels the consumers of a queue.
    ConsumerCancelled(String),
    /// A queue is deleted, with its messages; its consumers are cancelled.
    QueueDeleted(String),
    /// The publishing connection breaks, and stays down until [`FakeBroker::reconnect`].
    PublishingLost,
    /// A memory or disk alarm blocks publishing, until [`FakeBroker::unblock`].
    Blocked,
    /// A quorum queue loses its leader. It applies nothing until [`FakeBroker::elect`]; what a
    /// channel has for it is lost if the channel closes before that.
    LeaderLost(String),
}

/// Decides about each frame that is on its way when a connection dies: whether the broker still
/// gets it.
type Decide = Box<dyn FnMut() -> bool + Send>;

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
    /// The time that an ack or nack is on its way.
    pub(super) latency: Duration,
    /// The bytes that the publishing connection carries in a second.
    pub(super) bandwidth: Option<u64>,
    /// The longest body that the broker takes, in bytes.
    pub(super) max_message_size: Option<usize>,
    decide: Option<Decide>,
}

impl Script {
    /// Whether the broker gets a frame that is on its way when its connection dies.
    pub(super) fn decide(&mut self) -> bool {
        self.decide.as_mut().is_some_and(|decide| decide())
    }
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

    /// Delays acks and nacks by this time on their way to the broker.
    pub(crate) fn set_latency(&self, latency: Duration) {
        self.lock().script.latency = latency;
    }

    /// Lets the publishing connection carry this many bytes in a second; `None` is no limit.
    pub(crate) fn set_bandwidth(&self, bytes: Option<u64>) {
        self.lock().script.bandwidth = bytes;
    }

    /// Refuses messages with longer bodies; `None` is no limit.
    pub(crate) fn set_max_message_size(&self, bytes: Option<usize>) {
        self.lock().script.max_message_size = bytes;
    }

    /// Ends deliveries that wait longer than this for their acks; `None` is no limit.
    pub(crate) fn set_consumer_timeout(&self, timeout: Option<Duration>) {
        let mut model = self.lock();
        model.consumer_timeout = timeout;
        let numbers: Vec<_> = model.channels.keys().copied().collect();
        for number in numbers {
            model.watch_channel(number);
        }
    }

    /// Asks `decide` about each frame that is on its way when a connection dies: true if the broker
    /// still gets it. Without a decision it does not.
    pub(crate) fn decide_with(&self, decide: impl FnMut() -> bool + Send + 'static) {
        self.lock().script.decide = Some(Box::new(decide));
    }

    /// Gives a queue a leader again.
    pub(crate) fn elect(&self, queue: &str) {
        self.lock().elect(queue);
    }

    /// Makes this fault happen now. Faults of connections are those of this handle's worker.
    pub(crate) fn fail(&self, fault: Fault) {
        let mut model = self.lock();
        match fault {
            Fault::ConnectionLost => {
                model.links(self.worker).connected.send_replace(false);
                model.cut_channels(self.worker, "connection lost");
            }
            Fault::ChannelLost => model.cut_channels(self.worker, "channel lost"),
            Fault::ChannelsStandStill => {
                let channels = model.channels.values_mut();
                let own = channels.filter(|channel| channel.worker == self.worker);
                own.for_each(|channel| channel.stands_still = true);
            }
            Fault::ConsumerCancelled(queue) => model.cancel_consumers(&queue),
            Fault::QueueDeleted(queue) => model.delete(&queue),
            Fault::PublishingLost => model.links(self.worker).publishing = false,
            Fault::Blocked => {
                model.blocked.send_replace(true);
            }
            Fault::LeaderLost(queue) => {
                if let Some(queue) = model.queues.get_mut(&queue) {
                    queue.leaderless = true;
                }
            }
        }
    }

    /// Brings both connections of this handle's worker up again.
    pub(crate) fn reconnect(&self) {
        let mut model = self.lock();
        let links = model.links(self.worker);
        links.publishing = true;
        links.connected.send_replace(true);
    }

    /// How often a queue was counted.
    pub(crate) fn counts(&self, queue: &str) -> u32 {
        self.read().counts.get(queue).copied().unwrap_or_default()
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
