//! The health and admin server: probes, metrics, the API, the console.
//!
//! It has a thread and a single-threaded runtime of its own, so that handlers that block theirs
//! cannot stop it. It costs a message nothing: once a second it reads what the consumers count anyway.
//! docs/admin.md describes what it serves.

mod api;
mod connections;
mod console;
mod error;
mod events;
mod guard;
mod liveness;
mod monitor;
mod probes;
mod reads;
mod refusals;
mod settings;
mod views;
mod writes;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use settings::{AdminSettings, Listen, ServerSettings};

use crate::WorkerHandle;
use api::App;
use connections::Listening;

/// Makes the text of `/metrics`, in Prometheus' format.
pub type Scrape = Arc<dyn Fn() -> String + Send + Sync>;

/// Requests that may be under way at the end are given this long.
const GOODBYE: Duration = Duration::from_millis(500);
/// What the end may take beyond that: the thread has to see it, too.
const SLACK: Duration = Duration::from_millis(250);

/// Why the server was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// An address cannot be listened at: it is taken, or not this machine's.
    #[error("{setting}: cannot listen at {address}: {error}")]
    Bind {
        /// The setting that names it.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Its thread or runtime could not be made.
    #[error("admin server: {0}")]
    Thread(io::Error),
}

/// A running server. It ends when this is dropped.
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
#[must_use = "the server ends when this is dropped"]
pub struct Server {
    address: Option<SocketAddr>,
    probes_address: Option<SocketAddr>,
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl Server {
    /// Begins to listen at `admin.listen` and `admin.probes`. Where both are off there is no server,
    /// and this does nothing.
    ///
    /// # Errors
    /// When an address cannot be listened at.
    pub fn start(
        settings: impl Into<ServerSettings>,
        worker: WorkerHandle,
        scrape: Scrape,
    ) -> Result<Self, ServerError> {
        let settings = settings.into();
        let listener = bind("admin.listen", settings.admin.listen)?;
        let probes = bind("admin.probes", settings.admin.probes)?;
        let (sender, ended) = oneshot::channel();
        let server = Self {
            address: listener.as_ref().map(|listening| listening.address),
            probes_address: probes.as_ref().map(|listening| listening.address),
            stop: CancellationToken::new(),
            ended,
        };
        if listener.is_none() && probes.is_none() {
            return Ok(server);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("lapwing-admin")
            .build()
            .map_err(ServerError::Thread)?;
        let app = Arc::new(App::new(settings, worker, scrape, server.stop.clone()));
        std::thread::Builder::new()
            .name("lapwing-admin".to_owned())
            .spawn(move || {
                runtime.block_on(serve(app, listener, probes));
                // A look-up or a read of the token may hang; nobody waits for it.
                runtime.shutdown_background();
                // Whoever waited may have gone away.
                let _ = sender.send(());
            })
            .map_err(ServerError::Thread)?;
        if let Some(address) = server.address {
            info!(%address, "admin server listening");
        }
        if let Some(address) = server.probes_address {
            info!(%address, "probes listening");
        }
        Ok(server)
    }

    /// Where the API is served; none where `admin.listen` is off.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Where probes and metrics alone are served; none where `admin.probes` is off.
    #[must_use]
    pub fn probes_address(&self) -> Option<SocketAddr> {
        self.probes_address
    }

    /// Ends the server. Requests under way are given half a second.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // Its end, or the lack of it, changes nothing.
        let _ = tokio::time::timeout(GOODBYE + SLACK, &mut self.ended).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn bind(setting: &'static str, listen: Listen) -> Result<Option<Listening>, ServerError> {
    let Some(address) = listen.address() else {
        return Ok(None);
    };
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Listening { listener, address })
    });
    bound.map(Some).map_err(|error| ServerError::Bind {
        setting,
        address,
        error,
    })
}

/// The thread's whole life.
async fn serve(app: Arc<App>, listener: Option<Listening>, probes: Option<Listening>) {
    /// Connections at a time. Past that, others wait to be accepted.
    const CONNECTIONS: usize = 128;
    const PROBES: usize = 32;
    let stop = app.stop.clone();
    let watching = tokio::spawn(monitor::watch(Arc::clone(&app)));
    let listen = async {
        if let Some(listening) = listener {
            let router = api::router(&app, listening.address);
            connections::serve(listening, router, CONNECTIONS, stop.clone()).await;
        }
    };
    let probe = async {
        if let Some(listening) = probes {
            let router = api::probes_router(&app);
            connections::serve(listening, router, PROBES, stop.clone()).await;
        }
    };
    tokio::join!(listen, probe);
    watching.abort();
}
