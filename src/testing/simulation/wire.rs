//! The lines between one worker process and the broker. A frame travels for a while, in the order in
//! which frames were written. When a line is cut, some frames under way still arrive and the rest do
//! not, and the worker notices later than the broker.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::{script::Answer, stage::Stage};
use crate::{
    broker::{BrokerError, fake::FakeBroker},
    lock::lock,
};

/// A frame under way. Arriving is instantaneous.
struct Frame {
    due: Instant,
    arrives: Box<dyn FnOnce() + Send>,
}

/// One connection of a process, and those that replace it.
#[derive(Clone)]
pub(super) struct Wire(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Wakes whoever waits for a change of the line.
    changed: Notify,
    broker: FakeBroker,
    stage: Stage,
}

struct State {
    latency: Duration,
    under_way: VecDeque<Frame>,
    is_pumping: bool,
    /// The worker thinks that the line is up.
    is_up: bool,
    /// The broker has closed the line, which the worker may not know yet.
    is_cut: bool,
    /// The line comes back only when the process is started again.
    is_dead: bool,
    stalled_until: Option<Instant>,
    ports: Vec<Arc<Port>>,
    answers_late_by: Duration,
    refusals: usize,
    answers: VecDeque<Answer>,
}

/// The channel of a session, as both ends see it.
#[derive(Debug)]
pub(super) struct Port {
    /// Its number at the broker, which also names the session.
    pub(super) number: u64,
    /// The broker has closed it.
    is_closed: AtomicBool,
    /// The worker knows.
    is_noticed: AtomicBool,
    noticed: Notify,
}

impl Port {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            is_closed: AtomicBool::new(false),
            is_noticed: AtomicBool::new(false),
            noticed: Notify::new(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    pub(super) fn is_noticed(&self) -> bool {
        self.is_noticed.load(Ordering::Acquire)
    }

    /// Waits until the worker knows that the channel is closed.
    pub(super) async fn noticed(&self) {
        loop {
            let noticed = self.noticed.notified();
            if self.is_noticed() {
                return;
            }
            noticed.await;
        }
    }

    /// The worker learns that the channel is closed. False: it knew.
    pub(super) fn notice(&self) -> bool {
        self.is_closed.store(true, Ordering::Release);
        let is_new = !self.is_noticed.swap(true, Ordering::AcqRel);
        self.noticed.notify_waiters();
        is_new
    }
}

pub(super) fn lost() -> BrokerError {
    BrokerError::Lost("connection lost".to_owned())
}

impl Wire {
    pub(super) fn new(broker: FakeBroker, stage: Stage, latency: Duration) -> Self {
        let state = State {
            latency,
            under_way: VecDeque::new(),
            is_pumping: false,
            is_up: true,
            is_cut: false,
            is_dead: false,
            stalled_until: None,
            ports: Vec::new(),
            answers_late_by: Duration::ZERO,
            refusals: 0,
            answers: VecDeque::new(),
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            changed: Notify::new(),
            broker,
            stage,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    pub(super) fn is_up(&self) -> bool {
        self.lock().is_up
    }

    /// Waits until the worker thinks that the line is up, or down.
    pub(super) async fn until_up(&self, wanted: bool) {
        self.until(|state| state.is_up == wanted).await;
    }

    async fn until(&self, wanted: impl Fn(&State) -> bool) {
        loop {
            let changed = self.0.changed.notified();
            if wanted(&self.lock()) {
                return;
            }
            changed.await;
        }
    }

    /// Waits while the socket takes nothing.
    pub(super) async fn writable(&self) {
        loop {
            let changed = self.0.changed.notified();
            let until = {
                let state = self.lock();
                state.stalled_until.filter(|_| state.is_up)
            };
            let Some(until) = until.filter(|until| *until > Instant::now()) else {
                return;
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(until) => return,
            }
        }
    }

    pub(super) fn stall(&self, time: Duration) {
        self.lock().stalled_until = Some(Instant::now() + time);
        self.0.changed.notify_waiters();
    }

    /// Writes a frame. A line that the broker has closed swallows it.
    pub(super) fn send(&self, arrives: impl FnOnce() + Send + 'static) {
        let mut state = self.lock();
        if state.is_cut || state.is_dead {
            return;
        }
        if state.latency.is_zero() && state.under_way.is_empty() {
            drop(state);
            return arrives();
        }
        let due = Instant::now() + state.latency;
        let arrives = Box::new(arrives);
        state.under_way.push_back(Frame { due, arrives });
        if !std::mem::replace(&mut state.is_pumping, true) {
            tokio::spawn(self.clone().pump());
        }
    }

    async fn pump(self) {
        loop {
            let due = {
                let mut state = self.lock();
                let due = state.under_way.front().map(|frame| frame.due);
                state.is_pumping = due.is_some();
                due
            };
            let Some(due) = due else { return };
            sleep_until(due).await;
            let frame = {
                let mut state = self.lock();
                let now = Instant::now();
                state.under_way.pop_front_if(|frame| frame.due <= now)
            };
            if let Some(frame) = frame {
                (frame.arrives)();
            }
        }
    }

    /// The broker closes the line. Of the frames under way this many still arrive.
    fn cut(&self, frames: usize) {
        let mut arriving = {
            let mut state = self.lock();
            state.is_cut = true;
            std::mem::take(&mut state.under_way)
        };
        for frame in arriving.drain(..frames.min(arriving.len())) {
            (frame.arrives)();
        }
        let ports = self.lock().ports.clone();
        for port in ports {
            self.close(&port);
        }
    }

    /// The broker closes a channel.
    pub(super) fn close(&self, port: &Port) {
        if !port.is_closed.swap(true, Ordering::AcqRel) {
            self.0.stage.channel_closed(port.number);
            self.0.broker.close_one(port.number, "closed");
        }
    }

    /// The worker learns that a channel is closed.
    pub(super) fn tell(&self, process: usize, port: &Arc<Port>) {
        if port.notice() {
            self.0.stage.session_lost(process, port.number);
        }
        self.lock().ports.retain(|it| !Arc::ptr_eq(it, port));
    }

    /// Breaks the line. The worker notices after `notice`, and is connected again after `back`.
    pub(super) fn break_for(
        &self,
        process: usize,
        frames: usize,
        notice: Duration,
        back: Duration,
    ) {
        if self.lock().is_cut {
            return;
        }
        self.cut(frames);
        let wire = self.clone();
        let later = async move {
            sleep(notice).await;
            wire.lose(process);
            sleep(back).await;
            wire.restore();
        };
        tokio::spawn(later);
    }

    /// The channel of one of the lanes closes. The worker notices after `notice`.
    pub(super) fn lose_channel(&self, process: usize, lane: usize, notice: Duration) {
        let port = {
            let state = self.lock();
            state.ports.get(lane % state.ports.len().max(1)).cloned()
        };
        let Some(port) = port.filter(|port| !port.is_closed()) else {
            return;
        };
        self.close(&port);
        let wire = self.clone();
        tokio::spawn(async move {
            sleep(notice).await;
            wire.tell(process, &port);
        });
    }

    /// The process ends, and its line with it.
    pub(super) fn end(&self, process: usize, frames: usize) {
        self.cut(frames);
        self.lock().is_dead = true;
        self.lose(process);
    }

    /// The worker learns that the line is broken.
    fn lose(&self, process: usize) {
        let ports = {
            let mut state = self.lock();
            state.is_up = false;
            state.stalled_until = None;
            std::mem::take(&mut state.ports)
        };
        for port in ports {
            self.tell(process, &port);
        }
        self.0.changed.notify_waiters();
    }

    fn restore(&self) {
        let mut state = self.lock();
        if state.is_dead || state.is_up {
            return;
        }
        state.is_up = true;
        state.is_cut = false;
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// No more faults from now on.
    pub(super) fn heal(&self) {
        let mut state = self.lock();
        state.stalled_until = None;
        state.answers_late_by = Duration::ZERO;
        state.refusals = 0;
        state.answers.clear();
        drop(state);
        self.0.changed.notify_waiters();
    }

    pub(super) fn add(&self, port: &Arc<Port>) {
        self.lock().ports.push(Arc::clone(port));
    }

    pub(super) fn answer_late(&self, by: Duration) {
        self.lock().answers_late_by = by;
    }

    pub(super) fn late_by(&self) -> Duration {
        self.lock().answers_late_by
    }

    pub(super) fn refuse(&self, count: usize) {
        self.lock().refusals += count;
    }

    pub(super) fn is_refused(&self) -> bool {
        let mut state = self.lock();
        let is_refused = state.refusals > 0;
        state.refusals -= usize::from(is_refused);
        is_refused
    }

    pub(super) fn answer(&self, answers: &[Answer]) {
        self.lock().answers.extend(answers);
    }

    pub(super) fn next_answer(&self) -> Option<Answer> {
        self.lock().answers.pop_front()
    }
}
