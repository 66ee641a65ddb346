//! Random events in random order happen to a consumer. Each message still ends once, and the broker gets
//! no command for which it would close the channel.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::prelude::*;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::kit::SOON;
use crate::{
    ConsumerState, Context, Failure, Handler, Outcome, Settings, Worker,
    broker::fake::Fault,
    handler::HandlerFuture,
    testing::{TestBroker, TestWorker},
};

const SETTINGS: &str = "
    [consumers.orders]
    queue = 'orders'
    prefetch = 6
    concurrency = 3
    timeout = '10h'
    ack = { batch = 2, delay = '10ms' }
    [publish]
    budget = '200ms'
    hold = '2s'
";

/// A handler whose runs end only when the test ends them.
#[derive(Clone, Default)]
struct Desk(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    runs: BTreeMap<u64, oneshot::Sender<Outcome>>,
    last: u64,
    /// From now on every run succeeds at once.
    closing: bool,
}

impl Desk {
    /// Ends the picked run. Returns false if no handler runs.
    fn end(&self, pick: prop::sample::Index, outcome: Outcome) {
        let mut open = self.0.lock().unwrap();
        if open.runs.is_empty() {
            return;
        }
        let number = *open.runs.keys().nth(pick.index(open.runs.len())).unwrap();
        let run = open.runs.remove(&number).unwrap();
        // A cancelled run no longer takes an outcome.
        let _ = run.send(outcome);
    }

    fn close(&self) {
        let mut open = self.0.lock().unwrap();
        open.closing = true;
        for (_, run) in std::mem::take(&mut open.runs) {
            let _ = run.send(Outcome::Succeeded);
        }
    }
}

impl Handler for Desk {
    fn handle(&self, _: Context) -> HandlerFuture<'_> {
        Box::pin(async move {
            let ended = {
                let mut open = self.0.lock().unwrap();
                if open.closing {
                    return Outcome::Succeeded;
                }
                let (sender, ended) = oneshot::channel();
                open.last += 1;
                let number = open.last;
                open.runs.insert(number, sender);
                ended
            };
            ended.await.unwrap()
        })
    }
}

/// An event that happens to the consumer.
#[derive(Clone, Copy, Debug)]
enum Event {
    Publish,
    Succeed(prop::sample::Index),
    FailForGood(prop::sample::Index),
    Cancel(prop::sample::Index),
    Time(u16),
    Stall(bool),
    Publishing(bool),
    ChannelLost,
    ConsumerCancelled,
    Pause,
    Resume,
    AnswerAfter(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Publish),
        6 => any::<prop::sample::Index>().prop_map(Event::Succeed),
        3 => any::<prop::sample::Index>().prop_map(Event::FailForGood),
        2 => any::<prop::sample::Index>().prop_map(Event::Cancel),
        6 => (0u16..400).prop_map(Event::Time),
        2 => any::<bool>().prop_map(Event::Stall),
        2 => any::<bool>().prop_map(Event::Publishing),
        1 => Just(Event::ChannelLost),
        1 => Just(Event::ConsumerCancelled),
        1 => Just(Event::Pause),
        2 => Just(Event::Resume),
        1 => (0u16..800).prop_map(Event::AnswerAfter),
    ]
}

struct Play {
    worker: TestWorker,
    desk: Desk,
    published: u64,
}

impl Play {
    async fn begin() -> Self {
        let (desk, broker) = (Desk::default(), TestBroker::new());
        let worker = Worker::new(Settings::from_toml(SETTINGS).unwrap());
        let worker = worker.handler("orders", desk.clone());
        let mut worker = TestWorker::start_on(worker, &broker);
        worker.until(|it| it.ready).await;
        Self {
            worker,
            desk,
            published: 0,
        }
    }

    async fn happen(&mut self, event: Event) {
        let (broker, handle) = (self.worker.broker().inner(), self.worker.handle().clone());
        match event {
            Event::Publish => {
                self.worker.broker().publish_json("orders", "{}");
                self.published += 1;
            }
            Event::Succeed(pick) => self.desk.end(pick, Outcome::Succeeded),
            Event::FailForGood(pick) => {
                let failure = Failure::permanent("test", "for good");
                self.desk.end(pick, Outcome::Failed(failure));
            }
            Event::Cancel(pick) => {
                let page = handle.in_flight(Some("orders"), 0, 100).await.unwrap();
                if !page.messages.is_empty() {
                    let one = &page.messages[pick.index(page.messages.len())];
                    // The call fails if the handler of this message does not run now.
                    let _ = handle.cancel("orders", one.delivery).await;
                }
            }
            Event::Time(milliseconds) => sleep(Duration::from_millis(milliseconds.into())).await,
            Event::Stall(stalled) => broker.stall(stalled),
            Event::Publishing(true) => broker.reconnect(),
            Event::Publishing(false) => broker.fail(Fault::PublishingLost),
            Event::ChannelLost => broker.fail(Fault::ChannelLost),
            Event::ConsumerCancelled => {
                broker.fail(Fault::ConsumerCancelled("orders".to_owned()));
            }
            // The call may time out: the consumer may have to wait longer for the broker.
            Event::Pause => drop(handle.pause("orders").await),
            Event::Resume => handle.resume("orders").await.unwrap(),
            Event::AnswerAfter(milliseconds) => {
                broker.answer_after(Duration::from_millis(milliseconds.into()));
            }
        }
        tokio::task::yield_now().await;
    }

    /// Ends all faults, and lets every run succeed.
    async fn end(mut self) {
        let broker = self.worker.broker().inner();
        broker.stall(false);
        broker.reconnect();
        broker.answer_after(Duration::ZERO);
        self.worker.handle().resume("orders").await.unwrap();
        self.desk.close();
        let is_back =
            |it: &crate::Readiness| it.consumers["orders"].state == ConsumerState::Consuming;
        let back = timeout(SOON, self.worker.until(is_back)).await;
        assert!(back.is_ok(), "{:?}", self.worker.handle().readiness());
        let finished = timeout(SOON, self.worker.finished()).await;
        let report = self.worker.handle().report("orders");
        assert!(finished.is_ok(), "it stands still: {report:?}");

        let report = self.worker.drain().await.unwrap();
        let ledger = report.ledger();
        assert_eq!(broker.violations(), Vec::<String>::new());
        assert_eq!((ledger.open(), report.left()), (0, 0), "{ledger:?}");
        // The broker may have an ack of a lost session without having shown it.
        let settled = ledger.acked + ledger.dead_lettered;
        let all = settled..=settled + ledger.duplicates;
        assert!(all.contains(&self.published), "{ledger:?}");
        let dead = broker.ready("orders.dead").len() as u64;
        let again = dead - ledger.dead_lettered;
        assert!(again <= ledger.duplicates, "{dead} dead: {ledger:?}");
        assert_eq!(broker.all_ready().len() as u64, dead);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn each_message_ends_once_whatever_happens(
        events in prop::collection::vec(event(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut play = Play::begin().await;
            for event in events {
                play.happen(event).await;
            }
            play.end().await;
        });
    }
}
