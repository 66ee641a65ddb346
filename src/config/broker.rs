//! `[broker]` and `[publish]`.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::secret::BrokerUrls;

/// `[broker]`: where RabbitMQ is and how to reach it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerSettings {
    /// One URL or several, tried in turn: `amqp://` or `amqps://`, user, password, host, port and
    /// virtual host (percent-encoded: `%2f` is `/`). Default: the local broker as `guest`.
    pub url: BrokerUrls,
    /// A file that holds the URL or URLs, one a line; used in place of `url`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    /// A file that holds the password, used in every URL. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// The name of this worker in the broker's connection list, in logs and in dead letters; host
    /// and process id are added to it. Default: `lapwing`.
    pub name: String,
    /// How often each side shows that it is alive; a peer that is silent for two heartbeats is
    /// gone. Default: 10 s. Too high: a dead broker is noticed late. Too low: a busy one is taken
    /// for dead. RabbitMQ counts in whole seconds and uses the lower of both sides' values.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Whether to give up when the broker cannot be used at start, rather than wait for it.
    /// Default: false.
    pub fail_fast: bool,
    /// Waits between attempts to connect or subscribe.
    pub reconnect: ReconnectSettings,
    /// Certificates for `amqps://`.
    pub tls: TlsSettings,
}

impl BrokerSettings {
    /// This process, for the broker's lists, headers and logs: name, host and process id.
    pub(crate) fn worker_name(&self) -> String {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = match host.trim() {
            "" => "localhost",
            host => host,
        };
        format!("{}@{host}:{}", self.name, std::process::id())
    }
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            url: BrokerUrls::parse("amqp://guest:guest@127.0.0.1:5672/%2f"),
            url_file: None,
            password_file: None,
            name: "lapwing".to_owned(),
            heartbeat: Duration::from_secs(10),
            fail_fast: false,
            reconnect: ReconnectSettings::default(),
            tls: TlsSettings::default(),
        }
    }
}

/// `[broker.reconnect]`: decorrelated jitter between attempts, for ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReconnectSettings {
    /// The shortest wait. Default: 500 ms. Too low: a struggling broker is hammered.
    #[serde(with = "humantime_serde")]
    pub base: Duration,
    /// The longest wait. Default: 30 s. Too high: the worker comes back late.
    #[serde(with = "humantime_serde")]
    pub cap: Duration,
}

impl Default for ReconnectSettings {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            cap: Duration::from_secs(30),
        }
    }
}

/// `[broker.tls]`: PEM files for `amqps://`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// Certificate authorities to trust beside the system's. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The client certificate (chain). Default: none. Needs `key_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// The client certificate's key, PKCS#8. Default: none. Needs `cert_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// `[publish]`: how retries and dead letters reach the broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublishSettings {
    /// Confirm channels in the pool, each with one publish outstanding. Default: 16. Too low:
    /// failures wait for one another. Too high: channels the broker must keep.
    pub channels: usize,
    /// How long a copy that is not confirmed is published again before its lane is paused.
    /// Default: 30 s. Too low: a short broker hiccup pauses lanes. Too high: messages that cannot
    /// be settled hold their prefetch slots for so long.
    #[serde(with = "humantime_serde")]
    pub budget: Duration,
    /// How long a lane that cannot publish stays paused, and its unpublished messages are held
    /// before they are returned to their queue. Default: 5 s. Too low: failing messages go round
    /// fast. Too high: the lane comes back late.
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
}

impl Default for PublishSettings {
    fn default() -> Self {
        Self {
            channels: 16,
            budget: Duration::from_secs(30),
            hold: Duration::from_secs(5),
        }
    }
}
