//! `handler = { kind = "command" }`.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CommandHandler;
use crate::{
    config::{Findings, HOUR, KIND, KeyPath, Secret, Span},
    handler::{
        Handler, HandlerError, HandlerFuture, Reached,
        child::{Environment, Limits, Program, check_environment},
        kind::{Classes, Kind},
    },
    outcome::{Failure, Outcome},
};

/// The handler runs a program for each message, without a shell. The program gets the message's body
/// on its standard input. Its exit code is the outcome: 0 succeeds, 65 is a permanent failure, 69
/// says that a service is unavailable, and all others are retried, 75 included. A program that a
/// signal ends is retried. The last 4 KiB of its standard error become the error text. Rules can match
/// the class `command` with the exit code as `status`, and the class `command-signal` with the
/// signal's number.
///
/// The environment of the program has nothing but the variables that `env` and `pass_env` name, and
/// those about the message: `LAPWING_MESSAGE_ID`, `LAPWING_ATTEMPT` (from 1), `LAPWING_QUEUE`,
/// `LAPWING_EXCHANGE`, `LAPWING_ROUTING_KEY`, `LAPWING_TYPE`, `LAPWING_REDELIVERED`,
/// `LAPWING_CORRELATION_ID`, `LAPWING_REPLY_TO`, `LAPWING_APP_ID`, `LAPWING_USER_ID`,
/// `LAPWING_TIMESTAMP` (seconds since 1970), `LAPWING_PRIORITY`, `LAPWING_EXPIRATION` (milliseconds),
/// `LAPWING_CONTENT_TYPE`, `LAPWING_CONTENT_ENCODING`, `TRACEPARENT` and `TRACESTATE`. A property that
/// the message does not have is not set. `LAPWING_HEADERS` has the message's own headers as a JSON
/// object, as long as they fit into 64 KiB. `LAPWING_CUT_HEADERS` names the others, with spaces
/// between them. A variable cannot hold the character NUL, so each is replaced by `?`.
///
/// Each program runs in a process group of its own. At the consumer's `timeout`, and when the grace
/// of a drain ends, the handler sends SIGTERM to the group, and SIGKILL after `kill_after`. An exit
/// code that follows SIGTERM does not count. When the program has ended,
/// the handler kills what is left of its group.
///
/// To set `memory_mib` and `cpu_seconds`, the handler starts `/bin/sh`, which sets the limits and then
/// becomes the program. The shell reads neither the program's arguments nor the message. Some shells add
/// variables such as `PWD` to the environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["argv"]))]
pub struct CommandHandlerSettings {
    /// The program and its arguments. A name without a slash is looked up in the worker's `PATH` at
    /// the start. The handler passes each argument on as it is, and puts nothing of the message into
    /// them. Required.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["./handle", "--json"])]
    pub argv: Vec<String>,
    /// Variables of the program's environment, as a table. Their values never print. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, String>", example = example_env())]
    pub env: BTreeMap<String, Secret>,
    /// The names of variables that the program gets from the worker's environment, if they are set
    /// there. Without `PATH` many programs do not find others. Default: `["PATH"]`.
    #[schemars(example = ["PATH", "HOME", "DATABASE_URL"])]
    pub pass_env: Vec<String>,
    /// The directory in which the program runs. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/srv/orders")]
    pub directory: Option<PathBuf>,
    /// What exit codes mean, as a table from code to `succeeded`, `retry`, `permanent`,
    /// `unavailable` or `dropped`. A code that is not listed keeps its meaning. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(example = example_codes())]
    pub exit_codes: BTreeMap<String, ExitMeaning>,
    /// How long a program may take to end after SIGTERM. Too low: it cannot clean up. Longer than the
    /// consumer's `cancel_grace`: the next attempt can begin while the program of the last one still
    /// ends. Default: `500ms`.
    #[serde(with = "Span::<0, HOUR>")]
    pub kill_after: Duration,
    /// What happens to what a program writes. Default: `log`.
    pub output: CommandOutput,
    /// The most memory that each process may write to, in MiB (`RLIMIT_DATA`). Too low: the program
    /// fails to start, or ends in an odd way. Too high, or not set: a program can use up the
    /// machine's memory. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), example = 512)]
    pub memory_mib: Option<u32>,
    /// The most CPU time that each process may use, in seconds (`RLIMIT_CPU`). The system sends
    /// SIGXCPU then, and SIGKILL a second later. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), example = 10)]
    pub cpu_seconds: Option<u32>,
}

fn example_env() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([("DATABASE_URL", "postgres://...")])
}

fn example_codes() -> BTreeMap<&'static str, ExitMeaning> {
    BTreeMap::from([("2", ExitMeaning::Permanent), ("3", ExitMeaning::Dropped)])
}

/// What an exit code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ExitMeaning {
    /// The program succeeded. The worker acks the message.
    Succeeded,
    /// A later attempt may succeed.
    Retry,
    /// Every attempt would fail. The worker dead-letters the message.
    Permanent,
    /// A service that the program needs is down. The attempt is not charged.
    Unavailable,
    /// The program does not want the message. The worker acks it, and counts it apart.
    Dropped,
}

/// What happens to what a program writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CommandOutput {
    /// The first 4 KiB of standard output and the last 4 KiB of standard error go to the worker's
    /// log, in one line for each run.
    #[default]
    Log,
    /// Nothing of it is kept but the error.
    Discard,
}

impl Default for CommandHandlerSettings {
    fn default() -> Self {
        Self {
            argv: Vec::new(),
            env: BTreeMap::new(),
            pass_env: vec!["PATH".to_owned()],
            directory: None,
            exit_codes: BTreeMap::new(),
            kill_after: Duration::from_millis(500),
            output: CommandOutput::Log,
            memory_mib: None,
            cpu_seconds: None,
        }
    }
}

impl CommandHandlerSettings {
    fn environment(&self) -> Environment {
        Environment {
            set: self.env.clone(),
            passed: self.pass_env.clone(),
        }
    }

    /// The program, or the reason why it cannot run.
    pub(super) fn program(&self) -> Result<Program, String> {
        let limits = Limits {
            memory: self.memory_mib.map(|mib| u64::from(mib) << 20),
            cpu: self.cpu_seconds.map(u64::from),
        };
        let program = Program::find(&self.argv)?
            .within(self.directory.clone())
            .environment(self.environment())
            .limits(limits)
            .grace(self.kill_after);
        Ok(program)
    }

    pub(super) fn codes(&self) -> ExitCodes {
        let codes = self.exit_codes.iter();
        let codes = codes.filter_map(|(code, meaning)| Some((code.parse().ok()?, *meaning)));
        ExitCodes(codes.collect())
    }
}

/// What the settings say about exit codes.
#[derive(Debug)]
pub(super) struct ExitCodes(BTreeMap<u8, ExitMeaning>);

impl ExitCodes {
    /// What a code means. The usual meanings are those of `sysexits.h`: `EX_DATAERR` and
    /// `EX_UNAVAILABLE`.
    pub(super) fn meaning(&self, code: u8) -> ExitMeaning {
        let usual = match code {
            0 => ExitMeaning::Succeeded,
            65 => ExitMeaning::Permanent,
            69 => ExitMeaning::Unavailable,
            _ => ExitMeaning::Retry,
        };
        self.0.get(&code).copied().unwrap_or(usual)
    }

    /// The outcome of a program that ended with this code; `None` if it succeeded.
    pub(super) fn unsuccessful(&self, code: u8, text: String) -> Option<Outcome> {
        let failed = |failure: Failure| Some(Outcome::Failed(failure.status(code.into())));
        match self.meaning(code) {
            ExitMeaning::Succeeded => None,
            ExitMeaning::Dropped => Some(Outcome::dropped(text)),
            ExitMeaning::Retry => failed(Failure::retryable("command", text)),
            ExitMeaning::Permanent => failed(Failure::permanent("command", text)),
            ExitMeaning::Unavailable => failed(Failure::unavailable("command", text)),
        }
    }
}

impl Kind for CommandHandlerSettings {
    fn make(&self, _: u16) -> Result<Arc<dyn Handler>, HandlerError> {
        Ok(Arc::new(CommandHandler::new(self)?))
    }

    fn reach(&self) -> HandlerFuture<'_, Result<Reached, HandlerError>> {
        Box::pin(async {
            self.program()
                .and_then(|it| it.reach())
                .map_err(HandlerError::new)
        })
    }

    fn judge(
        &self,
        class: Option<&str>,
        status: Option<u16>,
        _: Option<Duration>,
    ) -> Option<Outcome> {
        match (class, status) {
            (None | Some("command"), Some(code)) => {
                let code = u8::try_from(code).ok()?;
                let unsuccessful = self.codes().unsuccessful(code, String::new());
                Some(unsuccessful.unwrap_or(Outcome::Succeeded))
            }
            (Some("command-start"), _) => {
                let failure = Failure::unavailable("command-start", String::new());
                Some(Outcome::Failed(failure))
            }
            _ => None,
        }
    }

    fn classes(&self) -> Classes {
        Classes::closed(&[
            "command",
            "command-signal",
            "command-start",
            "command-wait",
            "result",
        ])
    }

    fn check(&self, findings: &mut Findings, path: &KeyPath) {
        if self.argv.first().is_none_or(String::is_empty) {
            let message = "is required by kind \"command\"";
            findings.contradiction(path.key("argv"), [path.key(KIND)], message);
        } else {
            let environment = self.environment();
            let directory = self.directory.as_deref();
            check_environment(findings, path, &self.argv, &environment, directory);
        }
        for code in self.exit_codes.keys() {
            if code.parse::<u8>().is_err() {
                let at = path.key("exit_codes").key(code);
                findings.add(at, "is no exit code: must be 0 to 255");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::samples::{Sample, sections},
        handler::HandlerSettings,
    };

    sections!({ handler: HandlerSettings }, |it, findings| {
        it.handler.check(findings, &KeyPath::of("handler"));
    });

    fn with(rest: &str) -> String {
        format!("handler.kind = \"command\"\n{rest}")
    }

    #[test]
    fn a_command_is_a_program_with_arguments() {
        Sections::allowed(&[
            &with("handler.argv = [\"sh\", \"-c\", \"exit 0\"]"),
            &with("handler.argv = [\"/bin/sh\"]\nhandler.directory = \"/\""),
        ]);
        Sections::refused(&[
            (&with(""), "handler.argv: is required by kind \"command\""),
            (
                &with("handler.argv = []"),
                "handler.argv: is required by kind \"command\"",
            ),
            (
                &with("handler.argv = [\"no such program\"]"),
                "handler.argv: there is no program `no such program` in the worker's PATH",
            ),
            (
                &with("handler.argv = [\"/etc/passwd\"]"),
                "handler.argv: /etc/passwd is not an executable file",
            ),
            (
                &with("handler.argv = [\"sh\", \"a\\u0000b\"]"),
                "handler.argv: must not hold the character NUL",
            ),
            (
                &with("handler.argv = [\"sh\"]\nhandler.directory = \"/missing\""),
                "handler.directory: /missing is no directory",
            ),
        ]);
    }

    #[test]
    fn the_environment_has_names_of_its_own() {
        let argv = "handler.argv = [\"sh\"]";
        Sections::allowed(&[&with(&format!(
            "{argv}\nhandler.env = {{ A = \"x y\" }}\nhandler.pass_env = []"
        ))]);
        for name in ["LAPWING_QUEUE", "TRACEPARENT", "TRACESTATE"] {
            let text = format!("{argv}\nhandler.env = {{ {name} = \"x\" }}");
            let beginning = format!("handler.env.{name}: lapwing sets this variable itself");
            Sections::refused(&[(&with(&text), &beginning)]);
        }
        Sections::refused(&[
            (
                &with(&format!("{argv}\nhandler.env = {{ \"a=b\" = \"x\" }}")),
                "handler.env.\"a=b\": is not the name of a variable",
            ),
            (
                &with(&format!("{argv}\nhandler.env = {{ a = \"x\\u0000\" }}")),
                "handler.env.a: must not hold the character NUL",
            ),
            (
                &with(&format!("{argv}\nhandler.pass_env = [\"LAPWING_QUEUE\"]")),
                "handler.pass_env[0]: lapwing sets this variable itself",
            ),
        ]);
    }

    #[test]
    fn exit_codes_can_be_given_other_meanings() {
        let argv = "handler.argv = [\"sh\"]";
        let codes = "handler.exit_codes = { \"2\" = \"permanent\", \"0\" = \"dropped\" }";
        Sections::allowed(&[&with(&format!("{argv}\n{codes}"))]);
        for code in ["256", "-1", "one"] {
            let text = format!("{argv}\nhandler.exit_codes = {{ \"{code}\" = \"retry\" }}");
            let beginning = format!("handler.exit_codes.{code}: is no exit code");
            Sections::refused(&[(&with(&text), &beginning)]);
        }
        let settings = CommandHandlerSettings {
            exit_codes: BTreeMap::from([("2".to_owned(), ExitMeaning::Permanent)]),
            ..CommandHandlerSettings::default()
        };
        let codes = settings.codes();
        let meanings = [0, 1, 2, 65, 69, 75, 255].map(|code| codes.meaning(code));
        use ExitMeaning::{Permanent, Retry, Succeeded, Unavailable};
        assert_eq!(
            meanings,
            [
                Succeeded,
                Retry,
                Permanent,
                Permanent,
                Unavailable,
                Retry,
                Retry
            ]
        );
    }

    #[test]
    fn values_of_variables_never_print() {
        let settings = CommandHandlerSettings {
            env: BTreeMap::from([("TOKEN".to_owned(), Secret::from("s3cret"))]),
            ..CommandHandlerSettings::default()
        };
        let shown = format!("{settings:?} {}", serde_json::to_string(&settings).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
