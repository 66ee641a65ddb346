//! Results of handlers: published to exchanges and to callers, and confirmed before the message is
//! acked.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Consumer, ExchangeKind,
    options::{BasicConsumeOptions, BasicPublishOptions},
    types::FieldTable,
};
use lapwing::{
    ConsumerState, Failure, NewMessage, Readiness,
    handler::{Body, Results},
};

use crate::support::{
    Consumers, DEADLINE, HttpHandler, PublishSpec, QueueType, Reply, VHost, consumer, vhost,
    wait_until, within,
};

/// A consumer whose handler makes letters upper-case.
fn upper(vhost: &VHost, changes: &str) -> Consumers {
    let handler = "handler = { kind = 'command', argv = ['tr', 'a-z', 'A-Z'] }";
    consumer(vhost, "q").with(&format!("[consumers.q]\n{handler}\n{changes}"))
}

/// RabbitMQ's direct reply-to.
const DIRECT: &str = "amq.rabbitmq.reply-to";

/// The answers to direct callers on this channel.
async fn callers(channel: &Channel) -> Consumer {
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let none = FieldTable::default();
    let consumer = channel.basic_consume(DIRECT.into(), "".into(), options, none);
    within("a consumer", consumer).await.expect("it is allowed")
}

#[tokio::test]
async fn callers_get_the_result_by_direct_reply_to_and_by_a_reply_queue() {
    let vhost = vhost().await;
    vhost.declare("answers", QueueType::Classic).await;
    let worker = upper(&vhost, "forward.reply = true").start().await;

    let channel = vhost.channel().await;
    let mut direct = callers(&channel).await;
    for number in 0..20 {
        let (body, id) = (format!("hello {number}"), format!("c{number}"));
        let properties = BasicProperties::default()
            .with_reply_to(DIRECT.into())
            .with_correlation_id(id.clone().into());
        let options = BasicPublishOptions::default();
        let sent =
            channel.basic_publish("".into(), "q".into(), options, body.as_bytes(), properties);
        drop(within("a publish", sent).await.expect("it is written"));
        let answer = within("the answer", direct.next()).await;
        let answer = answer
            .expect("the consumer goes on")
            .expect("it is a delivery");
        assert_eq!(answer.data, format!("HELLO {number}").into_bytes());
        let got = answer.properties.correlation_id().clone();
        assert_eq!(got.expect("it has one").as_str(), id);
    }

    vhost.publish_with(asks("answers")).await;
    // The caller is gone.
    vhost.publish_with(asks("gone")).await;
    vhost.wait_for_counts("answers", 1, 0, DEADLINE).await;
    worker
        .wait_for_report("all are done", "q", |report| report.ledger.acked == 22)
        .await;
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.received, ledger.acked), (22, 22), "{ledger:?}");
    let answers = vhost.drain_all("answers").await;
    assert_eq!(answers[0].text(), "HI");
}

/// A message whose caller waits at this queue.
fn asks(queue: &str) -> PublishSpec {
    let queue = queue.to_owned();
    PublishSpec::to("q").body("hi").with(move |properties| {
        properties
            .with_reply_to(queue.into())
            .with_correlation_id("c".into())
    })
}

#[tokio::test]
async fn a_direct_caller_that_is_gone_or_was_never_there_holds_up_nothing() {
    let vhost = vhost().await;
    // The result is the name of the caller's queue.
    let handler =
        "handler = { kind = 'command', argv = ['sh', '-c', 'printf %s $LAPWING_REPLY_TO'] }";
    let settings = format!("[consumers.q]\n{handler}\nforward.reply = true");
    let worker = consumer(&vhost, "q").with(&settings).start().await;
    let channel = vhost.channel().await;
    let mut direct = callers(&channel).await;
    let properties = BasicProperties::default().with_reply_to(DIRECT.into());
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish("".into(), "q".into(), options, b"hi", properties);
    drop(within("a publish", sent).await.expect("it is written"));
    let answer = within("the answer", direct.next()).await;
    let answer = answer
        .expect("the consumer goes on")
        .expect("it is a delivery");
    let name = String::from_utf8(answer.data).expect("it is a name");
    assert!(name.starts_with(DIRECT), "{name}");
    within("closing", channel.close(200, "".into()))
        .await
        .expect("it was open");

    vhost.publish_with(asks(&name)).await;
    worker
        .wait_for_report("it is done", "q", |report| report.ledger.acked == 2)
        .await;
    // RabbitMQ 3.10 ends the connection on which such a reply is published.
    let garbage = format!("{DIRECT}.g1h2AA5yZXBseUAxMjM0NTY3OAAAAAAAAAAAYQ==.x");
    vhost.publish_with(asks(&garbage)).await;
    let done =
        |report: &lapwing::ConsumerReport| report.ledger.acked + report.ledger.dead_lettered == 3;
    worker.wait_for_report("all are done", "q", done).await;
    let ledger = worker.drain().await.ledger();
    let done = ledger.acked + ledger.dead_lettered;
    assert_eq!((done, ledger.parked), (3, 0), "{ledger:?}");
    vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
}

#[tokio::test]
async fn results_of_each_kind_go_to_an_exchange_with_a_key_of_the_message() {
    let server = HttpHandler::answering(|_| Reply::status(200).body("priced")).await;
    let client = "print('{\"ready\":1}', flush=True)\nimport json, sys\nfor line in sys.stdin:\n  \
                  print(json.dumps({'id': json.loads(line)['id'], 'outcome': 'succeeded', \
                  'result': 'priced'}), flush=True)";
    let kinds = [
        format!("{{ kind = 'http', url = '{}' }}", server.url()),
        "{ kind = 'command', argv = ['printf', 'priced'] }".to_owned(),
        format!("{{ kind = 'process', argv = ['python3', '-c', '''{client}'''] }}"),
    ];
    for kind in kinds {
        let vhost = vhost().await;
        vhost.declare("priced", QueueType::Quorum).await;
        vhost.declare_exchange("shop", ExchangeKind::Topic).await;
        vhost.bind("priced", "shop", "order.*.priced").await;
        let changes = format!(
            "[consumers.q]\nconcurrency = 2\nhandler = {kind}\n\
             forward = {{ exchange = 'shop', routing_key = 'order.{{type}}.priced' }}"
        );
        let worker = consumer(&vhost, "q").with(&changes).start().await;
        let make = |_| PublishSpec::of("{}").with(|it| it.with_type("book".into()));
        vhost.publish_many("q", 100, make).await;
        vhost.wait_for_counts("priced", 100, 0, DEADLINE).await;
        vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
        let ledger = worker.drain().await.ledger();
        assert_eq!((ledger.received, ledger.acked), (100, 100), "{kind}");
        let priced = vhost.drain_all("priced").await;
        let ids: BTreeSet<_> = priced.iter().map(|it| it.id().to_owned()).collect();
        assert_eq!(ids.len(), 100, "{kind}");
        assert!(priced.iter().all(|it| it.text() == "priced"), "{kind}");
    }
}

#[tokio::test]
async fn results_wait_for_their_exchange_and_no_handler_runs_again() {
    let vhost = vhost().await;
    let changes = "prefetch = 4\nconcurrency = 4\n\
                   forward = { exchange = 'shop', routing_key = 'x' }";
    let hasty = "publish.budget = '200ms'";
    let worker = upper(&vhost, changes).with(hasty).start().await;
    vhost
        .publish_many("q", 20, |n| PublishSpec::of(n.to_string()))
        .await;
    let is_held = |it: &Readiness| it.consumers["q"].state == ConsumerState::Held;
    let held = worker.until("keeps its results", is_held).await;
    let reason = held.consumers["q"].reason.clone().expect("it says why");
    assert!(reason.contains("shop/x"), "{reason}");

    vhost.declare("shipped", QueueType::Quorum).await;
    vhost.declare_exchange("shop", ExchangeKind::Fanout).await;
    vhost.bind("shipped", "shop", "").await;
    worker
        .wait_for_report("all are done", "q", |report| report.ledger.acked == 20)
        .await;
    let look = async || vhost.ready("shipped").await;
    wait_until("all results are there", DEADLINE, look, |ready| {
        *ready == 20
    })
    .await;
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (20, 0), "{ledger:?}");
}

#[tokio::test]
async fn a_result_whose_headers_no_frame_holds_ends_no_connection() {
    let vhost = vhost().await;
    vhost.declare("priced", QueueType::Quorum).await;
    let handler = async |results: Results, order: Body| {
        let length = if *order == *b"huge" { 200_000 } else { 1 };
        results.publish(NewMessage {
            routing_key: "priced".to_owned(),
            headers: vec![("note".to_owned(), "x".repeat(length))],
            ..NewMessage::default()
        });
        Ok::<(), Failure>(())
    };
    let worker = consumer(&vhost, "q").start_with(handler).await;
    for body in ["huge", "small"] {
        vhost.publish_with(PublishSpec::to("q").body(body)).await;
    }
    vhost.wait_for_counts("priced", 1, 0, DEADLINE).await;
    vhost.wait_for_counts("q.dead", 1, 0, DEADLINE).await;
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (1, 1), "{ledger:?}");
    let dead = vhost.drain_all("q.dead").await;
    assert_eq!(dead[0].header("lapwing-error-kind"), "forward");
}
