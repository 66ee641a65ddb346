//! A virtual host for one test: its address, its connections, its end.

use std::time::{Duration, Instant};

use lapin::{Channel, Connection, ConnectionProperties, options::ConfirmSelectOptions};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use url::Url;
use uuid::Uuid;

use super::broker::{Broker, TlsFiles};
use super::management::{Management, encode};
use super::wait::{DEADLINE, wait_until, within};

/// The name of the helpers' own connection, which distinguishes it from the worker's.
const HARNESS: &str = "lapwing-test-harness";

/// The pause between two attempts to reach a broker that is starting.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

/// A virtual host that only this test uses, deleted when dropped.
#[derive(Debug)]
pub struct VHost {
    broker: Broker,
    name: String,
    amqp: Mutex<Option<Amqp>>,
}

/// The test's own connection, kept while it works.
#[derive(Debug)]
struct Amqp {
    connection: Connection,
    /// In confirm mode.
    publisher: Channel,
}

/// A connection as the broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The broker's name for it, which [`VHost::close_connection`] takes.
    pub name: String,
    /// The name the client gave itself; empty where it gave none.
    pub client_name: String,
    /// Whether an alarm blocks it from publishing.
    pub state: String,
}

/// A virtual host of this test in the suite's broker, deleted when dropped.
pub async fn vhost() -> VHost {
    Broker::shared().await.vhost().await
}

impl VHost {
    /// A virtual host named after the running test, open to the management user.
    pub(super) async fn create(broker: Broker) -> Self {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("test").replace("::", ".");
        // The slash makes code fail that forgets to encode the name.
        let name = format!("lapwing/{test}/{}", Uuid::now_v7().simple());
        Self::create_named(broker, name).await
    }

    /// A virtual host of this name.
    pub(super) async fn create_named(broker: Broker, name: String) -> Self {
        let management = broker.management();
        let path = encode(&name);
        management.put(&format!("vhosts/{path}"), &json!({})).await;
        let everything = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        let user = encode(management.user());
        management
            .put(&format!("permissions/{path}/{user}"), &everything)
            .await;
        let vhost = Self {
            broker,
            name,
            amqp: Mutex::new(None),
        };
        vhost.prepare_counts().await;
        vhost
    }

    /// Its broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Its name, as it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name as a segment of a path.
    pub(super) fn path(&self) -> String {
        encode(&self.name)
    }

    /// The URL to connect to, with the virtual host encoded.
    pub fn amqp_url(&self) -> String {
        self.url(&self.broker.node().amqp_url)
    }

    /// The URL to connect to over TLS, and the files that a client needs for it.
    pub fn tls(&self) -> Result<(String, TlsFiles), String> {
        let url = self.broker.node().amqps_url.map(|url| self.url(&url));
        let found = url.zip(self.broker.tls());
        found.ok_or_else(|| "nobody said where the broker listens for it".to_owned())
    }

    /// The URL to connect to through `address` (host:port), for instance a proxy.
    pub fn amqp_url_through(&self, address: std::net::SocketAddr) -> String {
        let mut url = Url::parse(&self.amqp_url()).expect("our own url is one");
        url.set_ip_host(address.ip())
            .expect("an amqp url has a host");
        url.set_port(Some(address.port()))
            .expect("an amqp url has a port");
        url.into()
    }

    fn url(&self, broker: &str) -> String {
        let mut url = Url::parse(broker).expect("the broker's url is one");
        url.set_path(&self.path());
        url.into()
    }

    /// A new connection to this virtual host. Retries refused attempts until [`DEADLINE`], because
    /// a node that is starting refuses connections for a while.
    pub async fn connect(&self) -> Connection {
        let (url, started) = (self.amqp_url(), Instant::now());
        loop {
            let properties = ConnectionProperties::default().with_connection_name(HARNESS.into());
            let connecting = Connection::connect(&url, properties);
            match within("connecting to the broker", connecting).await {
                Ok(connection) => return connection,
                Err(error) if started.elapsed() > DEADLINE => {
                    panic!("the broker took no connection for {DEADLINE:?}: {error}")
                }
                Err(_) => tokio::time::sleep(CONNECT_PAUSE).await,
            }
        }
    }

    /// A new channel on the test's own connection, for methods that may close the channel.
    pub async fn channel(&self) -> Channel {
        let mut amqp = self.amqp.lock().await;
        let amqp = self.working(&mut amqp).await;
        let mut tries = 3;
        loop {
            let opening = amqp.connection.create_channel();
            match within("opening a channel", opening).await {
                Ok(channel) => return channel,
                // lapin may still be closing an earlier channel of this number, and returns its
                // error.
                Err(_) if tries > 0 => tries -= 1,
                Err(error) => panic!("no channel opens: {error}"),
            }
        }
    }

    /// The test's own channel in confirm mode.
    pub(super) async fn publisher(&self) -> Channel {
        let mut amqp = self.amqp.lock().await;
        self.working(&mut amqp).await.publisher.clone()
    }

    /// The kept connection and channel. Opens new ones if there are none or they no longer work.
    async fn working<'amqp>(&self, amqp: &'amqp mut Option<Amqp>) -> &'amqp Amqp {
        let works = amqp.as_ref().is_some_and(|amqp| {
            amqp.connection.status().connected() && amqp.publisher.status().connected()
        });
        if !works {
            let connection = self.connect().await;
            let opening = connection.create_channel();
            let publisher = within("opening a channel", opening)
                .await
                .expect("a channel opens");
            let confirming = publisher.confirm_select(ConfirmSelectOptions::default());
            within("confirm mode", confirming)
                .await
                .expect("a new channel takes confirm mode");
            *amqp = Some(Amqp {
                connection,
                publisher,
            });
        }
        amqp.as_ref().expect("made above where it was missing")
    }

    /// The connections of other clients (the worker) to this virtual host. Uses the live list and
    /// not the statistics, which lag by seconds.
    pub async fn connections(&self) -> Vec<Peer> {
        let path = format!("vhosts/{}/connections?disable_stats=true", self.path());
        let listed = self.broker.management().get(&path).await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let peers = listed.as_array().into_iter().flatten().map(|peer| Peer {
            name: text(&peer["name"]),
            client_name: text(&peer["client_properties"]["connection_name"]),
            state: text(&peer["state"]),
        });
        peers.filter(|peer| peer.client_name != HARNESS).collect()
    }

    /// Makes the broker close a connection, and waits until the connection is no longer listed.
    ///
    /// The client sees `connection.close` 320 CONNECTION_FORCED.
    pub async fn close_connection(&self, name: &str) {
        let path = format!("connections/{}", encode(name));
        let management = self.broker.management();
        let gone = async || {
            let answer = management.try_call(Method::DELETE, &path, None).await;
            let listed = self.connections().await;
            (answer.map(|(status, _)| status.as_u16()).ok(), listed)
        };
        let what = format!("the broker closed connection {name}");
        wait_until(&what, DEADLINE, gone, |(_, listed)| {
            listed.iter().all(|peer| peer.name != name)
        })
        .await;
    }

    /// Closes every connection of other clients, and returns their number.
    pub async fn close_connections(&self) -> usize {
        let peers = self.connections().await;
        for peer in &peers {
            self.close_connection(&peer.name).await;
        }
        peers.len()
    }
}

impl Drop for VHost {
    /// Deletes the virtual host, and with it its queues and connections. Best effort.
    fn drop(&mut self) {
        if self.broker.is_own() {
            return; // The whole node is deleted, and may be down already.
        }
        let path = format!("vhosts/{}", self.path());
        let Some(url) = self.broker.node().management_url else {
            return;
        };
        // On a separate thread, because the test's runtime runs this destructor.
        let deleting = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let management = Management::new(&url);
                management
                    .try_call(Method::DELETE, &path, None)
                    .await
                    .map_err(std::io::Error::other)
            })
        });
        match deleting.join() {
            Ok(Ok((status, _))) if status.is_success() => {}
            failed => eprintln!("the virtual host {} stays behind: {failed:?}", self.name),
        }
    }
}
