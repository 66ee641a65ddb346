//! A real proxy between worker and broker that cuts idle connections.

use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::{QUEUE, handler, orders};
use crate::support::{DEADLINE, VHost, WorkerProcess, log_message, ms, vhost, wait_until};

/// What HAProxy is told to cut.
const IDLE: Duration = Duration::from_secs(2);

/// HAProxy before the broker. Ends when it is dropped.
struct HaProxy {
    _process: Child,
    _folder: TempDir,
    url: String,
}

impl HaProxy {
    async fn before(vhost: &VHost) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = free.local_addr().expect("it is bound");
        drop(free);
        let upstream = url::Url::parse(&vhost.amqp_url()).expect("our own url is one");
        let (host, port) = (upstream.host_str(), upstream.port().unwrap_or(5672));
        let idle = IDLE.as_millis();
        let config = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client {idle}ms\n timeout server {idle}ms\n\
             listen broker\n bind {address}\n server broker {}:{port}\n",
            host.expect("and a host")
        );
        let folder = TempDir::new().expect("a temporary folder");
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, config).expect("a temporary file");
        let process = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(&file)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("haproxy is installed");
        let listens = async || TcpStream::connect(address).await.is_ok();
        wait_until("haproxy listens", DEADLINE, listens, |listens| *listens).await;
        Self {
            _process: process,
            _folder: folder,
            url: vhost.amqp_url_through(address),
        }
    }
}

#[tokio::test]
#[ignore = "needs haproxy: apt-get install haproxy"]
async fn a_proxy_that_cuts_idle_connections_is_found_and_the_advice_helps() {
    let vhost = vhost().await;
    let proxy = HaProxy::before(&vhost).await;
    let handler = handler().await;
    let config = |heartbeat: &str| {
        let changes = format!("[log]\nfilter = 'info'\n[broker]\nheartbeat = '{heartbeat}'");
        orders(&proxy.url, &handler).with(&changes).toml()
    };
    let mut worker = WorkerProcess::start(&config("30s"));
    let hint = |line: &serde_json::Value| line.to_string().contains("cuts idle connections");
    let line = worker.wait_for("the hint", DEADLINE, hint).await;
    let advice = "set broker.heartbeat to \\\"2s\\\" or less";
    assert!(line.to_string().contains(advice), "{line}");
    worker.drain(DEADLINE).await;

    let mut worker = WorkerProcess::start(&config("2s"));
    worker.wait_for_consumers(&vhost, QUEUE, 1).await;
    tokio::time::sleep(IDLE * 4 + ms(500)).await;
    let log = worker.log();
    let lost = log.iter().map(log_message);
    let lost: Vec<_> = lost.filter(|line| line.starts_with("not ")).collect();
    assert!(lost.is_empty(), "{lost:?}");
    worker.drain(DEADLINE).await;
}
