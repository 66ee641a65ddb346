//! The pod's deletion cost, by which Kubernetes chooses the pods to delete when it scales in.
//!
//! When a Deployment loses replicas, Kubernetes deletes the pods with the lowest
//! `controller.kubernetes.io/pod-deletion-cost` first. The worker writes the number of its deliveries in
//! flight there, so busy pods are deleted last. The cost is only a hint: every deleted pod drains.

mod settings;

use std::{env, fs, io, path::PathBuf, time::Duration};

use reqwest::{Certificate, Client, StatusCode, header};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

pub use settings::PodDeletionCostSettings;

use crate::WorkerHandle;

const ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The folder where Kubernetes mounts a pod's token, its namespace and the API server's CA certificate.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The longest that one write may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The most characters of an answer that go into a log line.
const SHOWN: usize = 300;

/// Why the annotation could not be written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("not in a Kubernetes pod: no KUBERNETES_SERVICE_HOST")]
    Outside,
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error("API server: {0}")]
    Request(#[from] reqwest::Error),
    #[error("API server: {status}: {text}")]
    Refused { status: StatusCode, text: String },
}

/// Keeps the annotation at the number of the worker's deliveries in flight, while this is polled. Does
/// nothing without the name of a pod. If a write fails, this logs the error and tries again after the
/// next interval.
pub async fn keep(worker: WorkerHandle, settings: PodDeletionCostSettings) {
    if settings.pod.is_empty() {
        return;
    }
    keep_at(Api::of_this_pod, || in_flight(&worker), settings).await;
}

async fn keep_at(
    api: impl Fn() -> Result<Api, WriteError>,
    cost: impl Fn() -> i32,
    settings: PodDeletionCostSettings,
) {
    let mut looks = interval(settings.interval);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The current annotation is unknown at first: the container may have been restarted.
    let mut written = None;
    let mut failing = false;
    loop {
        looks.tick().await;
        let cost = cost();
        if written == Some(cost) {
            continue;
        }
        let wrote = match api() {
            Ok(api) => api.write(&settings.pod, cost).await,
            Err(error) => Err(error),
        };
        match wrote {
            Ok(()) => {
                debug!(pod = settings.pod, cost, "pod deletion cost written");
                if failing {
                    info!(pod = settings.pod, cost, "pod deletion cost written again");
                }
                written = Some(cost);
                failing = false;
            }
            Err(error) if failing => debug!(%error, "failed to write the pod deletion cost"),
            Err(error) => {
                warn!(%error, "failed to write the pod deletion cost; trying again");
                failing = true;
            }
        }
    }
}

/// The deliveries in flight in all consumers, including those that wait for a handler slot.
fn in_flight(worker: &WorkerHandle) -> i32 {
    let reports = worker
        .consumers()
        .filter_map(|consumer| worker.report(consumer).ok());
    let sum: usize = reports.map(|consumer| consumer.in_flight).sum();
    i32::try_from(sum).unwrap_or(i32::MAX)
}

/// The API server of the cluster, as seen from a pod.
struct Api {
    url: String,
    /// The folder with the token. Kubernetes replaces its files, so they are read for each write.
    account: PathBuf,
}

impl Api {
    fn of_this_pod() -> Result<Self, WriteError> {
        let variable = |name| env::var(name).map_err(|_| WriteError::Outside);
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        // A URL needs brackets around an IPv6 address.
        let host = match host.contains(':') {
            true => format!("[{host}]"),
            false => host,
        };
        Ok(Self {
            url: format!("https://{host}:{port}"),
            account: ACCOUNT.into(),
        })
    }

    /// Writes the annotation. The merge patch leaves the rest of the pod unchanged.
    async fn write(&self, pod: &str, cost: i32) -> Result<(), WriteError> {
        let (token, namespace) = (self.read("token")?, self.read("namespace")?);
        let authority = Certificate::from_pem_bundle(self.read("ca.crt")?.as_bytes())?;
        let client = Client::builder()
            .timeout(LIMIT)
            .no_proxy()
            .tls_certs_only(authority)
            .user_agent(concat!("lapwing/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let patch = json!({ "metadata": { "annotations": { ANNOTATION: cost.to_string() } } });
        let url = format!("{}/api/v1/namespaces/{namespace}/pods/{pod}", self.url);
        let answer = client
            .patch(url)
            .bearer_auth(token)
            .header(header::CONTENT_TYPE, "application/merge-patch+json")
            .body(patch.to_string())
            .send()
            .await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let text = answer.text().await.unwrap_or_default();
        let text = text.chars().take(SHOWN).collect();
        Err(WriteError::Refused { status, text })
    }

    fn read(&self, file: &str) -> Result<String, WriteError> {
        let path = self.account.join(file);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(error) => Err(WriteError::File { path, error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Arc, Mutex, atomic::AtomicI32, atomic::Ordering},
    };

    use axum::{Router, http::HeaderMap};
    use tokio::{net::TcpListener, sync::mpsc};

    use super::*;

    /// A write that the API server received: path, content type, authorization, body.
    type Write = [String; 4];

    /// An API server that answers with these statuses in turn, then with 200; and the writes that it
    /// received.
    async fn server(statuses: &[u16]) -> (String, mpsc::UnboundedReceiver<Write>) {
        let (sender, writes) = mpsc::unbounded_channel();
        let statuses = Arc::new(Mutex::new(VecDeque::from(statuses.to_vec())));
        let answer = move |uri: axum::http::Uri, headers: HeaderMap, body: String| {
            let header = |name| headers[name].to_str().unwrap().to_owned();
            let write = [
                uri.path().to_owned(),
                header("content-type"),
                header("authorization"),
                body,
            ];
            sender.send(write).unwrap();
            let status = statuses.lock().unwrap().pop_front().unwrap_or(200);
            async move { (axum::http::StatusCode::from_u16(status).unwrap(), "as told") }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, Router::new().fallback(answer)).await });
        (url, writes)
    }

    /// A folder with the files that Kubernetes mounts.
    fn account() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [("token", "t0k3n\n"), ("namespace", "shop"), ("ca.crt", "")] {
            fs::write(folder.path().join(file), text).unwrap();
        }
        folder
    }

    fn settings() -> PodDeletionCostSettings {
        PodDeletionCostSettings {
            pod: "orders-7d4b9-x2x5k".to_owned(),
            interval: Duration::from_millis(5),
        }
    }

    fn written(write: &Write) -> serde_json::Value {
        let body: serde_json::Value = serde_json::from_str(&write[3]).unwrap();
        body["metadata"]["annotations"][ANNOTATION].clone()
    }

    #[tokio::test]
    async fn what_is_in_flight_is_written_to_the_pod_when_it_changes() {
        let (url, mut writes) = server(&[]).await;
        let (account, cost) = (account(), Arc::new(AtomicI32::new(0)));
        let api = move || {
            let account = account.path().to_owned();
            Ok(Api {
                url: url.clone(),
                account,
            })
        };
        let looks = Arc::new(AtomicI32::new(0));
        let (seen, looked) = (Arc::clone(&cost), Arc::clone(&looks));
        let look = move || {
            looked.fetch_add(1, Ordering::Relaxed);
            seen.load(Ordering::Relaxed)
        };
        tokio::spawn(keep_at(api, look, settings()));

        let first = writes.recv().await.unwrap();
        assert_eq!(first[0], "/api/v1/namespaces/shop/pods/orders-7d4b9-x2x5k");
        assert_eq!(first[1], "application/merge-patch+json");
        assert_eq!(first[2], "Bearer t0k3n");
        assert_eq!(written(&first), "0");
        while looks.load(Ordering::Relaxed) < 10 {
            tokio::task::yield_now().await;
        }
        assert!(writes.try_recv().is_err(), "nothing has changed");
        cost.store(31, Ordering::Relaxed);
        assert_eq!(written(&writes.recv().await.unwrap()), "31");
    }

    #[tokio::test]
    async fn a_write_that_fails_is_tried_again() {
        let (url, mut writes) = server(&[403, 500]).await;
        let account = account();
        let api = move || {
            let account = account.path().to_owned();
            Ok(Api {
                url: url.clone(),
                account,
            })
        };
        tokio::spawn(keep_at(api, || 7, settings()));
        for _ in 0..3 {
            assert_eq!(written(&writes.recv().await.unwrap()), "7");
        }
    }

    #[tokio::test]
    async fn a_refusal_says_why_and_a_missing_file_which() {
        let (url, _writes) = server(&[403]).await;
        let account = account();
        let api = Api {
            url,
            account: account.path().to_owned(),
        };
        let refused = api.write("orders", 1).await.unwrap_err();
        assert_eq!(refused.to_string(), "API server: 403 Forbidden: as told");
        fs::remove_file(account.path().join("token")).unwrap();
        let missing = api.write("orders", 1).await.unwrap_err();
        assert!(
            missing.to_string().contains("/token: No such file"),
            "{missing}"
        );
    }
}
