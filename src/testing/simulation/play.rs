//! Plays a script: starts the workers, lets the events happen, ends all faults, and waits until
//! everything has ended.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{
    handling::Handling,
    panics,
    process::{Alarm, Process},
    script::{Event, Line, Script, World},
    stage::{Failure, Log, Stage, Who},
};
use crate::{
    Report, RunError, Worker, WorkerHandle,
    broker::{
        Properties,
        fake::{FakeBroker, Fault},
    },
    chance::Seeded,
    clock,
    lock::lock,
};

/// What a run gave.
pub(super) struct Played {
    pub(super) log: Log,
    pub(super) failure: Option<Failure>,
    /// Messages that ended.
    pub(super) lives: usize,
}

/// Plays a script on a runtime of its own, on this thread. Properties in `ignored` may break.
pub(super) fn play(script: &Script, ignored: &'static [&'static str]) -> Played {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime can be built");
    let _seeded = Seeded::with(script.seed);
    panics::forget();
    let stage = runtime.block_on(async {
        let stage = Stage::new(script, ignored);
        let clock = clock::Set::to(SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 56));
        Play::new(script, stage.clone(), clock).run(script).await;
        stage.lock().is_over();
        stage
    });
    drop(runtime);
    let mut state = stage.lock();
    if let Some(panic) = panics::taken() {
        state.fail("the worker does not panic", || panic);
    }
    Played {
        lives: state.fates.len(),
        failure: state.failure.clone(),
        log: std::mem::take(&mut state.log),
    }
}

/// A place for a worker, in which one process follows the other.
pub(super) struct Slot {
    pub(super) process: Option<Process>,
    pub(super) handle: Option<WorkerHandle>,
    running: Option<JoinHandle<Result<Report, RunError>>>,
}

#[derive(Clone)]
pub(super) struct Play {
    pub(super) world: World,
    pub(super) stage: Stage,
    pub(super) broker: FakeBroker,
    pub(super) alarm: Alarm,
    pub(super) slots: Arc<Mutex<Vec<Slot>>>,
    clock: Arc<clock::Set>,
    began: Instant,
}

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn queue(lane: usize) -> String {
    format!("q{lane}")
}

impl Play {
    fn new(script: &Script, stage: Stage, clock: clock::Set) -> Self {
        let broker = FakeBroker::new(script.world.release.into());
        Self {
            world: script.world.clone(),
            stage,
            broker,
            alarm: Alarm::default(),
            slots: Arc::default(),
            clock: Arc::new(clock),
            began: Instant::now(),
        }
    }

    async fn run(self, script: &Script) {
        for slot in 0..self.world.workers {
            let empty = Slot {
                process: None,
                handle: None,
                running: None,
            };
            lock(&self.slots).push(empty);
            self.start(slot);
        }
        // The queues are declared when the first worker has subscribed.
        sleep(millis(self.world.latency * 3 + 1)).await;
        for (at, event) in &script.events {
            sleep_until(self.began + millis(*at)).await;
            self.happen(event);
            if self.has_failed() {
                return;
            }
        }
        self.end().await;
    }

    pub(super) fn has_failed(&self) -> bool {
        self.stage.failure().is_some()
    }

    fn start(&self, slot: usize) {
        let world = &self.world;
        let number = self.stage.process(world.lanes, world.concurrency);
        self.stage
            .lock()
            .note(Who::Worker(number), "starts in place {a}", 0, slot, 0);
        let process = Process::new(
            number,
            self.stage.clone(),
            self.broker.clone(),
            self.alarm.clone(),
            millis(world.latency),
        );
        let mut worker = Worker::new(world.settings());
        for lane in 0..world.lanes {
            let handling = Handling {
                process: number,
                stage: self.stage.clone(),
            };
            worker = worker.handler(&queue(lane), handling);
        }
        let handle = worker.handle();
        let running = tokio::spawn(worker.run_on(process.clone(), std::future::pending()));
        let mut slots = lock(&self.slots);
        slots[slot] = Slot {
            process: Some(process),
            handle: Some(handle),
            running: Some(running),
        };
    }

    pub(super) fn process(&self, slot: usize) -> Option<Process> {
        let slots = lock(&self.slots);
        slots.get(slot)?.process.clone()
    }

    pub(super) fn handle(&self, slot: usize) -> Option<WorkerHandle> {
        let slots = lock(&self.slots);
        slots.get(slot)?.handle.clone()
    }

    pub(super) fn note(&self, text: &'static str, a: usize, b: usize) {
        self.stage.lock().note(Who::World, text, 0, a, b);
    }

    fn publish(&self, lane: usize, plans: &[Vec<super::script::Step>]) {
        let first = self.stage.published(lane, plans);
        for number in first..first + plans.len() {
            let properties = Properties::new(&format!("m{number}"), None, None, &[]);
            let stored = self.broker.send(&queue(lane), b"{}", properties);
            if !stored {
                self.stage.lock().fates[number].instances = 0;
                self.stage.lock().fates[number].successes = 1;
            }
        }
    }

    fn happen(&self, event: &Event) {
        if !matches!(event, Event::Publish { .. }) {
            self.note("", 0, 0);
            self.stage.lock().log.add(format!("{event:?}"));
        }
        match event {
            Event::Publish { lane, plans } => self.publish(*lane, plans),
            Event::Alarm { time } => {
                self.alarm.set(true);
                let (alarm, time) = (self.alarm.clone(), millis(*time));
                tokio::spawn(async move {
                    sleep(time).await;
                    alarm.set(false);
                });
            }
            Event::ConsumerCancelled { lane } => {
                self.broker.fail(Fault::ConsumerCancelled(queue(*lane)));
            }
            Event::Jump { by, back } => {
                self.stage.lock().has_jumped = true;
                self.clock.jump(millis(*by), *back);
            }
            Event::Pause { worker, .. }
            | Event::Resume { worker, .. }
            | Event::Concurrency { worker, .. }
            | Event::Cancel { worker, .. }
            | Event::Drain { worker, .. }
            | Event::StopNow { worker }
            | Event::Kill { worker, .. } => self.operate(*worker, event),
            Event::Cut { worker, .. }
            | Event::ChannelLost { worker, .. }
            | Event::RefuseSubscriptions { worker, .. }
            | Event::LateAnswers { worker, .. }
            | Event::Stall { worker, .. }
            | Event::Answers { worker, .. } => self.disturb(*worker, event),
        }
    }

    /// Something happens to a worker's lines.
    fn disturb(&self, slot: usize, event: &Event) {
        let Some(process) = self.process(slot) else {
            return;
        };
        let wire = |line: &Line| match line {
            Line::Consuming => &process.consuming,
            Line::Publishing => &process.publishing,
        };
        match event {
            Event::Cut {
                line,
                frames,
                notice,
                back,
                ..
            } => wire(line).break_for(process.number, *frames, millis(*notice), millis(*back)),
            Event::ChannelLost { lane, notice, .. } => {
                process
                    .consuming
                    .lose_channel(process.number, *lane, millis(*notice));
            }
            Event::RefuseSubscriptions { count, .. } => process.consuming.refuse(*count),
            Event::LateAnswers { by, .. } => process.consuming.answer_late(millis(*by)),
            Event::Stall { line, time, .. } => wire(line).stall(millis(*time)),
            Event::Answers { answers, .. } => process.publishing.answer(answers),
            _ => {}
        }
    }

    /// Somebody does something with a worker.
    fn operate(&self, slot: usize, event: &Event) {
        let (Some(process), Some(handle)) = (self.process(slot), self.handle(slot)) else {
            return;
        };
        match event {
            Event::Pause { lane, .. } => {
                let lane = queue(*lane);
                tokio::spawn(async move {
                    let _ = handle.pause(&lane).await;
                });
            }
            Event::Resume { lane, .. } => {
                let lane = queue(*lane);
                tokio::spawn(async move {
                    let _ = handle.resume(&lane).await;
                });
            }
            Event::Concurrency { lane, limit, .. } => {
                let limit = (*limit).clamp(1, self.world.prefetch);
                if handle.set_concurrency(&queue(*lane), limit).is_ok() {
                    let mut state = self.stage.lock();
                    if let Some(old) = state.tallies[process.number].limits.get_mut(*lane) {
                        *old = limit.into();
                    }
                }
            }
            Event::Cancel { lane, pick, .. } => {
                let (lane, pick) = (queue(*lane), *pick);
                tokio::spawn(async move {
                    let page = handle.in_flight(Some(&lane), 0, 100).await;
                    let Ok(page) = page else { return };
                    if let Some(one) = page.messages.get(pick % page.messages.len().max(1)) {
                        let _ = handle.cancel(&lane, one.delivery).await;
                    }
                });
            }
            Event::Drain { again, .. } => self.drain(slot, Some(*again)),
            Event::StopNow { .. } if self.is_draining(&process) => handle.stop_now(),
            Event::Kill { frames, again, .. } => self.kill(slot, &process, *frames, *again),
            _ => {}
        }
    }

    fn is_draining(&self, process: &Process) -> bool {
        self.stage.lock().tallies[process.number].is_draining
    }

    pub(super) fn drain(&self, slot: usize, again: Option<u64>) {
        let (running, handle, process) = {
            let mut slots = lock(&self.slots);
            let Some(slot) = slots.get_mut(slot) else {
                return;
            };
            let (Some(handle), Some(process)) = (&slot.handle, &slot.process) else {
                return;
            };
            (slot.running.take(), handle.clone(), process.clone())
        };
        let Some(running) = running else { return };
        self.stage.lock().tallies[process.number].is_draining = true;
        handle.stop();
        let play = self.clone();
        tokio::spawn(async move {
            let ended = running.await;
            if play.stage.lock().tallies[process.number].is_dead {
                return;
            }
            process.end(usize::MAX);
            match ended {
                Ok(Ok(report)) => play.stage.ended_well(process.number, &report),
                Ok(Err(error)) => play
                    .stage
                    .lock()
                    .fail("a worker starts", || error.to_string()),
                Err(error) => play
                    .stage
                    .lock()
                    .fail("the worker does not panic", || error.to_string()),
            }
            lock(&play.slots)[slot].process = None;
            if let Some(again) = again {
                sleep(millis(again)).await;
                play.start(slot);
            }
        });
    }

    fn kill(&self, slot: usize, process: &Process, frames: usize, again: u64) {
        {
            let mut state = self.stage.lock();
            state.note(Who::Worker(process.number), "is killed", 0, 0, 0);
            state.tallies[process.number].is_dead = true;
        }
        process.end(frames);
        let remains = {
            let mut slots = lock(&self.slots);
            let slot = &mut slots[slot];
            slot.process = None;
            (slot.handle.take(), slot.running.take())
        };
        if let (Some(handle), _) = &remains {
            handle.stop_now();
        }
        let play = self.clone();
        tokio::spawn(async move {
            drop(remains);
            sleep(millis(again)).await;
            play.start(slot);
        });
    }
}
