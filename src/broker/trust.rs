//! Which headers of a message are believed.
//!
//! Everybody who may publish to a queue can write `lapwing-*` headers. So a copy that is parked carries
//! the worker's own name in the property `user-id`: the broker refuses a publish whose `user-id` is not
//! the name of its connection's user. Only copies with such a name are believed. From all other
//! messages these headers are removed when they arrive.

use std::{collections::BTreeMap, sync::Mutex};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable, ShortString},
};
use tracing::{error, warn};

use super::{
    BrokerSettings, QueueSpec,
    fault::Told,
    headers::{Properties, count, names, rebuilt, short},
};
use crate::lock::lock;

/// The beginning of the names of all headers that Lapwing writes.
const OURS: &str = "lapwing-";

/// The headers in which the broker writes how a message left its queues. A copy in a retry queue
/// carries those of other systems under other names: a message whose `x-death` names the work queue
/// would be dropped by the broker as one that goes round without end.
const DEATHS: [&str; 7] = [
    X_DEATH,
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
];
const X_DEATH: &str = "x-death";
const FIRST_QUEUE: &str = "x-first-death-queue";
const LAST_QUEUE: &str = "x-last-death-queue";

/// Whether this is one of the headers in which the broker writes how a message left its queues.
pub(super) fn is_death(name: &str) -> bool {
    DEATHS.contains(&name)
}

/// The name under which a parked copy carries another system's header.
pub(super) fn aside(name: &str) -> ShortString {
    short(&format!("{}{name}", names::ORIGINAL))
}

/// The users whose copies a worker believes. The connections of a worker share it.
#[derive(Debug, Default)]
pub(super) struct Trust {
    names: Mutex<Names>,
    told: Told,
}

#[derive(Debug, Default)]
struct Names {
    /// The names that this worker has had at the broker, the present one last.
    own: Vec<String>,
    /// The URL of the last connection names this user.
    in_url: String,
    /// `broker.trusted_users`.
    others: Vec<String>,
}

/// What the broker says of a copy that names another user than its connection has, and before the
/// name that the connection has (`rabbit_basic:validate_user_id_header`).
const NAMED: &str = "user_id property set to '";
const USER_IS: &str = "authenticated user was '";

/// Whether the broker refuses a copy because it names another user than the connection has.
pub(super) fn is_about_the_user(refusal: &str) -> bool {
    refusal.contains(NAMED)
}

impl Trust {
    /// A worker whose name at the broker is `user`.
    pub(super) fn of(user: &str) -> Self {
        let trust = Self::default();
        trust.connecting(&BrokerSettings::default(), user);
        trust
    }

    /// A connection is being opened with a URL that names this user.
    pub(super) fn connecting(&self, broker: &BrokerSettings, in_url: &str) {
        let mut names = lock(&self.names);
        names.others.clone_from(&broker.trusted_users);
        match &broker.user {
            Some(user) => names.is_now(user),
            // A name that the broker has told counts while the URL is the same.
            None if names.in_url != in_url => names.is_now(in_url),
            None => {}
        }
        in_url.clone_into(&mut names.in_url);
    }

    /// Learns the worker's name from the broker's refusal of a copy that carried the name `carried`. The
    /// name in the URL is another one with EXTERNAL, where the certificate has it, and with OAuth 2,
    /// where the token has it. True if copies carry another name now.
    pub(super) fn learn(&self, refusal: &str, carried: Option<&str>) -> bool {
        if !is_about_the_user(refusal) {
            return false;
        }
        let now = self.user();
        if now.as_deref() != carried {
            // Another copy has learned it.
            return true;
        }
        let name = refusal.split_once(USER_IS);
        let name = name.and_then(|(_, rest)| rest.rsplit_once('\''));
        let Some((name, _)) = name.filter(|(name, _)| now.as_deref() != Some(*name)) else {
            // A reply text has at most 255 bytes, so a long name is cut off.
            error!(
                refusal,
                "the broker knows this worker under another name than the URL has, and the name is cut off: set broker.user"
            );
            return false;
        };
        warn!(
            user = name,
            "the broker knows this worker under another name than the URL has; set broker.user"
        );
        lock(&self.names).is_now(name);
        true
    }

    /// The name that copies carry.
    pub(super) fn user(&self) -> Option<String> {
        lock(&self.names).own.last().cloned()
    }

    /// Whether messages with this `user-id` are believed.
    pub(super) fn vouches(&self, user: &str) -> bool {
        let names = lock(&self.names);
        names
            .own
            .iter()
            .chain(&names.others)
            .any(|name| name == user)
    }

    /// The user that parked a copy whose record this worker does not believe; `None` for any other
    /// message.
    pub(super) fn stranger(&self, properties: &BasicProperties) -> Option<String> {
        let headers = properties.headers().as_ref().map(FieldTable::inner)?;
        let user = properties.user_id().as_ref().map(ShortString::as_str)?;
        let has = |name| headers.contains_key(name);
        let is_copy = has(names::REASON) || has(names::MOVED_FROM) || has(names::FIRST_SEEN);
        (is_copy && !self.vouches(user)).then(|| user.to_owned())
    }

    /// The properties of a message that arrived, as the worker believes them: without `lapwing-*`
    /// headers that no worker wrote, and without the traces that retry queues leave.
    pub(super) fn read(&self, rungs: &Rungs, properties: BasicProperties) -> Properties {
        let table = properties.headers().as_ref().map(FieldTable::inner);
        let Some(table) = table.filter(|table| has_ours(table)) else {
            return Properties(properties);
        };
        let mut headers = table.clone();
        let user = properties.user_id().as_ref().map(ShortString::as_str);
        let has_name = user.is_some_and(|user| self.vouches(user));
        let is_dead = headers.contains_key(names::REASON);
        let is_moved = headers.contains_key(names::MOVED_FROM);
        let was_seen = headers.contains_key(names::FIRST_SEEN);
        let is_copy = has_name && (is_dead || is_moved || was_seen);
        let was_parked = died_in(&headers, FIRST_QUEUE).is_some_and(|queue| rungs.has(queue));
        if is_dead {
            begin_anew(&mut headers, is_copy);
        } else if is_copy {
            return restored(rungs, &properties, headers);
        } else if was_parked {
            self.doubt(user, rungs);
            // These can only shorten the life of the message. Without them a message could go round
            // without end between workers that do not trust each other.
            keep(
                &mut headers,
                &[names::ATTEMPTS, names::FIRST_SEEN, names::EXPIRES_AT],
            );
            without_rungs(&mut headers, rungs, None);
        } else {
            keep(&mut headers, &[]);
        }
        let user = match (is_copy, was_parked) {
            (true, _) => take_text(&mut headers, names::ORIGINAL_USER_ID),
            (false, true) => None,
            (false, false) => properties.user_id().clone(),
        };
        let expiration = properties.expiration().clone();
        let priority = *properties.priority();
        Properties(
            rebuilt(&properties, user, expiration, priority, false).with_headers(headers.into()),
        )
    }

    /// A copy came from a retry queue and has no name, or one that is not trusted.
    fn doubt(&self, user: Option<&str>, rungs: &Rungs) {
        let queue = &rungs.queue;
        if self.told.is_news(&format!("{queue} {user:?}")) {
            warn!(
                queue,
                user,
                "a retry that another user parked is believed in part only; set broker.trusted_users"
            );
        }
    }
}

impl Names {
    fn is_now(&mut self, user: &str) {
        /// Enough for all users that a rotation has been through.
        const MOST: usize = 16;
        self.own.retain(|known| known != user);
        self.own.push(user.to_owned());
        if self.own.len() > MOST {
            self.own.remove(0);
        }
    }
}

/// The retry queues of a consumer, by the beginning of their names.
#[derive(Clone, Debug)]
pub(super) struct Rungs {
    queue: String,
    prefix: String,
}

impl Rungs {
    pub(super) fn of(spec: &QueueSpec) -> Self {
        Self {
            queue: spec.queue.clone(),
            prefix: spec.ladder.prefix().to_owned(),
        }
    }

    /// The retry queues of this queue whose names begin with `prefix`.
    #[cfg(any(test, fuzzing))]
    pub(super) fn named(queue: &str, prefix: &str) -> Self {
        Self {
            queue: queue.to_owned(),
            prefix: prefix.to_owned(),
        }
    }

    /// Whether this is a retry queue of the consumer, also one that an older version made.
    fn has(&self, queue: &str) -> bool {
        let behind = |beginning: &str| {
            let rest = queue.strip_prefix(beginning);
            rest.is_some_and(|rest| rest.starts_with('.') && rest.ends_with('s'))
        };
        behind(&self.prefix)
            || queue
                .strip_prefix(self.queue.as_str())
                .is_some_and(|rest| rest.starts_with(".retry.") && rest.ends_with('s'))
    }
}

type Headers = BTreeMap<ShortString, AMQPValue>;

fn has_ours(headers: &Headers) -> bool {
    use std::ops::Bound::{Included, Unbounded};
    let from = (Included(OURS), Unbounded);
    let first = headers.range::<str, _>(from).next();
    first.is_some_and(|(name, _)| name.as_str().starts_with(OURS))
}

/// Removes our headers, apart from these and from the list of cut headers: the byte stream under lapin
/// writes that list too, and it says nothing that a publisher could gain by.
fn keep(headers: &mut Headers, kept: &[&str]) {
    headers.retain(|name, _| {
        let name = name.as_str();
        !name.starts_with(OURS) || name == names::CUT_HEADERS || kept.contains(&name)
    });
}

/// A dead letter that somebody put back: a new life begins, with nothing of the old one but where the
/// message came from, if a worker says so.
fn begin_anew(headers: &mut Headers, is_copy: bool) {
    let replays = headers.get(names::REPLAYS).map_or(0, count);
    // `lapwing dead replay` has counted itself.
    let is_counted = headers.contains_key(names::REPLAY);
    let replays = replays.saturating_add(i64::from(!is_counted));
    let kept = [
        names::REPLAY,
        names::SOURCE_EXCHANGE,
        names::SOURCE_ROUTING_KEY,
        names::ORIGINAL_USER_ID,
        names::ORIGINAL_CC,
        names::ORIGINAL_BCC,
        names::CANARY,
    ];
    keep(headers, if is_copy { &kept } else { &kept[..1] });
    headers.insert(short(names::REPLAYS), AMQPValue::LongLongInt(replays));
}

/// A parked copy that came back: the properties that the publisher gave the message.
fn restored(rungs: &Rungs, properties: &BasicProperties, mut headers: Headers) -> Properties {
    // A copy goes nowhere before it goes to its retry queue, which may have another name than now.
    let first = died_in(&headers, FIRST_QUEUE).map(str::to_owned);
    without_rungs(&mut headers, rungs, first.as_deref());
    let user = take_text(&mut headers, names::ORIGINAL_USER_ID);
    let priority = match headers.remove(names::ORIGINAL_PRIORITY) {
        Some(priority) => u8::try_from(count(&priority)).ok(),
        None => *properties.priority(),
    };
    // The expiration was ours: the time in the retry queue.
    Properties(rebuilt(properties, user, None, priority, false).with_headers(headers.into()))
}

fn take_text(headers: &mut Headers, name: &str) -> Option<ShortString> {
    match headers.remove(name)? {
        AMQPValue::LongString(text) => Some(short(std::str::from_utf8(text.as_bytes()).ok()?)),
        AMQPValue::ShortString(text) => Some(text),
        _ => None,
    }
}

/// The queue that a header of the broker names.
fn died_in<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    match headers.get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// Removes what the broker wrote when the message left our retry queues, and puts back what it had
/// written before. `rung` is a further retry queue.
fn without_rungs(headers: &mut Headers, rungs: &Rungs, rung: Option<&str>) {
    let is_rung =
        |queue: Option<&str>| queue.is_some_and(|queue| rungs.has(queue) || rung == Some(queue));
    let by_rung = [("first", FIRST_QUEUE), ("last", LAST_QUEUE)]
        .map(|(which, queue)| (which, is_rung(died_in(headers, queue))));
    for (which, by_rung) in by_rung {
        for what in ["exchange", "queue", "reason"] {
            let name = short(&format!("x-{which}-death-{what}"));
            let before = headers.remove(aside(name.as_str()).as_str());
            if by_rung {
                headers.remove(name.as_str());
            }
            if let Some(before) = before {
                headers.entry(name).or_insert(before);
            }
        }
    }
    let before = headers.remove(aside(X_DEATH).as_str());
    let mut deaths = match headers.remove(X_DEATH) {
        Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice().to_vec(),
        _ => Vec::new(),
    };
    deaths.retain(|death| match death {
        AMQPValue::FieldTable(death) => !is_rung(died_in(death.inner(), "queue")),
        _ => true,
    });
    match before {
        Some(AMQPValue::FieldArray(before)) => deaths.extend_from_slice(before.as_slice()),
        Some(other) if deaths.is_empty() => {
            headers.insert(short(X_DEATH), other);
            return;
        }
        _ => {}
    }
    if !deaths.is_empty() {
        headers.insert(
            short(X_DEATH),
            AMQPValue::FieldArray(FieldArray::from(deaths)),
        );
    }
}

#[cfg(test)]
mod tests;
