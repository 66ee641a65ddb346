//! Handler slots: other messages get the slot of a handler that never ends, or that ends late.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use lapwing::{Context, Failure, Outcome};

use crate::support::{Block, HandlerRun, Notes, Proxy, PublishSpec, consumer, ms, vhost};

const ONE: &str = "[consumers.q]\nconcurrency = 1\ntimeout = '300ms'\ncancel_grace = '100ms'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_gives_its_slot_after_its_session_is_lost() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    let changes = format!("broker.url = '{}'\n{ONE}", proxy.url(&vhost));
    let consumer = consumer(&vhost, "q").with(&changes);
    let notes = Notes::default();
    let (block, release) = Block::new();
    let noting = notes.clone();
    let handler = move |context: Context| {
        let first = noting.note(&context) == 1;
        let block = block.clone();
        async move {
            if first {
                block.pass();
            }
        }
    };
    let worker = consumer.start_with(handler).await;
    let id = vhost.publish("q", "x").await;
    notes.wait_for(1).await;

    proxy.cut().await;

    // The broker delivers the message again, and it runs.
    let runs = notes.wait_for(2).await;
    assert_eq!(runs[1].id, id);
    let done =
        |consumer: &lapwing::ConsumerReport| consumer.ledger.acked == 1 && consumer.in_flight == 0;
    let report = worker.wait_for_report("it is acked", "q", done).await;
    assert_eq!(report.counts.handler_stuck, 1, "{report:?}");
    assert_eq!(report.running, 0, "{report:?}");
    drop(release);
    let late = |consumer: &lapwing::ConsumerReport| consumer.counts.stale_settles >= 1;
    let report = worker.wait_for_report("its end was seen", "q", late).await;
    assert_eq!((report.running, report.ledger.acked), (0, 1), "{report:?}");
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_when_it_is_dropped_gives_its_slot() {
    struct Blocking(Block);
    impl Drop for Blocking {
        fn drop(&mut self) {
            self.0.pass();
        }
    }
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with(ONE);
    let notes = Notes::default();
    let (block, release) = Block::new();
    let noting = notes.clone();
    let handler = move |context: Context| {
        noting.note(&context);
        let guard = Blocking(block.clone());
        async move {
            if context.message().id() == Some("next") {
                return std::mem::forget(guard);
            }
            let _guard = guard;
            pending::<()>().await;
        }
    };
    let worker = consumer.start_with(handler).await;
    for id in ["first", "next"] {
        vhost.publish_with(PublishSpec::to("q").id(id)).await;
    }

    let next = |runs: &[HandlerRun]| runs.iter().any(|run| run.id == "next");
    notes.wait_until("the next one runs", next).await;

    drop(release);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_put_off_again_and_again_leave_room_for_others() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with("consumers.q.concurrency = 1");
    let notes = Notes::default();
    let noting = notes.clone();
    // Two messages that wait for later ones: at any time one of them needs the slot.
    let handler = move |context: Context| {
        noting.note(&context);
        let noting = noting.clone();
        async move {
            if context.message().id() == Some("awaited") || !noting.of("awaited").is_empty() {
                return Outcome::Succeeded;
            }
            tokio::time::sleep(ms(20)).await;
            Outcome::snooze(ms(5))
        }
    };
    let worker = consumer.start_with(handler).await;
    vhost.publish_many("q", 2, |_| PublishSpec::of("x")).await;
    notes.wait_for(5).await;

    vhost.publish_with(PublishSpec::to("q").id("awaited")).await;

    let done = |consumer: &lapwing::ConsumerReport| consumer.ledger.acked == 3;
    worker.wait_for_report("all are done", "q", done).await;
    worker.drain().await;
}

/// The consumer checks its slots four times a second. A start that waits for this check is late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_goes_on_while_the_path_that_had_it_waits() {
    const MESSAGES: usize = 12;
    let vhost = vhost().await;
    let changes = "[consumers.q]\nconcurrency = 1\nprefetch = 40\n\
        [consumers.q.retry]\nbase = '900ms'\njitter = 0.0";
    let consumer = consumer(&vhost, "q").with(changes);
    let notes = Notes::default();
    let noting = notes.clone();
    let ended = Arc::new(Mutex::new(Vec::new()));
    let ending = Arc::clone(&ended);
    let handler = move |context: Context| {
        noting.note(&context);
        let ending = Arc::clone(&ending);
        async move {
            tokio::time::sleep(ms(2)).await;
            if context.attempt() == 1 {
                ending.lock().expect("no panic").push(Instant::now());
                return Err(Failure::retryable("slots", "once more"));
            }
            Ok(())
        }
    };
    let worker = consumer.start_with(handler).await;
    vhost
        .publish_many("q", MESSAGES, |_| PublishSpec::of("x"))
        .await;

    let runs = notes.wait_for(2 * MESSAGES).await;

    let ended = ended.lock().expect("no panic").clone();
    let late = runs[1..MESSAGES]
        .iter()
        .zip(&ended)
        .map(|(next, before)| next.at.duration_since(*before))
        .filter(|empty| *empty > ms(100));
    assert!(late.count() < MESSAGES / 2, "{runs:#?} {ended:#?}");
    worker.drain().await;
}
