//! What follows an error, a time-out, a drain, and the loss of the database.

use std::time::Duration;

use lapwing::{ConsumerState, Readiness};

use super::{ORDERS, Setup, drained};
use crate::support::{DEADLINE, Postgres, PublishSpec, WorkerProcess};

/// A statement that takes as many seconds as its message says, and then has its effect.
const SLOW: &str = "WITH slept AS MATERIALIZED (SELECT pg_sleep(:seconds)) \
                    INSERT INTO orders (id) SELECT :id FROM slept";
const SLOW_PARAMETERS: &str = "seconds = 'body:/seconds', id = 'body:/id'";

#[tokio::test]
async fn the_sqlstate_decides_what_follows() {
    // A sequence is not rolled back, so it counts attempts.
    let function = "CREATE SEQUENCE attempts; \
        CREATE FUNCTION work(how text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN \
          IF how = 'fails' AND nextval('attempts') < 3 THEN \
            RAISE EXCEPTION 'not yet' USING ERRCODE = '40001'; \
          ELSIF how = 'bad' THEN RAISE EXCEPTION 'never'; \
          ELSIF how = 'unwanted' THEN RAISE EXCEPTION 'no' USING ERRCODE = 'LW001'; \
          END IF; INSERT INTO orders (id) VALUES (how); END $$;";
    let setup = Setup::new(&format!("{ORDERS}; {function}")).await;
    let consumer = setup
        .consumer(
            "SELECT work(:how)",
            "how = 'body'",
            "retry = { base = '10ms' }",
        )
        .with("consumers.q.handler.sqlstates = { LW001 = 'dropped' }");
    let worker = consumer.start().await;
    for body in ["good", "fails", "bad", "unwanted"] {
        setup.vhost.publish("q", body).await;
    }
    let (reason, error) = setup.dead_letter().await;
    assert_eq!(reason, "rejected");
    assert!(error.starts_with("P0001: never"), "{error}");
    let done = "SELECT count(*) FROM orders WHERE id IN ('good', 'fails')";
    setup.database.wait_for(done, 2_i64).await;
    setup.vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
    let report = worker
        .wait_for_report("all have ended", "q", |report| report.ledger.acked == 3)
        .await;
    assert_eq!(
        report.counts.failed, 3,
        "two of the retried one, one for good"
    );
    let ledger = drained(worker).await;
    assert_eq!((ledger.acked, ledger.dropped), (3, 1), "{ledger:?}");
    assert_eq!(
        setup
            .database
            .value::<i64>("SELECT count(*) FROM orders")
            .await,
        2
    );
}

#[tokio::test]
async fn a_deadlock_is_retried_and_both_have_their_effect() {
    let tables = "CREATE TABLE stock (id int PRIMARY KEY, n int); INSERT INTO stock VALUES (1, 0), (2, 0); \
        CREATE FUNCTION move(a int, b int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN \
          UPDATE stock SET n = n + 1 WHERE id = a; PERFORM pg_sleep(0.3); \
          UPDATE stock SET n = n + 1 WHERE id = b; END $$;";
    let setup = Setup::new(tables).await;
    let consumer = setup.consumer(
        "SELECT move(:a, :b)",
        "a = 'body:/a', b = 'body:/b'",
        "retry = { base = '10ms' }",
    );
    let worker = consumer.start().await;
    setup.vhost.publish("q", r#"{"a": 1, "b": 2}"#).await;
    setup.vhost.publish("q", r#"{"a": 2, "b": 1}"#).await;
    let report = worker
        .wait_for_report("both are done", "q", |report| report.ledger.acked == 2)
        .await;
    assert_eq!(report.counts.succeeded, 2);
    let sum = setup
        .database
        .value::<i64>("SELECT sum(n) FROM stock")
        .await;
    assert_eq!(sum, 4);
    drained(worker).await;
}

#[tokio::test]
async fn messages_wait_for_a_database_that_is_down_and_no_attempt_is_charged() {
    let postgres = Postgres::own("down").await;
    let mut setup = Setup::at(&postgres, ORDERS).await;
    let hasty = "breaker = { probe = '100ms', probe_cap = '500ms' }\nretry = { max_attempts = 2 }";
    let consumer = setup.consumer("INSERT INTO orders (id) VALUES (:id)", "id = 'body'", hasty);
    postgres.stop().await;
    // The worker starts without its database.
    let worker = consumer.start().await;
    setup
        .vhost
        .publish_many("q", 30, |n| PublishSpec::of(n.to_string()))
        .await;
    let is_down = |it: &Readiness| it.consumers["q"].state == ConsumerState::ServiceDown;
    worker.until("finds its database down", is_down).await;
    let reason = worker.handle.readiness().consumers["q"].reason.clone();
    let reason = reason.expect("it says why");
    assert!(reason.contains("PostgreSQL 127.0.0.1:"), "{reason}");

    postgres.start().await;
    worker
        .wait_for_report("all are done", "q", |report| report.ledger.acked == 30)
        .await;
    let ledger = drained(worker).await;
    assert_eq!((ledger.acked, ledger.dead_lettered), (30, 0), "{ledger:?}");
    setup.database.again().await;
    assert_eq!(
        setup
            .database
            .value::<i64>("SELECT count(*) FROM orders")
            .await,
        30
    );
}

#[tokio::test]
async fn a_server_that_crashes_in_the_middle_of_a_statement_leaves_no_half_effect() {
    let postgres = Postgres::own("crash").await;
    let mut setup = Setup::at(&postgres, ORDERS).await;
    let hasty = "breaker = { probe = '100ms', probe_cap = '500ms' }\nretry = { base = '50ms' }";
    let statement = "WITH seen AS (INSERT INTO orders (id) VALUES (:id::text || '-begun')), \
                     slept AS MATERIALIZED (SELECT pg_sleep(:seconds)) \
                     INSERT INTO orders (id) SELECT :id FROM slept";
    let worker = setup
        .consumer(statement, SLOW_PARAMETERS, hasty)
        .start()
        .await;
    let body = r#"{"id": "a", "seconds": 1}"#;
    setup.vhost.publish("q", body).await;
    let query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'WITH seen%'";
    setup.database.wait_for(query, 1_i64).await;
    postgres.kill().await;
    postgres.start().await;
    setup.database.again().await;
    worker
        .wait_for_report("it is done", "q", |report| report.ledger.acked == 1)
        .await;
    let count = setup
        .database
        .value::<i64>("SELECT count(*) FROM orders")
        .await;
    assert_eq!(count, 2);
    let ledger = drained(worker).await;
    assert_eq!(ledger.dead_lettered, 0, "{ledger:?}");
}

#[tokio::test]
async fn a_statement_that_takes_too_long_ends_at_the_server_and_has_no_effect() {
    let setup = Setup::new(ORDERS).await;
    // The start of the handler has this time too.
    let once = "timeout = '6s'\nretry = { max_attempts = 1 }";
    let worker = setup.consumer(SLOW, SLOW_PARAMETERS, once).start().await;
    setup
        .vhost
        .publish("q", r#"{"id": "slow", "seconds": 600}"#)
        .await;
    let (reason, error) = setup.dead_letter().await;
    assert_eq!(reason, "max-attempts");
    assert!(error.starts_with("no answer within 6"), "{error}");
    setup.database.wait_for(&running("WITH slept"), 0_i64).await;
    // The next message gets a session that works.
    setup
        .vhost
        .publish("q", r#"{"id": "fast", "seconds": 0}"#)
        .await;
    setup
        .database
        .wait_for(
            "SELECT string_agg(id, ',') FROM orders",
            Some("fast".to_owned()),
        )
        .await;
    drained(worker).await;
}

/// The number of sessions that are busy with such a statement.
fn running(beginning: &str) -> String {
    format!(
        "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' \
         AND datname = current_database() AND query LIKE '{beginning}%'"
    )
}

#[tokio::test]
async fn a_drain_waits_for_a_statement_and_cancels_it_after_the_grace() {
    for (seconds, acked, code) in [(1, 1, 0), (600, 0, 4)] {
        let setup = Setup::new(ORDERS).await;
        let config = setup
            .consumer(SLOW, SLOW_PARAMETERS, "")
            .with("drain.grace = '4s'")
            .toml();
        let mut worker = WorkerProcess::start(&config);
        worker.wait_for_consumers(&setup.vhost, "q", 1).await;
        let body = format!("{{\"id\": \"a\", \"seconds\": {seconds}}}");
        setup.vhost.publish("q", body).await;
        setup.database.wait_for(&running("WITH slept"), 1_i64).await;
        worker.terminate();
        let exit = worker.exited(DEADLINE).await;
        assert_eq!(exit.status.code(), Some(code));
        let ledger = worker.ledger();
        assert_eq!(
            (ledger.acked, ledger.returned),
            (acked, 1 - acked),
            "{ledger:?}"
        );
        // The server has heard of it before the worker ended, or learns it from the closed connection.
        setup.database.wait_for(&running("WITH slept"), 0_i64).await;
        let count = setup
            .database
            .value::<i64>("SELECT count(*) FROM orders")
            .await;
        assert_eq!(count.unsigned_abs(), acked);
    }
}

#[tokio::test]
async fn a_statement_that_the_database_refuses_stops_the_start() {
    let setup = Setup::new(ORDERS).await;
    for (statement, error) in [
        ("INSERT INTO missing (id) VALUES (:id)", "42P01: "),
        ("SELECT 1; SELECT :id", "42601: "),
    ] {
        let config = setup.consumer(statement, "id = 'body'", "").toml();
        let mut worker = WorkerProcess::start(&config);
        let exit = worker.exited(DEADLINE).await;
        assert_eq!(exit.status.code(), Some(78));
        let line = worker.log().last().cloned().expect("it says why");
        assert!(line.to_string().contains(error), "{line}");
    }
}

#[tokio::test]
async fn a_session_over_tls_needs_the_right_authority() {
    let postgres = Postgres::suite().await;
    let mut setup = Setup::at(&postgres, ORDERS).await;
    let url = setup.database.url.replace("127.0.0.1", "localhost");
    setup.database.url = url.replace("disable", "verify-full");
    let statement = "INSERT INTO orders (id) SELECT :id || version FROM pg_stat_ssl \
                     WHERE pid = pg_backend_pid() AND ssl";
    let ca = format!("consumers.q.handler.ca_file = '{}'", postgres.ca.display());
    let consumer = setup.consumer(statement, "id = 'body'", "").with(&ca);
    let worker = consumer.start().await;
    setup.vhost.publish("q", "over ").await;
    let query = "SELECT string_agg(id, ',') FROM orders";
    setup
        .database
        .wait_for(query, Some("over TLSv1.3".to_owned()))
        .await;
    drained(worker).await;

    // Without the authority no session is opened, and the messages wait.
    let hasty = "breaker = { probe = '100ms', probe_cap = '500ms' }";
    let worker = setup.consumer(statement, "id = 'body'", hasty);
    let worker = worker.start().await;
    setup
        .vhost
        .publish_many("q", 10, |_| PublishSpec::of("without "))
        .await;
    let is_down = |it: &Readiness| {
        let reason = it.consumers["q"].reason.as_deref().unwrap_or_default();
        reason.contains("certificate")
    };
    worker.until("says what is wrong", is_down).await;
    drained(worker).await;
}

#[tokio::test]
async fn the_doctor_tries_the_statement() {
    let setup = Setup::new(ORDERS).await;
    for (statement, word) in [
        (
            "INSERT INTO orders (id) VALUES (:id)",
            "takes the statement",
        ),
        (
            "INSERT INTO missing (id) VALUES (:id)",
            "refuses the statement: 42P01",
        ),
    ] {
        let config = setup.consumer(statement, "id = 'body'", "").toml();
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let file = folder.path().join("lapwing.toml");
        std::fs::write(&file, config).expect("a temporary file");
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_lapwing"));
        command.args(["doctor", "--json", "--config"]).arg(&file);
        let output = tokio::time::timeout(Duration::from_secs(120), command.output()).await;
        let output = output.expect("the doctor ends").expect("the doctor starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(word), "{said}");
    }
}
