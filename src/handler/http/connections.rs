//! The connections of a handler, in generations.
//!
//! A generation is one HTTP client with its connections, its secrets and its trusted authorities.
//! The handler replaces it after a minute, so that requests follow a service that moved, and a
//! rotated secret is used. It replaces it sooner if requests get no answer, or if an answer suggests
//! that a secret has changed. The old generation's requests finish on their connections.

use std::{
    collections::HashSet,
    error::Error,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use hyper_util::client::legacy::{self, connect::HttpInfo};
use reqwest::{Client, ClientBuilder, Response, header::HeaderMap, redirect};
use tokio::time::Instant;

use super::{HttpHandlerSettings, files::Files, signature::Signer};
use crate::{lock::lock, text::causes};

/// How long a generation is used.
const AGE: Duration = Duration::from_secs(60);
/// The wait after a replacement failed.
const AGAIN: Duration = Duration::from_secs(5);
/// A generation is replaced after this number of requests in a row that got no answer.
const UNANSWERED: u32 = 2;
/// The shortest time between two replacements, and between two looks at the files.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an idle connection is kept. Node and uvicorn close connections that are idle for 5 s: a
/// request that is sent at that moment is lost.
const IDLE: Duration = Duration::from_secs(4);
/// A server on HTTP/2 must answer a PING, sent every `PING`, within `PING`.
const PING: Duration = Duration::from_secs(5);
/// The most headers in a response.
const RESPONSE_HEADERS: usize = 256;
/// The most connections that are remembered as proven. A server that closes each connection after
/// its answer would fill the memory.
const PROVEN: usize = 4096;

/// The present generation, and how to replace it.
pub(super) struct Connections {
    settings: Arc<HttpHandlerSettings>,
    /// Whether a handshake needs the system's authorities.
    trust_system: bool,
    present: Mutex<Present>,
    /// Held by the one request that replaces the generation.
    replacing: tokio::sync::Mutex<()>,
}

struct Present {
    generation: Arc<Generation>,
    replace_at: Instant,
    /// When the files were last read.
    read_at: Instant,
}

impl Connections {
    /// Makes the first generation.
    pub(super) fn new(settings: &HttpHandlerSettings, trust_system: bool) -> Result<Self, String> {
        let generation = Arc::new(Generation::new(settings, trust_system)?);
        let now = Instant::now();
        Ok(Self {
            settings: Arc::new(settings.clone()),
            trust_system,
            present: Mutex::new(Present {
                generation,
                replace_at: now + AGE,
                read_at: now,
            }),
            replacing: tokio::sync::Mutex::default(),
        })
    }

    /// The generation for the next request.
    pub(super) async fn present(&self) -> Arc<Generation> {
        let generation = {
            let present = lock(&self.present);
            let now = Instant::now();
            let is_silent = present.generation.unanswered.load(Ordering::Relaxed) >= UNANSWERED;
            let is_due = now >= present.replace_at
                || (is_silent && now.duration_since(present.read_at) >= PAUSE);
            let generation = Arc::clone(&present.generation);
            if !is_due {
                return generation;
            }
            generation
        };
        // One request replaces the generation. Others do not wait for it.
        match self.replacing.try_lock() {
            Ok(_replacing) => self.replace().await.unwrap_or(generation),
            Err(_) => generation,
        }
    }

    /// The generation to try instead, if the files have changed since the failed one was made.
    pub(super) async fn changed_since(&self, failed: &Arc<Generation>) -> Option<Arc<Generation>> {
        if !Files::are_set(&self.settings) {
            return None;
        }
        let _replacing = self.replacing.lock().await;
        {
            let mut present = lock(&self.present);
            if !Arc::ptr_eq(&present.generation, failed) {
                let changed = present.generation.files != failed.files;
                return changed.then(|| Arc::clone(&present.generation));
            }
            // A service that refuses every request must not make each of them read the files.
            let now = Instant::now();
            if now.duration_since(present.read_at) < PAUSE {
                return None;
            }
            present.read_at = now;
        }
        let settings = Arc::clone(&self.settings);
        let read = tokio::task::spawn_blocking(move || Files::read(&settings)).await;
        match read {
            Ok(Ok(files)) if files != failed.files => self.replace().await,
            _ => None,
        }
    }

    /// Makes a new generation. `None`: this failed, and the present generation stays.
    async fn replace(&self) -> Option<Arc<Generation>> {
        let (settings, trust_system) = (Arc::clone(&self.settings), self.trust_system);
        let made = tokio::task::spawn_blocking(move || Generation::new(&settings, trust_system));
        let made = made.await.unwrap_or_else(|error| Err(error.to_string()));
        let mut present = lock(&self.present);
        let now = Instant::now();
        present.read_at = now;
        match made {
            Ok(generation) => {
                present.generation = Arc::new(generation);
                present.replace_at = now + AGE;
                Some(Arc::clone(&present.generation))
            }
            Err(error) => {
                present.replace_at = now + AGAIN;
                tracing::warn!(
                    error,
                    "http handler: failed to read its files again; it goes on with what it read before"
                );
                None
            }
        }
    }
}

/// One HTTP client, with what it was made from.
pub(super) struct Generation {
    settings: ClientSettings,
    pub(super) client: Client,
    /// A client that opens a connection for each request.
    fresh: OnceLock<Client>,
    /// The headers of every request.
    pub(super) headers: HeaderMap,
    /// What signs every request.
    pub(super) signer: Option<Signer>,
    files: Files,
    /// The local addresses of connections on which a request was answered.
    proven: Mutex<HashSet<SocketAddr>>,
    /// Requests in a row that were given up before an answer.
    unanswered: AtomicU32,
}

/// What a client is made from.
struct ClientSettings {
    connect_timeout: Duration,
    tls: rustls::ClientConfig,
}

impl ClientSettings {
    fn builder(&self) -> ClientBuilder {
        Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .user_agent(concat!("lapwing/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(self.tls.clone())
            .pool_idle_timeout(IDLE)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .http2_keep_alive_while_idle(true)
            // The status decides, so a malformed header does not matter.
            .http1_ignore_invalid_headers_in_responses(true)
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_max_headers(RESPONSE_HEADERS)
    }
}

impl Generation {
    fn new(settings: &HttpHandlerSettings, trust_system: bool) -> Result<Self, String> {
        let files = Files::read(settings)?;
        let headers = files.headers(settings)?;
        let signer = files.signer(settings)?;
        let tls = files
            .tls(trust_system)
            .map_err(|error| causes(error.as_ref()))?;
        let settings = ClientSettings {
            connect_timeout: settings.connect_timeout,
            tls,
        };
        let client = settings.builder().build().map_err(|error| causes(&error))?;
        Ok(Self {
            settings,
            client,
            fresh: OnceLock::new(),
            headers,
            signer,
            files,
            proven: Mutex::default(),
            unanswered: AtomicU32::new(0),
        })
    }
}

/// How a request is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum On {
    /// On an idle connection, if there is one.
    AnyConnection,
    /// On a new connection, which is closed afterwards.
    FreshConnection,
}

impl Generation {
    /// The client for a request.
    pub(super) fn client(&self, on: On) -> &Client {
        match on {
            On::AnyConnection => &self.client,
            On::FreshConnection => self.fresh.get_or_init(|| {
                let builder = self.settings.builder().pool_max_idle_per_host(0);
                // The same settings made `client`. If they fail now, any connection is as good.
                builder.build().unwrap_or_else(|_| self.client.clone())
            }),
        }
    }

    /// A request begins to wait for its answer.
    pub(super) fn wait(&self) -> Waiting<'_> {
        Waiting {
            generation: self,
            has_ended: false,
        }
    }

    /// Whether the server did not work on the request that ended with this error, as far as a client
    /// can know: it said so, or the connection had been idle, and broke before the answer. A server
    /// can close an idle connection at the moment in which a request is sent on it.
    pub(super) fn was_not_served(&self, error: &reqwest::Error) -> bool {
        let mut is_reset = false;
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(error) = cause.downcast_ref::<hyper::Error>()
                && (error.is_parse() || error.is_user())
            {
                return false;
            }
            if let Some(error) = cause.downcast_ref::<h2::Error>() {
                if error.reason() == Some(h2::Reason::REFUSED_STREAM) {
                    return true;
                }
                is_reset |= error.is_reset();
            }
            source = cause.source();
        }
        let connection = error.source().and_then(|cause| {
            let info = cause.downcast_ref::<legacy::Error>()?.connect_info()?;
            let mut extras = hyper::http::Extensions::new();
            info.get_extras(&mut extras);
            Some(extras.get::<HttpInfo>()?.local_addr())
        });
        // A reset stream of HTTP/2 leaves its connection open: it is the server's answer.
        !is_reset && connection.is_some_and(|local| lock(&self.proven).contains(&local))
    }
}

/// A request that waits for its answer. If it is dropped first, it counts as unanswered.
pub(super) struct Waiting<'a> {
    generation: &'a Generation,
    has_ended: bool,
}

impl Waiting<'_> {
    /// The answer has come.
    pub(super) fn answered(mut self, response: &Response) {
        self.has_ended = true;
        let generation = self.generation;
        if generation.unanswered.load(Ordering::Relaxed) > 0 {
            generation.unanswered.store(0, Ordering::Relaxed);
        }
        if let Some(info) = response.extensions().get::<HttpInfo>() {
            let mut proven = lock(&generation.proven);
            if proven.len() >= PROVEN {
                proven.clear();
            }
            proven.insert(info.local_addr());
        }
    }

    /// The request has failed.
    pub(super) fn failed(mut self) {
        self.has_ended = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.generation.unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }
}
