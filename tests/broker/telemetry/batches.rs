//! A call for several messages: its span, and its size.

use serde_json::{Value, json};

use super::{
    Setup,
    traces::{assert_child, attribute, has, hex, links, traceparent},
};
use crate::support::{DEADLINE, PublishSpec, Received, Reply};

#[tokio::test]
async fn a_call_for_several_messages_has_one_span_with_links_to_their_attempts() {
    let setup = Setup::new(
        "[consumers.q.handler]\nbatch = { size = 3, max_wait = '10s' }",
        |request| {
            let messages = request.json();
            let messages = messages.as_array().expect("it is a list");
            let outcome = |it: &Value| json!({ "id": it["id"], "outcome": "succeeded" });
            let outcomes: Vec<_> = messages.iter().map(outcome).collect();
            Reply::ok().body(json!({ "outcomes": outcomes }).to_string())
        },
    )
    .await;
    let make = |n| {
        let parent = format!("00-0af7651916cd43dd8448eb211c80319{n}-b7ad6b7169203331-01");
        PublishSpec::of("{}").header("traceparent", parent.as_str())
    };
    setup.vhost.publish_many("q", 3, make).await;
    let all = |received: &Received| {
        let is_counted = received.metrics.contains_key("lapwing.batch.size");
        has("ack q", 3)(received) && has("batch q", 1)(received) && is_counted
    };
    let seen = setup.collector.wait_for("the acks", DEADLINE, all).await;

    let batch = seen.only("batch q");
    let attempts = seen.named("process q");
    let begins = hex(&batch.trace_id);
    let (own, others): (Vec<_>, Vec<_>) =
        attempts.iter().partition(|it| hex(&it.trace_id) == begins);
    assert_child(batch, own[0]);
    let mut linked = links(batch);
    linked.sort();
    let mut others: Vec<_> = others.iter().map(|it| hex(&it.span_id)).collect();
    others.sort();
    assert_eq!((own.len(), &linked), (1, &others));
    assert_eq!(attribute(batch, "messaging.batch.message_count"), "3");
    assert_child(seen.only("POST"), batch);

    let exchanges = setup.server.seen().exchanges;
    let request = &exchanges[0].request;
    assert_eq!(
        request.header("traceparent"),
        traceparent(seen.only("POST"))
    );
    for message in request.json().as_array().expect("it is a list") {
        let is_own = |it: &&&_| message["traceparent"] == traceparent(it);
        assert_eq!(attempts.iter().filter(is_own).count(), 1, "{message}");
    }
    assert_eq!(seen.sum("lapwing.batch.size", "consumer", "q"), 1.0);
}
