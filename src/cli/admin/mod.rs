//! The commands that ask a running worker: one file each.

mod failures;
mod in_flight;
mod message;
mod pause;
mod status;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use lapwing::{
    Settings,
    settings::{AdminSettings, environment},
};
use reqwest::{Method, RequestBuilder, redirect::Policy};
use serde_json::Value;
use url::Url;

use super::{ConfigFile, health, print};

pub(super) use failures::Failures;
pub(super) use in_flight::InFlight;
pub(super) use message::{EXIT_CODES as MESSAGE_EXIT_CODES, Message};
pub(super) use pause::{Pause, Resume};
pub(super) use status::Status;

/// The longest that a request may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The worker that a command asks.
#[derive(Args)]
pub(super) struct Worker {
    #[command(flatten)]
    file: ConfigFile,
    /// Ask the worker whose admin server is at this address, instead of the worker on this machine
    #[arg(long, value_name = "HOST:PORT|URL")]
    at: Option<String>,
    /// File with the token of the admin server [default: as the settings say]
    #[arg(long, value_name = "FILE", env = "LAPWING_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Write the JSON of the API
    #[arg(long)]
    json: bool,
}

impl Worker {
    /// The JSON at this path of the API.
    fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(Method::GET, path)
    }

    /// Asks for a change.
    fn post(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(Method::POST, path)
    }

    fn ask(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        let url = format!("{}/api/v1/{path}", self.base()?);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let mut request = client()?.request(method, &url);
        if let Some(token) = self.token()? {
            request = request.bearer_auth(token);
        }
        runtime
            .block_on(answer(request))
            .with_context(|| without_password(&url))
    }

    fn base(&self) -> anyhow::Result<String> {
        if let Some(at) = &self.at {
            let at = at.trim_end_matches('/');
            return Ok(match at.contains("://") {
                true => at.to_owned(),
                false => format!("http://{at}"),
            });
        }
        let file = self.file.config.as_deref();
        let (listen, _) = AdminSettings::addresses(file, |name| std::env::var(name).ok());
        let Some(address) = health::local(listen.address()) else {
            bail!("admin.listen is off or has port 0: name the address with --at");
        };
        Ok(format!("http://{address}"))
    }

    /// The token of `--token-file`, or else that of the settings.
    fn token(&self) -> anyhow::Result<Option<String>> {
        let read = |file: &PathBuf| {
            let text = std::fs::read_to_string(file);
            let text = text.with_context(|| format!("failed to read {}", file.display()))?;
            anyhow::Ok(Some(text.trim_end().to_owned()))
        };
        if let Some(file) = &self.token_file {
            return read(file);
        }
        let settings = Settings::load_unvalidated(self.file.config.as_deref(), environment()?)?;
        match (&settings.admin.token, &settings.admin.token_file) {
            (Some(token), _) => Ok(Some(token.expose().to_owned())),
            // On another machine than the worker's the file need not exist.
            (None, Some(file)) if self.at.is_none() || file.exists() => read(file),
            (None, _) => Ok(None),
        }
    }
}

/// Asks the worker itself: a proxy or another server would get the token.
fn client() -> reqwest::Result<reqwest::Client> {
    let client = reqwest::Client::builder().timeout(LIMIT);
    client.no_proxy().redirect(Policy::none()).build()
}

/// The URL as errors show it.
fn without_password(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else {
        return "--at is no address".to_owned();
    };
    // Both fail only for a URL that cannot have them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// The JSON of an answer; the error's text if it is none of success.
async fn answer(request: RequestBuilder) -> anyhow::Result<Value> {
    let response = request.send().await;
    let response = response.context("no answer: is the worker running?")?;
    let status = response.status();
    let text = response.text().await?;
    let json: Result<Value, _> = serde_json::from_str(&text);
    if !status.is_success() {
        let error = json
            .ok()
            .and_then(|json| Some(json.get("error")?.as_str()?.to_owned()));
        bail!("{status}: {}", error.unwrap_or(text));
    }
    json.context("the answer is not that of a worker")
}

/// A path segment of a URL, or a value of its query.
fn segment(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes()
        .map(|byte| match keep(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

/// The query of a URL. Parameters without a value are left out.
fn query(parameters: &[(&str, Option<&str>)]) -> String {
    let given = parameters
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", segment((*value)?))));
    given.collect::<Vec<_>>().join("&")
}

/// A time of the answer, to the second.
fn second(time: &str) -> String {
    print::time(humantime::parse_rfc3339(time).ok())
}

/// A text of the answer; empty if it has none.
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A number of the answer; 0 if it has none.
fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// A duration in three letters or so: `85ms`, `4.2s`, `3m`, `2h`, `5d`; `-` if it is not known.
fn short(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds else {
        return "-".to_owned();
    };
    match seconds {
        ..1.0 => format!("{:.0}ms", seconds * 1000.0),
        ..10.0 => format!("{seconds:.1}s"),
        ..120.0 => format!("{seconds:.0}s"),
        ..7200.0 => format!("{:.0}m", seconds / 60.0),
        ..172_800.0 => format!("{:.0}h", seconds / 3600.0),
        _ => format!("{:.0}d", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_show_no_password() {
        let shown = without_password("http://ops:s3cret@worker:9091/api/v1/status");
        assert_eq!(shown, "http://worker:9091/api/v1/status");
        assert!(!without_password("http://ops:s3cret@").contains("s3cret"));
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        use tokio::{
            io::{AsyncReadExt, AsyncWriteExt},
            net::TcpListener,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            let there = format!("http://{address}/elsewhere");
            let answer = format!(
                "HTTP/1.1 302 Found\r\nLocation: {there}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let request = client().unwrap().get(format!("http://{address}/"));
        let answered = tokio::time::timeout(LIMIT, answer(request));
        let (answered, ()) = tokio::join!(answered, serve);
        let error = answered.unwrap().unwrap_err().to_string();
        assert!(error.starts_with("302"), "{error}");
    }

    #[test]
    fn durations_are_short() {
        let cases = [
            (0.0852, "85ms"),
            (4.21, "4.2s"),
            (61.0, "61s"),
            (600.0, "10m"),
            (9000.0, "2h"),
            (400_000.0, "5d"),
        ];
        for (seconds, wanted) in cases {
            assert_eq!(short(Some(seconds)), wanted);
        }
        assert_eq!(short(None), "-");
    }

    #[test]
    fn a_name_is_one_segment_of_a_path() {
        assert_eq!(segment("orders_eu"), "orders_eu");
        assert_eq!(segment("a/../b c"), "a%2F..%2Fb%20c");
    }
}
