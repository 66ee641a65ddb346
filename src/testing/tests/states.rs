//! Each kind of trouble in each state of a consumer. The tests check what follows, that the consumer works
//! again when the trouble is over (or that its drain ends), and that no message is lost or settled twice.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{
    kit::SOON,
    scene::{LATE, Scene, Situation},
};
use crate::{
    CallError, ConsumerState,
    broker::{BrokerError, fake::Fault},
};

/// The trouble that happens to the consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Pause,
    Resume,
    Drain,
    SecondSignal,
    ChannelLost,
    ConnectionLost,
    ConsumerCancelled,
    QueueDeleted,
    PublishingBlocked,
    SubscriptionRefused,
    AnswerLate,
    AcksHang,
}

impl Trouble {
    async fn cause(self, scene: &mut Scene, situation: Situation) {
        let (broker, handle) = (&scene.kit.broker, scene.kit.worker.handle());
        let orders = || "orders".to_owned();
        let is_cancelled = matches!(self, Self::ConsumerCancelled | Self::QueueDeleted);
        if is_cancelled && situation == Situation::Keeping {
            // Its subscription has lasted, so the lane asks for the next one at once. A late answer
            // shows the state in between.
            broker.answer_after(LATE);
        }
        match self {
            Self::Pause => {
                let answer = handle.pause("orders").await;
                assert_eq!(answer, Ok(()));
            }
            Self::Resume => {
                assert_eq!(handle.resume("orders").await, Ok(()));
                // Where the state is the same as before, it is the same after the lane's turn.
                scene.kit.report().await;
            }
            Self::Drain => scene.kit.worker.shutdown.cancel(),
            Self::SecondSignal => handle.stop_now(),
            Self::ChannelLost => broker.fail(Fault::ChannelLost),
            Self::ConnectionLost => broker.fail(Fault::ConnectionLost),
            Self::ConsumerCancelled => broker.fail(Fault::ConsumerCancelled(orders())),
            Self::QueueDeleted => {
                broker.fail(Fault::QueueDeleted(orders()));
                scene.published.deleted();
            }
            Self::PublishingBlocked => {
                broker.fail(Fault::Blocked);
                let is_told = |it: &crate::Readiness| {
                    it.publishing.as_deref() == Some("blocked by the broker")
                };
                let told = timeout(SOON, scene.kit.worker.until(is_told));
                assert!(told.await.is_ok(), "nothing is told of the alarm");
            }
            Self::SubscriptionRefused => {
                broker.refuse_subscriptions([BrokerError::Refused("no access".to_owned())]);
                match situation {
                    Situation::Connecting => broker.reconnect(),
                    Situation::Paused => assert_eq!(handle.resume("orders").await, Ok(())),
                    Situation::Resubscribing => {}
                    _ => broker.fail(Fault::ConsumerCancelled(orders())),
                }
            }
            Self::AnswerLate => {
                broker.answer_after(LATE);
                match situation {
                    Situation::Connecting => broker.reconnect(),
                    Situation::Paused => assert_eq!(handle.resume("orders").await, Ok(())),
                    Situation::Resubscribing | Situation::Cancelling => {}
                    _ => assert_eq!(handle.pause("orders").await, Err(CallError::TimedOut)),
                }
            }
            Self::AcksHang => {
                broker.stall(true);
                scene.kit.handling.open();
            }
        }
    }

    /// Ends the trouble, if it does not end by itself.
    async fn end(self, scene: &mut Scene, situation: Situation) {
        let (broker, handle) = (&scene.kit.broker, scene.kit.worker.handle());
        if self == Self::AcksHang && situation != Situation::Connecting {
            let killed = broker.until(|it| it.unacked() == 0);
            assert!(timeout(SOON, killed).await.is_ok(), "the session lives");
        }
        broker.stall(false);
        broker.unblock();
        broker.forget_answers();
        broker.reconnect();
        if !situation.drains() {
            assert_eq!(handle.resume("orders").await, Ok(()));
        }
    }

    /// Whether the session ends, so that the broker requeues its unsettled messages.
    fn ends_session(self) -> bool {
        matches!(
            self,
            Self::ChannelLost | Self::ConnectionLost | Self::AcksHang
        )
    }
}

async fn pair(situation: Situation, trouble: Trouble, then: ConsumerState, why: Option<&str>) {
    let mut scene = Scene::set(situation).await;
    trouble.cause(&mut scene, situation).await;
    scene.kit.until(then, why).await;
    let handling = scene.kit.handling.clone();
    let report = match then {
        ConsumerState::Stopped => scene.ends().await,
        ConsumerState::Draining => {
            let began = Instant::now();
            handling.open();
            if trouble != Trouble::Drain {
                trouble.end(&mut scene, situation).await;
            }
            let report = scene.ends().await;
            assert!(began.elapsed() < Duration::from_secs(16));
            report
        }
        _ => {
            trouble.end(&mut scene, situation).await;
            scene.works().await
        }
    };
    // Deliveries that the drain could not settle at the broker. After a second signal the drain does not
    // wait for the broker's answer.
    let left = match (situation, trouble) {
        (Situation::Cancelling, Trouble::SecondSignal) => 3,
        (Situation::Cancelling, _) if trouble.ends_session() => 3,
        (Situation::Draining, _) if trouble.ends_session() => 2,
        // A channel whose consumer was cancelled is replaced. Two handlers end, and the drain does not
        // wait for the next delivery of their messages. A queue that is deleted after the lane has
        // looked for it delivers nothing again, and the lane cannot know that.
        (Situation::Resubscribing, Trouble::Drain | Trouble::QueueDeleted) => 2,
        _ => 0,
    };
    assert_eq!(report.left(), left);
    if trouble == Trouble::AcksHang {
        let handled_in_vain = match situation {
            Situation::Connecting => 0,
            Situation::Resubscribing | Situation::Consuming | Situation::Keeping => 3,
            _ => 2,
        };
        assert_eq!(report.ledger().duplicates, handled_in_vain);
    }
    if !trouble.ends_session() {
        let mut ids: Vec<_> = handling.runs().into_iter().map(|run| run.id).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(all, ids.len(), "handled twice: {ids:?}");
    }
}

macro_rules! pairs {
    ($($situation:ident as $name:ident {
        $($trouble:ident as $test:ident => $then:ident $(, $why:literal)?;)*
    })*) => {$(
        mod $name {
            use super::*;

            $(
                #[tokio::test(start_paused = true)]
                async fn $test() {
                    let why = [$($why)?].first().copied();
                    pair(Situation::$situation, Trouble::$trouble, ConsumerState::$then, why).await;
                }
            )*
        }
    )*};
}

pairs! {
    Connecting as connecting {
        Pause as pause => Paused, "paused by an operator";
        Resume as resume => Connecting, "not connected";
        Drain as drain => Stopped;
        SecondSignal as second_signal => Stopped;
        ChannelLost as channel_lost => Connecting, "not connected";
        ConnectionLost as connection_lost => Connecting, "not connected";
        ConsumerCancelled as consumer_cancelled => Connecting, "not connected";
        QueueDeleted as queue_deleted => Connecting, "not connected";
        SubscriptionRefused as subscription_refused => Connecting, "no access";
        AnswerLate as answer_late => Connecting, "not connected";
        AcksHang as acks_hang => Connecting, "not connected";
    }
    Resubscribing as resubscribing {
        Pause as pause => Paused, "paused by an operator";
        Resume as resume => Connecting, "the broker cancelled the consumer";
        Drain as drain => Draining;
        SecondSignal as second_signal => Stopped;
        ChannelLost as channel_lost => Connecting, "the broker cancelled the consumer";
        ConnectionLost as connection_lost => Connecting, "not connected";
        ConsumerCancelled as consumer_cancelled => Connecting, "the broker cancelled the consumer";
        QueueDeleted as queue_deleted => Connecting, "the broker cancelled the consumer";
        PublishingBlocked as publishing_blocked => Connecting, "the broker cancelled the consumer";
        SubscriptionRefused as subscription_refused => Connecting, "no access";
        AcksHang as acks_hang => Connecting, "writing acks took longer";
    }
    Consuming as consuming {
        Pause as pause => Paused, "paused by an operator";
        Resume as resume => Consuming;
        Drain as drain => Draining;
        SecondSignal as second_signal => Stopped;
        ChannelLost as channel_lost => Connecting, "channel lost";
        ConnectionLost as connection_lost => Connecting, "connection lost";
        ConsumerCancelled as consumer_cancelled => Connecting, "the broker cancelled the consumer";
        QueueDeleted as queue_deleted => Connecting, "the broker cancelled the consumer";
        PublishingBlocked as publishing_blocked => Consuming;
        SubscriptionRefused as subscription_refused => Connecting, "no access";
        AnswerLate as answer_late => Paused, "paused by an operator";
        AcksHang as acks_hang => Connecting, "writing acks took longer";
    }
    Paused as paused {
        Pause as pause => Paused, "paused by an operator";
        Resume as resume => Consuming;
        Drain as drain => Draining;
        SecondSignal as second_signal => Stopped;
        ChannelLost as channel_lost => Paused, "paused by an operator";
        ConnectionLost as connection_lost => Paused, "paused by an operator";
        ConsumerCancelled as consumer_cancelled => Paused, "paused by an operator";
        QueueDeleted as queue_deleted => Paused, "paused by an operator";
        PublishingBlocked as publishing_blocked => Paused, "paused by an operator";
        SubscriptionRefused as subscription_refused => Connecting, "no access";
        AnswerLate as answer_late => Connecting;
        AcksHang as acks_hang => Paused, "paused by an operator";
    }
    Keeping as keeping {
        Pause as pause => Paused, "paused by an operator";
        Resume as resume => Consuming, "takes it: orders.dead: refused";
        Drain as drain => Draining;
        SecondSignal as second_signal => Stopped;
        ChannelLost as channel_lost => Connecting, "channel lost";
        ConnectionLost as connection_lost => Connecting, "connection lost";
        ConsumerCancelled as consumer_cancelled => Connecting, "the broker cancelled the consumer";
        QueueDeleted as queue_deleted => Connecting, "the broker cancelled the consumer";
        PublishingBlocked as publishing_blocked => Consuming, "takes it: orders.dead: the broker has blocked";
        SubscriptionRefused as subscription_refused => Connecting, "no access";
        AnswerLate as answer_late => Paused, "paused by an operator";
        AcksHang as acks_hang => Connecting, "writing acks took longer";
    }
    Draining as draining {
        Pause as pause => Draining;
        Resume as resume => Draining;
        Drain as drain => Draining;
        SecondSignal as second_signal => Stopped;
        ChannelLost as channel_lost => Draining;
        ConnectionLost as connection_lost => Draining;
        ConsumerCancelled as consumer_cancelled => Draining;
        QueueDeleted as queue_deleted => Draining;
        PublishingBlocked as publishing_blocked => Draining;
        SubscriptionRefused as subscription_refused => Draining;
        AcksHang as acks_hang => Draining;
    }
    Cancelling as cancelling {
        Pause as pause => Draining;
        Drain as drain => Draining;
        SecondSignal as second_signal => Draining;
        ChannelLost as channel_lost => Draining;
        ConnectionLost as connection_lost => Draining;
        ConsumerCancelled as consumer_cancelled => Draining;
        QueueDeleted as queue_deleted => Draining;
        AnswerLate as answer_late => Draining;
        AcksHang as acks_hang => Draining;
    }
}
