//! The broker as one worker process sees it: the model, behind two lines.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{sleep, timeout},
};

use super::{
    script::Answer,
    session::SimSession,
    stage::{Stage, Told, id_of},
    wire::{Port, Wire, lost},
};
use crate::broker::{
    Broker, BrokerError, Count, Properties, Publication, PublishError, QueueSpec, Written,
    fake::FakeBroker,
};

/// The deadline of each request: the default of `[timeouts]`.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// One worker process's way to the broker. Clones share it.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) number: usize,
    pub(super) stage: Stage,
    broker: FakeBroker,
    pub(super) consuming: Wire,
    pub(super) publishing: Wire,
    alarm: Alarm,
}

/// A memory alarm of the broker, which blocks all publishers. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Alarm(Arc<(AtomicBool, Notify)>);

impl Alarm {
    pub(super) fn set(&self, is_on: bool) {
        self.0.0.store(is_on, Ordering::Release);
        self.0.1.notify_waiters();
    }

    fn is_on(&self) -> bool {
        self.0.0.load(Ordering::Acquire)
    }

    async fn until(&self, wanted: bool) {
        loop {
            let changed = self.0.1.notified();
            if self.is_on() == wanted {
                return;
            }
            changed.await;
        }
    }
}

impl Process {
    pub(super) fn new(
        number: usize,
        stage: Stage,
        broker: FakeBroker,
        alarm: Alarm,
        latency: Duration,
    ) -> Self {
        let wire = || Wire::new(broker.clone(), stage.clone(), latency);
        Self {
            number,
            consuming: wire(),
            publishing: wire(),
            stage,
            broker,
            alarm,
        }
    }

    /// The process ends: nothing that it does from now on is seen by anybody.
    pub(super) fn end(&self, frames: usize) {
        self.consuming.end(self.number, frames);
        self.publishing.end(self.number, frames);
    }

    /// Writes a copy, and waits for the broker's answer.
    async fn copy(&self, message: &Publication<'_>) -> Result<(), PublishError> {
        self.publishing.writable().await;
        if !self.publishing.is_up() {
            return Err(PublishError::NoChannel("not connected".to_owned()));
        }
        if self.alarm.is_on() {
            return Err(PublishError::Blocked);
        }
        let (told, answered) = oneshot::channel();
        self.send_copy(message, told);
        let unconfirmed = |why: &str| Err(PublishError::Unconfirmed(why.to_owned()));
        let patient = async {
            loop {
                // The time of an alarm does not count.
                self.alarm.until(false).await;
                tokio::select! {
                    biased;
                    () = self.alarm.until(true) => {}
                    () = sleep(LIMIT) => return,
                }
            }
        };
        tokio::select! {
            biased;
            Ok(answer) = answered => answer,
            () = self.publishing.until_up(false) => unconfirmed("connection lost"),
            () = patient => unconfirmed("no confirm in time"),
        }
    }

    fn send_copy(
        &self,
        message: &Publication<'_>,
        told: oneshot::Sender<Result<(), PublishError>>,
    ) {
        let properties = match &message.properties {
            Written::Copy(original, headers) => headers.on(original),
            Written::New(properties) => (*properties).clone(),
        };
        let (queue, body) = (message.routing_key.to_owned(), message.body.to_vec());
        let answer = self.publishing.next_answer();
        let process = self.clone();
        self.publishing.send(move || match answer {
            Some(Answer::Nack) => drop(told.send(Err(PublishError::Nacked))),
            Some(Answer::Return) => {
                let error = PublishError::Returned("NO_ROUTE (312)".to_owned());
                drop(told.send(Err(error)));
            }
            Some(Answer::Swallowed) => drop(told),
            Some(Answer::Silence) => {
                let _ = process.store(&queue, &body, &properties);
            }
            Some(Answer::Late(by)) => {
                let stored = process.store(&queue, &body, &properties);
                tokio::spawn(async move {
                    sleep(Duration::from_millis(by)).await;
                    let _ = told.send(stored);
                });
            }
            None => drop(told.send(process.store(&queue, &body, &properties))),
        });
    }

    /// The broker takes the copy.
    fn store(&self, queue: &str, body: &[u8], properties: &Properties) -> Result<(), PublishError> {
        let copy = Publication {
            exchange: "",
            routing_key: queue,
            body,
            properties: Written::New(properties),
        };
        let id = id_of(properties.message_id());
        let stored = self.broker.publish(&copy).now_or_never();
        let stored = stored.unwrap_or(Err(PublishError::Blocked));
        if stored.is_ok() {
            self.stage.copied(id, queue);
        }
        stored
    }

    /// Sends a request, and gives its answer.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        step: &'static str,
        port: Option<Arc<Port>>,
        request: impl FnOnce() -> Result<T, BrokerError> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let (told, answered) = oneshot::channel();
        let by = self.consuming.late_by();
        self.consuming.send(move || {
            let answer = request();
            if by.is_zero() {
                let _ = told.send(answer);
            } else {
                tokio::spawn(async move {
                    sleep(by).await;
                    let _ = told.send(answer);
                });
            }
        });
        let gone = async {
            match &port {
                Some(port) => port.noticed().await,
                None => self.consuming.until_up(false).await,
            }
        };
        let answer = async {
            tokio::select! {
                biased;
                Ok(answer) = answered => answer,
                () = gone => Err(lost()),
            }
        };
        let late = |_| BrokerError::TimedOut { step, limit: LIMIT };
        timeout(LIMIT, answer).await.map_err(late)?
    }
}

impl Broker for Process {
    type Session = SimSession;

    fn is_up(&self) -> bool {
        self.consuming.is_up()
    }

    async fn up(&mut self) {
        self.consuming.until_up(true).await;
    }

    async fn open(&mut self, spec: &QueueSpec, tag: &str) -> Result<SimSession, BrokerError> {
        if !self.consuming.is_up() {
            return Err(BrokerError::Lost("not connected".to_owned()));
        }
        let (process, mut broker) = (self.clone(), self.broker.clone());
        let (spec, tag) = (spec.clone(), tag.to_owned());
        let open = move || {
            if process.consuming.is_refused() {
                return Err(BrokerError::Refused("ACCESS_REFUSED (403)".to_owned()));
            }
            let session = broker.open(&spec, &tag).now_or_never();
            let session = session.unwrap_or_else(|| Err(lost()))?;
            Ok(SimSession::new(process, session))
        };
        self.ask("subscribing", None, open).await
    }

    async fn depths(&self, queues: Vec<String>) -> Result<Vec<(String, Option<u32>)>, BrokerError> {
        self.broker.depths(queues).await
    }

    async fn count(&self, queue: &str) -> Result<Option<Count>, BrokerError> {
        self.broker.count(queue).await
    }

    async fn publish(&self, message: &Publication<'_>) -> Result<(), PublishError> {
        let id = match &message.properties {
            Written::Copy(original, _) => id_of(original.message_id()),
            Written::New(properties) => id_of(properties.message_id()),
        };
        let mut doubt = InDoubt {
            process: self,
            id,
            to: message.routing_key,
            is_over: false,
        };
        let answer = self.copy(message).await;
        doubt.is_over = true;
        let told = match &answer {
            Ok(()) => Told::Confirmed,
            Err(PublishError::Unconfirmed(_)) => Told::InDoubt,
            Err(_) => Told::Refused,
        };
        self.stage
            .told_of_copy(self.number, id, message.routing_key, told);
        answer
    }

    async fn blocked(&self) {
        self.alarm.until(true).await;
    }

    async fn watch_publishing(self, publishing: watch::Sender<Option<String>>) {
        loop {
            let is_up = self.publishing.is_up();
            let reason = (!is_up).then(|| "not connected".to_owned());
            publishing.send_replace(reason);
            self.publishing.until_up(!is_up).await;
        }
    }

    async fn restore(&self, spec: &QueueSpec, queue: &str) -> Option<Result<(), BrokerError>> {
        if !self.publishing.is_up() {
            return None;
        }
        self.broker.restore(spec, queue).await
    }
}

/// A publish whose future is dropped leaves the worker in doubt.
struct InDoubt<'a> {
    process: &'a Process,
    id: usize,
    to: &'a str,
    is_over: bool,
}

impl Drop for InDoubt<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let Self {
                process, id, to, ..
            } = self;
            process
                .stage
                .told_of_copy(process.number, *id, to, Told::InDoubt);
        }
    }
}
