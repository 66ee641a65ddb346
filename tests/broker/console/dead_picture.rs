//! Pictures of the page for dead letters, to look at after a change; `dead-list-light` is
//! docs/dead-letters.png. Not a test, a program that needs all the tests' parts.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::address;
use super::browser::{Browser, ENTER};
use crate::support::{
    DEADLINE, HttpHandler, PublishSpec, Reply, TOKEN, VHost, WorkerProcess, vhost,
};

const DEAD: &str = "orders.dead";
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/pictures");

/// Causes: error class, error, fingerprint, type, and how many letters of a hundred have it.
const CAUSES: [(&str, &str, &str, &str, usize); 5] = [
    (
        "http",
        "503 Service Unavailable: the warehouse does not answer",
        "9f86d081884c7d65",
        "order.paid",
        58,
    ),
    (
        "http",
        "422 Unprocessable Entity: {\"error\":\"unknown currency\",\"currency\":\"XBT\"}",
        "4e07408562bedb8b",
        "order.created",
        24,
    ),
    (
        "timeout",
        "the handler took longer than 20s",
        "ef2d127de37b942b",
        "order.paid",
        12,
    ),
    (
        "panic",
        "index out of bounds: the len is 3 but the index is 7",
        "7902699be42c8a8e",
        "invoice.drawn",
        5,
    ),
    (
        "decode",
        "expected value at line 1 column 1",
        "6b51d431df5d7f14",
        "order.created",
        1,
    ),
];

/// A letter that a worker dead-lettered within the last three hours, most within an outage.
fn letter(number: usize) -> PublishSpec {
    let spread = number * 7919 % 100;
    let mut below = 0;
    let cause = CAUSES.iter().find(|cause| {
        below += cause.4;
        spread < below
    });
    let (kind, error, fingerprint, message_type, _) = *cause.expect("the parts make a hundred");
    let ago = match kind {
        "http" if error.starts_with("503") => 5_400 + number * 31 % 1_500,
        "timeout" => 4_000 + number * 53 % 6_000,
        _ => number * 97 % 10_800,
    };
    let at = |seconds: usize| {
        let time = SystemTime::now() - Duration::from_secs(seconds as u64);
        humantime::format_rfc3339_millis(time).to_string()
    };
    let history: Vec<_> = (1..=8_usize)
        .map(|attempt| {
            json!({
                "at": at(ago + (1 << (8 - attempt)) - 1), "attempt": attempt, "kind": kind, "error": error,
                "worker": format!("shop@shop-{}:1", attempt % 3), "trace": format!("{:032x}", number * 77 + attempt),
            })
        })
        .collect();
    let body = json!({
        "id": 4000 + number, "customer": { "id": number % 91, "country": "QX" },
        "items": [{ "sku": "A-17", "count": 2 }, { "sku": "B-4", "count": 1 }], "total": "12.90",
    });
    PublishSpec::of(body.to_string())
        .header(
            "lapwing-reason",
            if kind == "decode" {
                "decode"
            } else {
                "max-attempts"
            },
        )
        .header("lapwing-error", error)
        .header("lapwing-error-kind", kind)
        .header("lapwing-fingerprint", fingerprint)
        .header("lapwing-attempts", 8)
        .header(
            "lapwing-history",
            serde_json::to_string(&history).expect("JSON").as_str(),
        )
        .header("lapwing-first-seen", at(ago + 260).as_str())
        .header("lapwing-failed-at", at(ago).as_str())
        .header("lapwing-source-queue", "orders")
        .header("lapwing-source-exchange", "shop")
        .header("lapwing-source-routing-key", message_type)
        .header("lapwing-worker", "shop@shop-1:1")
        .header("lapwing-replays", i64::from(number.is_multiple_of(11)))
        .header("tenant", ["acme", "umbrella", "initech"][number % 3])
        .header(
            "traceparent",
            format!("00-{:032x}-{:016x}-01", number * 77 + 8, number + 1).as_str(),
        )
        .with(|it| {
            it.with_type(message_type.into())
                .with_content_type("application/json".into())
        })
}

async fn worker(vhost: &VHost, server: &HttpHandler) -> WorkerProcess {
    let config = format!(
        "[broker]\nurl = '{}'\nname = 'shop'\n[admin]\nlisten = '127.0.0.1:0'\ntoken = '{TOKEN}'\n\
         trace_url = 'https://traces.example.com/{{trace_id}}'\n[consumers.orders]\nqueue = 'orders'\n\
         handler = {{ kind = 'http', url = '{}' }}\n",
        vhost.amqp_url(),
        server.url(),
    );
    let worker = WorkerProcess::start_with_admin(&config);
    worker.wait_for_consumers(vhost, "orders", 1).await;
    worker
}

async fn take(browser: &Browser, name: &str) {
    // Under the name that is configured, without this machine's.
    let named = "document.getElementById('worker-name').textContent = 'shop'";
    browser.eval(named).await;
    std::fs::create_dir_all(FOLDER).expect("target is ours");
    let file = format!("{FOLDER}/dead-{name}.png");
    std::fs::write(file, browser.picture().await).expect("the folder is there");
}

#[tokio::test]
#[ignore = "takes target/pictures/dead-*.png"]
async fn the_page_for_dead_letters() {
    let count: usize = std::env::var("LETTERS").map_or(641, |it| it.parse().expect("a number"));
    let vhost = vhost().await;
    let server = HttpHandler::answering(|_| Reply::status(422).body("unknown currency")).await;
    let worker = worker(&vhost, &server).await;
    vhost.publish_many(DEAD, count, letter).await;
    let ready = u32::try_from(count).expect("not that many");
    vhost.wait_for_counts(DEAD, ready, 0, DEADLINE).await;
    let browser = Browser::start().await;
    browser.look(1280, 900, "light").await;
    browser.open(&address(&worker).await).await;
    browser.wait_for_text("#verdict", "Healthy").await;
    browser.click("#nav-dead").await;
    browser.wait_for_text("#dead-count", "letters").await;
    take(&browser, "before").await;
    browser.click("#dead-look").await;
    browser.wait_for_text("#token-dialog", "Changes need").await;
    browser.press(&format!("{TOKEN}{ENTER}")).await;
    browser.wait_for_text("#dead-groups", "warehouse").await;
    for (name, width, height, scheme) in [
        ("list-light", 1280, 1000, "light"),
        ("list-dark", 1280, 1000, "dark"),
        ("list-phone", 360, 1600, "light"),
        ("list-phone-dark", 360, 800, "dark"),
    ] {
        browser.look(width, height, scheme).await;
        take(&browser, name).await;
    }
    browser.look(1280, 900, "light").await;
    browser.click("#dead-groups tr:nth-child(3) button").await;
    browser.wait_for_text("#dead-letters-count", "7").await;
    take(&browser, "cause").await;
    browser.click("#dead-replay").await;
    take(&browser, "replay").await;
    browser.click("#dead-replay-yes").await;
    browser
        .wait_for_text("#dead-job-text", "canaries succeeded")
        .await;
    take(&browser, "canaries").await;
    browser.look(360, 800, "dark").await;
    take(&browser, "canaries-phone").await;
    browser.look(1280, 1100, "light").await;
    browser.click("#dead-letters tbody a").await;
    browser
        .wait_for_text("#dead-letter-story", "Attempt 8")
        .await;
    take(&browser, "letter-light").await;
    browser.look(1280, 1100, "dark").await;
    take(&browser, "letter-dark").await;
    browser.look(360, 1700, "light").await;
    take(&browser, "letter-phone").await;
    browser.look(1280, 900, "light").await;
    browser.click("#dead-letter-edit").await;
    take(&browser, "edit").await;
    browser.press("\u{e00c}").await;
    browser.click("#dead-letter-drop").await;
    take(&browser, "drop").await;
    browser.end().await;
}
