//! Values that must never be printed.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use url::{Position, Url};

const REDACTED: &str = "[redacted]";
/// The text in place of a hidden part of a URL.
const HIDDEN: &str = "***";

/// A string that prints as `[redacted]`, in `Debug` and when serialised.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(SecretString);

impl Secret {
    /// The secret itself, for the one place that needs it.
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

/// The URL without its password and without the values of its query. Hides the whole URL if a
/// password may stand elsewhere: `user:pass@host` without a scheme, or a password with an unescaped
/// `/`.
pub(crate) fn redact(url: &str) -> String {
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

/// Serialises a URL that may hold a secret, redacted.
// serde prescribes the signature.
#[expect(clippy::ref_option)]
pub(crate) fn serialize_redacted<S: Serializer>(
    url: &Option<String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    url.as_deref().map(redact).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_never_print() {
        let secret = Secret::from("s3cret");
        assert_eq!(serde_json::to_value(&secret).unwrap(), REDACTED);
        assert_eq!(format!("{secret:?}"), REDACTED);
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
