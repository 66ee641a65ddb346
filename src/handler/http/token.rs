//! Tokens of an OAuth 2 server, by client credentials (RFC 6749, 4.4).

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
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
    sync::watch,
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

/// After a request for a token, refusals of the token lead to no other request for so long. A service that
/// refuses some requests for another reason must not bring each of them to the server.
const PAUSE: Duration = Duration::from_secs(10);

/// A token.
pub(super) struct Token {
    /// The value of `authorization`.
    header: HeaderValue,
    fetched_at: Instant,
    ends_at: Instant,
    /// The service has accepted a request with this token.
    is_proven: AtomicBool,
}

impl Token {
    /// Sets the header with this token.
    pub(super) fn put(&self, headers: &mut HeaderMap) {
        headers.insert(AUTHORIZATION, self.header.clone());
    }

    /// A service that takes this token has answered with `status`.
    pub(super) fn answered(&self, status: StatusCode) {
        if status.is_success() && !self.is_proven.load(Ordering::Relaxed) {
            self.is_proven.store(true, Ordering::Relaxed);
        }
    }

    /// The failure of a request that was refused with this token. If the service has never accepted the
    /// token, the refusal says nothing about the message.
    pub(super) fn excuse(&self, failure: Failure) -> Failure {
        match failure.status == Some(401) && !self.is_proven.load(Ordering::Relaxed) {
            true => Failure {
                retryable: true,
                unavailable: true,
                ..failure.of_class(CLASS)
            },
            false => failure,
        }
    }
}

/// The present token, and how to get the next one.
pub(super) struct Tokens {
    server: Arc<Server>,
    state: Arc<Mutex<State>>,
}

/// The server, and how it is asked.
struct Server {
    settings: OAuthSettings,
    url: Url,
    /// The server's URL without its secrets.
    shown: String,
    /// The longest wait for the server's answer.
    limit: Duration,
}

#[derive(Default)]
struct State {
    present: Option<Present>,
    /// The request under way.
    asking: Option<Asking>,
}

#[derive(Clone)]
struct Present {
    token: Arc<Token>,
    replace_at: Instant,
}

type Asking = watch::Receiver<Option<Result<Arc<Token>, Failure>>>;

impl Tokens {
    /// # Errors
    /// If the server's URL cannot be read.
    pub(super) fn new(settings: &OAuthSettings, limit: Duration) -> Result<Self, String> {
        let url = Url::parse(&settings.token_url);
        let server = Server {
            url: url.map_err(|error| format!("oauth.token_url: {error}"))?,
            shown: cut(&redact(&settings.token_url), 256).to_owned(),
            settings: settings.clone(),
            limit,
        };
        Ok(Self {
            server: Arc::new(server),
            state: Arc::default(),
        })
    }

    /// Whether the server is asked over TLS.
    pub(super) fn needs_tls(&self) -> bool {
        self.server.url.scheme() == "https"
    }

    /// The token for a request that must end at `deadline`. One request at a time asks the server, in a
    /// task that no other request ends. Nobody waits for it while there is a token.
    ///
    /// # Errors
    /// If the server gives none, or none in half of the time that is left: the service is unavailable.
    pub(super) async fn token(
        &self,
        client: &Client,
        deadline: Option<Instant>,
    ) -> Result<Arc<Token>, Failure> {
        let now = Instant::now();
        let mut asking = {
            let mut state = lock(&self.state);
            if let Some(Present { token, replace_at }) = &state.present
                && now < *replace_at
            {
                return Ok(Arc::clone(token));
            }
            let is_under_way = |asking: &&Asking| asking.has_changed().is_ok();
            let asking = match state.asking.as_ref().filter(is_under_way) {
                Some(asking) => asking.clone(),
                None => state.asking.insert(self.ask(client)).clone(),
            };
            match &state.present {
                Some(present) if now < present.token.ends_at => {
                    return Ok(Arc::clone(&present.token));
                }
                _ => asking,
            }
        };
        let answered = async {
            let answer = asking.wait_for(Option::is_some).await;
            let answer = answer.ok().and_then(|answer| (*answer).clone());
            answer.unwrap_or_else(|| Err(self.server.failure("was not asked to the end")))
        };
        match deadline.map(|deadline| deadline.saturating_duration_since(now) / 2) {
            None => answered.await,
            Some(limit) => timeout(limit, answered).await.unwrap_or_else(|_| {
                let limit = crate::text::seconds(limit);
                let why =
                    format!("has not answered within {limit}, half of the time of the attempt");
                Err(self.server.failure(&why))
            }),
        }
    }

    /// Asks the server in a task of its own. Its answer becomes the present token.
    fn ask(&self, client: &Client) -> Asking {
        let (answer, asking) = watch::channel(None);
        let (server, state) = (Arc::clone(&self.server), Arc::clone(&self.state));
        let client = client.clone();
        tokio::spawn(async move {
            let fetched = timeout(server.limit, server.fetch(&client)).await;
            let fetched = fetched.unwrap_or_else(|_| {
                let limit = crate::text::seconds(server.limit);
                Err(server.failure(&format!("does not answer within {limit}")))
            });
            let mut state = lock(&state);
            let fetched = fetched.map(|(token, replace_at)| {
                let token = Arc::new(token);
                state.present = Some(Present {
                    token: Arc::clone(&token),
                    replace_at,
                });
                token
            });
            let now = Instant::now();
            if let (Err(_), Some(present)) = (&fetched, &mut state.present) {
                present.replace_at = (now + AGAIN).min(present.token.ends_at);
            }
            // The next request asks anew, if it must.
            state.asking = None;
            answer.send_replace(Some(fetched));
        });
        asking
    }

    /// The service has refused this token. Whether another one may help: then the next request has it.
    pub(super) fn refused(&self, refused: &Arc<Token>) -> bool {
        let mut state = lock(&self.state);
        match &state.present {
            Some(present) if Arc::ptr_eq(&present.token, refused) => {
                let is_old = refused.fetched_at.elapsed() >= PAUSE;
                if is_old {
                    state.present = None;
                }
                is_old
            }
            _ => true,
        }
    }
}

impl Server {
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
            fetched_at: Instant::now(),
            ends_at: began + life,
            is_proven: AtomicBool::new(false),
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
