//! Refusals, as the document describes them.

#![expect(
    dead_code,
    reason = "they are described, and never made: see `ApiError`"
)]

use utoipa::IntoResponses;

use super::error::ErrorBody;

/// There is no such consumer.
#[derive(IntoResponses)]
#[response(status = 404, description = "There is no such consumer")]
pub(super) struct NoConsumer(#[to_schema] ErrorBody);

/// What is asked for is out of its range, or cannot be read.
#[derive(IntoResponses)]
#[response(
    status = 400,
    description = "The query or body cannot be read, or is out of range"
)]
pub(super) struct BadRequest(#[to_schema] ErrorBody);

/// Who asks may not.
#[derive(IntoResponses)]
pub(super) enum Refused {
    /// The token.
    #[response(status = 401, description = "The token is missing or wrong")]
    Token(#[to_schema] ErrorBody),
    /// Anything else.
    #[response(
        status = 403,
        description = "No token is configured, or the request names another host or origin"
    )]
    Other(#[to_schema] ErrorBody),
}

/// The consumer does not answer.
#[derive(IntoResponses)]
pub(super) enum Silent {
    /// It is not there to answer.
    #[response(
        status = 503,
        description = "The consumer is not running, or the token cannot be read"
    )]
    NotRunning(#[to_schema] ErrorBody),
    /// It is busy.
    #[response(
        status = 504,
        description = "The consumer did not answer in time; what it was told it does when it can"
    )]
    TimedOut(#[to_schema] ErrorBody),
}
