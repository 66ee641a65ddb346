//! The health and admin server: probes, metrics, the API, the console.
//!
//! The server runs on a thread and a single-threaded runtime of its own, so a handler that blocks
//! its thread cannot stop the server. It adds no work for a message: once a second it reads the
//! counters that the consumers keep anyway. docs/admin.md describes probes and API.

mod api;
mod archive;
mod connections;
mod console;
mod dead;
mod door;
mod error;
mod events;
mod guard;
mod guests;
mod hosts;
mod listen;
mod liveness;
mod message;
mod monitor;
mod need;
mod outcomes;
mod pauses;
mod places;
mod probes;
mod reads;
mod refusals;
mod refused;
mod settings;
mod tokens;
mod views;
mod writes;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use listen::Listen;
pub use settings::{AdminSettings, ServerSettings};

use crate::WorkerHandle;
use api::App;
use door::Door;
use pauses::Pauses;

/// Renders the text of `/metrics`, in Prometheus' format.
pub type Scrape = Arc<dyn Fn() -> String + Send + Sync>;

/// The longest that the server waits for open requests when it stops.
const GOODBYE: Duration = Duration::from_millis(500);
/// The time that the server's thread gets beyond [`GOODBYE`] to notice the stop and to end.
const SLACK: Duration = Duration::from_millis(250);

/// The longest that the server waits for jobs for dead letters when it stops.
const JOBS: Duration = Duration::from_secs(10);

/// Why the server was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The server cannot listen at an address: the address does not belong to this machine, or the
    /// port is reserved. An address in use is no error: the server tries it again.
    #[error("{setting}: cannot listen at {address}: {error}")]
    Bind {
        /// The setting that names the address.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        error: io::Error,
    },
    /// `admin.pause_file` exists and cannot be read. It may say that consumers are paused, so the worker does not
    /// start without it.
    #[error("admin.pause_file cannot be read: {0}; mend or remove it")]
    PauseFile(io::Error),
    /// The thread or the runtime of the server could not be started.
    #[error("admin server: {0}")]
    Thread(io::Error),
}

/// A running server. Dropping it stops the server.
///
/// ```no_run
/// use lapwing::{Settings, Worker, admin::Server};
///
/// # async fn run(settings: Settings) -> Result<(), Box<dyn std::error::Error>> {
/// let worker = Worker::new(settings.clone());
/// let server = Server::start(&settings, worker.handle(), std::sync::Arc::new(String::new))?;
/// worker.run(lapwing::shutdown_signal()).await?;
/// server.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping this stops the server"]
pub struct Server {
    address: Option<SocketAddr>,
    probes_address: Option<SocketAddr>,
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
    /// The jobs for dead letters; `None` without a listener.
    dead: Option<Arc<dead::Desks>>,
}

impl Server {
    /// Starts to listen at `admin.listen` and `admin.probes`. If both are off, this starts nothing.
    /// If an address is in use, the server tries it again every two seconds: the worker can work
    /// without a console, and the process before it may be about to end.
    ///
    /// # Errors
    /// If an address does not belong to this machine, if `admin.pause_file` exists and cannot be read, or if the
    /// thread cannot start.
    pub fn start(
        settings: impl Into<ServerSettings>,
        worker: WorkerHandle,
        scrape: Scrape,
    ) -> Result<Self, ServerError> {
        let settings = settings.into();
        let listener = Door::open("admin.listen", settings.admin.listen)?;
        let probes = Door::open("admin.probes", settings.admin.probes)?;
        let (sender, ended) = oneshot::channel();
        let mut server = Self {
            address: listener.as_ref().and_then(Door::address),
            probes_address: probes.as_ref().and_then(Door::address),
            stop: CancellationToken::new(),
            ended,
            dead: None,
        };
        if listener.is_none() && probes.is_none() {
            return Ok(server);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("lapwing-admin")
            .build()
            .map_err(ServerError::Thread)?;
        let pauses = Pauses::read(settings.admin.pause_file.clone());
        let pauses = pauses.map_err(ServerError::PauseFile)?;
        let stop = server.stop.clone();
        let app = Arc::new(App::new(settings, worker, scrape, pauses, stop));
        server.dead = Some(Arc::clone(&app.dead));
        app.pauses.apply(&app.worker);
        let archiving = archive::start(&app).map_err(ServerError::Thread)?;
        std::thread::Builder::new()
            .name("lapwing-admin".to_owned())
            .spawn(move || {
                runtime.block_on(serve(app, listener, probes));
                if let Some(archiving) = archiving {
                    // The server's stop waits for a bounded time only, so a file that hangs delays nothing.
                    let _ = archiving.join();
                }
                // Reading the token file may hang: do not wait for it.
                runtime.shutdown_background();
                // The receiver may be gone: `stop` waits only for a short time.
                let _ = sender.send(());
            })
            .map_err(ServerError::Thread)?;
        Ok(server)
    }

    /// The address of the API and the console; `None` if `admin.listen` is off or was in use at the
    /// start.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The address that serves only probes and metrics; `None` if `admin.probes` is off or was in
    /// use at the start.
    #[must_use]
    pub fn probes_address(&self) -> Option<SocketAddr> {
        self.probes_address
    }

    /// Stops the server. Open requests get half a second to finish. A job for dead letters ends after the
    /// batch under way and returns the letters that it holds: this waits for it, at most 10 s.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(dead) = &self.dead {
            dead.close();
            dead.closed(JOBS).await;
        }
        // The caller does the same whether the server ended in time or not.
        let _ = tokio::time::timeout(GOODBYE + SLACK, &mut self.ended).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Runs both listeners and the monitor until the server stops.
async fn serve(app: Arc<App>, listener: Option<Door>, probes: Option<Door>) {
    /// Open connections at most. A further one takes the place of the idlest.
    const CONNECTIONS: usize = 128;
    const PROBES: usize = 32;
    let stop = app.stop.clone();
    let watching = tokio::spawn(monitor::watch(Arc::clone(&app)));
    let listen = async {
        if let Some(door) = listener
            && let Some(listening) = door.listening("admin server listening", &stop).await
        {
            let router = api::router(&app, listening.address);
            connections::serve(listening, router, CONNECTIONS, stop.clone()).await;
        }
    };
    let probe = async {
        if let Some(door) = probes
            && let Some(listening) = door.listening("probes listening", &stop).await
        {
            let router = api::probes_router(&app);
            connections::serve(listening, router, PROBES, stop.clone()).await;
        }
    };
    tokio::join!(listen, probe);
    watching.abort();
    // A failure is logged.
    let _ = tokio::time::timeout(SLACK, app.pauses.keep(&app.worker)).await;
}
