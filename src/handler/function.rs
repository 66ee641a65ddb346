//! Async functions as handlers.

use std::{future::Future, marker::PhantomData};

use super::{Context, FromContext, Handler, HandlerFuture, Requirements};
use crate::outcome::{IntoOutcome, Outcome};

/// A type that can be registered on a worker as a handler: a [`Handler`], or an async function of up to
/// six arguments that each implement [`FromContext`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be registered as a handler",
    label = "this is no handler",
    note = "a handler is an async function of up to six arguments, or a type that implements \
            `lapwing::Handler`",
    note = "each argument implements `lapwing::handler::FromContext`: `Json<T>`, `Body`, `Headers`, \
            `Shared<T>`, `Attempt`, `Context` and others",
    note = "the function returns `()`, `lapwing::Outcome`, or a `Result` of one of these and \
            `lapwing::Failure` or another type that implements `lapwing::handler::IntoFailure`",
    note = "its future is `Send`: it holds no `Rc` and no lock of the standard library over an `.await`"
)]
pub trait IntoHandler<Marker> {
    /// The type of the handler.
    type Handler: Handler;
    /// Converts this into a handler.
    fn into_handler(self) -> Self::Handler;
}

/// Marks the [`IntoHandler`] implementation of types that already are handlers.
#[derive(Debug)]
pub struct IsHandler;

impl<H: Handler> IntoHandler<IsHandler> for H {
    type Handler = H;
    fn into_handler(self) -> H {
        self
    }
}

/// An async function as a [`Handler`].
pub struct FunctionHandler<F, Arguments> {
    function: F,
    arguments: PhantomData<fn(Arguments)>,
}

impl<F, Arguments> std::fmt::Debug for FunctionHandler<F, Arguments> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::any::type_name::<F>())
    }
}

macro_rules! functions {
    ($($argument:ident),*) => {
        impl<F, Fut, $($argument,)*> IntoHandler<(Fut, $($argument,)*)> for F
        where
            F: Fn($($argument),*) -> Fut + Send + Sync + 'static,
            Fut: Future + Send + 'static,
            Fut::Output: IntoOutcome,
            $($argument: FromContext + Send + 'static,)*
        {
            type Handler = FunctionHandler<F, (Fut, $($argument,)*)>;
            fn into_handler(self) -> Self::Handler {
                FunctionHandler { function: self, arguments: PhantomData }
            }
        }

        impl<F, Fut, $($argument,)*> Handler for FunctionHandler<F, (Fut, $($argument,)*)>
        where
            F: Fn($($argument),*) -> Fut + Send + Sync + 'static,
            Fut: Future + Send + 'static,
            Fut::Output: IntoOutcome,
            $($argument: FromContext + Send + 'static,)*
        {
            #[allow(non_snake_case, unused_variables)]
            fn handle(&self, context: Context) -> HandlerFuture<'_> {
                Box::pin(async move {
                    $(let $argument = match $argument::from_context(&context) {
                        Ok(argument) => argument,
                        Err(failure) => return Outcome::Failed(failure),
                    };)*
                    (self.function)($($argument),*).await.into_outcome()
                })
            }

            #[allow(unused_variables)]
            fn requirements(&self, requirements: &mut Requirements) {
                $($argument::requirements(requirements);)*
            }

            fn wants_checked_json(&self) -> bool {
                false
            }
        }
    };
}

functions!();
functions!(A);
functions!(A, B);
functions!(A, B, C);
functions!(A, B, C, D);
functions!(A, B, C, D, E);
functions!(A, B, C, D, E, G);
