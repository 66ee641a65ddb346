//! Bodies: empty ones, the largest possible ones, and invalid JSON of every kind.

use lapwing::{Report, RunError, Settings, Worker, handler::Json};
use serde::Deserialize;
use tokio::task::JoinHandle;

use super::{GOOD, Rig};
use crate::support::{DEADLINE, Got, PublishSpec, VHost, consumer, vhost, within};

/// The default limit of RabbitMQ 4.x, to the byte. 3.10 accepts more.
const LARGEST: usize = 16 * 1024 * 1024;

#[tokio::test]
async fn an_empty_body_is_handled_retried_and_dead_lettered() {
    let rig = Rig::start().await;
    rig.vhost
        .publish_with(PublishSpec::to("orders").id("empty"))
        .await;

    let fate = rig.fails_twice().await;

    assert!(fate.bad().all(|request| request.body.is_empty()));
    assert!(fate.dead().body.is_empty());
}

#[tokio::test]
async fn the_largest_body_is_handled_retried_and_dead_lettered_whole() {
    let rig = Rig::start().await;
    let body: Vec<u8> = (0..LARGEST).map(|at| (at % 251) as u8).collect();
    let spec = PublishSpec::to("orders").id("large").body(body.clone());
    rig.vhost.publish_with(spec).await;

    let fate = rig.fails_twice().await;

    assert!(fate.bad().all(|request| request.body == body), "as it was");
    assert!(fate.dead().body == body, "as it was");
}

fn arrays(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

#[tokio::test]
async fn what_is_no_json_is_a_dead_letter_unseen_by_a_handler_that_wants_json() {
    let vhost = vhost().await;
    let rig = Rig::start_in(vhost, "[consumers.orders]\ndecode = 'json'\n").await;
    let bodies: [(&str, &[u8]); 7] = [
        ("nan", b"{\"n\": NaN}"),
        ("infinity", b"[-Infinity]"),
        ("empty", b""),
        ("cut", b"{\"n\": "),
        ("two", b"{} {}"),
        ("latin", b"\"\xe4\""),
        ("binary", b"\x00\xff\xfe"),
    ];
    for (id, body) in bodies {
        rig.vhost
            .publish_with(PublishSpec::to("orders").id(id).body(body))
            .await;
    }

    let fate = rig.end(bodies.len(), 0).await;

    for (id, body) in bodies {
        let dead = fate
            .all
            .iter()
            .find(|dead| dead.id() == id)
            .expect("it is there");
        assert_eq!(dead.header("lapwing-reason"), "decode", "{id}");
        let error = dead.header("lapwing-error").as_str().unwrap_or_default();
        assert!(error.contains("invalid JSON"), "{id}: {error}");
        assert_eq!(dead.body, body, "{id}: bytes stay as they were");
    }
}

#[tokio::test]
async fn json_that_is_odd_but_json_is_passed_on_as_it_is() {
    let vhost = vhost().await;
    let rig = Rig::start_in(vhost, "[consumers.orders]\ndecode = 'json'\n").await;
    let bodies = [
        "{\"n\": 1, \"n\": 2}".to_owned(),
        arrays(1_000),
        arrays(100_000),
        "1e999999".to_owned(),
    ];
    for (index, body) in bodies.iter().enumerate() {
        let spec = PublishSpec::to("orders").id(&index.to_string());
        rig.vhost.publish_with(spec.body(body.as_str())).await;
    }

    let fate = rig.all_fail_twice(bodies.len()).await;

    for dead in &fate.all {
        let index: usize = dead.id().parse().expect("a number");
        assert_eq!(dead.text(), bodies[index]);
    }
}

#[derive(Debug, Deserialize)]
struct Order {
    items: Vec<Item>,
    #[serde(default)]
    extra: serde_json::Value,
}

#[derive(Debug, Deserialize)]
struct Item {
    n: u32,
}

/// The worker as a library, in this process, with a typed handler.
async fn typed(vhost: &VHost) -> (lapwing::WorkerHandle, JoinHandle<Result<Report, RunError>>) {
    let config = consumer(&vhost, "orders")
        .http_at("http://127.0.0.1:9/")
        .with(super::TWO_ATTEMPTS)
        .toml();
    let settings = Settings::from_toml(&config).expect("the settings are good");
    let handler = async |Json(order): Json<Order>| {
        assert!(order.items.iter().all(|item| item.n > 0) && !order.extra.is_string());
    };
    let worker = Worker::new(settings).handler("orders", handler);
    let mut handle = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));
    within("a worker that is ready", handle.until(|seen| seen.ready)).await;
    (handle, running)
}

#[tokio::test]
async fn json_of_the_wrong_shape_is_a_dead_letter_that_names_the_place() {
    let vhost = vhost().await;
    let (handle, running) = typed(&vhost).await;
    let bodies = [
        (
            "type",
            "{\"items\": [{\"n\": 1}, {\"n\": \"x\"}]}".to_owned(),
            "items[1].n",
        ),
        (
            "range",
            "{\"items\": [{\"n\": -1}]}".to_owned(),
            "items[0].n",
        ),
        ("missing", "{\"items\": [{}]}".to_owned(), "items[0]"),
        (
            "twice",
            "{\"items\": [{\"n\": 1, \"n\": 2}]}".to_owned(),
            "duplicate field `n`",
        ),
        ("syntax", "{\"items\": [NaN]}".to_owned(), "line 1 column"),
        (
            "deep",
            format!("{{\"extra\": {}}}", arrays(1_000)),
            "recursion limit",
        ),
        (
            "deeper",
            format!("{{\"extra\": {}}}", arrays(1_000_000)),
            "recursion limit",
        ),
    ];
    for (id, body, _) in &bodies {
        let spec = PublishSpec::to("orders").id(id).body(body.as_str());
        vhost.publish_with(spec).await;
    }
    vhost
        .publish_with(
            PublishSpec::to("orders")
                .id(GOOD)
                .body("{\"items\": [{\"n\": 1}]}"),
        )
        .await;
    let letters = u32::try_from(bodies.len()).expect("a few");
    vhost
        .wait_for_counts("orders.dead", letters, 0, DEADLINE)
        .await;
    vhost.wait_for_counts("orders", 0, 0, DEADLINE).await;

    handle.stop();
    let report = within("the drain", running).await.expect("no panic");
    let ledger = report.expect("it ran").ledger();

    assert_eq!((ledger.acked, ledger.received), (1, 1 + u64::from(letters)));
    let dead: Vec<Got> = vhost.drain_all("orders.dead").await;
    for (id, body, place) in &bodies {
        let dead = dead
            .iter()
            .find(|dead| dead.id() == *id)
            .expect("it is there");
        assert_eq!(dead.header("lapwing-reason"), "decode", "{id}");
        let error = dead.header("lapwing-error").as_str().unwrap_or_default();
        assert!(error.contains(place), "{id}: {error}");
        assert!(error.len() < 16_384, "{id}: {} bytes", error.len());
        assert_eq!(dead.text(), body, "{id}");
    }
}
