//! `[admin]`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::Listen;
use crate::{
    config::{Findings, KeyPath, Secret, text_in},
    worker::WorkerSettings,
};

/// The HTTP server with probes, metrics, the API and the console; [admin.md](admin.md) says what it
/// serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSettings {
    /// Where the server listens: an IP address and a port, or `off`. Port 0 stands for any free
    /// port, which the log shows. Without `read_token` everybody who can reach the address sees ids,
    /// errors and settings. Default: `127.0.0.1:8672`.
    #[schemars(with = "String")]
    pub listen: Listen,
    /// A second address for probes and metrics alone, such as `0.0.0.0:9091`, for orchestrators and
    /// scrapers on other hosts. Default: `off`.
    #[schemars(with = "String")]
    pub probes: Listen,
    /// The bearer token for changes: 16 to 1024 visible ASCII characters. Without a token nobody
    /// can change anything. Lapwing never shows the token. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", example = "...")]
    pub token: Option<Secret>,
    /// A file that holds the token. It replaces `token`; setting both is refused. The worker reads
    /// the file at each change, so it uses a rotated token without a restart. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/lapwing-token")]
    pub token_file: Option<PathBuf>,
    /// The bearer token for reading the API and the console, with the same rules as `token`. `token`
    /// allows reading too. A browser asks for a user name and a password: the token is the password,
    /// and any user name will do. Probes and metrics need no token. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", example = "...")]
    pub read_token: Option<Secret>,
    /// A file that holds the token for reading. It replaces `read_token`; setting both is refused. The
    /// worker reads the file at each request. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/lapwing-read-token")]
    pub read_token_file: Option<PathBuf>,
    /// Host names by which clients may call the server, such as `lapwing.example.com`. Without them the
    /// server answers to IP addresses, `localhost`, the hosts of `origins`, and, if `listen` is not a
    /// loopback address, to names that no public DNS has (without a dot, or ending in `.svc`,
    /// `.cluster.local`, `.internal` or `.local`). This keeps out web pages whose DNS name points
    /// at the server. Default: `[]`.
    pub hosts: Vec<String>,
    /// Origins that may send requests in addition to the server's own, such as
    /// `https://lapwing.example.com`: for a proxy that changes the `Host` header. Default: `[]`.
    pub origins: Vec<String>,
    /// Where the console's links to traces lead: a URL in which `{trace_id}` stands for the trace.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "http://127.0.0.1:16686/trace/{trace_id}")]
    pub trace_url: Option<String>,
    /// A file in which the worker notes which consumers are paused, so that a pause made by the API, the
    /// console or `lapwing pause` outlasts a restart. Needs `listen`. Each worker needs a file of its own. The folder must
    /// exist. A file that exists and cannot be read keeps the worker from starting. Without it: a pause ends with
    /// the process. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/var/lib/lapwing/paused.json")]
    pub pause_file: Option<PathBuf>,
    /// A file in which the worker keeps its failures, so that the console and the API have those of before
    /// a restart too. Each worker needs a file of its own. The folder must exist. Without it: the last 500
    /// failures of each consumer, until the process ends. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/var/lib/lapwing/failures.jsonl")]
    pub failures_file: Option<PathBuf>,
    /// The most that `failures_file` and the older file beside it (`failures.jsonl.1`) may have together, in
    /// MiB. A failure takes about half a KiB. Too low: the failures do not reach back far. Too high: a
    /// search takes long, because it reads both files. Default: `16`.
    #[schemars(range(min = 1, max = 128))]
    pub failures_file_mib: u16,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            listen: Listen::At(SocketAddr::from(([127, 0, 0, 1], 8672))),
            probes: Listen::Off,
            token: None,
            token_file: None,
            read_token: None,
            read_token_file: None,
            hosts: Vec::new(),
            origins: Vec::new(),
            trace_url: None,
            pause_file: None,
            failures_file: None,
            failures_file_mib: 16,
        }
    }
}

/// The variable that sets [`AdminSettings::listen`].
const LISTEN: &str = "LAPWING__ADMIN__LISTEN";
/// The variable that sets [`AdminSettings::probes`].
const PROBES: &str = "LAPWING__ADMIN__PROBES";

/// Bytes of a token. A shorter one could be guessed, a longer one does not fit a header.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=1024;

impl AdminSettings {
    /// Whether a token is configured. Without one nothing can be changed.
    #[must_use]
    pub fn can_change(&self) -> bool {
        self.token.is_some() || self.token_file.is_some()
    }

    /// Where a worker of this file and these variables listens. Reads `listen` and `probes` and
    /// nothing else. A worker that runs does not read its file again, so a file that cannot be read
    /// or is wrong elsewhere is no reason to call it unhealthy.
    #[must_use]
    pub fn addresses(
        file: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> (Listen, Listen) {
        let document = file.and_then(|file| std::fs::read_to_string(file).ok());
        let document = document.unwrap_or_default();
        let find = |name, key, default| {
            let text = variable(name).or_else(|| text_in(&document, "admin", key));
            let listen = text.and_then(|text| text.parse().ok());
            listen.unwrap_or(default)
        };
        let default = Self::default();
        let listen = find(LISTEN, "listen", default.listen);
        (listen, find(PROBES, "probes", default.probes))
    }

    pub(crate) fn check(&self, findings: &mut Findings) {
        let section = KeyPath::of("admin");
        // Port 0 is another one each time.
        let is_fixed = |address: SocketAddr| address.port() != 0;
        if self.listen == self.probes && self.listen.address().is_some_and(is_fixed) {
            let message = "is the address of `listen`, which serves the probes too: leave it out";
            findings.contradiction(section.key("probes"), [section.key("listen")], message);
        }
        let (token, file) = (self.token.as_ref(), self.token_file.as_ref());
        check_token(findings, &section, ["token", "token_file"], token, file);
        let (token, file) = (self.read_token.as_ref(), self.read_token_file.as_ref());
        check_token(
            findings,
            &section,
            ["read_token", "read_token_file"],
            token,
            file,
        );
        for (index, host) in self.hosts.iter().enumerate() {
            if !is_host(host) {
                let message = "must be a host name without a port, such as lapwing.example.com";
                findings.add(section.key("hosts").index(index), message);
            }
        }
        for (index, origin) in self.origins.iter().enumerate() {
            if !is_origin(origin) {
                let message = "must be scheme, host and port, such as https://lapwing.example.com";
                findings.add(section.key("origins").index(index), message);
            }
        }
        check_files(self, findings, &section);
        if self
            .trace_url
            .as_deref()
            .is_some_and(|url| !is_trace_url(url))
        {
            let message = "must be a complete URL with {trace_id} in it, such as \
                           http://127.0.0.1:16686/trace/{trace_id}";
            findings.add(section.key("trace_url"), message);
        }
    }
}

/// Why a text cannot be a token.
pub(super) fn token_fault(token: &str) -> Option<String> {
    if !TOKEN_BYTES.contains(&token.len()) {
        let (low, high) = (TOKEN_BYTES.start(), TOKEN_BYTES.end());
        return Some(format!(
            "has {} bytes, must have {low} to {high}",
            token.len()
        ));
    }
    let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
    (!is_visible).then(|| "must be visible ASCII without spaces".to_owned())
}

/// Checks a token, or the file that holds it.
fn check_token(
    findings: &mut Findings,
    section: &KeyPath,
    [key, file_key]: [&str; 2],
    token: Option<&Secret>,
    file: Option<&PathBuf>,
) {
    let check = |findings: &mut Findings, path: KeyPath, token: &str| {
        if let Some(fault) = token_fault(token) {
            findings.add(path, fault);
        }
    };
    if let Some(token) = token {
        check(findings, section.key(key), token.expose());
    }
    if let Some(file) = file {
        let path = section.key(file_key);
        if token.is_some() {
            let message = format!("conflicts with `{key}`: set one of the two");
            findings.contradiction(path.clone(), [section.key(key)], message);
        }
        if let Some(text) = findings.text_file(&path, file) {
            check(findings, path, text.trim_end_matches(['\r', '\n']));
        }
    }
}

/// Checks the files that outlast the process.
fn check_files(settings: &AdminSettings, findings: &mut Findings, section: &KeyPath) {
    if settings.pause_file.is_some() && settings.listen.address().is_none() {
        let message = "needs `listen`: without it nobody can resume a consumer that begins paused";
        let others = [section.key("listen")];
        findings.contradiction(section.key("pause_file"), others, message);
    }
    if let (Some(pauses), Some(failures)) = (&settings.pause_file, &settings.failures_file) {
        let of_pauses = [pauses.clone(), beside(pauses, ".new")];
        let of_failures = [failures.clone(), beside(failures, ".1")];
        if of_pauses.iter().any(|file| of_failures.contains(file)) {
            let others = [section.key("failures_file")];
            findings.contradiction(section.key("pause_file"), others, "is the same file");
        }
    }
}

/// The path of a file beside another one, whose name ends in addition with this.
pub(super) fn beside(file: &Path, end: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Whether this is a host name or an IP address, without a port.
fn is_host(text: &str) -> bool {
    let url = Url::parse(&format!("http://{text}/"));
    url.is_ok_and(|url| {
        let host = url.host_str().unwrap_or_default();
        host.eq_ignore_ascii_case(text) && url.port().is_none()
    })
}

fn is_origin(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text
    })
}

/// The page that has it is public to whoever can read the API, so it must hold no password.
fn is_trace_url(text: &str) -> bool {
    let filled = text.replace("{trace_id}", "0");
    filled != text
        && Url::parse(&filled).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
        })
}

/// What the server needs to know; made of [`Settings`](crate::Settings).
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Its own section.
    pub admin: AdminSettings,
    /// The worker's settings.
    pub worker: WorkerSettings,
    /// All settings, as the API shows them: without secrets.
    pub shown: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{Sample, file, sections};

    sections!({ admin: AdminSettings }, |it, findings| it.admin.check(findings));

    #[test]
    fn addresses_and_urls_are_checked() {
        let listen = "admin.listen: expected an IP address with a port, such as";
        Sections::refused(&[
            ("admin.listen = \"localhost:8672\"", listen),
            ("admin.listen = \"127.0.0.1\"", listen),
            ("admin.listen = \"\"", listen),
            ("admin.listen = 8672", listen),
            (
                "admin.probes = \"127.0.0.1:8672\"",
                "admin.probes: is the address of `listen`",
            ),
            (
                "admin.origins = [\"https://a\", \"https://a/\"]",
                "admin.origins[1]: must be scheme, host and port",
            ),
            (
                "admin.hosts = [\"a.example.com\", \"b:80\"]",
                "admin.hosts[1]: must be a host name without a port",
            ),
            ("admin.hosts = [\"https://a\"]", "admin.hosts[0]: must be"),
            ("admin.hosts = [\"\"]", "admin.hosts[0]: must be"),
            (
                "admin.read_token = \"short\"",
                "admin.read_token: has 5 bytes, must have 16 to 1024",
            ),
            ("admin.origins = [\"*\"]", "admin.origins[0]: must be"),
            ("admin.origins = [\"null\"]", "admin.origins[0]: must be"),
            (
                "admin.trace_url = \"http://jaeger/trace/\"",
                "admin.trace_url: must be a complete URL with {trace_id} in it",
            ),
            (
                "admin.trace_url = \"http://u:p@jaeger/{trace_id}\"",
                "admin.trace_url: must be",
            ),
            (
                "admin.failures_file_mib = 129",
                "admin.failures_file_mib: is 129, must be 1 to 128",
            ),
            (
                "admin.pause_file = \"/a\"\nadmin.failures_file = \"/a\"",
                "admin.pause_file: is the same file",
            ),
            (
                "admin.pause_file = \"/a\"\nadmin.failures_file = \"/a.new\"",
                "admin.pause_file: is the same file",
            ),
            (
                "admin.pause_file = \"/a.1\"\nadmin.failures_file = \"/a\"",
                "admin.pause_file: is the same file",
            ),
            (
                "admin.pause_file = \"/a\"\nadmin.listen = \"off\"",
                "admin.pause_file: needs `listen`",
            ),
            (
                "admin.trace_url = \"javascript:{trace_id}\"",
                "admin.trace_url: must be",
            ),
        ]);
        Sections::allowed(&[
            "admin.listen = \"off\"",
            "admin.listen = \"[::]:0\"\nadmin.probes = \"[::]:0\"",
            "admin.probes = \"0.0.0.0:9091\"",
            "admin.failures_file_mib = 128",
            "admin.hosts = [\"lapwing.example.com\", \"worker\", \"10.0.0.1\", \"[::1]\"]",
            "admin.origins = [\"https://a\", \"http://a.b:8080\", \"http://[::1]:1\"]",
            "admin.trace_url = \"https://jaeger/trace/{trace_id}?x=1\"",
        ]);
    }

    #[test]
    fn a_token_must_be_long_and_fit_a_header() {
        let long = "x".repeat(1025);
        for (token, beginning) in [
            ("", "has 0 bytes, must have 16 to 1024"),
            ("fifteen-letters", "has 15 bytes"),
            (&long, "has 1025 bytes"),
            ("sixteen letters!", "must be visible ASCII without spaces"),
            ("sixteen-lëtters", "must be visible ASCII"),
        ] {
            let text = format!("admin.token = \"{token}\"");
            Sections::refused(&[(&text, &format!("admin.token: {beginning}"))]);
            let file = file(&format!("{token}\n"));
            let text = format!("admin.token_file = {:?}", file.path());
            if !token.is_empty() {
                Sections::refused(&[(&text, &format!("admin.token_file: {beginning}"))]);
            }
        }
        let file = file("sixteen-letters!\n");
        let from_file = format!("admin.token_file = {:?}", file.path());
        Sections::allowed(&[&from_file, "admin.token = \"sixteen-letters!\""]);
        Sections::refused(&[
            (
                &format!("{from_file}\nadmin.token = \"sixteen-letters!\""),
                "admin.token_file: conflicts with `token`",
            ),
            (
                "admin.token_file = \"/nowhere/at/all\"",
                "admin.token_file: cannot read",
            ),
        ]);
    }

    #[test]
    fn addresses_are_found_in_a_file_that_is_wrong_elsewhere_or_missing() {
        let none = |_: &str| None;
        let shown = |(listen, probes): (Listen, Listen)| format!("{listen} {probes}");
        let broken = file("[admin]\nlisten = '127.0.0.1:81'\nprobes = 'nowhere'\n[consumers");
        let default = AdminSettings::default().listen;
        let found = |file: Option<&Path>| shown(AdminSettings::addresses(file, none));
        assert_eq!(found(Some(broken.path())), "127.0.0.1:81 off");
        assert_eq!(
            found(Some("/nowhere/at/all".as_ref())),
            format!("{default} off")
        );
        assert_eq!(found(None), format!("{default} off"));
        let probes = |name: &str| (name == PROBES).then(|| "0.0.0.0:82".to_owned());
        let found = AdminSettings::addresses(Some(broken.path()), probes);
        assert_eq!(shown(found), "127.0.0.1:81 0.0.0.0:82");
    }
}
