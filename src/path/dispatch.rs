//! Dispatch: the handler that a message goes to, with its limits, retry policy and decoding.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use tokio::time::Instant;
use tracing::{info, warn};

use super::execute::Limits;
use crate::{
    consumer::ConsumerSettings,
    decode::Reader,
    handler::Handler,
    lock::lock,
    message::Message,
    outcome::{Ending, OutcomeKind},
    retry::RetrySettings,
};

/// So many attempts of one route in a row end by their timeout before its messages wait.
const SILENT: u32 = 5;

/// The handlers of a lane: by message type, and one for all other messages.
#[derive(Clone, Default)]
pub(crate) struct Handlers {
    pub(crate) by_type: BTreeMap<String, Arc<dyn Handler>>,
    pub(crate) any: Option<Arc<dyn Handler>>,
    /// How their messages are read. `None`: without a schema.
    pub(crate) reader: Option<Arc<Reader>>,
}

impl Handlers {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_type.is_empty() && self.any.is_none()
    }

    /// All handlers.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<dyn Handler>> {
        self.by_type.values().chain(&self.any)
    }
}

/// A handler, with its limits, retry policy and decoding.
pub(crate) struct Route {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) limits: Limits,
    pub(crate) retry: RetrySettings,
    pub(crate) reader: Arc<Reader>,
    /// If the lane has several routes: what the breaker is told of this one.
    own: Option<Own>,
}

/// One of several routes of a lane, for the breaker.
#[derive(Debug)]
pub(super) struct Own {
    /// From 0, different for each route.
    pub(super) number: usize,
    /// The attempts of this route that ended well.
    pub(super) served: AtomicU64,
    /// The attempts in a row that ended by their timeout.
    timed_out: AtomicU32,
    /// When an attempt last tried the service that gives no answer.
    tried: Mutex<Option<Instant>>,
}

impl Own {
    fn new(number: usize) -> Self {
        Self {
            number,
            served: AtomicU64::new(0),
            timed_out: AtomicU32::new(0),
            tried: Mutex::new(None),
        }
    }
}

impl Route {
    /// Whether an attempt may start. If the service behind this route, one of several, gives no answer,
    /// one attempt in each `timeout` tries it. More of them would hold the handler slots that messages
    /// of other types need.
    pub(super) fn may_start(&self) -> bool {
        let Some(own) = &self.own else { return true };
        if own.timed_out.load(Ordering::Relaxed) < SILENT {
            return true;
        }
        let now = Instant::now();
        let mut tried = lock(&own.tried);
        if tried.is_some_and(|at| now < at + self.limits.timeout) {
            return false;
        }
        *tried = Some(now);
        true
    }

    /// An attempt that [may start](Self::may_start) asks the service nothing.
    pub(super) fn has_not_tried(&self) {
        if let Some(own) = &self.own {
            *lock(&own.tried) = None;
        }
    }

    /// An attempt has ended like this.
    pub(super) fn ended(&self, consumer: &str, ending: &Ending) {
        let Some(own) = &self.own else { return };
        match ending.kind() {
            OutcomeKind::TimedOut => {
                if own.timed_out.fetch_add(1, Ordering::Relaxed) + 1 == SILENT {
                    warn!(%consumer, "the service for one type of message gives no answer: its messages wait, and one in each timeout tries it");
                }
            }
            // It says nothing about the service.
            OutcomeKind::Interrupted => {}
            _ => {
                if own.timed_out.swap(0, Ordering::Relaxed) >= SILENT {
                    *lock(&own.tried) = None;
                    info!(%consumer, "the service for one type of message answers again");
                }
            }
        }
    }
}

/// The routes of a lane.
pub(crate) struct Dispatch {
    by_type: BTreeMap<String, Route>,
    any: Option<Route>,
}

impl Dispatch {
    /// Makes a route for each handler. All routes of a lane have the same limits, retry policy and
    /// decoding.
    pub(crate) fn new(handlers: Handlers, settings: &ConsumerSettings) -> Self {
        let has_several = handlers.all().nth(1).is_some();
        let reader = handlers.reader.clone();
        let reader = reader
            .unwrap_or_else(|| Arc::new(Reader::without_schema(settings.decode, &settings.body)));
        let mut numbers = 0..;
        let mut route = |handler| Route {
            handler,
            limits: Limits::of(settings),
            retry: settings.retry.clone(),
            reader: Arc::clone(&reader),
            own: numbers.next().filter(|_| has_several).map(Own::new),
        };
        let by_type = handlers.by_type.into_iter();
        Self {
            by_type: by_type
                .map(|(name, handler)| (name, route(handler)))
                .collect(),
            any: handlers.any.map(route),
        }
    }

    /// The message's route for the breaker, if the lane has several.
    pub(super) fn own(&self, message: &Message) -> Option<&Own> {
        if self.by_type.is_empty() {
            return None;
        }
        self.route(message).ok()?.own.as_ref()
    }

    /// The message's route. The ending is `Unroutable` if no handler takes its type.
    pub(crate) fn route(&self, message: &Message) -> Result<&Route, Ending> {
        let message_type = message.message_type().unwrap_or_default();
        let typed = match self.by_type.is_empty() {
            true => None,
            false => self.by_type.get(message_type),
        };
        typed
            .or(self.any.as_ref())
            .ok_or_else(|| Ending::Unroutable {
                message_type: message_type.to_owned(),
            })
    }
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dispatch({} by type)", self.by_type.len())
    }
}
