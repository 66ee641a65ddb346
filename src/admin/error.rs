//! The error responses of the API.

use axum::{
    Json,
    extract::{
        FromRequestParts,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{CallError, CancelError, ConcurrencyError};

/// The body of an error response.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub(super) struct ErrorBody {
    /// What went wrong, as text for people.
    error: String,
}

/// An error response: its status and its text.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    text: String,
    /// Whether a browser shall ask its user for the token.
    asks: bool,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            status,
            text,
            asks: false,
        }
    }

    /// The same error, after which a browser asks its user for the token.
    pub(super) fn for_a_browser(self) -> Self {
        Self { asks: true, ..self }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = self.text;
        let mut response = (self.status, Json(ErrorBody { error })).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static(match self.asks {
                true => "Basic realm=\"Lapwing: the token is the password\", Bearer",
                false => "Bearer",
            });
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        let status = match error {
            CallError::NoSuchConsumer => StatusCode::NOT_FOUND,
            CallError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            CallError::NotRunning => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<CancelError> for ApiError {
    fn from(error: CancelError) -> Self {
        let status = match error {
            CancelError::Call(error) => return error.into(),
            CancelError::Gone => StatusCode::NOT_FOUND,
            CancelError::NotHandling(_) => StatusCode::CONFLICT,
        };
        Self::new(status, error.to_string())
    }
}

impl From<ConcurrencyError> for ApiError {
    fn from(error: ConcurrencyError) -> Self {
        let status = match error {
            ConcurrencyError::NoSuchConsumer => StatusCode::NOT_FOUND,
            ConcurrencyError::OutOfRange { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, error.to_string())
    }
}

/// A request without parameters. One that has some is refused: a parameter that is ignored would give an
/// answer to another question.
#[derive(Debug)]
pub(super) struct NoQuery;

impl<S: Sync> FromRequestParts<S> for NoQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match parts.uri.query() {
            None | Some("") => Ok(Self),
            Some(_) => {
                let text = "this path takes no parameters";
                Err(ApiError::new(StatusCode::BAD_REQUEST, text))
            }
        }
    }
}

macro_rules! rejections {
    ($($rejection:ty),*) => {$(
        impl From<$rejection> for ApiError {
            fn from(rejection: $rejection) -> Self {
                Self::new(rejection.status(), rejection.body_text())
            }
        }
    )*};
}

rejections!(JsonRejection, PathRejection, QueryRejection);
