//! Faults of the node: stopped, killed, under a memory alarm, with a short consumer timeout.

use std::time::Duration;

use lapwing::{ConsumerReport, ConsumerState, Ledger, Readiness};

use super::{QUEUE, QUEUES, first_forty_pass, orders, publish};
use crate::support::{
    Account, BUSY, Broker, DEADLINE, Gate, HttpHandler, Release, Reply, Request, VHost, require,
    vhost, wait_until,
};

#[tokio::test]
async fn own_node_stopped_and_killed_under_load_is_waited_for_and_loses_nothing() {
    let broker = require!(OwnNode, Broker::own("restarts").await);
    let vhost = broker.vhost().await;
    let gate = Gate::default();
    let handler = first_forty_pass(&gate).await;
    let worker = orders(&vhost, &handler).start().await;
    let mut ids = Vec::new();
    for (round, name) in ["stop", "kill"].into_iter().enumerate() {
        gate.close();
        let some = handler.seen().exchanges.len() + 40 + 8;
        ids.extend(publish(&vhost, name, 200).await);
        handler.wait_for_requests(some, DEADLINE).await;

        match name {
            "stop" => broker.stop().await,
            _ => broker.kill().await,
        }
        let is_down = |readiness: &Readiness| !readiness.ready && readiness.publishing.is_some();
        let down = worker
            .until("nothing is consumed, and nothing can be published", is_down)
            .await;
        assert_eq!(down.consumers[QUEUE].state, ConsumerState::Connecting);
        gate.open();
        broker.start().await;

        let up = worker.ready().await;
        assert_eq!(up.consumers[QUEUE].state, ConsumerState::Consuming);
        handler.wait_for_success(&ids).await;
        let sessions = worker.report(QUEUE).await.counts.sessions;
        assert_eq!(
            sessions,
            round as u64 + 2,
            "a session for each life of the node"
        );
    }
    let ledger = worker.drain().await.ledger();
    assert!(ledger.acked >= 400 - ledger.duplicates, "{ledger:?}");
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_nothing_lost();
}

fn is_blocked(readiness: &Readiness) -> bool {
    let why = readiness.publishing.as_deref();
    why.is_some_and(|why| why.contains("blocked"))
}

/// Blocks publishing on the node, like a shortage of memory.
async fn alarm(broker: &Broker, on: bool) {
    match on {
        true => {
            broker
                .ctl(&["set_vm_memory_high_watermark", "0.0000001"])
                .await
        }
        false => {
            broker
                .ctl(&["set_vm_memory_high_watermark", "absolute", "2GB"])
                .await
        }
    };
}

#[tokio::test]
async fn own_node_with_a_memory_alarm_lets_acks_through_and_retries_wait_for_its_end() {
    let broker = require!(OwnNode, Broker::own("alarm").await);
    let vhost = broker.vhost().await;
    let gate = Gate::default();
    // Of 41 messages the first half fails once. "trigger" does not wait at the gate.
    let waits = |request: &Request| !request.message_id().starts_with("trigger");
    let handler = HttpHandler::holding(&gate, waits, |request| {
        match request.attempt() == 1 && !request.message_id().starts_with("well") {
            true => Reply::status(500),
            false => Reply::ok(),
        }
    })
    .await;
    // On a busy machine, ending the alarm may take a while.
    let patient = "publish.budget = '60s'";
    let worker = orders(&vhost, &handler)
        .at_once(64)
        .with(patient)
        .start()
        .await;
    let mut ids = publish(&vhost, "well", 20).await;
    ids.extend(publish(&vhost, "failing", 20).await);
    handler.wait_for_requests(40, DEADLINE).await;
    ids.extend(publish(&vhost, "trigger", 1).await);
    handler.wait_for_answered(2, DEADLINE).await;

    alarm(&broker, true).await;
    // The broker blocks a connection only when the connection publishes: the next retry does.
    gate.open();
    let during = worker.until("is blocked", is_blocked).await;
    assert!(during.ready, "consuming goes on: {during:?}");
    handler
        .wait_for("all have run once", DEADLINE, |seen| seen.answered >= 42)
        .await;
    // Acks are not blocked: messages that succeeded leave the queue.
    let look = async || vhost.counts(QUEUE).await.unacked;
    wait_until("the handled are acked", DEADLINE, look, |unacked| {
        (1..=20).contains(unacked)
    })
    .await;
    let ledger = worker.report(QUEUE).await.ledger;
    assert!(ledger.acked >= 21, "{ledger:?}");

    alarm(&broker, false).await;
    worker.publishes().await;
    handler.wait_for_success(&ids).await;
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.parked, ledger.acked), (21, 41), "{ledger:?}");
    assert_eq!((ledger.returned, ledger.stale), (0, 0), "{ledger:?}");
    let seen = handler.seen();
    assert_eq!(
        seen.exchanges.len(),
        41 + 21,
        "each failure ran twice, no more"
    );
    Account::take(&vhost, ids, &seen, &QUEUES)
        .await
        .assert_exactly_once();
}

#[tokio::test]
async fn own_node_with_a_memory_alarm_does_not_hold_up_a_drain() {
    let broker = require!(OwnNode, Broker::own("alarm-drain").await);
    let vhost = broker.vhost().await;
    let gate = Gate::default();
    let handler = HttpHandler::behind(&gate, |_| Reply::status(500)).await;
    let worker = orders(&vhost, &handler).start().await;
    let ids = publish(&vhost, "failing", 8).await;
    handler.wait_for_requests(8, DEADLINE).await;
    alarm(&broker, true).await;
    // The worker writes the first copies before the broker blocks the connection. These wait for
    // their confirms; the others are not written.
    gate.open();
    worker.until("is blocked", is_blocked).await;
    handler.wait_for_answered(8, DEADLINE).await;

    let began = std::time::Instant::now();
    let ledger = worker.drain().await.ledger();
    let took = began.elapsed();

    assert!(took < BUSY, "{took:?}");
    assert_eq!((ledger.received, ledger.returned), (8, 8), "{ledger:?}");
    alarm(&broker, false).await;
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_nothing_lost();
}

#[tokio::test]
async fn own_node_with_a_long_memory_alarm_keeps_the_retries_and_runs_nothing_again() {
    let broker = require!(OwnNode, Broker::own("long-alarm").await);
    let vhost = broker.vhost().await;
    let gate = Gate::default();
    let handler = HttpHandler::behind(&gate, |request| match request.attempt() {
        1 => Reply::status(500),
        _ => Reply::ok(),
    })
    .await;
    let hasty = "
        [publish]
        budget = '300ms'
        [consumers.orders]
        prefetch = 64
        concurrency = 64
    ";
    let worker = orders(&vhost, &handler).with(hasty).start().await;
    let ids = publish(&vhost, "failing", 30).await;
    handler.wait_for_requests(30, DEADLINE).await;
    alarm(&broker, true).await;
    gate.open();

    let waits = |readiness: &Readiness| {
        let reason = readiness.consumers[QUEUE].reason.as_deref();
        reason.is_some_and(|reason| reason.starts_with("30 retries or dead letters wait"))
    };
    let told = worker.until("tells what waits", waits).await;
    assert!(told.ready && told.degraded, "{told:?}");
    assert_eq!(handler.seen().exchanges.len(), 30);
    alarm(&broker, false).await;
    handler.wait_for_success(&ids).await;
    worker.ready().await;

    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.parked, ledger.acked), (30, 30), "{ledger:?}");
    assert_eq!((ledger.returned, ledger.stale), (0, 0), "{ledger:?}");
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_exactly_once();
}

/// Sets a short consumer timeout: the node closes the channel of an unsettled delivery (4.3:
/// cancels the consumer).
async fn make_impatient(broker: &Broker) {
    for setting in ["consumer_timeout", "channel_tick_interval"] {
        let set = format!("application:set_env(rabbit, {setting}, 1000).");
        broker.ctl(&["eval", &set]).await;
    }
}

#[tokio::test]
async fn own_node_that_closes_only_the_channel_gets_a_new_one_on_the_same_connection() {
    let broker = require!(OwnNode, Broker::own("impatient").await);
    make_impatient(&broker).await;
    let vhost = broker.vhost().await;
    let gate = Gate::default();
    let first = |request: &Request| request.index == 0;
    let handler = HttpHandler::holding(&gate, first, |_| Reply::ok()).await;
    let worker = orders(&vhost, &handler).start().await;
    let connections = || async {
        let mut names: Vec<_> = vhost
            .connections()
            .await
            .into_iter()
            .map(|c| c.name)
            .collect();
        names.sort();
        names
    };
    // The broker lists a new connection only after a while.
    let listed = "the worker's two connections are listed";
    let before = wait_until(listed, DEADLINE, &connections, |names| names.len() == 2).await;
    let ids = publish(&vhost, "slow", 10).await;

    // The first delivery is not settled: the consumer timeout ends again and again, and the broker
    // delivers the message again.
    let again = |consumer: &ConsumerReport| consumer.counts.sessions >= 3;
    worker
        .wait_for_report("two timeouts end", QUEUE, again)
        .await;
    handler.wait_for_answered(9, DEADLINE).await;
    let seen = handler.seen();
    let slow = seen.exchanges[0].request.message_id();
    let runs = seen.exchanges.iter();
    let runs = runs.filter(|it| it.request.message_id() == slow).count();
    assert_eq!(runs, 1, "the message that waits too long did not run twice");
    gate.open();
    handler.wait_for_success(&ids).await;
    vhost.wait_for_counts(QUEUE, 0, 0, DEADLINE).await;
    // No consumer that nobody serves is left behind: it would get some of these.
    let more = publish(&vhost, "more", 40).await;
    handler.wait_for_success(&more).await;
    vhost.wait_for_counts(QUEUE, 0, 0, DEADLINE).await;

    assert_eq!(connections().await, before, "the connections stayed");
    let ledger = worker.drain().await.ledger();
    assert!(ledger.stale >= 2, "{ledger:?}");
    let ids = ids.into_iter().chain(more).collect::<Vec<_>>();
    assert_runs_are_explained(&handler, ids.len(), &ledger);
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_nothing_lost();
}

/// On 4.3 the cancelled consumer would stay the active one, and nobody would get a message.
#[tokio::test]
async fn own_node_with_a_short_consumer_timeout_does_not_stop_a_single_active_consumer() {
    let broker = require!(OwnNode, Broker::own("single").await);
    make_impatient(&broker).await;
    let vhost = broker.vhost().await;
    let gate = Gate::default();
    let first = |request: &Request| request.index == 0;
    let handler = HttpHandler::holding(&gate, first, |_| Reply::ok()).await;
    let single = "consumers.orders.arguments.x-single-active-consumer = true";
    let worker = orders(&vhost, &handler).with(single).start().await;
    let mut ids = publish(&vhost, "slow", 1).await;
    handler.wait_for_requests(1, DEADLINE).await;

    for round in 1..=3 {
        let again = |consumer: &ConsumerReport| consumer.counts.sessions > round;
        worker.wait_for_report("a timeout ends", QUEUE, again).await;
        let others = publish(&vhost, &format!("round-{round}"), 20).await;
        handler.wait_for_success(&others).await;
        ids.extend(others);
    }
    gate.open();

    handler.wait_for_success(&ids).await;
    vhost.wait_for_counts(QUEUE, 0, 0, DEADLINE).await;
    let ledger = worker.drain().await.ledger();
    assert_runs_are_explained(&handler, ids.len(), &ledger);
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_nothing_lost();
}

/// A message runs again only if its channel ended while its ack was on its way. The ledger then counts a
/// duplicate. It also counts acks that the broker has, but has not shown before the channel ended.
fn assert_runs_are_explained(handler: &HttpHandler, messages: usize, ledger: &Ledger) {
    let runs = handler.seen().exchanges.len() as u64;
    let again = runs - messages as u64;
    assert!(again <= ledger.duplicates, "{again} again, {ledger:?}");
    assert_eq!(ledger.acked + ledger.duplicates, runs, "{ledger:?}");
}

/// Messages that wait for a slot are too old as well, one after the other. The timeout ends a session with
/// nearly each message, and most of the prefetch is delivered again each time.
#[tokio::test]
async fn own_node_whose_consumer_timeout_is_shorter_than_the_wait_for_a_slot_starts_no_message_twice()
 {
    const MESSAGES: usize = 24;
    let broker = require!(OwnNode, Broker::own("hasty").await);
    make_impatient(&broker).await;
    let vhost = broker.vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok().after(Duration::from_millis(300))).await;
    let one_at_a_time = "consumers.orders = { prefetch = 10, concurrency = 1 }";
    let worker = orders(&vhost, &handler).with(one_at_a_time).start().await;

    let ids = publish(&vhost, "queued", MESSAGES).await;

    handler.wait_for_success(&ids).await;
    vhost.wait_for_counts(QUEUE, 0, 0, DEADLINE).await;
    let report = worker.drain().await;
    let (sessions, ledger) = (report.consumers[QUEUE].counts.sessions, report.ledger());
    assert!(sessions >= 3, "the timeout has ended: {report:?}");
    assert_runs_are_explained(&handler, MESSAGES, &ledger);
    // An ack can be on its way when a channel ends, but hardly ever is.
    let runs = handler.seen().exchanges.len();
    assert!(runs <= MESSAGES + 3, "{runs} runs, {ledger:?}");
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_nothing_lost();
}

#[tokio::test]
async fn a_handler_that_outlives_its_connections_runs_once() {
    let (vhost, gate) = (vhost().await, Gate::default());
    let handler = HttpHandler::behind(&gate, |_| Reply::ok()).await;
    let worker = orders(&vhost, &handler).start().await;
    let ids = publish(&vhost, "slow", 5).await;
    handler.wait_for_requests(5, DEADLINE).await;
    for round in 1..=2 {
        let consuming = async || {
            let mut listed = vhost.connections().await.into_iter();
            listed.find(|peer| peer.client_name.ends_with("consume"))
        };
        let peer = wait_until("it is listed", DEADLINE, consuming, Option::is_some).await;
        vhost
            .close_connection(&peer.expect("waited for").name)
            .await;
        let back = |consumer: &ConsumerReport| consumer.ledger.received == 5 + 5 * round;
        worker.wait_for_report("delivered again", QUEUE, back).await;
    }

    gate.open();

    handler.wait_for_success(&ids).await;
    vhost.wait_for_counts(QUEUE, 0, 0, DEADLINE).await;
    let ledger = worker.drain().await.ledger();
    assert_eq!(
        (ledger.acked, ledger.stale, ledger.duplicates),
        (5, 10, 0),
        "{ledger:?}"
    );
    assert_eq!(handler.seen().exchanges.len(), 5);
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_exactly_once();
}

/// Stops the processes of all channels that consume.
async fn stand_still(broker: &Broker) {
    let consumes =
        "proplists:get_value(consumer_count, rabbit_channel:info(C, [consumer_count])) > 0";
    let each = format!("[sys:suspend(C) || C <- rabbit_channel:list_local(), {consumes}].");
    broker.ctl(&["eval", &each]).await;
}

/// The queue gives the process as many messages as the prefetch allows. They come back with the connection.
#[tokio::test]
async fn own_node_whose_channel_process_stands_still_delivers_on_a_new_channel() {
    let broker = require!(OwnNode, Broker::own("still").await);
    let vhost = broker.vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let soon = "consumers.orders.idle_check = '1s'";
    let worker = orders(&vhost, &handler).with(soon).start().await;
    let mut ids = publish(&vhost, "before", 5).await;
    handler.wait_for_success(&ids).await;
    vhost.wait_for_counts(QUEUE, 0, 0, DEADLINE).await;

    stand_still(&broker).await;
    ids.extend(publish(&vhost, "after", 40).await);

    let silent = |readiness: &Readiness| {
        let reason = readiness.consumers[QUEUE].reason.as_deref();
        reason.is_some_and(|why| why.starts_with("no message has come for"))
    };
    worker.until("says that nothing comes", silent).await;
    handler.wait_for_success(&ids).await;
    worker.ready().await;
    let ledger = worker.drain().await.ledger();
    assert_runs_are_explained(&handler, 45, &ledger);
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_nothing_lost();
}

/// Sets the state of a classic queue, as if its process had died.
async fn set_state(broker: &Broker, vhost: &VHost, state: &str) {
    let name = format!(
        "rabbit_misc:r(<<\"{}\">>, queue, <<\"{QUEUE}\">>)",
        vhost.name()
    );
    let set = format!("fun(Q) -> amqqueue:set_state(Q, {state}) end");
    let update = match broker.release() {
        Release::V3_10 => format!(
            "rabbit_misc:execute_mnesia_transaction(fun() -> rabbit_amqqueue:update({name}, {set}) end)."
        ),
        _ => format!("rabbit_db_queue:update({name}, {set})."),
    };
    broker.ctl(&["eval", &update]).await;
}

/// The broker answers 404 about such a queue, as about one that does not exist.
#[tokio::test]
async fn own_node_with_a_classic_queue_that_is_down_is_waited_for_at_the_start() {
    let broker = require!(OwnNode, Broker::own("down").await);
    let vhost = broker.vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let classic = |topology: &str| {
        let lines =
            format!("consumers.orders = {{ queue_type = 'classic', topology = '{topology}' }}");
        orders(&vhost, &handler).with(&lines)
    };
    classic("declare").start().await.drain().await;
    for topology in ["verify", "none", "attach", "declare"] {
        set_state(&broker, &vhost, "crashed").await;
        let worker = classic(topology).begin();
        let down = |readiness: &Readiness| {
            let reason = readiness.consumers[QUEUE].reason.as_deref();
            reason.is_some_and(|why| why.contains("crashed"))
        };
        worker.until("says that the queue is down", down).await;

        set_state(&broker, &vhost, "live").await;

        worker.ready().await;
        worker.drain().await;
    }
}
