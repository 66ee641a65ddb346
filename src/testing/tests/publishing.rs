//! A message leaves its queue only after the broker has confirmed its copy.

use std::time::Duration;

use super::kit::{Handling, Kit, Step};
use crate::{
    ConsumerState, Ledger, Phase,
    broker::fake::{Confirm, Fault},
    testing::TestBroker,
};

const SECOND: Duration = Duration::from_secs(1);

/// The purpose of a message's copy.
#[derive(Clone, Copy, Debug)]
enum Copy {
    Retry,
    DeadLetter,
}

const BOTH: [Copy; 2] = [Copy::Retry, Copy::DeadLetter];

impl Copy {
    /// A worker whose first handler run ends in such a copy. Later runs succeed.
    async fn start(self, settings: &str) -> Kit {
        let step = match self {
            Self::Retry => Step::Fail,
            Self::DeadLetter => Step::FailForGood,
        };
        let settings = format!("retry = {{ base = '64s', jitter = 0 }}\n{settings}");
        Kit::start(&settings, Handling::new([step], Step::Succeed)).await
    }

    fn queue(self) -> &'static str {
        match self {
            Self::Retry => "orders.retry.64s",
            Self::DeadLetter => "orders.dead",
        }
    }

    /// The ledger of one message with one such copy.
    fn ledger(self) -> Ledger {
        match self {
            Self::Retry => Ledger {
                received: 2,
                parked: 1,
                acked: 1,
                ..Ledger::default()
            },
            Self::DeadLetter => Ledger {
                received: 1,
                dead_lettered: 1,
                ..Ledger::default()
            },
        }
    }

    /// Waits for the end of the message. Asserts that it ends by this one copy.
    async fn ends_well(self, kit: Kit) {
        let id = kit.handling.runs()[0].id.clone();
        kit.finished().await;
        match self {
            Self::Retry => assert_eq!(kit.handling.attempts(), [1, 2]),
            Self::DeadLetter => assert_eq!(kit.ids("orders.dead"), [id]),
        }
        let broker = kit.broker.clone();
        assert_eq!(kit.drain().await.unwrap().ledger(), self.ledger());
        assert_eq!(broker.untold_copies(), 0);
    }

    /// The broker gives these answers to the first publishes, and confirms the next one.
    async fn is_published_again(self, answers: &[Confirm]) {
        let kit = self.start("").await;
        kit.broker.answer_publishes(answers.iter().copied());
        kit.publish();
        kit.until_in(self.queue(), 1).await;
        let failures = kit.report().await.counts.publish_failures;
        assert_eq!(failures, answers.len() as u64, "{self:?}");
        self.ends_well(kit).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_original_is_acked_only_after_the_confirm() {
    for copy in BOTH {
        let kit = copy.start("").await;
        kit.broker.answer_publishes([Confirm::AckAfter(5 * SECOND)]);
        kit.publish();
        kit.until_in(copy.queue(), 1).await;
        tokio::time::sleep(4 * SECOND).await;
        assert_eq!(kit.broker.unacked(), 1, "{copy:?}");
        let page = kit.worker.handle().in_flight(None, 0, 1).await.unwrap();
        assert_eq!(page.messages[0].phase, Phase::Settling);
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(kit.broker.unacked(), 0, "{copy:?}");
        copy.ends_well(kit).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_the_broker_refuses_is_published_again() {
    for copy in BOTH {
        copy.is_published_again(&[Confirm::Nack; 3]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_the_broker_returns_is_published_again() {
    for copy in BOTH {
        copy.is_published_again(&[Confirm::Return; 2]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_was_lost_before_the_broker_had_it_is_published_again() {
    for copy in BOTH {
        copy.is_published_again(&[Confirm::NeverWritten; 2]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_gone_is_declared_again_for_a_copy() {
    for copy in BOTH {
        let kit = copy.start("").await;
        kit.worker.broker().delete_queue(copy.queue());
        kit.publish();
        kit.until_in(copy.queue(), 1).await;
        assert_eq!(kit.report().await.counts.publish_failures, 1);
        copy.ends_well(kit).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_gone_is_not_declared_where_the_settings_forbid_it() {
    for topology in ["verify", "none"] {
        let handling = Handling::new([], Step::FailForGood);
        let settings = format!("topology = '{topology}'\n[publish]\nbudget = '1s'");
        let broker = TestBroker::new();
        let mut prepared = Kit::start_on(&broker, "", Handling::new([], Step::Succeed));
        prepared.until_state(ConsumerState::Consuming).await;
        prepared.drain().await.unwrap();
        let mut kit = Kit::start_on(&broker, &settings, handling);
        kit.until_state(ConsumerState::Consuming).await;
        broker.delete_queue("orders.dead");
        kit.publish();
        let why = "1 retry or dead letter waits until the broker takes it: orders.dead:";
        kit.until(ConsumerState::Consuming, Some(why)).await;
        assert_eq!(kit.broker.unacked(), 1);
        kit.broker.declare("orders.dead");
        kit.finished().await;
        assert_eq!(kit.ids("orders.dead").len(), 1);
        kit.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_confirm_was_lost_is_published_again_and_there_twice() {
    for copy in BOTH {
        let kit = copy.start("").await;
        kit.broker.answer_publishes([Confirm::Lost]);
        kit.publish();
        kit.until_in(copy.queue(), 2).await;
        assert_eq!(kit.report().await.counts.publish_failures, 1);
        kit.finished().await;
        let dead = kit.broker.ready("orders.dead").len();
        let runs = kit.handling.runs().len();
        match copy {
            Copy::Retry => assert_eq!((dead, runs), (0, 3)),
            Copy::DeadLetter => assert_eq!((dead, runs), (2, 1)),
        }
        let (broker, ledger) = (kit.broker.clone(), kit.drain().await.unwrap().ledger());
        assert_eq!((ledger.stale, ledger.duplicates), (0, 0));
        assert_eq!(broker.untold_copies(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_without_a_confirm_in_time_is_published_again() {
    for copy in BOTH {
        let kit = copy.start("").await;
        kit.broker
            .answer_publishes([Confirm::AckAfter(60 * SECOND)]);
        kit.publish();
        kit.until_in(copy.queue(), 1).await;
        tokio::time::sleep(9 * SECOND).await;
        assert_eq!((kit.broker.unacked(), kit.broker.untold_copies()), (1, 0));
        kit.until_in(copy.queue(), 2).await;
        kit.finished().await;
        kit.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_while_a_confirm_is_awaited_makes_a_second_copy() {
    let kit = Copy::DeadLetter.start("").await;
    kit.broker.answer_publishes([Confirm::AckAfter(5 * SECOND)]);
    kit.publish();
    kit.until_in("orders.dead", 1).await;
    kit.broker.fail(Fault::PublishingLost);
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(kit.broker.unacked(), 1);
    kit.broker.reconnect();
    kit.finished().await;
    assert_eq!(kit.broker.ready("orders.dead").len(), 2);
    assert_eq!(
        kit.drain().await.unwrap().ledger(),
        Copy::DeadLetter.ledger()
    );
}

#[tokio::test(start_paused = true)]
async fn a_copy_waits_for_a_publishing_connection_that_comes_back() {
    for copy in BOTH {
        let mut kit = copy.start("").await;
        kit.broker.fail(Fault::PublishingLost);
        kit.worker.until(|it| it.publishing.is_some()).await;
        let reason = kit.worker.handle().readiness().publishing;
        assert_eq!(reason.as_deref(), Some("not connected"));
        kit.publish();
        tokio::time::sleep(20 * SECOND).await;
        assert_eq!(kit.broker.unacked(), 1, "{copy:?}");
        kit.broker.reconnect();
        kit.until_in(copy.queue(), 1).await;
        copy.ends_well(kit).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_waits_for_the_end_of_an_alarm() {
    for copy in BOTH {
        let mut kit = copy.start("").await;
        kit.worker.broker().block(true);
        kit.worker.until(|it| it.publishing.is_some()).await;
        let reason = kit.worker.handle().readiness().publishing;
        assert_eq!(reason.as_deref(), Some("blocked by the broker"));
        kit.publish();
        tokio::time::sleep(20 * SECOND).await;
        assert_eq!(kit.broker.unacked(), 1, "{copy:?}");
        kit.worker.broker().block(false);
        kit.until_in(copy.queue(), 1).await;
        copy.ends_well(kit).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_needs_no_copy_is_acked_during_an_alarm() {
    let kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    kit.worker.broker().block(true);
    kit.publish();
    kit.finished().await;
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failing_message_does_not_keep_others_from_their_ack() {
    let kit = Copy::DeadLetter.start("").await;
    kit.broker.answer_publishes([Confirm::AckAfter(5 * SECOND)]);
    kit.publish_many(10);
    tokio::time::sleep(SECOND).await;
    assert_eq!(kit.handling.done().len(), 9);
    assert_eq!(kit.broker.unacked(), 1, "only its own is left");
    kit.finished().await;
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 9);
}

#[tokio::test(start_paused = true)]
async fn copies_are_published_again_with_growing_waits() {
    let kit = Copy::DeadLetter.start("").await;
    kit.broker.answer_publishes([Confirm::Nack; 8]);
    let began = tokio::time::Instant::now();
    kit.publish();
    kit.finished().await;
    let took = began.elapsed();
    let shortest = Duration::from_millis(8 * 50);
    // Each wait is at most three times the one before, and at most 5 s: 0.15 s, 0.45 s, 1.35 s,
    // 4.05 s, and four times 5 s.
    assert!(shortest <= took && took < 27 * SECOND, "{took:?}");
    kit.drain().await.unwrap();
}
