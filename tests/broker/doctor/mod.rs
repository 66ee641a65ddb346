//! The doctor: planted misconfigurations, each of which it finds, names the mend of, and forgets when
//! it is mended.

mod broker;
mod command;
mod queues;

use lapwing::{
    Settings,
    doctor::{self, Finding, Grade, Report, Surroundings},
};

use crate::support::{Consumers, VHost, consumer, management::encode};

/// A consumer of `orders` that writes its messages to the log, and has two retry queues.
fn orders(vhost: &VHost) -> Consumers {
    let settings = "[consumers.orders]\nhandler = { kind = 'log' }\nretry.cap = '2s'";
    consumer(vhost, "orders").with(settings)
}

/// The same, with the management API.
fn orders_with_management(vhost: &VHost) -> Consumers {
    let url = vhost.broker().node().management_url;
    let mut url = url::Url::parse(&url.expect("the broker has the API")).expect("it is a URL");
    url.set_username("").expect("an http url can lose its user");
    url.set_password(None).expect("and its password");
    orders(vhost).with(&format!("broker.management_url = '{url}'"))
}

async fn examined(consumers: &Consumers) -> Report {
    examined_with(&consumers.settings()).await
}

async fn examined_with(settings: &Settings) -> Report {
    // What this machine and its environment say is no part of a test.
    let around = Surroundings {
        variable: Box::new(|_| None),
        pod_grace: None,
        memory_limit: None,
        memory: None,
        open_files: None,
    };
    doctor::examine(settings, &around).await
}

/// What is to be mended. Secrets in clear are no subject here: the broker may be anywhere.
fn bad(report: &Report) -> Vec<&Finding> {
    let all = report.findings.iter();
    all.filter(|it| it.grade > Grade::Ok && it.check != "secrets-in-clear")
        .collect()
}

/// The only finding, of this check and grade.
#[track_caller]
fn only<'a>(report: &'a Report, check: &str, grade: Grade) -> &'a Finding {
    match bad(report).as_slice() {
        [only] if only.check == check && only.grade == grade => only,
        others => panic!("{check}: {others:#?}"),
    }
}

#[track_caller]
fn assert_well(report: &Report) {
    let bad = bad(report);
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!(report.not_made, [""; 0]);
}

/// A user of this test with these rights, and the URL by which it connects.
async fn user(vhost: &VHost, configure: &str, write: &str, read: &str) -> (String, String) {
    let management = vhost.broker().management();
    let user = format!("doctor-{}", uuid::Uuid::now_v7().simple());
    let about = serde_json::json!({ "password": "secret", "tags": "" });
    management.put(&format!("users/{user}"), &about).await;
    allow(vhost, &user, [configure, write, read]).await;
    let mut url = url::Url::parse(&vhost.amqp_url()).expect("it is one");
    url.set_username(&user).expect("an amqp url has a user");
    url.set_password(Some("secret")).expect("and a password");
    (user, url.to_string())
}

async fn allow(vhost: &VHost, user: &str, [configure, write, read]: [&str; 3]) {
    let rights = serde_json::json!({ "configure": configure, "write": write, "read": read });
    let path = format!("permissions/{}/{user}", encode(vhost.name()));
    vhost.broker().management().put(&path, &rights).await;
}

/// A port that refuses connections as long as the socket lives, and that no other test gets.
fn closed_port() -> (socket2::Socket, u16) {
    let (ip4, stream) = (socket2::Domain::IPV4, socket2::Type::STREAM);
    let socket = socket2::Socket::new(ip4, stream, None).expect("a socket");
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a free port");
    let bound = socket.local_addr().expect("it is bound");
    let port = bound.as_socket().expect("it has a port").port();
    (socket, port)
}

async fn forget(vhost: &VHost, user: &str) {
    let management = vhost.broker().management();
    management.delete(&format!("users/{user}")).await;
}
