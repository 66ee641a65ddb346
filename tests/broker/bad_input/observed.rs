//! Impossible times and trace contexts, sent to a worker that measures and traces.

use lapin::types::AMQPValue;

use super::Rig;
use crate::support::{
    ADMIN, Admin, DEADLINE, HttpHandler, PublishSpec, Reply, WorkerProcess, consumer, vhost,
};

/// Traces are on, and no collector takes them.
const OBSERVED: &str = "[telemetry]\nendpoint = 'http://127.0.0.1:9'\n";

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// The headers that the worker reads traces and times from, with invalid values.
fn nonsense() -> Vec<(&'static str, AMQPValue)> {
    let span = "b7ad6b7169203331";
    vec![
        ("timestamp_in_ms", AMQPValue::LongLongInt(i64::MAX)),
        ("timestamp_in_ms", AMQPValue::LongLongInt(i64::MIN)),
        ("timestamp_in_ms", AMQPValue::Timestamp(u64::MAX)),
        ("timestamp_in_ms", text("yesterday")),
        ("traceparent", text("")),
        ("traceparent", text("00-\u{e9}-\u{e9}-01")),
        (
            "traceparent",
            text(&format!("00-{}-{span}-01", "0".repeat(32))),
        ),
        ("traceparent", text(&"-".repeat(50_000))),
        ("traceparent", AMQPValue::LongString(vec![0xff; 55].into())),
        ("tracestate", text(&"a=b,".repeat(10_000))),
        ("baggage", text(&"a=b;c=d,".repeat(10_000))),
        ("baggage", text("=,;%zz\0\r\n")),
        ("lapwing-last-attempt", text("00-00-00-00")),
        ("lapwing-last-attempt", AMQPValue::Boolean(true)),
        ("lapwing-parked-at", text("9999-12-31T23:59:59Z")),
        ("lapwing-parked-at", text("0000-00-00T00:00:00Z")),
    ]
}

fn messages() -> Vec<PublishSpec> {
    let good_parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let now = humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string();
    let by_header = nonsense().into_iter().map(|(name, value)| {
        let spec = PublishSpec::to("orders").body("{}");
        // Headers that are only used together with a traceparent are read too.
        let spec = spec.header("traceparent", good_parent);
        let spec = spec.header("lapwing-last-attempt", good_parent);
        // As a worker of the same user writes them: otherwise they are not read.
        let spec = spec.header("lapwing-first-seen", text(&now));
        let spec = spec.with(|properties| properties.with_user_id("guest".into()));
        spec.header(name, value)
    });
    let by_property = [0, 1, u64::MAX / 1000, u64::MAX].into_iter().map(|time| {
        let spec = PublishSpec::to("orders").body("{}");
        spec.with(|properties| properties.with_timestamp(time))
    });
    by_header.chain(by_property).collect()
}

#[tokio::test]
async fn times_and_traces_that_cannot_be_cost_no_message() {
    let vhost = vhost().await;
    let rig = Rig::start_with_admin(vhost, OBSERVED).await;
    let admin = Admin::of(&rig.worker).await;
    for (index, spec) in messages().into_iter().enumerate() {
        rig.vhost.publish_with(spec.id(&index.to_string())).await;
    }

    let count = messages().len();
    let letters = u32::try_from(count).expect("a few");
    rig.vhost
        .wait_for_counts("orders.dead", letters, 0, DEADLINE)
        .await;
    let (status, _) = admin.get("/api/v1/outcomes").await;
    assert_eq!(status, 200, "they can be looked at");
    let fate = rig.all_fail_twice(count).await;

    assert_eq!(fate.all.len(), count);
}

#[tokio::test]
async fn times_that_cannot_be_are_measured_as_far_as_they_can() {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let config = format!("{ADMIN}{OBSERVED}");
    let config = consumer(&vhost, "orders")
        .http(&handler)
        .with(&config)
        .toml();
    let mut worker = WorkerProcess::start_with_admin(&config);
    worker.wait_for_consumers(&vhost, "orders", 1).await;
    let count = messages().len();
    for spec in messages() {
        vhost.publish_with(spec).await;
    }

    handler.wait_for_answered(count, DEADLINE).await;

    let admin = Admin::of(&worker).await;
    let (status, _) = admin.get("/metrics").await;
    assert_eq!(status, 200);
    let ledger = worker.drain(DEADLINE).await;
    let count = count as u64;
    assert_eq!(
        (ledger.received, ledger.acked),
        (count, count),
        "{ledger:?}"
    );
}
