//! The page for dead letters.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::Console;
use super::browser::{Browser, ENTER};
use crate::support::{DEADLINE, HttpHandler, PublishSpec, Reply, VHost, wait_until};

const DEAD: &str = "q.dead";

/// A console whose service refuses all messages until the flag is set.
async fn open() -> (Console, Arc<AtomicBool>) {
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let server = HttpHandler::answering(move |request| {
        let id = request.message_id();
        match mended.load(Ordering::SeqCst) {
            true => Reply::ok(),
            false if id.ends_with('3') => Reply::status(422).body("the card was declined"),
            false => Reply::status(422).body("the warehouse is closed"),
        }
    })
    .await;
    let trace = "[admin]\ntrace_url = 'http://127.0.0.1:1/{trace_id}'\n";
    (Console::open(server, trace).await, is_mended)
}

/// Has this many messages dead-lettered.
async fn fail(vhost: &VHost, count: usize) {
    let message = |number: usize| {
        let spec = PublishSpec::of(format!("{{\"number\":{number},\"items\":[1,2]}}"));
        let spec = spec.header("tenant", if number == 1 { "acme" } else { "other" });
        spec.with(|properties| properties.with_type("order.paid".into()))
    };
    vhost.publish_many("q", count, message).await;
    let count = u32::try_from(count).expect("not that many");
    vhost.wait_for_counts(DEAD, count, 0, DEADLINE).await;
}

async fn rows(browser: &Browser, table: &str) -> u64 {
    let rows = format!("document.querySelectorAll('#{table} tbody tr').length");
    browser.eval(&rows).await.as_u64().expect("a number")
}

async fn wait_for_rows(browser: &Browser, table: &str, wanted: u64) {
    let look = async || rows(browser, table).await;
    let what = format!("{wanted} rows in {table}");
    crate::support::wait_until(&what, DEADLINE, look, |rows| *rows == wanted).await;
}

#[tokio::test]
async fn letters_are_looked_at_searched_and_read() {
    let (console, _) = open().await;
    let browser = &console.browser;
    fail(&console.vhost, 5).await;

    browser.click("#nav-dead").await;
    browser
        .wait_for_text("#dead-empty", "Nobody has looked")
        .await;
    browser
        .wait_for_text("#dead-count", "5 letters in q.dead now")
        .await;
    let hidden = "document.querySelector('#failures').checkVisibility()";
    assert_eq!(browser.eval(hidden).await, false);
    browser.tab_to("dead-look").await;
    browser.press(&ENTER.to_string()).await;
    console.give_token().await;
    browser.wait_for_text("#dead-as-of", "As of").await;
    browser
        .wait_for_text("#dead-groups", "the warehouse is closed")
        .await;
    browser
        .wait_for_text("#dead-groups-count", "2 causes")
        .await;
    assert_eq!(rows(browser, "dead-letters").await, 5);
    let bars = "document.querySelectorAll('#dead-groups svg rect[height]').length";
    assert_eq!(browser.eval(bars).await, 64);

    // A cause chooses its letters.
    browser.click("#dead-groups tr:nth-child(2) button").await;
    browser.wait_for_text("#dead-where", "1–1 of 1").await;
    browser
        .wait_for_text("#dead-letters", "the card was declined")
        .await;
    browser.click("#dead-all-causes").await;
    wait_for_rows(browser, "dead-letters", 5).await;
    browser.click("#dead-text").await;
    browser.press("q-00002").await;
    browser.wait_for_text("#dead-where", "1–1 of 1").await;

    browser.click("#dead-letters tbody a").await;
    browser.wait_for_text("#dead-letter-title", "q-00002").await;
    browser
        .wait_for_text("#dead-body", "\"number\": 2,\n  \"items\": [\n    1,")
        .await;
    browser
        .wait_for_text("#dead-letter-story", "Attempt 1")
        .await;
    browser
        .wait_for_text("#dead-letter-story", "dead-lettered the message: rejected")
        .await;
    browser.wait_for_text("#dead-headers", "tenant").await;
    browser
        .wait_for_text("#dead-letter-facts", "order.paid")
        .await;
    browser.click("#dead-letter-back").await;
    browser.wait_for_text("#dead-where", "1–1 of 1").await;

    // A header is looked for in the queue.
    browser.click("#dead-match").await;
    browser.press(&format!("tenant=acme{ENTER}")).await;
    browser
        .wait_for_text(
            "#dead-cost",
            "Only letters with tenant=…: 1 letter of 5 read",
        )
        .await;
    console.vhost.wait_for_counts(DEAD, 5, 0, DEADLINE).await;
    browser.click("#dead-back").await;
    browser
        .wait_for_text("#failures-title", "Recent failures")
        .await;
    console.browser.end().await;
}

#[tokio::test]
async fn letters_are_replayed_edited_and_dropped() {
    let (console, is_mended) = open().await;
    let browser = &console.browser;
    fail(&console.vhost, 4).await;
    browser.open(&format!("{}#dead/q", console.url)).await;
    browser.click("#dead-look").await;
    console.give_token().await;
    wait_for_rows(browser, "dead-letters", 4).await;

    // The canary fails: the others stay.
    browser.click("#dead-replay").await;
    browser
        .wait_for_text("#dead-replay-what", "All letters of q.dead: 4 letters")
        .await;
    browser
        .eval("document.querySelector('#dead-canary').value = 1")
        .await;
    browser.click("#dead-replay-yes").await;
    browser
        .wait_for_text(
            "#dead-job-text",
            "Replayed 1 letter. 0 of 1 canaries succeeded",
        )
        .await;
    browser
        .wait_for_text("#dead-job-details", "is a dead letter again")
        .await;
    browser.wait_for_text("#dead-where", "of 3").await;
    console.vhost.wait_for_counts(DEAD, 4, 0, DEADLINE).await;
    browser.click("#dead-look").await;
    browser.wait_for_text("#dead-where", "of 4").await;

    // One is edited.
    browser.click("#dead-text").await;
    browser.press("q-00003").await;
    browser.wait_for_text("#dead-where", "1–1 of 1").await;
    browser.click("#dead-letters tbody a").await;
    browser.wait_for_text("#dead-letter-title", "q-00003").await;
    browser.click("#dead-letter-edit").await;
    browser
        .wait_for_text("#dead-edit-note", "Not changed")
        .await;
    let write = "(field => { field.value = '{\"number\":100'; field.oninput(); })(document.querySelector('#dead-edit-body'))";
    browser.eval(write).await;
    browser
        .wait_for_text("#dead-edit-note", "no JSON any more")
        .await;
    browser.eval(&write.replace("100'", "100}'")).await;
    browser.wait_for_text("#dead-edit-note", "changed.").await;
    browser.click("#dead-edit-yes").await;
    browser
        .wait_for_text("#dead-job-text", "Edited 1 letter")
        .await;
    browser.wait_for_text("#dead-body", "\"number\": 100").await;

    // And dropped, after somebody has thought twice.
    browser.click("#dead-letter-drop").await;
    browser.wait_for_text("#dead-drop-what", "q-00003").await;
    // Enter means no: the dialog is closed, and nothing is dropped.
    assert_eq!(browser.eval("document.activeElement.value").await, "no");
    browser.press(&ENTER.to_string()).await;
    let dialog = "document.querySelector('#dead-drop-dialog')";
    let open = async || browser.eval(&format!("{dialog}.open")).await;
    wait_until("the dialog is closed", DEADLINE, open, |open| {
        *open == false
    })
    .await;
    let answer = browser.eval(&format!("{dialog}.returnValue")).await;
    assert_eq!(answer, "no");
    browser.click("#dead-letter-drop").await;
    browser.click("#dead-drop-yes").await;
    browser
        .wait_for_text("#dead-job-text", "Dropped 1 letter")
        .await;
    console.vhost.wait_for_counts(DEAD, 3, 0, DEADLINE).await;

    // All others are replayed, and succeed.
    is_mended.store(true, Ordering::SeqCst);
    browser.eval("(field => { field.value = ''; field.dispatchEvent(new Event('input')); })(document.querySelector('#dead-text'))").await;
    browser
        .wait_for_text("#dead-replay", "Replay 3 letters")
        .await;
    browser.click("#dead-replay").await;
    browser.click("#dead-replay-yes").await;
    browser
        .wait_for_text("#dead-job-text", "Replayed 3 letters.")
        .await;
    browser.wait_for_text("#dead-where", "none fits").await;
    console.vhost.wait_for_counts(DEAD, 0, 0, DEADLINE).await;
    console.browser.end().await;
}

#[tokio::test]
async fn texts_of_dead_letters_stay_texts() {
    let markup = "<img src=x onerror=\"document.title='owned'\"><script>1</script>";
    let server = HttpHandler::answering(move |_| Reply::status(422).body(markup)).await;
    let console = Console::open(server, "").await;
    let browser = &console.browser;
    let spec = PublishSpec::to("q")
        .id("a/b<b>\u{202e}gnp.exe")
        .body(markup);
    let spec = spec.header("<i>header</i>", markup);
    console
        .vhost
        .publish_with(spec.with(|it| it.with_type("<b>bold</b>".into())))
        .await;
    console.vhost.wait_for_counts(DEAD, 1, 0, DEADLINE).await;
    browser.open(&format!("{}#dead", console.url)).await;
    browser.click("#dead-look").await;
    console.give_token().await;
    for part in ["onerror=", "\\u{202e}gnp.exe", "<b>bold</b>"] {
        browser.wait_for_text("#dead-lists", part).await;
    }
    browser.click("#dead-letters tbody a").await;
    browser.wait_for_text("#dead-body", "onerror=").await;
    browser
        .wait_for_text("#dead-headers", "<i>header</i>")
        .await;
    let elements = "document.querySelectorAll('main :is(img, script, b, i)').length";
    assert_eq!(browser.eval(elements).await, 0);
    assert_ne!(browser.eval("document.title").await, "owned");
    console.browser.end().await;
}

/// Nothing of the page is wider than a phone, in the lists and with a letter.
#[tokio::test]
async fn the_page_fits_a_phone() {
    let (console, _) = open().await;
    let browser = &console.browser;
    fail(&console.vhost, 5).await;
    browser.look(360, 740, "dark").await;
    browser.open(&format!("{}#dead", console.url)).await;
    browser.click("#dead-look").await;
    console.give_token().await;
    wait_for_rows(browser, "dead-letters", 5).await;
    let wide = "document.documentElement.scrollWidth";
    assert_eq!(browser.eval(wide).await, 360);
    browser.click("#dead-letters tbody a").await;
    browser
        .wait_for_text("#dead-letter-story", "Attempt 1")
        .await;
    assert_eq!(browser.eval(wide).await, 360);
    console.browser.end().await;
}

#[tokio::test]
async fn without_a_token_the_page_says_why_it_cannot_look() {
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let console = Console::open_with(server, "[admin]\nlisten = '127.0.0.1:0'", "").await;
    let browser = &console.browser;
    browser.open(&format!("{}#dead", console.url)).await;
    browser.wait_for_text("#dead-cost", "Read only").await;
    let possible = "document.querySelector('#dead-look').getAttribute('aria-disabled')";
    assert_eq!(browser.eval(possible).await, "true");
    console.browser.end().await;
}

/// What the buttons do is what the page shows, not what a field says by now.
#[tokio::test]
async fn a_change_is_about_the_letters_that_the_page_shows() {
    let (console, _) = open().await;
    let browser = &console.browser;
    fail(&console.vhost, 4).await;
    browser.open(&format!("{}#dead/q", console.url)).await;
    browser.click("#dead-look").await;
    console.give_token().await;
    wait_for_rows(browser, "dead-letters", 4).await;
    browser.click("#dead-text").await;
    browser.press("q-00003").await;
    browser.wait_for_text("#dead-drop", "Drop 1 letter").await;
    // The field is empty when the button is clicked, and the page has not followed it yet.
    let clear_and_drop = "(field => { field.value = ''; field.dispatchEvent(new Event('input')); \
        document.querySelector('#dead-drop').click(); })(document.querySelector('#dead-text'))";
    browser.eval(clear_and_drop).await;
    browser
        .wait_for_text("#dead-drop-what", "chosen on this page: 1 letter")
        .await;
    browser.click("#dead-drop-yes").await;
    browser
        .wait_for_text("#dead-job-text", "Dropped 1 letter")
        .await;
    console.vhost.wait_for_counts(DEAD, 3, 0, DEADLINE).await;
    console.browser.end().await;
}

/// Whoever may publish writes the body. Indented, this one would have hundreds of megabytes.
#[tokio::test]
async fn a_letter_of_brackets_is_shown_as_it_is_and_line_ends_stay() {
    let server = HttpHandler::answering(|_| Reply::status(422).body("no")).await;
    let console = Console::open(server, "").await;
    let browser = &console.browser;
    let deep = format!("{}{}", "[".repeat(16_000), "]".repeat(16_000));
    for (id, body) in [
        ("deep", deep.as_str()),
        ("lines", "a\r\nb\r\n"),
        ("mixed", "a\r\nb\n"),
    ] {
        let spec = PublishSpec::to("q").id(id).body(body);
        console.vhost.publish_with(spec).await;
    }
    console.vhost.wait_for_counts(DEAD, 3, 0, DEADLINE).await;
    // Nobody has looked: the page asks before it reads the queue.
    browser.open(&format!("{}#dead/q/deep", console.url)).await;
    console.give_token().await;
    browser
        .wait_for_text("#dead-letter-story", "not kept")
        .await;
    browser.click("#dead-letter-read").await;
    browser
        .wait_for_text("#dead-body-title", "32,000 bytes, text")
        .await;
    browser.click("#dead-letter-back").await;
    browser.click("#dead-look").await;
    wait_for_rows(browser, "dead-letters", 3).await;

    let go = |id: &str| format!("location.hash = '#dead/q/{id}'");
    let editable = "document.querySelector('#dead-letter-edit').getAttribute('aria-disabled')";
    browser.eval(&go("mixed")).await;
    browser.wait_for_text("#dead-body-title", "5 bytes").await;
    assert_eq!(browser.eval(editable).await, "true");
    browser.eval(&go("lines")).await;
    browser.wait_for_text("#dead-body-title", "6 bytes").await;
    browser.click("#dead-letter-edit").await;
    browser
        .wait_for_text("#dead-edit-note", "Not changed")
        .await;
    let write = "(field => { field.value += 'c'; field.oninput(); })(document.querySelector('#dead-edit-body'))";
    browser.eval(write).await;
    browser.wait_for_text("#dead-edit-note", "7 bytes").await;
    browser.click("#dead-edit-yes").await;
    browser
        .wait_for_text("#dead-job-text", "Edited 1 letter")
        .await;
    browser.wait_for_text("#dead-body-title", "7 bytes").await;
    console.browser.end().await;
}

/// One error can be the end of some letters and the last attempt of others. Each is a row.
#[tokio::test]
async fn the_replay_of_a_cause_takes_no_letter_of_another_reason() {
    let (console, is_mended) = open().await;
    let browser = &console.browser;
    is_mended.store(true, Ordering::SeqCst);
    let letter = |number: usize| {
        let reason = if number == 0 {
            "max-attempts"
        } else {
            "rejected"
        };
        PublishSpec::of("{}")
            .header("lapwing-reason", reason)
            .header("lapwing-error", "503 from the warehouse")
            .header("lapwing-error-kind", "http")
            .header("lapwing-fingerprint", "00000000000000bb")
            .header("lapwing-attempts", 8)
            .header("lapwing-first-seen", "2026-11-27T08:00:00.000Z")
            .header("lapwing-failed-at", "2026-11-27T09:00:00.000Z")
            .header("lapwing-source-queue", "q")
            .header("lapwing-source-exchange", "")
            .header("lapwing-source-routing-key", "q")
            .header("lapwing-worker", "w")
    };
    console.vhost.publish_many(DEAD, 3, letter).await;
    browser.open(&format!("{}#dead/q", console.url)).await;
    browser.click("#dead-look").await;
    console.give_token().await;
    wait_for_rows(browser, "dead-groups", 2).await;
    browser
        .click("#dead-groups tbody tr:first-child button.small")
        .await;
    browser
        .wait_for_text("#dead-replay-yes", "Replay 2 letters")
        .await;
    browser
        .eval("document.querySelector('#dead-canary').value = 0")
        .await;
    browser.click("#dead-replay-yes").await;
    browser
        .wait_for_text("#dead-job-text", "Replayed 2 letters.")
        .await;
    console.vhost.wait_for_counts(DEAD, 1, 0, DEADLINE).await;
    wait_for_rows(browser, "dead-groups", 1).await;
    console.browser.end().await;
}
