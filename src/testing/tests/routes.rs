//! Routes: where the kind of a message is read, and what a route has of its own.

use std::time::Duration;

use super::kit::{Handling, Kit, Step, near};
use crate::{Failure, RouteReport, broker::fake::Letter};

const SECOND: Duration = Duration::from_secs(1);

/// Sends a message of each kind to a worker with a handler for each of two routes, `a` and `b`. Each
/// handler fails once, so that each message comes back by a retry queue.
async fn each_goes_to_its_handler(route_by: &str, letter: impl Fn(&str) -> (Letter, String)) {
    let [a, b] = [(); 2].map(|()| Handling::new([Step::Fail], Step::Succeed));
    let settings = format!(
        "route_by = '{route_by}'\nretry = {{ base = '3s', jitter = 0, inline_below = '0s' }}"
    );
    let kit = Kit::start_typed(&settings, [("a", a.clone()), ("b", b.clone())]).await;
    for kind in ["a", "b", "c"] {
        let (letter, body) = letter(kind);
        kit.send(letter.id(kind), body.as_bytes());
    }
    kit.finished().await;
    for (handling, id) in [(&a, "a"), (&b, "b")] {
        let ids: Vec<_> = handling.runs().into_iter().map(|run| run.id).collect();
        assert_eq!(ids, [id, id], "{route_by}");
        assert_eq!(handling.attempts(), [1, 2], "{route_by}");
    }
    let dead = kit.dead();
    assert_eq!(dead.properties.message_id(), Some("c"), "{route_by}");
    assert_eq!(dead.header("lapwing-reason"), Some("unroutable-type"));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_message_and_its_retry_go_to_the_handler_of_their_kind() {
    let none = String::new;
    each_goes_to_its_handler("type", |kind| {
        (Letter::default().message_type(kind), none())
    })
    .await;
    each_goes_to_its_handler("header:task", |kind| {
        (Letter::default().header("task", kind), none())
    })
    .await;
    each_goes_to_its_handler("body:/event/type", |kind| {
        let body = format!(r#"{{"event":{{"type":"{kind}"}},"type":"x"}}"#);
        (Letter::default(), body)
    })
    .await;
    each_goes_to_its_handler("cloudevents", |kind| {
        (Letter::default().header("cloudEvents:type", kind), none())
    })
    .await;
    each_goes_to_its_handler("cloudevents", |kind| {
        let body = format!(r#"{{"specversion":"1.0","type":"{kind}"}}"#);
        let letter = Letter::default().content_type("application/cloudevents+json");
        (letter, body)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_without_a_kind_and_one_that_a_pattern_takes_find_their_routes() {
    let [patterned, exact] = [(); 2].map(|()| Handling::new([], Step::Succeed));
    let routes = [
        ("order.*", patterned.clone()),
        ("order.paid", exact.clone()),
    ];
    let kit = Kit::start_typed("unrouted = 'ack'", routes).await;
    for (id, kind) in [
        ("1", "order.sent"),
        ("2", "order.paid"),
        ("3", "order"),
        ("4", "#"),
    ] {
        kit.send(Letter::default().id(id).message_type(kind), b"");
    }
    kit.send(Letter::default().id("5"), b"");
    kit.finished().await;
    assert_eq!(patterned.done(), ["1"]);
    assert_eq!(exact.done(), ["2"]);
    let report = kit.report().await;
    assert_eq!((report.counts.dropped, report.counts.unroutable), (3, 0));
    let counted = |name: &str| {
        let route = report.routes.iter().find(|it| it.route == name).unwrap();
        (route.attempts, route.succeeded, route.dropped)
    };
    assert_eq!(counted("order.*"), (1, 1, 0));
    assert_eq!(counted("order.paid"), (1, 1, 0));
    assert_eq!(counted("(others)"), (3, 0, 3));
    for id in ["3", "4", "5"] {
        kit.handling_took(id);
    }
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.dropped), (5, 3));
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_has_lost_its_kind_is_neither_acked_nor_given_to_a_handler() {
    let handling = Handling::new([], Step::Fail);
    let settings = "route_by = 'routing-key'\nunrouted = 'ack'
        retry = { base = '4s', factor = 1, jitter = 0, max_attempts = 3 }";
    let kit = Kit::start_typed(settings, [("orders", handling.clone())]).await;
    kit.publish();
    handling.has_run(1).await;
    let rung = "orders.retry.4s";
    kit.until_in(rung, 1).await;
    // A worker of another user has parked it, so nobody knows its routing key any more.
    let copy = kit.broker.take(rung).unwrap();
    let others = Letter::of(&copy.properties)
        .user_id("other")
        .expiration("4000");
    kit.broker.send(rung, &copy.body, others.into());
    kit.finished().await;
    assert_eq!(handling.attempts(), [1]);
    let dead = kit.dead();
    assert_eq!(dead.header("lapwing-reason"), Some("unroutable-type"));
    let error = dead.header("lapwing-error").unwrap();
    assert!(error.contains("broker.trusted_users"), "{error}");
    // The account of the kit would count the copy as a message.
    kit.worker.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_route_has_its_own_timeout_and_retry_policy() {
    let [slow, other] = [(); 2].map(|()| Handling::new([], Step::Hang));
    let settings = "timeout = '5s'
        retry = { max_attempts = 3, base = '10s', factor = 1, jitter = 0 }
        routes.slow = { timeout = '60s', retry = { max_attempts = 2 } }";
    let kit = Kit::start_typed(settings, [("slow", slow.clone()), ("other", other.clone())]).await;
    for kind in ["slow", "other"] {
        kit.send(Letter::default().id(kind).message_type(kind), b"");
    }
    kit.finished().await;
    near(&slow.gaps(), &[70_000]);
    near(&other.gaps(), &[15_000, 15_000]);
    let dead = kit.broker.ready("orders.dead");
    let attempts: Vec<_> = dead
        .iter()
        .map(|it| it.number("lapwing-attempts"))
        .collect();
    assert_eq!(attempts, [Some(3), Some(2)]);
    let error = dead[1].header("lapwing-error").unwrap();
    assert!(error.contains("within 60s"), "{error}");
    let routes = kit.report().await.routes;
    let told = |it: &RouteReport| (it.timeout_seconds, it.max_attempts, it.failed);
    let told: Vec<_> = routes.iter().take(2).map(told).collect();
    assert_eq!(told, [(5.0, 3, 3), (60.0, 2, 2)]);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_route_without_a_handler_has_that_of_the_consumer() {
    let handling = Handling::new([], Step::Fail);
    let settings = "retry = { max_attempts = 3, jitter = 0 }\nroutes.once.retry.max_attempts = 1";
    let kit = Kit::start(settings, handling.clone()).await;
    kit.send(Letter::default().id("1").message_type("once"), b"");
    kit.send(Letter::default().id("2").message_type("other"), b"");
    kit.finished().await;
    let runs = |id: &str| handling.runs().iter().filter(|run| run.id == id).count();
    assert_eq!((runs("1"), runs("2")), (1, 3));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rule_of_a_route_decides_for_its_messages_only() {
    let failure = || Failure::retryable("no-stock", "none left");
    let [a, b] = [(); 2].map(|()| Handling::new([Step::FailWith(failure())], Step::Succeed));
    let settings = "retry.base = '1s'
        routes.a.retry.rules = [{ class = 'no-stock', action = 'dead-letter' }]";
    let kit = Kit::start_typed(settings, [("a", a.clone()), ("b", b.clone())]).await;
    for kind in ["a", "b"] {
        kit.send(Letter::default().id(kind).message_type(kind), b"");
    }
    kit.finished().await;
    assert_eq!((a.runs().len(), b.runs().len()), (1, 2));
    assert_eq!(kit.ids("orders.dead"), ["a"]);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_dead_letter_of_a_message_from_another_system_says_what_its_type_is_in() {
    let paid = Handling::new([], Step::Succeed);
    let kit = Kit::start_typed("", [("paid", paid)]).await;
    kit.send(
        Letter::default().id("1").header("__TypeId__", "shop.Paid"),
        b"",
    );
    kit.finished().await;
    let dead = kit.dead();
    let error = dead.header("lapwing-error").unwrap();
    assert!(
        error.contains("`__TypeId__`: set `dialect = \"spring\"`"),
        "{error}"
    );
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn retry_queues_are_declared_for_the_schedules_of_all_routes() {
    let handling = Handling::new([], Step::Fail);
    let settings = "retry = { max_attempts = 2, base = '2s', jitter = 0 }
        routes.rare.retry.delays = ['1h']";
    let kit = Kit::start(settings, handling.clone()).await;
    kit.send(Letter::default().id("1").message_type("rare"), b"");
    handling.has_run(1).await;
    kit.until_in("orders.retry.4096s", 1).await;
    tokio::time::sleep(3600 * SECOND).await;
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2]);
    kit.drain().await.unwrap();
}
