//! Log lines and log records carry the id of their trace.

use super::Setup;
use crate::support::{DEADLINE, PublishSpec, Received, Reply, field, log_message};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn lines_of_an_attempt_carry_its_ids_and_are_exported_with_them() {
    let setup = Setup::new("", |_| Reply::status(400)).await;
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let spec = PublishSpec::to("q").header("traceparent", parent.as_str());
    setup.vhost.publish_with(spec).await;
    let line = setup
        .worker
        .wait_for_message("message dead-lettered", DEADLINE)
        .await;
    assert_eq!(field(&line, "trace_id"), TRACE);
    let span = field(&line, "span_id")
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(span.len(), 16, "{line}");

    let is_it = |received: &Received| {
        received.logs.iter().any(|record| {
            let body = format!("{:?}", record.body);
            body.contains("message dead-lettered")
                && hex(&record.trace_id) == TRACE
                && hex(&record.span_id) == span
        })
    };
    setup
        .collector
        .wait_for("the log record with its ids", DEADLINE, is_it)
        .await;
    // Lines that belong to no message have no trace.
    let log = setup.worker.log();
    let consuming = log.iter().find(|line| log_message(line) == "consuming");
    assert!(consuming.expect("it is logged").get("trace_id").is_none());
}

#[tokio::test]
async fn lines_of_text_end_with_the_ids() {
    let collector = crate::support::Collector::grpc().await;
    let setup = Setup::with(
        collector,
        "",
        |_| Reply::status(400),
        |command| {
            command.env("LAPWING__LOG__FORMAT", "text");
        },
    )
    .await;
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let spec = PublishSpec::to("q").header("traceparent", parent.as_str());
    setup.vhost.publish_with(spec).await;
    let dead = |line: &serde_json::Value| {
        line.as_str()
            .is_some_and(|text| text.contains("message dead-lettered"))
    };
    let line = setup.worker.wait_for("the line", DEADLINE, dead).await;
    let text = line.as_str().unwrap_or_default();
    assert!(
        text.contains(&format!(" trace_id={TRACE} span_id=")),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "no colours in a file: {text:?}");
}
