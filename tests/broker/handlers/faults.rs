//! Handlers that panic, time out, ignore their cancellation or block their thread.

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use lapwing::handler::{CancelReason, Cancellation};
use lapwing::{Context, Failure, Outcome};
use tokio::sync::watch;

use super::dead_letter;
use crate::support::{
    BUSY, Block, DEADLINE, Gate, Notes, PublishSpec, consumer, ms, vhost, within,
};

#[tokio::test]
async fn a_panic_is_a_failed_attempt_wherever_in_the_handler_it_comes() {
    let vhost = vhost().await;
    let consumer =
        consumer(&vhost, "q").with("[consumers.q.retry]\nbase = '10ms'\nmax_attempts = 3");
    let notes = Notes::default();
    let noting = notes.clone();
    let handler = move |context: Context| {
        let attempt = noting.note(&context);
        // Panics before it returns a future.
        assert!(attempt != 1, "panic at the call");
        async move {
            assert!(attempt != 2, "panic before the first await");
            tokio::task::yield_now().await;
            let text = context.message().id().unwrap_or_default().to_owned();
            if text == "hopeless" {
                panic!("panic after an await of {text}");
            }
        }
    };
    let worker = consumer.start_with(handler).await;
    for id in ["hopeless", "saved"] {
        vhost.publish_with(PublishSpec::to("q").id(id)).await;
    }

    let dead = dead_letter(&vhost, "q").await;
    let done = |consumer: &lapwing::ConsumerReport| consumer.ledger.acked == 1;
    let report = worker
        .wait_for_report("the other succeeded", "q", done)
        .await;

    assert_eq!(dead.id(), "hopeless");
    assert_eq!(dead.header("lapwing-reason"), "max-attempts");
    assert_eq!(dead.header("lapwing-error-kind"), "panic");
    assert_eq!(
        dead.header("lapwing-error"),
        "panic after an await of hopeless"
    );
    let history = dead.header("lapwing-history").as_str().expect("it is text");
    assert!(history.contains("panic at the call"), "{history}");
    assert!(
        history.contains("panic before the first await"),
        "{history}"
    );
    assert_eq!(notes.of("saved").len(), 3);
    assert_eq!((report.counts.panicked, report.counts.succeeded), (5, 1));
    worker.drain().await;
}

#[tokio::test]
async fn a_class_as_long_as_an_error_fits_the_dead_letter() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q");
    let handler = async || Err::<(), _>(Failure::permanent("\u{e9}".repeat(200_000), "too long"));
    let worker = consumer.start_with(handler).await;
    vhost.publish("q", "x").await;

    let dead = dead_letter(&vhost, "q").await;

    let class = dead.header("lapwing-error-kind").as_str();
    assert_eq!(class, Some("\u{e9}".repeat(127).as_str()));
    assert_eq!(dead.header("lapwing-error"), "too long");
    let kept = worker.handle.outcomes(None, None, 1);
    assert_eq!(kept[0].class.as_deref(), class);
    let report = worker.drain().await;
    assert_eq!(report.ledger().received, 1);
}

/// Notifies the test when it is dropped.
struct Dropped(watch::Sender<Option<Instant>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.send_replace(Some(Instant::now()));
    }
}

#[tokio::test]
async fn a_handler_that_overruns_is_dropped_at_its_timeout_and_retried() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with(
        "[consumers.q]\ntimeout = '400ms'\ncancel_grace = '25s'\n\
         retry = { base = '10ms', max_attempts = 2 }",
    );
    let dropped = watch::Sender::new(None);
    let (telling, notes) = (dropped.clone(), Notes::default());
    let noting = notes.clone();
    let handler = move |context: Context| {
        noting.note(&context);
        let guard = Dropped(telling.clone());
        async move {
            let _guard = guard;
            pending::<()>().await;
        }
    };
    let worker = consumer.start_with(handler).await;
    let id = vhost.publish("q", "x").await;

    let dead = dead_letter(&vhost, "q").await;

    let runs = notes.of(&id);
    // The second attempt has as much time as the first.
    let last = dropped
        .borrow()
        .expect("it was dropped")
        .duration_since(runs[1].at);
    let first = runs[1].at.duration_since(runs[0].at);
    for took in [first, last] {
        assert!(took >= ms(400) && took < BUSY, "{took:?}");
    }
    assert_eq!(dead.header("lapwing-error-kind"), "timeout");
    assert_eq!(dead.header("lapwing-attempts"), 2);
    let counts = worker.drain().await.consumers["q"].counts;
    assert_eq!((counts.timed_out, counts.handler_stuck), (2, 0));
}

#[tokio::test]
async fn a_handler_that_heeds_its_cancellation_is_waited_for_and_what_it_did_counts() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with(
        "[consumers.q]\ntimeout = '100ms'\ncancel_grace = '10s'\n\
         retry.rules = [{ class = 'timeout', action = 'dead-letter' }]",
    );
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let noting = reasons.clone();
    let handler = move |context: Context, cancellation: Cancellation| {
        let reasons = noting.clone();
        async move {
            let reason = cancellation.cancelled().await;
            assert!(cancellation.is_cancelled());
            // Cleans up for longer than the timeout.
            tokio::time::sleep(ms(300)).await;
            reasons.lock().expect("no holder panics").push(reason);
            match context.message().id() {
                Some("finished") => Outcome::Succeeded,
                Some("unwanted") => Outcome::dropped("seen too late"),
                _ => Outcome::Failed(Failure::retryable("stopped", "halfway")),
            }
        }
    };
    let worker = consumer.start_with(handler).await;
    for id in ["finished", "unwanted", "halfway"] {
        vhost.publish_with(PublishSpec::to("q").id(id)).await;
    }

    let dead = dead_letter(&vhost, "q").await;

    assert_eq!(dead.id(), "halfway");
    assert_eq!(dead.header("lapwing-error-kind"), "timeout");
    let report = worker.drain().await.consumers["q"].clone();
    assert_eq!((report.ledger.acked, report.ledger.dead_lettered), (2, 1));
    assert_eq!((report.counts.timed_out, report.counts.succeeded), (1, 1));
    assert_eq!((report.counts.dropped, report.counts.handler_stuck), (1, 0));
    let reasons = reasons.lock().expect("no holder panics");
    assert_eq!(*reasons, [CancelReason::Timeout; 3]);
}

#[tokio::test]
async fn a_handler_that_ignores_its_cancellation_is_dropped_counted_and_gives_its_slot() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with(
        "[consumers.q]\nconcurrency = 1\ntimeout = '200ms'\ncancel_grace = '300ms'\n\
         retry.rules = [{ class = 'timeout', action = 'dead-letter' }]",
    );
    let (notes, dropped) = (Notes::default(), watch::Sender::new(None));
    let (noting, telling) = (notes.clone(), dropped.clone());
    let handler = move |context: Context, cancellation: Cancellation| {
        noting.note(&context);
        let guard = Dropped(telling.clone());
        async move {
            if context.message().id() == Some("deaf") {
                let _held = (guard, cancellation);
                pending::<()>().await;
            }
        }
    };
    let worker = consumer.start_with(handler).await;
    vhost.publish_with(PublishSpec::to("q").id("deaf")).await;
    notes.wait_for(1).await;
    vhost.publish_with(PublishSpec::to("q").id("next")).await;

    notes.wait_for(2).await;

    let runs = notes.runs();
    let (deaf, next) = (&runs[0], &runs[1]);
    assert_eq!((deaf.id.as_str(), next.id.as_str()), ("deaf", "next"));
    let waited = next.at.duration_since(deaf.at);
    assert!(waited >= ms(500), "{waited:?}");
    assert_eq!(dead_letter(&vhost, "q").await.id(), "deaf");
    let report = worker.drain().await.consumers["q"].clone();
    assert_eq!(
        (report.counts.handler_stuck, report.counts.timed_out),
        (1, 1)
    );
    assert_eq!((report.ledger.acked, report.ledger.dead_lettered), (1, 1));
}

/// A handler that blocks its thread in the first run of the message `blocking`, and opens a gate at
/// the end of that run.
fn blocking(notes: &Notes, block: Block, ended: &Gate) -> impl Fn(Context) -> Blocking + use<> {
    let (notes, ended) = (notes.clone(), ended.clone());
    move |context| {
        let first = notes.note(&context) == 1;
        let blocks = first && context.message().id() == Some("blocking");
        let (block, ended) = (block.clone(), ended.clone());
        Box::pin(async move {
            if blocks {
                block.pass();
                ended.open();
            }
            Outcome::Succeeded
        })
    }
}

type Blocking = std::pin::Pin<Box<dyn Future<Output = Outcome> + Send>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_is_settled_without_it_and_its_late_end_is_ignored() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with(
        "[consumers.q]\nconcurrency = 1\ntimeout = '200ms'\ncancel_grace = '100ms'\n\
         retry.rules = [{ class = 'timeout', action = 'dead-letter' }]",
    );
    let (notes, ended) = (Notes::default(), Gate::default());
    let (block, release) = Block::new();
    let handler = blocking(&notes, block, &ended);
    let worker = consumer.start_with(handler).await;
    vhost
        .publish_with(PublishSpec::to("q").id("blocking"))
        .await;
    notes.wait_for(1).await;
    vhost.publish_with(PublishSpec::to("q").id("next")).await;

    notes.wait_for(2).await;
    let dead = dead_letter(&vhost, "q").await;

    assert_eq!(dead.id(), "blocking");
    assert_eq!(dead.header("lapwing-error-kind"), "timeout");
    let error = "no answer within 200ms; the work may have been done";
    assert_eq!(dead.header("lapwing-error"), error);
    let both = |consumer: &lapwing::ConsumerReport| {
        consumer.ledger.acked + consumer.ledger.dead_lettered == 2
    };
    let before = worker.wait_for_report("both are settled", "q", both).await;
    assert_eq!(
        (before.counts.handler_stuck, before.counts.timed_out),
        (1, 1)
    );
    assert_eq!(before.in_flight, 0);

    drop(release);
    within("the blocked handler's end", ended.passed()).await;
    let late = |consumer: &lapwing::ConsumerReport| consumer.counts.stale_settles == 1;
    let after = worker.wait_for_report("its end was seen", "q", late).await;
    assert_eq!(after.ledger, before.ledger);
    // The slot was not given out twice: still one handler at a time.
    vhost.publish_many("q", 3, |_| PublishSpec::of("x")).await;
    notes.wait_for(5).await;
    let report = worker.drain().await.consumers["q"].clone();
    assert_eq!((report.ledger.received, report.ledger.acked), (5, 4));
    vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
    assert_eq!(vhost.ready("q.dead").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_message_whose_handler_blocks_its_thread_is_retried_meanwhile() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with(
        "[consumers.q]\nconcurrency = 1\ntimeout = '200ms'\ncancel_grace = '100ms'\n\
         retry = { base = '10ms' }",
    );
    let (notes, ended) = (Notes::default(), Gate::default());
    let (block, release) = Block::new();
    let handler = blocking(&notes, block, &ended);
    let worker = consumer.start_with(handler).await;
    vhost
        .publish_with(PublishSpec::to("q").id("blocking"))
        .await;

    let runs = notes.wait_for(2).await;

    assert_eq!([runs[0].attempt, runs[1].attempt], [1, 2]);
    let done = |consumer: &lapwing::ConsumerReport| consumer.ledger.acked == 1;
    worker
        .wait_for_report("the retry is acked", "q", done)
        .await;
    drop(release);
    within("the blocked handler's end", ended.passed()).await;
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.received, ledger.parked, ledger.acked), (2, 1, 1));
    assert_eq!(notes.runs().len(), 2);
}

#[tokio::test]
async fn a_value_that_panics_when_it_is_dropped_with_its_handler_loses_no_message() {
    struct Bomb(Arc<AtomicBool>);
    impl Drop for Bomb {
        fn drop(&mut self) {
            let armed = self.0.swap(false, Ordering::SeqCst);
            assert!(!armed, "panic in a drop");
        }
    }
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q")
        .with("[consumers.q]\nconcurrency = 1\ntimeout = '200ms'\nretry = { base = '10ms' }");
    let armed = Arc::new(AtomicBool::new(true));
    let notes = Notes::default();
    let noting = notes.clone();
    let handler = move |context: Context| {
        let first = noting.note(&context) == 1;
        let bomb = first.then(|| Bomb(armed.clone()));
        async move {
            if let Some(_bomb) = bomb {
                pending::<()>().await;
            }
        }
    };
    let worker = consumer.start_with(handler).await;
    let id = vhost.publish("q", "x").await;

    notes.wait_for(2).await;

    assert_eq!(notes.of(&id).len(), 2);
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.received, ledger.acked), (1, 1));
}
