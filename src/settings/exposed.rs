//! Warnings about secrets that others can change, or that cross a network in clear.

use std::{
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use url::Url;

use super::{Problem, Settings, Source};
use crate::{config::KeyPath, handler::HttpHandlerSettings};

impl Settings {
    /// Secrets that others can change, or that cross a network in clear.
    pub(super) fn exposed(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let (broker, admin) = (&self.broker, &self.admin);
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
            problems.extend(
                file.as_deref()
                    .and_then(|file| writable(KeyPath::of(key), file)),
            );
        }
        problems.extend(self.broker_in_clear());
        problems.extend(self.management_in_clear());
        for (at, http) in self.http_handlers() {
            problems.extend(of_handler(&at, http));
        }
        problems
    }

    fn broker_in_clear(&self) -> Option<Problem> {
        let broker = &self.broker;
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
        let host = in_clear.next()?.host_str()?.to_owned();
        Some(problem(
            &KeyPath::of(key),
            format!(
                "sends the password to {host} in clear: use amqps://, unless the network is trusted"
            ),
        ))
    }
}

impl Settings {
    fn management_in_clear(&self) -> Option<Problem> {
        let url = Url::parse(self.broker.management_url.as_deref()?).ok()?;
        let in_clear = url.scheme() == "http" && !is_local(&url);
        let host = url.host_str().unwrap_or_default();
        in_clear.then(|| {
            problem(
                &KeyPath::of("broker.management_url"),
                format!("sends the broker's password to {host} in clear: use https://, unless the network is trusted"),
            )
        })
    }
}

fn of_handler(at: &KeyPath, http: &HttpHandlerSettings) -> Vec<Problem> {
    let files = [
        ("ca_file", &http.ca_file),
        ("cert_file", &http.cert_file),
        ("key_file", &http.key_file),
    ];
    let files = files.into_iter();
    let files = files.filter_map(|(key, file)| Some((at.key(key), file.as_deref()?)));
    let header_files = http.header_files.iter();
    let header_files = header_files
        .map(|(name, header)| (at.key("header_files").key(name), header.file.as_path()));
    let mut problems: Vec<_> = files
        .chain(header_files)
        .filter_map(|(at, file)| writable(at, file))
        .collect();
    let Ok(url) = Url::parse(&http.url) else {
        return problems;
    };
    let is_secret = |name: &String| {
        let name = name.to_ascii_lowercase();
        ["authorization", "cookie", "token", "key", "secret"]
            .iter()
            .any(|word| name.contains(word))
    };
    let has_secret = url.password().is_some()
        || !http.header_files.is_empty()
        || http.headers.keys().any(is_secret);
    if url.scheme() == "http" && has_secret && !is_local(&url) {
        let host = url.host_str().unwrap_or_default();
        problems.push(problem(
            &at.key("url"),
            format!(
                "sends a secret to {host} in clear: use https://, unless the network is trusted"
            ),
        ));
    }
    problems
}

/// The warning about a file that others than its owner can write.
pub(crate) fn writable(at: KeyPath, file: &Path) -> Option<Problem> {
    const OTHERS: u32 = 0o002;
    let mode = std::fs::metadata(file).ok()?.mode();
    (mode & OTHERS != 0).then(|| {
        let file = file.display();
        problem(
            &at,
            format!("every user of this machine can write {file}: chmod o-w"),
        )
    })
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

fn problem(at: &KeyPath, message: String) -> Problem {
    Problem {
        path: at.to_string(),
        source: Source::Code,
        message,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::config::samples::file;

    fn warned(text: &str) -> Vec<String> {
        let settings = Settings::from_toml(text).unwrap();
        settings
            .exposed()
            .iter()
            .map(|problem| problem.path.clone())
            .collect()
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
    }
}
