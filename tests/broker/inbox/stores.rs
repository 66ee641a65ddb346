//! Each store, with handlers whose effect is in the same database and elsewhere.

use lapwing::{ConsumerState, Readiness};

use crate::support::{
    Consumers, DEADLINE, Database, Gate, HttpHandler, Postgres, PublishSpec, Reply, VHost,
    consumer, vhost,
};

const HASTY: &str = "breaker = { probe = '100ms', probe_cap = '500ms' }";

fn with_inbox(vhost: &VHost, inbox: &str) -> Consumers {
    let inbox = format!("[consumers.q]\n{HASTY}\nidempotency = {{ {inbox} }}");
    consumer(vhost, "q").with(&inbox)
}

fn in_postgres(vhost: &VHost, database: &Database) -> Consumers {
    let url = &database.url;
    with_inbox(
        vhost,
        &format!("store = 'postgres', url = '{url}', migrate = true"),
    )
}

async fn publish_twice(vhost: &VHost, ids: &[&str]) {
    for id in ids.iter().chain(ids) {
        let spec = PublishSpec::to("q").body("{}").id(id);
        vhost.publish_with(spec).await;
    }
}

#[tokio::test]
async fn a_statement_has_its_effect_once_in_one_transaction_with_its_key() {
    let database = Postgres::suite().await.database().await;
    database.run("CREATE TABLE done (id text)").await;
    let vhost = vhost().await;
    let url = &database.url;
    let handler = format!(
        "consumers.q.handler = {{ kind = 'sql', url = '{url}', \
         statement = 'INSERT INTO done VALUES (:id)', parameters = {{ id = 'message-id' }} }}"
    );
    let consumer = with_inbox(&vhost, "store = 'postgres', migrate = true").with(&handler);
    let worker = consumer.start().await;
    publish_twice(&vhost, &["a", "b", "c"]).await;
    let report = worker
        .wait_for_report("all are settled", "q", |report| report.ledger.acked == 6)
        .await;
    assert_eq!((report.counts.succeeded, report.counts.duplicate), (3, 3));
    let ids = "SELECT string_agg(id, ',' ORDER BY id) FROM done";
    assert_eq!(database.value::<String>(ids).await, "a,b,c");
    let keys = "SELECT count(*) FROM lapwing_inbox WHERE scope LIKE '_%/q' AND done_at IS NOT NULL";
    assert_eq!(database.value::<i64>(keys).await, 3);
    worker.drain().await;
}

#[tokio::test]
async fn a_statement_that_fails_leaves_no_key() {
    let database = Postgres::suite().await.database().await;
    database
        .run("CREATE TABLE done (id text CHECK (id <> 'bad'))")
        .await;
    let vhost = vhost().await;
    let url = &database.url;
    let handler = format!(
        "consumers.q.handler = {{ kind = 'sql', url = '{url}', \
         statement = 'INSERT INTO done VALUES (:id)', parameters = {{ id = 'message-id' }} }}"
    );
    let consumer = with_inbox(&vhost, "store = 'postgres', migrate = true").with(&handler);
    let worker = consumer.start().await;
    publish_twice(&vhost, &["bad"]).await;
    vhost.wait_for_counts("q.dead", 2, 0, DEADLINE).await;
    let keys = "SELECT count(*) FROM lapwing_inbox";
    assert_eq!(database.value::<i64>(keys).await, 0);
    worker.drain().await;
}

#[tokio::test]
async fn a_service_gets_each_message_once_and_its_key() {
    let database = Postgres::suite().await.database().await;
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    for (inbox, name) in [
        (in_postgres(&vhost, &database), "postgres"),
        (with_inbox(&vhost, "store = 'memory'"), "memory"),
    ] {
        let before = handler.seen().exchanges.len();
        let worker = inbox.http(&handler).start().await;
        let ids = ["a", "b"].map(|id| format!("{name}-{id}"));
        publish_twice(&vhost, &[&ids[0], &ids[1]]).await;
        let report = worker
            .wait_for_report("all are settled", "q", |report| report.ledger.acked == 4)
            .await;
        assert_eq!(
            (report.counts.succeeded, report.counts.duplicate),
            (2, 2),
            "{name}"
        );
        let seen = handler.seen();
        let keys = seen.exchanges[before..].iter();
        let mut keys: Vec<_> = keys
            .map(|it| it.request.header("idempotency-key").to_owned())
            .collect();
        keys.sort();
        assert_eq!(keys, ids);
        worker.drain().await;
    }
}

#[tokio::test]
async fn a_message_that_runs_elsewhere_waits_and_is_then_a_duplicate() {
    let database = Postgres::suite().await.database().await;
    let vhost = vhost().await;
    let gate = Gate::default();
    let handler = HttpHandler::behind(&gate, |_| Reply::ok()).await;
    let consumer = in_postgres(&vhost, &database).http(&handler);
    let [one, two] = [consumer.start().await, consumer.start().await];
    publish_twice(&vhost, &["a"]).await;
    handler.wait_for_requests(1, DEADLINE).await;
    let snoozed = async {
        tokio::select! {
            biased;
            report = one.wait_for_report("it waits", "q", |it| it.counts.snoozed > 0) => report,
            report = two.wait_for_report("it waits", "q", |it| it.counts.snoozed > 0) => report,
        }
    };
    snoozed.await;
    gate.open();
    let acked = async || one.report("q").await.ledger.acked + two.report("q").await.ledger.acked;
    crate::support::wait_until("both are settled", DEADLINE, acked, |acked| *acked == 2).await;
    assert_eq!(handler.seen().exchanges.len(), 1);
    let duplicates =
        one.report("q").await.counts.duplicate + two.report("q").await.counts.duplicate;
    assert_eq!(duplicates, 1);
    one.drain().await;
    two.drain().await;
}

#[tokio::test]
async fn no_handler_runs_while_the_store_is_down() {
    let postgres = Postgres::own("store").await;
    let database = postgres.database().await;
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let consumer = in_postgres(&vhost, &database).http(&handler);
    let worker = consumer.start().await;
    vhost.publish("q", "{}").await;
    handler.wait_for_requests(1, DEADLINE).await;
    worker
        .wait_for_report("the first is done", "q", |report| report.ledger.acked == 1)
        .await;

    postgres.stop().await;
    vhost.publish_many("q", 20, |_| PublishSpec::of("{}")).await;
    let is_down = |it: &Readiness| it.consumers["q"].state == ConsumerState::ServiceDown;
    worker.until("finds its store down", is_down).await;
    let reason = worker.handle.readiness().consumers["q"].reason.clone();
    assert!(reason.expect("it says why").contains("inbox: "));
    assert_eq!(handler.seen().exchanges.len(), 1);

    postgres.start().await;
    worker
        .wait_for_report("all are done", "q", |report| report.ledger.acked == 21)
        .await;
    let ledger = worker.drain().await.ledger();
    assert_eq!(ledger.dead_lettered, 0, "{ledger:?}");
    assert_eq!(handler.seen().exchanges.len(), 21);
}

#[tokio::test]
async fn a_run_that_ends_too_late_marks_nothing() {
    let database = Postgres::suite().await.database().await;
    let vhost = vhost().await;
    let gate = Gate::default();
    let handler = HttpHandler::behind(&gate, |_| Reply::ok()).await;
    let worker = in_postgres(&vhost, &database).http(&handler).start().await;
    publish_twice(&vhost, &["a"]).await;
    handler.wait_for_requests(1, DEADLINE).await;
    // Somebody else takes the key, as after a lease that is over.
    database
        .run("UPDATE lapwing_inbox SET epoch = DEFAULT, leased_until = now() + interval '1 hour'")
        .await;
    gate.open();
    worker
        .wait_for_report("the run is acked", "q", |report| report.ledger.acked == 1)
        .await;
    let done = "SELECT count(*) FROM lapwing_inbox WHERE done_at IS NOT NULL";
    assert_eq!(database.value::<i64>(done).await, 0);
    worker.drain().await;
}

#[tokio::test]
async fn a_success_stays_one_although_the_store_goes_away_before_it_is_noted() {
    let postgres = Postgres::own("gone").await;
    let mut database = postgres.database().await;
    let vhost = vhost().await;
    let gate = Gate::default();
    let handler = HttpHandler::behind(&gate, |_| Reply::ok()).await;
    let consumer = in_postgres(&vhost, &database).http(&handler);
    let worker = consumer
        .with("[consumers.q]\nretry = { max_attempts = 1 }")
        .start()
        .await;
    publish_twice(&vhost, &["a"]).await;
    handler.wait_for_requests(1, DEADLINE).await;
    postgres.stop().await;
    gate.open();
    // The message is acked without its store, and its copy waits for the store or is known to be done.
    worker
        .wait_for_report("the run is acked", "q", |it| {
            it.counts.succeeded == 1 && it.ledger.acked >= 1
        })
        .await;
    postgres.start().await;
    database.again().await;
    let done = "SELECT count(*) FROM lapwing_inbox WHERE done_at IS NOT NULL";
    database.wait_for(done, 1_i64).await;
    let report = worker
        .wait_for_report("the copy is a duplicate", "q", |it| {
            it.counts.duplicate == 1
        })
        .await;
    assert_eq!(
        (report.counts.timed_out, report.ledger.dead_lettered),
        (0, 0)
    );
    assert_eq!(handler.seen().exchanges.len(), 1);
    worker.drain().await;
}
