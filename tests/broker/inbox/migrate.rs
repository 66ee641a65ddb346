//! `lapwing migrate`.

use futures_util::future::join_all;

use super::migrate;
use crate::support::{DEADLINE, Postgres, WorkerProcess, consumer, vhost};

#[tokio::test]
async fn a_table_is_made_once_however_many_make_it() {
    let database = Postgres::suite().await.database().await;
    let vhost = vhost().await;
    let inbox = format!(
        "consumers.q.idempotency = {{ store = 'postgres', url = '{}' }}\n\
         consumers.q.handler.kind = 'log'",
        database.url
    );
    let consumer = consumer(&vhost, "q").with(&inbox);

    // Without the table the worker does not start, and says what makes it.
    let mut worker = WorkerProcess::start(&consumer.toml());
    let exit = worker.exited(DEADLINE).await;
    assert_eq!(exit.status.code(), Some(78));
    let line = worker.log().last().cloned().expect("it says why");
    assert!(line.to_string().contains("lapwing migrate"), "{line}");

    let ended = join_all((0..4).map(|_| migrate(&consumer))).await;
    for (status, said) in &ended {
        assert!(status.success(), "{said}");
    }
    let made = ended.iter().filter(|(_, said)| said.contains(": made"));
    assert_eq!(made.count(), 1, "{ended:?}");
    let versions = "SELECT count(*) FROM lapwing_inbox_versions";
    assert_eq!(database.value::<i64>(versions).await, 1);

    let mut worker = WorkerProcess::start(&consumer.toml());
    worker.wait_for_consumers(&vhost, "q", 1).await;
    worker.drain(DEADLINE).await;
}

#[tokio::test]
async fn a_database_that_is_away_is_named() {
    let vhost = vhost().await;
    let inbox = "consumers.q.idempotency = { store = 'postgres', url = 'postgres://u@127.0.0.1:1/x' }\n\
                 consumers.q.handler.kind = 'log'";
    let (status, said) = migrate(&consumer(&vhost, "q").with(inbox)).await;
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("PostgreSQL 127.0.0.1:1/x"), "{said}");
}
