//! A lane's session behind a line.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::timeout;

use super::{
    process::{LIMIT, Process},
    stage::{Stage, id_of},
    wire::{Port, lost},
};
use crate::broker::{
    Acks, BrokerError, Delivery, QueueSpec, Returns, Session, Tolerance, fake::FakeSession,
};

/// A session with the model of the broker. What it writes travels on the consuming line.
pub(super) struct SimSession {
    process: Process,
    port: Arc<Port>,
    inner: Option<FakeSession>,
    /// The stream has ended with this error, of which the worker may not know yet.
    lost: Option<BrokerError>,
    is_cancelled: bool,
}

impl SimSession {
    /// Called as the broker opens the session.
    pub(super) fn new(process: Process, inner: FakeSession) -> Self {
        let port = Arc::new(Port::new(inner.number()));
        process.consuming.add(&port);
        Self {
            process,
            port,
            inner: Some(inner),
            lost: None,
            is_cancelled: false,
        }
    }

    fn inner(&self) -> &FakeSession {
        self.inner.as_ref().expect("it is there until it is closed")
    }

    fn inner_mut(&mut self) -> &mut FakeSession {
        self.inner.as_mut().expect("it is there until it is closed")
    }

    /// Sorts an event of the stream. An error is kept until the worker may know of it.
    fn seen(
        &mut self,
        event: Option<Result<Delivery, BrokerError>>,
    ) -> Option<Option<Result<Delivery, BrokerError>>> {
        match event {
            Some(Ok(delivery)) => {
                taken(&self.process, &self.port, &delivery);
                Some(Some(Ok(delivery)))
            }
            Some(Err(error)) => {
                if !self.port.is_closed() {
                    // The broker closed the channel for a fault of the worker.
                    self.process.consuming.close(&self.port);
                    self.process.consuming.tell(self.process.number, &self.port);
                }
                self.lost = Some(error);
                None
            }
            None => Some(None),
        }
    }

    /// Waits until the socket takes a frame.
    async fn writable(
        process: &Process,
        port: &Port,
        step: &'static str,
    ) -> Result<(), BrokerError> {
        let writable = async {
            tokio::select! {
                biased;
                () = port.noticed() => Err(lost()),
                () = process.consuming.writable() => Ok(()),
            }
        };
        let late = |_| BrokerError::TimedOut { step, limit: LIMIT };
        timeout(LIMIT, writable).await.map_err(late)?
    }
}

impl Session for SimSession {
    type Subscription = ();

    async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        loop {
            if let Some(error) = self.lost.clone() {
                self.port.noticed().await;
                return Some(Err(error));
            }
            let event = self.inner_mut().next().await;
            if let Some(seen) = self.seen(event) {
                return seen;
            }
        }
    }

    fn try_next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        if self.lost.is_some() {
            return None;
        }
        let event = self.inner_mut().try_next()?;
        self.seen(Some(event)).flatten()
    }

    fn is_usable(&self) -> bool {
        match self.port.is_closed() {
            true => !self.port.is_noticed(),
            false => self.inner().is_usable(),
        }
    }

    fn is_subscribed(&self) -> bool {
        let silent = self.lost.is_some() && !self.port.is_noticed();
        !self.is_cancelled && (silent || self.inner().is_subscribed())
    }

    fn ack(
        &self,
        acks: Acks,
    ) -> impl Future<Output = (Acks, Result<(), BrokerError>)> + Send + 'static {
        let (process, port) = (self.process.clone(), Arc::clone(&self.port));
        let apply = self.inner().ack(acks.clone());
        async move {
            let writable = Self::writable(&process, &port, "writing acks").await;
            if let Err(error) = writable {
                return (acks, Err(error));
            }
            let (stage, of, number) = (process.stage, process.number, port.number);
            let through = acks.through.unwrap_or_default();
            let tags = stage.acks(of, number, through, &acks.singles);
            let written = Written::new(&stage, of, number, tags.len());
            process.consuming.send(move || {
                if let Some((_, Ok(()))) = apply.now_or_never() {
                    written.arrived();
                    stage.acked(of, number, &tags);
                }
            });
            (acks, Ok(()))
        }
    }

    fn give_back(
        &self,
        returns: Returns,
    ) -> impl Future<Output = (Returns, Result<(), BrokerError>)> + Send + 'static {
        let (process, port) = (self.process.clone(), Arc::clone(&self.port));
        let apply = self.inner().give_back(returns.clone());
        async move {
            let writable = Self::writable(&process, &port, "returning messages").await;
            if let Err(error) = writable {
                return (returns, Err(error));
            }
            let (stage, of, number) = (process.stage, process.number, port.number);
            let through = matches!(returns, Returns::Through(_));
            let tags = stage.returns(of, number, returns.tags(), through);
            stage.lock().tallies[of].returned += tags.len() as u64;
            process.consuming.send(move || {
                if let Some((_, Ok(()))) = apply.now_or_never() {
                    stage.returned(of, number, &tags);
                }
            });
            (returns, Ok(()))
        }
    }

    fn ask_channel(&self) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static {
        let (process, port) = (self.process.clone(), Arc::clone(&self.port));
        let ask = self.inner().ask_channel();
        async move {
            let ask = move || ask.now_or_never().unwrap_or_else(|| Err(lost()));
            process
                .ask("an answer of the channel", Some(port), ask)
                .await
        }
    }

    fn ask_queue(
        &self,
    ) -> impl Future<Output = Result<Option<Delivery>, BrokerError>> + Send + 'static {
        let (process, port) = (self.process.clone(), Arc::clone(&self.port));
        let ask = self.inner().ask_queue();
        async move {
            let (of, to) = (process.clone(), Arc::clone(&port));
            let ask = move || ask.now_or_never().unwrap_or_else(|| Err(lost()));
            let message = process
                .ask("an answer of the queue", Some(port), ask)
                .await?;
            if let Some(message) = &message {
                taken(&of, &to, message);
                of.stage.lock().tallies[of.number].answers += 1;
            }
            Ok(message)
        }
    }

    fn cancel(&mut self) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static {
        self.is_cancelled = true;
        let (process, port) = (self.process.clone(), Arc::clone(&self.port));
        let cancel = self.inner_mut().cancel();
        async move {
            let cancel = move || cancel.now_or_never().unwrap_or_else(|| Err(lost()));
            process
                .ask("cancelling the consumer", Some(port), cancel)
                .await
        }
    }

    fn subscribe_again(
        &mut self,
        spec: &QueueSpec,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static {
        let (process, port) = (self.process.clone(), Arc::clone(&self.port));
        let subscribe = self.inner_mut().subscribe_again(spec);
        async move {
            let refused = process.clone();
            let subscribe = move || {
                if refused.consuming.is_refused() {
                    return Err(BrokerError::Refused("ACCESS_REFUSED (403)".to_owned()));
                }
                subscribe.now_or_never().unwrap_or_else(|| Err(lost()))
            };
            let mut abandoned = Abandoned(Some((process.clone(), Arc::clone(&port))));
            let answer = process.ask("subscribing", Some(port), subscribe).await;
            if answer.is_ok() {
                abandoned.0 = None;
            }
            answer
        }
    }

    fn resume(&mut self, (): ()) {
        self.is_cancelled = false;
        self.inner_mut().resume(());
    }

    async fn close(mut self) {
        let Some(inner) = self.inner.take() else {
            return;
        };
        if !self.is_usable_without(&inner) {
            return;
        }
        let (process, port) = (self.process.clone(), Arc::clone(&self.port));
        let close = {
            let (process, port) = (process.clone(), Arc::clone(&port));
            move || {
                process.consuming.close(&port);
                drop(inner);
                Ok(())
            }
        };
        let closed = process.ask("closing the channel", Some(Arc::clone(&port)), close);
        let _ = timeout(Duration::from_secs(2), closed).await;
        process.consuming.tell(process.number, &port);
    }

    async fn close_or_kill(self) {
        self.close().await;
    }

    fn kill(&self) {
        let back = Duration::from_millis(500);
        self.process
            .consuming
            .break_for(self.process.number, 0, Duration::ZERO, back);
    }

    fn tolerance(&self) -> Tolerance {
        self.inner().tolerance()
    }

    fn server(&self) -> (&str, u16) {
        ("simulated", 5672)
    }

    fn request_limit(&self) -> Duration {
        LIMIT
    }
}

impl SimSession {
    fn is_usable_without(&self, inner: &FakeSession) -> bool {
        !self.port.is_closed() && inner.is_usable()
    }
}

impl Drop for SimSession {
    /// Closes the channel behind what was written to it.
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else {
            return;
        };
        let (process, port) = (self.process.clone(), Arc::clone(&self.port));
        process.consuming.clone().send(move || {
            process.consuming.close(&port);
            process.consuming.tell(process.number, &port);
            drop(inner);
        });
    }
}

/// The worker takes a delivery.
fn taken(process: &Process, port: &Port, delivery: &Delivery) {
    let id = id_of(delivery.properties.message_id());
    let stage = &process.stage;
    stage.delivered(process.number, port.number, id, delivery.redelivered);
    if port.is_closed() {
        // It was on its way when the broker closed the channel.
        stage.lost_with_channel(id);
    }
}

/// Closes the channel of a request to subscribe that got no answer, or was given up.
struct Abandoned(Option<(Process, Arc<Port>)>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some((process, port)) = self.0.take() {
            process.consuming.clone().send(move || {
                process.consuming.close(&port);
                process.consuming.tell(process.number, &port);
            });
        }
    }
}

/// Acks that were written. If they never arrive, they have vanished.
struct Written {
    stage: Stage,
    process: usize,
    session: u64,
    count: usize,
}

impl Written {
    fn new(stage: &Stage, process: usize, session: u64, count: usize) -> Self {
        Self {
            stage: stage.clone(),
            process,
            session,
            count,
        }
    }

    fn arrived(mut self) {
        self.count = 0;
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if self.count > 0 {
            self.stage.vanished(self.process, self.session, self.count);
        }
    }
}
