//! `lapwing config`

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use lapwing::{
    doctor::{self, Grade, Surroundings},
    settings::{ConfigError, Schedule, Settings, environment},
};

use super::{ConfigFile, EXIT_CONFIG};

#[derive(Subcommand)]
pub(super) enum Config {
    /// Check the settings as `lapwing run` does, and list every problem
    Check(ConfigFile),
    /// Print the settings in force, with secrets hidden
    Show {
        #[command(flatten)]
        file: ConfigFile,
        /// The output format
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print the JSON Schema of the settings, with which editors complete and check TOML
    #[command(after_help = SCHEMA_HELP)]
    Schema,
}

const SCHEMA_HELP: &str = "\
Example:
  lapwing config schema > lapwing.schema.json
  and as the first line of the settings: #:schema ./lapwing.schema.json
  (Taplo and its editor plugin Even Better TOML read this line)";

#[derive(Clone, Copy, Default, ValueEnum)]
pub(super) enum Format {
    #[default]
    Toml,
    Json,
}

impl Config {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check(file) => {
                let checked = file.load().and_then(runnable);
                let (out, complaints) = (&mut io::stdout().lock(), &mut io::stderr().lock());
                Ok(check(checked, &Surroundings::here(), out, complaints))
            }
            Self::Show { file, format } => {
                // Do not validate: a user who looks for a mistake needs to see invalid settings too.
                let settings = Settings::load_unvalidated(file.config.as_deref(), environment()?)?;
                show(&settings, format, &mut io::stdout().lock())
            }
            Self::Schema => {
                let schema = serde_json::to_string_pretty(&Settings::json_schema())?;
                writeln!(io::stdout().lock(), "{schema}")?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn runnable(settings: Settings) -> Result<Settings, ConfigError> {
    settings.require_consumers()?;
    settings.require_handlers()?;
    Ok(settings)
}

/// Prints the result of a check, and returns the exit code: 78 if the settings cannot be run. A failed
/// write does not change the code.
fn check(
    checked: Result<Settings, ConfigError>,
    around: &Surroundings,
    out: &mut impl Write,
    complaints: &mut impl Write,
) -> ExitCode {
    match checked {
        Err(error) => {
            let _ = writeln!(complaints, "{error}");
            ExitCode::from(EXIT_CONFIG)
        }
        Ok(settings) => {
            for finding in doctor::at_start(&settings, around) {
                let grade = match finding.grade {
                    Grade::Fail => "failure",
                    Grade::Warn | Grade::Ok => "warning",
                };
                let _ = writeln!(complaints, "{grade}: {finding}");
            }
            let count = settings.consumers.len();
            let plural = if count == 1 { "" } else { "s" };
            let _ = writeln!(out, "ok: {count} consumer{plural}");
            for (
                name,
                Schedule {
                    summary, delays, ..
                },
            ) in settings.retry_schedules()
            {
                let _ = writeln!(out, "{name}: a message that keeps failing has {summary}");
                let _ = writeln!(out, "{name}: delays between the attempts: {delays}");
            }
            for (name, assumed) in settings.assumed_delivery_limits() {
                let _ = writeln!(out, "{name}: {assumed}");
            }
            ExitCode::SUCCESS
        }
    }
}

fn show(settings: &Settings, format: Format, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let text = match format {
        Format::Toml => toml::to_string(settings).context("failed to write TOML")?,
        Format::Json => serde_json::to_string_pretty(settings).context("failed to write JSON")?,
    };
    writeln!(out, "{}", text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use lapwing::settings::HandlerSettings;

    use super::*;

    const SETTINGS: &str = "
        [broker]
        url = 'amqp://u:s3cret@rabbit/%2f'
        [consumers.orders]
        queue = 'orders'
        timeout = '40m'
        [consumers.orders.handler]
        kind = 'http'
        url = 'http://u:s3cret@localhost/?key=s3cret'
        headers = { authorization = 's3cret' }
        [consumers.orders.routes.'order.paid'.handler]
        kind = 'log'
    ";

    /// The exit code, standard output and standard error.
    fn checked(text: &str) -> (ExitCode, String, String) {
        let (mut out, mut complaints) = (Vec::new(), Vec::new());
        let settings = Settings::from_toml(text).and_then(runnable);
        let socks = |name: &str| (name == "HTTP_PROXY").then(|| "socks5://proxy".to_owned());
        let around = Surroundings {
            variable: Box::new(socks),
            ..Surroundings::here()
        };
        let code = check(settings, &around, &mut out, &mut complaints);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (code, text(out), text(complaints))
    }

    fn shown(format: Format) -> String {
        let mut out = Vec::new();
        show(&Settings::from_toml(SETTINGS).unwrap(), format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_check_counts_consumers_tells_their_retry_schedules_and_warns() {
        let (code, out, complaints) = checked(SETTINGS);
        let lines: Vec<_> = out.lines().collect();
        assert_eq!((code, lines.len()), (ExitCode::SUCCESS, 3), "{out}");
        assert_eq!(lines[0], "ok: 1 consumer");
        let schedule = "orders: a message that keeps failing has 20 attempts in ";
        assert!(lines[1].starts_with(schedule), "{out}");
        assert!(
            lines[2].starts_with("orders: delays between the attempts: 500ms, 1s, 2s"),
            "{out}"
        );
        let url = "consumers.orders.handler.url";
        for warned in ["broker.url", "consumers.orders.timeout", url] {
            let warning = format!("warning: {warned}: ");
            let mut lines = complaints.lines();
            assert!(lines.any(|line| line.starts_with(&warning)), "{complaints}");
        }
    }

    #[test]
    fn a_check_says_what_is_assumed_about_the_limit_of_a_queue_that_is_used_as_it_is() {
        for (topology, is_told) in [
            ("declare", false),
            ("verify", false),
            ("attach", true),
            ("none", true),
        ] {
            let text = format!(
                "{SETTINGS}\n[consumers.other]\nqueue = 'other'\nhandler.kind = 'log'\ntopology = '{topology}'"
            );
            let (_, out, _) = checked(&text);
            let told = "other: delivery limit: that of the queue's arguments; if they set none, 20 from RabbitMQ 4.0 on";
            assert_eq!(out.contains(told), is_told, "{out}");
            assert!(!out.contains("orders: delivery limit"), "{out}");
        }
    }

    #[test]
    fn a_check_lists_problems_a_line_each() {
        let (code, out, complaints) = checked("drain.grace = 25\npublish.channels = 0");
        assert_eq!((code, out.as_str()), (ExitCode::from(78), ""));
        assert_eq!(complaints.lines().count(), 2, "{complaints}");
    }

    #[test]
    fn a_check_asks_for_what_a_worker_needs() {
        for text in ["", "consumers.orders.queue = 'orders'"] {
            let (code, out, complaints) = checked(text);
            assert_eq!((code, out.as_str()), (ExitCode::from(78), ""));
            assert!(complaints.starts_with("consumers"), "{complaints}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_back_but_for_the_secrets() {
        let text = shown(Format::Toml);
        let mut expected = Settings::from_toml(SETTINGS).unwrap();
        let mut read = Settings::from_toml(&text).unwrap();
        for settings in [&mut expected, &mut read] {
            settings.broker.url = Settings::default().broker.url;
            let orders = settings.consumers.get_mut("orders").unwrap();
            assert_eq!(orders.handler.kind(), "http");
            orders.handler = HandlerSettings::None;
        }
        assert_eq!(read, expected);
    }

    #[test]
    fn secrets_are_hidden_in_both_formats() {
        for text in [shown(Format::Toml), shown(Format::Json)] {
            assert!(!text.contains("s3cret"), "{text}");
            assert!(text.contains("amqp://u:***@rabbit/%2f"), "{text}");
            assert!(text.contains("[redacted]"), "{text}");
        }
        let json: serde_json::Value = serde_json::from_str(&shown(Format::Json)).unwrap();
        assert_eq!(json["consumers"]["orders"]["timeout"], "40m");
    }
}
