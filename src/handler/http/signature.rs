//! Signatures of requests, as Standard Webhooks has them
//! (<https://github.com/standard-webhooks/standard-webhooks>).

use std::time::UNIX_EPOCH;

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::request::escaped;
use crate::{chance, clock};

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The beginning of the names of these headers.
pub(super) const PREFIX: &str = "webhook-";
/// The beginning of a secret.
const SECRET: &str = "whsec_";
/// The lengths of a secret in bytes, as the specification has them.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;
/// The most secrets: a rotation needs two.
const MOST: usize = 4;

/// Signs requests with each of some secrets.
pub(super) struct Signer(Vec<hmac::Key>);

impl Signer {
    /// A signer with the secrets in this text, one a line.
    ///
    /// # Errors
    /// What is wrong with a line. The text does not quote the line.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).enumerate();
        let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty()).collect();
        if lines.is_empty() || lines.len() > MOST {
            return Err(format!(
                "holds {} secrets, and must hold 1 to {MOST}, one a line",
                lines.len()
            ));
        }
        let keys = lines.into_iter().map(|(index, line)| {
            let number = index + 1;
            let secret = line.strip_prefix(SECRET).unwrap_or(line);
            let key = BASE64_STANDARD
                .decode(secret)
                .map_err(|_| format!("line {number} is not `{SECRET}` and Base64"))?;
            if !LENGTHS.contains(&key.len()) {
                let (least, most) = (LENGTHS.start(), LENGTHS.end());
                let length = key.len();
                return Err(format!(
                    "line {number} has {length} bytes, and must have {least} to {most}"
                ));
            }
            Ok(hmac::Key::new(hmac::HMAC_SHA256, &key))
        });
        Ok(Self(keys.collect::<Result<_, _>>()?))
    }

    /// Adds the headers of the signature of a request with this body. Without the id of a message each
    /// request gets an id of its own.
    pub(super) fn sign(&self, headers: &mut HeaderMap, id: Option<&str>, body: &[u8]) {
        let id = match id.filter(|id| !id.is_empty()) {
            // What is signed has dots between its parts, so no part but the last may have one.
            Some(id) => escaped(id).replace('.', "%2E"),
            None => chance::message_id().to_string(),
        };
        let since = clock::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = since.as_secs().to_string();
        let signature = self.signature(&id, &time, body);
        for (name, value) in [(ID, id), (TIMESTAMP, time), (SIGNATURE, signature)] {
            let value = HeaderValue::try_from(value).expect("these are visible ASCII");
            headers.insert(name, value);
        }
    }

    /// The signature by each secret, with spaces between them.
    pub(super) fn signature(&self, id: &str, time: &str, body: &[u8]) -> String {
        let signed = self.0.iter().map(|key| {
            let mut signing = hmac::Context::with_key(key);
            for part in [id.as_bytes(), b".", time.as_bytes(), b".", body] {
                signing.update(part);
            }
            format!("v1,{}", BASE64_STANDARD.encode(signing.sign()))
        });
        signed.collect::<Vec<_>>().join(" ")
    }
}
