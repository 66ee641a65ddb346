//! `[drain]`, `[timeouts]`, `[state]` and `[log]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[drain]`: what happens between SIGTERM and the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainSettings {
    /// How long running handlers may take to finish; then they are cancelled and their messages
    /// returned to the queue, with no attempt charged. Default: 25 s (Kubernetes kills after 30).
    /// Too low: work is done twice. Too high: the process is killed before it has settled.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// The longest that the broker is given to apply the last acks before the channel closes.
    /// Default: 1 s. A quorum queue throws away what it has not yet applied, and finished
    /// messages run again. Too high: exits take longer, but only where many acks went out singly.
    #[serde(with = "humantime_serde")]
    pub settle: Duration,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(25),
            settle: Duration::from_secs(1),
        }
    }
}

/// `[timeouts]`: the deadline of every await that can hang, apart from handlers (each consumer
/// has its own). All: too low, and a slow peer is taken for a dead one; too high, and a dead one
/// is noticed late.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutSettings {
    /// Resolving a name and opening the TCP connection, each address. Default: 5 s.
    #[serde(with = "humantime_serde")]
    pub connect: Duration,
    /// From an open TCP connection to an open AMQP connection, TLS included. Default: 10 s.
    #[serde(with = "humantime_serde")]
    pub handshake: Duration,
    /// Each request on a channel: open, declare, bind, qos, consume, cancel. Default: 10 s.
    #[serde(with = "humantime_serde")]
    pub declare: Duration,
    /// Getting a confirm channel from the pool, opening one included. Default: 5 s.
    #[serde(with = "humantime_serde")]
    pub checkout: Duration,
    /// Writing one publish to the socket; does not run while the broker has blocked us.
    /// Default: 5 s.
    #[serde(with = "humantime_serde")]
    pub publish: Duration,
    /// The broker's confirm of one publish; does not run while the broker has blocked us.
    /// Default: 10 s. A confirm that comes later makes a duplicate, not a loss.
    #[serde(with = "humantime_serde")]
    pub confirm: Duration,
    /// Writing acks to the socket; then the session counts as dead and is replaced. Default: 5 s.
    #[serde(with = "humantime_serde")]
    pub ack: Duration,
    /// A call to the state actor or to a lane: room in the mailbox and the answer. Default: 1 s.
    #[serde(with = "humantime_serde")]
    pub call: Duration,
    /// Closing a channel or a connection. Default: 2 s.
    #[serde(with = "humantime_serde")]
    pub close: Duration,
    /// Writing out the last logs and telemetry at exit. Default: 2 s.
    #[serde(with = "humantime_serde")]
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

/// `[state]`: the state actor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StateSettings {
    /// Commands that may wait in its mailbox. Default: 1024. Too low: handlers wait for one
    /// another. Too high: a slow actor is noticed late.
    pub mailbox: usize,
}

impl Default for StateSettings {
    fn default() -> Self {
        Self { mailbox: 1024 }
    }
}

/// `[log]`: what goes to standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// `text` for people, `json` for machines, a line an event. Default: `text`.
    pub format: LogFormat,
    /// What is shown: a level (`error`, `warn`, `info`, `debug`, `trace`) or `tracing` directives
    /// such as `info,lapwing::broker=debug`. Default: `info`; `debug` shows every message's end.
    pub filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: "info".to_owned(),
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}
