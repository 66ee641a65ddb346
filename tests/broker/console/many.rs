//! The page of a worker with many consumers and messages.

use std::fmt::Write;

use super::browser::Browser;
use super::{Console, address};
use crate::support::{
    DEADLINE, Gate, HttpHandler, PublishSpec, QueueType, Reply, WorkerProcess, vhost, wait_until,
};

#[tokio::test]
async fn of_two_hundred_consumers_those_in_view_are_drawn() {
    let vhost = vhost().await;
    vhost.declare("q", QueueType::Classic).await;
    let mut config = format!(
        "[broker]\nurl = '{}'\n[admin]\nlisten = '127.0.0.1:0'\n",
        vhost.amqp_url()
    );
    for consumer in 0..200 {
        write!(
            config,
            "[consumers.consumer_{consumer}]\nqueue = 'q'\ntopology = 'attach'\nretry.cap = '1s'\n\
             handler = {{ kind = 'log' }}\n"
        )
        .expect("memory can be written");
    }
    let worker = WorkerProcess::start_with_admin(&config);
    worker.wait_for_consumers(&vhost, "q", 200).await;
    let browser = Browser::start().await;
    browser.open(&address(&worker).await).await;
    browser.wait_for_text("#verdict", "All 200 consumers").await;

    let drawn = async || {
        browser
            .eval("document.querySelectorAll('#consumers canvas').length")
            .await
    };
    let some = |drawn: &serde_json::Value| drawn.as_u64().is_some_and(|drawn| drawn > 10);
    let drawn = wait_until("charts are drawn", DEADLINE, drawn, some).await;
    assert!(drawn.as_u64() < Some(100), "{drawn} of 400");

    browser.click("#consumers-filter").await;
    browser.press("consumer_19").await;
    browser
        .wait_for("#consumers-count", "11 of 200", |text| text == "11 of 200")
        .await;
    browser.click("[data-order=name]").await;
    let first = "document.querySelector('#consumers-scroll tbody th').textContent";
    assert_eq!(browser.eval(first).await, "consumer_19");
    browser.click("[data-order=name]").await;
    assert_eq!(browser.eval(first).await, "consumer_199");
    browser.end().await;
}

#[tokio::test]
async fn ten_thousand_in_flight_are_paged() {
    const ALL: usize = 10_000;
    let gate = Gate::default();
    let server = HttpHandler::behind(&gate, |_| Reply::ok()).await;
    let consumer = "[consumers.q]\nprefetch = 10000\nconcurrency = 1\n[drain]\ngrace = '0s'";
    let console = Console::open(server, consumer).await;
    let browser = &console.browser;
    console
        .vhost
        .publish_many("q", ALL, |_| PublishSpec::of("{}"))
        .await;

    browser.wait_for_text("#in-flight-count", "10,000").await;
    browser.wait_for_text("#page-where", "1–50 of 10,000").await;
    browser.click("#page-next").await;
    browser
        .wait_for_text("#page-where", "51–100 of 10,000")
        .await;
    browser.wait_for_text("#in-flight-scroll", "q-00050").await;
    let rows = "document.querySelectorAll('#in-flight-scroll tbody tr').length";
    assert_eq!(browser.eval(rows).await, 50);
    browser.click("#page-first").await;
    browser.wait_for_text("#in-flight-scroll", "q-00000").await;
    console.browser.end().await;
}
