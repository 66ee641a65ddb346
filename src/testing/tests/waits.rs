//! What the tests of lanes wait for and ask.

use tokio::time::{Duration, Instant, timeout};

use super::kit::{Kit, SOON};
use crate::{
    CancelError, ConsumerReport, ConsumerState, InFlight, Readiness,
    broker::fake::{Command, FakeBroker},
};

impl Kit {
    /// Waits for a state of the consumer and, where one is shown, for its reason.
    pub(super) async fn until(&mut self, state: ConsumerState, reason: Option<&str>) {
        let is_wanted = |it: &Readiness| {
            let lane = &it.consumers["orders"];
            let shown = lane.reason.as_deref();
            lane.state == state && reason.is_none_or(|why| shown.is_some_and(|it| it.contains(why)))
        };
        let wait = self.worker.until(is_wanted);
        let reached = timeout(SOON, wait).await.map(|it| is_wanted(&it));
        let now = self.worker.handle().readiness();
        assert_eq!(
            reached,
            Ok(true),
            "{state:?} for {reason:?} wanted: {now:?}"
        );
    }

    /// Begins the drain, and waits until the consumer does.
    pub(super) async fn begin_drain(&mut self) {
        self.worker.shutdown.cancel();
        self.until(ConsumerState::Draining, None).await;
    }

    /// The consumer's account so far.
    pub(super) fn account(&self) -> ConsumerReport {
        self.worker.handle().report("orders").unwrap()
    }

    /// The consumer's messages in flight, oldest first.
    pub(super) async fn in_flight(&self) -> Vec<InFlight> {
        let handle = self.worker.handle();
        let page = handle.in_flight(Some("orders"), 0, 100).await;
        page.unwrap().messages
    }

    /// Cancels the handler of one of [`in_flight`](Self::in_flight).
    pub(super) async fn cancel(&self, message: &InFlight) -> Result<(), CancelError> {
        let handle = self.worker.handle();
        handle.cancel("orders", message.delivery).await
    }

    /// Waits until `wanted` is true of the broker; how long that took.
    pub(super) async fn until_broker(&self, wanted: impl Fn(&FakeBroker) -> bool) -> Duration {
        let began = Instant::now();
        let came = timeout(SOON, self.broker.until(wanted)).await;
        assert!(came.is_ok(), "{:?}", self.broker.commands());
        began.elapsed()
    }

    /// Waits until the broker was told so often; what it was told.
    pub(super) async fn until_told(&self, times: usize) -> Vec<Command> {
        self.until_broker(|it| it.commands().len() >= times).await;
        self.broker.commands()
    }
}

/// An ack of one message.
pub(super) const fn ack(tag: u64) -> Command {
    command(tag, false, false)
}

/// An ack of all messages up to one.
pub(super) const fn ack_through(tag: u64) -> Command {
    command(tag, true, false)
}

/// A nack of one message.
pub(super) const fn nack(tag: u64) -> Command {
    command(tag, false, true)
}

/// A nack of all messages up to one.
pub(super) const fn nack_through(tag: u64) -> Command {
    command(tag, true, true)
}

const fn command(tag: u64, multiple: bool, back: bool) -> Command {
    Command {
        tag,
        multiple,
        back,
    }
}
