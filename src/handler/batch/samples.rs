//! A handler with batches for tests: the test says what each call does.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::watch;

use super::{BatchSettings, Batches, Call, late};
use crate::{
    handler::{Context, Handler, HandlerFuture, json::Said},
    outcome::{Failure, Outcome},
};

/// What a call does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// All messages have this outcome.
    All(Outcome),
    /// Each message has its own outcome.
    Each(Vec<Outcome>),
    /// The call fails as a whole.
    Fail(Failure),
    /// The call takes this long, and then does this.
    After(Duration, Box<Act>),
    /// The call never ends.
    Hang,
    Panic,
}

type Rule = dyn Fn(&[String]) -> Act + Send + Sync;

/// The service behind the handler, and what it has seen. Clones share both.
#[derive(Clone)]
pub(crate) struct Service(Arc<Inner>);

struct Inner {
    rule: Box<Rule>,
    calls: watch::Sender<Vec<Vec<String>>>,
    /// The messages that a call said to be succeeded.
    done: Mutex<Vec<String>>,
    /// The calls that were dropped before their end.
    dropped: Mutex<usize>,
    /// The calls that are open, and the most that were open at once.
    open: Mutex<(usize, usize)>,
    is_open: watch::Sender<bool>,
    refusal: Mutex<Option<Failure>>,
}

impl Service {
    /// A service whose calls do what the rule says about the bodies of their messages.
    pub(crate) fn new(rule: impl Fn(&[String]) -> Act + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            rule: Box::new(rule),
            calls: watch::Sender::default(),
            done: Mutex::default(),
            dropped: Mutex::default(),
            open: Mutex::default(),
            is_open: watch::Sender::new(true),
            refusal: Mutex::default(),
        }))
    }

    /// No call can be made until [`open`](Self::open).
    pub(crate) fn close(&self) {
        self.0.is_open.send_replace(false);
    }

    pub(crate) fn open(&self) {
        self.0.is_open.send_replace(true);
    }

    /// From now on no call can be made, for this reason.
    pub(crate) fn refuse(&self, failure: Failure) {
        *self.0.refusal.lock().unwrap() = Some(failure);
    }

    /// The bodies of the messages of each call so far.
    pub(crate) fn calls(&self) -> Vec<Vec<String>> {
        self.0.calls.borrow().clone()
    }

    /// The numbers of messages of the calls so far.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.0.calls.borrow().iter().map(Vec::len).collect()
    }

    /// Waits until so many calls have begun.
    pub(crate) async fn has_begun(&self, count: usize) {
        let mut calls = self.0.calls.subscribe();
        calls.wait_for(|calls| calls.len() >= count).await.unwrap();
    }

    /// The messages that have succeeded, once for each time, sorted.
    pub(crate) fn done(&self) -> Vec<String> {
        let mut done = self.0.done.lock().unwrap().clone();
        done.sort();
        done
    }

    /// The calls that nobody waited for any more.
    pub(crate) fn dropped(&self) -> usize {
        *self.0.dropped.lock().unwrap()
    }

    /// The most calls that were open at once.
    pub(crate) fn most_open(&self) -> usize {
        self.0.open.lock().unwrap().1
    }

    async fn carry_out(&self, mut act: Act, bodies: Vec<String>) -> Result<Vec<Said>, Failure> {
        let outcomes = loop {
            act = match act {
                Act::All(outcome) => break vec![outcome; bodies.len()],
                Act::Each(outcomes) => break outcomes,
                Act::Fail(failure) => return Err(failure),
                Act::Hang => std::future::pending().await,
                // Without the panic hook, whose report is slow.
                Act::Panic => std::panic::resume_unwind(Box::new("the test wants it")),
                Act::After(time, then) => {
                    tokio::time::sleep(time).await;
                    *then
                }
            };
        };
        let ended = bodies.into_iter().zip(&outcomes);
        let done = ended.filter(|(_, outcome)| **outcome == Outcome::Succeeded);
        self.0
            .done
            .lock()
            .unwrap()
            .extend(done.map(|(body, _)| body));
        Ok(outcomes.into_iter().map(Said::from).collect())
    }
}

impl Call for Service {
    type Ready = ();

    async fn ready(&self) -> Result<(), Failure> {
        let refusal = self.0.refusal.lock().unwrap().clone();
        if let Some(failure) = refusal {
            return Err(failure);
        }
        let mut is_open = self.0.is_open.subscribe();
        is_open.wait_for(|open| *open).await.unwrap();
        Ok(())
    }

    async fn call(
        &self,
        (): (),
        messages: &[Context],
        limit: Option<Duration>,
    ) -> Result<Vec<Said>, Failure> {
        let body = |context: &Context| String::from_utf8_lossy(context.message().body()).into();
        let bodies: Vec<String> = messages.iter().map(body).collect();
        self.0.calls.send_modify(|calls| calls.push(bodies.clone()));
        let act = (self.0.rule)(&bodies);
        let until = Until::begin(self);
        let carried_out = self.carry_out(act, bodies);
        let ended = tokio::time::timeout(limit.unwrap_or(Duration::MAX), carried_out).await;
        let Ok(ended) = ended else {
            return Err(late(limit.unwrap_or_default()));
        };
        until.end();
        ended
    }
}

/// Counts a call that is dropped before its end.
struct Until<'a>(&'a Service, bool);

impl<'a> Until<'a> {
    fn begin(service: &'a Service) -> Self {
        let mut open = service.0.open.lock().unwrap();
        open.0 += 1;
        open.1 = open.1.max(open.0);
        Self(service, false)
    }

    fn end(mut self) {
        self.1 = true;
    }
}

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.0.open.lock().unwrap().0 -= 1;
        if !self.1 {
            *self.0.0.dropped.lock().unwrap() += 1;
        }
    }
}

/// A handler that makes batches for a service.
pub(crate) struct Batching(Batches<Service>);

impl Batching {
    pub(crate) fn new(service: &Service, size: u16, max_wait: Duration) -> Self {
        let settings = BatchSettings {
            size,
            max_wait,
            ..BatchSettings::default()
        };
        Self::with(service, &settings)
    }

    pub(crate) fn with(service: &Service, settings: &BatchSettings) -> Self {
        Self(Batches::of(settings, service.clone()).unwrap())
    }
}

impl Handler for Batching {
    fn handle(&self, context: Context) -> HandlerFuture<'_> {
        Box::pin(self.0.run(context))
    }
}
