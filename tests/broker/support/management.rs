//! A client of the broker's management HTTP API, with the calls that the tests need.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use url::Url;

/// The longest time for one call. Deleting a virtual host with many quorum queues is the slowest.
const CALL_DEADLINE: Duration = Duration::from_secs(20);

/// A client of one broker's management API.
///
/// Each test makes its own client, because pooled connections belong to the runtime that opened
/// them, and each test has its own runtime.
#[derive(Clone, Debug)]
pub struct Management {
    client: Client,
    base: Url,
    user: String,
    password: String,
}

impl Management {
    /// A client for `base`, such as `http://guest:guest@127.0.0.1:15672`. The default user is
    /// guest.
    pub fn new(base: &str) -> Self {
        let mut base = Url::parse(base)
            .unwrap_or_else(|error| panic!("management url {base:?} is no url: {error}"));
        let (user, password) = match (base.username(), base.password()) {
            ("", _) => ("guest".to_owned(), "guest".to_owned()),
            (user, password) => (user.to_owned(), password.unwrap_or_default().to_owned()),
        };
        base.set_username("")
            .expect("an http url can lose its user");
        base.set_password(None)
            .expect("an http url can lose its password");
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let client = Client::builder()
            .timeout(CALL_DEADLINE)
            .no_proxy()
            .build()
            .expect("a plain http client needs nothing from the system");
        Self {
            client,
            base,
            user,
            password,
        }
    }

    /// The user of all calls, who gets permissions in new virtual hosts.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// One call. `path` consists of encoded segments ([`encode`]) and may have a query.
    ///
    /// Returns the status and the body; `Null` if there is no body or it is not JSON.
    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), reqwest::Error> {
        let url = format!("{}api/{path}", self.base);
        let mut request = self
            .client
            .request(method, url)
            .basic_auth(&self.user, Some(&self.password));
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or_default()))
    }

    /// [`Self::try_call`] that must succeed.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        match self.try_call(method.clone(), path, body).await {
            Ok((status, answer)) if status.is_success() => answer,
            Ok((status, answer)) => panic!("management: {method} {path}: {status} {answer}"),
            Err(error) => panic!(
                "management at {} did not answer {method} {path}: {error:?}\n\
                 (this test needs the management plugin; MANAGEMENT_URL says where it is)",
                self.base
            ),
        }
    }

    /// The answer to a GET.
    pub async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).await
    }

    /// Creates or changes what `path` names.
    pub async fn put(&self, path: &str, body: &Value) {
        self.call(Method::PUT, path, Some(body)).await;
    }

    /// Deletes what `path` names, which must exist.
    pub async fn delete(&self, path: &str) {
        self.call(Method::DELETE, path, None).await;
    }
}

/// `segment` with every character encoded that a path segment cannot hold, slashes included.
pub fn encode(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
