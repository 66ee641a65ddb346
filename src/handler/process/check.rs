//! The conformance test of co-processes: `lapwing process check`.

use std::{env, time::Duration};

use serde_json::json;
use tokio::time::timeout;

use super::{
    line::{self, Ready, read_ready},
    link::{Broken, Link},
};
use crate::{
    handler::{
        child::{self, Child, Ending, Environment, Program, Tail},
        json::{Object, Said},
        results::LONGEST,
    },
    outcome::Outcome,
};

/// The longest wait for an answer, and for the end.
const LIMIT: Duration = Duration::from_secs(10);
/// The messages in a row.
const ROW: u64 = 100;
/// The bytes of a long body.
const LONG: usize = 1024 * 1024;
/// The bytes of standard error that a failure shows.
const SHOWN: usize = 4 * 1024;

/// One point of the conformance test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessCheck {
    /// What the co-process should do.
    pub point: &'static str,
    /// What it did, or what is wrong.
    pub result: Result<String, String>,
}

/// A body that a co-process must take as it is.
const HOSTILE: &str = "{\"text\":\"line\\nbreak\"}\r\n\u{2028}\0 'quotes' $(id) \u{1f426}";

/// Starts a program, and checks that it speaks the protocol of co-processes. The program gets the
/// whole environment of this process, and messages that are made up. The test ends at the first
/// failure.
pub async fn check_process(argv: &[String]) -> Vec<ProcessCheck> {
    let mut checks = Vec::new();
    let mut note = |point, result: Result<String, String>| {
        let is_right = result.is_ok();
        checks.push(ProcessCheck { point, result });
        is_right
    };
    let (mut run, ready) = match Run::start(argv).await {
        Ok(started) => started,
        Err(error) => {
            note("it starts", Err(error));
            return checks;
        }
    };
    let takes_batches = ready.as_ref().is_ok_and(|ready| ready.batch);
    let right = note(
        "its first line says that it is ready",
        ready.map(|_| String::new()),
    ) && note(
        "it answers a message",
        run.ask(|line| line.body(b"{\"check\":1}")).await,
    ) && note(
        "it takes a body with line breaks, quotes and NUL",
        run.ask(|line| line.body(HOSTILE.as_bytes())).await,
    ) && note(
        "it takes a body that is not UTF-8",
        run.ask(|line| line.body(b"\xff\0\xfe")).await,
    ) && note(
        "it takes an empty body",
        run.ask(|line| line.body(b"")).await,
    ) && note(
        "it takes a body of 1 MiB",
        run.ask(|line| line.body(&vec![b'x'; LONG])).await,
    ) && note(
        "it takes keys that it does not know",
        run.ask(unknown).await,
    ) && note(
        "it answers 100 messages, one after the other",
        run.row().await,
    ) && (!takes_batches || run.batches(&mut note).await);
    let end = run.end().await;
    if right {
        note("it ends at the end of its input", end);
    } else if let (Some(last), Err(text)) = (checks.last_mut(), end)
        && let Err(error) = &mut last.result
    {
        error.push_str(&format!(" ({text})"));
    }
    checks
}

fn begin(id: u64) -> Object {
    let mut object = Object::begin(Vec::new(), id);
    object.add("attempt", &1);
    object
}

fn shown(said: &Said) -> String {
    match &said.outcome {
        Outcome::Succeeded => "succeeded".to_owned(),
        Outcome::Failed(failure) => format!("{failure:?}"),
        other => format!("{other:?}"),
    }
}

/// Every key of the protocol, and two more.
fn unknown(line: &mut Object) {
    for key in [
        "message_id",
        "queue",
        "exchange",
        "routing_key",
        "type",
        "correlation_id",
        "reply_to",
        "app_id",
        "user_id",
        "expiration",
        "content_type",
        "content_encoding",
        "cut_headers",
        "traceparent",
        "tracestate",
        "a_key_of_a_later_version",
    ] {
        line.add(key, "1");
    }
    line.add("redelivered", &true);
    line.add("timestamp", &1_700_000_000_u64);
    line.add("priority", &1);
    line.add(
        "headers",
        &json!({ "tenant": "x", "nested": { "list": [1, null] } }),
    );
    line.add("another_key_of_a_later_version", &json!({ "a": [] }));
    line.body(b"{}");
}

/// A co-process under test.
struct Run {
    link: Option<Link>,
    ending: Ending,
    stderr: tokio::net::unix::pipe::Receiver,
    said: Tail,
    next: u64,
}

impl Run {
    /// Starts the program, and reads its first line.
    async fn start(argv: &[String]) -> Result<(Self, Result<Ready, String>), String> {
        let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let program = Program::find(argv)?
            .environment(Environment {
                passed: names.collect(),
                ..Environment::default()
            })
            .grace(Duration::from_secs(1));
        let child = program.start([]).map_err(|error| error.to_string())?;
        let Child {
            stdin,
            stdout,
            stderr,
            ending,
        } = child;
        let mut run = Self {
            link: stdin.map(|stdin| Link::new(stdin, stdout)),
            ending,
            stderr,
            said: Tail::most(SHOWN),
            next: 1,
        };
        let first = run.line(None).await;
        let ready = first.and_then(|line| read_ready(&line));
        Ok((run, ready))
    }

    /// Writes a line, if there is one, and waits for the next line of the co-process.
    async fn line(&mut self, line: Option<Vec<u8>>) -> Result<Vec<u8>, String> {
        let link = self.link.as_mut().ok_or("its input is closed")?;
        let (stderr, said) = (&self.stderr, &mut self.said);
        let answer = async {
            match line {
                Some(line) => link.ask(&line, LONGEST).await,
                None => link.line(LONGEST).await,
            }
        };
        let answered = tokio::select! {
            biased;
            answered = timeout(LIMIT, answer) => answered,
            () = async {
                child::drain(stderr, said).await;
                std::future::pending().await
            } => return Err(String::new()),
        };
        match answered {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(Broken::Protocol(error))) => Err(error),
            Ok(Err(Broken::Closed)) => Err("it closed its pipes".to_owned()),
            Err(_) => Err(format!("no line within {LIMIT:?}")),
        }
    }

    /// Sends a message that `fill` completes, and reads the answer.
    async fn ask(&mut self, fill: impl FnOnce(&mut Object)) -> Result<String, String> {
        let id = self.next;
        self.next += 1;
        let mut object = begin(id);
        fill(&mut object);
        let answer = self.line(Some(line::of(object))).await?;
        Ok(shown(&line::read(&answer, id)?))
    }

    /// Sends a line with so many messages, and reads the answer. A message whose outcome is missing or
    /// wrong is an error.
    async fn ask_batch(
        &mut self,
        count: usize,
        fill: impl Fn(usize, &mut Object),
    ) -> Result<String, String> {
        let id = self.next;
        self.next += 1 + count as u64;
        let objects = (0..count).map(|number| {
            let mut object = begin(id + 1 + number as u64);
            fill(number, &mut object);
            object
        });
        let answer = self.line(Some(line::of_batch(id, objects))).await?;
        let said = line::read_batch(&answer, id, count, "")?;
        for (number, said) in said.iter().enumerate() {
            if let Outcome::Failed(failure) = &said.outcome
                && failure.class == line::WRONG
            {
                let (number, error) = (number + 1, &failure.error);
                return Err(format!("message {number} of {count}: {error}"));
            }
        }
        Ok(said.first().map(shown).unwrap_or_default())
    }

    /// The points about lines with several messages.
    async fn batches(
        &mut self,
        note: &mut impl FnMut(&'static str, Result<String, String>) -> bool,
    ) -> bool {
        const ODD: [&[u8]; 4] = [b"{\"check\":1}", HOSTILE.as_bytes(), b"\xff\0\xfe", b""];
        let odd = self
            .ask_batch(ODD.len(), |number, object| object.body(ODD[number]))
            .await;
        note("it answers a line with several messages", odd)
            && note(
                "it answers a line with one message in a list",
                self.ask_batch(1, |_, object| object.body(b"{}")).await,
            )
            && note(
                "it answers a line with 100 messages",
                self.ask_batch(100, |_, object| unknown(object)).await,
            )
    }

    async fn row(&mut self) -> Result<String, String> {
        for _ in 0..ROW {
            self.ask(|line| line.body(b"{}")).await?;
        }
        Ok(String::new())
    }

    /// Closes the input, and waits for the end.
    async fn end(&mut self) -> Result<String, String> {
        self.link = None;
        let ended = timeout(LIMIT, self.ending.ended()).await;
        let status = self.ending.shut_down().await;
        child::rest(&self.stderr, &mut self.said);
        let how = status
            .as_ref()
            .map_or_else(ToString::to_string, |status| child::how(*status));
        let said = self.said.text();
        let text = match said.as_str() {
            "" => how,
            said => format!("{how}: {said}"),
        };
        match ended {
            Ok(()) if status.is_ok_and(|status| status.success()) => Ok(text),
            Ok(()) => Err(text),
            Err(_) => Err(format!("it does not end within {LIMIT:?}")),
        }
    }
}
