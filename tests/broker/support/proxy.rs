//! A TCP proxy between worker and broker that can fail like a network.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

use super::vhost::VHost;
use super::wait::within;

/// How many clients may wait to be accepted.
const BACKLOG: u32 = 128;

/// A proxy on a free port of the loopback. Dropping it ends the proxy and its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    door: Mutex<Option<Door>>,
}

/// Whether the proxy accepts new clients.
#[derive(Debug)]
enum Door {
    /// The task accepts them.
    Open(JoinHandle<()>),
    /// The port stays bound, so that no other process takes it, but does not listen: clients are
    /// refused.
    Refusing(TcpSocket),
}

/// The state that all connections share.
#[derive(Debug)]
struct Shared {
    upstream: String,
    /// Whether bytes pass.
    flowing: watch::Sender<bool>,
    /// The bytes at which a client is held: see [`Proxy::hold_at`].
    hold: Mutex<Option<Vec<u8>>>,
    /// Whether a client was held.
    held: watch::Sender<bool>,
    /// A task for each connection. Ended tasks are removed at the next connection.
    connections: Mutex<Vec<JoinHandle<()>>>,
    /// Connections accepted since the start.
    accepted: watch::Sender<usize>,
    to_broker: AtomicU64,
    from_broker: AtomicU64,
}

impl Proxy {
    /// A proxy to the broker of `vhost`. The worker's URL is [`Self::url`].
    pub async fn to(vhost: &VHost) -> Self {
        let url = Url::parse(&vhost.amqp_url()).expect("our own url is one");
        let host = url.host_str().expect("the broker has a host").to_owned();
        Self::to_address(format!("{host}:{}", url.port().unwrap_or(5672))).await
    }

    /// A proxy to `upstream`, a host and a port: for instance of the HTTP handler.
    pub async fn to_address(upstream: String) -> Self {
        let shared = Arc::new(Shared {
            upstream,
            flowing: watch::Sender::new(true),
            hold: Mutex::default(),
            held: watch::Sender::new(false),
            connections: Mutex::default(),
            accepted: watch::Sender::new(0),
            to_broker: AtomicU64::new(0),
            from_broker: AtomicU64::new(0),
        });
        let socket = bound(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let proxy = Self {
            address,
            shared,
            door: Mutex::new(Some(Door::Refusing(socket))),
        };
        proxy.accept_again();
        proxy
    }

    /// The proxy's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of `vhost` through this proxy.
    pub fn url(&self, vhost: &VHost) -> String {
        vhost.amqp_url_through(self.address)
    }

    /// Resets every connection on both sides, and waits until they are closed. Still accepts new
    /// ones.
    pub async fn cut(&self) {
        let connections = std::mem::take(&mut *lock(&self.shared.connections));
        for connection in connections {
            connection.abort();
            // Its sockets are closed once the task has ended.
            let _cancelled = within("cutting a connection", connection).await;
        }
    }

    /// Stops passing bytes in both directions and keeps the connections open: half-open
    /// connections. New clients are accepted, and their bytes are held back too.
    pub fn stall(&self) {
        self.shared.flowing.send_replace(false);
    }

    /// Passes bytes again, beginning with those held back.
    pub fn resume(&self) {
        self.shared.flowing.send_replace(true);
    }

    /// Holds back what a client sends from these bytes on: the broker never gets them. A connection that is
    /// held stays open until [`Self::cut`]. The bytes must come in one piece, as a short frame does.
    pub fn hold_at(&self, bytes: &[u8]) {
        *lock(&self.shared.hold) = Some(bytes.to_vec());
    }

    /// Waits until a client is held.
    pub async fn held(&self) {
        let mut held = self.shared.held.subscribe();
        let held = held.wait_for(|&held| held);
        within("a client is held", held)
            .await
            .expect("the sender is ours");
    }

    /// Refuses new clients. Open connections stay; [`Self::cut`] ends them.
    pub async fn refuse(&self) {
        let Some(Door::Open(accepting)) = self.take_door() else {
            panic!("the proxy refuses already");
        };
        accepting.abort();
        // The listener is closed once its task has ended.
        let _cancelled = accepting.await;
        let socket = bound(self.address).expect("the port was ours a moment ago");
        self.put_door(Door::Refusing(socket));
    }

    /// Accepts new clients again, on the same port.
    pub fn accept_again(&self) {
        let Some(Door::Refusing(socket)) = self.take_door() else {
            panic!("the proxy accepts already");
        };
        let listener = socket.listen(BACKLOG).expect("a bound socket listens");
        self.put_door(Door::Open(tokio::spawn(accept(
            listener,
            self.shared.clone(),
        ))));
    }

    /// Waits until at least `n` connections have been accepted since the start.
    pub async fn wait_for_accepted(&self, n: usize) {
        let mut accepted = self.shared.accepted.subscribe();
        let what = format!("connection {n} to the proxy");
        let reached = accepted.wait_for(|&accepted| accepted >= n);
        within(&what, reached).await.expect("the sender is ours");
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> usize {
        *self.shared.accepted.borrow()
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        let connections = lock(&self.shared.connections);
        connections
            .iter()
            .filter(|connection| !connection.is_finished())
            .count()
    }

    /// Bytes passed from clients to the broker since the start.
    pub fn bytes_to_broker(&self) -> u64 {
        self.shared.to_broker.load(Ordering::SeqCst)
    }

    /// Bytes passed from the broker to clients since the start.
    pub fn bytes_from_broker(&self) -> u64 {
        self.shared.from_broker.load(Ordering::SeqCst)
    }

    fn take_door(&self) -> Option<Door> {
        lock(&self.door).take()
    }

    fn put_door(&self, door: Door) {
        *lock(&self.door) = Some(door);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(Door::Open(accepting)) = self.take_door() {
            accepting.abort();
        }
        for connection in lock(&self.shared.connections).iter() {
            connection.abort();
        }
    }
}

/// Locks `mutex`, even if poisoned: no holder of these locks panics halfway through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket on `address` that does not listen yet.
fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Accepts clients until the task ends.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let relaying = shared.clone();
        let connection = tokio::spawn(async move {
            // An error ends this connection, and the client notices it.
            let _ended = relay(client, &relaying).await;
        });
        let mut connections = lock(&shared.connections);
        connections.retain(|connection| !connection.is_finished());
        connections.push(connection);
        shared.accepted.send_modify(|accepted| *accepted += 1);
    }
}

/// Passes bytes both ways. If this is dropped, both sides see a reset, because neither socket
/// lingers.
async fn relay(client: TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_zero_linger()?;
    let broker = TcpStream::connect(&shared.upstream).await?;
    broker.set_zero_linger()?;
    broker.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let pass = |_: &[u8]| None;
    let hold = |bytes: &[u8]| shared.held_at(bytes);
    let up = pump(from_client, to_broker, shared, &shared.to_broker, hold);
    let down = pump(from_broker, to_client, shared, &shared.from_broker, pass);
    tokio::try_join!(up, down)?;
    Ok(())
}

impl Shared {
    /// Where these bytes of a client are to be held; `None`: they pass.
    fn held_at(&self, bytes: &[u8]) -> Option<usize> {
        let hold = lock(&self.hold);
        let hold = hold.as_ref()?;
        bytes.windows(hold.len()).position(|part| part == hold)
    }
}

/// Passes bytes one way while the proxy is not stalled, and then the end of the stream. Stops where `hold`
/// says.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    counter: &AtomicU64,
    hold: impl Fn(&[u8]) -> Option<usize>,
) -> io::Result<()> {
    let mut flowing = shared.flowing.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        flowing
            .wait_for(|&flows| flows)
            .await
            .map_err(io::Error::other)?;
        if read == 0 {
            return to.shutdown().await;
        }
        if let Some(at) = hold(&buffer[..read]) {
            to.write_all(&buffer[..at]).await?;
            shared.held.send_replace(true);
            return std::future::pending().await;
        }
        to.write_all(&buffer[..read]).await?;
        counter.fetch_add(read as u64, Ordering::SeqCst);
    }
}
