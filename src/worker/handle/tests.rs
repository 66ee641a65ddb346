//! Waiting for what a worker says about itself.

use std::pin::pin;

use futures_util::FutureExt;

use super::*;
use crate::consumer::ConsumerSettings;

fn with_lanes(names: &[&str]) -> (WorkerHandle, Calls) {
    let lane = |name: &&str| ((*name).to_owned(), ConsumerSettings::default());
    channel(&WorkerSettings {
        consumers: names.iter().map(lane).collect(),
        ..WorkerSettings::default()
    })
}

fn is_consuming(readiness: &Readiness) -> bool {
    readiness.lanes["other"].state == LaneState::Consuming
}

#[tokio::test]
async fn the_end_of_one_lane_is_not_the_end_of_the_worker() {
    let (mut handle, mut calls) = with_lanes(&["ends", "other"]);
    let mut waiting = pin!(handle.until(is_consuming));
    assert!(waiting.as_mut().now_or_never().is_none());
    calls.lanes.remove("ends");
    assert!(waiting.as_mut().now_or_never().is_none());

    let (LaneChannels { health, .. }, _) = &calls.lanes["other"];
    health.send_replace(LaneHealth::new(LaneState::Consuming, None));
    assert!(is_consuming(&waiting.await));
}

#[tokio::test]
async fn when_no_lane_is_left_there_is_nothing_to_wait_for() {
    let (mut handle, calls) = with_lanes(&["ends", "other"]);
    drop(calls.lanes);
    assert!(!is_consuming(&handle.until(is_consuming).await));

    let (mut handle, _calls) = with_lanes(&[]);
    assert!(handle.until(|_| false).await.lanes.is_empty());
}
