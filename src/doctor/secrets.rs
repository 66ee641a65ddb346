//! Secrets that others can change, or that cross a network in clear, and an admin server that is open.

use std::{
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use url::Url;

use super::{
    check::{Check, Found, Needs},
    scene::Scene,
};
use crate::{
    config::KeyPath,
    handler::{HandlerSettings, HttpHandlerSettings, OAuthSettings},
    settings::{Listen, Settings},
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "secret-files",
        why: "every user of this machine can give the worker another secret",
        needs: Needs::Settings,
        look: files,
    },
    Check {
        name: "secrets-in-clear",
        why: "whoever sees the network can read the secret",
        needs: Needs::Settings,
        look: in_clear,
    },
    Check {
        name: "admin",
        why: "whoever reaches the admin server can read ids, errors and settings without a token",
        needs: Needs::Settings,
        look: admin,
    },
];

fn files(scene: &Scene<'_>, found: &mut Found) {
    let (broker, admin) = (&scene.settings.broker, &scene.settings.admin);
    let files = [
        ("broker.url_file", &broker.url_file),
        ("broker.password_file", &broker.password_file),
        ("broker.tls.ca_file", &broker.tls.ca_file),
        ("broker.tls.cert_file", &broker.tls.cert_file),
        ("broker.tls.key_file", &broker.tls.key_file),
        ("admin.token_file", &admin.token_file),
        ("admin.read_token_file", &admin.read_token_file),
    ];
    for (key, file) in files {
        if let Some(file) = file {
            writable(found, &KeyPath::of(key), file);
        }
    }
    for (at, http) in http_handlers(scene.settings) {
        let files = [
            ("ca_file", &http.ca_file),
            ("cert_file", &http.cert_file),
            ("key_file", &http.key_file),
            ("signing_file", &http.signing_file),
        ];
        for (key, file) in files {
            if let Some(file) = file {
                writable(found, &at.key(key), file);
            }
        }
        if let Some(oauth) = &http.oauth {
            let at = at.key("oauth").key("client_secret_file");
            writable(found, &at, &oauth.client_secret_file);
        }
        for (name, header) in &http.header_files {
            writable(found, &at.key("header_files").key(name), &header.file);
        }
    }
    found.ok("nobody but its owner can write a file with a secret");
}

/// Tells of a file that others than its owner can write.
fn writable(found: &mut Found, at: &KeyPath, file: &Path) {
    const OTHERS: u32 = 0o002;
    let mode = std::fs::metadata(file).map_or(0, |about| about.mode());
    if mode & OTHERS != 0 {
        let file = file.display();
        let text = format!("every user of this machine can write {file}");
        found.warn(at.to_string(), text, format!("chmod o-w {file}"));
    }
}

fn in_clear(scene: &Scene<'_>, found: &mut Found) {
    const MEND: &str = ", unless the network is trusted";
    if let Some((key, host)) = broker_in_clear(scene.settings) {
        let text = format!("sends the password to {host} in clear");
        found.warn(key, text, format!("use amqps://{MEND}"));
    }
    if let Some(host) = management_in_clear(scene.settings) {
        let text = format!("sends the broker's password to {host} in clear");
        found.warn("broker.management_url", text, format!("use https://{MEND}"));
    }
    for (at, http) in http_handlers(scene.settings) {
        if let Some(host) = handler_in_clear(http) {
            let text = format!("sends a secret to {host} in clear");
            found.warn(
                at.key("url").to_string(),
                text,
                format!("use https://{MEND}"),
            );
        }
        if let Some(host) = http.oauth.as_ref().and_then(token_in_clear) {
            let text = format!("sends the client's secret to {host} in clear");
            let at = at.key("oauth").key("token_url").to_string();
            found.warn(at, text, format!("use https://{MEND}"));
        }
    }
    found.ok("no secret crosses a network in clear");
}

/// The setting and the host of a broker to which a password goes in clear.
fn broker_in_clear(settings: &Settings) -> Option<(&'static str, String)> {
    let broker = &settings.broker;
    let from_file = |file: &PathBuf| std::fs::read_to_string(file).ok();
    let (key, urls) = match &broker.url_file {
        Some(file) => ("broker.url_file", from_file(file).unwrap_or_default()),
        None => ("broker.url", broker.url.expose().join(" ")),
    };
    let has_password = |url: &Url| broker.password_file.is_some() || url.password().is_some();
    let urls = urls
        .split_whitespace()
        .filter_map(|url| Url::parse(url).ok());
    let mut in_clear =
        urls.filter(|url| url.scheme() == "amqp" && has_password(url) && !is_local(url));
    Some((key, in_clear.next()?.host_str()?.to_owned()))
}

fn management_in_clear(settings: &Settings) -> Option<String> {
    let url = Url::parse(settings.broker.management_url.as_deref()?).ok()?;
    let in_clear = url.scheme() == "http" && !is_local(&url);
    in_clear.then(|| url.host_str().unwrap_or_default().to_owned())
}

fn handler_in_clear(http: &HttpHandlerSettings) -> Option<String> {
    let url = Url::parse(&http.url).ok()?;
    let is_secret = |name: &String| {
        let name = name.to_ascii_lowercase();
        ["authorization", "cookie", "token", "key", "secret"]
            .iter()
            .any(|word| name.contains(word))
    };
    let has_secret = url.password().is_some()
        || http.oauth.is_some()
        || !http.header_files.is_empty()
        || http.headers.keys().any(is_secret);
    let in_clear = url.scheme() == "http" && has_secret && !is_local(&url);
    in_clear.then(|| url.host_str().unwrap_or_default().to_owned())
}

fn token_in_clear(oauth: &OAuthSettings) -> Option<String> {
    let url = Url::parse(&oauth.token_url).ok()?;
    let in_clear = url.scheme() == "http" && !is_local(&url);
    in_clear.then(|| url.host_str().unwrap_or_default().to_owned())
}

/// Whether the URL's host is this machine.
fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// The HTTP handlers of all consumers and routes.
fn http_handlers(settings: &Settings) -> impl Iterator<Item = (KeyPath, &HttpHandlerSettings)> {
    settings
        .handlers()
        .filter_map(|(at, handler)| match handler {
            HandlerSettings::Http(http) => Some((at, http)),
            _ => None,
        })
}

fn admin(scene: &Scene<'_>, found: &mut Found) {
    let admin = &scene.settings.admin;
    let is_open = admin.read_token.is_none() && admin.read_token_file.is_none();
    match admin.listen {
        Listen::At(address) if is_open && !address.ip().is_loopback() => found.warn(
            "admin.listen",
            "is not a loopback address",
            "set `admin.read_token`, or use `admin.probes`, which serves probes and metrics alone",
        ),
        Listen::At(_) => {
            found.ok("the admin server listens on this machine only, or asks for a token")
        }
        _ => found.ok("there is no admin server"),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::super::tests::{Start, found};
    use crate::{config::samples::file, settings::Settings};

    /// The settings that are told of.
    fn warned(text: &str) -> Vec<String> {
        let start = Start {
            settings: Settings::from_toml(text).unwrap(),
            ..Start::default()
        };
        let told = ["secret-files", "secrets-in-clear", "admin"].map(|check| found(&start, check));
        let about = |line: &String| line.split(": ").next().unwrap_or_default()[5..].to_owned();
        told.iter().flatten().map(about).collect()
    }

    #[test]
    fn an_admin_server_that_others_reach_without_a_token_is_found() {
        let open = "[admin]\nlisten = \"0.0.0.0:9090\"\nhosts = [\"a\"]";
        assert_eq!(warned(open), ["admin.listen"]);
        let with_token = format!("{open}\nread_token = \"sixteen-letters!\"");
        assert_eq!(warned(&with_token), Vec::<String>::new());
    }

    #[test]
    fn a_file_that_everybody_can_write_is_warned_of() {
        let token = file("sixteen-letters!");
        let text = format!("[admin]\ntoken_file = {:?}", token.path());
        for (mode, expected) in [(0o600, vec![]), (0o666, vec!["admin.token_file"])] {
            std::fs::set_permissions(token.path(), Permissions::from_mode(mode)).unwrap();
            assert_eq!(warned(&text), expected, "{mode:o}");
        }
    }

    #[test]
    fn secrets_in_clear_to_another_machine_are_warned_of() {
        let broker = |url: &str| warned(&format!("broker.url = \"{url}\""));
        for url in [
            "amqp://u:p@127.0.0.1",
            "amqp://u:p@localhost",
            "amqp://[::1]",
            "amqps://u:p@r",
        ] {
            assert_eq!(broker(url), Vec::<String>::new(), "{url}");
        }
        assert_eq!(broker("amqp://u:p@rabbit"), ["broker.url"]);
        let management = |url: &str| warned(&format!("broker.management_url = \"{url}\""));
        for url in ["https://rabbit:15671", "http://127.0.0.1:15672"] {
            assert_eq!(management(url), Vec::<String>::new(), "{url}");
        }
        let in_clear = management("http://rabbit:15672");
        assert_eq!(in_clear, ["broker.management_url"]);
        let handler = |rest: &str| {
            warned(&format!(
                "[consumers.o]\nqueue = \"o\"\nhandler = {{ kind = \"http\", {rest} }}"
            ))
        };
        let secret = "headers = { authorization = \"Bearer x\" }";
        for rest in [
            "url = \"http://api/\"".to_owned(),
            format!("url = \"https://api/\", {secret}"),
            format!("url = \"http://127.0.0.1:8000/\", {secret}"),
        ] {
            assert_eq!(handler(&rest), Vec::<String>::new(), "{rest}");
        }
        let rest = format!("url = \"http://api/\", {secret}");
        assert_eq!(handler(&rest), ["consumers.o.handler.url"]);
        let client = file("secret");
        let oauth = |url: &str, token_url: &str| {
            let file = client.path().display();
            handler(&format!(
                "url = \"{url}\", oauth = {{ token_url = \"{token_url}\", client_id = \"a\", \
                 client_secret_file = \"{file}\" }}"
            ))
        };
        let (at_url, at_token) = (
            "consumers.o.handler.url",
            "consumers.o.handler.oauth.token_url",
        );
        for (url, token_url, expected) in [
            ("https://api/", "https://login/", vec![]),
            ("http://localhost/", "http://127.0.0.1/", vec![]),
            ("https://api/", "http://login/", vec![at_token]),
            ("http://api/", "https://login/", vec![at_url]),
        ] {
            assert_eq!(oauth(url, token_url), expected, "{url} {token_url}");
        }
    }
}
