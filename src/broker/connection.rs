//! Opens connections under deadlines, watches them and replaces lost ones.
//!
//! A worker has two connections: one consumes, one publishes. They are separate because a
//! connection that the broker has blocked for publishing passes no acks either. Each has a
//! supervisor that replaces the connection and never gives up. lapin's own recovery stays off: it
//! heals fewer faults, and it gives up.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use lapin::{ConnectionProperties, Event};
use socket2::Socket;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    BrokerSettings, Redial, Scouting, TimeoutSettings, Version,
    copies::Terms,
    dial::{Dial, amqp_uri, tls_config, urls},
    error::{BrokerError, within},
    fault::{self, Cuts, Told},
    management::Management,
    trust::Trust,
    wire,
};
use crate::lock::lock;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Consume,
    Publish,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Consume => "consume",
            Self::Publish => "publish",
        }
    }
}

/// Connections opened by this process, by purpose; indexed by [`Purpose`].
static OPENED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Connections opened by this process, by purpose.
pub(crate) fn connections_opened() -> [(&'static str, u64); 2] {
    [Purpose::Consume, Purpose::Publish].map(|purpose| {
        (
            purpose.name(),
            OPENED[purpose as usize].load(Ordering::Relaxed),
        )
    })
}

/// The state of a [`Link`].
#[derive(Clone, Debug)]
pub(crate) enum LinkState {
    /// Not connected. The error is that of the last attempt, if one has failed.
    Down(Option<BrokerError>),
    /// Connected.
    Up(Arc<Connection>),
}

/// A supervised connection. Clones share it and are cheap.
#[derive(Clone)]
pub(crate) struct Link {
    state: watch::Receiver<LinkState>,
}

impl Link {
    /// Starts a supervisor on the current runtime. When `stop` is cancelled, the supervisor closes
    /// its connection and ends; the returned handle then completes. Links that share `scouting` share
    /// what they learn while the broker is away.
    pub(crate) fn start(
        purpose: Purpose,
        broker: Arc<BrokerSettings>,
        timeouts: Arc<TimeoutSettings>,
        name: String,
        scouting: Scouting,
        told: Arc<Told>,
        stop: CancellationToken,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (sender, state) = watch::channel(LinkState::Down(None));
        let supervisor = Supervisor {
            purpose,
            broker,
            timeouts,
            told,
            name: format!("{name} {}", purpose.name()),
            scouting,
            offers: Arc::default(),
            state: sender,
        };
        (Self { state }, tokio::spawn(supervisor.run(stop)))
    }

    /// The current connection, if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Connection>> {
        match &*self.state.borrow() {
            LinkState::Up(connection) if connection.is_open() => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    /// The state of the link.
    pub(crate) fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    /// Waits for the next connection, or for the next failed attempt to connect. `None` when the
    /// supervisor has ended.
    pub(crate) async fn connected(&mut self) -> Option<Result<Arc<Connection>, BrokerError>> {
        loop {
            match &*self.state.borrow_and_update() {
                LinkState::Up(connection) if connection.is_open() => {
                    return Some(Ok(Arc::clone(connection)));
                }
                LinkState::Down(Some(error)) => return Some(Err(error.clone())),
                _ => {}
            }
            self.state.changed().await.ok()?;
        }
    }

    /// Whether there is a connection.
    pub(crate) fn is_up(&self) -> bool {
        self.current().is_some()
    }

    /// Waits until there is a connection. Never returns when the supervisor has ended.
    pub(crate) async fn up(&mut self) {
        let is_up = |state: &LinkState| matches!(state, LinkState::Up(it) if it.is_open());
        if self.state.wait_for(is_up).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until the state changes. False when the supervisor has ended.
    pub(crate) async fn changed(&mut self) -> bool {
        self.state.changed().await.is_ok()
    }
}

/// One live connection.
pub(crate) struct Connection {
    lapin: lapin::Connection,
    /// The broker's host and port, as the URL names them.
    pub(crate) server: (String, u16),
    /// The virtual host.
    pub(super) vhost: String,
    socket: Socket,
    blocked: watch::Receiver<bool>,
    gate: Arc<wire::Gate>,
    trust: Arc<Trust>,
    offers: Arc<wire::Offers>,
    management: Option<Management>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({}:{})", self.server.0, self.server.1)
    }
}

impl Connection {
    pub(crate) fn is_open(&self) -> bool {
        self.lapin.status().connected()
    }

    /// Opens a channel.
    pub(super) async fn channel(&self, limit: Duration) -> Result<lapin::Channel, BrokerError> {
        within(limit, "opening a channel", self.lapin.create_channel()).await
    }

    /// The largest frame that both sides agreed on, in bytes. 0 would mean no limit.
    pub(super) fn frame_max(&self) -> usize {
        match self.lapin.configuration().frame_max() {
            0 => usize::MAX,
            bytes => bytes as usize,
        }
    }

    /// What the connection demands of a copy.
    pub(super) fn terms(&self) -> Terms {
        Terms {
            frame_max: self.frame_max(),
            user: self.trust.user(),
            priorities_delay: self.offers.priorities_delay(),
        }
    }

    /// The users whose copies are believed.
    pub(super) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The broker's management API, if the settings name it.
    pub(super) fn management(&self) -> Option<&Management> {
        self.management.as_ref()
    }

    /// The broker's version, if the broker has named one.
    pub(super) fn version(&self) -> Option<Version> {
        self.offers.version()
    }

    /// Whether the broker has blocked publishing (memory or disk alarm).
    pub(crate) fn blocked(&self) -> watch::Receiver<bool> {
        self.blocked.clone()
    }

    /// A gate for a task's waker: the task wakes when lapin has handled everything that it read in
    /// one go.
    pub(super) fn gated(&self) -> wire::Gated {
        wire::Gated::new(Arc::clone(&self.gate))
    }

    /// Ends the connection by shutting its socket down, for a peer that no longer answers. lapin's
    /// I/O thread and every task that waits on the connection see an error at once.
    pub(crate) fn kill(&self) {
        // An error means that the socket is closed already.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

struct Supervisor {
    purpose: Purpose,
    broker: Arc<BrokerSettings>,
    timeouts: Arc<TimeoutSettings>,
    told: Arc<Told>,
    name: String,
    scouting: Scouting,
    offers: Arc<wire::Offers>,
    state: watch::Sender<LinkState>,
}

impl Supervisor {
    async fn run(self, stop: CancellationToken) {
        let mut redial = Redial::new(&self.broker.reconnect);
        let mut cuts = Cuts::default();
        let mut tries = 0;
        let mut turn = None;
        while !stop.is_cancelled() {
            let mut answers = self.scouting.answers();
            let attempt = tokio::select! {
                biased;
                attempt = self.connect(&mut tries) => attempt,
                () = stop.cancelled() => return,
            };
            let error = match attempt {
                Ok((connection, blocked)) => {
                    let since = Instant::now();
                    turn = None;
                    redial.reset();
                    self.scouting.answered();
                    let error = self.watch_over(connection, blocked, &stop).await;
                    answers = self.scouting.answers();
                    match cuts.note(since.elapsed(), self.broker.heartbeat) {
                        Some(hint) => BrokerError::Lost(format!("{error}; {hint}")),
                        None => error,
                    }
                }
                Err(error) => {
                    self.scouting.failed(&error);
                    error
                }
            };
            if stop.is_cancelled() {
                self.down(error);
                return;
            }
            let wait = redial.next();
            turn = turn.or_else(|| self.scouting.try_turn());
            match turn {
                Some(_) => self.tell(&error, wait),
                None => {
                    debug!(connection = self.purpose.name(), %error, "not connected to the broker, waiting for what the other connection learns");
                }
            }
            self.down(error);
            let next = self
                .scouting
                .next(turn, wait, answers, |error| self.down(error));
            turn = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                turn = next => turn,
            };
        }
    }

    fn down(&self, error: BrokerError) {
        self.state.send_replace(LinkState::Down(Some(error)));
    }

    /// Logs why there is no connection. Both connections meet the same fault at each attempt, and one
    /// line is enough.
    fn tell(&self, error: &BrokerError, retry_in: Duration) {
        let connection = self.purpose.name();
        if !self.told.is_news(&error.to_string()) {
            debug!(connection, %error, ?retry_in, "not connected to the broker");
        } else if error.needs_people() {
            error!(connection, %error, ?retry_in, "not connected to the broker");
        } else {
            warn!(connection, %error, ?retry_in, "not connected to the broker");
        }
    }

    /// Watches an open connection until it is lost or `stop` is cancelled, and returns the reason.
    async fn watch_over(
        &self,
        connection: Arc<Connection>,
        blocked: watch::Sender<bool>,
        stop: &CancellationToken,
    ) -> BrokerError {
        /// The interval at which the supervisor reads the connection's status, in addition to its
        /// events.
        const LOOK: Duration = Duration::from_millis(500);
        let mut events = Box::pin(connection.lapin.events_listener());
        OPENED[self.purpose as usize].fetch_add(1, Ordering::Relaxed);
        info!(connection = self.purpose.name(), "connected to the broker");
        self.told.forget();
        self.state
            .send_replace(LinkState::Up(Arc::clone(&connection)));
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.close(&connection).await;
                    return BrokerError::Lost("closed by us".to_owned());
                }
                event = events.next() => event,
                () = tokio::time::sleep(LOOK) => None,
            };
            // Read the status instead of relying on the event: an event sent before the listener
            // was registered is lost.
            let is_blocked = connection.lapin.status().blocked();
            let changed = |known: &mut bool| std::mem::replace(known, is_blocked) != is_blocked;
            if blocked.send_if_modified(changed) && !is_blocked {
                info!(connection = self.purpose.name(), "unblocked by the broker");
            }
            match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    warn!(connection = self.purpose.name(), %reason, "blocked by the broker");
                }
                Some(Event::Error(error)) if !connection.is_open() => {
                    return BrokerError::from(error);
                }
                _ if !connection.is_open() => {
                    return BrokerError::Lost("connection lost".to_owned());
                }
                _ => {}
            }
        }
    }

    async fn close(&self, connection: &Connection) {
        if *connection.blocked.borrow() {
            // lapin writes nothing on a blocked connection, so the broker would never see the
            // close.
            return connection.kill();
        }
        let close = connection.lapin.close(200, "worker stopped".into());
        if let Err(error) = within(self.timeouts.close, "closing the connection", close).await {
            debug!(connection = self.purpose.name(), %error, "failed to close the connection; ending it");
            connection.kill();
        }
    }

    /// One attempt: tries the URLs in turn, beginning with the one that worked last. The attempt
    /// fails only when every URL fails: one dead node of several is no reason to wait or, with
    /// `fail_fast`, to give up.
    async fn connect(
        &self,
        tries: &mut usize,
    ) -> Result<(Arc<Connection>, watch::Sender<bool>), BrokerError> {
        let urls = urls(&self.broker).await?;
        let mut left = urls.len();
        loop {
            let number = *tries % urls.len();
            let error = match self.connect_to(&urls[number]).await {
                Ok(connected) => return Ok(connected),
                Err(error) => error,
            };
            *tries += 1;
            left -= 1;
            if left == 0 {
                return Err(error);
            }
            if self.told.is_news(&error.to_string()) {
                warn!(connection = self.purpose.name(), url = number + 1, of = urls.len(), %error, "failed to connect; trying the next URL");
            }
        }
    }

    /// Connects, with frames as large as the broker allows. Their size is a guess at first: if the
    /// broker offers more, this connects again.
    async fn connect_to(
        &self,
        url: &str,
    ) -> Result<(Arc<Connection>, watch::Sender<bool>), BrokerError> {
        let (connection, blocked) = self.open(url).await?;
        if connection.frame_max() >= self.offers.frame_max() {
            return Ok((connection, blocked));
        }
        self.close(&connection).await;
        self.open(url).await
    }

    async fn open(&self, url: &str) -> Result<(Arc<Connection>, watch::Sender<bool>), BrokerError> {
        let offers = Arc::clone(&self.offers);
        let uri = amqp_uri(url, &self.broker, &offers).await?;
        let trust = Arc::clone(self.scouting.trust());
        trust.connecting(&self.broker, &uri.amqp.authority.userinfo.username);
        let tls = tls_config(&self.broker.tls).await?;
        let management = Management::of(&self.broker, &uri).await?;
        let gate = Arc::default();
        let dial = Dial {
            uri: uri.clone(),
            tls,
            timeouts: Arc::clone(&self.timeouts),
            gate: Arc::clone(&gate),
            offers: Arc::clone(&offers),
        };
        let properties = ConnectionProperties::default()
            .with_connection_name(self.name.clone().into())
            .with_client_property("product".into(), "lapwing".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let limit = self.timeouts.connect + self.timeouts.handshake;
        let server = (uri.host.clone(), uri.port);
        let vhost = uri.amqp.vhost.clone();
        let at = uri.clone();
        let opening = async {
            // Open the stream ourselves: lapin 4.12 leaks its tasks when its own attempt to connect
            // fails.
            let (stream, hang_up) = dial.stream().await?;
            let stream = Mutex::new(Some(stream));
            let hand_over = async move |_, _| {
                let stream = lock(&stream).take();
                stream.ok_or_else(|| io::Error::other("lapin connects once").into())
            };
            let runtime = wire::runtime();
            let lapin = lapin::Connection::connector(uri.amqp, runtime, hand_over, properties);
            Ok((lapin.await?, hang_up.keep()))
        };
        let opened = timeout(limit, opening).await;
        let opened = opened.map_err(|_| fault::silent(&at, limit))?;
        let (lapin, socket) = opened.map_err(|error| fault::named(&error, &at))?;
        let (sender, blocked) = watch::channel(lapin.status().blocked());
        let connection = Connection {
            lapin,
            server,
            vhost,
            socket,
            blocked,
            gate,
            trust,
            offers,
            management,
        };
        Ok((Arc::new(connection), sender))
    }
}
