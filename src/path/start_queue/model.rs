//! A model of runners and paths under random events. Handlers here never block their thread. So a
//! free slot may wait for the lane only if the lane knows that it must look.

use std::pin::Pin;

use futures_util::FutureExt;
use proptest::{prelude::*, sample::Index};
use tokio::runtime::Builder;

use super::*;

type Retake = Pin<Box<dyn Future<Output = Slot>>>;

/// A runner and the path it carries.
struct Path {
    slot: Option<Slot>,
    /// The path had to wait, and keeps the runner.
    left: bool,
    /// The path waits for a slot for a further attempt.
    retake: Option<Retake>,
}

struct Model {
    starts: Arc<StartQueue<u32>>,
    now: Instant,
    next: u32,
    /// The delivery to be taken or withdrawn next.
    due: u32,
    /// Runners that are tasks and have yet to be polled.
    coming: usize,
    paths: Vec<Path>,
    /// The lane will look for missing runners.
    look: bool,
    /// When the lane will look because its rate allows the next start.
    look_at: Option<Instant>,
}

impl Model {
    /// `interval`: the lane has a rate.
    fn new(slots: usize, interval: Option<Duration>) -> Self {
        let now = Instant::now();
        let rate = interval.map(|interval| RateLimit::new(interval, 2, now));
        Self {
            starts: Arc::new(StartQueue::new(Arc::new(Slots::new(slots)), rate)),
            now,
            next: 0,
            due: 0,
            coming: 0,
            paths: Vec::new(),
            look: false,
            look_at: None,
        }
    }

    fn put(&mut self, count: u32) {
        let mut runs = (self.next..self.next + count).collect();
        self.next += count;
        self.coming += usize::from(self.starts.put(&mut runs, self.now));
        self.turn();
    }

    /// The lane turns.
    fn turn(&mut self) {
        let at = self.starts.look_at(Instant::now());
        self.look_at = self.look_at.into_iter().chain(at).min();
    }

    /// Time passes. The lane looks when it is due.
    async fn pass(&mut self, time: Duration) {
        tokio::time::advance(time).await;
        if self.look_at.is_some_and(|at| at <= Instant::now()) {
            self.look_at = None;
            self.look();
            self.turn();
        }
    }

    /// A runner looks for a delivery.
    fn take(&mut self, first: bool) {
        self.coming -= usize::from(first);
        let taken = self.starts.take(first, self.now);
        if self.starts.has_rate() {
            self.turn();
        }
        let Some((flight, slot)) = taken else {
            return;
        };
        assert_eq!(flight, self.due, "each once and in order");
        self.due += 1;
        self.paths.push(Path {
            slot: Some(slot),
            left: false,
            retake: None,
        });
    }

    /// A runner's path has to wait.
    fn pending(&mut self, index: usize) {
        let path = &mut self.paths[index];
        let needs_runner = match path.left {
            false => self.starts.leave(),
            true => path.slot.is_none() && self.starts.pass_on(),
        };
        path.left = true;
        self.coming += usize::from(needs_runner);
    }

    /// A path ends.
    fn end(&mut self, index: usize) {
        let path = self.paths.swap_remove(index);
        drop(path.slot);
        if path.left {
            self.starts.join();
        }
        self.take(false);
    }

    /// A path waits for a slot, or gets it.
    fn retake(&mut self, index: usize) {
        let (starts, path) = (Arc::clone(&self.starts), &mut self.paths[index]);
        let is_new = path.retake.is_none();
        let new = || -> Retake { Box::pin(starts.retake()) };
        let mut retake = path.retake.take().unwrap_or_else(new);
        match (&mut retake).now_or_never() {
            Some(slot) => path.slot = Some(slot),
            None => path.retake = Some(retake),
        }
        self.pending(index);
        if is_new && self.starts.has_rate() {
            self.turn();
        }
    }

    fn step(&mut self, step: u8, pick: Index, count: u32) {
        let some = (!self.paths.is_empty()).then(|| pick.index(self.paths.len()));
        match (step, some) {
            (0 | 1, _) => self.put(count),
            (2 | 3, _) if self.coming > 0 => self.take(true),
            (4, Some(index)) if self.paths[index].slot.is_some() => self.pending(index),
            (5, Some(index)) if self.paths[index].slot.is_some() => self.end(index),
            // A retry waits for its delay, or is published.
            (6, Some(index)) if self.paths[index].slot.is_some() => {
                self.paths[index].slot = None;
                self.pending(index);
            }
            (7, Some(index)) if self.paths[index].slot.is_none() => self.retake(index),
            // A drain, or the end of a publish.
            (8, Some(index)) if self.paths[index].slot.is_none() => {
                self.paths[index].retake = None;
                self.pending(index);
            }
            (9, Some(index)) if self.paths[index].retake.is_none() => self.end(index),
            // A handler is stuck.
            (10, Some(index)) => {
                self.paths[index].slot = None;
                self.look = true;
            }
            (11, _) => {
                match count {
                    1 => self.starts.hold(true),
                    2 => self.starts.suspend(true),
                    3 => self.starts.admit(),
                    _ => {
                        self.starts.hold(false);
                        self.starts.suspend(false);
                    }
                }
                self.look = true;
            }
            (12, _) => {
                self.starts.slots.set_limit(count as usize);
                self.look = true;
            }
            (13, _) => {
                for flight in self.starts.withdraw() {
                    assert_eq!(flight, self.due, "each once and in order");
                    self.due += 1;
                }
            }
            _ => self.look(),
        }
    }

    fn look(&mut self) {
        self.coming += self.starts.missing(self.now + SLOW);
        let now = Instant::now();
        self.look = self.starts.look_at(now) == Some(now) && self.coming == 0;
        if self.starts.has_rate() {
            self.turn();
        }
    }

    fn check(&self, used_before: usize) {
        let used = self.starts.slots.in_use();
        assert!(used <= used_before.max(self.starts.slots.limit()));
        let state = self.starts.lock();
        let on_the_first_poll = self.paths.iter().filter(|path| !path.left).count();
        assert_eq!(state.coming, self.coming);
        assert_eq!(state.runners, self.coming + on_the_first_poll);
        assert!(
            self.starts.startable(&state) == 0 || state.runners > 0 || self.look,
            "nobody comes for a free slot"
        );
        if state.waiting() > 0 && state.rate_allows() == 0 {
            let opens = state.rate.map(|rate| rate.opens_at());
            let looks = self.look || self.look_at.is_some() && self.look_at <= opens;
            assert!(looks, "nobody looks when the rate allows the next start");
        }
    }

    /// Lets all deliveries end. The lane looks only once.
    async fn finish(mut self) {
        self.starts.hold(false);
        self.starts.suspend(false);
        self.starts.slots.set_limit(1);
        self.look();
        self.turn();
        let most = 10 * (self.next as usize + self.paths.len() + self.coming + 1);
        for _ in 0..most {
            self.pass(Duration::from_secs(1)).await;
            if self.coming > 0 {
                self.take(true);
            }
            for index in (0..self.paths.len()).rev() {
                match self.paths[index].retake.is_some() {
                    true => self.retake(index),
                    false => self.end(index),
                }
            }
        }
        assert_eq!((self.due, self.paths.len()), (self.next, 0), "all have run");
        assert_eq!(self.starts.slots.in_use(), 0);
        self.check(0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn whatever_happens_no_slot_stays_free_while_something_waits_and_none_is_given_twice(
        slots in 1usize..4,
        interval in prop::option::of((1u64..500).prop_map(Duration::from_millis)),
        steps in prop::collection::vec((0u8..18, any::<Index>(), 1u32..5), 1..150),
    ) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let mut model = Model::new(slots, interval);
            for (step, pick, count) in steps {
                let used = model.starts.slots.in_use();
                match step {
                    15.. => model.pass(Duration::from_millis(40) * count).await,
                    step => model.step(step, pick, count),
                }
                model.check(used);
            }
            model.finish().await;
        });
    }
}
