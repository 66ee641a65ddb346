//! The errors of the API, for its OpenAPI document.

#![expect(
    dead_code,
    reason = "these types only describe responses; the server builds them from `ApiError`"
)]

use utoipa::IntoResponses;

use super::error::ErrorBody;

/// There is no such consumer.
#[derive(IntoResponses)]
#[response(status = 404, description = "There is no such consumer")]
pub(super) struct NoConsumer(#[to_schema] ErrorBody);

/// The request cannot be read, or a value is out of range.
#[derive(IntoResponses)]
#[response(
    status = 400,
    description = "The query or body cannot be read, or is out of range"
)]
pub(super) struct BadRequest(#[to_schema] ErrorBody);

/// The client may not do this.
#[derive(IntoResponses)]
pub(super) enum Refused {
    /// The token is missing or wrong.
    #[response(status = 401, description = "The token is missing or wrong")]
    Token(#[to_schema] ErrorBody),
    /// The request is forbidden for another reason.
    #[response(
        status = 403,
        description = "No token is configured, or the request names another host or origin"
    )]
    Other(#[to_schema] ErrorBody),
}

/// The consumer gave no answer.
#[derive(IntoResponses)]
pub(super) enum Silent {
    /// The consumer is not running.
    #[response(
        status = 503,
        description = "The consumer is not running, or the token cannot be read"
    )]
    NotRunning(#[to_schema] ErrorBody),
    /// The consumer is busy.
    #[response(
        status = 504,
        description = "The consumer did not answer in time; a change is still applied later"
    )]
    TimedOut(#[to_schema] ErrorBody),
}

/// A job about dead letters is not started.
#[derive(IntoResponses)]
pub(super) enum NotStarted {
    /// Another job is running.
    #[response(status = 409, description = "Another job is running")]
    Busy(#[to_schema] ErrorBody),
    /// The body is too long.
    #[response(status = 413, description = "The body is too long")]
    Long(#[to_schema] ErrorBody),
    /// The body is not JSON.
    #[response(status = 415, description = "The body is not application/json")]
    Type(#[to_schema] ErrorBody),
    /// The job cannot be started.
    #[response(status = 503, description = "The job cannot be started")]
    Unavailable(#[to_schema] ErrorBody),
}
