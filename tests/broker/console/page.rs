//! What the page shows, and how it looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::browser::Browser;
use super::{Console, address};
use crate::support::{
    ADMIN, Account, DEADLINE, Gate, HttpHandler, PublishSpec, Reply, Request, WorkerProcess,
    consumer,
};

/// A handler that answers messages whose id begins with "bad" by `status` and a reason.
async fn picky(status: u16, reason: &'static str) -> HttpHandler {
    HttpHandler::answering(move |request| match request.message_id() {
        id if id.starts_with("bad") => Reply::status(status).body(reason),
        _ => Reply::ok(),
    })
    .await
}

/// The count in the outcomes' row that begins with `kind`.
async fn outcome(browser: &Browser, kind: &str) -> u64 {
    let find = format!(
        "[...document.querySelectorAll('#outcomes-tables tr')].find(row => \
         row.cells[0].textContent === '{kind}')?.cells[2].textContent ?? ''"
    );
    let text = browser.eval(&find).await;
    let digits = text.as_str().expect("it is text").replace(',', "");
    digits.parse().unwrap_or_default()
}

#[tokio::test]
async fn numbers_move_and_a_failure_appears_with_its_error() {
    let console = Console::open(picky(422, "out of paper").await, "").await;
    let browser = &console.browser;
    browser.wait_for_text("#failures-empty", "None seen.").await;
    assert_eq!(outcome(browser, "Succeeded").await, 0);

    let ids = console
        .vhost
        .publish_many("q", 20, |_| PublishSpec::of("{}"))
        .await;
    console.server.wait_for_answered(ids.len(), DEADLINE).await;

    let succeeded = async || outcome(browser, "Succeeded").await;
    crate::support::wait_until("20 have succeeded", DEADLINE, succeeded, |n| *n == 20).await;
    browser
        .wait_for("#figures", "a rate", |text| !text.contains("Received0/s"))
        .await;
    let bad = PublishSpec::to("q").id("bad-one");
    let bad = bad.with(|properties| properties.with_type("order.created".into()));
    console.vhost.publish_with(bad).await;
    for part in [
        "failed",
        "http 422",
        "bad-one",
        "order.created",
        "dead letter: rejected",
    ] {
        browser.wait_for_text("#failures-scroll", part).await;
    }
    browser
        .wait_for_text("#failures-scroll", "out of paper")
        .await;
    browser.click("#failures-cause").await;
    browser
        .wait_for_text("#failures-scroll", "out of paper")
        .await;
    browser
        .wait_for("#retry-queues", "a dead letter", |text| {
            text.contains("Dead letters1")
        })
        .await;
    for chart in ["Throughput", "Handler time", "In flight"] {
        let drawn = format!(
            "[...document.querySelectorAll('.plot')].some(plot => plot.querySelector('canvas') \
             && plot.getAttribute('aria-label').startsWith('{chart}'))"
        );
        assert_eq!(browser.eval(&drawn).await, true, "{chart}");
    }
    console.browser.end().await;
}

#[tokio::test]
async fn texts_of_messages_stay_texts() {
    let markup = "<img src=x onerror=\"document.title='owned'\"><script>1</script>";
    // To every message, as this id is left out of the request: no header can hold it.
    let server = HttpHandler::answering(move |_| Reply::status(500).body(markup)).await;
    let console = Console::open(server, "").await;
    let browser = &console.browser;
    let id = format!("bad{markup}\u{202e}gnp.exe");
    let spec = PublishSpec::to("q").id(&id);
    let spec = spec.with(|properties| properties.with_type("<b>bold</b>".into()));

    console.vhost.publish_with(spec).await;

    browser.wait_for_text("#failures-scroll", "onerror=").await;
    // The mark that would turn the text around is spelled out.
    browser
        .wait_for_text("#failures-scroll", "\\u{202e}gnp.exe")
        .await;
    browser
        .wait_for_text("#failures-scroll", "<b>bold</b>")
        .await;
    let elements = "document.querySelectorAll('main :is(img, script, b)').length";
    assert_eq!(browser.eval(elements).await, 0);
    assert_ne!(browser.eval("document.title").await, "owned");
    console.browser.end().await;
}

#[tokio::test]
async fn a_service_that_is_down_is_said_with_its_probes_and_so_is_its_return() {
    let is_up = Arc::new(AtomicBool::new(false));
    let up = Arc::clone(&is_up);
    let server = HttpHandler::answering(move |_| match up.load(Ordering::SeqCst) {
        true => Reply::ok(),
        false => Reply::status(503).body("closed for today"),
    })
    .await;
    let hasty = "consumers.q.breaker = { probe = '200ms', probe_cap = '5s' }";
    let other = "[consumers.other]\nqueue = 'other'\nhandler = { kind = 'log' }";
    let console = Console::open(server, &format!("{hasty}\n{other}")).await;
    let browser = &console.browser;

    let ids = console
        .vhost
        .publish_many("q", 20, |_| PublishSpec::of("{}"))
        .await;

    browser.wait_for_text("#verdict", "Service down").await;
    let down = "The service of 1 of 2 consumers is down. No message is lost.";
    browser.wait_for_text("#verdict", down).await;
    for part in ["q service down for", "closed for today"] {
        browser.wait_for_text("#verdict-details", part).await;
    }
    browser
        .wait_for_text("#consumers-scroll", "service down")
        .await;
    browser.eval("location.hash = '#consumer/q'").await;
    browser
        .wait_for_text("#consumer-state", "service down")
        .await;
    for part in [
        "HTTP 503 Service Unavailable from http://",
        "closed for today",
    ] {
        browser.wait_for_text("#consumer-reason", part).await;
    }
    for part in ["Probes so far", "Next probe"] {
        browser.wait_for_text("#consumer-facts", part).await;
    }
    is_up.store(true, Ordering::SeqCst);
    console.server.wait_for_success(&ids).await;
    // While most runs of the last minute are those of the outage, the consumer is failing.
    let others = console
        .vhost
        .publish_many("q", 100, |_| PublishSpec::of("{}"));
    console.server.wait_for_success(&others.await).await;
    browser.wait_for_text("#consumer-state", "consuming").await;
    browser
        .wait_for("#consumer-facts", "no next probe", |text| {
            text.contains("Probes so far") && !text.contains("Next probe")
        })
        .await;
    console.browser.end().await;
}

#[tokio::test]
async fn a_drain_an_end_and_a_new_worker_are_said() {
    let gate = Gate::default();
    let server = HttpHandler::behind(&gate, |_| Reply::ok()).await;
    let mut console = Console::open(server, "").await;
    let browser = &console.browser;
    let ids = console
        .vhost
        .publish_many("q", 1, |_| PublishSpec::of("{}"))
        .await;
    console.server.wait_for_requests(1, DEADLINE).await;

    console.worker.terminate();

    browser.wait_for_text("#verdict", "Draining").await;
    browser.wait_for_text("#in-flight-scroll", "handling").await;
    gate.open();
    let exit = console.worker.exited(DEADLINE).await;
    assert!(exit.status.success());
    browser.wait_for_text("#gone", "was draining").await;
    browser.wait_for_text("#gone", "as of").await;
    browser.wait_for_text("#verdict", "Gone").await;
    let greyed = "document.body.classList.contains('lost')";
    assert_eq!(browser.eval(greyed).await, true);

    let listen = console
        .url
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let changes = format!("[admin]\nlisten = '{listen}'");
    let next = WorkerProcess::start_with_admin(
        &consumer(&console.vhost, "q")
            .http(&console.server)
            .with(ADMIN)
            .with(&changes)
            .toml(),
    );
    assert_eq!(address(&next).await, console.url);
    browser.wait_for_text("#verdict", "Healthy").await;
    browser.wait_for("#gone", "nothing", str::is_empty).await;
    assert_eq!(
        outcome(browser, "Succeeded").await,
        0,
        "it is another worker"
    );
    Account::new(ids, &console.server.seen()).assert_exactly_once();
    console.browser.end().await;
}

/// What a screen reader needs, and what is missing of it in the page as it stands.
const UNNAMED: &str = r#"[
    ...[...document.querySelectorAll('button, a[href], input, select')]
        .filter(element => element.checkVisibility())
        .filter(element => !(element.textContent.trim() || element.labels?.length
            || element.getAttribute('aria-label')))
        .map(element => 'no name: ' + element.outerHTML),
    ...[...document.querySelectorAll('[aria-labelledby]')]
        .filter(element => !document.getElementById(element.getAttribute('aria-labelledby')))
        .map(element => 'no such label: ' + element.outerHTML.slice(0, 90)),
    ...[...document.querySelectorAll('table')]
        .filter(table => !table.caption || !table.querySelector('thead th[scope=col]')
            || [...table.tBodies[0].rows].some(row => row.cells[0].scope !== 'row'))
        .map(table => 'no headers: ' + table.outerHTML.slice(0, 90)),
    ...['header', 'nav', 'main', 'footer', 'h1', 'html[lang]']
        .filter(css => !document.querySelector(css))
        .map(css => 'no ' + css),
]"#;

#[tokio::test]
async fn it_fits_a_phone_in_the_light_and_in_the_dark_and_names_what_it_shows() {
    let gate = Gate::default();
    let held = |request: &Request| request.message_id().starts_with("held");
    let server =
        HttpHandler::holding(&gate, held, |_| Reply::status(500).body("no ".repeat(200))).await;
    let long = "[consumers.a_consumer_whose_name_is_much_longer_than_a_phone_is_wide]\n\
                queue = 'other'\nhandler = { kind = 'log' }";
    let console = Console::open(server, long).await;
    let browser = &console.browser;
    let name = "x".repeat(200);
    for kind in ["held", "bad"] {
        let id = format!("{kind}-{name}");
        console
            .vhost
            .publish_with(PublishSpec::to("q").id(&id))
            .await;
    }
    browser.wait_for_text("#in-flight-scroll", "held-x").await;
    browser.wait_for_text("#failures-scroll", "bad-x").await;
    browser
        .wait_for_text("#consumers-scroll", "consuming")
        .await;

    let mut grounds = Vec::new();
    for place in ["#all", "#consumer/q"] {
        browser.eval(&format!("location.hash = '{place}'")).await;
        browser
            .wait_for("#consumer", "what is chosen", |text| {
                text.is_empty() == (place == "#all")
            })
            .await;
        for (width, scheme) in [(360, "light"), (360, "dark"), (1280, "light")] {
            browser.look(width, 740, scheme).await;
            let wide = browser.eval("document.documentElement.scrollWidth").await;
            assert_eq!(wide, width, "{place} in {scheme}");
            grounds.push(
                browser
                    .eval("getComputedStyle(document.body).backgroundColor")
                    .await,
            );
            let unnamed = browser.eval(UNNAMED).await;
            assert_eq!(unnamed, serde_json::json!([]), "{place} at {width}");
        }
    }
    assert_ne!(grounds[0], grounds[1], "dark differs from light");
    console.browser.end().await;
}
