//! Very many dead letters: by the command, by the API and on the page.

use std::process::Stdio;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use super::browser::Browser;
use crate::support::{
    ADMIN, Admin, DEADLINE, PublishSpec, TOKEN, VHost, WorkerProcess, admin::answer, consumer,
    vhost, wait_until,
};

const DEAD: &str = "q.dead";
/// The longest that one command or one job may take.
const LONGEST: Duration = Duration::from_secs(150);

#[tokio::test]
async fn thousands_of_letters_take_little_memory() {
    play(3_000).await;
}

#[tokio::test]
#[ignore = "takes a minute or more: make letters"]
async fn a_hundred_thousand_letters_take_no_more_memory_than_promised_load() {
    play(100_000).await;
}

async fn play(count: usize) {
    let vhost = vhost().await;
    let config = consumer(&vhost, "q").with(ADMIN);
    let config = config.with("[consumers.q]\nhandler = { kind = 'log' }");
    let worker = WorkerProcess::start_with_admin(&config.toml());
    worker.wait_for_consumers(&vhost, "q", 1).await;
    vhost.publish_many(DEAD, count, letter).await;

    let began = Instant::now();
    let (groups, peak) = groups(&vhost).await;
    tell(count, "lapwing dead groups", began, peak);
    assert_eq!(counted(&groups), count as u64);
    // The command keeps no letter, only what it needs to return it.
    assert!(peak < 70_000, "lapwing dead groups took {peak} KiB");

    let began = Instant::now();
    let admin = Admin::of(&worker).await;
    look(&admin).await;
    tell(count, "a look of the worker", began, worker.peak_memory());
    read(&admin, count).await;
    show(&admin, count).await;
    let peak = worker.peak_memory();
    tell(count, "all requests", began, peak);
    // A look keeps a line for each letter: of 100,000, the worker takes less than 130 MB.
    let room = 85_000 + count as u64 * 4 / 10;
    assert!(peak < room, "the worker took {peak} KiB, of {room}");
    let dead = u32::try_from(count).expect("not that many");
    vhost.wait_for_counts(DEAD, dead, 0, DEADLINE).await;
}

/// `make letters` shows what was measured.
fn tell(count: usize, what: &str, began: Instant, peak: u64) {
    println!(
        "{count} letters, {what}: {:.1?}, peak {peak} KiB",
        began.elapsed()
    );
}

/// A letter as a worker writes it, with one of 40 causes and a body like that of an order.
fn letter(number: usize) -> PublishSpec {
    let cause = number % 40;
    PublishSpec::of(format!(
        "{{\"number\":{number},\"note\":\"{}\"}}",
        "x".repeat(300)
    ))
    .header("lapwing-reason", "max-attempts")
    .header(
        "lapwing-error",
        format!("HTTP 503 from http://warehouse.example/stock/{number}: no answer {cause}")
            .as_str(),
    )
    .header("lapwing-error-kind", "http")
    .header("lapwing-fingerprint", format!("{cause:016x}").as_str())
    .header("lapwing-attempts", 8)
    .header("lapwing-first-seen", "2026-11-27T08:00:00.000Z")
    .header("lapwing-failed-at", "2026-11-27T09:00:00.000Z")
    .header("lapwing-source-queue", "q")
    .header("lapwing-source-exchange", "")
    .header("lapwing-source-routing-key", "q")
    .header("lapwing-worker", "w")
    .header("lapwing-replays", 0)
}

/// What `lapwing dead groups` prints, and the most memory that it took, in KiB.
async fn groups(vhost: &VHost) -> (Value, u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LAPWING_") {
            command.env_remove(name);
        }
    }
    let arguments = ["dead", "groups", "--json", "--limit", "0", "--queue", DEAD];
    let child = command
        .args(arguments)
        .env("LAPWING__BROKER__URL", vhost.amqp_url())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let status = format!("/proc/{}/status", child.id().expect("it runs"));
    let peak = async {
        let mut peak = 0;
        loop {
            let status = std::fs::read_to_string(&status).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            peak = kib.unwrap_or(0).max(peak);
            tokio::time::sleep(Duration::from_millis(5)).await;
            if status.is_empty() {
                return peak;
            }
        }
    };
    let both = tokio::time::timeout(LONGEST, async {
        tokio::join!(child.wait_with_output(), peak)
    });
    let (ended, peak) = both.await.expect("it ends in time");
    let ended = ended.expect("it ends");
    assert!(ended.status.success(), "{ended:?}");
    let printed = serde_json::from_slice(&ended.stdout).expect("it prints JSON");
    (printed, peak)
}

fn counted(groups: &Value) -> u64 {
    let groups = groups["groups"].as_array().expect("a list");
    groups
        .iter()
        .filter_map(|group| group["count"].as_u64())
        .sum()
}

/// Looks at the letters, and checks that the worker tells how far the job is.
async fn look(admin: &Admin) {
    let request = admin.request(Method::POST, "/api/v1/dead/q/look");
    let request = request
        .header("content-type", "application/json")
        .body("{}");
    let (status, job) = answer(request.bearer_auth(TOKEN)).await;
    assert_eq!(status, 202, "{job}");
    let path = format!("/api/v1/dead/q/jobs/{}", job["id"].as_str().expect("an id"));
    let ended = wait_until(
        "the look has ended",
        LONGEST,
        async || admin.read(&path).await,
        |job| job["state"] != "running",
    );
    let ended = ended.await;
    assert_eq!(ended["state"], "done", "{ended}");
    assert_eq!(
        ended["progress"]["seen"], ended["progress"]["total"],
        "{ended}"
    );
}

/// Reads all letters page by page, by cause, and one by its id.
async fn read(admin: &Admin, count: usize) {
    let groups = admin.read("/api/v1/dead/q/groups?limit=1000").await;
    assert_eq!(
        (&groups["causes"], counted(&groups)),
        (&json!(40), count as u64)
    );
    let (mut seen, mut cursor) = (0, String::new());
    loop {
        let path = format!("/api/v1/dead/q/letters?limit=1000{cursor}");
        let page = admin.read(&path).await;
        seen += page["letters"].as_array().expect("a list").len();
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, count);
    let last = format!("{DEAD}-{:05}", count - 1);
    let found = admin
        .read(&format!("/api/v1/dead/q/letters?text={last}"))
        .await;
    assert_eq!(
        (&found["total"], &found["letters"][0]["id"]),
        (&json!(1), &json!(last))
    );
}

/// Turns pages, chooses a cause and searches in a browser.
async fn show(admin: &Admin, count: usize) {
    let browser = Browser::start().await;
    browser
        .open(&format!("http://{}/#dead/q", admin.address()))
        .await;
    let all = grouped(count);
    browser
        .wait_for_text("#dead-where", &format!("1–50 of {all}"))
        .await;
    browser
        .wait_for_text("#dead-groups-count", "40 causes")
        .await;
    browser.click("#dead-next").await;
    browser
        .wait_for_text("#dead-where", &format!("51–100 of {all}"))
        .await;
    browser
        .click("#dead-groups tbody tr:first-child button.cause")
        .await;
    let of_cause = format!("1–50 of {}", grouped(count / 40));
    browser.wait_for_text("#dead-where", &of_cause).await;
    browser.click("#dead-all-causes").await;
    browser
        .wait_for_text("#dead-where", &format!("1–50 of {all}"))
        .await;
    browser.click("#dead-text").await;
    browser.press(&format!("{DEAD}-{:05}", count - 1)).await;
    browser.wait_for_text("#dead-where", "1–1 of 1").await;
    browser.end().await;
}

fn grouped(number: usize) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", number / 1000, number % 1000),
    }
}
