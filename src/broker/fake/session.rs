//! A lane's session at the fake broker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use super::{
    FakeBroker,
    channel::Event,
    publishing::USER,
    wire::{Settle, Verdict},
};
use crate::broker::{
    Acks, BrokerError, Delivery, Properties, QueueSpec, Reading, Returns, Session, Tolerance,
    Topology,
    trust::{Rungs, Trust},
};

/// A lane's session with the fake broker.
pub(crate) struct FakeSession {
    broker: FakeBroker,
    number: u64,
    events: mpsc::UnboundedReceiver<Event>,
    usable: Arc<AtomicBool>,
    trust: Trust,
    /// `None`: the messages are read as they are.
    rungs: Option<Rungs>,
    tolerance: Tolerance,
    cancelled: bool,
    pub(super) ended: bool,
}

impl FakeSession {
    pub(super) fn new(
        broker: FakeBroker,
        number: u64,
        events: mpsc::UnboundedReceiver<Event>,
        usable: Arc<AtomicBool>,
    ) -> Self {
        Self {
            broker,
            number,
            events,
            usable,
            trust: Trust::of(USER),
            rungs: None,
            tolerance: Tolerance::ENDLESS,
            cancelled: false,
            ended: false,
        }
    }

    /// The session is a consumer's, and not one that looks into a queue.
    pub(super) fn consumes(&mut self, spec: &QueueSpec) {
        self.rungs = Some(Rungs::of(spec));
        let limit = self.broker.read().limit_seen(spec);
        let version = self.broker.version();
        self.tolerance = Tolerance { limit, version };
    }

    /// The number of its channel.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    fn seen(&mut self, event: Event) -> Option<Result<Delivery, BrokerError>> {
        match event {
            Event::Delivery(mut delivery) => {
                if let Some(rungs) = &self.rungs {
                    let sent = delivery.properties.to_amqp();
                    delivery.properties = self.trust.read(rungs, sent);
                }
                Some(Ok(*delivery))
            }
            Event::Ended => {
                self.ended = true;
                None
            }
            Event::Lost(error) => {
                self.ended = true;
                Some(Err(error))
            }
        }
    }

    /// Settles these tags as soon as the socket takes the command.
    fn write(
        &self,
        tags: Vec<(Vec<u64>, bool)>,
        verdict: Verdict,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static {
        let (broker, number) = (self.broker.clone(), self.number);
        async move {
            broker.until(|it| !it.read().script.stalled).await;
            let mut model = broker.lock();
            for (tags, multiple) in tags {
                for tag in tags {
                    let settle = Settle {
                        tag,
                        multiple,
                        verdict,
                    };
                    model.receive(number, settle)?;
                }
            }
            Ok(())
        }
    }
}

/// The properties of a message, as a worker with this consumer believes them.
pub(super) fn believed(spec: &QueueSpec, properties: &Properties) -> Properties {
    trust().read(&Rungs::of(spec), properties.to_amqp())
}

/// Whom the worker believes.
pub(super) fn trust() -> Trust {
    Trust::of(USER)
}

/// The deadline of each request.
const LIMIT: Duration = Duration::from_secs(10);

/// Runs a request under the deadline that a real session has.
async fn within<T>(
    step: &'static str,
    request: impl Future<Output = Result<T, BrokerError>>,
) -> Result<T, BrokerError> {
    let late = |_| BrokerError::TimedOut { step, limit: LIMIT };
    tokio::time::timeout(LIMIT, request).await.map_err(late)?
}

impl Session for FakeSession {
    /// The fake's subscription holds nothing: the broker has already made it.
    type Subscription = ();

    async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().await?;
        self.seen(event)
    }

    fn try_next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        if self.ended {
            return None;
        }
        // As in lapin, `try_next` does not report the end of the stream; the next `next` does.
        let event = self.events.try_recv().ok()?;
        self.seen(event)
    }

    fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Acquire)
    }

    fn is_subscribed(&self) -> bool {
        !self.ended && !self.cancelled
    }

    fn ack(
        &self,
        acks: Acks,
    ) -> impl Future<Output = (Acks, Result<(), BrokerError>)> + Send + 'static {
        let through = (acks.through.into_iter().collect(), true);
        let write = self.write(vec![through, (acks.singles.clone(), false)], Verdict::Done);
        async move {
            let result = within("writing acks", write).await;
            (acks, result)
        }
    }

    fn give_back(
        &self,
        returns: Returns,
    ) -> impl Future<Output = (Returns, Result<(), BrokerError>)> + Send + 'static {
        let last = |tags: &[u64]| tags.last().copied().into_iter().collect();
        let (tags, multiple, verdict) = match &returns {
            Returns::Single(tags) => (tags.clone(), false, Verdict::Back),
            Returns::Through(tags) => (last(tags), true, Verdict::Back),
            Returns::Reject(tags) => (tags.clone(), false, Verdict::Rejected),
        };
        let write = self.write(vec![(tags, multiple)], verdict);
        async move {
            let result = within("returning messages", write).await;
            (returns, result)
        }
    }

    fn ask_channel(&self) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static {
        let (broker, number) = (self.broker.clone(), self.number);
        let answer = async move {
            broker.until(|it| it.has_arrived(number)).await;
            broker.read().is_open(number)
        };
        within("an answer of the channel", answer)
    }

    fn ask_queue(
        &self,
    ) -> impl Future<Output = Result<Option<Delivery>, BrokerError>> + Send + 'static {
        let (broker, number) = (self.broker.clone(), self.number);
        let answer = async move {
            broker.until(|it| it.has_applied(number)).await;
            broker.lock().get(number)
        };
        within("an answer of the queue", answer)
    }

    fn cancel(&mut self) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static {
        self.cancelled = true;
        let (broker, number) = (self.broker.clone(), self.number);
        let cancel = async move {
            broker.answer_late().await;
            broker.until(|it| it.has_applied(number)).await;
            broker.lock().cancel(number)
        };
        within("cancelling the consumer", cancel)
    }

    fn subscribe_again(
        &mut self,
        spec: &QueueSpec,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static {
        let (broker, number, spec) = (self.broker.clone(), self.number, spec.clone());
        let subscribe = async move {
            let abandoned = CloseWhenDropped(Some((broker.clone(), number)));
            broker.answer_late().await;
            abandoned.keep();
            let mut model = broker.lock();
            if let Some(refusal) = model.script.refusals.pop_front() {
                return Err(refusal);
            }
            if spec.topology != Topology::None {
                model.ensure(&spec)?;
            }
            model.subscribe(number, &spec.queue, spec.prefetch)?;
            model.deliver(&spec.queue);
            Ok(())
        };
        within("subscribing", subscribe)
    }

    fn resume(&mut self, (): ()) {
        self.cancelled = false;
        self.ended = false;
    }

    async fn close(self) {
        self.broker.lock().close_cleanly(self.number, "closed");
    }

    async fn close_or_kill(self) {
        let stands_still = {
            let model = self.broker.read();
            let channel = model.channels.get(&self.number);
            channel.is_some_and(|channel| channel.stands_still)
        };
        match stands_still {
            true => self.kill(),
            false => self.close().await,
        }
    }

    fn kill(&self) {
        self.broker
            .lock()
            .cut_channels(self.broker.worker, "killed");
    }

    fn tolerance(&self) -> Tolerance {
        self.tolerance
    }

    fn server(&self) -> (&str, u16) {
        ("fake", 5672)
    }

    fn request_limit(&self) -> Duration {
        LIMIT
    }
}

/// Closes the channel of a subscription request that was dropped before its answer. Otherwise the
/// broker would make the subscription all the same.
struct CloseWhenDropped(Option<(FakeBroker, u64)>);

impl CloseWhenDropped {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseWhenDropped {
    fn drop(&mut self) {
        if let Some((broker, number)) = self.0.take() {
            broker
                .lock()
                .close_cleanly(number, "subscription abandoned");
        }
    }
}

impl Drop for FakeSession {
    /// Closes the channel, as lapin does when a live consumer is dropped. Like lapin, leaves the
    /// channel open while a cancellation has not been answered.
    fn drop(&mut self) {
        if !self.cancelled {
            self.broker.lock().close_cleanly(self.number, "dropped");
        }
    }
}
