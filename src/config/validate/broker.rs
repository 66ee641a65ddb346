//! `[broker]` and `[publish]`.

use std::time::Duration;

use super::{
    Findings, HOUR, MILLISECOND, SECOND,
    urls::{BrokerUrl, channel_max, urls},
};
use crate::config::{
    BrokerSettings, PublishSettings, ReconnectSettings, TlsSettings, problem::KeyPath,
};
use humantime::format_duration;

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
        match key {
            "key_file" => findings.private_key(&path, file),
            _ => findings.certificates(&path, file),
        }
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
    use crate::config::validate::tests::{CERTIFICATE, KEY, allowed, file, refused};

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
        let pem = file(&format!("{CERTIFICATE}{KEY}"));
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
