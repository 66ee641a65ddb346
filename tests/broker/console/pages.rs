//! The pages beside the live view: the search of failures, a message, the settings; and the pause of all.

use super::Console;
use crate::support::{DEADLINE, Gate, HttpHandler, PublishSpec, Reply, Request};

#[tokio::test]
async fn failures_are_searched_and_a_cause_is_opened() {
    let server = HttpHandler::answering(|request: &Request| match request.message_id() {
        id if id.starts_with("paper") => Reply::status(422).body("out of paper"),
        _ => Reply::status(400).body("wrong colour"),
    })
    .await;
    let console = Console::open(server, "").await;
    let browser = &console.browser;
    for id in ["paper-1", "paper-2", "colour-1"] {
        console
            .vhost
            .publish_with(PublishSpec::to("q").id(id))
            .await;
    }
    console.server.wait_for_answered(3, DEADLINE).await;
    browser.wait_for_text("#failures-scroll", "paper-2").await;
    browser
        .wait_for_text("#failures-note", "The search has all failures since")
        .await;
    browser.click("#failures-cause").await;
    let paper = "#failures-scroll table:not([hidden]) tbody tr:first-child";
    browser.wait_for_text(paper, "out of paper").await;
    browser.click(&format!("{paper} th a")).await;

    let found = "#page-failures .note";
    browser.wait_for_text(found, "2 failures.").await;
    browser
        .wait_for_text("#page-failures tbody", "paper-1")
        .await;
    assert_eq!(browser.text("#live").await, "", "the live view is hidden");
    browser
        .eval("location.hash = '#/failures/id%3Dcolour-1'")
        .await;
    browser.wait_for_text(found, "1 failure.").await;
    browser
        .wait_for_text("#page-failures tbody", "wrong colour")
        .await;
    browser
        .eval("location.hash = '#/failures/since%3Dyesterday'")
        .await;
    browser
        .wait_for_text(found, "expected a duration like 10m")
        .await;
    let empty = "document.querySelector('#page-failures [name=since]').value = ''";
    browser.eval(empty).await;
    browser.click("#page-failures form button").await;
    browser.wait_for_text(found, "3 failures.").await;
    browser.eval("location.hash = '#all'").await;
    browser
        .wait_for_text("#failures-title", "Recent failures")
        .await;
    console.browser.end().await;
}

#[tokio::test]
async fn a_message_is_found_with_its_runs_while_it_is_in_flight_and_afterwards() {
    let gate = Gate::default();
    let second = |request: &Request| request.attempt() == 2;
    let server = HttpHandler::holding(&gate, second, |request| match request.attempt() {
        1 => Reply::status(500).body("not yet"),
        _ => Reply::status(422).body("never"),
    })
    .await;
    let hasty = "[consumers.q.retry]\nbase = '10ms'\ncap = '1s'";
    let console = Console::open(server, hasty).await;
    let browser = &console.browser;
    console
        .vhost
        .publish_with(PublishSpec::to("q").id("order/1?x"))
        .await;
    console.server.wait_for_requests(2, DEADLINE).await;

    browser.click("#find-id").await;
    browser
        .press(&format!("order/1?x{}", super::browser::ENTER))
        .await;
    let page = "#page-message";
    browser
        .wait_for_text(&format!("{page} h2"), "order/1?x")
        .await;
    browser
        .wait_for_text(&format!("{page} .where"), "In flight in consumer q")
        .await;
    browser
        .wait_for_text(&format!("{page} .where"), "handling")
        .await;
    for part in ["PhaseHandling".to_lowercase().as_str(), "attempt2"] {
        let flight = format!("{page} .flight");
        let says = |text: &str| text.to_lowercase().contains(part);
        browser.wait_for(&flight, part, says).await;
    }
    for part in ["http 500", "not yet", "retry in"] {
        browser.wait_for_text(&format!("{page} tbody"), part).await;
    }
    gate.open();
    let ended = "Consumer q dead-lettered it in q.dead";
    browser
        .wait_for_text(&format!("{page} .where"), ended)
        .await;
    browser
        .wait_for_text(&format!("{page} tbody"), "dead letter: rejected")
        .await;
    browser
        .wait_for_text(&format!("{page} tbody"), "never")
        .await;
    browser.eval("location.hash = '#/message/unheard-of'").await;
    browser
        .wait_for_text(
            &format!("{page} .where"),
            "knows no ack and no failure of it",
        )
        .await;
    console.browser.end().await;
}

#[tokio::test]
async fn the_settings_in_force_are_a_page_without_secrets() {
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let console = Console::open(server, "[consumers.q]\nprefetch = 77").await;
    let browser = &console.browser;
    browser.eval("location.hash = '#/settings'").await;
    let page = "#page-settings";
    for part in [
        "[consumers.q]",
        "prefetch77",
        "retry.base500ms",
        "[admin]",
        "token[redacted]",
    ] {
        browser.wait_for_text(page, part).await;
    }
    let text = browser.text(page).await;
    assert!(!text.contains(crate::support::TOKEN), "{text}");
    browser.click(&format!("{page} input")).await;
    browser.press("prefetch 77").await;
    let rows = "document.querySelectorAll('#page-settings section:not([hidden]) tbody tr').length";
    let rows = async || browser.eval(rows).await;
    crate::support::wait_until("one is left", DEADLINE, rows, |rows| *rows == 1).await;
    console.browser.end().await;
}

#[tokio::test]
async fn all_consumers_are_paused_and_resumed_with_one_button() {
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    // A pause waits for the broker, which may be slow.
    let other =
        "[timeouts]\ncall = '20s'\n[consumers.other]\nqueue = 'other'\nhandler = { kind = 'log' }";
    let console = Console::open(server, other).await;
    let browser = &console.browser;
    browser.click("#pause-all").await;
    let lasts = "The pause ends with the process";
    browser.wait_for_text("#pause-dialog", lasts).await;
    browser.click("#pause-dialog [value=no]").await;
    browser.click("#pause-all").await;
    browser.click("#pause-dialog [value=yes]").await;
    console.give_token().await;

    let all = "0 consumers take messages, 2 are paused on purpose.";
    browser.wait_for_text("#verdict", all).await;
    browser
        .wait_for_text("#consumers-answer", "All consumers are paused")
        .await;
    console
        .worker
        .wait_for_consumers(&console.vhost, "other", 0)
        .await;
    let faults = "document.querySelectorAll('main .bad').length";
    assert_eq!(browser.eval(faults).await, 0, "a pause is no fault");
    browser.click("#resume-all").await;
    browser.wait_for_text("#verdict", "Healthy").await;
    console
        .worker
        .wait_for_consumers(&console.vhost, "other", 1)
        .await;
    console.browser.end().await;
}
