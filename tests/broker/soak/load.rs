//! What must hold at any moment: no more handlers of a lane at once than it has slots, and no free
//! slot for long while a delivery waits for one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapwing::{LaneState, WorkerHandle};

use super::LANES;
use crate::support::ms;

/// A handler that is seen now got its slot no longer ago than this, and by the limit of then.
const LATE: Duration = Duration::from_secs(2);
/// Far more than a slot may stay free, for a machine that does other things too.
const STALL: Duration = Duration::from_secs(1);

/// One lane's handlers.
#[derive(Debug, Default)]
struct Lane {
    inside: usize,
    peak: usize,
    /// How many handlers may run, and since when.
    limits: Vec<(Instant, usize)>,
    /// The most deliveries that were unsettled at once.
    unsettled: usize,
}

impl Lane {
    fn limit(&self) -> usize {
        self.limits.last().map_or(0, |(_, limit)| *limit)
    }

    /// The highest limit of late.
    fn most(&self) -> usize {
        let until = self.limits.iter().skip(1).map(|(since, _)| Some(*since));
        let ends = until.chain([None]);
        let of_late = self
            .limits
            .iter()
            .zip(ends)
            .filter_map(|((_, limit), end)| {
                end.is_none_or(|end| end.elapsed() < LATE).then_some(*limit)
            });
        of_late.max().unwrap_or(0)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Load {
    lanes: Mutex<BTreeMap<String, Lane>>,
    faults: Mutex<Vec<String>>,
}

/// A handler that runs.
pub(super) struct Inside<'a>(&'a Load, String);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.with(&self.1, |lane| lane.inside -= 1);
    }
}

impl Load {
    fn with<T>(&self, lane: &str, change: impl FnOnce(&mut Lane) -> T) -> T {
        let mut lanes = self.lanes.lock().expect("no holder panics");
        change(lanes.entry(lane.to_owned()).or_default())
    }

    fn fault(&self, fault: String) {
        println!("{fault}");
        self.faults.lock().expect("no holder panics").push(fault);
    }

    /// From now on this many handlers may run.
    pub(super) fn limit(&self, lane: &str, limit: u16) {
        self.with(lane, |lane| {
            lane.limits.push((Instant::now(), limit.into()));
        });
    }

    /// Inside until the guard is dropped.
    pub(super) fn enter(&self, lane: &str) -> Inside<'_> {
        let (inside, most) = self.with(lane, |lane| {
            lane.inside += 1;
            lane.peak = lane.peak.max(lane.inside);
            (lane.inside, lane.most())
        });
        if inside > most {
            self.fault(format!(
                "{inside} handlers of {lane}, which may have {most}"
            ));
        }
        Inside(self, lane.to_owned())
    }

    /// Looks at a worker's lanes until it drains.
    pub(super) async fn watch(self: Arc<Self>, handle: WorkerHandle) {
        // Since when a slot has been free beside a delivery, and how many attempts there were.
        let mut free: BTreeMap<&str, (Instant, u64)> = BTreeMap::new();
        while !handle.readiness().draining {
            tokio::time::sleep(ms(50)).await;
            for lane in LANES {
                let report = handle.report(lane);
                let consumes = handle.readiness().lanes[lane].state == LaneState::Consuming;
                let (Ok(report), true) = (report, consumes) else {
                    free.remove(lane);
                    continue;
                };
                let unsettled = report.in_flight;
                let limit = self.with(lane, |lane| {
                    lane.unsettled = lane.unsettled.max(unsettled);
                    lane.limit()
                });
                let attempts = report.counts.attempts;
                let begin = (Instant::now(), attempts);
                let since = free.entry(lane).or_insert(begin);
                if report.buffered == 0 || report.running >= limit || since.1 != attempts {
                    *since = begin;
                } else if since.0.elapsed() > STALL {
                    self.fault(format!("{lane} has a free slot of {limit}: {report:?}"));
                    *since = begin;
                }
            }
        }
    }

    /// Panics when anything was wrong; else tells each lane's peaks.
    pub(super) fn check(&self) -> String {
        let faults = self.faults.lock().expect("no holder panics");
        assert!(faults.is_empty(), "{faults:#?}");
        let lanes = self.lanes.lock().expect("no holder panics");
        let peaks = lanes.iter().map(|(name, lane)| {
            format!(
                "{name}: {} handlers, {} unsettled; ",
                lane.peak, lane.unsettled
            )
        });
        peaks.collect()
    }
}
