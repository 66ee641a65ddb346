//! Batches under paused time.

mod parts;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    BatchSettings,
    samples::{Act, Batching, Service},
};
use crate::{
    broker::Properties,
    decode::Decode,
    handler::{Handler, samples::Sample},
    outcome::{Failure, Outcome},
};

/// The longest wait on the paused clock for something that must happen.
const SOON: Duration = Duration::from_secs(1000);
const MAX_WAIT: Duration = Duration::from_millis(10);
/// The time limit of a run.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The paths of messages, which wait for their outcomes.
#[derive(Default)]
struct Paths(BTreeMap<String, (Arc<Sample>, JoinHandle<Option<Outcome>>)>);

impl Paths {
    /// Starts the run of a message with this body, which is dropped at its time limit.
    fn start(&mut self, handler: &Arc<Batching>, tag: u64, body: &str) {
        let properties = Properties::new("same id", None, None, &[]);
        let sample = Sample::delivered(tag, properties, body.as_bytes(), Decode::Bytes);
        let sample = Arc::new(sample);
        sample.start(TIMEOUT);
        let (handler, context) = (Arc::clone(handler), sample.context());
        let run = async move { timeout(TIMEOUT, handler.handle(context)).await.ok() };
        self.0.insert(body.to_owned(), (sample, tokio::spawn(run)));
    }

    /// Starts the runs of messages `000`, `001` and so on, in this order.
    fn start_many(&mut self, handler: &Arc<Batching>, count: u64) {
        for number in 0..count {
            self.start(handler, number, &name(number));
        }
    }

    /// Drops the run of a message, as the worker does if its handler does not heed its cancellation.
    async fn leaves(&mut self, body: &str) {
        let (_, run) = self.0.remove(body).unwrap();
        run.abort();
        assert!(run.await.unwrap_err().is_cancelled());
    }

    /// The outcomes of all runs. `None`: the run took too long.
    async fn outcomes(self) -> BTreeMap<String, Option<Outcome>> {
        let mut outcomes = BTreeMap::new();
        for (body, (_, run)) in self.0 {
            let outcome = timeout(SOON, run).await.expect("it ends").unwrap();
            outcomes.insert(body, outcome);
        }
        outcomes
    }

    /// Asserts that all runs succeed but these, and gives the outcomes of these.
    async fn others_succeed(self, but: &[&str]) -> Vec<Option<Outcome>> {
        let mut outcomes = self.outcomes().await;
        let found = but.iter().map(|body| outcomes.remove(*body).unwrap());
        let found = found.collect();
        for (body, outcome) in outcomes {
            assert_eq!(outcome, Some(Outcome::Succeeded), "{body}");
        }
        found
    }
}

fn name(number: u64) -> String {
    format!("{number:03}")
}

fn names(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(name).collect()
}

fn batching(service: &Service, size: u16) -> Arc<Batching> {
    Arc::new(Batching::new(service, size, MAX_WAIT))
}

fn good() -> Service {
    Service::new(|_| Act::All(Outcome::Succeeded))
}

fn broken() -> Failure {
    Failure::retryable("test", "the call is broken")
}

/// A service whose calls end like this if one of these messages is among theirs.
fn with_bad(bad: &'static [u64], act: Act) -> Service {
    Service::new(move |bodies| {
        let is_bad = |body: &String| bad.iter().any(|number| name(*number) == *body);
        match bodies.iter().any(is_bad) {
            true => act.clone(),
            false => Act::All(Outcome::Succeeded),
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_goes_at_once_in_the_order_of_the_deliveries() {
    let service = good();
    let handler = batching(&service, 4);
    let began = Instant::now();
    let mut paths = Paths::default();
    for number in [2, 0, 3, 1, 5] {
        paths.start(&handler, number, &name(number));
    }
    service.has_begun(1).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    paths.others_succeed(&[]).await;
    assert!(began.elapsed() >= MAX_WAIT);
    assert_eq!(service.calls(), [names(0..4), names([5])]);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fill_a_batch_goes_after_the_wait_of_its_first_message() {
    let service = good();
    let handler = batching(&service, 4);
    let mut paths = Paths::default();
    let began = Instant::now();
    paths.start(&handler, 0, &name(0));
    tokio::time::sleep(MAX_WAIT / 2).await;
    paths.start(&handler, 1, &name(1));
    service.has_begun(1).await;
    assert!(began.elapsed() < MAX_WAIT + Duration::from_millis(2));
    paths.others_succeed(&[]).await;
    // After a while without messages another batch begins.
    let mut paths = Paths::default();
    paths.start_many(&handler, 3);
    paths.others_succeed(&[]).await;
    assert_eq!(service.sizes(), [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_large_body_fills_a_batch_or_has_one_of_its_own() {
    let service = good();
    let settings = BatchSettings {
        size: 100,
        max_wait: MAX_WAIT,
        max_bytes: 10,
    };
    let handler = Arc::new(Batching::with(&service, &settings));
    let mut paths = Paths::default();
    for (tag, body) in (0..).zip(["aaaa", "bbbb", "cccc", "dddddddddddd", "e"]) {
        paths.start(&handler, tag, body);
    }
    paths.others_succeed(&[]).await;
    let calls = [
        vec!["aaaa", "bbbb"],
        vec!["cccc"],
        vec!["dddddddddddd"],
        vec!["e"],
    ];
    assert_eq!(service.calls(), calls);
}

/// A message that has waited for long is not in the call of one that has its time before it.

#[tokio::test(start_paused = true)]
async fn each_message_has_its_own_outcome() {
    let outcomes = vec![
        Outcome::Succeeded,
        Outcome::Failed(broken()),
        Outcome::Failed(Failure::permanent("test", "no")),
        Outcome::dropped("old"),
    ];
    let service = Service::new({
        let outcomes = outcomes.clone();
        move |_| Act::Each(outcomes.clone())
    });
    let handler = batching(&service, 4);
    let mut paths = Paths::default();
    paths.start_many(&handler, 4);
    let found: Vec<_> = paths.outcomes().await.into_values().flatten().collect();
    assert_eq!(found, outcomes);
    assert_eq!(service.sizes(), [4]);
}

/// The message at fault ends by its own time limit, and its neighbours have succeeded before.

#[tokio::test(start_paused = true)]
async fn a_message_that_leaves_while_it_waits_is_in_no_call() {
    let service = good();
    let handler = batching(&service, 4);
    let mut paths = Paths::default();
    paths.start_many(&handler, 3);
    tokio::time::sleep(MAX_WAIT / 2).await;
    paths.leaves("000").await;
    // Two others make the batch full: the message that left does not count.
    paths.start(&handler, 3, "003");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(service.calls().len(), 0);
    paths.start(&handler, 4, "004");
    service.has_begun(1).await;
    assert_eq!(service.calls(), [names(1..5)]);
    paths.others_succeed(&[]).await;

    // If all leave, there is no call.
    let mut paths = Paths::default();
    paths.start_many(&handler, 2);
    tokio::task::yield_now().await;
    paths.leaves("000").await;
    paths.leaves("001").await;
    tokio::time::sleep(MAX_WAIT * 2).await;
    assert_eq!(service.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_leaves_during_the_call_takes_no_other_along() {
    let takes = Duration::from_secs(5);
    let service = Service::new(move |_| Act::After(takes, Box::new(Act::All(Outcome::Succeeded))));
    let handler = batching(&service, 3);
    let mut paths = Paths::default();
    paths.start_many(&handler, 3);
    service.has_begun(1).await;
    paths.leaves("000").await;
    paths.others_succeed(&[]).await;
    assert_eq!(service.calls(), [names(0..3)]);
    assert_eq!(service.dropped(), 0);

    // If all leave, the call ends.
    let mut paths = Paths::default();
    paths.start_many(&handler, 3);
    service.has_begun(2).await;
    for number in 0..3 {
        assert_eq!(service.dropped(), 0);
        paths.leaves(&name(number)).await;
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(service.dropped(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_waits_goes_at_once_when_a_drain_begins() {
    let service = good();
    let handler = Arc::new(Batching::new(&service, 4, Duration::from_secs(10)));
    let mut paths = Paths::default();
    let began = Instant::now();
    paths.start_many(&handler, 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(service.calls().len(), 0);
    paths.0["000"].0.drain();
    paths.others_succeed(&[]).await;
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(service.sizes(), [2]);
}

#[tokio::test(start_paused = true)]
async fn messages_that_come_while_no_call_can_be_made_go_with_the_next() {
    let service = good();
    service.close();
    let handler = batching(&service, 10);
    let mut paths = Paths::default();
    for number in 0..15 {
        paths.start(&handler, number, &name(number));
        tokio::time::sleep(MAX_WAIT).await;
    }
    assert_eq!(service.calls().len(), 0);
    service.open();
    paths.others_succeed(&[]).await;
    assert_eq!(service.calls(), [names(0..10), names(10..15)]);
}

#[tokio::test(start_paused = true)]
async fn messages_that_no_call_can_be_made_for_fail_and_later_ones_are_tried_again() {
    let down = Failure::unavailable("test", "no co-process starts");
    let service = good();
    service.refuse(down.clone());
    let handler = batching(&service, 3);
    for _ in 0..2 {
        let mut paths = Paths::default();
        paths.start_many(&handler, 5);
        for (body, outcome) in paths.outcomes().await {
            assert_eq!(outcome, Some(Outcome::Failed(down.clone())), "{body}");
        }
    }
    assert_eq!(service.calls().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_panics_ends_the_runs_of_its_messages_and_no_other() {
    let service = with_bad(&[0], Act::Panic);
    let handler = batching(&service, 3);
    let mut paths = Paths::default();
    paths.start_many(&handler, 6);
    let found = paths.others_succeed(&["000", "001", "002"]).await;
    for outcome in found {
        let Some(Outcome::Failed(failure)) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(failure.retryable && failure.class == "panic", "{failure:?}");
    }
    let mut paths = Paths::default();
    paths.start(&handler, 1, "later");
    paths.others_succeed(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_is_counted_once_with_its_number_of_messages_and_its_halves_are_not() {
    let service = with_bad(&[3], Act::Fail(broken()));
    let handler = batching(&service, 4);
    let mut paths = Paths::default();
    paths.start_many(&handler, 4);
    let samples: Vec<_> = paths.0.values().map(|(it, _)| Arc::clone(it)).collect();
    service.has_begun(1).await;
    paths.others_succeed(&["003"]).await;
    let counted: Vec<_> = samples.iter().map(|sample| sample.batch()).collect();
    assert_eq!(counted, [Some(4), None, None, None]);
    assert_eq!(samples[0].batch(), None);
}
