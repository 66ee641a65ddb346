//! A worker with one consumer, and a handler that does what the test says.

use std::{
    collections::VecDeque,
    panic::resume_unwind,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::account;
use crate::{
    CancelError, ConsumerReport, ConsumerState, Context, Failure, Handler, Outcome, Phase, Report,
    RunError, Worker,
    broker::fake::{FakeBroker, Letter, Release, Stored},
    handler::{CancelReason, HandlerFuture},
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
    FailWith(Failure),
    Snooze(Duration),
    Drop,
    Panic,
    PanicAfterAwait,
    /// Succeeds, but a value that the handler owns panics when it is dropped.
    PanicInDrop,
    /// As `Hang`, and a value that the handler owns panics when it is dropped.
    HangThenPanicInDrop,
    /// Takes this long, then succeeds.
    Take(Duration),
    /// Never ends, and does not ask for its cancellation.
    Hang,
    /// Ends only when it is cancelled.
    HeedCancellation,
    /// Asks for its cancellation, but never ends.
    IgnoreCancellation,
    /// Takes this long after its cancellation, then succeeds.
    SucceedWhenCancelled(Duration),
    /// Waits for [`Handling::open`], then succeeds.
    WaitForGate,
    /// Waits for [`Handling::open`], then takes this step.
    AtGate(Box<Step>),
    /// Waits for its cancellation, then takes this step.
    WhenCancelled(Box<Step>),
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
    done: Mutex<Vec<String>>,
    running: AtomicUsize,
    most_running: AtomicUsize,
    limit: AtomicUsize,
    over_limit: AtomicUsize,
    cancelled_for: Mutex<Vec<CancelReason>>,
}

impl Handling {
    /// A handler that takes these steps in turn, and `otherwise` for each later message.
    pub(super) fn new(steps: impl IntoIterator<Item = Step>, otherwise: Step) -> Self {
        Self(Arc::new(Shared {
            steps: Mutex::new(steps.into_iter().collect()),
            otherwise,
            runs: watch::Sender::default(),
            gate: watch::Sender::default(),
            done: Mutex::default(),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            over_limit: AtomicUsize::new(0),
            cancelled_for: Mutex::default(),
        }))
    }

    /// Lets all handlers that wait at the gate, and all later ones, succeed.
    pub(super) fn open(&self) {
        self.0.gate.send_replace(true);
    }

    pub(super) fn close(&self) {
        self.0.gate.send_replace(false);
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

    /// The attempts of all runs, in the order of their start.
    pub(super) fn attempts(&self) -> Vec<u32> {
        self.runs().iter().map(|run| run.attempt).collect()
    }

    /// The times between the starts of neighbouring runs, in milliseconds.
    pub(super) fn gaps(&self) -> Vec<u128> {
        let runs = self.runs();
        let gap = |pair: &[Run]| (pair[1].at - pair[0].at).as_millis();
        runs.windows(2).map(gap).collect()
    }

    /// The ids of messages that a handler has reported as done, once for each report.
    pub(super) fn done(&self) -> Vec<String> {
        self.0.done.lock().unwrap().clone()
    }

    /// The handlers that run now.
    pub(super) fn running(&self) -> usize {
        self.0.running.load(Ordering::SeqCst)
    }

    /// The most handlers that ran at once.
    pub(super) fn most_running(&self) -> usize {
        self.0.most_running.load(Ordering::SeqCst)
    }

    /// From now on at most this many handlers should run when one starts, that one included.
    pub(super) fn set_limit(&self, limit: u16) {
        self.0.limit.store(limit.into(), Ordering::SeqCst);
    }

    /// The most running handlers above the current limit that a starting handler has found.
    pub(super) fn over_limit(&self) -> usize {
        self.0.over_limit.load(Ordering::SeqCst)
    }

    /// The reasons of the cancellations that handlers asked for.
    pub(super) fn cancelled_for(&self) -> Vec<CancelReason> {
        self.0.cancelled_for.lock().unwrap().clone()
    }

    async fn cancelled(&self, context: &Context) {
        let reason = context.cancellation().cancelled().await;
        self.0.cancelled_for.lock().unwrap().push(reason);
    }

    async fn carry_out(&self, context: &Context) -> Outcome {
        let step = self.0.steps.lock().unwrap().pop_front();
        match self.come_to(step, context).await {
            Step::AtGate(_) | Step::WhenCancelled(_) => unreachable!("waited for"),
            Step::Succeed => Outcome::Succeeded,
            Step::Fail => Outcome::Failed(Failure::retryable("test", "failed")),
            Step::FailForGood => Outcome::Failed(Failure::permanent("test", "failed for good")),
            Step::FailWith(failure) => Outcome::Failed(failure),
            Step::Snooze(after) => Outcome::Snoozed { after },
            Step::Drop => Outcome::Dropped {
                reason: "not wanted".into(),
            },
            Step::Panic => panics(),
            Step::PanicAfterAwait => {
                tokio::task::yield_now().await;
                panics()
            }
            Step::PanicInDrop => {
                let _held = PanicsInDrop;
                Outcome::Succeeded
            }
            Step::HangThenPanicInDrop => {
                let _held = PanicsInDrop;
                std::future::pending().await
            }
            Step::Take(time) => {
                tokio::time::sleep(time).await;
                Outcome::Succeeded
            }
            Step::Hang => std::future::pending().await,
            Step::HeedCancellation => {
                self.cancelled(context).await;
                Outcome::Failed(Failure::retryable("cancelled", "heeded"))
            }
            Step::IgnoreCancellation => {
                self.cancelled(context).await;
                std::future::pending().await
            }
            Step::SucceedWhenCancelled(time) => {
                self.cancelled(context).await;
                tokio::time::sleep(time).await;
                Outcome::Succeeded
            }
            Step::WaitForGate => {
                self.gate().await;
                Outcome::Succeeded
            }
        }
    }

    async fn gate(&self) {
        let mut gate = self.0.gate.subscribe();
        gate.wait_for(|open| *open).await.unwrap();
    }

    /// Carries out the waits of a step. Returns the step that follows them.
    async fn come_to(&self, step: Option<Step>, context: &Context) -> Step {
        let mut step = step.unwrap_or_else(|| self.0.otherwise.clone());
        loop {
            step = match step {
                Step::AtGate(then) => {
                    self.gate().await;
                    *then
                }
                Step::WhenCancelled(then) => {
                    context.cancellation().cancelled().await;
                    *then
                }
                other => return other,
            };
        }
    }
}

impl Handler for Handling {
    fn handle(&self, context: Context) -> HandlerFuture<'_> {
        let id = account::id(context.message().properties());
        let run = Run {
            id: id.clone(),
            attempt: context.attempt(),
            at: Instant::now(),
        };
        self.0.runs.send_modify(|runs| runs.push(run));
        let running = Running::start(&self.0);
        Box::pin(async move {
            let _running = running;
            let outcome = self.carry_out(&context).await;
            if matches!(outcome, Outcome::Succeeded | Outcome::Dropped { .. }) {
                self.0.done.lock().unwrap().push(id);
            }
            outcome
        })
    }
}

/// Counts a handler as running until this is dropped.
struct Running(Arc<Shared>);

impl Running {
    fn start(shared: &Arc<Shared>) -> Self {
        let now = shared.running.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_running.fetch_max(now, Ordering::SeqCst);
        let over = now.saturating_sub(shared.limit.load(Ordering::SeqCst));
        shared.over_limit.fetch_max(over, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Panics without the panic hook, whose report is slow.
fn panics() -> ! {
    resume_unwind(Box::new("the test wants it"))
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panics();
    }
}

/// A worker on the fake broker, with the consumer `orders` of the queue `orders`.
pub(super) struct Kit {
    pub(super) worker: TestWorker,
    pub(super) broker: FakeBroker,
    pub(super) handling: Handling,
    /// The handlers of routes.
    typed: Vec<Handling>,
}

impl Kit {
    /// A worker whose consumer is subscribed. `settings` are lines of `[consumers.orders]`, or of tables
    /// after it.
    pub(super) async fn start(settings: &str, handling: Handling) -> Self {
        let mut kit = Self::start_on(&TestBroker::new(), settings, handling);
        kit.until_state(ConsumerState::Consuming).await;
        kit
    }

    /// As [`start`](Self::start), on a broker of this release.
    pub(super) async fn start_at(release: Release, settings: &str, handling: Handling) -> Self {
        let broker = TestBroker::of(FakeBroker::new(release));
        let mut kit = Self::start_on(&broker, settings, handling);
        kit.until_state(ConsumerState::Consuming).await;
        kit
    }

    /// As [`start`](Self::start), on a broker that a test has prepared, and without waiting.
    pub(super) fn start_on(broker: &TestBroker, settings: &str, handling: Handling) -> Self {
        let worker = worker(settings).handler("orders", handling.clone());
        Self {
            worker: TestWorker::start_on(worker, broker),
            broker: broker.inner(),
            handling,
            typed: Vec::new(),
        }
    }

    /// A worker with handlers for routes. Other messages have a handler only if the settings name one.
    pub(super) async fn start_typed(
        settings: &str,
        typed: impl IntoIterator<Item = (&str, Handling)>,
    ) -> Self {
        let (mut worker, mut handlings) = (worker(settings), Vec::new());
        for (message_type, handling) in typed {
            worker = worker.handler_for_route("orders", message_type, handling.clone());
            handlings.push(handling);
        }
        let broker = TestBroker::new();
        let mut kit = Self {
            worker: TestWorker::start_on(worker, &broker),
            broker: broker.inner(),
            handling: Handling::new([], Step::Succeed),
            typed: handlings,
        };
        kit.until_state(ConsumerState::Consuming).await;
        kit
    }

    /// Publishes a message to the queue. Returns its id.
    pub(super) fn publish(&self) -> String {
        self.worker.broker().publish_json("orders", "{}")
    }

    /// Publishes many messages. Returns their ids.
    pub(super) fn publish_many(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.publish()).collect()
    }

    /// Publishes a message as another client would.
    pub(super) fn send(&self, letter: Letter, body: &[u8]) {
        assert!(self.broker.send("orders", body, letter.into()));
    }

    /// Waits until this many messages are ready in a queue.
    pub(super) async fn until_in(&self, queue: &str, count: usize) {
        let wait = self.broker.until(|it| it.ready(queue).len() == count);
        let there = timeout(SOON, wait).await;
        let now = self.broker.ready(queue);
        assert!(there.is_ok(), "{count} wanted in {queue}, got {now:?}");
    }

    /// The only message in a queue.
    pub(super) fn only(&self, queue: &str) -> Stored {
        let mut messages = self.broker.ready(queue);
        assert_eq!(messages.len(), 1, "{queue}: {messages:?}");
        messages.remove(0)
    }

    /// The only dead letter.
    pub(super) fn dead(&self) -> Stored {
        self.only("orders.dead")
    }

    /// The lane's current report. A lane publishes its figures at the end of each turn, and answers within
    /// a turn. The second answer shows that the turn of the first answer has ended.
    pub(super) async fn report(&self) -> ConsumerReport {
        let handle = self.worker.handle();
        for _ in 0..2 {
            handle.in_flight(Some("orders"), 0, 0).await.unwrap();
        }
        handle.report("orders").unwrap()
    }

    /// Cancels the oldest message in this phase, as an operator does.
    pub(super) async fn cancel_in(&self, phase: Phase) -> Result<(), CancelError> {
        let handle = self.worker.handle();
        let page = handle.in_flight(Some("orders"), 0, 100).await.unwrap();
        let found = page.messages.iter().find(|it| it.phase == phase);
        let delivery = found.expect("there is one in this phase").delivery;
        handle.cancel("orders", delivery).await
    }

    /// Records that a handler outside this kit has succeeded with this message.
    pub(super) fn handling_took(&self, id: &str) {
        self.handling.0.done.lock().unwrap().push(id.to_owned());
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

    /// Drains the worker. Checks that it has kept to the protocol, that its ledger adds up, and that each
    /// message is in exactly one place: done, or in a queue.
    pub(super) async fn drain(self) -> Result<Report, RunError> {
        let broker = self.broker.clone();
        let ended = timeout(SOON, self.worker.drain()).await.unwrap();
        assert_eq!(broker.violations(), Vec::<String>::new());
        if let Ok(report) = &ended {
            let ledger = report.ledger();
            assert_eq!(ledger.open(), 0, "{ledger:?}");
            let handlings = self.typed.iter().chain([&self.handling]);
            let done: Vec<_> = handlings.flat_map(Handling::done).collect();
            account::check(&broker, &done, ledger);
        }
        ended
    }
}

fn worker(settings: &str) -> Worker {
    let text = format!("[consumers.orders]\nqueue = 'orders'\n{settings}");
    Worker::new(Settings::from_toml(&text).unwrap())
}

/// Asserts that each of these times, in milliseconds, is as wanted or a little longer: timers are
/// coarse.
#[track_caller]
pub(super) fn near(times: &[u128], wanted: &[u128]) {
    let is_near = |(time, wanted): (&u128, &u128)| (*wanted..wanted + 10).contains(time);
    let all = times.len() == wanted.len() && times.iter().zip(wanted).all(is_near);
    assert!(all, "{times:?}, wanted {wanted:?}");
}
