//! An address at which the server listens, as a setting.

use std::{
    fmt,
    net::{AddrParseError, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

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

impl FromStr for Listen {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text {
            OFF => Ok(Self::Off),
            address => address.parse().map(Self::At),
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
        f.write_str("an IP address with a port, such as \"127.0.0.1:8672\", or \"off\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Listen, E> {
        let listen = text.parse();
        listen.map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}
