//! The broker's URLs.

use std::{borrow::Cow, fmt};

use lapin::uri::AMQPUri;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use url::{Position, Url};

use super::BrokerSettings;
use crate::config::{Findings, KeyPath, redact};

/// The default URL.
pub(super) const LOCAL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";

/// One broker URL or several, which the worker tries in turn.
///
/// Settings write them as a string or a list of strings. A string may hold several URLs with white
/// space between them, so that one environment variable can name a whole cluster. Passwords never
/// print.
#[derive(Clone, PartialEq)]
pub struct BrokerUrls(Vec<String>);

impl BrokerUrls {
    /// Reads URLs from a text, in which white space separates them.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(text.split_whitespace().map(str::to_owned).collect())
    }

    /// The URLs as given, passwords included.
    #[must_use]
    pub fn expose(&self) -> &[String] {
        &self.0
    }

    /// The brokers for people: user, host, port and virtual host of each, without passwords.
    #[must_use]
    pub fn places(&self) -> String {
        let places = self.0.iter().filter_map(|url| place(url));
        places.collect::<Vec<_>>().join(", ")
    }

    /// The URLs with `***` in place of each password.
    #[must_use]
    pub fn redacted(&self) -> Vec<String> {
        self.0.iter().map(|url| redact(url)).collect()
    }
}

/// The virtual host of the first URL, file or not. `None`: there is no such URL.
pub(super) fn vhost(broker: &BrokerSettings) -> Option<String> {
    let text = match &broker.url_file {
        Some(file) => std::fs::read_to_string(file).ok()?,
        None => broker.url.expose().join(" "),
    };
    let uri: AMQPUri = text.split_whitespace().next()?.parse().ok()?;
    Some(uri.vhost)
}

/// A URL for people: user, host, port and virtual host, without the password.
fn place(url: &str) -> Option<String> {
    let amqp: AMQPUri = url.parse().ok()?;
    let parsed = Url::parse(url).ok()?;
    let (scheme, host) = (parsed.scheme(), parsed.host_str()?);
    let (user, port) = (amqp.authority.userinfo.username, amqp.authority.port);
    let vhost = amqp.vhost;
    Some(format!(
        "{scheme}://{user}@{host}:{port} virtual host {vhost}"
    ))
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

impl JsonSchema for BrokerUrls {
    fn schema_name() -> Cow<'static, str> {
        "BrokerUrls".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "array"], "items": { "type": "string" } })
    }
}

/// A URL that a worker would use, with its key. The URL is `None` if it cannot be parsed.
pub(super) struct BrokerUrl {
    pub(super) path: KeyPath,
    pub(super) url: Option<Url>,
}

pub(super) fn check(findings: &mut Findings, broker: &BrokerSettings) -> Vec<BrokerUrl> {
    let at_url = KeyPath::of("broker.url");
    if let Some(file) = &broker.password_file {
        findings.text_file(&KeyPath::of("broker.password_file"), file);
    }
    if let Some(file) = &broker.url_file {
        let path = KeyPath::of("broker.url_file");
        if broker.url != BrokerSettings::default().url {
            let message = "conflicts with `url`: set one of the two";
            findings.contradiction(path.clone(), [at_url], message);
        }
        let text = findings.text_file(&path, file).unwrap_or_default();
        let urls = text.split_whitespace();
        return urls
            .map(|url| parsed(findings, path.clone(), url))
            .collect();
    }
    let urls = broker.url.expose();
    match urls {
        [] => {
            findings.add(at_url, "at least one URL is required");
            Vec::new()
        }
        [url] => vec![parsed(findings, at_url, url)],
        several => several
            .iter()
            .enumerate()
            .map(|(index, url)| parsed(findings, at_url.index(index), url))
            .collect(),
    }
}

/// Checks one URL. No message quotes any part of it: in a wrong URL the password can stand
/// anywhere.
fn parsed(findings: &mut Findings, path: KeyPath, text: &str) -> BrokerUrl {
    let url = Url::parse(text).ok();
    let mut wrong = |message: String| findings.add(path.clone(), message);
    match &url {
        None => wrong(format!("is not a URL; {SHAPE}")),
        Some(url) if !matches!(url.scheme(), "amqp" | "amqps") => {
            wrong(format!("must begin with amqp:// or amqps://; {SHAPE}"));
        }
        Some(url) if url.host_str().is_none_or(str::is_empty) => {
            wrong(format!("has no host; {SHAPE}"));
        }
        Some(url) if url[Position::BeforePath..].contains('@') || url.fragment().is_some() => {
            wrong(format!(
                "has characters that are not percent-encoded; {SHAPE}"
            ));
        }
        Some(_) if !is_encoded(text) => {
            wrong(format!(
                "has a `%` without two hex digits after it; {SHAPE}"
            ));
        }
        Some(url) if !is_text(url) => wrong(format!(
            "has a user, password or virtual host that is not UTF-8 when decoded; {SHAPE}"
        )),
        Some(url) => {
            virtual_host(url, &mut wrong);
            parameters(url, &mut wrong);
        }
    }
    BrokerUrl { path, url }
}

const SHAPE: &str = "expected amqp://user:password@host:5672/%2f, with every `/`, `?`, `#`, `@` \
                     and `%` in user, password and virtual host percent-encoded";

fn is_encoded(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Whether lapin can decode the URL without its parameters, which [`parameters`] checks.
fn is_text(url: &Url) -> bool {
    let mut bare = url.clone();
    bare.set_query(None);
    bare.as_str().parse::<AMQPUri>().is_ok()
}

fn virtual_host(url: &Url, wrong: &mut impl FnMut(String)) {
    match url.path() {
        "/" => wrong(
            "ends in `/`, which means the virtual host without a name: write `/%2f` for the \
             default virtual host, or nothing"
                .to_owned(),
        ),
        path if path.trim_start_matches('/').contains('/') || path.starts_with("//") => {
            wrong("a `/` in the virtual host's name is written `%2f`".to_owned());
        }
        _ => {}
    }
}

/// Checks the parameters, which lapin reads. A parameter must not override a setting.
fn parameters(url: &Url, wrong: &mut impl FnMut(String)) {
    for (key, value) in url.query_pairs() {
        match &*key {
            "heartbeat" => {
                wrong("`heartbeat` is a setting, not a parameter: broker.heartbeat".to_owned());
            }
            "connection_timeout" => wrong(
                "`connection_timeout` is two settings, not a parameter: timeouts.connect and \
                 timeouts.handshake"
                    .to_owned(),
            ),
            // A publisher may fill the frame that the broker allows, and a content header is never
            // split.
            "frame_max" => wrong(
                "`frame_max` is set by the broker: with a lower value, lapwing could not read a \
                 message with larger headers"
                    .to_owned(),
            ),
            "channel_max" if value.parse::<u16>().is_err() => {
                wrong("`channel_max` must be a whole number from 0 to 65535".to_owned());
            }
            "auth_mechanism" if !is_mechanism(&value) => {
                wrong(format!(
                    "`auth_mechanism` must be one of {}",
                    MECHANISMS.join(", ")
                ));
            }
            "channel_max" | "auth_mechanism" => {}
            _ => wrong(
                "has an unknown parameter; channel_max and auth_mechanism are known".to_owned(),
            ),
        }
    }
}

const MECHANISMS: [&str; 4] = ["plain", "amqplain", "external", "anonymous"];

fn is_mechanism(value: &str) -> bool {
    MECHANISMS
        .iter()
        .any(|known| value.eq_ignore_ascii_case(known))
}

pub(super) fn channel_max(findings: &mut Findings, urls: &[BrokerUrl], channels: usize) {
    for BrokerUrl { path, url } in urls {
        let pairs = url.iter().flat_map(Url::query_pairs);
        let limits = pairs.filter(|(key, _)| key == "channel_max");
        let limits = limits.filter_map(|(_, value)| value.parse::<u16>().ok());
        // 0 means no limit.
        if limits
            .into_iter()
            .any(|max| max > 0 && usize::from(max) < channels)
        {
            let message = "`channel_max` leaves no room for `publish.channels`";
            findings.contradiction(path.clone(), [KeyPath::of("publish.channels")], message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::settings::PublishSettings;
    use crate::config::samples::{Sample, file, sections};

    sections!({
        broker: BrokerSettings, publish: PublishSettings
    }, |it, findings| it.broker.check(findings, &it.publish));

    #[test]
    fn broker_urls_are_whole_and_encoded() {
        for (url, beginning) in [
            ("", "at least one URL is required"),
            (
                "rabbit",
                "is not a URL; expected amqp://user:password@host:5672/%2f",
            ),
            (
                "u:s3cret@rabbit:5672",
                "must begin with amqp:// or amqps://",
            ),
            ("http://rabbit", "must begin with amqp:// or amqps://"),
            ("amqp:///%2f", "has no host"),
            ("amqp:rabbit", "has no host"),
            ("amqp://u:s3/cret@rabbit/%2f", "is not a URL"),
            (
                "amqp://u:12/s3cret@rabbit/%2f",
                "has characters that are not percent-encoded",
            ),
            (
                "amqp://u:12?s3cret@rabbit/%2f",
                "has characters that are not percent-encoded",
            ),
            (
                "amqp://u:12#s3cret",
                "has characters that are not percent-encoded",
            ),
            (
                "amqp://rabbit/",
                "ends in `/`, which means the virtual host without a name",
            ),
            (
                "amqp://rabbit//",
                "a `/` in the virtual host's name is written `%2f`",
            ),
            (
                "amqp://rabbit/a/b",
                "a `/` in the virtual host's name is written `%2f`",
            ),
            (
                "amqp://rabbit/%2f?heartbeat=5",
                "`heartbeat` is a setting, not a parameter: broker.heartbeat",
            ),
            (
                "amqp://rabbit/%2f?connection_timeout=5",
                "`connection_timeout` is two settings",
            ),
            (
                "amqp://rabbit/%2f?frame_max=8192",
                "`frame_max` is set by the broker",
            ),
            (
                "amqp://rabbit/%2f?channel_max=65536",
                "`channel_max` must be",
            ),
            (
                "amqp://rabbit/%2f?channel_max=15",
                "`channel_max` leaves no room",
            ),
            (
                "amqp://rabbit/%2f?auth_mechanism=none",
                "`auth_mechanism` must be one of plain",
            ),
            ("amqp://rabbit/%2f?s3cret=5", "has an unknown parameter"),
            ("amqp://rabbit/%zz", "has a `%` without two hex digits"),
            ("amqp://u:s3cret%@rabbit/%2f", "has a `%` without two hex"),
            ("amqp://u:s3cret%2@rabbit/%2f", "has a `%` without two hex"),
            (
                "amqp://rabbit/%ff",
                "has a user, password or virtual host that is not UTF-8",
            ),
            (
                "amqp://u:s3cret%ff@rabbit",
                "has a user, password or virtual host that is not UTF-8",
            ),
            (
                "amqp://%c3@rabbit",
                "has a user, password or virtual host that is not UTF-8",
            ),
        ] {
            let text = format!("broker.url = \"{url}\"");
            Sections::refused(&[(&text, &format!("broker.url: {beginning}"))]);
            let shown = Sections::problems(&text).concat();
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        Sections::allowed(&[
            "broker.url = \"amqp://rabbit\"",
            "broker.url = \"amqp://ü:%C3%bc%25@rabbit/ü%c3%BC?auth_mechanism=plain\"",
            "broker.url = \"amqps://u:p%2f@[::1]:5671/a%2fb?auth_mechanism=EXTERNAL\"",
            "broker.url = \"amqp://rabbit/%2f?channel_max=0\"",
            "broker.url = \"amqp://a amqp://b/%2f\"",
            "broker.url = [\"amqp://a\", \"amqp://b/%2f\"]",
        ]);
        Sections::refused(&[(
            "broker.url = [\"amqp://a\", \"amqp://b/\"]",
            "broker.url[1]: ends in `/`",
        )]);
    }

    #[test]
    fn files_with_secrets_are_there_and_hold_something() {
        let empty = file(" \n");
        let urls = file("amqp://u:p@a/%2f\namqps://u:p@b/%2f\n");
        let wrong = file("amqp://u:s3cret@a/\n");
        let (empty, urls, wrong) = (
            empty.path().display(),
            urls.path().display(),
            wrong.path().display(),
        );
        Sections::allowed(&[
            &format!("broker.url_file = \"{urls}\""),
            &format!("broker.password_file = \"{urls}\""),
        ]);
        Sections::refused(&[
            (
                "broker.url_file = \"/missing\"",
                "broker.url_file: cannot read /missing: No such file",
            ),
            (
                "broker.url_file = \"/\"",
                "broker.url_file: cannot read /: Is a directory",
            ),
            (
                &format!("broker.url_file = \"{empty}\""),
                "broker.url_file: ",
            ),
            (
                &format!("broker.url_file = \"{wrong}\""),
                "broker.url_file: ends in `/`",
            ),
            (
                "broker.password_file = \"/missing\"",
                "broker.password_file: cannot read /missing",
            ),
            (
                &format!("broker.password_file = \"{empty}\""),
                "broker.password_file: ",
            ),
            (
                &format!("broker.url = \"amqp://rabbit\"\nbroker.url_file = \"{urls}\""),
                "broker.url_file: conflicts with `url`",
            ),
        ]);
    }

    #[test]
    fn a_broker_is_shown_with_user_port_and_virtual_host() {
        let urls = BrokerUrls::parse("amqp://rabbit amqps://u:s3cret@[::1]/a%2fb");
        let expected = "amqp://guest@rabbit:5672 virtual host /, \
                        amqps://u@[::1]:5671 virtual host a/b";
        assert_eq!(urls.places(), expected);
    }

    #[test]
    fn passwords_never_print() {
        let urls = BrokerUrls::parse("amqp://u:s3cret@a:5672/%2f amqps://u:s3cret@b/%2f not a url");
        let shown = format!("{urls:?} {}", serde_json::to_string(&urls).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("u:***@a:5672"), "{shown}");
    }
}
