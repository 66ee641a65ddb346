//! What the HTTP handler does with each answer.

use std::{
    collections::HashSet,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Setup;
use crate::support::{
    Account, BUSY, DEADLINE, HttpHandler, PublishSpec, Reply, VHost, WorkerProcess, consumer, ms,
    vhost, within,
};

/// The status that a message asks for in its id.
fn wanted(id: &str) -> u16 {
    id.parse().expect("the test wrote a number")
}

/// Tells the first request of each message from later ones. The attempt does not: an answer that says
/// that the service is unavailable charges none.
#[derive(Default)]
struct Known(Mutex<HashSet<String>>);

impl Known {
    fn is_new(&self, id: &str) -> bool {
        self.0
            .lock()
            .expect("no test panics here")
            .insert(id.to_owned())
    }
}

#[tokio::test]
async fn success_is_acked_overload_and_server_errors_are_retried_the_rest_is_permanent() {
    const DONE: [u16; 3] = [200, 202, 204];
    const RETRIED: [u16; 7] = [408, 425, 500, 429, 502, 503, 504];
    const UNAVAILABLE: [u16; 4] = [429, 502, 503, 504];
    const PERMANENT: [u16; 8] = [301, 302, 304, 400, 401, 404, 409, 422];
    let known = Known::default();
    let server = HttpHandler::answering(move |request| {
        let id = request.message_id();
        let status = wanted(id);
        match known.is_new(id) {
            true if status == 204 || status == 304 => Reply::status(status),
            true => Reply::status(status)
                .header("location", "/elsewhere")
                .body(format!("because of {id}")),
            false => Reply::ok(),
        }
    })
    .await;
    let mut setup = Setup::new(server, "retry = { base = '10ms' }").await;
    let all = [&DONE[..], &RETRIED, &PERMANENT].concat();
    let ids = setup
        .vhost
        .publish_many("q", all.len(), |index| {
            PublishSpec::of("x").id(&all[index].to_string())
        })
        .await;

    let requests = all.len() + RETRIED.len();
    setup.server.wait_for_answered(requests, DEADLINE).await;
    let dead = PERMANENT.len() as u32;
    setup
        .vhost
        .wait_for_counts("q.dead", dead, 0, DEADLINE)
        .await;
    let ledger = setup.worker.drain(DEADLINE).await;

    assert_eq!(ledger.acked as usize, DONE.len() + RETRIED.len());
    assert_eq!(ledger.dead_lettered as usize, PERMANENT.len());
    let seen = setup.server.seen();
    assert_eq!(seen.exchanges.len(), requests);
    assert!(
        seen.exchanges
            .iter()
            .all(|exchange| exchange.request.path == "/"),
        "not followed"
    );
    let account = Account::new(ids, &seen);
    for status in RETRIED {
        let attempts: Vec<_> = account.runs_of(&status.to_string()).iter().collect();
        let second = match UNAVAILABLE.contains(&status) {
            true => 1,
            false => 2,
        };
        let attempts: Vec<_> = attempts.iter().map(|run| run.attempt).collect();
        assert_eq!(attempts, [1, second], "{status}");
    }
    let dead = setup.vhost.drain_all("q.dead").await;
    for status in PERMANENT {
        let id = status.to_string();
        let letter = dead.iter().find(|got| got.id() == id);
        let letter = letter.unwrap_or_else(|| panic!("{id} is no dead letter"));
        assert_eq!(letter.header("lapwing-reason"), "rejected");
        assert_eq!(letter.header("lapwing-error-kind"), "http");
        let error = letter.header("lapwing-error").as_str().expect("it is text");
        assert!(error.starts_with(&format!("HTTP {id}")), "{error}");
        if status != 304 {
            assert!(error.ends_with(&format!("because of {id}")), "{error}");
        }
    }
}

#[tokio::test]
async fn a_long_answer_is_cut_in_the_dead_letter() {
    let server = HttpHandler::answering(|_| {
        let body = format!("the start {} the end", "\u{e9}".repeat(100_000));
        Reply::status(400).body(body)
    })
    .await;
    let setup = Setup::new(server, "").await;
    setup.vhost.publish("q", "x").await;

    let dead = setup.dead_letter().await;

    let error = dead.header("lapwing-error").as_str().expect("it is text");
    let beginning = format!("HTTP 400 Bad Request from {}: ", setup.server.url());
    assert!(
        error.starts_with(&format!("{beginning}the start \u{e9}\u{e9}")),
        "{error}"
    );
    assert!(
        error.len() <= 2200 && !error.contains("the end"),
        "{} bytes",
        error.len()
    );
}

#[tokio::test]
async fn retry_after_is_honoured_in_seconds_and_as_a_date() {
    let known = Known::default();
    let server = HttpHandler::answering(move |request| {
        let in_three = SystemTime::now() + Duration::from_secs(3);
        let id = request.message_id();
        match (known.is_new(id), id) {
            (true, "seconds") => Reply::status(429).header("retry-after", "5"),
            (true, "zero") => Reply::status(503).header("retry-after", "0"),
            // An HTTP date has whole seconds, so this is 2 to 3 s from now.
            (true, "date") => {
                Reply::status(503).header("retry-after", &httpdate::fmt_http_date(in_three))
            }
            (true, "aged") => Reply::status(503).header("retry-after", "86400"),
            (true, "nonsense") => Reply::status(503).header("retry-after", "soon"),
            _ => Reply::ok(),
        }
    })
    .await;
    let changes = "retry = { base = '1s', jitter = 0.0, cap = '4s', max_age = '7s' }\n\
                   breaker = { enabled = false }";
    let setup = Setup::new(server, changes).await;
    let ids = ["seconds", "zero", "date", "aged", "nonsense"];
    for id in ids {
        setup.vhost.publish_with(PublishSpec::to("q").id(id)).await;
    }

    let seen = setup.server.wait_for_answered(10, DEADLINE).await;

    let account = Account::new(ids.map(str::to_owned), &seen);
    let expected = [
        ("seconds", 5000, 5000),
        ("zero", 1000, 1000),
        ("date", 2000, 3000),
        // No longer than the age at which the message ends.
        ("aged", 6000, 7000),
        ("nonsense", 1000, 1000),
    ];
    for (id, least, most) in expected {
        let runs = account.runs_of(id);
        let waited = runs[1].started.duration_since(runs[0].started);
        println!("{id}: {waited:?}");
        assert!(waited >= ms(least), "{id}: {waited:?}");
        // A parked retry can be late by its own delay at the most.
        assert!(waited < ms(2 * most) + BUSY, "{id}: {waited:?}");
    }
}

/// A service that gives one answer, whose body never ends.
struct Stalling {
    vhost: VHost,
    worker: WorkerProcess,
    _connection: TcpStream,
}

impl Stalling {
    async fn answering(head: &str, changes: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let vhost = vhost().await;
        let url = format!("http://{address}/");
        let config = consumer(&vhost, "q").http_at(&url).with(changes).toml();
        let worker = WorkerProcess::start(&config);
        worker.wait_for_consumers(&vhost, "q", 1).await;
        vhost.publish("q", "x").await;
        let accepted = within("the request", listener.accept()).await;
        let (mut connection, _) = accepted.expect("it connects");
        // An answer sent before the request does not count.
        let asked = within("its text", connection.read(&mut [0; 4096])).await;
        assert!(asked.expect("it is open") > 0);
        let answer = format!("HTTP/1.1 {head}\r\ncontent-length: 5\r\n\r\nab");
        let written = connection.write_all(answer.as_bytes()).await;
        written.expect("it reads");
        Self {
            vhost,
            worker,
            _connection: connection,
        }
    }
}

#[tokio::test]
async fn a_success_whose_body_does_not_end_is_one_at_the_consumers_timeout() {
    let changes = "[consumers.q]\ntimeout = '400ms'\nretry = { max_attempts = 1 }";
    let mut stalling = Stalling::answering("200 OK", changes).await;

    let ledger = stalling.worker.drain(DEADLINE).await;

    assert_eq!((ledger.received, ledger.acked), (1, 1), "{ledger:?}");
}

#[tokio::test]
async fn a_status_counts_though_its_body_does_not_end() {
    let mut stalling = Stalling::answering("400 Bad Request", "").await;

    let ledger = stalling.worker.drain(DEADLINE).await;

    assert_eq!(
        (ledger.received, ledger.dead_lettered),
        (1, 1),
        "{ledger:?}"
    );
    let dead = stalling.vhost.drain_all("q.dead").await;
    assert_eq!(dead[0].header("lapwing-reason"), "rejected");
    let error = dead[0].header("lapwing-error").as_str();
    let error = error.expect("it is text");
    assert!(
        error.starts_with("HTTP 400 Bad Request from http://"),
        "{error}"
    );
    assert!(error.ends_with("/: ab"), "{error}");
}

#[tokio::test]
async fn a_slow_answer_is_given_up_at_the_consumers_timeout() {
    let server = HttpHandler::answering(|request| match request.attempt() {
        1 => Reply::ok().after(Duration::from_secs(20)),
        _ => Reply::ok(),
    })
    .await;
    let changes = "timeout = '400ms'\nconcurrency = 1\nretry = { base = '10ms' }";
    let mut setup = Setup::new(server, changes).await;
    setup.vhost.publish("q", "x").await;

    let seen = setup.server.wait_for_answered(1, DEADLINE).await;

    let [first, second] = &seen.exchanges[..] else {
        panic!("{} requests", seen.exchanges.len())
    };
    assert_eq!((first.request.attempt(), second.request.attempt()), (1, 2));
    let waited = second.request.at.duration_since(first.request.at);
    // A busy machine may see the first request late, but the retry would follow within 10 ms.
    assert!(waited >= ms(200) && waited < BUSY, "{waited:?}");
    setup
        .server
        .wait_for("the first is given up", DEADLINE, |seen| {
            seen.abandoned == 1
        })
        .await;
    let failed = setup
        .worker
        .wait_for_message("attempt failed", DEADLINE)
        .await;
    assert_eq!(crate::support::field(&failed, "class"), "timeout");
    let ledger = setup.worker.drain(DEADLINE).await;
    assert_eq!((ledger.received, ledger.acked), (1, 1));
}
