//! `[broker]` and `[publish]`.

use std::time::Duration;

use humantime::format_duration;
use url::{Position, Url};

use super::{Findings, HOUR, MILLISECOND, SECOND};
use crate::config::{
    BrokerSettings, PublishSettings, ReconnectSettings, TlsSettings, problem::KeyPath,
};

const HEARTBEAT_MAX: Duration = Duration::from_secs(u16::MAX as u64);
const CHANNELS_MAX: usize = 1000;

pub(super) fn check(findings: &mut Findings, broker: &BrokerSettings, publish: &PublishSettings) {
    let section = KeyPath::of("broker");
    findings.name(section.key("name"), &broker.name);
    findings.duration(
        section.key("heartbeat"),
        broker.heartbeat,
        SECOND..=HEARTBEAT_MAX,
    );
    if broker.heartbeat.subsec_nanos() > 0 {
        findings.add(section.key("heartbeat"), "must be whole seconds");
    }
    let ReconnectSettings { base, cap } = broker.reconnect;
    let reconnect = section.key("reconnect");
    findings.duration(reconnect.key("base"), base, MILLISECOND..=HOUR);
    findings.duration(reconnect.key("cap"), cap, MILLISECOND..=HOUR);
    if cap < base {
        let [cap, base] = [cap, base].map(format_duration);
        let message = format!("is {cap}, must not be below `base` ({base})");
        findings.contradiction(reconnect.key("cap"), [reconnect.key("base")], message);
    }

    let PublishSettings {
        channels,
        budget,
        hold,
    } = *publish;
    let section = KeyPath::of("publish");
    findings.number(section.key("channels"), &channels, 1..=CHANNELS_MAX);
    findings.duration(section.key("budget"), budget, MILLISECOND..=HOUR);
    findings.duration(section.key("hold"), hold, MILLISECOND..=HOUR);

    let urls = urls(findings, broker);
    channel_max(findings, &urls, channels);
    tls(findings, &broker.tls, &urls);
}

/// A URL that a worker would use, and the key that it stands at; none where it cannot be parsed.
struct BrokerUrl {
    path: KeyPath,
    url: Option<Url>,
}

fn urls(findings: &mut Findings, broker: &BrokerSettings) -> Vec<BrokerUrl> {
    let at_url = KeyPath::of("broker.url");
    if let Some(file) = &broker.password_file {
        findings.text_file(&KeyPath::of("broker.password_file"), file);
    }
    if let Some(file) = &broker.url_file {
        let path = KeyPath::of("broker.url_file");
        if broker.url != BrokerSettings::default().url {
            let message = "is used in place of `url`, which is set too: set one of the two";
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

/// Check one URL. No message quotes any of it: what was meant as a password can stand anywhere in
/// a URL that is wrong.
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
        Some(url) => {
            virtual_host(url, &mut wrong);
            parameters(url, &mut wrong);
        }
    }
    BrokerUrl { path, url }
}

const SHAPE: &str = "expected amqp://user:password@host:5672/%2f, with every `/`, `?`, `#`, `@` \
                     and `%` in user, password and virtual host percent-encoded";

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

/// Parameters are lapin's to read; those that a setting stands for would be overridden by it.
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
            "frame_max" if value.parse::<u32>().is_err() => {
                wrong("`frame_max` must be a number of bytes".to_owned());
            }
            "channel_max" if value.parse::<u16>().is_err() => {
                wrong("`channel_max` must be a whole number from 0 to 65535".to_owned());
            }
            "auth_mechanism" if !is_mechanism(&value) => {
                wrong(format!(
                    "`auth_mechanism` must be one of {}",
                    MECHANISMS.join(", ")
                ));
            }
            "frame_max" | "channel_max" | "auth_mechanism" => {}
            _ => wrong(
                "has an unknown parameter; frame_max, channel_max and auth_mechanism are known"
                    .to_owned(),
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

fn channel_max(findings: &mut Findings, urls: &[BrokerUrl], channels: usize) {
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

fn tls(findings: &mut Findings, tls: &TlsSettings, urls: &[BrokerUrl]) {
    let section = KeyPath::of("broker.tls");
    let TlsSettings {
        ca_file,
        cert_file,
        key_file,
    } = tls;
    // A URL that cannot be parsed may have been meant as amqps.
    let may_use_tls = urls.is_empty()
        || urls
            .iter()
            .any(|BrokerUrl { url, .. }| url.as_ref().is_none_or(|url| url.scheme() != "amqp"));
    let files = [
        ("ca_file", ca_file),
        ("cert_file", cert_file),
        ("key_file", key_file),
    ];
    for (key, file) in files {
        let Some(file) = file else { continue };
        let path = section.key(key);
        findings.text_file(&path, file);
        if !may_use_tls {
            let others = urls.iter().map(|url| url.path.clone());
            let message = "is of no use without TLS: no broker URL begins with amqps://";
            findings.contradiction(path, others, message);
        }
    }
    let (lone, missing) = match (cert_file, key_file) {
        (Some(_), None) => ("cert_file", "key_file"),
        (None, Some(_)) => ("key_file", "cert_file"),
        _ => return,
    };
    let others = [section.key(missing)];
    findings.contradiction(
        section.key(lone),
        others,
        format!("needs `{missing}` beside it"),
    );
}

#[cfg(test)]
mod tests {
    use crate::config::validate::tests::{allowed, file, problems, refused};

    #[test]
    fn broker_and_publish_settings_keep_their_ranges() {
        refused(&[
            ("broker.name = \"\"", "broker.name: must not be empty"),
            (
                "broker.name = \"a\\nb\"",
                "broker.name: must not hold control",
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
                "broker.reconnect.cap: is 30s, must not be below",
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
        refused(&[(&long, "broker.name: has 256 bytes")]);
        allowed(&[
            "broker.heartbeat = \"1s\"",
            "broker.heartbeat = \"65535s\"",
            "publish.channels = 1000",
        ]);
    }

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
            ("amqp://rabbit/%2f?frame_max=x", "`frame_max` must be"),
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
        ] {
            let text = format!("broker.url = \"{url}\"");
            refused(&[(&text, &format!("broker.url: {beginning}"))]);
            let shown = problems(&text).concat();
            assert!(!shown.contains("s3cret"), "{shown}");
        }
        allowed(&[
            "broker.url = \"amqp://rabbit\"",
            "broker.url = \"amqps://u:p%2f@[::1]:5671/a%2fb?auth_mechanism=EXTERNAL\"",
            "broker.url = \"amqp://rabbit/%2f?channel_max=0&frame_max=8192\"",
            "broker.url = \"amqp://a amqp://b/%2f\"",
            "broker.url = [\"amqp://a\", \"amqp://b/%2f\"]",
        ]);
        refused(&[(
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
        allowed(&[
            &format!("broker.url_file = \"{urls}\""),
            &format!("broker.password_file = \"{urls}\""),
        ]);
        refused(&[
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
                "broker.url_file: is used in place of `url`, which is set too",
            ),
        ]);
    }

    #[test]
    fn certificates_need_tls_and_one_another() {
        let pem = file("-----BEGIN CERTIFICATE-----");
        let pem = pem.path().display();
        let with = |url: &str, files: &[&str]| {
            let files = files
                .iter()
                .map(|key| format!("broker.tls.{key} = \"{pem}\"\n"));
            format!("broker.url = {url}\n{}", files.collect::<String>())
        };
        let (plain, tls) = ("\"amqp://a\"", "\"amqps://a\"");
        allowed(&[
            &with(tls, &["ca_file", "cert_file", "key_file"]),
            &with("[\"amqp://a\", \"amqps://b\"]", &["ca_file"]),
        ]);
        refused(&[
            (
                &with(plain, &["ca_file"]),
                "broker.tls.ca_file: is of no use without TLS",
            ),
            (
                &with(tls, &["cert_file"]),
                "broker.tls.cert_file: needs `key_file`",
            ),
            (
                &with(tls, &["key_file"]),
                "broker.tls.key_file: needs `cert_file`",
            ),
            (
                "broker.url = \"amqps://a\"\nbroker.tls.ca_file = \"/missing\"",
                "broker.tls.ca_file: cannot read /missing",
            ),
        ]);
    }
}
