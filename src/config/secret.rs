//! Values that must never be printed.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use url::{Position, Url};

const REDACTED: &str = "[redacted]";
/// Stands for a part of a URL.
const HIDDEN: &str = "***";

/// A string that prints as `[redacted]`, in `Debug` and when serialised.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(SecretString);

impl Secret {
    /// The value itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.to_owned().into())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

/// One broker URL or several, tried in turn.
///
/// Written as a string or a list of strings; a string may hold several URLs separated by white
/// space, so that one environment variable can carry a cluster. Passwords never print.
#[derive(Clone, PartialEq)]
pub struct BrokerUrls(Vec<String>);

impl BrokerUrls {
    /// URLs from text: white space separates them.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(text.split_whitespace().map(str::to_owned).collect())
    }

    /// The URLs as given, passwords included.
    #[must_use]
    pub fn expose(&self) -> &[String] {
        &self.0
    }

    /// The URLs with `***` in place of each password.
    #[must_use]
    pub fn redacted(&self) -> Vec<String> {
        self.0.iter().map(|url| redact(url)).collect()
    }
}

/// A URL without its password and the values of its query; what may hold a password elsewhere, as
/// `user:pass@host` without a scheme or an unescaped `/` in a password make it, is not shown.
pub(super) fn redact(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else {
        return REDACTED.to_owned();
    };
    let after_host = &parsed[Position::BeforePath..];
    if !parsed.has_host() || after_host.contains('@') {
        return REDACTED.to_owned();
    }
    if parsed.password().is_some() && parsed.set_password(Some(HIDDEN)).is_err() {
        return REDACTED.to_owned();
    }
    if parsed.query().is_some() {
        parsed.set_query(Some(HIDDEN));
    }
    parsed.set_fragment(None);
    parsed.to_string()
}

/// A URL that may hold a secret, as it is shown.
// The signature is serde's.
#[expect(clippy::ref_option)]
pub(super) fn serialize_redacted<S: Serializer>(
    url: &Option<String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    url.as_deref().map(redact).serialize(serializer)
}

impl fmt::Debug for BrokerUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.redacted()).finish()
    }
}

impl Serialize for BrokerUrls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.redacted().as_slice() {
            [one] => serializer.serialize_str(one),
            several => serializer.collect_seq(several),
        }
    }
}

impl<'de> Deserialize<'de> for BrokerUrls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

struct Written;

impl<'de> de::Visitor<'de> for Written {
    type Value = BrokerUrls;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a URL or a list of URLs")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<BrokerUrls, E> {
        Ok(BrokerUrls::parse(text))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<BrokerUrls, A::Error> {
        let mut urls = Vec::new();
        while let Some(url) = items.next_element::<String>()? {
            urls.push(url);
        }
        Ok(BrokerUrls(urls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_never_print() {
        let urls = BrokerUrls::parse("amqp://u:s3cret@a:5672/%2f amqps://u:s3cret@b/%2f not a url");
        let shown = format!("{urls:?} {}", serde_json::to_string(&urls).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("u:***@a:5672"), "{shown}");
        assert_eq!(format!("{:?}", Secret::from("s3cret")), REDACTED);
    }

    #[test]
    fn a_password_in_the_wrong_place_never_prints() {
        let cases = [
            (
                "amqp://u:p@host/%2f?auth_mechanism=plain",
                "amqp://u:***@host/%2f?***",
            ),
            ("amqp://u@[::1]:5672/%2f", "amqp://u@[::1]:5672/%2f"),
            ("amqp://host", "amqp://host"),
            ("amqp://u:12/s3cret@host/%2f", REDACTED),
            ("amqp://u:12#s3cret@host/%2f", REDACTED),
            ("amqp://u:12?s3cret@host/%2f", REDACTED),
            ("amqp://u:s3#cret@host/%2f", REDACTED),
            ("u:s3cret@host:5672/%2f", REDACTED),
            ("amqp:/u:s3cret@host/%2f", REDACTED),
            ("amqp:u:s3cret@host", REDACTED),
            ("amqp:///u:s3cret", REDACTED),
            ("s3cret", REDACTED),
        ];
        for (url, shown) in cases {
            assert_eq!(redact(url), shown, "{url}");
        }
    }
}
