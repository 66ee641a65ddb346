//! The worker process: exit codes, and attempts to connect that leak nothing.

use std::fs::read_dir;
use std::time::Duration;

use tokio::net::TcpListener;

use super::{QUEUE, User, assert_never_says, handler, orders};
use crate::support::{
    Broker, DEADLINE, Proxy, QueueType, WorkerProcess, field, log_message, vhost, wait_until,
};

/// Long enough for a start, and shorter than a wait between two attempts.
const AT_ONCE: Duration = Duration::from_secs(10);

/// The exit code and the last log line of a worker with `fail_fast` at `url`.
async fn fail_fast(url: &str, secret: &str) -> (Option<i32>, String) {
    let fast = "[broker]\nfail_fast = true";
    let mut worker = WorkerProcess::start(&orders(url, &handler().await).with(fast).toml());
    let exit = worker.exited(AT_ONCE).await;
    assert_never_says(&worker, secret);
    let log = worker.log();
    let last = log.iter().rfind(|line| log_message(line) == "cannot run");
    let why = field(last.expect("it says why"), "error").to_string();
    (exit.status.code(), why)
}

#[tokio::test]
async fn fail_fast_exits_69_at_once_where_the_broker_is_down() {
    let vhost = vhost().await;
    let user = User::create(&vhost).await;
    let proxy = Proxy::to(&vhost).await;
    proxy.refuse().await;

    let url = user.url(&proxy.url(&vhost), &user.password);
    let (code, why) = fail_fast(&url, &user.password).await;

    assert_eq!(code, Some(69), "{why}");
    assert!(why.contains("refused"), "{why}");
    user.delete().await;
}

#[tokio::test]
async fn fail_fast_exits_78_over_a_wrong_password_or_a_missing_virtual_host() {
    let vhost = vhost().await;
    let user = User::create(&vhost).await;

    let wrong = user.url(&vhost.amqp_url(), "not-the-password");
    let (code, why) = fail_fast(&wrong, "not-the-password").await;
    assert_eq!(code, Some(78), "{why}");
    assert!(why.contains("ACCESS_REFUSED"), "{why}");

    let url = user.url(&vhost.amqp_url(), &user.password);
    let (code, why) = fail_fast(&format!("{url}-missing"), &user.password).await;
    assert_eq!(code, Some(78), "{why}");
    assert!(
        why.contains("NOT_ALLOWED") || why.contains("not found"),
        "{why}"
    );
    user.delete().await;
}

#[tokio::test]
async fn fail_fast_gives_every_url_a_chance() {
    let vhost = vhost().await;
    let dead = Proxy::to(&vhost).await;
    dead.refuse().await;
    let both = format!(
        "[broker]\nfail_fast = true\nurl = ['{}', '{}']",
        dead.url(&vhost),
        vhost.amqp_url()
    );
    let handler = handler().await;
    let mut worker = WorkerProcess::start(&orders("amqp://replaced", &handler).with(&both).toml());
    worker.wait_for_consumers(&vhost, QUEUE, 1).await;
    worker.drain(DEADLINE).await;
}

/// The number of entries in a folder of `/proc/PID`.
fn count(worker: &WorkerProcess, folder: &str) -> usize {
    let path = format!("/proc/{}/{folder}", worker.pid());
    read_dir(path).expect("it runs").count()
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_is_given_up_and_leaves_no_thread() {
    let peer = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("amqp://u:p@{}/%2f", peer.local_addr().expect("it is bound"));
    let hasty = "
        [timeouts]
        connect = '200ms'
        handshake = '200ms'
        [log]
        filter = 'info'
    ";
    let mut worker = WorkerProcess::start(&orders(&url, &handler().await).with(hasty).toml());
    let mut open = Vec::new();
    let mut accept = async |n: usize| {
        while open.len() < n {
            let (client, _) = crate::support::within("a client", peer.accept())
                .await
                .expect("a client");
            open.push(client);
        }
    };
    accept(4).await;
    let given_up = |line: &serde_json::Value| {
        log_message(line) == "not connected to the broker"
            && field(line, "error")
                .to_string()
                .contains("does not answer in AMQP within")
    };
    worker
        .wait_for("an attempt that was given up", DEADLINE, given_up)
        .await;
    let (threads, files) = (count(&worker, "task"), count(&worker, "fd"));

    accept(24).await;

    // Two attempts can run at the same time: one for consuming, one for publishing.
    let now = async || (count(&worker, "task"), count(&worker, "fd"));
    let fits = |seen: &(usize, usize)| seen.0 <= threads + 2 && seen.1 <= files + 6;
    wait_until(
        "nothing of 20 attempts is left",
        Duration::from_secs(5),
        now,
        fits,
    )
    .await;
    worker.drain(DEADLINE).await;
}

#[tokio::test]
async fn a_conflict_that_is_found_when_the_broker_is_there_at_last_ends_the_worker() {
    let vhost = Broker::shared().await.vhost_with_a_short_name().await;
    vhost.declare(QUEUE, QueueType::Classic).await;
    let proxy = Proxy::to(&vhost).await;
    proxy.refuse().await;
    let url = proxy.url(&vhost);
    let mut worker = WorkerProcess::start(&orders(&url, &handler().await).toml());
    worker.wait_for_message("not consuming", DEADLINE).await;

    proxy.accept_again();

    let exit = worker.exited(AT_ONCE).await;
    assert_eq!(exit.status.code(), Some(78));
    let why = worker.wait_for_message("cannot run", DEADLINE).await;
    let why = field(&why, "error").to_string();
    assert!(why.contains("x-queue-type is"), "{why}");
}
