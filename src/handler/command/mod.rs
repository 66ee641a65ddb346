//! A handler that runs a program for each message.
//!
//! The program gets the body on its standard input and facts about the message in its environment.
//! Its exit code is the outcome, and the end of its standard error is the error.

mod settings;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString, fmt, future::pending, io, os::unix::process::ExitStatusExt, pin::pin,
    process::ExitStatus,
};

use tokio::{io::AsyncWriteExt, net::unix::pipe};
use tracing::info;

pub use settings::{CommandHandlerSettings, CommandOutput, ExitMeaning};

use super::{
    Context, Handler, HandlerError, HandlerFuture, about,
    child::{self, Child, Kept, PREFIX, Program, Tail},
    results,
};
use crate::{
    outcome::{Failure, Outcome},
    text::cut,
};
use settings::ExitCodes;

/// The most bytes of the message's headers in `LAPWING_HEADERS`. Linux allows 128 KiB for one
/// variable.
const HEADERS: usize = 64 * 1024;
/// The bytes of standard error and of standard output that go into the error and the log.
const SHOWN: usize = 4 * 1024;

/// Runs a program for each message.
pub struct CommandHandler {
    program: Program,
    exit_codes: ExitCodes,
    output: CommandOutput,
}

impl fmt::Debug for CommandHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Arguments and variables may hold secrets.
        f.debug_struct("CommandHandler").finish_non_exhaustive()
    }
}

/// What a program has written.
struct Written {
    stdout: Kept,
    stderr: Tail,
}

impl CommandHandler {
    /// Makes a handler from its settings.
    ///
    /// # Errors
    /// If there is no such program.
    pub fn new(settings: &CommandHandlerSettings) -> Result<Self, HandlerError> {
        let failed = |error| HandlerError::new(format!("command handler: argv: {error}"));
        Ok(Self {
            program: settings.program().map_err(failed)?,
            exit_codes: settings.codes(),
            output: settings.output,
        })
    }

    /// Runs the program to its end. `None`: the run was cancelled, and has ended.
    async fn run(
        &self,
        context: &Context,
        child: Child,
    ) -> (Option<io::Result<ExitStatus>>, Written) {
        let cancellation = context.cancellation();
        let mut written = Written {
            stdout: Kept::most(match context.outbox().wants_result() {
                true => results::LONGEST,
                false => SHOWN,
            }),
            stderr: Tail::most(SHOWN),
        };
        let Child {
            stdin,
            stdout,
            stderr,
            mut ending,
        } = child;
        let status = {
            let talk = async {
                tokio::join!(
                    feed(stdin, context.message().body()),
                    child::drain(&stdout, &mut written.stdout),
                    child::drain(&stderr, &mut written.stderr),
                );
                pending::<()>().await;
            };
            let mut talk = pin!(talk);
            let is_cancelled = tokio::select! {
                biased;
                () = ending.ended() => false,
                _ = cancellation.cancelled() => true,
                () = &mut talk => false,
            };
            match is_cancelled {
                false => Some(ending.reap()),
                true => {
                    // A program that writes can end only if somebody reads.
                    tokio::select! {
                        biased;
                        _ = ending.shut_down() => {}
                        () = &mut talk => {}
                    }
                    None
                }
            }
        };
        child::rest(&stdout, &mut written.stdout);
        child::rest(&stderr, &mut written.stderr);
        (status, written)
    }

    fn tell(&self, context: &Context, written: &Written) {
        let Written { stdout, stderr } = written;
        if self.output == CommandOutput::Discard || stdout.total + stderr.total == 0 {
            return;
        }
        info!(
            consumer = context.consumer(),
            id = context.message().id(),
            attempt = context.attempt(),
            stdout = cut(stdout.text().trim_end(), SHOWN),
            stdout_bytes = stdout.total,
            stderr = stderr.text(),
            stderr_bytes = stderr.total,
            "the program wrote",
        );
    }

    /// The outcome of a program that has ended.
    fn judge(&self, context: &Context, status: ExitStatus, written: Written) -> Outcome {
        let Written { stdout, stderr } = written;
        let said = stderr.text();
        let text = match said.as_str() {
            "" => child::how(status),
            said => format!("{}: {said}", child::how(status)),
        };
        let Some(code) = status.code().and_then(|code| u8::try_from(code).ok()) else {
            // A signal ended it: the limit of memory or CPU, the system, or a fault of the program.
            let number = status
                .signal()
                .and_then(|number| u16::try_from(number).ok());
            let mut failure = Failure::retryable("command-signal", text);
            failure.status = number;
            return Outcome::Failed(failure);
        };
        let unsuccessful = self.exit_codes.unsuccessful(code, text);
        unsuccessful
            .unwrap_or_else(|| results::succeeded(context, stdout.first, stdout.total, None))
    }
}

/// The failure of a program that did not start.
fn not_started(error: &io::Error) -> Failure {
    let text = format!("failed to start the program: {error}");
    match error.kind() {
        // The message is at fault: what it says does not fit into an environment.
        io::ErrorKind::ArgumentListTooLong | io::ErrorKind::InvalidInput => {
            Failure::permanent("command-start", text)
        }
        _ => Failure::unavailable("command-start", text),
    }
}

/// Writes the body, and closes the pipe. A program need not read its input: its exit code counts.
async fn feed(stdin: Option<pipe::Sender>, body: &[u8]) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(body).await;
    }
}

/// The variables about the message.
fn variables(context: &Context) -> Vec<(OsString, OsString)> {
    let facts = about::facts(context);
    let facts = facts.map(|(name, value)| (name.variable.to_owned(), value.text().into_owned()));
    let properties = context.message().properties();
    let known = [
        ("CONTENT_TYPE", properties.content_type()),
        ("CONTENT_ENCODING", properties.content_encoding()),
    ];
    let known = known
        .into_iter()
        .filter_map(|(name, value)| Some((format!("{PREFIX}{name}"), value?.to_owned())));
    let (headers, cut) = about::headers(properties, Some(HEADERS));
    let headers = serde_json::Value::Object(headers).to_string();
    let cut = cut.text().map(str::to_owned);
    let trace = about::trace(context);
    let trace = trace
        .into_iter()
        .map(|(name, value)| (name.to_ascii_uppercase(), value));
    let all = facts
        .chain(known)
        .chain([(format!("{PREFIX}HEADERS"), headers)])
        .chain(cut.map(|list| (format!("{PREFIX}CUT_HEADERS"), list)))
        .chain(trace);
    // A variable ends at its first NUL.
    all.map(|(name, value)| (name.into(), value.replace('\0', "?").into()))
        .collect()
}

impl Handler for CommandHandler {
    fn handle(&self, context: Context) -> HandlerFuture<'_> {
        Box::pin(async move {
            let child = match self.program.start(variables(&context)) {
                Ok(child) => child,
                Err(error) => return Outcome::Failed(not_started(&error)),
            };
            let (status, written) = self.run(&context, child).await;
            self.tell(&context, &written);
            match status {
                Some(Ok(status)) => self.judge(&context, status, written),
                Some(Err(error)) => {
                    let text = format!("failed to wait for the program: {error}");
                    Outcome::Failed(Failure::retryable("command-wait", text))
                }
                // Exit code 0 after SIGTERM does not say that the work is done.
                None => Outcome::Failed(Failure::retryable("cancelled", "the program was ended")),
            }
        })
    }

    fn stop(&self) -> HandlerFuture<'_, ()> {
        Box::pin(async {
            self.program.ends.close();
            self.program.ends.wait().await;
        })
    }
}
