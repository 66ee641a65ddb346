//! Tests of the path on a broker in memory, under paused time.

use std::sync::Mutex;

use futures_util::FutureExt;
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore},
    time::{Instant, advance},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    breaker::{BreakerSettings, Sign},
    broker::{
        CopyHeaders, Delivery, Moment, Properties, PublishSettings,
        fake::{Confirm, FakeBroker, Release},
    },
    consumer::ConsumerSettings,
    flight::{Extensions, Phase, Resources, SessionId},
    handler::{Context, Handler, HandlerFuture},
    message::Message,
    outcome::{Failure, Outcome},
    state,
    status::{Figures, Outcomes},
    telemetry::{Signals, Watch},
};

/// A handler that ends in these outcomes, one in each run. Each run waits until the test lets it
/// end.
struct Scripted {
    outcomes: Mutex<Vec<Outcome>>,
    let_go: Arc<Notify>,
}

impl Handler for Scripted {
    fn handle(&self, _: Context) -> HandlerFuture<'_> {
        let outcome = self.outcomes.lock().unwrap().remove(0);
        Box::pin(async move {
            self.let_go.notified().await;
            outcome
        })
    }
}

struct Fixture {
    broker: FakeBroker,
    lane: Arc<Lane<FakeBroker>>,
    session: SessionId,
    let_go: Arc<Notify>,
}

const QUEUE: &str = "orders";
const FIRST_RUNG: &str = "orders.retry.1s";

/// A lane with one slot, whose handler ends in these outcomes.
fn fixture(outcomes: Vec<Outcome>) -> Fixture {
    let mut settings = ConsumerSettings {
        queue: QUEUE.to_owned(),
        concurrency: 1,
        ..ConsumerSettings::default()
    };
    settings.retry.jitter = 0.0;
    let broker = FakeBroker::new(Release::V43);
    let ladder = settings.ladder();
    let rungs = ladder.rungs().map(|rung| rung.queue);
    rungs
        .chain([settings.dead_letter_queue()])
        .for_each(|queue| broker.declare(&queue));
    let let_go = Arc::new(Notify::new());
    let handler = Scripted {
        outcomes: Mutex::new(outcomes),
        let_go: Arc::clone(&let_go),
    };
    let handlers = Handlers {
        any: Some(Arc::new(handler)),
        ..Handlers::default()
    };
    let figures = Arc::new(Figures::new(QUEUE, &settings, &Outcomes::default()));
    let state = state::start_in_thread(1, Duration::from_secs(1)).unwrap();
    let resources = Resources {
        state,
        extensions: Extensions::default(),
        drain: CancellationToken::new(),
    };
    let slots = Arc::clone(&figures.slots);
    let (name, worker) = (QUEUE.into(), "worker".into());
    let lane = Lane {
        watch: Watch::new(figures, Signals::default(), &name, &name, &worker),
        queue: Arc::clone(&name),
        name,
        worker,
        publish: PublishSettings::default(),
        drain_settle: Duration::ZERO,
        dispatch: Dispatch::new(handlers, &settings),
        settings,
        ladder,
        broker: broker.clone(),
        resources: Arc::new(resources),
        drain: CancellationToken::new(),
        hard_stop: CancellationToken::new(),
        runtime: Handle::current(),
        reports: Arc::new(Semaphore::new(1)),
        readings: reading_permits(),
        starts: StartQueue::new(slots, None),
        ends: Ends::default(),
        service: Service::new(&BreakerSettings::default()),
        live: Live::default(),
    };
    let session = SessionId::next();
    lane.set_session(Some(session));
    Fixture {
        broker,
        lane: Arc::new(lane),
        session,
        let_go,
    }
}

impl Fixture {
    fn message(&self) -> Message {
        let delivery = Delivery {
            tag: 1,
            received: Moment::now(),
            exchange: String::new(),
            routing_key: QUEUE.to_owned(),
            redelivered: false,
            properties: Properties::new("m1", None, None, &[]),
            body: b"body".to_vec(),
        };
        Message::new(delivery, Arc::clone(&self.lane.queue))
    }

    /// Starts a message on its path, which gets as far as it can without time passing.
    async fn start(&self, message: Message) -> Arc<Flight> {
        let lane = &self.lane;
        let flight = Arc::new(Flight::new(
            Arc::clone(&lane.name),
            message,
            Arc::clone(&lane.resources),
            self.session,
            1,
            Moment::now(),
        ));
        if lane
            .starts
            .put(&mut vec![Arc::clone(&flight)], Instant::now())
        {
            run_on(lane);
        }
        settle_down().await;
        flight
    }

    /// Lets the handler end.
    async fn let_go(&self) {
        self.let_go.notify_one();
        settle_down().await;
    }

    async fn end(&self) -> End {
        self.lane.ends.gathered(1).await;
        let mut ends = Vec::new();
        self.lane.ends.take(&mut ends);
        assert_eq!(ends.len(), 1);
        assert_eq!(ends[0].flight.phase(), Phase::Settling);
        assert_eq!(self.slots_in_use(), 0);
        ends[0].end
    }

    fn slots_in_use(&self) -> usize {
        self.lane.watch.figures.slots.in_use()
    }

    fn has_ended(&self) -> bool {
        self.lane.ends.gathered(1).now_or_never().is_some()
    }
}

/// Lets every task get as far as it can without time passing.
async fn settle_down() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn failure() -> Outcome {
    Outcome::Failed(Failure::retryable("test", "not yet"))
}

#[tokio::test(start_paused = true)]
async fn what_the_inbox_knows_of_a_message_says_nothing_about_the_service() {
    let fixture = fixture(Vec::new());
    let lane = &fixture.lane;
    let flight = Flight::new(
        Arc::clone(&lane.name),
        fixture.message(),
        Arc::clone(&lane.resources),
        fixture.session,
        1,
        Moment::now(),
    );
    let sign = |ending: &Ending| lane.service.sign(&flight, &lane.settings.retry, ending);
    let snoozed = Ending::from(Outcome::snooze(Duration::ZERO));
    let duplicate = Ending::from(Outcome::Duplicate);
    for ending in [&snoozed, &duplicate] {
        flight.asks_nothing();
        assert_eq!(sign(ending), Sign::Nothing);
        assert_eq!(lane.served(), 0);
    }
    // A handler that postpones a message has worked.
    assert_eq!(sign(&snoozed), Sign::Well);
    assert_eq!(lane.served(), 1);
    // If the store is what was down, its answer counts.
    let store = Ending::from(Outcome::Failed(Failure::unavailable("inbox", "away")));
    assert_eq!(sign(&store), Sign::Unavailable);
    flight.asks_nothing();
    assert_eq!(sign(&duplicate), Sign::Answered);
    sign(&Ending::from(failure()));
    flight.asks_nothing();
    assert_eq!(sign(&duplicate), Sign::Nothing);
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_without_a_slot_and_then_runs_again() {
    let fixture = fixture(vec![failure(), Outcome::Succeeded]);
    let flight = fixture.start(fixture.message()).await;
    assert_eq!(
        (flight.phase(), fixture.slots_in_use()),
        (Phase::Handling, 1)
    );
    fixture.let_go().await;
    assert_eq!(
        (flight.phase(), fixture.slots_in_use()),
        (Phase::Waiting, 0)
    );
    advance(Duration::from_millis(500)).await;
    settle_down().await;
    assert_eq!(
        (flight.phase(), fixture.slots_in_use()),
        (Phase::Handling, 1)
    );
    assert_eq!(flight.attempt(), 2);
    fixture.let_go().await;
    assert_eq!(fixture.end().await, End::Done);
}

#[tokio::test(start_paused = true)]
async fn a_drain_parks_a_retry_that_waits_with_what_is_left_of_its_delay() {
    let fixture = fixture(vec![failure()]);
    let flight = fixture.start(fixture.message()).await;
    fixture.let_go().await;
    advance(Duration::from_millis(200)).await;
    fixture
        .broker
        .answer_publishes([Confirm::AckAfter(Duration::from_secs(1))]);
    fixture.lane.drain.cancel();
    settle_down().await;
    assert_eq!(flight.phase(), Phase::Settling, "while it is published");
    advance(Duration::from_millis(299)).await;
    settle_down().await;
    assert_eq!(fixture.broker.ready(FIRST_RUNG).len(), 1);
    advance(Duration::from_millis(2)).await;
    settle_down().await;
    assert!(fixture.broker.ready(FIRST_RUNG).is_empty(), "it expires");
    assert_eq!(fixture.end().await, End::Parked);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_came_early_is_settling_while_it_is_parked_again() {
    let fixture = fixture(vec![]);
    fixture
        .broker
        .answer_publishes([Confirm::AckAfter(Duration::from_secs(1))]);
    let mut message = fixture.message();
    message.past.not_before = Some(std::time::SystemTime::now() + Duration::from_secs(60));
    let flight = fixture.start(message).await;
    assert_eq!(
        (flight.phase(), fixture.slots_in_use()),
        (Phase::Settling, 0)
    );
    assert_eq!(fixture.end().await, End::Parked);
}

#[tokio::test(start_paused = true)]
async fn a_stuck_handler_that_comes_back_changes_nothing() {
    let fixture = fixture(vec![Outcome::Succeeded]);
    let flight = fixture.start(fixture.message()).await;
    assert!(flight.claim_from_handler());
    flight.slot.give_back();
    fixture
        .broker
        .answer_publishes([Confirm::AckAfter(Duration::from_secs(1))]);
    let ending = Ending::TimedOut {
        after: Duration::from_secs(30),
    };
    let lane = Arc::clone(&fixture.lane);
    let settling = tokio::spawn(settle_stuck(lane, Arc::clone(&flight), ending));
    settle_down().await;
    assert_eq!(
        flight.phase(),
        Phase::Settling,
        "its delay is short, but it must not wait here"
    );

    fixture.let_go().await;
    assert!(!fixture.has_ended());
    assert_eq!(fixture.lane.watch.figures.counters.stale_settles.get(), 1);
    assert_eq!(fixture.broker.ready(FIRST_RUNG).len(), 1);
    settling.await.unwrap();
    assert_eq!(fixture.end().await, End::Parked);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_not_confirmed_leaves_the_original_where_it_is_and_waits() {
    let fixture = fixture(vec![Outcome::Failed(Failure::permanent("test", "never"))]);
    fixture.start(fixture.message()).await;
    fixture
        .broker
        .answer_publishes(std::iter::repeat_n(Confirm::Nack, 10_000));
    let kept = &fixture.lane.live.kept;
    fixture.let_go().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(kept.count(), 0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(kept.count() == 1 && !fixture.has_ended());
    assert!(fixture.broker.ready("orders.dead").is_empty());
    fixture.broker.forget_answers();
    assert_eq!(fixture.end().await, End::DeadLettered);
    assert_eq!(kept.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_its_session_a_failed_message_is_not_copied() {
    let fixture = fixture(vec![failure()]);
    fixture.start(fixture.message()).await;
    fixture.lane.set_session(Some(SessionId::next()));
    fixture.let_go().await;
    assert_eq!(fixture.end().await, End::Stale);
    assert!(fixture.broker.ready(FIRST_RUNG).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_path_is_a_fault_and_the_delivery_stays() {
    let fixture = fixture(vec![failure()]);
    let flight = fixture.start(fixture.message()).await;
    let end = or_fault(&flight, async { panic!("a fault of ours") }).await;
    assert_eq!(end, Some(End::Fault));
    assert!(!flight.claim_from_handler(), "the lane leaves it alone");
}

/// A message that is read on a thread of its own.
fn long(fixture: &Fixture) -> Message {
    let mut message = fixture.message();
    message.properties = Properties::new("m1", Some("application/json"), None, &[]);
    message.body = format!("\"{}\"", "x".repeat(100_000)).into_bytes();
    message
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_for_other_readings_is_not_at_fault() {
    let fixture = fixture(vec![Outcome::Succeeded]);
    let readings = Arc::clone(&fixture.lane.readings);
    let all = u32::try_from(readings.available_permits()).unwrap();
    let others = readings.acquire_many_owned(all).await.unwrap();
    let flight = fixture.start(long(&fixture)).await;
    advance(2 * fixture.lane.settings.timeout).await;
    settle_down().await;
    assert_eq!((flight.phase(), flight.attempt()), (Phase::Buffered, 1));
    assert!(!fixture.has_ended());
    drop(others);
    fixture.let_go.notify_one();
    assert_eq!(fixture.end().await, End::Done);
    assert_eq!(flight.attempt(), 1);
}

#[test]
fn a_reading_that_takes_too_long_is_tried_again_and_keeps_its_permit_to_its_end() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .max_blocking_threads(1)
        .build();
    runtime.unwrap().block_on(async {
        let fixture = fixture(vec![Outcome::Succeeded]);
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let blocking = tokio::task::spawn_blocking(move || blocked.recv());
        let free = || fixture.lane.readings.available_permits();
        let all = free();
        let flight = fixture.start(long(&fixture)).await;
        assert_eq!(free(), all - 1);
        advance(fixture.lane.settings.timeout).await;
        settle_down().await;
        assert_eq!(flight.phase(), Phase::Waiting);
        assert_eq!(free(), all - 1, "the reading has not ended");
        let counters = &fixture.lane.watch.figures.counters;
        assert_eq!(counters.outcome(OutcomeKind::Undecodable).get(), 1);
        drop(release);
        assert!(blocking.await.unwrap().is_err());
        fixture.let_go.notify_one();
        assert_eq!(fixture.end().await, End::Done);
        assert_eq!((flight.attempt(), free()), (2, all));
    });
}

/// The messages of a service that gives no answer are parked before their first attempt.
#[tokio::test(start_paused = true)]
async fn a_parked_canary_is_still_to_be_reported_if_it_has_had_no_outcome() {
    let fixture = fixture(vec![Outcome::Succeeded]);
    let canary = dead_letters::Canary {
        queue: "lapwing-canary.run".to_owned(),
        number: 1,
    };
    let mut message = fixture.message();
    let headers = CopyHeaders {
        set: vec![canary.header()],
        ..CopyHeaders::default()
    };
    message.properties = headers.on(&message.properties);
    let flight = fixture.start(message).await;
    let parked = || {
        let copy = dead_letters::parked(&flight, Duration::from_secs(30), crate::clock::now());
        dead_letters::Canary::read(&copy.on(&flight.message.properties))
    };
    assert_eq!(parked(), Some(canary));
    assert!(flight.is_first_outcome());
    assert_eq!(parked(), None);
}
