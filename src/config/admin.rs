//! `[admin]`: the health and admin server.

use std::{fmt, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::secret::Secret;

/// `[admin]`: probes, metrics, the API and the console, served over HTTP by `lapwing run`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSettings {
    /// Where the probes, metrics, API and console are served: an IP address and a port (0: any
    /// free one, which the log names), or `off`. Default: `127.0.0.1:9090`. Reading needs no
    /// token, so that an address others can reach shows them ids, errors and settings.
    pub listen: Listen,
    /// A second address for the probes and metrics alone, for orchestrators and scrapers on other
    /// hosts. Default: `off`.
    pub probes: Listen,
    /// The bearer token that changes need; 16 to 1024 visible ASCII characters. Default: none, and
    /// nothing can be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A file that holds the token, in place of `token`; read at each change, so that a rotated
    /// one is seen. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Origins that may send requests beside the server's own, such as
    /// `https://lapwing.example.com`: where a proxy changes the `Host` header. Default: none.
    pub origins: Vec<String>,
    /// Where traces can be looked at: a URL in which `{trace_id}` stands for the trace. Default:
    /// none, and the console shows ids without links.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_url: Option<String>,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            listen: Listen::At(SocketAddr::from(([127, 0, 0, 1], 9090))),
            probes: Listen::Off,
            token: None,
            token_file: None,
            origins: Vec::new(),
            trace_url: None,
        }
    }
}

impl AdminSettings {
    /// Whether a token is configured, without which nothing can be changed.
    #[must_use]
    pub fn can_change(&self) -> bool {
        self.token.is_some() || self.token_file.is_some()
    }
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// At this address. Port 0 is any free port.
    At(SocketAddr),
}

impl Listen {
    /// The address, where there is one.
    #[must_use]
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

const OFF: &str = "off";

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str(OFF),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Written)
    }
}

struct Written;

impl de::Visitor<'_> for Written {
    type Value = Listen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an IP address with a port, such as \"127.0.0.1:9090\", or \"off\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Listen, E> {
        if text == OFF {
            return Ok(Listen::Off);
        }
        let address = text.parse().map(Listen::At);
        address.map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}
