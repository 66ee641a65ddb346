//! Connections that break, go idle or grow old.

use super::*;

/// The connection of each request.
fn connections(server: &Server) -> Vec<usize> {
    let asked = server.asked();
    asked.iter().map(|asked| asked.connection).collect()
}

#[tokio::test]
async fn a_used_connection_that_breaks_before_the_answer_costs_no_attempt() {
    let server = Server::answering(|asked| match asked.earlier {
        0 => Say::ok(),
        _ => Say::Close,
    })
    .await;
    let handler = handler(server.url());
    for _ in 0..3 {
        assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    }
    let attempts = server.asked();
    assert!(
        attempts
            .iter()
            .all(|asked| asked.header("lapwing-attempt") == "1")
    );
    assert_eq!(connections(&server), [0, 0, 1, 2]);
}

#[tokio::test]
async fn a_new_connection_that_breaks_before_the_answer_costs_an_attempt() {
    let server = Server::answering(|_| Say::Close).await;
    let failure = failure(&handler(server.url()), plain()).await;
    assert_eq!(failure.class, "http-request");
    assert_eq!(connections(&server), [0]);
}

#[tokio::test]
async fn a_service_that_breaks_the_second_connection_too_costs_an_attempt() {
    let server = Server::answering(|asked| match (asked.connection, asked.earlier) {
        (0, 0) => Say::ok(),
        _ => Say::Close,
    })
    .await;
    let handler = handler(server.url());
    assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    failure(&handler, plain()).await;
    assert_eq!(connections(&server), [0, 0, 1]);
}

#[tokio::test]
async fn connections_are_not_kept_as_long_as_common_servers_keep_them() {
    let server = Server::answering(|_| Say::ok()).await;
    let handler = handler(server.url());
    for wait in [3000, 4500, 0] {
        assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
        pass(Duration::from_millis(wait)).await;
    }
    assert_eq!(connections(&server), [0, 0, 1]);
}

/// Otherwise a service that moves to another address is asked at its old one for ever.
#[tokio::test]
async fn connections_have_an_age_limit_even_if_they_are_never_idle() {
    let server = Server::answering(|_| Say::ok()).await;
    let handler = handler(server.url());
    for _ in 0..62 {
        assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
        pass(Duration::from_secs(1)).await;
    }
    let used = connections(&server);
    assert_eq!((used[0], used[59], used[61]), (0, 0, 1));
}
