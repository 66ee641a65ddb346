//! Failures, and the types that a handler function may return.

use std::{borrow::Cow, error::Error, fmt, time::Duration};

use super::Outcome;

/// Why a handler failed, and whether a later attempt may succeed.
///
/// `?` turns any error into a retryable failure of class `error`: each [`std::error::Error`] that is
/// `Send + Sync`, `anyhow::Error`, and text. [`IntoFailure`] lets an error type say more.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Failure {
    /// Whether a later attempt may succeed.
    pub retryable: bool,
    /// The sort of failure, for rules, counters and fingerprints. Use a small set of words, in
    /// kebab-case.
    pub class: Cow<'static, str>,
    /// The HTTP status or a similar number, for rules.
    pub status: Option<u16>,
    /// The error's text, for people.
    pub error: String,
    /// The delay before the retry, instead of the computed delay.
    pub retry_after: Option<Duration>,
    /// Whether the service behind the handler is unavailable: [`Failure::unavailable`].
    pub unavailable: bool,
    /// Whether the body cannot be decoded: [`Failure::undecodable`].
    pub(crate) undecodable: bool,
}

impl Failure {
    /// A failure after which a later attempt may succeed.
    pub fn retryable(class: impl Into<Cow<'static, str>>, error: impl Into<String>) -> Self {
        Self {
            retryable: true,
            class: class.into(),
            status: None,
            error: error.into(),
            retry_after: None,
            unavailable: false,
            undecodable: false,
        }
    }

    /// The service that the handler needs is down, or asks for fewer requests. This says something
    /// about the service and not about the message, so the attempt is not charged, unless other
    /// messages succeed meanwhile. After several such failures in a row the consumer stops until the
    /// service is back. Add [`retry_after`](Self::retry_after) if the service names a time, and
    /// status 429 if it limits its rate.
    pub fn unavailable(class: impl Into<Cow<'static, str>>, error: impl Into<String>) -> Self {
        Self {
            unavailable: true,
            ..Self::retryable(class, error)
        }
    }

    /// A failure that every attempt would have. The worker dead-letters the message as `rejected`.
    pub fn permanent(class: impl Into<Cow<'static, str>>, error: impl Into<String>) -> Self {
        Self {
            retryable: false,
            ..Self::retryable(class, error)
        }
    }

    /// The handler cannot decode the body, or another source of an argument. The worker
    /// dead-letters the message as `decode`, whatever the consumer's rules say.
    pub fn undecodable(error: impl Into<String>) -> Self {
        Self {
            undecodable: true,
            ..Self::permanent("decode", error)
        }
    }

    /// The same failure, with this class.
    pub(crate) fn of_class(mut self, class: &'static str) -> Self {
        self.class = class.into();
        self
    }

    /// The same failure, with a retry after `delay` (at most the consumer's cap).
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// The same failure, with a status that rules can match.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.unavailable {
            "unavailable"
        } else if self.retryable {
            "retryable"
        } else {
            "permanent"
        };
        write!(f, "{kind} {}", self.class)?;
        if let Some(status) = self.status {
            write!(f, " ({status})")?;
        }
        write!(f, ": {}", self.error)
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        Self::retryable("error", crate::text::causes(error.as_ref()))
    }
}

/// An error of a handler function that says what follows from it. A [`Failure`] is one, and so are
/// `anyhow::Error` and `Box<dyn Error + Send + Sync>`: after them the worker tries again.
///
/// A type of your own classifies itself. `?` in the function then converts errors into this type, as it
/// does everywhere.
///
/// ```
/// use lapwing::{Failure, handler::IntoFailure};
///
/// #[derive(Debug, thiserror::Error)]
/// enum PaymentError {
///     #[error("the card is refused")]
///     Refused,
///     #[error("the payment service is down")]
///     Down(#[from] std::io::Error),
/// }
///
/// impl IntoFailure for PaymentError {
///     fn into_failure(self) -> Failure {
///         match self {
///             Self::Refused => Failure::permanent("card", self.to_string()),
///             Self::Down(_) => Failure::unavailable("payments", self.to_string()),
///         }
///     }
/// }
///
/// async fn charge() -> Result<(), PaymentError> {
///     std::fs::read("/dev/null")?;
///     Err(PaymentError::Refused)
/// }
/// # lapwing::handler::IntoHandler::into_handler(charge);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what follows from it",
    label = "a handler function cannot fail with this type",
    note = "let the function return `Result<_, lapwing::Failure>`: `?` turns any error into one",
    note = "or implement `lapwing::handler::IntoFailure` for `{Self}`"
)]
pub trait IntoFailure {
    /// The failure of an attempt that ends with this error.
    fn into_failure(self) -> Failure;
}

impl IntoFailure for Failure {
    fn into_failure(self) -> Failure {
        self
    }
}

impl IntoFailure for anyhow::Error {
    fn into_failure(self) -> Failure {
        self.into()
    }
}

impl IntoFailure for Box<dyn Error + Send + Sync> {
    fn into_failure(self) -> Failure {
        self.into()
    }
}

/// The types that a handler function may return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no outcome of a handler",
    label = "a handler function cannot return this type",
    note = "a handler returns `()`, `lapwing::Outcome`, or a `Result` of one of these and \
            `lapwing::Failure` or another type that implements `lapwing::handler::IntoFailure`"
)]
pub trait IntoOutcome {
    /// Converts the value into an outcome.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Outcome::Succeeded
    }
}

impl<T: IntoOutcome, E: IntoFailure> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(value) => value.into_outcome(),
            Err(error) => Outcome::Failed(error.into_failure()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a handler returns, as an outcome.
    fn failure(outcome: impl IntoOutcome) -> Failure {
        match outcome.into_outcome() {
            Outcome::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn any_error_is_a_retryable_failure_with_its_causes() {
        fn any() -> Result<(), Failure> {
            Err(anyhow::Error::from(fmt::Error).context("the order cannot be written"))?;
            Ok(())
        }
        fn boxed() -> Result<(), Box<dyn Error + Send + Sync>> {
            Err("no stock")?;
            Ok(())
        }
        fn std_error() -> Result<(), Failure> {
            Err(std::io::Error::other("disk full"))?;
            Ok(())
        }
        fn context() -> anyhow::Result<()> {
            use anyhow::Context;
            std::fs::read("/missing").context("no file")?;
            Ok(())
        }
        for (failure, words) in [
            (failure(any()), "the order cannot be written: "),
            (failure(boxed()), "no stock"),
            (failure(std_error()), "disk full"),
            (failure(context()), "no file: No such file"),
        ] {
            assert!(failure.retryable && !failure.unavailable, "{failure:?}");
            assert_eq!(failure.class, "error");
            assert!(failure.error.starts_with(words), "{failure:?}");
        }
    }

    #[test]
    fn an_error_type_that_classifies_itself_decides() {
        struct Closed;
        impl IntoFailure for Closed {
            fn into_failure(self) -> Failure {
                Failure::unavailable("shop", "closed")
            }
        }
        let failure = failure(Err::<(), _>(Closed));
        assert_eq!(
            (failure.class.as_ref(), failure.unavailable),
            ("shop", true)
        );
    }
}
