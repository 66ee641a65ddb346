//! The last acks of a drain.
//!
//! A quorum queue takes about 32 commands of a channel at a time. Closing the channel discards the
//! other commands, and finished messages would run again. These tests finish many messages at once
//! and then look for any that came back.

use std::collections::BTreeSet;
use std::sync::Arc;

use lapwing::handler::{Json, Shared};
use lapwing::{ConsumerState, Report, Settings, Worker, WorkerHandle};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::support::{DEADLINE, PublishSpec, QueueType, VHost, vhost, wait_until, within};

/// Handlers that wait until the test lets each of them finish.
struct Held {
    running: watch::Sender<usize>,
    finished: watch::Sender<usize>,
    /// The permission of each handler to finish, by message.
    leave: Vec<Notify>,
}

impl Held {
    fn new(n: usize) -> Self {
        Self {
            running: watch::Sender::new(0),
            finished: watch::Sender::new(0),
            leave: (0..n).map(|_| Notify::new()).collect(),
        }
    }

    /// Lets these handlers finish, in this order and without a pause.
    fn let_finish(&self, ids: impl IntoIterator<Item = usize>) {
        for id in ids {
            self.leave[id].notify_one();
        }
    }

    async fn wait_for_finished(&self, n: usize) {
        let mut finished = self.finished.subscribe();
        let all = finished.wait_for(|finished| *finished == n);
        within("the end of the handlers", all)
            .await
            .expect("as the test made it");
    }
}

async fn held(Json(id): Json<usize>, held: Shared<Arc<Held>>) {
    held.running.send_modify(|running| *running += 1);
    held.leave[id].notified().await;
    held.finished.send_modify(|finished| *finished += 1);
}

/// A worker whose handlers all run.
struct Busy {
    handle: WorkerHandle,
    running: JoinHandle<Result<Report, lapwing::RunError>>,
    held: Arc<Held>,
}

impl Busy {
    async fn with(vhost: &VHost, kind: QueueType, n: usize) -> Self {
        let text = format!(
            "[broker]
            url = '{}'
            [consumers.orders]
            queue = 'orders'
            queue_type = '{}'
            prefetch = {n}
            concurrency = {n}",
            vhost.amqp_url(),
            kind.name()
        );
        let settings = Settings::from_toml(&text).expect("as the test made it");
        let held = Arc::new(Held::new(n));
        let worker = Worker::new(settings)
            .handler("orders", self::held)
            .share(held.clone());
        let mut handle = worker.handle();
        let running = tokio::spawn(worker.run(std::future::pending()));
        within("the start", handle.until(|seen| seen.ready)).await;
        let make = |id: usize| PublishSpec::of(id.to_string()).id(&id.to_string());
        vhost.publish_many("orders", n, make).await;
        let mut all = held.running.subscribe();
        let all_run = all.wait_for(|running| *running == n);
        within("the start of all handlers", all_run)
            .await
            .expect("as the test made it");
        Self {
            handle,
            running,
            held,
        }
    }

    /// Starts the drain, and waits until the consumer drains.
    async fn drains(&mut self) {
        self.handle.stop();
        let draining = |state: &ConsumerState| *state == ConsumerState::Draining;
        let until = self
            .handle
            .until(|seen| draining(&seen.consumers["orders"].state));
        within("the drain", until).await;
    }

    async fn ended(self) -> Report {
        within("the end", self.running)
            .await
            .expect("as the test made it")
            .expect("as the test made it")
    }
}

/// The ids in the queue after the broker has noticed that the worker is gone.
async fn left(vhost: &VHost) -> BTreeSet<usize> {
    let counts = async || vhost.counts("orders").await;
    let what = "the queue has back what the worker held";
    wait_until(what, DEADLINE, counts, |seen| seen.unacked == 0).await;
    let left = vhost.drain_all("orders").await;
    left.iter()
        .map(|got| got.text().parse().expect("as the test made it"))
        .collect()
}

/// Every number from `first` to below `n`, in an order without a pattern.
fn shuffled(first: usize, n: usize) -> Vec<usize> {
    const STEP: usize = 7919;
    let count = n - first;
    assert_ne!(count % STEP, 0, "the step is coprime to the count");
    (0..count).map(|i| first + i * STEP % count).collect()
}

/// All handlers finish in the same millisecond of a drain.
async fn all_at_once(kind: QueueType) {
    const N: usize = 200;
    let vhost = vhost().await;
    let mut busy = Busy::with(&vhost, kind, N).await;
    busy.drains().await;
    busy.held.let_finish(0..N);
    let ledger = busy.ended().await.ledger();
    assert_eq!((ledger.received, ledger.acked), (200, 200), "{ledger:?}");
    assert_eq!(left(&vhost).await, BTreeSet::new());
}

#[tokio::test]
async fn of_200_handlers_that_finish_at_once_none_runs_again_from_a_quorum_queue() {
    all_at_once(QueueType::Quorum).await;
}

#[tokio::test]
async fn of_200_handlers_that_finish_at_once_none_runs_again_from_a_classic_queue() {
    all_at_once(QueueType::Classic).await;
}

/// All handlers except the first finish, in mixed order, so that no ack can cover many. Then the
/// first is cancelled, before the others are acked. Only its message comes back.
async fn singly_behind_a_slow_one(kind: QueueType, n: usize) {
    let vhost = vhost().await;
    let mut busy = Busy::with(&vhost, kind, n).await;
    busy.drains().await;
    busy.held.let_finish(shuffled(1, n));
    busy.held.wait_for_finished(n - 1).await;
    busy.handle.stop_now();
    let report = busy.ended().await;
    let (ledger, all) = (report.ledger(), n as u64);
    assert_eq!(
        (ledger.received, ledger.acked, ledger.returned),
        (all, all - 1, 1),
        "{ledger:?}"
    );
    assert_eq!(report.left(), 0);
    assert_eq!(left(&vhost).await, BTreeSet::from([0]));
}

#[tokio::test]
async fn of_200_acks_that_go_out_singly_none_is_lost_by_a_quorum_queue() {
    singly_behind_a_slow_one(QueueType::Quorum, 201).await;
}

#[tokio::test]
async fn of_200_acks_that_go_out_singly_none_is_lost_by_a_classic_queue() {
    singly_behind_a_slow_one(QueueType::Classic, 201).await;
}

#[tokio::test]
async fn of_1000_acks_that_go_out_singly_none_is_lost_by_a_quorum_queue() {
    singly_behind_a_slow_one(QueueType::Quorum, 1_001).await;
}

/// Every second handler finishes. A hard stop cancels the others while the worker writes the acks,
/// so acks and returns alternate.
async fn every_second(kind: QueueType) {
    const N: usize = 400;
    let vhost = vhost().await;
    let mut busy = Busy::with(&vhost, kind, N).await;
    busy.drains().await;
    busy.held.let_finish((1..N).step_by(2));
    busy.held.wait_for_finished(N / 2).await;
    busy.handle.stop_now();
    let ledger = busy.ended().await.ledger();
    assert_eq!((ledger.acked, ledger.returned), (200, 200), "{ledger:?}");
    assert_eq!(left(&vhost).await, (0..N).step_by(2).collect());
}

#[tokio::test]
async fn a_hard_stop_amid_the_acks_of_a_drain_returns_only_the_unfinished_to_a_quorum_queue() {
    every_second(QueueType::Quorum).await;
}

#[tokio::test]
async fn a_hard_stop_amid_the_acks_of_a_drain_returns_only_the_unfinished_to_a_classic_queue() {
    every_second(QueueType::Classic).await;
}

/// A consumer at work writes larger bursts of acks than a drain. Here the drain and the close
/// follow directly after a thousand acks.
#[tokio::test]
async fn acks_that_were_written_just_before_a_drain_are_not_lost() {
    const N: usize = 1_001;
    let vhost = vhost().await;
    let busy = Busy::with(&vhost, QueueType::Quorum, N).await;
    busy.held.let_finish(shuffled(1, N));
    let account = async || busy.handle.report("orders").map(|consumer| consumer.ledger);
    let all = |ledger: &Result<lapwing::Ledger, _>| ledger.as_ref().is_ok_and(|l| l.acked == 1_000);
    let written = wait_until("all acks are written", DEADLINE, account, all).await;
    assert!(written.is_ok());
    busy.handle.stop_now();
    let ledger = busy.ended().await.ledger();
    assert_eq!((ledger.acked, ledger.returned), (1_000, 1), "{ledger:?}");
    assert_eq!(left(&vhost).await, BTreeSet::from([0]));
}
