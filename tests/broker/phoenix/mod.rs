//! Traces in Phoenix, an OTLP backend of another project.
//!
//! Phoenix is heavy, so these tests run only in `make test-backends`. Of a span, Phoenix (20.26)
//! keeps ids, parent, name, times, status, attributes and events. It drops links, kinds, the scope,
//! and the resource except for the project's name. The telemetry suite checks those on OTLP itself.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{
    DEADLINE, HttpHandler, Reply, VHost, WorkerProcess, backends, consumer, get_json, vhost,
    wait_until,
};

/// The OTLP transport to Phoenix.
#[derive(Clone, Copy, Debug)]
enum Transport {
    Grpc,
    Http,
}

/// A project in Phoenix, named after the test's virtual host in a form that a URL's path allows.
struct Project {
    url: String,
    name: String,
    endpoint: String,
    protocol: &'static str,
}

impl Project {
    async fn new(name: &str, transport: Transport) -> Self {
        let printed = backends(&["up", "phoenix"]).await;
        let values: BTreeMap<_, _> = printed
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let url = values["PHOENIX_URL"].to_owned();
        let (endpoint, protocol) = match transport {
            Transport::Grpc => (values["PHOENIX_OTLP"].to_owned(), "grpc"),
            Transport::Http => (format!("{url}/v1/traces"), "http/protobuf"),
        };
        Self {
            url,
            name: name.replace('/', "-"),
            endpoint,
            protocol,
        }
    }

    /// Makes a process send its traces to the project.
    fn observe(&self, command: &mut Command) {
        let project = format!("openinference.project.name={}", self.name);
        command
            .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &self.endpoint)
            .env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", self.protocol)
            .env("OTEL_RESOURCE_ATTRIBUTES", project)
            .env("OTEL_BSP_SCHEDULE_DELAY", "50");
    }

    /// The spans of the project, by start time.
    async fn spans(&self) -> Vec<Value> {
        let projects = get_json(&format!("{}/v1/projects", self.url), &[("limit", "1000")]).await;
        let projects = projects["data"].as_array().expect("projects").iter();
        // Phoenix creates a project with its first span.
        if projects.filter(|one| one["name"] == self.name).count() == 0 {
            return Vec::new();
        }
        let url = format!("{}/v1/projects/{}/spans", self.url, self.name);
        let mut spans = get_json(&url, &[("limit", "1000")]).await["data"].take();
        let spans = std::mem::take(spans.as_array_mut().expect("spans"));
        let mut spans: Vec<_> = spans;
        spans.sort_by_key(|span| text(&span["start_time"]).to_owned());
        spans
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// One trace, as Phoenix has it.
struct Trace<'a>(Vec<&'a Value>);

impl<'a> Trace<'a> {
    /// The trace of the message with this id.
    fn of(spans: &'a [Value], message_id: &str) -> Self {
        let published = spans.iter().find(|span| {
            span["name"] == "publish q" && span["attributes"]["messaging.message.id"] == message_id
        });
        let id = &published.expect("it was published")["context"]["trace_id"];
        let of_trace = spans
            .iter()
            .filter(|span| span["context"]["trace_id"] == *id);
        // Whether a delivery waits 1 ms for its handler depends on the machine.
        Self(of_trace.filter(|span| span["name"] != "buffer q").collect())
    }

    #[track_caller]
    fn named<const N: usize>(&self, name: &str) -> [&'a Value; N] {
        let found: Vec<_> = self
            .0
            .iter()
            .copied()
            .filter(|span| span["name"] == name)
            .collect();
        let count = found.len();
        found
            .try_into()
            .unwrap_or_else(|_| panic!("{count} spans {name}: {:#?}", self.0))
    }

    #[track_caller]
    fn one(&self, name: &str) -> &'a Value {
        let [one] = self.named(name);
        one
    }
}

#[track_caller]
fn assert_child(child: &Value, parent: &Value) {
    assert_eq!(
        child["parent_id"], parent["context"]["span_id"],
        "{child:#}"
    );
}

#[track_caller]
fn assert_attributes(span: &Value, expected: Value) {
    for (name, value) in expected.as_object().expect("pairs") {
        assert_eq!(span["attributes"][name], *value, "{name} of {span:#}");
    }
}

fn traceparent(span: &Value) -> String {
    let context = &span["context"];
    let (trace, span) = (text(&context["trace_id"]), text(&context["span_id"]));
    format!("00-{trace}-{span}-01")
}

async fn publish(vhost: &VHost, project: &Project, id: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
    command
        .args(["publish", "--queue", "q", "--message-id", id, "{}"])
        .env("LAPWING__BROKER__URL", vhost.amqp_url());
    project.observe(&mut command);
    let ended = tokio::time::timeout(DEADLINE, command.output()).await;
    let ended = ended.expect("it ends").expect("it runs");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{stderr}");
}

/// Publishes a message that succeeds, one that is parked once and one that is dead-lettered, and
/// reads their traces from Phoenix.
async fn three_messages(transport: Transport) {
    let vhost = vhost().await;
    let server =
        HttpHandler::answering(|request| match (request.message_id(), request.attempt()) {
            ("late", 1) => Reply::status(500).body("come back"),
            ("never", _) => Reply::status(400),
            _ => Reply::ok(),
        })
        .await;
    let project = Project::new(vhost.name(), transport).await;
    let changes = "[consumers.q.retry]\nbase = '1s'\njitter = 0";
    let config = consumer(&vhost, "q").http(&server).with(changes).toml();
    let mut worker = WorkerProcess::start_with(&config, |command| project.observe(command));
    worker.wait_for_consumers(&vhost, "q", 1).await;
    for id in ["ok", "late", "never"] {
        publish(&vhost, &project, id).await;
    }
    server.wait_for_answered(4, DEADLINE).await;
    let pid = worker.pid();
    worker.drain(DEADLINE).await;

    let look = async || project.spans().await;
    let complete = |spans: &Vec<Value>| {
        let named = |name| spans.iter().filter(|span| span["name"] == name).count();
        (named("publish q"), named("process q"), named("ack q")) == (3, 4, 4)
    };
    let spans = wait_until("Phoenix has all spans", DEADLINE, look, complete).await;
    of_success(&Trace::of(&spans, "ok"), pid, &server);
    of_retry(&Trace::of(&spans, "late"));
    let dead = &vhost.drain_all("q.dead").await[0];
    let last = of_dead_letter(&Trace::of(&spans, "never"));
    assert_eq!(dead.header("traceparent"), last.as_str());

    // The handler's service received the trace contexts of these requests.
    let posts = spans.iter().filter(|span| span["name"] == "POST");
    let mut posts: Vec<_> = posts.map(traceparent).collect();
    let exchanges = server.seen().exchanges;
    let told = exchanges
        .iter()
        .map(|one| one.request.header("traceparent"));
    let mut told: Vec<_> = told.map(str::to_owned).collect();
    posts.sort_unstable();
    told.sort_unstable();
    assert_eq!(posts, told);
}

fn of_success(trace: &Trace<'_>, pid: u32, server: &HttpHandler) {
    assert_eq!(trace.0.len(), 4, "{:#?}", trace.0);
    let (published, process) = (trace.one("publish q"), trace.one("process q"));
    assert!(published["parent_id"].is_null(), "the trace begins here");
    assert_child(process, published);
    assert_child(trace.one("POST"), process);
    assert_child(trace.one("ack q"), process);
    assert!(trace.0.iter().all(|span| span["status_code"] == "UNSET"));
    assert_attributes(
        published,
        json!({
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.name": "q",
        }),
    );
    assert_attributes(
        process,
        json!({
            "messaging.operation.type": "process",
            "messaging.message.id": "ok",
            "messaging.destination.template": "q",
            "messaging.rabbitmq.message.delivery_tag": 1,
            "lapwing.consumer": "q",
            "lapwing.attempt": 1,
            "lapwing.outcome": "succeeded",
            "error.type": null,
        }),
    );
    let client = text(&process["attributes"]["messaging.client.id"]);
    assert!(client.ends_with(&format!(":{pid}")), "{client}");
    assert_attributes(
        trace.one("POST"),
        json!({ "http.response.status_code": 200, "url.full": server.url() }),
    );
}

fn of_retry(trace: &Trace<'_>) {
    let published = trace.one("publish q");
    let [first, second] = trace.named("process q");
    assert_child(first, published);
    assert_child(second, published);
    for (span, attempt, outcome) in [(first, 1, "failed"), (second, 2, "succeeded")] {
        let expected = json!({ "lapwing.attempt": attempt, "lapwing.outcome": outcome });
        assert_attributes(span, expected);
    }
    assert_eq!(first["status_code"], "ERROR");
    assert_eq!(
        first["status_message"],
        "HTTP 500 Internal Server Error: come back"
    );
    assert_attributes(first, json!({ "error.type": "500" }));
    assert_eq!(second["status_code"], "UNSET");

    let (parked, wait) = (trace.one("publish q.retry.1s"), trace.one("wait q"));
    assert_child(parked, first);
    assert_child(wait, first);
    assert_attributes(
        parked,
        json!({
            "messaging.destination.name": "q.retry.1s",
            "messaging.rabbitmq.destination.routing_key": "q.retry.1s",
            "messaging.message.id": "late",
        }),
    );
    // All times have the same text format, so they sort in the order of time.
    assert!(text(&wait["start_time"]) >= text(&first["end_time"]));
    assert!(text(&wait["end_time"]) <= text(&second["start_time"]));
    let [of_first, of_second] = trace.named("POST");
    assert_child(of_first, first);
    assert_child(of_second, second);
    assert_attributes(of_first, json!({ "error.type": "500" }));
    let acks: [_; 2] = trace.named("ack q");
    assert_child(acks[0], first);
    assert_child(acks[1], second);
    assert_eq!(trace.0.len(), 9, "{:#?}", trace.0);
}

/// The span of the last attempt, as a `traceparent`.
fn of_dead_letter(trace: &Trace<'_>) -> String {
    let process = trace.one("process q");
    assert_child(process, trace.one("publish q"));
    assert_eq!(process["status_code"], "ERROR");
    assert_eq!(process["status_message"], "HTTP 400 Bad Request");
    let expected = json!({ "lapwing.outcome": "failed", "error.type": "400" });
    assert_attributes(process, expected);
    let post = trace.one("POST");
    assert_eq!(post["status_code"], "ERROR");
    assert_attributes(
        post,
        json!({ "http.response.status_code": 400, "error.type": "400" }),
    );
    assert_child(trace.one("publish q.dead"), process);
    assert_child(trace.one("ack q"), process);
    assert_eq!(trace.0.len(), 5, "{:#?}", trace.0);
    traceparent(process)
}

#[tokio::test]
#[ignore = "needs Phoenix: make test-backends"]
async fn phoenix_shows_one_trace_a_message_from_publisher_to_service() {
    three_messages(Transport::Grpc).await;
}

#[tokio::test]
#[ignore = "needs Phoenix: make test-backends"]
async fn phoenix_takes_the_same_over_http() {
    three_messages(Transport::Http).await;
}
