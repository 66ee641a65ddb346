//! Waiting for what a worker says about itself.

use std::pin::pin;

use futures_util::FutureExt;

use super::*;
use crate::consumer::ConsumerSettings;

fn with_consumers(names: &[&str]) -> (WorkerHandle, Calls) {
    let consumer = |name: &&str| ((*name).to_owned(), ConsumerSettings::default());
    channel(&WorkerSettings {
        consumers: names.iter().map(consumer).collect(),
        ..WorkerSettings::default()
    })
}

fn is_consuming(readiness: &Readiness) -> bool {
    readiness.consumers["other"].state == ConsumerState::Consuming
}

#[tokio::test]
async fn the_end_of_one_consumer_is_not_the_end_of_the_worker() {
    let (mut handle, mut calls) = with_consumers(&["ends", "other"]);
    let mut waiting = pin!(handle.until(is_consuming));
    assert!(waiting.as_mut().now_or_never().is_none());
    calls.consumers.remove("ends");
    assert!(waiting.as_mut().now_or_never().is_none());

    let (LaneChannels { health, .. }, _) = &calls.consumers["other"];
    health.send_replace(ConsumerHealth::new(ConsumerState::Consuming, None));
    assert!(is_consuming(&waiting.await));
}

#[tokio::test]
async fn when_no_consumer_is_left_there_is_nothing_to_wait_for() {
    let (mut handle, calls) = with_consumers(&["ends", "other"]);
    drop(calls.consumers);
    assert!(!is_consuming(&handle.until(is_consuming).await));

    let (mut handle, _calls) = with_consumers(&[]);
    assert!(handle.until(|_| false).await.consumers.is_empty());
}
