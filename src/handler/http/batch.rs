//! Batches over HTTP: one request with an array of messages, and an outcome for each in the answer.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};

use super::{
    Again, Service, answer,
    connections::{Generation, On},
    echo::Echo,
    request::printable,
    trace::RequestTrace,
};
use crate::{
    handler::{
        Context,
        batch::{Call, late},
        json::{self, Bodies, Classes, Said, shown},
        results,
    },
    outcome::Failure,
};

/// The number of messages in a request.
const COUNT: HeaderName = HeaderName::from_static("lapwing-batch");

const CLASSES: Classes = Classes {
    usual: "http",
    wrong: "http-answer",
};

/// A request.
struct Posted<'a> {
    consumer: &'a str,
    body: Bytes,
    /// The first of its ids.
    first: u64,
    count: usize,
    /// When it must have ended.
    deadline: Option<Instant>,
}

/// The answer to a request.
#[derive(Deserialize)]
struct Answers<'a> {
    #[serde(borrow)]
    outcomes: Vec<&'a RawValue>,
}

type Ended = (Result<Vec<Said>, Failure>, Option<Again>);

impl Call for Arc<Service> {
    type Ready = ();

    async fn ready(&self) -> Result<(), Failure> {
        Ok(())
    }

    async fn call(
        &self,
        (): (),
        messages: &[Context],
        limit: Option<Duration>,
    ) -> Result<Vec<Said>, Failure> {
        let called = timeout(limit.unwrap_or(Duration::MAX), self.post_all(messages)).await;
        called.unwrap_or_else(|_| Err(late(limit.unwrap_or_default())))
    }
}

impl Service {
    async fn post_all(&self, messages: &[Context]) -> Result<Vec<Said>, Failure> {
        let count = messages.len();
        let first = self.next.fetch_add(count as u64, Ordering::Relaxed);
        let ids = first..first + count as u64;
        let mut body = json::all(b"[".to_vec(), ids, messages, Bodies::Json);
        body.push(b']');
        let posted = Posted {
            consumer: messages.first().map_or("", Context::consumer),
            body: body.into(),
            first,
            count,
            deadline: deadline(messages),
        };
        let generation = self.connections.present().await;
        let (said, again) = self.post(&posted, &generation, On::AnyConnection).await;
        match again {
            None | Some(Again::Bare) => said,
            Some(Again::Fresh) => self.post(&posted, &generation, On::FreshConnection).await.0,
            Some(Again::Renewed(renewed)) => {
                self.post(&posted, &renewed, On::AnyConnection).await.0
            }
            Some(Again::Token) => self.post(&posted, &generation, On::AnyConnection).await.0,
        }
    }

    /// Sends a request, and reads the whole answer.
    async fn post(&self, posted: &Posted<'_>, generation: &Arc<Generation>, on: On) -> Ended {
        let token = match self.token(generation, posted.deadline).await {
            Ok(token) => token,
            Err(failure) => return (Err(failure), None),
        };
        let mut headers = HeaderMap::new();
        if let Some(token) = &token {
            token.put(&mut headers);
        }
        if let Some(signer) = &generation.signer {
            signer.sign(&mut headers, None, &posted.body);
        }
        if !generation.headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        headers.insert(COUNT, posted.count.into());
        let mark = self.echo.as_ref().map(|echo| echo.mark());
        if let Some(mark) = &mark {
            headers.insert(Echo::HEADER, printable(mark));
        }
        let trace = RequestTrace::begin(&self.url, &mut headers);
        let request = generation
            .client(on)
            .post(self.url.clone())
            .headers(generation.headers.clone())
            .headers(headers)
            .body(posted.body.clone());
        let waiting = generation.wait();
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                waiting.failed();
                let failure = answer::unreachable(&error, &self.target);
                trace.failed(&failure);
                return (Err(failure), self.after_error(generation, &error).await);
            }
        };
        waiting.answered(&response);
        let status = response.status();
        trace.answered(status);
        if let Some(mark) = &mark
            && let Some((failure, again)) = Echo::check(&response, mark)
        {
            return (Err(failure), again);
        }
        let other_token = self.after_token(token.as_ref(), status);
        if !status.is_success() {
            let again = self.after_refusal(generation, status).await.or(other_token);
            let mut failure = answer::refused(response, &self.target).await;
            if let Some(token) = token {
                failure = token.excuse(failure);
            }
            return (Err(failure), again);
        }
        let body = answer::whole(response, results::longest(posted.count)).await;
        let said = body.and_then(|body| read(&body, posted));
        let said = said.map_err(|error| {
            let text = format!("HTTP {status}, but the answer to a batch cannot be read: {error}");
            Failure::retryable(CLASSES.wrong, text)
        });
        (said, None)
    }
}

/// When a call for these messages must have ended: if it is for several, in half of the time that they have
/// left.
fn deadline(messages: &[Context]) -> Option<Instant> {
    let first = messages.iter().filter_map(Context::deadline).min()?;
    let now = Instant::now();
    let left = first.saturating_duration_since(now);
    Some(match messages.len() {
        1 => first,
        _ => now + left / 2,
    })
}

/// Reads what an answer says about each message.
fn read(body: &[u8], posted: &Posted<'_>) -> Result<Vec<Said>, String> {
    let answers: Answers<'_> =
        serde_json::from_slice(body).map_err(|error| format!("{error}, in {}", shown(body)))?;
    let ids = posted.first..posted.first + posted.count as u64;
    Ok(json::each(&answers.outcomes, ids, CLASSES, posted.consumer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_no_object_with_outcomes_is_refused_as_a_whole() {
        let posted = Posted {
            consumer: "orders",
            body: Bytes::new(),
            first: 5,
            count: 1,
            deadline: None,
        };
        let outcomes = br#"{"outcomes":[{"id":5,"outcome":"succeeded"}],"more":1}"#;
        assert_eq!(read(outcomes, &posted).map(|said| said.len()), Ok(1));
        for (body, wrong) in [
            (&b""[..], "EOF"),
            (b"ok", "expected value"),
            (b"[]", "invalid length 0"),
            (b"{}", "missing field `outcomes`"),
            (b"{\"outcomes\":5}", "invalid type"),
            (b"{\"outcomes\":[{}", "EOF"),
            (b"{\"outcomes\":[]} {}", "trailing"),
        ] {
            let error = read(body, &posted).unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
