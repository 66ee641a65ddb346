//! Which of several brokers the worker connects to, and when.

use lapwing::{Client, Readiness, Settings, broker::BrokerError};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use super::{QUEUE, User, handler, orders};
use crate::support::{
    Account, Broker, DEADLINE, HttpHandler, Proxy, RunningWorker, VHost, require, vhost,
    wait_until, within,
};

/// Publishes a message, and waits until the worker has handled it.
async fn handles_a_message(worker: RunningWorker, vhost: &VHost, handler: &HttpHandler) {
    worker.ready().await;
    let ids = vec![vhost.publish(QUEUE, "{}").await];
    handler.wait_for_success(&ids).await;
    worker.drain().await;
    Account::take(vhost, ids, &handler.seen(), &[QUEUE])
        .await
        .assert_exactly_once();
}

#[tokio::test]
async fn a_broker_that_is_down_at_start_is_waited_for_and_then_consumed() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    proxy.refuse().await;
    let handler = handler().await;
    let worker = orders(&proxy.url(&vhost), &handler).begin();
    let why = worker.not_ready().await;
    assert!(why.contains("refused"), "{why}");
    assert_eq!(vhost.consumers(QUEUE).await, 0);

    proxy.accept_again();

    handles_a_message(worker, &vhost, &handler).await;
}

#[tokio::test]
async fn a_wrong_password_and_a_missing_virtual_host_are_said_and_mended() {
    let broker = Broker::shared().await;
    let vhost = broker.vhost().await;
    let user = User::create(&vhost).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("url");
    let write = |url: String| std::fs::write(&file, url).expect("our own file");
    write(user.url(&vhost.amqp_url(), "wrong"));
    let handler = handler().await;
    let worker = orders(file.as_path(), &handler).begin();

    let says = |text: &'static str| {
        move |readiness: &Readiness| {
            let reason = readiness.consumers[QUEUE].reason.as_deref();
            !readiness.ready && reason.is_some_and(|reason| reason.contains(text))
        }
    };
    worker
        .until("is refused its password", says("ACCESS_REFUSED"))
        .await;
    write(user.url(&vhost.amqp_url(), &user.password) + "-missing");
    worker
        .until("is refused its virtual host", says("NOT_ALLOWED"))
        .await;
    write(user.url(&vhost.amqp_url(), &user.password));

    handles_a_message(worker, &vhost, &handler).await;
    user.delete().await;
}

#[tokio::test]
async fn of_several_urls_a_dead_one_is_passed_over_and_a_lost_one_replaced() {
    let vhost = vhost().await;
    let (dead, first) = (Proxy::to(&vhost).await, Proxy::to(&vhost).await);
    let second = Proxy::to(&vhost).await;
    dead.refuse().await;
    let urls = [&dead, &first, &second].map(|proxy| format!("'{}'", proxy.url(&vhost)));
    let several = format!("[broker]\nurl = [{}]", urls.join(", "));
    let handler = handler().await;
    let worker = orders("amqp://replaced", &handler)
        .with(&several)
        .start()
        .await;
    assert_eq!((first.open(), second.open()), (2, 0), "in turn");

    first.refuse().await;
    first.cut().await;
    worker.not_ready().await;

    worker.ready().await;
    worker.publishes().await;
    assert_eq!((first.open(), second.open()), (0, 2), "the next in turn");
    handles_a_message(worker, &vhost, &handler).await;
}

#[tokio::test]
async fn an_ipv6_literal_is_an_address() {
    let vhost = vhost().await;
    let listener = TcpListener::bind("[::1]:0").await;
    let listener = require!(Ipv6, listener.map_err(|error| error.to_string()));
    let address = listener.local_addr().expect("it is bound");
    let upstream = url::Url::parse(&vhost.amqp_url()).expect("our own url is one");
    let port = upstream.port().expect("it names its port");
    let upstream = format!("{}:{port}", upstream.host_str().expect("and its host"));
    let relaying = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut broker = TcpStream::connect(&upstream).await.expect("it runs");
            tokio::spawn(async move {
                // An error is the end of the connection, which the test expects.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut broker).await;
            });
        }
    });
    let handler = handler().await;
    let url = vhost.amqp_url_through(address);
    assert!(url.contains("[::1]"), "{url}");
    let worker = orders(&url, &handler).begin();
    handles_a_message(worker, &vhost, &handler).await;
    relaying.abort();
}

fn client_settings(url: &str) -> Settings {
    let text = format!(
        "[broker]\nurl = '{url}'\nreconnect = {{ base = '1ms', cap = '10ms' }}\n\
         [timeouts]\nconnect = '1h'\nhandshake = '1h'"
    );
    Settings::from_toml(&text).unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test]
async fn a_client_that_could_not_connect_leaves_nothing_behind() {
    const TRIES: usize = 5;
    let vhost = vhost().await;
    let mut nobody = url::Url::parse(&vhost.amqp_url()).expect("our own url is one");
    nobody.set_username("nobody").expect("it can have one");
    let nowhere = "amqp://127.0.0.1:1";
    let tasks = || async { Handle::current().metrics().num_alive_tasks() };
    // The test's own helpers have a few tasks too.
    let before = tasks().await;
    for url in [nowhere, nobody.as_str()] {
        for _ in 0..TRIES {
            let refused = Client::connect(&client_settings(url), 1).await.map(drop);
            let why = refused.expect_err("nobody is there");
            assert_eq!(matches!(why, BrokerError::Lost(_)), url == nowhere, "{why}");
        }
        let few = |tasks: &usize| *tasks < before + TRIES;
        wait_until("nothing is left of them", DEADLINE, tasks, few).await;
    }
}

#[tokio::test]
async fn a_client_that_nobody_waits_for_hangs_up_on_a_silent_peer() {
    let peer = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = peer.local_addr().expect("it is bound");
    let settings = client_settings(&format!("amqp://{address}"));
    let connecting = tokio::spawn(async move { Client::connect(&settings, 1).await.map(drop) });
    let (mut silent, _) = within("its connection", peer.accept())
        .await
        .expect("it connects");

    let mut header = [0; 8];
    within("its header", silent.read_exact(&mut header))
        .await
        .expect("it speaks first");

    connecting.abort();

    let end = within("its end", silent.read(&mut header)).await;
    assert_eq!(end.expect("it hangs up"), 0);
}

#[tokio::test]
async fn a_client_that_is_dropped_closes_its_connection() {
    let vhost = vhost().await;
    let connected = Client::connect(&client_settings(&vhost.amqp_url()), 1).await;
    let (client, closed) = connected.expect("the broker takes it");
    let other = client.clone();
    drop(client);
    assert!(!closed.is_finished());

    drop(other);

    within("its end", closed).await.expect("no panic");
}
