//! `[broker]`, `[publish]` and `[timeouts]`.

mod management;
mod queue;
mod tls;
mod urls;

use std::{path::PathBuf, time::Duration};

use humantime::format_duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use queue::argument_is_ours;
pub use queue::{Binding, QueueArgument, QueueSpec, QueueType, Topology};
pub use tls::TlsSettings;
pub use urls::BrokerUrls;

use crate::config::{Findings, HOUR, KeyPath, SECOND, Span};

/// Where RabbitMQ is and how to reach it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerSettings {
    /// One URL, or a list of URLs that the worker tries in turn: `amqp://` or `amqps://`, user,
    /// password, host, port and virtual host. Percent-encode the parts: the virtual host `/` is
    /// `%2f`. Default: `amqp://guest:guest@127.0.0.1:5672/%2f`.
    #[schemars(extend("default" = urls::LOCAL))]
    pub url: BrokerUrls,
    /// A file that holds the URL, or several URLs with white space between them. It replaces `url`;
    /// setting both is refused. The worker reads the file at each connect, so it uses a rotated
    /// secret without a restart. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/rabbitmq-url")]
    pub url_file: Option<PathBuf>,
    /// A file that holds the password, which replaces the password in each URL. The worker reads the
    /// file at each connect. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/rabbitmq-password")]
    pub password_file: Option<PathBuf>,
    /// The name of the worker's user at the broker, if it is not the one in the URL: with EXTERNAL the
    /// broker takes the name from the client certificate, with OAuth 2 from a token. Each retry that
    /// the worker parks carries the name, and the broker checks it. With a wrong name the broker refuses
    /// the first retry, and the worker learns the name from the refusal. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"worker")]
    pub user: Option<String>,
    /// Other users whose parked retries the worker believes: those of other workers on the same
    /// queues, and the former user after a change. From the retries of all other users the worker takes
    /// only the number of attempts, the age and the time at which the message expires. Default: `[]`.
    pub trusted_users: Vec<String>,
    /// The worker's name in the broker's list of connections, in logs and in dead letters. The
    /// worker adds host and process id. Default: `lapwing`.
    pub name: String,
    /// How often worker and broker show each other that they are alive, in whole seconds; the lower
    /// value of both sides counts. A peer that is silent for two heartbeats is treated as dead. Too
    /// low: a busy broker is treated as dead. Too high: a dead broker is noticed late. Default:
    /// `10s`.
    #[serde(with = "Span::<SECOND, HEARTBEAT_MAX>")]
    pub heartbeat: Duration,
    /// Whether to exit when the broker cannot be used at the start, instead of waiting for it: exit
    /// code 69 when the broker cannot be reached, 78 when it refuses the worker (password, virtual
    /// host, permission). Default: `false`.
    pub fail_fast: bool,
    /// The address of RabbitMQ's management API, such as `http://rabbit:15672`. Only this API shows a
    /// delivery limit that a policy sets for a queue. The worker reads it when it subscribes and once a
    /// minute, with user and password of the broker's URL; the user needs the tag `management`. Without
    /// an answer the worker keeps the limit that it knows, at first that of the queue's arguments, and logs
    /// a warning. `lapwing doctor` reads policies there. `lapwing topology` reads bindings there, and whether
    /// anything still leads to an old queue. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"http://rabbit:15672")]
    pub management_url: Option<String>,
    /// The waits between attempts to connect or to subscribe.
    pub reconnect: ReconnectSettings,
    /// Certificates for `amqps://` URLs.
    pub tls: TlsSettings,
}

const HEARTBEAT_MAX: u64 = u16::MAX as u64 * SECOND;

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            url: BrokerUrls::parse(urls::LOCAL),
            url_file: None,
            password_file: None,
            user: None,
            trusted_users: Vec::new(),
            name: "lapwing".to_owned(),
            heartbeat: Duration::from_secs(10),
            fail_fast: false,
            management_url: None,
            reconnect: ReconnectSettings::default(),
            tls: TlsSettings::default(),
        }
    }
}

impl BrokerSettings {
    /// This process, for the broker's lists, headers and logs: name, host and process id.
    #[must_use]
    pub fn worker_name(&self) -> String {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = match host.trim() {
            "" => "localhost",
            host => host,
        };
        format!("{}@{host}:{}", self.name, std::process::id())
    }

    /// The virtual host, as far as the settings tell now.
    pub(crate) fn vhost(&self) -> Option<String> {
        urls::vhost(self)
    }

    pub(crate) fn check(&self, findings: &mut Findings, publish: &PublishSettings) {
        let section = KeyPath::of("broker");
        findings.name(section.key("name"), &self.name);
        if let Some(user) = &self.user {
            findings.name(section.key("user"), user);
        }
        for (index, user) in self.trusted_users.iter().enumerate() {
            findings.name(section.key("trusted_users").index(index), user);
        }
        management::check(findings, &section, self.management_url.as_deref());
        if self.heartbeat.subsec_nanos() > 0 {
            findings.add(section.key("heartbeat"), "must be whole seconds");
        }
        let ReconnectSettings { base, cap } = self.reconnect;
        if cap < base {
            let at = section.key("reconnect");
            let [cap, base] = [cap, base].map(format_duration);
            let message = format!("is {cap}, must not be below `base` ({base})");
            findings.contradiction(at.key("cap"), [at.key("base")], message);
        }
        let urls = urls::check(findings, self);
        urls::channel_max(findings, &urls, publish.channels);
        self.tls.check(findings, &urls);
    }
}

/// The waits between attempts to connect or to subscribe. Each wait is random: the first one between
/// `base` and `cap`, later ones between three fifths of `cap` and `cap`. While the broker is away only
/// one of the worker's two connections tries. The worker never gives up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReconnectSettings {
    /// The shortest wait. Too low: many workers at once overload a struggling broker. Too high:
    /// after a short fault the worker still waits this long. Default: `500ms`.
    #[serde(with = "Span::<1, HOUR>")]
    pub base: Duration,
    /// The longest wait; at least `base`. Too low: as for `base`; with `4s` 100 workers make about 30
    /// attempts a second. Too high: the worker comes back late after an outage. Default: `4s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub cap: Duration,
}

impl Default for ReconnectSettings {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            cap: Duration::from_secs(4),
        }
    }
}

/// How retries and dead letters reach the broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PublishSettings {
    /// The number of channels that publish. Each has at most one message without a confirm. Too low:
    /// failed messages wait for each other. Too high: the broker keeps channels that nobody uses.
    /// Default: `16`.
    #[schemars(range(min = 1, max = 1000))]
    pub channels: usize,
    /// After this time without the broker's confirm a retry or dead letter counts as waiting. The
    /// worker goes on publishing it, and does not run its handler again. `/readyz` has the reason.
    /// Messages that wait do not fill the prefetch: the consumer takes others, until twice the
    /// prefetch waits. Too low: `/readyz` reports short faults of the broker. Too high: messages that
    /// cannot be settled fill the prefetch for this time. Default: `5s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub budget: Duration,
    /// How long a consumer takes no new messages after an internal error. Then the worker returns the
    /// message to its queue and consumes again. Too low: the same message fails again and again,
    /// quickly. Too high: the consumer starts again late. Default: `5s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub hold: Duration,
}

impl Default for PublishSettings {
    fn default() -> Self {
        Self {
            channels: 16,
            budget: Duration::from_secs(5),
            hold: Duration::from_secs(5),
        }
    }
}

/// The deadline of every wait that could hang, apart from handlers: each consumer has a `timeout`
/// for them. Too low: a slow peer is treated as dead. Too high: a dead peer is noticed late.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutSettings {
    /// Resolving a host name, and opening a TCP connection to each of its addresses. Default: `5s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub connect: Duration,
    /// From an open TCP connection to an open AMQP connection, TLS included. Default: `10s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub handshake: Duration,
    /// Each request on a channel: open, declare, bind, qos, consume, cancel. Default: `10s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub declare: Duration,
    /// Taking a publishing channel from the pool, opening one included. Default: `5s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub checkout: Duration,
    /// Writing one message to the socket. The time does not count while the broker blocks the
    /// connection. Default: `5s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub publish: Duration,
    /// The broker's confirm of one message. The time does not count while the broker blocks the
    /// connection. A confirm that comes later makes a duplicate, not a loss. Default: `10s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub confirm: Duration,
    /// Writing acks to the socket. After this time the worker replaces the channel. Default: `5s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub ack: Duration,
    /// A call to the state actor or to a consumer: room in its mailbox, and the answer. Default:
    /// `1s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub call: Duration,
    /// Closing a channel or a connection. Default: `2s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub close: Duration,
    /// Writing the last logs and telemetry at exit. Default: `2s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub telemetry_flush: Duration,
}

impl Default for TimeoutSettings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            declare: Duration::from_secs(10),
            checkout: Duration::from_secs(5),
            publish: Duration::from_secs(5),
            confirm: Duration::from_secs(10),
            ack: Duration::from_secs(5),
            call: Duration::from_secs(1),
            close: Duration::from_secs(2),
            telemetry_flush: Duration::from_secs(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{Sample, sections};

    sections!({
        broker: BrokerSettings, publish: PublishSettings, timeouts: TimeoutSettings
    }, |it, findings| it.broker.check(findings, &it.publish));

    #[test]
    fn broker_and_publish_settings_keep_their_ranges() {
        Sections::refused(&[
            ("broker.name = \"\"", "broker.name: must not be empty"),
            (
                "broker.name = \"a\\nb\"",
                "broker.name: must not hold control",
            ),
            ("broker.user = \"\"", "broker.user: must not be empty"),
            (
                "broker.trusted_users = [\"a\", \"\"]",
                "broker.trusted_users[1]: must not be empty",
            ),
            (
                "broker.heartbeat = \"0s\"",
                "broker.heartbeat: is 0s, must be 1s to",
            ),
            (
                "broker.heartbeat = \"65536s\"",
                "broker.heartbeat: is 18h 12m 16s, must be",
            ),
            (
                "broker.heartbeat = \"1500ms\"",
                "broker.heartbeat: must be whole seconds",
            ),
            (
                "broker.reconnect.base = \"0s\"",
                "broker.reconnect.base: is 0s, must be 1ms",
            ),
            (
                "broker.reconnect.base = \"31s\"",
                "broker.reconnect.cap: is 4s, must not be below",
            ),
            (
                "broker.reconnect.cap = \"61m\"",
                "broker.reconnect.cap: is 1h 1m, must be",
            ),
            (
                "publish.channels = 0",
                "publish.channels: is 0, must be 1 to 1000",
            ),
            (
                "publish.channels = 1001",
                "publish.channels: is 1001, must be",
            ),
            (
                "publish.budget = \"0s\"",
                "publish.budget: is 0s, must be 1ms",
            ),
            ("publish.hold = \"0s\"", "publish.hold: is 0s, must be 1ms"),
        ]);
        let long = format!("broker.name = \"{}\"", "x".repeat(256));
        Sections::refused(&[(&long, "broker.name: has 256 bytes")]);
        Sections::allowed(&[
            "broker.heartbeat = \"1s\"",
            "broker.heartbeat = \"65535s\"",
            "publish.channels = 1000",
        ]);
    }

    #[test]
    fn timeouts_keep_their_range() {
        for key in [
            "connect",
            "handshake",
            "declare",
            "checkout",
            "publish",
            "confirm",
            "ack",
            "call",
            "close",
            "telemetry_flush",
        ] {
            let beginning = format!("timeouts.{key}: is 0s, must be 1ms to 1h");
            Sections::refused(&[(&format!("timeouts.{key} = \"0s\""), &beginning)]);
        }
    }
}
