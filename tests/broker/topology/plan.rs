//! `lapwing topology plan` and `apply`.

use lapin::ExchangeKind;
use serde_json::{Value, json};

use super::{
    assert_says, existing::user_without_configure, queue, queues, run, set, with_management,
};
use crate::support::{Broker, Consumers, DEADLINE, QueueType, VHost, consumer, vhost, wait_until};

/// A consumer with a retry queue, and a binding to `shop`.
fn orders(vhost: &VHost) -> Consumers {
    consumer(vhost, "orders").with(
        "[consumers.orders]\nretry.cap = '1s'\n\
         bindings = [{ exchange = 'shop', routing_key = 'order.*' }]\n",
    )
}

/// The action for each object.
fn actions(plan: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = plan["consumers"][0]["items"].as_array().expect("a list");
    let named = items.iter().map(|item| {
        let name = format!("{} {}", text(&item["object"]), text(&item["name"]));
        (name, text(&item["action"]))
    });
    named.collect()
}

fn all(action: [&str; 5]) -> Vec<(String, String)> {
    let names = [
        "queue orders.retry.1s",
        "queue orders.dead",
        "queue orders",
        "exchange shop",
        "binding orders",
    ];
    let pairs = names.into_iter().zip(action);
    pairs
        .map(|(name, action)| (name.to_owned(), action.to_owned()))
        .collect()
}

#[tokio::test]
async fn a_plan_shows_what_apply_makes_and_creates_nothing() {
    let vhost = vhost().await;
    vhost.declare_exchange("shop", ExchangeKind::Topic).await;
    let blind = orders(&vhost);
    let seeing = orders(&vhost).with(&with_management(&vhost));

    let before = run(&seeing, &["plan", "--json"]).await.json(3);
    assert_eq!(
        actions(&before),
        all(["create", "create", "create", "none", "bind"])
    );
    let text = run(&blind, &["plan"]).await;
    assert_eq!(text.code, Some(3), "{text:?}");
    assert_says(
        &text.out,
        &[
            "+ create  retry queue orders.retry.1s",
            "4 to create or bind",
        ],
    );
    assert!(
        text.out.lines().all(|line| line.chars().count() <= 80),
        "{}",
        text.out
    );
    let asked = run(&blind, &["apply"]).await;
    assert_eq!(asked.code, Some(1), "nobody can answer: {asked:?}");
    assert_eq!(queues(&vhost).await, set(&[]), "nothing is made");

    let applied = run(&blind, &["apply", "--yes"]).await;
    assert_eq!(applied.code, Some(0), "{applied:?}");
    assert_says(&applied.out, &["created 3 queues, made 1 bindings"]);
    assert_eq!(
        queues(&vhost).await,
        set(&["orders", "orders.dead", "orders.retry.1s"])
    );
    let arguments = queue(&vhost, "orders").await["arguments"].clone();
    assert_eq!(arguments["x-dead-letter-routing-key"], "orders.dead");

    let after = run(&seeing, &["plan", "--json"]).await.json(0);
    assert_eq!(actions(&after), all(["none"; 5]));
    let unseen = run(&blind, &["plan", "--json"]).await.json(0);
    assert_eq!(
        actions(&unseen),
        all(["none", "none", "none", "none", "unknown"])
    );
    let again = run(&seeing, &["apply"]).await;
    assert_eq!(again.code, Some(0), "nothing to ask: {again:?}");
    assert_says(&again.out, &["nothing to do"]);
}

#[tokio::test]
async fn what_differs_is_refused_with_its_mend_and_nothing_is_made() {
    let vhost = Broker::shared().await.vhost_with_a_short_name().await;
    vhost.declare("orders", QueueType::Classic).await;
    let orders = orders(&vhost);
    for command in [&["plan"][..], &["apply", "--yes"]] {
        let refused = run(&orders, command).await;
        assert_eq!(refused.code, Some(4), "{refused:?}");
        let says = [
            "x-queue-type is 'classic', wanted 'quorum'",
            "mend: lapwing topology migrate orders --to orders.v2",
            "exchange shop",
            "is missing",
        ];
        assert_says(&refused.out, &says);
        assert_eq!(queues(&vhost).await, set(&["orders"]));
    }
}

#[tokio::test]
async fn a_user_who_may_not_look_is_told_so() {
    let vhost = vhost().await;
    vhost.declare("orders", QueueType::Classic).await;
    let (user, url) = user_without_configure(&vhost).await;
    let blind = consumer(&url, "orders").with("consumers.orders.retry.cap = '1s'");
    let plan = run(&blind, &["plan", "--json"]).await.json(4);
    assert_eq!(plan["blocked"], 3, "{plan}");
    let mend = plan["consumers"][0]["items"][0]["mend"].to_string();
    assert_says(&mend, &["set_permissions", &user]);
    let refused = run(&blind, &["apply", "--yes"]).await;
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert_eq!(queues(&vhost).await, set(&["orders"]));

    // A worker that compares nothing starts.
    vhost.declare_beside("orders").await;
    let none = blind.with("consumers.orders.topology = 'none'");
    let plan = run(&none, &["plan", "--json"]).await.json(0);
    assert_eq!(
        (&plan["blocked"], &plan["unknown"]),
        (&json!(0), &json!(1)),
        "{plan}"
    );
    let management = vhost.broker().management();
    let path = format!("users/{user}");
    let delete = async || {
        let method = reqwest::Method::DELETE;
        management.try_call(method, &path, None).await.is_ok()
    };
    wait_until("the user is deleted", DEADLINE, delete, |done| *done).await;
}
