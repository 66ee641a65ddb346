//! Routes: the handler of a message follows from its kind, also on a retry, and each route has limits of its
//! own.

mod dialects;

use lapin::ExchangeKind;
use lapwing::{Context, Failure};

use crate::support::{DEADLINE, Notes, PublishSpec, RunningWorker, consumer, consumers, vhost};

/// A handler that fails each message once, and notes the messages.
fn once_more(
    notes: &Notes,
) -> impl Fn(Context) -> std::future::Ready<Result<(), Failure>> + Clone + Send + Sync + 'static {
    let notes = notes.clone();
    move |context| {
        std::future::ready(match notes.note(&context) {
            1 => Err(Failure::retryable("busy", "once more")),
            _ => Ok(()),
        })
    }
}

/// The attempts of the messages in the notes, in the order of ids.
fn attempts(notes: &Notes) -> Vec<(String, u32)> {
    let runs = notes.runs().into_iter();
    let mut all: Vec<_> = runs.map(|run| (run.id, run.attempt)).collect();
    all.sort();
    all
}

fn twice(ids: &[&str]) -> Vec<(String, u32)> {
    let both = ids
        .iter()
        .flat_map(|id| [1, 2].map(|attempt| ((*id).to_owned(), attempt)));
    both.collect()
}

#[tokio::test]
async fn a_retry_finds_the_route_of_the_routing_key_with_which_its_message_was_published() {
    let vhost = vhost().await;
    let consumers = consumer(&vhost, "orders")
        .retry_at_broker()
        .with("[consumers.orders]\nroute_by = 'routing-key'");
    let (created, invoices, rest) = (Notes::default(), Notes::default(), Notes::default());
    let worker = consumers
        .worker()
        .handler_for_route("orders", "order.*.created", once_more(&created))
        .handler_for_route("orders", "invoice.#", once_more(&invoices))
        .handler("orders", once_more(&rest));
    let worker = RunningWorker::start(worker).await;
    vhost.declare_exchange("shop", ExchangeKind::Topic).await;
    vhost.bind("orders", "shop", "#").await;
    for (id, key) in [
        ("1", "order.eu.created"),
        ("2", "invoice"),
        ("3", "invoice.paid.late"),
        ("4", "order.created"),
    ] {
        let mut spec = PublishSpec::of("{}").id(id);
        (spec.exchange, spec.routing_key) = ("shop".to_owned(), key.to_owned());
        vhost.publish_with(spec).await;
    }
    worker
        .wait_for_report("all are done", "orders", |report| report.ledger.acked == 4)
        .await;
    assert_eq!(attempts(&created), twice(&["1"]));
    assert_eq!(attempts(&invoices), twice(&["2", "3"]));
    assert_eq!(attempts(&rest), twice(&["4"]));
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.acked, ledger.parked), (4, 4), "{ledger:?}");
}

#[tokio::test]
async fn a_route_has_its_own_limits_and_what_no_route_takes_can_be_acked() {
    let vhost = vhost().await;
    let settings = "[consumers.q]
        route_by = 'header:kind'
        unrouted = 'ack'
        retry = { base = '50ms', max_attempts = 3 }
        [consumers.q.routes.once]
        handler = { kind = 'command', argv = ['sh', '-c', 'exit 1'] }
        retry = { max_attempts = 1 }
        [consumers.q.routes.slow]
        handler = { kind = 'command', argv = ['sleep', '60'] }
        timeout = '200ms'
        [consumers.q.routes.'#']
        handler = { kind = 'command', argv = ['true'] }";
    let worker = consumers(&vhost, &["q"]).with(settings).start().await;
    for kind in ["once", "slow", "other"] {
        let spec = PublishSpec::to("q").id(kind).header("kind", kind);
        vhost.publish_with(spec).await;
    }
    vhost.publish_with(PublishSpec::to("q").id("none")).await;
    vhost.wait_for_counts("q.dead", 2, 0, DEADLINE).await;
    let report = worker
        .wait_for_report("all are done", "q", |report| {
            report.ledger.acked == 2 && report.ledger.dead_lettered == 2
        })
        .await;
    assert_eq!(report.counts.dropped, 1);
    let of = |name: &str| report.routes.iter().find(|it| it.route == name).cloned();
    let counted = |name: &str| of(name).map(|it| (it.attempts, it.failed));
    assert_eq!(counted("once"), Some((1, 1)));
    assert_eq!(counted("slow"), Some((3, 3)));
    assert_eq!(counted("#"), Some((1, 0)));
    assert_eq!(of("(others)").map(|it| it.dropped), Some(1));
    let mut dead = vhost.drain_all("q.dead").await;
    dead.sort_by_key(|it| it.id().to_owned());
    assert_eq!((dead[0].id(), dead[1].id()), ("once", "slow"));
    assert_eq!(dead[1].header("lapwing-error-kind"), "timeout");
    worker.drain().await;
}
