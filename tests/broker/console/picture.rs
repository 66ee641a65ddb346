//! The picture in the documentation: not a test, a program that needs all the tests' parts.

use std::time::{Duration, Instant};

use super::address;
use super::browser::Browser;
use crate::support::{HttpHandler, PublishSpec, Reply, TOKEN, VHost, WorkerProcess, ms, vhost};

/// What the charts show, and a little more.
const FULL: Duration = Duration::from_secs(305);

/// What makes trace ids of small numbers.
const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834;

/// How often messages are published.
const BEAT: Duration = Duration::from_millis(250);

#[tokio::test]
#[ignore = "takes docs/console.png, in more than five minutes"]
async fn the_console_of_a_worker_with_four_consumers() {
    let vhost = vhost().await;
    let server = HttpHandler::answering(answer).await;
    let mut config = format!(
        "[broker]\nurl = '{}'\nname = 'shop'\n[admin]\nlisten = '127.0.0.1:0'\ntoken = '{TOKEN}'\n\
         trace_url = 'https://traces.example.com/{{trace_id}}'\n",
        vhost.amqp_url()
    );
    for (consumer, concurrency) in [
        ("orders", 32),
        ("payments", 16),
        ("emails", 8),
        ("invoices", 8),
    ] {
        config += &format!(
            "[consumers.{consumer}]\nqueue = '{consumer}'\nprefetch = {}\nconcurrency = {concurrency}\n\
             handler = {{ kind = 'http', url = '{}{consumer}' }}\n",
            concurrency * 2,
            server.url(),
        );
    }
    let worker = WorkerProcess::start_with_admin(&config);
    for consumer in ["orders", "payments", "emails", "invoices"] {
        worker.wait_for_consumers(&vhost, consumer, 1).await;
    }
    let url = address(&worker).await;
    tokio::select! {
        () = traffic(&vhost) => {}
        () = take(&url) => {}
    }
}

/// Takes the picture once the charts are full.
async fn take(url: &str) {
    tokio::time::sleep(FULL).await;
    let browser = Browser::start().await;
    browser.look(1280, 900, "light").await;
    browser.open(&format!("{url}#consumer/payments")).await;
    browser.wait_for_text("#consumer-state", "consuming").await;
    browser.wait_for_text("#retry-queues", "after 1 s").await;
    browser
        .wait_for_text("#failures-scroll", "card issuer")
        .await;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/console.png");
    // Under the name that is configured, without this machine's.
    let name = "document.getElementById('worker-name').textContent = 'shop'";
    browser.eval(name).await;
    std::fs::write(file, browser.picture().await).expect("the folder is there");
    browser.end().await;
}

/// Publishes to every consumer, more and less by turns, for ever.
async fn traffic(vhost: &VHost) {
    let started = Instant::now();
    let mut beat = tokio::time::interval(BEAT);
    let mut round = 0;
    loop {
        beat.tick().await;
        round += 1;
        let wave = 1.0 + 0.4 * (started.elapsed().as_secs_f64() / 30.0).sin();
        for (consumer, each_second) in [("orders", 120.0), ("payments", 30.0), ("emails", 8.0)] {
            let messages = (each_second * wave * BEAT.as_secs_f64()).round() as usize;
            let message = |index| {
                let number: u128 = round * 100 + index as u128;
                let trace = format!("00-{:032x}-{number:016x}-01", SPREAD.wrapping_mul(number));
                let spec = PublishSpec::to(consumer).id(&format!("{consumer}-{number:06}"));
                let spec = spec.header("traceparent", trace.as_str()).body("{}");
                spec.with(|properties| properties.with_type("order.paid".into()))
            };
            vhost.publish_many(consumer, messages, message).await;
        }
    }
}

/// Most succeed, in a time that depends on the consumer; some payments fail.
fn answer(request: &crate::support::Request) -> Reply {
    let spread = request.index as u64 * 7919 % 23;
    let (reply, time) = match request.path.as_str() {
        "/payments" if request.index.is_multiple_of(41) => {
            let why = r#"{"error":"the card issuer does not answer"}"#;
            (Reply::status(503).body(why), 300)
        }
        "/payments" if request.index.is_multiple_of(97) => {
            let why = r#"{"error":"amount must be positive"}"#;
            (Reply::status(422).body(why), 20)
        }
        "/payments" => (Reply::ok(), 90 + 9 * spread),
        "/emails" => (Reply::ok(), 250 + 20 * spread),
        _ => (Reply::ok(), 8 + spread),
    };
    Reply {
        delay: ms(time),
        ..reply
    }
}
