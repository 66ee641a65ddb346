//! Metrics: exactly the instruments of the catalogue, with few attribute values.

use std::collections::BTreeSet;

use lapwing::telemetry::catalogue::{INSTRUMENTS, Kind};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;

use super::Setup;
use crate::support::{DEADLINE, PublishSpec, Received, Reply};

/// A message that succeeds, one that is parked and then succeeds, and one that cannot.
async fn three_messages() -> Setup {
    let setup = Setup::new(
        "[consumers.q]\nbacklog_check = '1s'\n[consumers.q.retry]\nbase = '1s'\njitter = 0",
        |request| match (request.message_id(), request.attempt()) {
            ("late", 1) => Reply::status(500),
            ("never", _) => Reply::status(400),
            _ => Reply::ok(),
        },
    )
    .await;
    for id in ["at-once", "late", "never"] {
        setup.publish(&["--message-id", id, "{}"]).await;
    }
    setup.server.wait_for_answered(4, DEADLINE).await;
    setup
}

#[tokio::test]
async fn what_is_exported_is_what_the_catalogue_says() {
    let mut setup = three_messages().await;
    // After six counts of its queue the worker knows whether it grows.
    let counted = |received: &Received| received.metrics.contains_key("lapwing.consumer.at_limit");
    let counting = setup
        .collector
        .wait_for("the queues are counted", DEADLINE, counted);
    counting.await;
    setup.worker.drain(DEADLINE).await;
    let drained = |received: &Received| received.metrics.contains_key("lapwing.drain.duration");
    let seen = setup
        .collector
        .wait_for("the last metrics", DEADLINE, drained);
    let seen = seen.await;

    let exported: BTreeSet<_> = seen.metrics.keys().map(String::as_str).collect();
    // This consumer makes no batches.
    let catalogued = || INSTRUMENTS.iter().filter(|one| one.kind != Kind::Sizes);
    let names: BTreeSet<_> = catalogued().map(|one| one.name).collect();
    assert_eq!(exported, names);
    for instrument in catalogued() {
        let metric = &seen.metrics[instrument.name];
        assert_eq!(metric.unit, instrument.unit, "{}", instrument.name);
        assert_eq!(metric.description, instrument.meaning);
        let kind = match metric.data {
            Some(Data::Sum(ref sum)) if sum.is_monotonic => Kind::Counter,
            Some(Data::Gauge(_)) => Kind::Gauge,
            Some(Data::Histogram(_)) => Kind::Histogram,
            ref other => panic!("{}: {other:?}", instrument.name),
        };
        assert_eq!(kind, instrument.kind, "{}", instrument.name);
        for (attributes, _) in seen.points(instrument.name) {
            for name in attributes.keys() {
                let known = instrument.attributes.contains(&name.as_str());
                assert!(known, "{}: {name}", instrument.name);
            }
        }
    }
}

#[tokio::test]
async fn the_numbers_are_those_of_the_ledger() {
    let mut setup = three_messages().await;
    let ledger = setup.worker.drain(DEADLINE).await;
    let drained = |received: &Received| received.metrics.contains_key("lapwing.drain.duration");
    let seen = setup
        .collector
        .wait_for("the last metrics", DEADLINE, drained);
    let seen = seen.await;

    assert_eq!((ledger.received, ledger.acked), (4, 2));
    let settled = |end| seen.sum("lapwing.deliveries.settled", "end", end);
    let ends = ["acked", "parked", "dead_lettered", "returned", "stale"].map(settled);
    assert_eq!(ends, [2.0, 1.0, 1.0, 0.0, 0.0]);
    let in_consumer = |metric| seen.sum(metric, "consumer", "q");
    assert_eq!(in_consumer("messaging.client.consumed.messages"), 4.0);
    assert_eq!(in_consumer("messaging.process.duration"), 4.0);
    assert_eq!(
        in_consumer("lapwing.message.latency"),
        2.0,
        "those that were handled"
    );
    assert_eq!(in_consumer("lapwing.deliveries.in_flight"), 0.0);
    assert_eq!(in_consumer("lapwing.sessions"), 1.0);
    let attempts = |outcome| seen.sum("lapwing.attempts", "outcome", outcome);
    assert_eq!(
        ["succeeded", "failed", "panicked"].map(attempts),
        [2.0, 2.0, 0.0]
    );
    let failed = |status| seen.sum("messaging.process.duration", "error.type", status);
    assert_eq!(["500", "400"].map(failed), [1.0, 1.0]);
    let parked = seen.sum("lapwing.retries.parked", "retry_queue", "q.retry.1s");
    assert_eq!(parked, 1.0);
    let dead = seen.sum("lapwing.dead_letters", "reason", "rejected");
    assert_eq!(dead, 1.0);
    let sent = |to| {
        seen.sum(
            "messaging.client.sent.messages",
            "messaging.destination.name",
            to,
        )
    };
    assert_eq!([sent("q.retry.1s"), sent("q.dead")], [1.0, 1.0]);
    let stopped = seen.sum("lapwing.consumer.state", "state", "stopped");
    assert_eq!(stopped, 1.0);
    let connections = seen.sum("lapwing.connections", "connection", "consume");
    assert_eq!(connections, 1.0);
}

#[tokio::test]
async fn attributes_have_few_values_whatever_is_published() {
    const MANY: usize = 200;
    let mut setup = Setup::new(
        "[consumers.q]\nbindings = [{ exchange = 'amq.topic', routing_key = '#' }]\n\
         retry.cap = '10m'",
        |_| Reply::ok(),
    )
    .await;
    for n in 0..MANY {
        let mut spec = PublishSpec::to(&format!("key-{n}"))
            .id(&format!("id-{n}"))
            .header("tenant", format!("tenant-{n}").as_str())
            .with(|properties| {
                let app = format!("app-{n}");
                properties
                    .with_type(format!("type-{n}").into())
                    .with_app_id(app.into())
            });
        spec.exchange = "amq.topic".to_owned();
        setup.vhost.publish_with(spec).await;
    }
    setup.server.wait_for_answered(MANY, DEADLINE).await;
    setup.worker.drain(DEADLINE).await;
    let drained = |received: &Received| received.metrics.contains_key("lapwing.drain.duration");
    let seen = setup
        .collector
        .wait_for("the last metrics", DEADLINE, drained);
    let seen = seen.await;

    let settled = seen.sum("lapwing.deliveries.settled", "end", "acked");
    assert_eq!(settled, 200.0, "all were measured");
    for name in seen.metrics.keys() {
        let points = seen.points(name);
        assert!(points.len() <= 12, "{name}: {} points", points.len());
        let values = points
            .iter()
            .flat_map(|(attributes, _)| attributes.values());
        for value in values {
            let varies = ["id-", "key-", "type-", "tenant-", "app-"];
            let found = varies.iter().any(|prefix| value.starts_with(prefix));
            assert!(!found, "{name}: {value}");
        }
    }
}
