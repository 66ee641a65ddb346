//! Where a database is, and how a session is opened there.

use std::{fmt, fs, path::PathBuf, time::Duration};

use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    config::{Findings, KIND, KeyPath, redact},
    pem::ClientFiles,
    text::causes,
    tls::{self, Pem},
};

/// Where a database is, whom to trust, and what to show.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) system_authorities: bool,
    pub(crate) cert_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) connect_timeout: Duration,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_tuple("Target").field(&self.name()).finish()
    }
}

/// How tokio-postgres is told that the URL says nothing about this.
const IDLE_UNSET: Duration = Duration::from_hours(2);
/// After this time of silence a session asks whether the server is there.
const IDLE: Duration = Duration::from_secs(30);
/// The time between two such questions.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// After so many questions without an answer the session is lost.
const QUESTIONS: u32 = 3;

/// The values of `sslmode` that check certificates. Here TLS always checks them.
const CHECKED: [&str; 2] = ["sslmode=verify-full", "sslmode=verify-ca"];

impl Target {
    /// The settings of a session, without the password of the file.
    ///
    /// # Errors
    /// A text that does not quote the URL, which may hold a password.
    pub(crate) fn config(&self) -> Result<Config, String> {
        let is_url = ["postgres://", "postgresql://"];
        if !is_url.iter().any(|scheme| self.url.starts_with(scheme)) {
            let example = "postgres://worker@127.0.0.1:5432/shop";
            return Err(format!("must be a complete URL, such as {example}"));
        }
        let mut url = self.url.clone();
        for mode in CHECKED {
            url = url.replace(mode, "sslmode=require");
        }
        let mut config: Config = url.parse().map_err(|error| {
            let text = causes(&error);
            format!("cannot be read: {text}")
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("names no host".to_owned());
        }
        if config.get_user().is_none() {
            return Err("names no user".to_owned());
        }
        if config.get_application_name().is_none() {
            config.application_name("lapwing");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(self.connect_timeout);
        }
        notice_silence(&mut config);
        Ok(config)
    }

    /// The settings of a session, and its TLS. Reads the files.
    ///
    /// # Errors
    /// A text that names the file. It does not quote the file, which may hold a secret.
    pub(super) fn open(&self) -> Result<(Config, MakeRustlsConnect), String> {
        let mut config = self.config()?;
        let content = |file: &PathBuf| {
            fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
        };
        if let Some(file) = &self.password_file {
            let password = content(file)?;
            // As for the broker: a file ends with a line break.
            let end = password.iter().rposition(|byte| !b"\r\n".contains(byte));
            config.password(&password[..end.map_or(0, |end| end + 1)]);
        }
        let optional = |file: &Option<PathBuf>| file.as_ref().map(content).transpose();
        let (ca, cert) = (optional(&self.ca_file)?, optional(&self.cert_file)?);
        let key = optional(&self.key_file)?;
        let files = Pem {
            ca: ca.as_deref(),
            cert: cert.as_deref(),
            key: key.as_deref(),
        };
        // Reading the system's authorities takes milliseconds, and a session without TLS needs none.
        let system = self.system_authorities && config.get_ssl_mode() != SslMode::Disable;
        let tls = tls::config(files, system).map_err(|error| causes(error.as_ref()))?;
        Ok((config, MakeRustlsConnect::new(tls)))
    }

    /// The database for people: hosts and name, without user and password.
    pub(crate) fn name(&self) -> String {
        let Ok(config) = self.config() else {
            return redact(&self.url);
        };
        let ports = config.get_ports();
        let hosts = config.get_hosts().iter().enumerate().map(|(at, host)| {
            let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        });
        let mut hosts: Vec<_> = hosts.collect();
        if hosts.is_empty() {
            hosts.extend(config.get_hostaddrs().iter().map(ToString::to_string));
        }
        let user = config.get_user().unwrap_or_default();
        let database = config.get_dbname().unwrap_or(user);
        format!("PostgreSQL {}/{database}", hosts.join(","))
    }

    /// Whether both are the same database, as far as the URLs tell.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let is = |target: &Self| {
            let config = target.config().ok()?;
            let user = config.get_user().map(str::to_owned);
            let addresses = config.get_hostaddrs().to_vec();
            // `search_path` may be among them.
            let options = config.get_options().map(str::to_owned);
            Some((target.name(), user, addresses, options))
        };
        is(self).is_some() && is(self) == is(other)
    }

    /// Adds findings for the settings at `path`.
    pub(crate) fn check(&self, findings: &mut Findings, path: &KeyPath, needed_by: &str) {
        let at_url = path.key("url");
        if self.url.is_empty() {
            let message = format!("is required by {needed_by}");
            findings.contradiction(at_url, [path.key(KIND)], message);
            return;
        }
        let config = self.config();
        if let Err(error) = &config {
            findings.add(at_url.clone(), error.clone());
        }
        if let Some(file) = &self.password_file {
            findings.text_file(&path.key("password_file"), file);
        }
        let is_plain = config.is_ok_and(|config| config.get_ssl_mode() == SslMode::Disable);
        let plain = is_plain.then(|| {
            let message = "needs TLS, but the URL has sslmode=disable";
            (message, vec![at_url])
        });
        let files = ClientFiles {
            ca: self.ca_file.as_deref(),
            system_authorities: self.system_authorities,
            cert: self.cert_file.as_deref(),
            key: self.key_file.as_deref(),
        };
        files.check(findings, path, plain);
    }
}

/// A machine that loses its power, or its address, says nothing: without this its sessions would look
/// alive for hours. What the URL says counts.
fn notice_silence(config: &mut Config) {
    if config.get_keepalives_idle() == IDLE_UNSET {
        config.keepalives_idle(IDLE);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(ASK_AGAIN);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(QUESTIONS);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(IDLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target {
            url: url.to_owned(),
            password_file: None,
            ca_file: None,
            system_authorities: true,
            cert_file: None,
            key_file: None,
            connect_timeout: Duration::from_secs(5),
        }
    }

    #[test]
    fn a_database_is_named_without_its_password() {
        for (url, name) in [
            ("postgres://u:s3cret@db/shop", "PostgreSQL db:5432/shop"),
            ("postgresql://u@a:1,b:2/shop", "PostgreSQL a:1,b:2/shop"),
            (
                "postgres://u@%2Frun%2Fpg:5433/shop",
                "PostgreSQL /run/pg:5433/shop",
            ),
            ("postgres://u@db", "PostgreSQL db:5432/u"),
        ] {
            assert_eq!(target(url).name(), name);
        }
    }

    #[test]
    fn a_server_that_falls_silent_is_noticed_unless_the_url_says_otherwise() {
        let config = target("postgres://u@db/x").config().unwrap();
        assert_eq!(config.get_keepalives_idle(), IDLE);
        assert_eq!(config.get_keepalives_interval(), Some(ASK_AGAIN));
        assert_eq!(config.get_keepalives_retries(), Some(QUESTIONS));
        assert_eq!(config.get_tcp_user_timeout(), Some(&IDLE));
        let url = "postgres://u@db/x?keepalives_idle=7&tcp_user_timeout=9";
        let config = target(url).config().unwrap();
        assert_eq!(config.get_keepalives_idle(), Duration::from_secs(7));
        assert!(config.get_tcp_user_timeout().unwrap() < &IDLE);
    }

    #[test]
    fn urls_that_name_the_same_database_are_known() {
        let one = target("postgres://u:a@db/shop");
        assert!(one.is_same(&target("postgresql://u:b@db:5432/shop?sslmode=require")));
        for other in [
            "postgres://u@db/other",
            "postgres://v@db/shop",
            "postgres://u@db/shop?options=-csearch_path%3Da",
            "postgres://u@db/shop?hostaddr=10.0.0.1",
            "nonsense",
        ] {
            assert!(!one.is_same(&target(other)), "{other}");
        }
    }

    #[test]
    fn a_url_says_whom_and_where_and_errors_do_not_quote_it() {
        for (url, error) in [
            ("db/s3cret", "must be a complete URL"),
            ("mysql://u:s3cret@db/x", "must be a complete URL"),
            ("postgres:///s3cret", "names no host"),
            ("postgres://u:s3cret@db:none/x", "cannot be read: "),
            ("postgres://u:s3cret@db/x?sslmode=maybe", "cannot be read: "),
        ] {
            let text = target(url).config().unwrap_err();
            assert!(text.starts_with(error), "{url}: {text}");
            assert!(!text.contains("s3cret"), "{text}");
        }
        let checked = target("postgres://u@db/x?sslmode=verify-full").config();
        assert_eq!(checked.unwrap().get_ssl_mode(), SslMode::Require);
    }
}
