//! The settings `route_by`, `routes` and `unrouted` of a consumer: which handler a message goes to.

use std::{borrow::Cow, cmp::Ordering, fmt, str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ConsumerSettings;
use crate::{
    breaker::BreakerSettings,
    config::{Findings, HOUR, KeyPath, Overrides, Span},
    handler::HandlerSettings,
    pointer::Pointer,
    retry::RetrySettings,
};

/// Where the kind of a message is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RouteBy {
    /// The `type` property, which a `dialect` fills in.
    #[default]
    Type,
    /// The publisher's routing key.
    RoutingKey,
    /// The header of this name.
    Header(String),
    /// The text at this place of a JSON body.
    Body(Pointer),
    /// The type of a CloudEvent, in binary or structured mode.
    CloudEvents,
}

/// The texts that the schema accepts for [`RouteBy`].
pub(super) const ROUTE_BY: &str = "^(type|routing-key|cloudevents|header:.+|body:/.*)$";

/// The error for a text that is not a [`RouteBy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected \"type\", \"routing-key\", \"header:NAME\", \"body:/JSON/POINTER\" or \"cloudevents\""
)]
pub struct InvalidRouteBy;

impl FromStr for RouteBy {
    type Err = InvalidRouteBy;

    fn from_str(text: &str) -> Result<Self, InvalidRouteBy> {
        let named = text.split_once(':');
        match (text, named) {
            ("type", _) => Ok(Self::Type),
            ("routing-key", _) => Ok(Self::RoutingKey),
            ("cloudevents", _) => Ok(Self::CloudEvents),
            (_, Some(("header", name))) if !name.is_empty() => Ok(Self::Header(name.to_owned())),
            (_, Some(("body", place))) if !place.is_empty() => {
                let pointer = place.parse().map_err(|_| InvalidRouteBy)?;
                Ok(Self::Body(pointer))
            }
            _ => Err(InvalidRouteBy),
        }
    }
}

impl fmt::Display for RouteBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type => f.write_str("type"),
            Self::RoutingKey => f.write_str("routing-key"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Body(pointer) => write!(f, "body:{pointer}"),
            Self::CloudEvents => f.write_str("cloudevents"),
        }
    }
}

impl Serialize for RouteBy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RouteBy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// What the worker does with a message that neither a route nor `handler` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unrouted {
    /// Put it in the dead-letter queue, as `unroutable-type`.
    #[default]
    DeadLetter,
    /// Ack it, and count it as `dropped`. A copy that a worker or an operator has put back becomes a dead
    /// letter all the same, because it may have lost its kind.
    Ack,
}

/// A route: the handler for messages of one kind, and what is different for these messages. The name of
/// the table is the kind, or a pattern as topic exchanges have them: `*` stands for one word between
/// dots, `#` for any number of words. If several patterns fit, the first word in which they differ
/// decides: a word comes before `*`, and `*` before `#`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteSettings {
    /// What runs for each message of this route: a table with the keys of `handler`. Without it: the
    /// consumer's `handler`. Default: none.
    #[serde(skip_serializing_if = "is_none")]
    #[schemars(extend("x-whole" = true), example = &serde_json::json!({ "kind": "log" }))]
    pub handler: HandlerSettings,
    /// How long one attempt of this route may take. Too low and too high: as for the consumer's
    /// `timeout`. Without it: the consumer's `timeout`. Default: none.
    #[serde(
        with = "OptionalSpan",
        skip_serializing_if = "Option::is_none",
        default
    )]
    #[schemars(with = "Option<RouteSpan>", example = &"1m")]
    pub timeout: Option<Duration>,
    /// What happens after a failure: a table with keys of the consumer's `retry`. Keys that are not
    /// given are those of the consumer. The consumer's `delays` count only if the route gives none of
    /// `max_attempts`, `base`, `factor` and `jitter`. Default: none.
    #[serde(skip_serializing_if = "Overrides::is_empty")]
    #[schemars(extend("x-whole" = true), example = &serde_json::json!({ "max_attempts": 5 }))]
    pub retry: Overrides<RetrySettings>,
    /// When this route stops because its service is down: a table with keys of the consumer's `breaker`.
    /// Keys that are not given are those of the consumer. Default: none.
    #[serde(skip_serializing_if = "Overrides::is_empty")]
    #[schemars(extend("x-whole" = true), example = &serde_json::json!({ "unavailable": 3 }))]
    pub breaker: Overrides<BreakerSettings>,
}

impl RouteSettings {
    /// The retry settings of a route of a consumer that has these. A list of delays takes the place of the
    /// number of attempts and of the backoff, so a route that gives one of those does not have the
    /// consumer's list.
    fn retry_over(&self, consumer: &RetrySettings) -> RetrySettings {
        let mut retry = self.retry.over(consumer);
        let of_backoff = ["max_attempts", "base", "factor", "jitter"];
        if !self.retry.gives("delays") && of_backoff.iter().any(|key| self.retry.gives(key)) {
            retry.delays.clear();
        }
        retry
    }
}

fn is_none(handler: &HandlerSettings) -> bool {
    *handler == HandlerSettings::None
}

/// The range of a timeout.
type RouteSpan = Span<1, { 12 * HOUR }>;

/// A duration that need not be there.
struct OptionalSpan;

impl OptionalSpan {
    fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        humantime_serde::serialize(duration, serializer)
    }

    fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        humantime_serde::deserialize(deserializer)
    }
}

impl ConsumerSettings {
    /// The settings of a route, with the consumer's in place of those that it does not have itself.
    /// `None`: the messages that no route takes.
    #[must_use]
    pub fn of_route(&self, route: Option<&str>) -> Cow<'_, Self> {
        let Some(route) = route.and_then(|name| self.routes.get(name)) else {
            return Cow::Borrowed(self);
        };
        let mut own = self.clone();
        if !is_none(&route.handler) {
            own.handler = route.handler.clone();
        }
        own.timeout = route.timeout.unwrap_or(self.timeout);
        own.retry = route.retry_over(&self.retry);
        own.breaker = route.breaker.over(&self.breaker);
        Cow::Owned(own)
    }

    /// The settings for each sort of message: those that no route takes, if `handler` takes them or
    /// there is no route, and those of each route.
    pub(crate) fn sorts(&self) -> impl Iterator<Item = (Option<&str>, Cow<'_, Self>)> {
        let takes_rest = self.routes.is_empty() || !is_none(&self.handler);
        let rest = takes_rest.then_some(None);
        let routes = self.routes.keys().map(|name| Some(name.as_str()));
        let all = rest.into_iter().chain(routes);
        all.map(|route| (route, self.of_route(route)))
    }

    /// The retry settings of the routes that have their own.
    pub(super) fn route_retries(&self) -> impl Iterator<Item = RetrySettings> + '_ {
        let routes = self.routes.values();
        let own = routes.filter(|route| !route.retry.is_empty());
        own.map(|route| route.retry_over(&self.retry))
    }

    /// The longest time for one attempt, whatever its route.
    #[must_use]
    pub fn longest_timeout(&self) -> Duration {
        let routes = self.routes.values();
        let routes = routes.filter_map(|route| route.timeout);
        routes.fold(self.timeout, Duration::max)
    }

    /// Checks the batches of each handler, by the shortest timeout of the messages that it takes.
    pub(super) fn check_batches(
        &self,
        findings: &mut Findings,
        section: &KeyPath,
        concurrency: u16,
    ) {
        let mut check = |handler: &HandlerSettings, path: KeyPath, timeout| {
            handler.check_batch(
                findings,
                &path.key("handler"),
                section,
                (concurrency, timeout),
            );
        };
        let mut shortest = self.timeout;
        for (name, route) in &self.routes {
            let timeout = route.timeout.unwrap_or(self.timeout);
            match is_none(&route.handler) {
                true => shortest = shortest.min(timeout),
                false => check(&route.handler, section.key("routes").key(name), timeout),
            }
        }
        check(&self.handler, section.clone(), shortest);
    }

    pub(super) fn check_routes(&self, findings: &mut Findings, section: &KeyPath) {
        let at_routes = section.key("routes");
        for (name, route) in &self.routes {
            let path = at_routes.key(name);
            findings.name(path.clone(), name);
            route.handler.check(findings, &path.key("handler"));
            let dialect = self.dialect.filter(|_| self.route_by == RouteBy::Type);
            if let Some(kind) = dialect.map(|dialect| dialect.kind(name))
                && kind != *name
            {
                let message = format!("takes no message: the worker reads this kind as `{kind}`");
                findings.add(path.clone(), message);
            }
            let own = self.of_route(Some(name));
            if !route.retry.is_empty() {
                own.retry.check(findings, &path.key("retry"));
            }
            if !route.breaker.is_empty() {
                own.breaker.check(findings, &path.key("breaker"));
            }
        }
        if self.unrouted == Unrouted::Ack && !is_none(&self.handler) {
            let others = [section.key("handler")];
            let message = "has no effect: `handler` takes each message that no route takes";
            findings.contradiction(section.key("unrouted"), others, message);
        }
    }
}

/// The names of routes, in the order in which they are tried: names without patterns first, and then by
/// the first word in which two of them differ.
pub(crate) fn order(one: &str, other: &str) -> Ordering {
    let rank = |word: &str| match word {
        "#" => 2,
        "*" => 1,
        _ => 0,
    };
    let (mut words, mut others) = (one.split('.'), other.split('.'));
    loop {
        return match (words.next(), others.next()) {
            (None, None) => one.cmp(other),
            // A pattern that goes on after the end of another one fits less: `a` before `a.#`.
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(word), Some(other)) if rank(word) == rank(other) => continue,
            (Some(word), Some(other)) => rank(word).cmp(&rank(other)),
        };
    }
}

/// Whether the name of a route has a pattern.
pub(crate) fn is_pattern(name: &str) -> bool {
    name.split('.').any(|word| matches!(word, "*" | "#"))
}

/// Whether a pattern takes this kind, as a topic exchange decides it.
pub(crate) fn takes(pattern: &str, kind: &str) -> bool {
    let words: Vec<&str> = kind.split('.').collect();
    // Which beginnings of the kind the pattern takes so far, by their number of words.
    let mut taken = vec![false; words.len() + 1];
    taken[0] = true;
    for part in pattern.split('.') {
        let mut next = vec![false; taken.len()];
        let mut any = false;
        for (count, was_taken) in taken.iter().enumerate() {
            any |= was_taken;
            next[count] = match part {
                "#" => any,
                "*" => count > 0 && taken[count - 1],
                word => count > 0 && taken[count - 1] && words[count - 1] == word,
            };
        }
        taken = next;
    }
    taken.last() == Some(&true)
}

/// The route that takes this kind, among these names.
pub(crate) fn find<'a>(names: impl Iterator<Item = &'a str>, kind: &str) -> Option<&'a str> {
    let fits = |name: &&str| *name == kind || is_pattern(name) && takes(name, kind);
    let is_other = |name: &&str| *name != kind;
    names
        .filter(fits)
        .min_by(|one, other| match (is_other(one), is_other(other)) {
            (false, _) => Ordering::Less,
            (_, false) => Ordering::Greater,
            _ => order(one, other),
        })
}

#[cfg(test)]
mod tests;
