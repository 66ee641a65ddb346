//! The lifecycle of handlers: the worker starts them before the first message, asks for their
//! health, and stops them after the last message.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{runtime, time::timeout};
use tracing::warn;

use super::RunError;
use crate::{
    consumer::ConsumerSettings,
    handler::{Handler, HandlerError},
    path::Handlers,
};

/// The worker waits this long beyond the limit of a start or stop, and then goes on without its
/// answer. The limit itself runs on the handlers' runtime, whose threads handlers may block.
const SLACK: Duration = Duration::from_secs(1);

/// The least limit of a start. A handler that looks whether its database is there must have the time to
/// find out that it is not: `timeout` is about messages, and may be short.
const LEAST_START: Duration = Duration::from_secs(15);

/// All handlers of a worker.
pub(super) struct Lifecycle {
    all: Vec<OfConsumer>,
    /// The runtime on which handlers run.
    runtime: runtime::Handle,
}

struct OfConsumer {
    consumer: String,
    handler: Arc<dyn Handler>,
    start_limit: Duration,
    stop_limit: Duration,
}

impl Lifecycle {
    pub(super) fn new(
        handlers: &BTreeMap<String, Handlers>,
        consumers: &BTreeMap<String, ConsumerSettings>,
        runtime: runtime::Handle,
    ) -> Self {
        let mut all = Vec::new();
        for (name, settings) in consumers {
            let handlers = handlers.get(name).into_iter().flat_map(Handlers::all);
            all.extend(handlers.map(|handler| OfConsumer {
                consumer: name.clone(),
                handler: Arc::clone(handler),
                start_limit: settings.longest_timeout().max(LEAST_START),
                stop_limit: settings.cancel_grace,
            }));
        }
        Self { all, runtime }
    }

    /// Starts all handlers at once. If one fails, the others are stopped again.
    pub(super) async fn start(&self) -> Result<(), RunError> {
        let starts = self.all.iter().map(|one| {
            let (handler, limit) = (Arc::clone(&one.handler), one.start_limit);
            let started = self.runtime.spawn(async move {
                let started = timeout(limit, handler.start()).await;
                started.unwrap_or_else(|_| Err(late("start", limit)))
            });
            async move {
                let error = match timeout(limit + SLACK, started).await {
                    Ok(Ok(Ok(()))) => return Ok(()),
                    Ok(Ok(Err(error))) => error,
                    Ok(Err(error)) => HandlerError::new(error.to_string()),
                    Err(_) => late("start", limit),
                };
                Err(RunError::Handler {
                    consumer: one.consumer.clone(),
                    error,
                })
            }
        });
        let started: Result<Vec<()>, _> = join_all(starts).await.into_iter().collect();
        if started.is_err() {
            self.stop().await;
        }
        started.map(|_| ())
    }

    /// Stops all handlers at once.
    pub(super) async fn stop(&self) {
        let stops = self.all.iter().map(|one| {
            let (handler, limit) = (Arc::clone(&one.handler), one.stop_limit);
            let stopped = self.runtime.spawn(async move {
                timeout(limit, handler.stop())
                    .await
                    .map_err(|_| late("stop", limit))
            });
            async move {
                let error = match timeout(limit + SLACK, stopped).await {
                    Ok(Ok(Ok(()))) => return,
                    Ok(Ok(Err(error))) => error.to_string(),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => late("stop", limit).to_string(),
                };
                warn!(consumer = one.consumer, error, "failed to stop handler");
            }
        });
        join_all(stops).await;
    }
}

fn late(what: &str, limit: Duration) -> HandlerError {
    HandlerError::new(format!("the handler's {what} takes longer than {limit:?}"))
}

/// The health of a consumer's handlers. Before the worker runs there are no handlers, and so no
/// errors.
#[derive(Clone, Default)]
pub(super) struct Health(Arc<OnceLock<Vec<Weak<dyn Handler>>>>);

impl Health {
    /// Sets the handlers that [`error`](Self::error) asks.
    pub(super) fn ask(&self, handlers: &Handlers) {
        let handlers = handlers.all().map(Arc::downgrade).collect();
        // A worker runs only once, so this is the first call.
        let _ = self.0.set(handlers);
    }

    /// The error of the first handler that cannot work, if there is one.
    pub(super) fn error(&self) -> Option<String> {
        let mut handlers = self.0.get()?.iter().filter_map(Weak::upgrade);
        handlers.find_map(|handler| Some(handler.health().err()?.to_string()))
    }
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Health").field(&self.error()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        handler::{Context, HandlerFuture},
        outcome::Outcome,
    };

    /// A handler that records the calls to it.
    #[derive(Default)]
    struct Pool {
        calls: Mutex<Vec<&'static str>>,
        is_broken: bool,
        hangs: bool,
    }

    impl Handler for Pool {
        fn handle(&self, _: Context) -> HandlerFuture<'_> {
            Box::pin(async { Outcome::Succeeded })
        }

        fn start(&self) -> HandlerFuture<'_, Result<(), HandlerError>> {
            Box::pin(async {
                self.calls.lock().unwrap().push("start");
                if self.hangs {
                    std::future::pending::<()>().await;
                }
                match self.is_broken {
                    true => Err(HandlerError::new("no database")),
                    false => Ok(()),
                }
            })
        }

        fn stop(&self) -> HandlerFuture<'_, ()> {
            Box::pin(async { self.calls.lock().unwrap().push("stop") })
        }

        fn health(&self) -> Result<(), HandlerError> {
            match self.is_broken {
                true => Err(HandlerError::new("no database")),
                false => Ok(()),
            }
        }
    }

    fn lifecycle(pools: &[Arc<Pool>]) -> Lifecycle {
        let dispatch = |pool: &Arc<Pool>| Handlers {
            any: Some(Arc::clone(pool) as Arc<dyn Handler>),
            ..Handlers::default()
        };
        let named = pools.iter().enumerate();
        let dispatch = named
            .clone()
            .map(|(name, pool)| (name.to_string(), dispatch(pool)));
        let settings = named.map(|(name, _)| (name.to_string(), ConsumerSettings::default()));
        Lifecycle::new(
            &dispatch.collect(),
            &settings.collect(),
            runtime::Handle::current(),
        )
    }

    fn calls(pool: &Pool) -> Vec<&'static str> {
        pool.calls.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn a_handler_is_started_and_stopped_once() {
        let pool = Arc::<Pool>::default();
        let lifecycle = lifecycle(&[Arc::clone(&pool)]);
        lifecycle.start().await.unwrap();
        assert_eq!(calls(&pool), ["start"]);
        lifecycle.stop().await;
        assert_eq!(calls(&pool), ["start", "stop"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_does_not_start_stops_the_others_and_names_its_consumer() {
        let good = Arc::<Pool>::default();
        for (broken, why) in [
            (
                Pool {
                    is_broken: true,
                    ..Pool::default()
                },
                "no database",
            ),
            (
                Pool {
                    hangs: true,
                    ..Pool::default()
                },
                "the handler's start takes longer than 20s",
            ),
        ] {
            let lifecycle = lifecycle(&[Arc::clone(&good), Arc::new(broken)]);
            let error = lifecycle.start().await.unwrap_err();
            assert_eq!(error.to_string(), format!("consumer \"1\": {why}"));
            assert_eq!(calls(&good), ["start", "stop"]);
            good.calls.lock().unwrap().clear();
        }
    }

    #[test]
    fn a_handler_that_cannot_work_says_why() {
        let health = Health::default();
        assert_eq!(health.error(), None);
        let broken = Pool {
            is_broken: true,
            ..Pool::default()
        };
        let dispatch = Handlers {
            any: Some(Arc::new(broken)),
            ..Handlers::default()
        };
        health.ask(&dispatch);
        assert_eq!(health.error().as_deref(), Some("no database"));
        drop(dispatch);
        assert_eq!(
            health.error(),
            None,
            "a worker that has ended keeps no handler"
        );
    }
}
