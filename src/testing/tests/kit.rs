//! A worker with one consumer, and a handler that does what the test says.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    ConsumerState, Context, Failure, Handler, Outcome, Report, RunError, Worker,
    broker::fake::FakeBroker,
    handler::HandlerFuture,
    settings::Settings,
    testing::{TestBroker, TestWorker},
};

/// The longest wait on the paused clock for something that must happen.
pub(super) const SOON: Duration = Duration::from_secs(100);

/// One instruction for the handler.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Succeed,
    Fail,
    FailForGood,
    Snooze(Duration),
    Drop,
    Panic,
    /// Never ends, and ignores its cancellation.
    Hang,
    /// Ends only when it is cancelled.
    HeedCancellation,
    /// Waits for [`Handling::open`], then succeeds.
    WaitForGate,
}

/// One run of the handler.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) id: String,
    pub(super) attempt: u32,
    pub(super) at: Instant,
}

/// The handler: its instructions, and its runs so far. Clones share both.
#[derive(Clone)]
pub(super) struct Handling(Arc<Shared>);

struct Shared {
    steps: Mutex<VecDeque<Step>>,
    otherwise: Step,
    runs: watch::Sender<Vec<Run>>,
    gate: watch::Sender<bool>,
}

impl Handling {
    /// A handler that takes these steps in turn, and `otherwise` for each later message.
    pub(super) fn new(steps: impl IntoIterator<Item = Step>, otherwise: Step) -> Self {
        Self(Arc::new(Shared {
            steps: Mutex::new(steps.into_iter().collect()),
            otherwise,
            runs: watch::Sender::default(),
            gate: watch::Sender::default(),
        }))
    }

    /// Lets all handlers that wait at the gate, and all later ones, succeed.
    pub(super) fn open(&self) {
        self.0.gate.send_replace(true);
    }

    pub(super) fn runs(&self) -> Vec<Run> {
        self.0.runs.borrow().clone()
    }

    /// Waits until the handler has run this many times.
    pub(super) async fn has_run(&self, times: usize) {
        let mut runs = self.0.runs.subscribe();
        let wait = runs.wait_for(|runs| runs.len() >= times);
        let ran = timeout(SOON, wait).await.map(drop);
        assert!(ran.is_ok(), "{times} runs wanted, got {:?}", self.runs());
    }

    async fn carry_out(&self, context: &Context) -> Outcome {
        let step = self.0.steps.lock().unwrap().pop_front();
        match step.unwrap_or_else(|| self.0.otherwise.clone()) {
            Step::Succeed => Outcome::Succeeded,
            Step::Fail => Outcome::Failed(Failure::retryable("test", "failed")),
            Step::FailForGood => Outcome::Failed(Failure::permanent("test", "failed for good")),
            Step::Snooze(after) => Outcome::Snoozed { after },
            Step::Drop => Outcome::Dropped {
                reason: "not wanted".into(),
            },
            Step::Panic => panic!("the test wants it"),
            Step::Hang => std::future::pending().await,
            Step::HeedCancellation => {
                context.cancellation().cancelled().await;
                Outcome::Failed(Failure::retryable("cancelled", "heeded"))
            }
            Step::WaitForGate => {
                let mut gate = self.0.gate.subscribe();
                gate.wait_for(|open| *open).await.unwrap();
                Outcome::Succeeded
            }
        }
    }
}

impl Handler for Handling {
    fn handle(&self, context: Context) -> HandlerFuture<'_> {
        let id = context.message().id().unwrap_or_default().to_owned();
        let run = Run {
            id,
            attempt: context.attempt(),
            at: Instant::now(),
        };
        self.0.runs.send_modify(|runs| runs.push(run));
        Box::pin(async move { self.carry_out(&context).await })
    }
}

/// A worker on the fake broker, with the consumer `orders` of the queue `orders`.
pub(super) struct Kit {
    pub(super) worker: TestWorker,
    pub(super) broker: FakeBroker,
    pub(super) handling: Handling,
}

impl Kit {
    /// A worker whose consumer is subscribed. `settings` are lines of `[consumers.orders]`, or of tables
    /// after it.
    pub(super) async fn start(settings: &str, handling: Handling) -> Self {
        let mut kit = Self::start_on(&TestBroker::new(), settings, handling);
        kit.until_state(ConsumerState::Consuming).await;
        kit
    }

    /// As [`start`](Self::start), on a broker that a test has prepared, and without waiting.
    pub(super) fn start_on(broker: &TestBroker, settings: &str, handling: Handling) -> Self {
        let text = format!("[consumers.orders]\nqueue = 'orders'\n{settings}");
        let settings = Settings::from_toml(&text).unwrap();
        let worker = Worker::new(settings).handler("orders", handling.clone());
        Self {
            worker: TestWorker::start_on(worker, broker),
            broker: broker.inner(),
            handling,
        }
    }

    /// Publishes a message to the queue. Returns its id.
    pub(super) fn publish(&self) -> String {
        self.worker.broker().publish_json("orders", "{}")
    }

    /// Waits for a state of the consumer.
    pub(super) async fn until_state(&mut self, wanted: ConsumerState) {
        let state = |it: &crate::Readiness| it.consumers["orders"].state;
        let wait = self.worker.until(|it| state(it) == wanted);
        let reached = timeout(SOON, wait).await.map(|it| state(&it));
        let now = self.worker.handle().readiness();
        assert_eq!(reached, Ok(wanted), "{now:?}");
    }

    /// Waits until every message is finished.
    pub(super) async fn finished(&self) {
        self.worker.finished().await;
    }

    /// The ids in a queue, oldest first.
    pub(super) fn ids(&self, queue: &str) -> Vec<String> {
        let messages = self.worker.broker().messages(queue);
        let ids = messages.iter().map(|it| it.properties.message_id());
        ids.map(|id| id.unwrap_or_default().to_owned()).collect()
    }

    /// Drains the worker. Checks that it has kept to the protocol, and that its ledger adds up.
    pub(super) async fn drain(self) -> Result<Report, RunError> {
        let broker = self.broker.clone();
        let ended = timeout(SOON, self.worker.drain()).await.unwrap();
        assert_eq!(broker.violations(), Vec::<String>::new());
        if let Ok(report) = &ended {
            assert_eq!(report.ledger().open(), 0, "{:?}", report.ledger());
        }
        ended
    }
}
