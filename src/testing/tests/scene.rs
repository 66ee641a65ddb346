//! A consumer in each of its states, with messages in it.

use std::time::Duration;

use super::{
    kit::{Handling, Kit, Step},
    places::Published,
};
use crate::{
    ConsumerState, Report,
    broker::fake::{Confirm, Fault},
    testing::TestBroker,
};

/// Two handlers run at once, and two further messages may wait.
const SETTINGS: &str = "
    concurrency = 2
    prefetch = 4
    timeout = '1h'
    [publish]
    budget = '1s'
";

/// The delay of late answers.
pub(super) const LATE: Duration = Duration::from_secs(5);

/// The state of the consumer when an event happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Situation {
    /// There is no connection yet. Three messages wait in the queue.
    Connecting,
    /// The broker has cancelled the subscription, and answers late to the request for a new one. Two
    /// handlers run, one message has not started.
    Resubscribing,
    /// Two handlers run, a third message waits for a slot.
    Consuming,
    /// Two handlers run, a third message was returned.
    Paused,
    /// The broker refuses a dead letter, again and again. Two handlers run, a fourth message waits.
    Keeping,
    /// Two handlers run, a third message was returned.
    Draining,
    /// As `Draining`, before the broker has answered the cancellation of the subscription.
    Cancelling,
}

impl Situation {
    pub(super) const fn drains(self) -> bool {
        matches!(self, Self::Draining | Self::Cancelling)
    }
}

/// A consumer in a situation.
pub(super) struct Scene {
    pub(super) kit: Kit,
    pub(super) published: Published,
}

impl Scene {
    pub(super) async fn set(situation: Situation) -> Self {
        match situation {
            Situation::Connecting => Self::connecting().await,
            Situation::Keeping => Self::keeping().await,
            _ => Self::consuming(situation).await,
        }
    }

    async fn connecting() -> Self {
        let broker = TestBroker::new();
        broker.inner().declare("orders");
        broker.disconnect();
        let mut kit = Kit::start_on(&broker, SETTINGS, Handling::new([], Step::WaitForGate));
        let published = Published::to(&kit, 3);
        kit.until(ConsumerState::Connecting, Some("not connected"))
            .await;
        Self { kit, published }
    }

    async fn consuming(situation: Situation) -> Self {
        let mut kit = Kit::start(SETTINGS, Handling::new([], Step::WaitForGate)).await;
        let published = Published::to(&kit, 3);
        kit.handling.has_run(2).await;
        match situation {
            Situation::Resubscribing => {
                kit.broker.answer_after(LATE);
                let orders = "orders".to_owned();
                kit.broker.fail(Fault::ConsumerCancelled(orders));
                kit.broker.until(|it| it.late_requests() == 1).await;
                let why = "the broker cancelled the consumer";
                kit.until(ConsumerState::Connecting, Some(why)).await;
            }
            Situation::Paused => {
                assert_eq!(kit.worker.handle().pause("orders").await, Ok(()));
                kit.until_state(ConsumerState::Paused).await;
                assert_eq!(kit.broker.ready("orders").len(), 1);
            }
            Situation::Draining => {
                kit.begin_drain().await;
                kit.broker.until(|it| it.ready("orders").len() == 1).await;
            }
            Situation::Cancelling => {
                kit.broker.answer_after(LATE);
                kit.begin_drain().await;
                kit.broker.until(|it| it.late_requests() == 1).await;
            }
            _ => {}
        }
        Self { kit, published }
    }

    async fn keeping() -> Self {
        let handling = Handling::new([Step::FailForGood], Step::WaitForGate);
        let mut kit = Kit::start(SETTINGS, handling).await;
        kit.broker.answer_publishes([Confirm::Nack; 1_000]);
        let published = Published::to(&kit, 4);
        kit.handling.has_run(3).await;
        let why = "1 retry or dead letter waits until the broker takes it: orders.dead: refused";
        kit.until(ConsumerState::Consuming, Some(why)).await;
        Self { kit, published }
    }

    /// Asserts that the lane handles its messages and new ones.
    pub(super) async fn works(mut self) -> Report {
        self.kit.until_state(ConsumerState::Consuming).await;
        self.kit.handling.open();
        self.published.another(&self.kit);
        self.kit.finished().await;
        self.published.all_handled(&self.kit);
        self.ends().await
    }

    /// Asserts that the drain ends and that no message is lost.
    pub(super) async fn ends(self) -> Report {
        let Self { kit, published } = self;
        let (broker, handling) = (kit.broker.clone(), kit.handling.clone());
        let report = kit.drain().await.unwrap();
        published.are_kept(&broker, &handling, &report);
        report
    }
}
