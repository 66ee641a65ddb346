//! Letters that are ticked one by one on the page for dead letters.

use super::Console;
use crate::support::{DEADLINE, HttpHandler, PublishSpec, Reply};

const DEAD: &str = "q.dead";

#[tokio::test]
async fn what_is_ticked_is_dropped_and_nothing_else() {
    let server = HttpHandler::answering(|_| Reply::status(422).body("no")).await;
    let console = Console::open(server, "").await;
    let browser = &console.browser;
    let letter = |_| PublishSpec::of("{}");
    console.vhost.publish_many("q", 5, letter).await;
    console.vhost.wait_for_counts(DEAD, 5, 0, DEADLINE).await;
    browser.open(&format!("{}#dead/q", console.url)).await;
    browser.click("#dead-look").await;
    console.give_token().await;
    browser.wait_for_text("#dead-drop", "Drop 5 letters").await;

    let tick = |id: &str| format!("#dead-letters input[aria-label=\"Tick {id}\"]");
    browser.click(&tick("q-00001")).await;
    browser
        .wait_for_text("#dead-replay", "Replay 1 ticked")
        .await;
    browser.click(&tick("q-00003")).await;
    browser.wait_for_text("#dead-drop", "Drop 2 ticked").await;
    let all = "document.querySelector('#dead-letters thead input').indeterminate";
    assert_eq!(browser.eval(all).await, true);
    // The order of the list changes nothing.
    browser.click("#dead-oldest").await;
    browser.wait_for_text("#dead-drop", "Drop 2 ticked").await;
    browser.click("#dead-drop").await;
    browser
        .wait_for_text("#dead-drop-what", "The 2 letters that you have ticked")
        .await;
    browser.click("#dead-drop-yes").await;
    browser
        .wait_for_text("#dead-job-text", "Dropped 2 letters")
        .await;
    browser.wait_for_text("#dead-drop", "Drop 3 letters").await;
    let left = console.vhost.drain_all(DEAD).await;
    let mut left: Vec<_> = left.iter().map(|it| it.id()).collect();
    left.sort_unstable();
    assert_eq!(left, ["q-00000", "q-00002", "q-00004"]);
    console.browser.end().await;
}

/// What a filter hides must not be replayed.
#[tokio::test]
async fn another_choice_of_letters_takes_the_ticks_away() {
    let server = HttpHandler::answering(|_| Reply::status(422).body("no")).await;
    let console = Console::open(server, "").await;
    let browser = &console.browser;
    console
        .vhost
        .publish_many("q", 3, |_| PublishSpec::of("{}"))
        .await;
    console.vhost.wait_for_counts(DEAD, 3, 0, DEADLINE).await;
    browser.open(&format!("{}#dead/q", console.url)).await;
    browser.click("#dead-look").await;
    console.give_token().await;
    browser.wait_for_text("#dead-drop", "Drop 3 letters").await;
    browser.click("#dead-letters thead input").await;
    browser.wait_for_text("#dead-drop", "Drop 3 ticked").await;
    browser.click("#dead-untick").await;
    browser.wait_for_text("#dead-drop", "Drop 3 letters").await;
    browser.click("#dead-letters thead input").await;
    browser.wait_for_text("#dead-drop", "Drop 3 ticked").await;
    browser.click("#dead-text").await;
    browser.press("q-00001").await;
    browser.wait_for_text("#dead-drop", "Drop 1 letter").await;
    let ticked = "document.querySelectorAll('#dead-letters tbody input:checked').length";
    assert_eq!(browser.eval(ticked).await, 0);
    console.browser.end().await;
}
