//! Secrets from files: the worker uses a changed secret, and never logs one.

use std::path::Path;

use super::{QUEUE, User, assert_never_says, handler, orders};
use crate::support::{
    Consumers, DEADLINE, HttpHandler, VHost, WorkerProcess, log_message, vhost, wait_until,
};

/// Runs a worker with the configuration `configured`. Changes its user's password, calls `write` to
/// put the password into its file, and makes the worker reconnect.
async fn rotated(
    vhost: &VHost,
    mut user: User<'_>,
    configured: impl Fn(&Path, &User<'_>, &HttpHandler) -> Consumers,
    write: impl Fn(&Path, &User<'_>),
) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("secret");
    write(&file, &user);
    let handler = handler().await;
    let mut worker = WorkerProcess::start(&configured(&file, &user, &handler).toml());
    worker.wait_for_consumers(vhost, QUEUE, 1).await;
    vhost.publish(QUEUE, "{}").await;
    handler.wait_for_answered(1, DEADLINE).await;

    let before = user.password.clone();
    user.rotate().await;
    write(&file, &user);
    let listed = async || vhost.connections().await.len();
    let both = "one connection consumes and one publishes";
    wait_until(both, DEADLINE, listed, |n| *n == 2).await;
    vhost.close_connections().await;

    worker.wait_for_consumers(vhost, QUEUE, 1).await;
    vhost.publish(QUEUE, "{}").await;
    handler.wait_for_answered(2, DEADLINE).await;
    worker.drain(DEADLINE).await;
    let refused = |line: &&serde_json::Value| line.to_string().contains("ACCESS_REFUSED");
    let log = worker.log();
    assert_eq!(
        log.iter().find(refused),
        None,
        "the new secret was there in time"
    );
    assert!(
        log.iter()
            .any(|line| log_message(line) == "not connected to the broker")
    );
    for secret in [before.as_str(), &user.password, "not-this-one"] {
        assert_never_says(&worker, secret);
    }
    user.delete().await;
}

#[tokio::test]
async fn a_changed_password_file_is_read_at_the_next_connect() {
    let vhost = vhost().await;
    let user = User::create(&vhost).await;
    let configured = |file: &Path, user: &User<'_>, handler: &HttpHandler| {
        let from_file = format!("[broker]\npassword_file = '{}'", file.display());
        let url = user.url(&vhost.amqp_url(), "not-this-one");
        orders(&url, handler).with(&from_file)
    };
    let write = |file: &Path, user: &User<'_>| {
        std::fs::write(file, format!("{}\n", user.password)).expect("our own file");
    };
    rotated(&vhost, user, configured, write).await;
}

#[tokio::test]
async fn a_changed_url_file_is_read_at_the_next_connect() {
    let vhost = vhost().await;
    let user = User::create(&vhost).await;
    let configured = |file: &Path, _: &User<'_>, handler: &HttpHandler| orders(file, handler);
    let write = |file: &Path, user: &User<'_>| {
        let url = user.url(&vhost.amqp_url(), &user.password);
        std::fs::write(file, format!("{url}\n")).expect("our own file");
    };
    rotated(&vhost, user, configured, write).await;
}
