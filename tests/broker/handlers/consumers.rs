//! Several consumers in a worker: they have their own limits, can be paused, and share state.

use lapwing::state::StateHandle;
use lapwing::{ConsumerState, Context, Failure, Readiness};
use serde_json::json;

use crate::support::{
    DEADLINE, Gate, HandlerRun, Meter, Notes, Proxy, PublishSpec, QueueType, RunningWorker,
    consumers, vhost, within,
};

/// A handler whose runs are counted, and held back at a gate.
fn gated(
    notes: &Notes,
    meter: &Meter,
    gate: &Gate,
) -> impl Fn(Context) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Clone + use<> {
    let (notes, meter, gate) = (notes.clone(), meter.clone(), gate.clone());
    move |context| {
        let (meter, gate) = (meter.clone(), gate.clone());
        notes.note(&context);
        Box::pin(async move {
            let _inside = meter.enter();
            gate.passed().await;
        })
    }
}

#[tokio::test]
async fn each_consumer_keeps_its_own_concurrency_and_prefetch() {
    let vhost = vhost().await;
    let consumers = consumers(&vhost, &["wide", "narrow", "single"]).with(
        "[consumers.wide]\nconcurrency = 7\nprefetch = 11\n\
         [consumers.narrow]\nconcurrency = 2\nprefetch = 9\nqueue_type = 'classic'\n\
         [consumers.single]\nconcurrency = 1\nprefetch = 1",
    );
    let limits = [("wide", 7, 11), ("narrow", 2, 9), ("single", 1, 1)];
    let gate = Gate::default();
    let (notes, meters) = (Notes::default(), [(); 3].map(|()| Meter::default()));
    let mut worker = consumers.worker();
    for ((consumer, ..), meter) in limits.iter().zip(&meters) {
        worker = worker.handler(consumer, gated(&notes, meter, &gate));
    }
    let worker = RunningWorker::start(worker).await;
    for (consumer, ..) in limits {
        vhost
            .publish_many(consumer, 40, |_| PublishSpec::of("x"))
            .await;
    }

    for (consumer, concurrency, prefetch) in limits {
        vhost
            .wait_for_counts(consumer, 40 - prefetch, prefetch, DEADLINE)
            .await;
        let full = |runs: &[HandlerRun]| {
            runs.iter()
                .filter(|run| run.id.starts_with(consumer))
                .count()
                >= concurrency
        };
        notes.wait_until(&format!("{consumer} is full"), full).await;
    }
    gate.open();
    notes.wait_for(120).await;

    let report = worker.drain().await;
    for ((consumer, concurrency, _), meter) in limits.into_iter().zip(&meters) {
        assert_eq!(meter.peak(), concurrency, "{consumer}");
        assert_eq!(report.consumers[consumer].ledger.acked, 40);
    }
}

#[tokio::test]
async fn a_paused_consumer_finishes_what_runs_gives_the_rest_back_and_resumes() {
    let vhost = vhost().await;
    let consumers =
        consumers(&vhost, &["q", "other"]).with("[consumers.q]\nconcurrency = 2\nprefetch = 10");
    let (gate, notes, meter) = (Gate::default(), Notes::default(), Meter::default());
    let handler = gated(&notes, &meter, &gate);
    let other = Notes::default();
    let noting = other.clone();
    let worker =
        consumers
            .worker()
            .handler("q", handler)
            .handler("other", move |context: Context| {
                noting.note(&context);
                async {}
            });
    let mut worker = RunningWorker::start(worker).await;
    vhost.publish_many("q", 10, |_| PublishSpec::of("x")).await;
    vhost.wait_for_counts("q", 0, 10, DEADLINE).await;
    notes.wait_for(2).await;

    worker
        .handle
        .pause("q")
        .await
        .expect("the consumer answers");

    // Messages that had not started are back in the queue; running ones are still held.
    vhost.wait_for_counts("q", 8, 2, DEADLINE).await;
    let readiness = worker.handle.readiness();
    assert_eq!(readiness.consumers["q"].state, ConsumerState::Paused);
    assert!(readiness.ready, "{readiness:?}");
    gate.open();
    vhost.wait_for_counts("q", 8, 0, DEADLINE).await;
    // Not before: a quorum queue counts a cancelled consumer while the consumer has unacked
    // messages.
    vhost.wait_for_consumers("q", 0, DEADLINE).await;
    // The other consumer goes on.
    vhost.publish("other", "x").await;
    other.wait_for(1).await;
    vhost
        .publish_many("q", 5, |index| {
            PublishSpec::of("x").id(&format!("late-{index}"))
        })
        .await;
    assert_eq!(notes.runs().len(), 2, "nothing starts in a paused consumer");
    worker
        .handle
        .pause("q")
        .await
        .expect("pausing twice is fine");

    gate.close();
    worker
        .handle
        .resume("q")
        .await
        .expect("the consumer answers");
    notes.wait_for(4).await;
    // Again, with messages that run during the pause: the worker settles them on their own channel.
    worker
        .handle
        .pause("q")
        .await
        .expect("the consumer answers");
    vhost.wait_for_counts("q", 11, 2, DEADLINE).await;
    worker
        .handle
        .resume("q")
        .await
        .expect("the consumer answers");
    let consuming =
        |readiness: &Readiness| readiness.consumers["q"].state == ConsumerState::Consuming;
    within("the resumed consumer", worker.handle.until(consuming)).await;
    gate.open();
    let all = |consumer: &lapwing::ConsumerReport| consumer.ledger.acked == 15;
    worker.wait_for_report("all are done", "q", all).await;

    assert_eq!(notes.runs().len(), 15, "each ran once");
    let report = worker.drain().await.consumers["q"].clone();
    assert_eq!(
        report.counts.sessions, 3,
        "one, and one for each time it resumed"
    );
    let ledger = report.ledger;
    assert_eq!(
        (ledger.received, ledger.acked),
        (15 + ledger.returned, 15),
        "{ledger:?}"
    );
    assert_eq!((ledger.stale, ledger.duplicates), (0, 0), "{ledger:?}");
    assert!(ledger.returned >= 8 + 8, "{ledger:?}");
    assert_eq!(meter.peak(), 2);
    vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
}

#[tokio::test]
async fn a_consumer_that_is_paused_while_it_connects_takes_nothing_until_it_is_resumed() {
    let vhost = vhost().await;
    vhost.declare("q", QueueType::Quorum).await;
    vhost.declare_beside("q").await;
    let proxy = Proxy::to(&vhost).await;
    // This consumer subscribes long before the other one has declared its queues.
    let changes = format!(
        "broker.url = '{}'\nconsumers.q = {{ topology = 'none', retry.cap = '1s' }}",
        proxy.url(&vhost)
    );
    let consumers = consumers(&vhost, &["q", "other"]).with(&changes);
    let notes = Notes::default();
    let noting = notes.clone();
    let handler = move |context: Context| {
        noting.note(&context);
        async {}
    };
    vhost.publish("q", "x").await;
    proxy.stall();
    let worker = consumers.worker().handler("q", handler);
    let mut worker = RunningWorker::begin(worker.handler("other", async || {}));
    proxy.wait_for_accepted(2).await;
    // No event shows that the consumer waits for its connection. It does so after one turn of its
    // loop.
    for _ in 0..100 {
        let asked = worker.handle.in_flight(Some("q"), 0, 0);
        asked.await.expect("the consumer answers");
    }

    worker
        .handle
        .pause("q")
        .await
        .expect("the consumer answers");
    proxy.resume();
    let consuming = |consumer: &'static str| {
        move |readiness: &Readiness| readiness.consumers[consumer].state == ConsumerState::Consuming
    };
    within(
        "the other consumer",
        worker.handle.until(consuming("other")),
    )
    .await;

    let readiness = worker.handle.readiness();
    assert_eq!(readiness.consumers["q"].state, ConsumerState::Paused);
    assert!(readiness.ready, "{readiness:?}");
    vhost.wait_for_counts("q", 1, 0, DEADLINE).await;
    vhost.wait_for_consumers("q", 0, DEADLINE).await;
    assert_eq!(notes.runs().len(), 0);

    worker
        .handle
        .resume("q")
        .await
        .expect("the consumer answers");
    within("the resumed consumer", worker.handle.until(consuming("q"))).await;
    notes.wait_for(1).await;
    let ledger = worker.drain().await.consumers["q"].ledger;
    assert_eq!(ledger.acked, 1, "{ledger:?}");
}

#[tokio::test]
async fn handlers_of_two_consumers_share_the_state_actor() {
    let vhost = vhost().await;
    let consumers = consumers(&vhost, &["a", "b"]);
    let count = |context: Context, state: StateHandle| async move {
        state.increment("total", 1).await?;
        state.increment(context.consumer(), 1).await?;
        let seen = json!(context.message().id());
        let append = move |list: Option<serde_json::Value>| {
            let mut list = list.unwrap_or_else(|| json!([]));
            list.as_array_mut()?.push(seen);
            Some(list)
        };
        state.update("ids", append).await?;
        Ok::<_, Failure>(())
    };
    let report = |context: Context, state: StateHandle| async move {
        // The first message that asks removes the value.
        let all = state.snapshot().await?;
        let asked = context.message().id().unwrap_or_default().to_owned();
        state.set(asked, json!(all.len()), None).await?;
        let first = state
            .compare_and_set("asked", None, Some(json!(true)))
            .await?
            .is_ok();
        match (
            first,
            all["total"].as_i64(),
            all["a"].as_i64(),
            all["b"].as_i64(),
        ) {
            (true, Some(200), Some(100), Some(100)) => Ok(()),
            other => Err(Failure::permanent("state", format!("{other:?}"))),
        }
    };
    let worker = consumers
        .worker()
        .handler("a", count)
        .handler("b", count)
        .handler_for_route("b", "report", report);
    let worker = RunningWorker::start(worker).await;
    for consumer in ["a", "b"] {
        vhost
            .publish_many(consumer, 100, |_| PublishSpec::of("x"))
            .await;
    }
    for consumer in ["a", "b"] {
        let done = |report: &lapwing::ConsumerReport| report.ledger.acked == 100;
        worker
            .wait_for_report("all are counted", consumer, done)
            .await;
    }

    for (id, received) in [("first", 101), ("second", 102)] {
        let spec = PublishSpec::to("b").id(id);
        let spec = spec.with(|properties| properties.with_type("report".into()));
        vhost.publish_with(spec).await;
        let done = |report: &lapwing::ConsumerReport| {
            report.ledger.received == received && report.ledger.open() == 0
        };
        worker.wait_for_report("it has reported", "b", done).await;
    }

    let ledger = worker.drain().await.consumers["b"].ledger;
    assert_eq!((ledger.acked, ledger.dead_lettered), (101, 1), "{ledger:?}");
    let dead = super::dead_letter(&vhost, "b").await;
    assert_eq!(dead.id(), "second");
    let error = dead.header("lapwing-error").as_str().expect("it is text");
    assert_eq!(error, "(false, Some(200), Some(100), Some(100))");
}
