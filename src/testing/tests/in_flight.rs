//! An operator lists messages in flight, and cancels their handlers.

use std::time::{Duration, SystemTime};

use super::kit::{Handling, Kit, Step};
use crate::{
    CallError, CancelError, ConsumerState, DeliveryId, InFlight, InFlightPage, Phase,
    broker::fake::{Confirm, Letter},
    clock,
};

const SECOND: Duration = Duration::from_secs(1);

async fn page(kit: &Kit) -> InFlightPage {
    kit.worker
        .handle()
        .in_flight(Some("orders"), 0, 100)
        .await
        .unwrap()
}

/// The only message in flight.
async fn only(kit: &Kit) -> InFlight {
    let mut page = page(kit).await;
    assert_eq!((page.total, page.messages.len()), (1, 1));
    page.messages.remove(0)
}

async fn cancel(kit: &Kit, delivery: DeliveryId) -> Result<(), CancelError> {
    kit.worker.handle().cancel("orders", delivery).await
}

#[tokio::test(start_paused = true)]
async fn a_message_at_its_handler_and_one_that_waits_for_a_slot_are_told_apart() {
    let handling = Handling::new([], Step::WaitForGate);
    let kit = Kit::start("concurrency = 1", handling.clone()).await;
    let letter = Letter::default().id("first").message_type("paid").parked();
    kit.send(letter.number("lapwing-attempts", 2), b"");
    handling.has_run(1).await;
    tokio::time::sleep(2 * SECOND).await;
    kit.send(Letter::default().id("second"), b"");
    tokio::time::sleep(SECOND).await;
    let page = page(&kit).await;
    assert_eq!(page.total, 2);
    let [first, second] = &page.messages[..] else {
        panic!("{page:?}")
    };
    assert_eq!(
        (first.phase, second.phase),
        (Phase::Handling, Phase::Buffered)
    );
    assert_eq!(first.id.as_deref(), Some("first"));
    assert_eq!(first.message_type.as_deref(), Some("paid"));
    assert_eq!(
        (first.consumer.as_str(), first.routing_key.as_str()),
        ("orders", "orders")
    );
    assert_eq!((first.attempt, second.attempt), (3, 1));
    let near = |seconds: f64, wanted: f64| (wanted..wanted + 0.1).contains(&seconds);
    assert!(near(first.age_seconds, 3.0), "{first:?}");
    assert!(near(first.handling_seconds.unwrap(), 3.0), "{first:?}");
    assert!(near(second.age_seconds, 1.0), "{second:?}");
    assert_eq!(second.handling_seconds, None);
    handling.open();
    kit.finished().await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_in_the_worker_is_waiting_and_then_at_its_next_attempt() {
    let settings = "retry = { base = '900ms', jitter = 0 }";
    let handling = Handling::new([Step::Fail], Step::WaitForGate);
    let kit = Kit::start(settings, handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    tokio::time::sleep(SECOND / 2).await;
    let waiting = only(&kit).await;
    assert_eq!((waiting.phase, waiting.attempt), (Phase::Waiting, 1));
    assert_eq!(waiting.handling_seconds, None);
    handling.has_run(2).await;
    let again = only(&kit).await;
    assert_eq!((again.phase, again.attempt), (Phase::Handling, 2));
    assert_eq!(again.delivery, waiting.delivery);
    handling.open();
    kit.finished().await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_copy_is_not_confirmed_yet_is_settling_and_cannot_be_cancelled() {
    let handling = Handling::new([Step::FailForGood], Step::Succeed);
    let kit = Kit::start("", handling.clone()).await;
    kit.broker.answer_publishes([Confirm::AckAfter(5 * SECOND)]);
    kit.publish();
    kit.until_in("orders.dead", 1).await;
    let settling = only(&kit).await;
    assert_eq!(settling.phase, Phase::Settling);
    assert_eq!(settling.handling_seconds, None);
    let refused = cancel(&kit, settling.delivery).await;
    assert_eq!(refused, Err(CancelError::NotHandling(Phase::Settling)));
    kit.finished().await;
    assert_eq!(kit.drain().await.unwrap().ledger().dead_lettered, 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_done_is_gone() {
    let handling = Handling::new([], Step::WaitForGate);
    let kit = Kit::start("", handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    let delivery = only(&kit).await.delivery;
    handling.open();
    kit.finished().await;
    assert_eq!(page(&kit).await, InFlightPage::default());
    assert_eq!(cancel(&kit, delivery).await, Err(CancelError::Gone));
    let unknown = DeliveryId {
        tag: delivery.tag + 1,
        ..delivery
    };
    assert_eq!(cancel(&kit, unknown).await, Err(CancelError::Gone));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_the_message_that_is_named_is_cancelled() {
    let handling = Handling::new(
        [Step::HeedCancellation, Step::HeedCancellation],
        Step::Succeed,
    );
    let kit = Kit::start("", handling.clone()).await;
    let ids = kit.publish_many(2);
    handling.has_run(2).await;
    let second = page(&kit).await.messages.remove(1);
    assert_eq!(second.id.as_ref(), Some(&ids[1]));
    cancel(&kit, second.delivery).await.unwrap();
    handling.has_run(3).await;
    assert_eq!(handling.runs()[2].id, ids[1]);
    kit.broker.until(|it| it.unacked() == 1).await;
    let left = only(&kit).await;
    assert_eq!(
        (left.id.as_ref(), left.phase),
        (Some(&ids[0]), Phase::Handling)
    );
    kit.finished().await;
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.returned, ledger.acked), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn the_name_of_a_delivery_of_an_earlier_session_cancels_nothing() {
    let handling = Handling::new([Step::Succeed], Step::Hang);
    let kit = Kit::start("timeout = '1h'", handling.clone()).await;
    kit.publish();
    kit.finished().await;
    // The channel answers for the ack.
    tokio::time::sleep(Duration::from_secs(5)).await;
    kit.publish();
    handling.has_run(2).await;
    let before = only(&kit).await.delivery;
    kit.worker.broker().close_channels();
    let after = loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = kit.in_flight().await;
        if let Some(message) = now.first().filter(|it| it.delivery != before) {
            break message.delivery;
        }
    };
    assert_ne!(after.session, before.session);
    assert_eq!(cancel(&kit, before).await, Err(CancelError::Gone));
    let same_tag = DeliveryId {
        tag: after.tag,
        ..before
    };
    assert_eq!(cancel(&kit, same_tag).await, Err(CancelError::Gone));
    assert_eq!(kit.report().await.counts.interrupted, 0);
    kit.worker.handle().stop_now();
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.stale, ledger.returned), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_page_has_the_oldest_messages_behind_its_offset() {
    let handling = Handling::new([], Step::WaitForGate);
    let kit = Kit::start("concurrency = 2", handling.clone()).await;
    let ids = kit.publish_many(10);
    handling.has_run(2).await;
    let handle = kit.worker.handle().clone();
    for lane in [Some("orders"), None] {
        for (offset, limit, wanted) in [(0, 3, 0..3), (2, 4, 2..6), (8, 9, 8..10), (10, 1, 10..10)]
        {
            let page = handle.in_flight(lane, offset, limit).await.unwrap();
            assert_eq!(page.total, 10);
            assert!(page.unanswered.is_empty());
            let found: Vec<_> = page.messages.into_iter().filter_map(|it| it.id).collect();
            assert_eq!(found, ids[wanted], "{lane:?} from {offset}");
        }
    }
    handling.open();
    kit.finished().await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_does_not_exist_is_refused() {
    let handling = Handling::new([], Step::WaitForGate);
    let kit = Kit::start("", handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    let handle = kit.worker.handle().clone();
    let page = handle.in_flight(Some("mails"), 0, 1).await;
    assert_eq!(page, Err(CallError::NoSuchConsumer));
    let delivery = only(&kit).await.delivery;
    let refused = handle.cancel("mails", delivery).await;
    assert_eq!(refused, Err(CancelError::Call(CallError::NoSuchConsumer)));
    handling.open();
    kit.finished().await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_is_found_by_its_id_wherever_it_is_in_flight() {
    let handling = Handling::new([], Step::WaitForGate);
    let kit = Kit::start("concurrency = 1\nprefetch = 10", handling.clone()).await;
    for id in ["first", "second", "twice", "twice", "last"] {
        kit.send(Letter::default().id(id), b"");
    }
    handling.has_run(1).await;
    tokio::time::sleep(SECOND).await;
    let handle = kit.worker.handle().clone();
    for (id, times) in [("first", 1), ("last", 1), ("twice", 2), ("none", 0)] {
        let (found, unanswered) = handle.flights_of(id).await;
        assert_eq!((found.len(), unanswered.len()), (times, 0), "{id}");
        assert!(found.iter().all(|flight| flight.message.id() == Some(id)));
    }
    handling.open();
    kit.finished().await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_time_at_the_broker_is_known_of_the_first_delivery_and_not_of_a_replay() {
    let handling = Handling::new([], Step::WaitForGate);
    let kit = Kit::start("", handling.clone()).await;
    let now = clock::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let published = now.as_secs() - 3 * 3600;
    let letter = |id| Letter::default().id(id).timestamp(published);
    kit.send(letter("first"), b"");
    // A dead letter that somebody put back.
    kit.send(letter("replay").header("lapwing-reason", "failed"), b"");
    handling.has_run(2).await;
    tokio::time::sleep(SECOND).await;
    let messages = page(&kit).await.messages;
    let hours = |id: &str| {
        let found = messages.iter().find(|it| it.id.as_deref() == Some(id));
        found
            .unwrap()
            .queued_seconds
            .map(|seconds| (seconds / 3600.0).round())
    };
    assert_eq!((hours("first"), hours("replay")), (Some(3.0), None));
    handling.open();
    kit.finished().await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_known_without_asking_the_lane() {
    let handling = Handling::new([], Step::WaitForGate);
    let kit = Kit::start("", handling.clone()).await;
    let mut handle = kit.worker.handle().clone();
    let figures = handle.clone();
    let is_paused = || figures.figures("orders").unwrap().is_paused();
    assert!(!is_paused());
    handle.pause("orders").await.unwrap();
    assert!(is_paused());
    handle.resume("orders").await.unwrap();
    assert!(!is_paused());
    // In a drain there is nothing to pause: the next process takes messages.
    kit.publish();
    handling.has_run(1).await;
    let drain = tokio::spawn(kit.drain());
    let is_draining =
        |it: &crate::Readiness| it.consumers["orders"].state == ConsumerState::Draining;
    handle.until(is_draining).await;
    handle.pause("orders").await.unwrap();
    assert!(!is_paused());
    handling.open();
    drain.await.unwrap().unwrap();
}
