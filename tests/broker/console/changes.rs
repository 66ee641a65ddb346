//! Changes made on the console's page.

use super::Console;
use super::browser::{ENTER, ESCAPE};
use crate::support::{Account, DEADLINE, Gate, HttpHandler, PublishSpec, Reply, TOKEN};

/// The id of the element that has the focus.
async fn focus(console: &Console) -> String {
    let id = console.browser.eval("document.activeElement.id").await;
    id.as_str().expect("it is text").to_owned()
}

#[tokio::test]
async fn a_consumer_is_paused_and_resumed_by_keyboard_alone() {
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let console = Console::open(server, "").await;
    let browser = &console.browser;

    browser.tab_to("consumer-pause").await;
    browser.press(&ENTER.to_string()).await;
    browser.wait_for_text("#token-dialog", "Changes need").await;
    browser.press(&ESCAPE.to_string()).await;
    browser
        .wait_for_text("#consumer-answer", "Nothing was changed")
        .await;
    assert_eq!(focus(&console).await, "consumer-pause");

    browser.press(&ENTER.to_string()).await;
    browser.wait_for_text("#token-dialog", "Changes need").await;
    browser.press(&format!("wrong{ENTER}")).await;
    browser.wait_for_text("#token-dialog", "refused").await;
    browser.press(&format!("{TOKEN}{ENTER}")).await;
    browser.wait_for_text("#consumer-answer", "Paused").await;
    browser.wait_for_text("#consumer-state", "paused").await;
    browser.wait_for_text("#verdict", "Paused").await;
    console
        .worker
        .wait_for_consumers(&console.vhost, "q", 0)
        .await;

    let ids = console
        .vhost
        .publish_many("q", 5, |_| PublishSpec::of("{}"))
        .await;
    console.vhost.wait_for_counts("q", 5, 0, DEADLINE).await;
    assert_eq!(console.server.seen().exchanges.len(), 0);

    assert_eq!(focus(&console).await, "consumer-pause");
    browser.wait_for_text("#consumer-pause", "Resume").await;
    browser.press(&ENTER.to_string()).await;
    browser.wait_for_text("#consumer-answer", "Resumed").await;
    console.server.wait_for_answered(5, DEADLINE).await;
    browser.wait_for_text("#verdict", "Healthy").await;
    Account::new(ids, &console.server.seen()).assert_exactly_once();
    console.browser.end().await;
}

#[tokio::test]
async fn a_running_message_is_cancelled_and_runs_again() {
    let gate = Gate::default();
    let server = HttpHandler::behind(&gate, |_| Reply::ok()).await;
    let mut console = Console::open(server, "").await;
    let browser = &console.browser;
    console
        .vhost
        .publish_with(PublishSpec::to("q").id("stuck"))
        .await;
    console.server.wait_for_requests(1, DEADLINE).await;
    browser.wait_for_text("#in-flight-scroll", "stuck").await;

    browser.click("[aria-label='Cancel stuck']").await;
    browser.wait_for_text("#cancel-dialog", "stuck").await;
    browser.click("#cancel-dialog [value=no]").await;
    assert_eq!(console.server.seen().abandoned, 0);
    browser.click("[aria-label='Cancel stuck']").await;
    browser.click("#cancel-dialog [value=yes]").await;
    console.give_token().await;

    browser
        .wait_for_text("#in-flight-answer", "stuck was cancelled")
        .await;
    let again = |seen: &crate::support::exchange::Seen| seen.abandoned == 1;
    console
        .server
        .wait_for("it is given up", DEADLINE, again)
        .await;
    console.server.wait_for_requests(2, DEADLINE).await;
    gate.open();
    let seen = console.server.wait_for_answered(1, DEADLINE).await;
    assert_eq!(seen.exchanges[1].request.attempt(), 1, "none was charged");
    console.browser.end().await;
    let ledger = console.worker.drain(DEADLINE).await;
    assert_eq!((ledger.returned, ledger.acked), (1, 1));
}

#[tokio::test]
async fn concurrency_is_changed_within_the_prefetch() {
    let gate = Gate::default();
    let server = HttpHandler::behind(&gate, |_| Reply::ok()).await;
    let consumer = "[consumers.q]\nprefetch = 8\nconcurrency = 1";
    let console = Console::open(server, consumer).await;
    let browser = &console.browser;
    let ids = console
        .vhost
        .publish_many("q", 8, |_| PublishSpec::of("{}"))
        .await;
    browser
        .wait_for_text("#consumer-facts", "Running1 of 1")
        .await;

    browser.tab_to("consumer-concurrency-value").await;
    browser.press(&format!("9{ENTER}")).await;
    // Tab selects the field's text, and typing replaces it. The browser itself refuses the value.
    assert_eq!(
        browser
            .eval("document.querySelector(':invalid:is(input)').id")
            .await,
        "consumer-concurrency-value"
    );
    browser.press(&format!("\u{e003}5{ENTER}")).await;
    console.give_token().await;

    browser.wait_for_text("#consumer-answer", "At most 5").await;
    browser
        .wait_for_text("#consumer-facts", "Running5 of 5")
        .await;
    console.server.wait_for_requests(5, DEADLINE).await;
    gate.open();
    let seen = console.server.wait_for_answered(ids.len(), DEADLINE).await;
    assert!(seen.peak >= 5);
    console.browser.end().await;
}

#[tokio::test]
async fn a_worker_without_a_token_is_read_only_and_says_so() {
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let console = Console::open_with(server, "[admin]\nlisten = '127.0.0.1:0'", "").await;

    console
        .browser
        .wait_for_text("#consumer-read-only", "Read only")
        .await;
    let controls = "document.querySelector('#consumer-controls').checkVisibility()";
    assert_eq!(console.browser.eval(controls).await, false);
    console.browser.end().await;
}
