//! The broker of a test: the suite's node, the test's own node, or the broker of `AMQP_URL`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use url::Url;

use super::management::Management;
use super::script::{self, Node};
use super::vhost::VHost;

/// The name of the node that the tests share, and the prefix of all other nodes' names.
const SUITE_NODE: &str = "suite";

/// Erlang code that writes the list of quorum queues to disk. Evaluated in a node before it is
/// killed.
///
/// RabbitMQ writes the list only after half a second without changes. A quorum queue declared just
/// before a SIGKILL comes back without its confirmed messages: on 3.10.8 and 4.0.5 it has no leader
/// either, on 4.3.6 it is empty [measured, one node]. Only a client as fast as a test meets this
/// fault of the broker, and the test would count it as a loss by the worker. The code does not
/// touch messages.
const SYNC_QUEUE_NAMES: &str = "[dets:sync(Table) || Table <- dets:all(), is_atom(Table), \
     lists:suffix(\"directory_reverse\", atom_to_list(Table))].";

/// The release lines whose semantics the suites distinguish, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// `nack(requeue)` counts as a delivery, no default delivery limit.
    V3_10,
    /// Default delivery limit 20; `x-death` of clients is ignored.
    V4_0,
    /// `nack(requeue)` no longer counts; a consumer timeout cancels instead of closing the channel.
    V4_3,
    /// Any other release line, by major and minor number.
    Other(u32, u32),
}

impl Release {
    /// The line of a full version such as `3.10.8`.
    fn of(version: &str) -> Self {
        let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
        match (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) {
            (3, 10) => Self::V3_10,
            (4, 0) => Self::V4_0,
            (4, 3) => Self::V4_3,
            (major, minor) => Self::Other(major, minor),
        }
    }
}

/// The certificates of a node's TLS listener.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authority that signed the node's certificate and the client's.
    pub ca: PathBuf,
    /// A client certificate that the node accepts.
    pub client_certificate: PathBuf,
    /// The private key of the client certificate.
    pub client_key: PathBuf,
}

/// A running broker. Clones are the same broker.
#[derive(Clone, Debug)]
pub struct Broker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    origin: Origin,
    /// The node's addresses and process. The process changes with every start.
    node: Mutex<Node>,
    management: Option<Management>,
}

/// Who started the node. This decides what a test may do to it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// The broker of `AMQP_URL`, reachable by AMQP and HTTP only.
    Given,
    /// A node that the script started for all tests. It keeps running after them.
    Shared,
    /// A node that the script started for one test, which deletes it.
    Own(String),
}

impl Broker {
    /// The broker that the tests of this suite share: `AMQP_URL`'s, else the suite's own node.
    pub async fn shared() -> Self {
        // Plain data only: values of one test's runtime must not outlive that test.
        static NODE: OnceCell<(Origin, Node)> = OnceCell::const_new();
        let (origin, node) = NODE
            .get_or_init(|| async {
                match std::env::var("AMQP_URL") {
                    Ok(url) => (Origin::Given, given(&url).await),
                    Err(_) => match script::up(SUITE_NODE).await {
                        Ok(node) => (Origin::Shared, node),
                        Err(error) => panic!("the suite's node did not come up: {error}"),
                    },
                }
            })
            .await;
        Self::new(origin.clone(), node.clone())
    }

    /// A fresh node for this test only: for stops, alarms and crashes, which would disturb other
    /// tests.
    ///
    /// `name` consists of small letters, digits and dashes, and must be unique among the tests. The
    /// node is deleted when the last clone is dropped. The error says why the node could not be
    /// started.
    pub async fn own(name: &str) -> Result<Self, String> {
        let name = format!("{SUITE_NODE}-{name}");
        // Deletes a node of this name that a killed test run has left.
        script::down(&name).await?;
        let node = script::up(&name).await?;
        Ok(Self::new(Origin::Own(name), node))
    }

    fn new(origin: Origin, node: Node) -> Self {
        let management = node.management_url.as_deref().map(Management::new);
        let node = Mutex::new(node);
        Self {
            inner: Arc::new(Inner {
                origin,
                node,
                management,
            }),
        }
    }

    /// A fresh virtual host, deleted when dropped.
    pub async fn vhost(&self) -> VHost {
        VHost::create(self.clone()).await
    }

    /// The same with a name of ten bytes, for texts of the broker that a long one makes it cut.
    pub async fn vhost_with_a_short_name(&self) -> VHost {
        let id = uuid::Uuid::now_v7().simple().to_string();
        VHost::create_named(self.clone(), id[22..].to_owned()).await
    }

    /// The release line, for semantics that differ.
    pub fn release(&self) -> Release {
        Release::of(&self.node().version)
    }

    /// The current addresses and process of the node.
    pub fn node(&self) -> Node {
        self.inner
            .node
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The management API. Panics if the broker has none.
    pub fn management(&self) -> &Management {
        self.inner.management.as_ref().expect(
            "this test needs the management API of the broker: enable the plugin and set \
             MANAGEMENT_URL",
        )
    }

    /// The certificates of the node's TLS listener; `None` if their folder is unknown.
    pub(super) fn tls(&self) -> Option<TlsFiles> {
        let dir = self.node().tls_dir?;
        Some(TlsFiles {
            ca: dir.join("ca.pem"),
            client_certificate: dir.join("client.pem"),
            client_key: dir.join("client.key"),
        })
    }

    /// Runs `rabbitmqctl` on the node and returns its output.
    pub async fn ctl(&self, args: &[&str]) -> String {
        let name = self
            .script_name()
            .expect("a broker given by AMQP_URL has no rabbitmqctl here");
        script::ctl(name, args)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Stops the node cleanly. Its data stays.
    pub async fn stop(&self) {
        script::stop(self.own_name())
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Kills the node's process (SIGKILL) and waits until the process has ended. The data stays.
    pub async fn kill(&self) {
        let name = self.own_name();
        self.ctl(&["eval", SYNC_QUEUE_NAMES]).await;
        script::kill(name)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Starts the node again, at the same addresses and with the data it had.
    pub async fn start(&self) {
        let node = script::up(self.own_name())
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let mut known = self
            .inner
            .node
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        assert_eq!(
            known.amqp_url, node.amqp_url,
            "a node that starts again keeps its address"
        );
        *known = node;
    }

    /// Whether `rabbitmqctl` reaches the node; the error says why not.
    pub fn has_rabbitmqctl(&self) -> Result<(), String> {
        let ours = self.script_name().map(drop);
        ours.ok_or_else(|| "it does not reach the broker that AMQP_URL names".to_owned())
    }

    /// Whether only this test uses the node.
    pub(super) fn is_own(&self) -> bool {
        matches!(self.inner.origin, Origin::Own(_))
    }

    /// The node's name in the script; `None` for the broker of `AMQP_URL`.
    pub(super) fn script_name(&self) -> Option<&str> {
        match &self.inner.origin {
            Origin::Given => None,
            Origin::Shared => Some(SUITE_NODE),
            Origin::Own(name) => Some(name),
        }
    }

    /// The name of a node that a test may stop.
    fn own_name(&self) -> &str {
        match &self.inner.origin {
            Origin::Own(name) => name,
            _ => panic!("other tests use this node: take Broker::own to stop or kill one"),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Origin::Own(name) = &self.origin {
            script::down_blocking(name);
        }
    }
}

/// The broker of `AMQP_URL`, with its management API if that answers.
async fn given(amqp_url: &str) -> Node {
    let url = Url::parse(amqp_url).expect("AMQP_URL is an url");
    let host = url.host_str().expect("AMQP_URL names a host");
    let (user, password) = match (url.username(), url.password()) {
        ("", _) => ("guest", "guest"),
        (user, password) => (user, password.unwrap_or_default()),
    };
    let management_url = std::env::var("MANAGEMENT_URL")
        .unwrap_or_else(|_| format!("http://{user}:{password}@{host}:15672"));
    let overview = Management::new(&management_url)
        .try_call(reqwest::Method::GET, "overview", None)
        .await
        .map(|(_, overview)| overview);
    let version = overview
        .as_ref()
        .ok()
        .and_then(|seen| seen["rabbitmq_version"].as_str());
    Node {
        amqp_url: amqp_url.to_owned(),
        amqps_url: std::env::var("AMQPS_URL").ok(),
        pid: None,
        tls_dir: std::env::var_os("RABBITMQ_TLS_DIR").map(PathBuf::from),
        version: version.unwrap_or_default().to_owned(),
        management_url: version.is_some().then_some(management_url),
    }
}
