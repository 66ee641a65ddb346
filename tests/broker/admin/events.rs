//! The stream of events.

use lapwing::{Failure, Worker};
use reqwest::Method;
use serde_json::Value;

use super::{settings, start_both};
use crate::support::{DEADLINE, Events, PublishSpec, admin::answer, vhost, wait_until};

#[tokio::test]
async fn a_stream_tells_changed_numbers_and_new_failures() {
    let vhost = vhost().await;
    let settings = settings(&vhost, "");
    let fails = async || Err::<(), _>(Failure::permanent("price", "negative"));
    let worker = Worker::new(settings.clone()).handler("q", async || {});
    let worker = worker.handler_for_route("q", "fails", fails);
    let (worker, admin) = start_both(settings, worker).await;
    let mut events = Events::open(&admin).await;
    let first = events.next("state", |_| true).await;
    assert_eq!(first["worker"]["totals"]["acked"], 0);
    assert_eq!(first["consumers"][0]["name"], "q");

    vhost.publish_many("q", 7, |_| PublishSpec::of("x")).await;
    let acked = |state: &Value| state["consumers"][0]["ledger"]["acked"] == 7;
    let state = events.next("state", acked).await;
    assert_eq!(state["worker"]["totals"]["acked"], 7);

    let failing = PublishSpec::to("q").id("failing");
    let failing = failing.with(|properties| properties.with_type("fails".into()));
    vhost.publish_with(failing).await;
    let has_failed = |told: &Value| told["outcomes"][0]["kind"] == "failed";
    let told = events.next("outcomes", has_failed).await;
    assert_eq!(told["outcomes"][0]["id"], "failing");
    // The event is sent once.
    let state = events.next("state", |_| true).await;
    assert_eq!(state["consumers"][0]["counts"]["failed"], 1);
    let stopping = tokio::spawn(admin.stop());
    events.ended().await;
    stopping.await.expect("no panic");
    worker.drain().await;
}

#[tokio::test]
async fn streams_are_bounded_and_a_client_that_goes_away_gives_its_place_back() {
    const MOST: usize = 32;
    let vhost = vhost().await;
    let settings = settings(&vhost, "");
    let worker = Worker::new(settings.clone()).handler("q", async || {});
    let (worker, admin) = start_both(settings, worker).await;
    let mut open = Vec::new();
    for _ in 0..MOST {
        // The slowest possible clients: they open the stream and never read it.
        open.push(Events::open(&admin).await);
    }
    let ask = async || {
        let request = admin.request(Method::GET, "/api/v1/events");
        let response = request.send().await.expect("it answers");
        response.status().as_u16()
    };
    assert_eq!(ask().await, 503);
    // The server still answers other clients, and the consumer works.
    let (status, _) = answer(admin.request(Method::GET, "/livez")).await;
    assert_eq!(status, 200);
    vhost.publish("q", "x").await;
    let acked = |report: &lapwing::ConsumerReport| report.ledger.acked == 1;
    worker.wait_for_report("it is acked", "q", acked).await;

    drop(open);
    wait_until("there is a place again", DEADLINE, ask, |status| {
        *status == 200
    })
    .await;
    worker.drain().await;
}
