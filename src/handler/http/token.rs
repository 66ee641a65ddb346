//! Tokens of an OAuth 2 server, by client credentials (RFC 6749, 4.4).

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    fs,
    time::{Instant, timeout},
};
use url::form_urlencoded;

use super::{
    answer,
    settings::{OAuthSettings, SecretIn},
};
use crate::{
    clock,
    config::{Secret, redact},
    lock::lock,
    outcome::Failure,
    text::{causes, cut},
};

/// The class of an attempt that gets no token.
pub(super) const CLASS: &str = "http-token";
/// The most bytes of the server's answer.
const ANSWER: usize = 64 * 1024;
/// How long a token is used whose answer does not say how long it lives.
const LIFE: Duration = Duration::from_secs(5 * 60);
/// The longest life that is believed.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// A token is replaced this long before its end, or after nine tenths of a short life.
const BEFORE_ITS_END: Duration = Duration::from_secs(30);
/// The wait before the next try to replace a token that is still good.
const AGAIN: Duration = Duration::from_secs(5);

/// A token.
pub(super) struct Token {
    /// The value of `authorization`.
    header: HeaderValue,
    ends_at: Instant,
}

impl Token {
    /// Sets the header with this token.
    pub(super) fn put(&self, headers: &mut HeaderMap) {
        headers.insert(AUTHORIZATION, self.header.clone());
    }
}

/// The present token, and how to get the next one.
pub(super) struct Tokens {
    settings: OAuthSettings,
    url: Url,
    /// The server's URL without its secrets.
    shown: String,
    /// The longest wait for the server's answer.
    limit: Duration,
    present: Mutex<Option<Present>>,
    /// Held by the one request that asks for a token: when the server last gave none, and why.
    asking: tokio::sync::Mutex<Option<(Instant, Failure)>>,
}

struct Present {
    token: Arc<Token>,
    replace_at: Instant,
}

impl Tokens {
    /// # Errors
    /// If the server's URL cannot be read.
    pub(super) fn new(settings: &OAuthSettings, limit: Duration) -> Result<Self, String> {
        let url = Url::parse(&settings.token_url);
        Ok(Self {
            url: url.map_err(|error| format!("oauth.token_url: {error}"))?,
            shown: cut(&redact(&settings.token_url), 256).to_owned(),
            settings: settings.clone(),
            limit,
            present: Mutex::new(None),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// Whether the server is asked over TLS.
    pub(super) fn needs_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The token for a request. One request at a time asks the server, and others wait for its answer.
    ///
    /// # Errors
    /// If the server gives none: the service is unavailable.
    pub(super) async fn token(&self, client: &Client) -> Result<Arc<Token>, Failure> {
        if let Some(token) = self.fresh() {
            return Ok(token);
        }
        let began = Instant::now();
        let mut failed = self.asking.lock().await;
        if let Some(token) = self.fresh() {
            return Ok(token);
        }
        if let Some((at, failure)) = &*failed
            && *at >= began
        {
            return Err(failure.clone());
        }
        let fetched = timeout(self.limit, self.fetch(client)).await;
        let fetched = fetched.unwrap_or_else(|_| {
            let limit = crate::text::seconds(self.limit);
            Err(self.failure(&format!("does not answer within {limit}")))
        });
        let now = Instant::now();
        match fetched {
            Ok((token, replace_at)) => {
                let token = Arc::new(token);
                *lock(&self.present) = Some(Present {
                    token: Arc::clone(&token),
                    replace_at,
                });
                Ok(token)
            }
            Err(failure) => match self.still_good(now) {
                Some(token) => Ok(token),
                None => {
                    *failed = Some((now, failure.clone()));
                    Err(failure)
                }
            },
        }
    }

    /// The service has refused this token: the next request asks for another one.
    pub(super) fn forget(&self, refused: &Arc<Token>) {
        let mut present = lock(&self.present);
        if present
            .as_ref()
            .is_some_and(|it| Arc::ptr_eq(&it.token, refused))
        {
            *present = None;
        }
    }

    /// The present token, if it need not be replaced.
    fn fresh(&self) -> Option<Arc<Token>> {
        let present = lock(&self.present);
        let present = present.as_ref()?;
        (Instant::now() < present.replace_at).then(|| Arc::clone(&present.token))
    }

    /// The present token, if it has not ended. It is replaced later.
    fn still_good(&self, now: Instant) -> Option<Arc<Token>> {
        let mut present = lock(&self.present);
        let present = present.as_mut().filter(|it| now < it.token.ends_at)?;
        present.replace_at = (now + AGAIN).min(present.token.ends_at);
        Some(Arc::clone(&present.token))
    }

    /// Asks the server for a token. Also returns when to replace it.
    async fn fetch(&self, client: &Client) -> Result<(Token, Instant), Failure> {
        let file = &self.settings.client_secret_file;
        let secret = fs::read_to_string(file).await.map_err(|error| {
            let text = format!("cannot read {}: {error}", file.display());
            Failure::unavailable(CLASS, text)
        })?;
        let secret = Secret::from(secret.trim());
        let began = Instant::now();
        let sent = self.request(client, &secret).send().await;
        let response = sent.map_err(|error| {
            // reqwest's own text has the URL.
            let cause = std::error::Error::source(&error).map(causes);
            self.failure(&format!("gives no answer: {}", cause.unwrap_or_default()))
        })?;
        let (status, retry_after) = (
            response.status(),
            answer::retry_after(&response, clock::now()),
        );
        let body = read(response).await;
        if !status.is_success() {
            let mut failure = self.failure(&refusal(status, &body));
            failure.retry_after = retry_after;
            return Err(failure);
        }
        let granted = serde_json::from_slice::<Granted>(&body).ok();
        let header = granted.as_ref().and_then(Granted::header);
        let (Some(granted), Some(header)) = (granted, header) else {
            return Err(self.failure("answers without a bearer token"));
        };
        let life = granted.life();
        let early = BEFORE_ITS_END.min(life / 10);
        let token = Token {
            header,
            ends_at: began + life,
        };
        Ok((token, began + life - early))
    }

    fn request(&self, client: &Client, secret: &Secret) -> RequestBuilder {
        let settings = &self.settings;
        let id = settings.client_id.as_str();
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        let optional = [("scope", &settings.scope), ("audience", &settings.audience)];
        for (name, value) in optional {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        let mut headers = HeaderMap::new();
        match settings.secret_in {
            SecretIn::Body => {
                form.append_pair("client_id", id);
                form.append_pair("client_secret", secret.expose());
            }
            SecretIn::Header => drop(headers.insert(AUTHORIZATION, basic(id, secret))),
        }
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let form_type = "application/x-www-form-urlencoded";
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(form_type));
        let request = client.post(self.url.clone());
        request.headers(headers).body(form.finish())
    }

    /// The failure of an attempt that gets no token.
    fn failure(&self, why: &str) -> Failure {
        let text = format!("no token: {} {why}", self.shown);
        Failure::unavailable(CLASS, text)
    }
}

/// The id and the secret in a header (RFC 6749, 2.3.1).
fn basic(id: &str, secret: &Secret) -> HeaderValue {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let both = format!("{}:{}", encoded(id), encoded(secret.expose()));
    let text = format!("Basic {}", BASE64_STANDARD.encode(both));
    let mut value = HeaderValue::from_str(&text).expect("Base64 is printable");
    value.set_sensitive(true);
    value
}

/// Reads the answer, up to a limit. What breaks off is no JSON.
async fn read(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = ANSWER - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == ANSWER {
            break;
        }
    }
    body
}

/// The answer of a server that gives no token: its status and the code of its error (RFC 6749, 5.2). The
/// rest of the answer may hold secrets.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refused {
        error: String,
    }
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let is_code = |code: &String| code.len() <= 64 && code.bytes().all(is_part);
    let refused = serde_json::from_slice::<Refused>(body).ok();
    match refused.map(|it| it.error).filter(is_code) {
        Some(code) => format!("answers HTTP {status}: {code}"),
        None => format!("answers HTTP {status}"),
    }
}

/// The answer of a server that gives a token.
#[derive(Deserialize)]
struct Granted {
    access_token: Secret,
    token_type: Option<String>,
    expires_in: Option<Value>,
}

impl Granted {
    /// The value of `authorization`. `None`: the token is of another type, or cannot be sent.
    fn header(&self) -> Option<HeaderValue> {
        let token_type = self.token_type.as_deref().unwrap_or("bearer");
        let token = self.access_token.expose();
        if !token_type.eq_ignore_ascii_case("bearer") || token.is_empty() {
            return None;
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// How long the token lives. Some servers write the number as text.
    fn life(&self) -> Duration {
        let seconds = match &self.expires_in {
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        let life = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        life.unwrap_or(LIFE).min(LONGEST_LIFE)
    }
}
