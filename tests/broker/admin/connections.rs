//! Connections to the admin server that send too much, or nothing.

use std::time::{Duration, Instant};

use lapwing::Settings;
use lapwing::Worker;
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{ADMIN, Admin, BUSY, Events, TOKEN, admin::answer, within};

/// An admin server whose worker never runs: these tests need no broker.
fn server() -> (Worker, Admin) {
    let consumer = "[timeouts]\ncall = '10ms'\n[consumers.q]\nqueue = 'q'\n";
    let settings = Settings::from_toml(&format!("{ADMIN}{consumer}")).expect("they are valid");
    let worker = Worker::new(settings.clone());
    let admin = Admin::start(&settings, &worker.handle());
    (worker, admin)
}

/// Sends bytes to the server. Returns what the server sent until it closed the connection, and the
/// time that this took.
async fn hung_up(admin: &Admin, head: &str) -> (String, Duration) {
    let began = Instant::now();
    let mut stream = TcpStream::connect(admin.address())
        .await
        .expect("it accepts");
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    // A reset ends the connection too.
    let _ = within("the server to hang up", stream.read_to_string(&mut answer)).await;
    (answer, began.elapsed())
}

/// The head of a request that announces a body of this length.
fn patch(admin: &Admin, length: usize) -> String {
    let host = admin.address();
    format!(
        "PATCH /api/v1/consumers/q HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn who_sends_no_request_is_hung_up_on() {
    let (_worker, admin) = server();
    let host = admin.address();
    let whole = format!("GET /startupz HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let bodiless = patch(&admin, 9);
    let (nothing, half, idle, bodiless) = tokio::join!(
        hung_up(&admin, ""),
        hung_up(&admin, "GET /livez HTTP/1.1\r\nhost:"),
        hung_up(&admin, &whole),
        hung_up(&admin, &bodiless),
    );
    assert!(idle.0.starts_with("HTTP/1.1 503"), "{}", idle.0);
    assert!(bodiless.0.starts_with("HTTP/1.1 408"), "{}", bodiless.0);
    for (answer, took) in [nothing, half, idle, bodiless] {
        assert!(took > Duration::from_secs(5), "{took:?}: {answer}");
    }
}

#[tokio::test]
async fn heads_and_bodies_have_their_limits() {
    let (_worker, admin) = server();
    let change = || {
        let request = admin.request(Method::PATCH, "/api/v1/consumers/q");
        let request = request.header("content-type", "application/json");
        request.bearer_auth(TOKEN)
    };
    let long = format!("{{\"concurrency\": 1{}}}", " ".repeat(20_000));
    let (status, body) = answer(change().body(long)).await;
    assert_eq!(status, 413, "{body}");
    let (status, _) = answer(change().header("x-long", "x".repeat(40_000))).await;
    assert_eq!(status, 431);
    // A body that is announced and too long is refused before it is sent.
    let (answered, _) = hung_up(&admin, &patch(&admin, 20_000_000)).await;
    assert!(answered.starts_with("HTTP/1.1 413"), "{answered}");
}

#[tokio::test]
async fn connections_that_are_open_do_not_hold_up_its_end() {
    let (_worker, admin) = server();
    let stream = Events::open(&admin).await;
    let mut idle = TcpStream::connect(admin.address())
        .await
        .expect("it accepts");
    // A request whose body is never sent.
    let head = patch(&admin, 9);
    idle.write_all(head.as_bytes()).await.expect("it reads");
    let silent = TcpStream::connect(admin.address())
        .await
        .expect("it accepts");
    assert_eq!(admin.get("/livez").await.0, 200);

    let began = Instant::now();
    admin.stop().await;
    let took = began.elapsed();

    // The server closes a connection that sends nothing for ten seconds.
    assert!(took < BUSY, "{took:?}");
    stream.ended().await;
    drop(silent);
}
