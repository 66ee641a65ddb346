//! The worker's handle: messages in flight, cancelling one, changing the concurrency.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lapwing::handler::{CancelReason, Cancellation};
use lapwing::{
    CancelError, ConcurrencyError, Context, Failure, InFlight, OutcomeKind, Phase, SettlementKind,
    Worker,
};
use tokio::sync::{Semaphore, watch};

use super::{gated, start_both};
use crate::support::{
    BUSY, DEADLINE, Gate, Notes, PublishSpec, RunningWorker, consumer, consumers, vhost,
    wait_until, within,
};

async fn in_flight(worker: &RunningWorker, consumer: &str) -> Vec<InFlight> {
    let page = worker.handle.in_flight(Some(consumer), 0, 1000).await;
    page.expect("the consumer answers").messages
}

#[tokio::test]
async fn messages_in_flight_are_listed_oldest_first_with_their_phase() {
    let vhost = vhost().await;
    let consumers = consumers(&vhost, &["q", "other"]).with(
        "[consumers.q]\nconcurrency = 2\nprefetch = 9\n\
         [consumers.q.retry]\nbase = '20s'\njitter = 0.0\ninline_below = '30s'",
    );
    let (gate, notes) = (Gate::default(), Notes::default());
    let holding = gated(&notes, &gate);
    let worker = consumers
        .worker()
        .handler("q", holding)
        .handler_for_route("q", "fails", async || {
            Err::<(), _>(Failure::retryable("x", "not now"))
        })
        .handler("other", gated(&notes, &gate));
    let worker = RunningWorker::start(worker).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let fails = PublishSpec::to("q").id("fails");
    let fails = fails.with(|properties| properties.with_type("fails".into()));
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    vhost
        .publish_with(fails.header("traceparent", parent.as_str()))
        .await;
    let waits = |report: &lapwing::ConsumerReport| report.waiting == 1;
    worker.wait_for_report("the retry waits", "q", waits).await;
    vhost.publish_many("q", 5, |_| PublishSpec::of("x")).await;
    vhost
        .publish_many("other", 1, |_| PublishSpec::of("x"))
        .await;
    notes.wait_for(3).await;
    let all = |report: &lapwing::ConsumerReport| report.running == 2 && report.buffered == 3;
    let report = worker
        .wait_for_report("three wait for a slot", "q", all)
        .await;
    assert_eq!((report.running, report.in_flight), (2, 6));

    let listed = in_flight(&worker, "q").await;

    let phases: Vec<_> = listed.iter().map(|message| message.phase).collect();
    let [waiting, handling, buffered] = [Phase::Waiting, Phase::Handling, Phase::Buffered];
    assert_eq!(
        phases,
        [waiting, handling, handling, buffered, buffered, buffered]
    );
    let ids: Vec<_> = listed.iter().map(|message| message.id.as_deref()).collect();
    assert_eq!(ids[..3], [Some("fails"), Some("q-00000"), Some("q-00001")]);
    assert_eq!(listed[0].message_type.as_deref(), Some("fails"));
    assert_eq!(listed[0].trace_id.as_deref(), Some(trace));
    assert_eq!((listed[0].handling_seconds, listed[0].attempt), (None, 1));
    assert!(listed.is_sorted_by(|a, b| a.age_seconds >= b.age_seconds));
    let handling = listed[1].handling_seconds.expect("it runs");
    assert!(handling <= listed[1].age_seconds);
    assert_eq!(listed[5].routing_key, "q");

    let page = worker.handle.in_flight(None, 1, 3).await;
    let page = page.expect("all consumers answer");
    assert_eq!((page.total, page.messages.len()), (7, 3));
    assert_eq!(page.messages[0].delivery, listed[1].delivery);
    let page = worker.handle.in_flight(None, 6, 9).await;
    assert_eq!(
        page.expect("all consumers answer").messages[0].consumer,
        "other"
    );
    let page = worker.handle.in_flight(Some("q"), 4, 9).await;
    let messages = page.expect("the consumer answers").messages;
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0].delivery, listed[4].delivery);

    gate.open();
    worker.drain().await;
}

#[tokio::test]
async fn a_cancelled_message_is_returned_uncharged_and_runs_again() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with("[consumers.q]\nconcurrency = 1");
    let notes = Notes::default();
    let noting = notes.clone();
    let (sender, mut told) = watch::channel(None);
    let handler = move |context: Context, cancellation: Cancellation| {
        let (times, sender) = (noting.note(&context), sender.clone());
        async move {
            if context.message().id() != Some("q-00000") || times > 1 {
                return Ok(());
            }
            sender.send_replace(Some(cancellation.cancelled().await));
            // If the handler returned success, the worker would ack the message.
            Err(Failure::permanent("cancelled", "cut short"))
        }
    };
    let worker = consumer.start_with(handler).await;
    vhost.publish_many("q", 2, |_| PublishSpec::of("x")).await;
    notes.wait_for(1).await;
    let both = |report: &lapwing::ConsumerReport| report.running == 1 && report.buffered == 1;
    worker.wait_for_report("the second waits", "q", both).await;
    let listed = in_flight(&worker, "q").await;
    let (running, waiting) = (listed[0].delivery, listed[1].delivery);

    let refused = worker.handle.cancel("q", waiting).await;
    assert_eq!(refused, Err(CancelError::NotHandling(Phase::Buffered)));
    assert_eq!(worker.handle.cancel("q", running).await, Ok(()));

    let reason = within("the cancellation", told.wait_for(Option::is_some)).await;
    assert_eq!(
        *reason.expect("the handler has it"),
        Some(CancelReason::Operator)
    );
    let runs = notes.wait_for(3).await;
    assert!(runs.iter().all(|run| run.attempt == 1), "{runs:?}");
    let done = |report: &lapwing::ConsumerReport| report.ledger.acked == 2;
    let report = worker.wait_for_report("both are done", "q", done).await;
    assert_eq!(report.ledger.returned, 1, "{report:?}");
    assert_eq!(report.counts.interrupted, 1, "{report:?}");
    let gone = worker.handle.cancel("q", running).await;
    assert_eq!(gone, Err(CancelError::Gone));
    let kept = worker.handle.outcomes(Some("q"), None, 10);
    let first = kept.last().expect("it is no success, so it is kept");
    assert_eq!(first.kind, OutcomeKind::Interrupted);
    assert_eq!(first.settlement, SettlementKind::Return);
    worker.drain().await;
}

/// The number of running handlers, and its maximum since the last reset.
#[derive(Clone, Debug, Default)]
struct Gauge {
    running: watch::Sender<usize>,
    peak: Arc<AtomicUsize>,
}

impl Gauge {
    fn enter(&self) {
        self.running.send_modify(|running| {
            *running += 1;
            self.peak.fetch_max(*running, Ordering::SeqCst);
        });
    }

    fn leave(&self) {
        self.running.send_modify(|running| *running -= 1);
    }

    async fn wait_for(&self, count: usize) {
        let mut running = self.running.subscribe();
        let reached = running.wait_for(|running| *running == count);
        within(&format!("{count} handlers at once"), reached)
            .await
            .expect("the sender is ours");
    }
}

#[tokio::test]
async fn concurrency_is_raised_and_lowered_under_load_and_no_handler_is_cancelled() {
    let vhost = vhost().await;
    let changes = "[consumers.q]\nconcurrency = 2\nprefetch = 20";
    let consumer = consumer(&vhost, "q").with(changes);
    let (gauge, turnstile) = (Gauge::default(), Arc::new(Semaphore::new(0)));
    let (counted, passing) = (gauge.clone(), Arc::clone(&turnstile));
    let handler = move || {
        let (gauge, turnstile) = (counted.clone(), Arc::clone(&passing));
        async move {
            gauge.enter();
            turnstile.acquire().await.expect("never closed").forget();
            gauge.leave();
        }
    };
    let worker = consumer.start_with(handler).await;
    vhost.publish_many("q", 100, |_| PublishSpec::of("x")).await;
    gauge.wait_for(2).await;

    let set = |count| worker.handle.set_concurrency("q", count);
    assert_eq!(set(6), Ok(()));
    gauge.wait_for(6).await;
    assert_eq!(set(3), Ok(()));
    // Three of the six handlers end, and no other starts. After that each end makes room for one.
    turnstile.add_permits(3);
    gauge.wait_for(3).await;
    gauge.peak.store(0, Ordering::SeqCst);
    turnstile.add_permits(40);
    let some = |report: &lapwing::ConsumerReport| report.ledger.acked == 43;
    worker.wait_for_report("43 are done", "q", some).await;
    gauge.wait_for(3).await;
    assert_eq!(gauge.peak.load(Ordering::SeqCst), 3);
    assert_eq!(set(5), Ok(()));
    gauge.wait_for(5).await;
    assert_eq!(worker.report("q").await.running, 5);

    for wrong in [0, 21] {
        let prefetch = 20;
        assert_eq!(set(wrong), Err(ConcurrencyError::OutOfRange { prefetch }));
    }
    let nowhere = worker.handle.set_concurrency("other", 1);
    assert_eq!(nowhere, Err(ConcurrencyError::NoSuchConsumer));
    turnstile.add_permits(100);
    let report = worker.drain().await;
    let ledger = report.ledger();
    assert_eq!(
        ledger.received,
        ledger.acked + ledger.returned,
        "{ledger:?}"
    );
    assert_eq!(report.consumers["q"].counts.interrupted, 0);
}

#[tokio::test]
async fn a_consumer_with_10_000_messages_in_flight_lists_them_quickly() {
    const N: usize = 10_000;
    let vhost = vhost().await;
    // A queue of RabbitMQ 3.10 needs seconds for thousands of single acks.
    let changes = "[admin]\nlisten = '127.0.0.1:0'\n[drain]\nsettle = '1m'\n[timeouts]\ndeclare = '1m'\n\
                   [consumers.q]\nconcurrency = 5000\nprefetch = 10000\nqueue_type = 'classic'";
    let settings = consumer(&vhost, "q").with(changes).settings();
    let (gate, notes) = (Gate::default(), Notes::default());
    let worker = Worker::new(settings.clone()).handler("q", gated(&notes, &gate));
    let (worker, admin) = start_both(settings, worker).await;
    vhost.publish_many("q", N, |_| PublishSpec::of("x")).await;
    let all = |report: &lapwing::ConsumerReport| report.in_flight == N;
    worker.wait_for_report("all are in flight", "q", all).await;

    for (consumer, offset) in [("&consumer=q", 0), ("&consumer=q", 9_000), ("", 9_000)] {
        let path = format!("/api/v1/in-flight?limit=1000&offset={offset}{consumer}");
        let began = Instant::now();
        let page = admin.read(&path).await;
        let took = began.elapsed();
        assert_eq!(page["total"], N);
        let messages = page["messages"].as_array().expect("it is a list");
        assert_eq!(messages.len(), 1000);
        assert_eq!(messages[999]["id"], format!("q-{:05}", offset + 999));
        // A release build takes a few milliseconds.
        assert!(took < BUSY, "{took:?}");
        eprintln!("{path}: {took:?}");
    }
    gate.open();
    worker.drain().await;
}

#[tokio::test]
async fn outcomes_of_failures_are_kept_with_what_followed() {
    let vhost = vhost().await;
    let changes = "[consumers.q.retry]\nbase = '10ms'\nmax_attempts = 2\njitter = 0.0";
    let consumer = consumer(&vhost, "q").with(changes);
    let handler = async || Err::<(), _>(Failure::retryable("http", "broken").status(503));
    let worker = consumer.start_with(handler).await;
    vhost.publish_many("q", 1, |_| PublishSpec::of("x")).await;

    let look = async || worker.handle.outcomes(None, None, 10);
    let kept = wait_until("both attempts are kept", DEADLINE, look, |kept| {
        kept.len() == 2
    })
    .await;

    let [last, first] = [&kept[0], &kept[1]];
    assert_eq!((first.attempt, last.attempt), (1, 2));
    assert_eq!(first.settlement, SettlementKind::Retry);
    assert_eq!(first.retry, Some(Duration::from_millis(10)));
    assert_eq!(last.settlement, SettlementKind::DeadLetter);
    assert_eq!(last.reason, Some("max-attempts"));
    for outcome in [first, last] {
        assert_eq!(outcome.kind, OutcomeKind::Failed);
        assert_eq!(outcome.id.as_deref(), Some("q-00000"));
        assert_eq!(outcome.class.as_deref(), Some("http"));
        assert_eq!(outcome.status, Some(503));
        assert_eq!(outcome.error.as_deref(), Some("broken"));
        assert!(outcome.handling.is_some());
    }
    assert_eq!(worker.handle.outcomes(Some("other"), None, 10), []);
    worker.drain().await;
}
