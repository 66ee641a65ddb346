//! The time of a retry: never early and not much too late, in the worker or parked at the broker.

use std::collections::HashMap;
use std::time::Duration;

use lapwing::{Context, Failure, Outcome, OutcomeKind};

use crate::support::{
    Broker, Counts, DEADLINE, Gate, HandlerRun, Notes, PublishSpec, QueueType, RunningWorker,
    consumer, consumers, ms, require, vhost, wait_until,
};

/// The time that a due message may wait for a core, beyond the promise of the retry queues.
const SLACK: Duration = Duration::from_secs(3);

/// Fails a message's first run with a retry after `delay` of its attempt, then succeeds.
async fn fail_once(notes: &Notes, context: &Context, delay: Duration) -> Result<(), Failure> {
    match notes.note(context) {
        1 => Err(Failure::retryable("busy", "not yet").retry_after(delay)),
        _ => Ok(()),
    }
}

/// The time between the first two runs.
fn gap(runs: &[HandlerRun]) -> Duration {
    runs[1].at.duration_since(runs[0].at)
}

/// The delay a test message asks for in its body, in milliseconds.
fn asked(context: &Context) -> Duration {
    let text = std::str::from_utf8(context.message().body()).expect("the test wrote it");
    ms(text.parse().expect("the test wrote a number"))
}

#[tokio::test]
async fn load_of_a_thousand_mixed_delays_on_each_queue_type_is_neither_early_nor_twice_late() {
    const MESSAGES: usize = 1000;
    let delay_of = |index: usize| 1000 + 7 * index as u64; // 1.000 s to 7.993 s
    let vhost = vhost().await;
    let consumers = consumers(&vhost, &["quorum", "classic"]).with(
        "[consumers.quorum]\nprefetch = 200\nretry.cap = '8s'\n\
         [consumers.classic]\nprefetch = 200\nretry.cap = '8s'\nqueue_type = 'classic'",
    );
    let notes = Notes::default();
    let noting = notes.clone();
    let handler = move |context: Context| {
        let notes = noting.clone();
        async move { fail_once(&notes, &context, asked(&context)).await }
    };
    let worker = consumers
        .worker()
        .handler("quorum", handler.clone())
        .handler("classic", handler);
    let worker = RunningWorker::start(worker).await;

    for queue in ["quorum", "classic"] {
        // Mixes long and short delays: 617 has no factor in common with 1000.
        let make = |index| PublishSpec::of(delay_of(index * 617 % MESSAGES).to_string());
        vhost.publish_many(queue, MESSAGES, make).await;
    }
    let runs = notes.wait_for(4 * MESSAGES).await;

    let mut by_id: HashMap<&str, Vec<HandlerRun>> = HashMap::new();
    for run in &runs {
        by_id.entry(&run.id).or_default().push(run.clone());
    }
    for queue in ["quorum", "classic"] {
        let mut latest: f64 = 0.0;
        for index in 0..MESSAGES {
            let delay = ms(delay_of(index * 617 % MESSAGES));
            let runs = &by_id[format!("{queue}-{index:05}").as_str()];
            let waited = gap(runs);
            assert_eq!((runs.len(), runs[1].attempt), (2, 2), "{runs:?}");
            assert!(
                waited >= delay,
                "{queue}: asked {delay:?}, came after {waited:?}"
            );
            assert!(
                waited < 2 * delay + SLACK,
                "{queue}: asked {delay:?}, came after {waited:?}"
            );
            latest = latest.max(waited.as_secs_f64() / delay.as_secs_f64());
        }
        println!("{queue}: the latest came after {latest:.2} times its delay");
    }
    let report = worker.drain().await;
    for queue in ["quorum", "classic"] {
        let ledger = report.consumers[queue].ledger;
        assert_eq!((ledger.parked, ledger.acked), (1000, 1000), "{ledger:?}");
    }
}

#[tokio::test]
async fn a_short_delay_waits_in_the_worker_and_holds_no_handler_slot() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with("[consumers.q]\nconcurrency = 1");
    let (notes, both) = (Notes::default(), Gate::default());
    let (noting, gate) = (notes.clone(), both.clone());
    let handler = move |context: Context| {
        let (notes, gate) = (noting.clone(), gate.clone());
        async move {
            gate.passed().await;
            match context.message().id() {
                Some("first") => fail_once(&notes, &context, ms(800)).await,
                _ => {
                    notes.note(&context);
                    Ok(())
                }
            }
        }
    };
    let worker = consumer.start_with(handler).await;
    for id in ["first", "second"] {
        vhost.publish_with(PublishSpec::to("q").id(id)).await;
    }
    vhost.wait_for_counts("q", 0, 2, DEADLINE).await;
    both.open();

    let runs = notes.wait_for(3).await;

    let order: Vec<_> = runs
        .iter()
        .map(|run| (run.id.as_str(), run.attempt))
        .collect();
    assert_eq!(order, [("first", 1), ("second", 1), ("first", 2)]);
    let waited = gap(&notes.of("first"));
    assert!(waited >= ms(800) && waited < ms(800) + SLACK, "{waited:?}");
    let report = worker.drain().await.consumers["q"].clone();
    assert_eq!((report.counts.inline_retries, report.ledger.parked), (1, 0));
    assert_eq!((report.ledger.received, report.ledger.acked), (2, 2));
}

#[tokio::test]
async fn more_short_delays_than_half_the_prefetch_are_parked() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with("[consumers.q]\nprefetch = 8\nconcurrency = 8");
    let (notes, all) = (Notes::default(), Gate::default());
    let (noting, gate) = (notes.clone(), all.clone());
    let handler = move |context: Context| {
        let (notes, gate) = (noting.clone(), gate.clone());
        async move {
            gate.passed().await;
            fail_once(&notes, &context, ms(900)).await
        }
    };
    let worker = consumer.start_with(handler).await;
    let ids = vhost.publish_many("q", 8, |_| PublishSpec::of("x")).await;
    vhost.wait_for_counts("q", 0, 8, DEADLINE).await;
    all.open();

    notes.wait_for(16).await;

    for id in ids {
        let runs = notes.of(&id);
        assert!(runs.len() == 2 && gap(&runs) >= ms(900), "{runs:?}");
    }
    let report = worker.drain().await.consumers["q"].clone();
    assert_eq!((report.counts.inline_retries, report.ledger.parked), (4, 4));
    assert_eq!((report.ledger.received, report.ledger.acked), (12, 8));
}

#[tokio::test]
async fn a_delay_beyond_the_longest_rung_takes_several_hops_that_no_handler_sees() {
    let vhost = vhost().await;
    let consumers = consumers(&vhost, &["quorum", "classic"]).with(
        "[consumers.quorum.retry]\ncap = '2s'\nmax_attempts = 1\n\
         [consumers.classic]\nqueue_type = 'classic'\nretry = { cap = '2s', max_attempts = 1 }",
    );
    let delay = ms(5300);
    let notes = Notes::default();
    let noting = notes.clone();
    let handler = move |context: Context| {
        let notes = noting.clone();
        async move {
            match notes.note(&context) {
                1 => Outcome::snooze(delay),
                _ => Outcome::Succeeded,
            }
        }
    };
    let worker = consumers
        .worker()
        .handler("quorum", handler.clone())
        .handler("classic", handler);
    let worker = RunningWorker::start(worker).await;
    for queue in QueueType::ALL.map(QueueType::name) {
        vhost.publish_with(PublishSpec::to(queue).id(queue)).await;
    }

    notes.wait_for(4).await;

    let report = worker.drain().await;
    for queue in QueueType::ALL.map(QueueType::name) {
        let runs = notes.of(queue);
        let waited = gap(&runs);
        assert!(
            waited >= delay && waited < delay + ms(2000) + SLACK,
            "{waited:?}"
        );
        // A snooze does not count as an attempt: a second attempt would be one too many here.
        assert_eq!([runs[0].attempt, runs[1].attempt], [1, 1]);
        let ledger = report.consumers[queue].ledger;
        // 2 s, 2 s and the rest. On a busy machine two hops may last until the rest is a short wait.
        assert!((2..=3).contains(&ledger.parked), "{ledger:?}");
        assert_eq!(ledger.acked, 1, "{ledger:?}");
        assert_eq!(ledger.dead_lettered, 0);
    }
}

#[tokio::test]
async fn a_short_snooze_waits_in_the_worker_and_is_no_attempt() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with("[consumers.q.retry]\nmax_attempts = 1");
    let notes = Notes::default();
    let noting = notes.clone();
    let handler = move |context: Context| {
        let notes = noting.clone();
        async move {
            match notes.note(&context) {
                1..=3 => Outcome::snooze(ms(100)),
                _ => Outcome::Succeeded,
            }
        }
    };
    let worker = consumer.start_with(handler).await;
    let id = vhost.publish("q", "x").await;

    notes.wait_for(4).await;

    let runs = notes.of(&id);
    assert!(runs.iter().all(|run| run.attempt == 1), "{runs:?}");
    assert!(runs.windows(2).all(|runs| gap(runs) >= ms(100)), "{runs:?}");
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.received, ledger.acked), (1, 1), "{ledger:?}");
}

#[tokio::test]
async fn a_snooze_for_ever_is_parked_and_stays_parked() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with("[consumers.q.retry]\ncap = '1s'");
    let notes = Notes::default();
    let noting = notes.clone();
    let handler = move |context: Context| {
        noting.note(&context);
        async { Outcome::snooze(Duration::MAX) }
    };
    let worker = consumer.start_with(handler).await;
    let id = vhost.publish("q", "x").await;

    let parked = |consumer: &lapwing::ConsumerReport| consumer.ledger.parked >= 2;
    worker
        .wait_for_report("it was parked twice", "q", parked)
        .await;

    worker.drain().await;
    assert_eq!(notes.of(&id).len(), 1);
    let mut left = vhost.drain_all("q").await;
    left.extend(vhost.drain_all("q.retry.1s").await);
    left.extend(vhost.drain_all("q").await);
    assert_eq!(left.iter().map(|got| got.id()).collect::<Vec<_>>(), [id]);
}

#[tokio::test]
async fn a_message_that_fails_when_it_is_too_old_is_dead_lettered() {
    let vhost = vhost().await;
    let consumers = consumers(&vhost, &["inline", "parked"]).with(
        "[consumers.inline.retry]\nmax_age = '300ms'\nmax_attempts = 1000\n\
         [consumers.parked.retry]\nmax_age = '900ms'\nmax_attempts = 1000",
    );
    let notes = Notes::default();
    let always_after = |delay| {
        let notes = notes.clone();
        move |context: Context| {
            notes.note(&context);
            async move { Err::<(), _>(Failure::retryable("busy", "no").retry_after(delay)) }
        }
    };
    let worker = consumers
        .worker()
        .handler("inline", always_after(ms(140)))
        .handler("parked", always_after(ms(1000)));
    let worker = RunningWorker::start(worker).await;
    for queue in ["inline", "parked"] {
        vhost.publish_with(PublishSpec::to(queue).id(queue)).await;
    }

    // The age counts from the first delivery, and continues while the message is parked. The last
    // failure is the first one beyond the age: on an idle machine the fourth, after 420 ms, and the
    // second.
    for (queue, max_age) in [("inline", ms(300)), ("parked", ms(900))] {
        let dead_queue = format!("{queue}.dead");
        vhost.wait_for_counts(&dead_queue, 1, 0, DEADLINE).await;
        let dead = vhost.drain_all(&dead_queue).await.pop().expect("counted");
        assert_eq!(dead.header("lapwing-reason"), "max-age");
        let runs = notes.of(queue);
        let attempts = dead.header("lapwing-attempts");
        assert_eq!(attempts, &serde_json::json!(runs.len()));
        let [.., before, last] = &runs[..] else {
            panic!("{runs:?}");
        };
        let first = &runs[0];
        // The first delivery is a little before the first run, the decision a little after the
        // last.
        let slack = ms(150);
        assert!(
            last.at.duration_since(first.at) + slack >= max_age,
            "{runs:?}"
        );
        assert!(before.at.duration_since(first.at) < max_age, "{runs:?}");
    }
    worker.drain().await;
}

#[tokio::test]
async fn a_message_that_failed_as_often_as_it_may_is_dead_lettered_with_its_story() {
    let vhost = vhost().await;
    let changes = "[consumers.q.retry]\nbase = '10ms'\nfactor = 1\nmax_attempts = 4";
    let consumer = consumer(&vhost, "q").with(changes);
    let notes = Notes::default();
    let noting = notes.clone();
    let handler = move |context: Context| {
        // In the worker, at the broker, in the worker again.
        let delay = [ms(50), ms(1000), ms(50), ms(50)][noting.note(&context) - 1];
        let text = format!("failure {}", context.attempt());
        async move { Err::<(), _>(Failure::retryable("busy", text).retry_after(delay)) }
    };
    let worker = consumer.start_with(handler).await;
    let id = vhost.publish("q", "as it was").await;

    vhost.wait_for_counts("q.dead", 1, 0, DEADLINE).await;

    let ledger = worker.drain().await.ledger();
    assert_eq!(
        (ledger.received, ledger.parked, ledger.dead_lettered),
        (2, 1, 1)
    );
    let attempts: Vec<_> = notes.of(&id).iter().map(|run| run.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
    let dead = vhost.drain_all("q.dead").await.pop().expect("counted");
    assert_eq!((dead.id(), dead.text()), (id.as_str(), "as it was"));
    assert_eq!(dead.header("lapwing-reason"), "max-attempts");
    assert_eq!(dead.header("lapwing-error"), "failure 4");
    assert_eq!(dead.header("lapwing-error-kind"), "busy");
    assert_eq!(dead.header("lapwing-attempts"), 4);
    let history = dead.header("lapwing-history").as_str().expect("it is text");
    let history: Vec<serde_json::Value> = serde_json::from_str(history).expect("it is JSON");
    let told: Vec<_> = history.iter().map(|past| past["error"].as_str()).collect();
    let expected = ["failure 1", "failure 2", "failure 3", "failure 4"];
    assert_eq!(told, expected.map(Some));
}

#[tokio::test]
async fn backoff_is_scattered_within_its_jitter() {
    const MESSAGES: usize = 30;
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with("[consumers.q.retry]\nbase = '600ms'\njitter = 0.5");
    let notes = Notes::default();
    let noting = notes.clone();
    let handler = move |context: Context| {
        let first = noting.note(&context) == 1;
        async move {
            match first {
                true => Err(Failure::retryable("busy", "not yet")),
                false => Ok(()),
            }
        }
    };
    let worker = consumer.start_with(handler).await;
    let ids = vhost
        .publish_many("q", MESSAGES, |_| PublishSpec::of("x"))
        .await;

    notes.wait_for(2 * MESSAGES).await;

    let failed = worker
        .handle
        .outcomes(Some("q"), Some(OutcomeKind::Failed), MESSAGES);
    let delay = |id: &String| {
        let failed = failed.iter().find(|kept| kept.id.as_ref() == Some(id));
        failed.expect("it is kept").retry.expect("it is retried")
    };
    let mut delays: Vec<_> = ids.iter().map(delay).collect();
    for (id, delay) in ids.iter().zip(&delays) {
        let waited = gap(&notes.of(id));
        assert!(waited >= *delay, "{id}: {waited:?} of {delay:?}");
        assert!(waited < *delay + SLACK, "{id}: {waited:?} of {delay:?}");
    }
    delays.sort();
    let (shortest, longest) = (delays[0], delays[MESSAGES - 1]);
    assert!(shortest >= ms(300) && longest <= ms(600), "{delays:?}");
    // By chance 30 of 30 delays lie within a quarter of the range once in 10^16 tests.
    assert!(longest - shortest > ms(75), "{delays:?}");
    worker.drain().await;
}

/// The retry queue has moved the message when its work queue was missing, and waits for a confirm: 180 s by
/// default, which is longer than this test waits.
#[tokio::test]
async fn own_node_with_a_short_confirm_timeout_moves_soon_what_expired_while_the_work_queue_was_away()
 {
    let broker = require!(OwnNode, Broker::own("away").await);
    let set = "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 3000).";
    broker.ctl(&["eval", set]).await;
    let vhost = broker.vhost().await;
    let notes = Notes::default();
    let noting = notes.clone();
    let handler = move |context: Context| {
        let notes = noting.clone();
        async move { fail_once(&notes, &context, ms(16_000)).await }
    };
    let consumer = consumer(&vhost, "q");
    let worker = consumer.start_with(handler.clone()).await;
    vhost
        .publish_many("q", 1, |_| PublishSpec::of("{}").id("late"))
        .await;
    vhost.wait_for_counts("q.retry.16s", 1, 0, DEADLINE).await;
    worker.drain().await;

    vhost.delete("q").await;
    let aside = async || vhost.counts("q.retry.16s").await;
    let waits = Counts {
        aside: 1,
        ..Counts::default()
    };
    wait_until("it has expired", 2 * DEADLINE, aside, |seen| *seen == waits).await;
    assert_eq!(vhost.ready("q.retry.16s").await, 0, "AMQP does not show it");

    let worker = consumer.start_with(handler).await;
    let runs = notes.wait_for(2).await;
    assert_eq!(runs[1].attempt, 2);
    worker.drain().await;
}
