//! Dispatch: the handler that a message goes to, with its limits, retry policy, decoding and breaker.

mod kind;
mod own;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{execute::Limits, service::address};
use crate::{
    consumer::{self, ConsumerSettings, RouteBy, Unrouted},
    decode::Reader,
    flight::Flight,
    handler::Handler,
    outcome::{Ending, Outcome},
    retry::RetrySettings,
    status::RouteFigures,
};
pub(super) use own::Own;

/// The handlers of a lane: by route, and one for all other messages.
#[derive(Clone, Default)]
pub(crate) struct Handlers {
    pub(crate) by_route: BTreeMap<String, Arc<dyn Handler>>,
    pub(crate) any: Option<Arc<dyn Handler>>,
    /// How their messages are read. `None`: without a schema.
    pub(crate) reader: Option<Arc<Reader>>,
}

impl Handlers {
    /// All handlers.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<dyn Handler>> {
        self.by_route.values().chain(&self.any)
    }
}

/// A handler, with its limits, retry policy and decoding.
pub(crate) struct Route {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) limits: Limits,
    pub(crate) retry: RetrySettings,
    pub(crate) reader: Arc<Reader>,
    /// If the lane has routes: this one's part in the breakers.
    own: Option<Own>,
}

impl Route {
    pub(super) fn own(&self) -> Option<&Own> {
        self.own.as_ref()
    }

    /// How long a message waits whose service is down for this route; `None`: its attempt may start.
    /// `comes_back`: if it waits, it is back after that time.
    pub(super) fn wait(&self, now: Instant, flight: &Flight, comes_back: bool) -> Option<Duration> {
        self.own.as_ref()?.wait(now, address(flight), comes_back)
    }
}

/// What figures and logs call the messages that no route takes.
const REST: &str = "(others)";

/// The routes of a lane.
pub(crate) struct Dispatch {
    /// All routes. The one for messages that no other takes is the last, if there is one.
    routes: Vec<Route>,
    /// The names of the routes with their places in `routes`, without patterns.
    exact: BTreeMap<String, usize>,
    /// The patterns, those that are tried first first.
    patterns: Vec<(String, usize)>,
    /// The route for messages that no other takes.
    any: Option<usize>,
    by: RouteBy,
    unrouted: Unrouted,
    /// How the messages of all routes are read.
    reader: Arc<Reader>,
    /// The figures of each route, and of the messages that no route takes. Empty without routes.
    figures: Vec<Arc<RouteFigures>>,
}

impl Dispatch {
    /// Makes the routes that the settings name, and one for each further handler. A route without a
    /// handler of its own has that of the consumer.
    pub(crate) fn new(mut handlers: Handlers, settings: &ConsumerSettings) -> Self {
        // Those of the settings, and those of handlers that are registered in code.
        let registered = handlers.by_route.keys();
        let names: BTreeSet<_> = settings.routes.keys().chain(registered).cloned().collect();
        let reader = handlers.reader.take();
        let reader = reader
            .unwrap_or_else(|| Arc::new(Reader::without_schema(settings.decode, &settings.body)));
        let mut made = Self {
            routes: Vec::new(),
            exact: BTreeMap::new(),
            patterns: Vec::new(),
            any: None,
            by: settings.route_by.clone(),
            unrouted: settings.unrouted,
            reader,
            figures: Vec::new(),
        };
        for name in &names {
            let own = handlers.by_route.remove(name);
            let Some(handler) = own.or_else(|| handlers.any.clone()) else {
                continue;
            };
            let number = made.add(Some(name), handler, settings, true);
            if consumer::is_pattern(name) {
                made.patterns.push((name.clone(), number));
            } else {
                made.exact.insert(name.clone(), number);
            }
        }
        made.patterns
            .sort_by(|(one, _), (other, _)| consumer::order(one, other));
        let has_routes = !names.is_empty();
        if let Some(handler) = handlers.any {
            made.any = Some(made.add(None, handler, settings, has_routes));
        } else if has_routes {
            made.figures(REST, settings);
        }
        made
    }

    fn add(
        &mut self,
        name: Option<&str>,
        handler: Arc<dyn Handler>,
        settings: &ConsumerSettings,
        is_own: bool,
    ) -> usize {
        let settings = settings.of_route(name);
        let limits = Limits::of(&settings);
        let number = self.routes.len();
        let own = is_own.then(|| {
            let longest = limits.timeout + limits.cancel_grace + Duration::from_secs(1);
            let figures = self.figures(name.unwrap_or(REST), &settings);
            Own::new(number, figures, &settings.breaker, longest)
        });
        self.routes.push(Route {
            handler,
            limits,
            retry: settings.retry.clone(),
            reader: Arc::clone(&self.reader),
            own,
        });
        number
    }

    fn figures(&mut self, name: &str, settings: &ConsumerSettings) -> Arc<RouteFigures> {
        let figures = RouteFigures::new(name, settings.timeout, &settings.retry);
        let figures = Arc::new(figures);
        self.figures.push(Arc::clone(&figures));
        figures
    }

    /// The figures of the routes.
    pub(crate) fn route_figures(&self) -> &[Arc<RouteFigures>] {
        &self.figures
    }

    /// The message's route; `None` if nothing takes it.
    pub(crate) fn route(&self, flight: &Flight) -> Option<&Route> {
        let place = match self.exact.is_empty() && self.patterns.is_empty() {
            true => self.any,
            // Reading the kind can mean to read the body.
            false => *flight.route.get_or_init(|| self.find(flight)),
        };
        self.routes.get(place?)
    }

    fn find(&self, flight: &Flight) -> Option<usize> {
        if kind::is_lost(&flight.message, &self.by) {
            return None;
        }
        let kind = kind::kind(&flight.message, &self.by);
        let fits = kind.as_deref().and_then(|kind| {
            let exact = self.exact.get(kind).copied();
            exact.or_else(|| {
                let mut patterns = self.patterns.iter();
                let fits = patterns.find(|(pattern, _)| consumer::takes(pattern, kind));
                fits.map(|(_, place)| *place)
            })
        });
        fits.or(self.any)
    }

    /// The ending of a message that nothing takes.
    pub(super) fn no_route(&self, flight: &Flight) -> Ending {
        let kind = kind::kind(&flight.message, &self.by);
        let why = kind::unrouted(&flight.message, &self.by, kind.as_deref());
        match self.unrouted {
            // A copy may have lost its kind, and its publisher wants it handled.
            Unrouted::Ack if !flight.message.is_copy() => Ending::Handled(Outcome::dropped(why)),
            Unrouted::Ack | Unrouted::DeadLetter => Ending::Unroutable { why },
        }
    }

    /// Whether the lane has several routes.
    pub(super) fn has_several(&self) -> bool {
        self.routes.len() > 1
    }

    /// Whether a route that has messages goes on.
    pub(super) fn goes_on(&self) -> bool {
        self.routes.iter().filter_map(Route::own).any(Own::goes_on)
    }

    /// An operator has started the lane anew.
    pub(super) fn forget_outages(&self) {
        self.routes
            .iter()
            .filter_map(Route::own)
            .for_each(Own::reset);
    }
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dispatch({} routes)", self.routes.len())
    }
}
