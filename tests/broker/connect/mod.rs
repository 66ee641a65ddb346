//! Connecting to a broker that is not up yet, refuses, is one of several, speaks TLS or never
//! answers; and secrets, which change and never appear in the log.

mod idle;
mod process;
mod reach;
mod secrets;
mod tls;

use serde_json::json;
use uuid::Uuid;

use crate::support::{
    Consumers, HttpHandler, Reply, VHost, WorkerProcess, consumer, consumer::BrokerUrl,
    management::encode,
};

const QUEUE: &str = "orders";

/// The consumer, with short waits between attempts to connect, and a log of everything.
fn orders(broker: &(impl BrokerUrl + ?Sized), handler: &HttpHandler) -> Consumers {
    let quick = "timeouts = { connect = '2s', handshake = '5s' }\nlog.filter = 'trace'\n\
                 consumers.orders.retry.cap = '1s'";
    consumer(broker, QUEUE).http(handler).quick().with(quick)
}

async fn handler() -> HttpHandler {
    HttpHandler::answering(|_| Reply::ok()).await
}

/// A user of the broker with a unique password. [`User::delete`] deletes the user.
struct User<'vhost> {
    vhost: &'vhost VHost,
    name: String,
    password: String,
}

impl<'vhost> User<'vhost> {
    async fn create(vhost: &'vhost VHost) -> Self {
        let name = format!("connect-{}", Uuid::now_v7().simple());
        let mut user = Self {
            vhost,
            name,
            password: String::new(),
        };
        user.rotate().await;
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        let at = format!("permissions/{}/{}", encode(vhost.name()), user.name);
        vhost.broker().management().put(&at, &all).await;
        user
    }

    /// Gives the user a new password.
    async fn rotate(&mut self) {
        self.password = format!("secret{}", Uuid::now_v7().simple());
        let user = json!({ "password": self.password, "tags": "" });
        let at = format!("users/{}", self.name);
        self.vhost.broker().management().put(&at, &user).await;
    }

    /// `url`, with this user and `password`.
    fn url(&self, url: &str, password: &str) -> String {
        let mut url = url::Url::parse(url).expect("our own url is one");
        url.set_username(&self.name)
            .expect("an amqp url has a user");
        url.set_password(Some(password)).expect("and a password");
        url.into()
    }

    async fn delete(self) {
        let at = format!("users/{}", self.name);
        self.vhost.broker().management().delete(&at).await;
    }
}

/// Asserts that the secret is nowhere in the worker's output. The worker must have exited.
#[track_caller]
fn assert_never_says(worker: &WorkerProcess, secret: &str) {
    assert!(!secret.is_empty());
    let log = worker.log();
    assert!(!log.is_empty(), "it said something at all");
    let said = log.iter().find(|line| line.to_string().contains(secret));
    assert_eq!(said, None, "{secret} is a secret");
}
