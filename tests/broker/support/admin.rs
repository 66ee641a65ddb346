//! A client of the health and admin server.

use std::net::SocketAddr;
use std::sync::Arc;

use lapwing::Settings;
use lapwing::WorkerHandle;
use lapwing::admin::Server;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use super::wait::{DEADLINE, wait_until, within};
use super::worker::WorkerProcess;
use super::worker_log::field;

/// The token of workers that can be changed.
pub const TOKEN: &str = "correct-horse-battery";

/// Settings for a server on any free port, with that token.
pub const ADMIN: &str = "[admin]\nlisten = '127.0.0.1:0'\ntoken = 'correct-horse-battery'\n";

/// The status and JSON of an answer.
pub type Answer = (u16, Value);

/// A client of one admin server.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    client: reqwest::Client,
    /// The server, if it runs in the test's process.
    server: Option<Server>,
}

impl Admin {
    /// The server of a worker in this process.
    pub fn start(settings: &Settings, worker: &WorkerHandle) -> Self {
        let scrape = Arc::new(|| "up 1\n".to_owned());
        let server = Server::start(settings, worker.clone(), scrape).expect("it can listen");
        let address = server.address().expect("it is not off");
        Self {
            server: Some(server),
            ..Self::at(address)
        }
    }

    /// Waits until the server of a worker process listens.
    pub async fn of(worker: &WorkerProcess) -> Self {
        let line = worker
            .wait_for_message("admin server listening", DEADLINE)
            .await;
        let address = field(&line, "address").as_str().expect("it is named");
        Self::at(address.parse().expect("it is an address"))
    }

    fn at(address: SocketAddr) -> Self {
        Self {
            address,
            client: reqwest::Client::new(),
            server: None,
        }
    }

    /// The server's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a request without a token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("http://{}{path}", self.address);
        self.client.request(method, url)
    }

    /// The answer to a GET.
    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    /// The answer to a GET, which must be 200.
    pub async fn read(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// The answer to a POST with the token.
    pub async fn post(&self, path: &str) -> Answer {
        answer(self.request(Method::POST, path).bearer_auth(TOKEN)).await
    }

    /// The answer to a PATCH with the token and this JSON.
    pub async fn patch(&self, path: &str, body: &str) -> Answer {
        let request = self.request(Method::PATCH, path).bearer_auth(TOKEN);
        let request = request.header("content-type", "application/json");
        answer(request.body(body.to_owned())).await
    }

    /// Waits until `accept` returns true for the answer to a GET.
    pub async fn until(&self, path: &str, accept: impl Fn(&Answer) -> bool) -> Answer {
        let what = format!("{path} answers as wanted");
        wait_until(&what, DEADLINE, async || self.get(path).await, accept).await
    }

    /// Ends a server that runs in the test's process.
    pub async fn stop(mut self) {
        let server = self.server.take().expect("it is ours");
        server.stop().await;
    }
}

/// The status and JSON of the answer to a request. Text that is not JSON becomes a string.
pub async fn answer(request: RequestBuilder) -> Answer {
    let response: Response = within("the admin server's answer", request.send())
        .await
        .expect("the admin server answers");
    let status = response.status().as_u16();
    let text = within("the answer's body", response.text())
        .await
        .expect("it has a body");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (status, body)
}

/// A stream of events.
#[derive(Debug)]
pub struct Events {
    response: Response,
    text: String,
}

impl Events {
    /// Opens a stream.
    pub async fn open(admin: &Admin) -> Self {
        let request = admin.request(Method::GET, "/api/v1/events");
        let response = within("the stream", request.send())
            .await
            .expect("an answer");
        assert_eq!(response.status(), 200);
        let kind = &response.headers()["content-type"];
        assert_eq!(kind, "text/event-stream");
        Self {
            response,
            text: String::new(),
        }
    }

    /// The next event of this name for which `accept` returns true. Skips other events.
    pub async fn next(&mut self, name: &str, accept: impl Fn(&Value) -> bool) -> Value {
        let what = format!("an event {name} as wanted");
        within(&what, async {
            loop {
                let (event, data) = self.any().await.expect("the stream goes on");
                if event == name && accept(&data) {
                    return data;
                }
            }
        })
        .await
    }

    /// Waits for the end of the stream.
    pub async fn ended(mut self) {
        within("the stream's end", async {
            while self.any().await.is_some() {}
        })
        .await;
    }

    async fn any(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                let name = line("event: ").expect("it has a name").to_owned();
                let data = line("data: ").expect("it has data");
                let data = serde_json::from_str(data).expect("it is JSON");
                self.text = rest.to_owned();
                return Some((name, data));
            }
            let piece = self.response.chunk().await.expect("it can be read")?;
            self.text += std::str::from_utf8(&piece).expect("it is cut between letters");
        }
    }
}
