//! A consumer that does not keep up, on the page.

use super::Console;
use crate::support::{Gate, HttpHandler, PublishSpec, Reply, ms};

#[tokio::test]
async fn a_consumer_at_its_limit_comes_before_the_healthy_ones_with_its_figures() {
    let gate = Gate::default();
    let server = HttpHandler::behind(&gate, |_| Reply::ok()).await;
    let busy = "[consumers.q]\nprefetch = 2\nconcurrency = 1\nbacklog_check = '1s'\n\
                [consumers.a]\nqueue = 'a'\nhandler = { kind = 'log' }";
    let console = Console::open(server, busy).await;
    let browser = &console.browser;
    let grow = async {
        loop {
            let message = |_| PublishSpec::of("{}");
            console.vhost.publish_many("q", 5, message).await;
            tokio::time::sleep(ms(300)).await;
        }
    };
    let look = async {
        let late = "1 of 2 consumers does not keep up";
        browser.wait_for_text("#verdict", late).await;
        browser.wait_for_text("#verdict-details", "q").await;
        let first = "#consumers-scroll tbody tr:first-child";
        browser.wait_for_text(first, "at its limit").await;
        browser.eval("location.hash = '#consumer/q'").await;
        browser
            .wait_for_text("#consumer-state", "at its limit")
            .await;
        let why = "All its handler slots are busy, and its queue grows.";
        browser.wait_for_text("#consumer-reason", why).await;
        for part in ["Growth, 2 min+", "Empty ingrows", "Dead letters0"] {
            browser.wait_for_text("#consumer-facts", part).await;
        }
    };
    tokio::select! {
        () = grow => {}
        () = look => {}
    }
    gate.open();
    browser.wait_for_text("#verdict", "Healthy").await;
    browser.wait_for_text("#consumer-facts", "Ready0").await;
    console.browser.end().await;
}
