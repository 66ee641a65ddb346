//! The tokens of the server: one for changes, and one for reading if the settings want it.

use std::path::PathBuf;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use subtle::ConstantTimeEq;
use tracing::error;

use super::{AdminSettings, error::ApiError, settings::token_fault};
use crate::config::Secret;

/// Checks the token of a request to change something.
pub(super) async fn check_change(
    admin: &AdminSettings,
    headers: &HeaderMap,
) -> Result<(), ApiError> {
    let Some(wanted) = wanted(admin.token.as_ref(), admin.token_file.as_ref()).await? else {
        let text = "nothing can be changed: no token is configured (admin.token)";
        return Err(ApiError::new(StatusCode::FORBIDDEN, text));
    };
    let given = headers.get(header::AUTHORIZATION).and_then(bearer);
    check(given, &[wanted])
}

/// Checks the token of a request to read. Probes and metrics need no token. Without `admin.read_token`
/// nothing does. The token for changes allows reading too. A browser asks its user for the token and
/// sends it as a password, also for the stream of events.
pub(super) async fn check_read(
    admin: &AdminSettings,
    path: &str,
    headers: &HeaderMap,
) -> Result<(), ApiError> {
    const FREE: [&str; 4] = ["/livez", "/readyz", "/startupz", "/metrics"];
    if FREE.contains(&path) {
        return Ok(());
    }
    let file = admin.read_token_file.as_ref();
    let Some(read) = wanted(admin.read_token.as_ref(), file).await? else {
        return Ok(());
    };
    let change = wanted(admin.token.as_ref(), admin.token_file.as_ref()).await?;
    let given = headers.get(header::AUTHORIZATION);
    let given = given.and_then(|given| bearer(given).map(<[u8]>::to_vec).or_else(|| basic(given)));
    let tokens: Vec<_> = [read].into_iter().chain(change).collect();
    check(given.as_deref(), &tokens).map_err(ApiError::for_a_browser)
}

fn check(given: Option<&[u8]>, wanted: &[String]) -> Result<(), ApiError> {
    let Some(given) = given else {
        let text = "a token is needed (Authorization: Bearer ...)";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, text));
    };
    let is_right = |wanted: &String| bool::from(given.ct_eq(wanted.as_bytes()));
    match wanted.iter().any(is_right) {
        true => Ok(()),
        false => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "the token is wrong",
        )),
    }
}

/// The token that a request must have. A file may have changed since the start, so its token is checked
/// each time as it was checked then.
async fn wanted(
    token: Option<&Secret>,
    file: Option<&PathBuf>,
) -> Result<Option<String>, ApiError> {
    let file = match (token, file) {
        (Some(token), _) => return Ok(Some(token.expose().to_owned())),
        (None, None) => return Ok(None),
        (None, Some(file)) => file,
    };
    let unusable = |error: &str| {
        error!(error, file = %file.display(), "the token cannot be used");
        let text = "the token cannot be read, or is not a token";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text)
    };
    let text = tokio::fs::read_to_string(file).await;
    let text = text.map_err(|error| unusable(&error.to_string()))?;
    let token = text.trim_end_matches(['\r', '\n']);
    match token_fault(token) {
        None => Ok(Some(token.to_owned())),
        Some(fault) => Err(unusable(&fault)),
    }
}

/// The token of an `Authorization` header. The case of the scheme does not matter (RFC 9110).
fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = header.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// The password of an `Authorization` header of a browser. The user's name does not matter.
fn basic(header: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, pair) = header.as_bytes().split_at_checked("Basic ".len())?;
    let is_basic = scheme.eq_ignore_ascii_case(b"Basic ");
    let pair = STANDARD
        .decode(pair.trim_ascii())
        .ok()
        .filter(|_| is_basic)?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::file;

    const TOKEN: &str = "a-token-for-changes";
    const READ: &str = "a-token-for-reading";

    fn with(authorization: &str) -> HeaderMap {
        let value = HeaderValue::try_from(authorization).unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    fn status(result: Result<(), ApiError>) -> u16 {
        result.map_or_else(|error| error.status().as_u16(), |()| 200)
    }

    #[test]
    fn a_bearer_token_is_taken_as_it_is() {
        let of = |text: &'static str| bearer(&HeaderValue::from_static(text)).map(<[u8]>::to_vec);
        assert_eq!(of("Bearer abc"), Some(b"abc".to_vec()));
        assert_eq!(of("bearer abc "), Some(b"abc ".to_vec()));
        for text in ["Basic abc", "Bearer", "Bearerabc", ""] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn reading_needs_a_token_only_if_the_settings_want_one() {
        let basic = |password: &str| format!("Basic {}", STANDARD.encode(format!("u:{password}")));
        let free = AdminSettings::default();
        assert_eq!(
            status(check_read(&free, "/api/v1/worker", &HeaderMap::new()).await),
            200
        );
        let admin = AdminSettings {
            token: Some(Secret::from(TOKEN)),
            read_token: Some(Secret::from(READ)),
            ..free
        };
        for (authorization, expected) in [
            (format!("Bearer {READ}"), 200),
            (basic(READ), 200),
            (format!("Bearer {TOKEN}"), 200),
            (format!("Bearer {READ}x"), 401),
            (basic(""), 401),
            ("Basic :".to_owned(), 401),
        ] {
            let got = check_read(&admin, "/api/v1/worker", &with(&authorization)).await;
            assert_eq!(status(got), expected, "{authorization}");
        }
        let none = HeaderMap::new();
        for (path, expected) in [("/", 401), ("/api/v1/events", 401), ("/livez", 200)] {
            assert_eq!(
                status(check_read(&admin, path, &none).await),
                expected,
                "{path}"
            );
        }
        // A page of another origin can make a browser send a password, but no bearer token.
        for authorization in [basic(TOKEN), format!("Bearer {READ}")] {
            assert_eq!(
                status(check_change(&admin, &with(&authorization)).await),
                401
            );
        }
        assert_eq!(
            status(check_change(&admin, &with(&format!("Bearer {TOKEN}"))).await),
            200
        );
    }

    #[tokio::test]
    async fn a_rotated_token_is_checked_as_at_the_start() {
        let file = file(TOKEN);
        let admin = AdminSettings {
            token_file: Some(file.path().to_owned()),
            ..AdminSettings::default()
        };
        let right = with(&format!("Bearer {TOKEN}"));
        assert_eq!(status(check_change(&admin, &right).await), 200);
        for short in ["a", "", "fifteen-letters"] {
            std::fs::write(file.path(), short).unwrap();
            let given = with(&format!("Bearer {short}"));
            assert_eq!(status(check_change(&admin, &given).await), 503, "{short}");
        }
    }
}
