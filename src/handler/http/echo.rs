//! The setting `echo`.

use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::{Response, header::HeaderName};

use super::Again;
use crate::{clock, outcome::Failure};

/// Marks requests, so that the handler knows the answer to each.
pub(super) struct Echo {
    /// Different in each process.
    prefix: String,
    next: AtomicU64,
}

impl Echo {
    pub(super) const HEADER: HeaderName = HeaderName::from_static("lapwing-delivery");

    pub(super) fn new() -> Self {
        let since = clock::now().duration_since(std::time::UNIX_EPOCH);
        let micros = since.unwrap_or_default().as_micros();
        Self {
            prefix: format!("{:x}-{micros:x}", std::process::id()),
            next: AtomicU64::new(0),
        }
    }

    /// The mark of the next request.
    pub(super) fn mark(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number:x}", self.prefix)
    }

    /// The failure of the request if the response does not repeat its mark.
    pub(super) fn check(response: &Response, mark: &str) -> Option<(Failure, Option<Again>)> {
        let (name, status) = (Self::HEADER, response.status());
        let failed = |text| Failure::retryable("http-echo", text);
        match response.headers().get(&name) {
            Some(got) if got == mark => None,
            Some(_) => {
                let failure = failed(format!("HTTP {status} answers another request"));
                Some((failure, Some(Again::Fresh)))
            }
            None => {
                let why = format!("it has no header `{name}`, which `echo` demands");
                let failure = failed(format!("HTTP {status} does not count: {why}"));
                Some((failure, None))
            }
        }
    }
}
