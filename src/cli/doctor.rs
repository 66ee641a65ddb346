//! `lapwing doctor`

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;
use lapwing::{
    doctor::{self, Finding, Grade, Report, Surroundings},
    telemetry,
};
use serde_json::json;

use super::{
    ConfigFile, EXIT_LEFT, descriptors,
    print::{self, Out},
};

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0   every check is OK
  1   at least one check is FAIL: the worker does not start, does not consume, or can lose messages
  3   the worst check is WARN: the worker runs, but something is likely to do harm
  78  invalid settings

The doctor creates, consumes and stores nothing. It connects to the broker and to the services of
HTTP handlers, and sends no request to the services. It learns what a user may do from requests
that the broker refuses, so the broker's log has a line for each of them.";

/// The worst finding is a warning.
const EXIT_WARN: u8 = EXIT_LEFT;

#[derive(Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    file: ConfigFile,
    /// The time between SIGTERM and SIGKILL: terminationGracePeriodSeconds of the pod [default: as the
    /// variable LAPWING_POD_GRACE says]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pod_grace: Option<Duration>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let settings = self.file.load()?;
        settings.require_consumers()?;
        settings.require_handlers()?;
        let telemetry = telemetry::start_quietly(&settings)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let mut around = Surroundings::here();
        around.open_files = descriptors::raise();
        around.pod_grace = self.pod_grace.or(around.pod_grace);
        let report = runtime.block_on(doctor::examine(&settings, &around));
        // A lookup of a name cannot be interrupted.
        runtime.shutdown_background();
        let out = Out::default();
        match self.json {
            true => out.line(json!(report)),
            false => tell(&report, &out),
        }
        telemetry.close(std::time::Instant::now() + settings.timeouts.telemetry_flush);
        Ok(match report.worst {
            Grade::Ok => ExitCode::SUCCESS,
            Grade::Warn => ExitCode::from(EXIT_WARN),
            Grade::Fail => ExitCode::FAILURE,
        })
    }
}

/// The columns before a text: grade and check.
const INDENT: usize = 27;

fn tell(report: &Report, out: &Out) {
    let is_like = |one: &Finding, other: &Finding| {
        one.grade > Grade::Ok
            && (one.check, one.grade, &one.mend) == (other.check, other.grade, &other.mend)
    };
    for findings in report.findings.chunk_by(is_like) {
        for line in lines(findings) {
            out.line(line);
        }
    }
    if !report.not_made.is_empty() {
        let names = report.not_made.join(", ");
        let text = format!("not made, because there is no connection to the broker: {names}");
        print::in_column("-", &text, INDENT)
            .iter()
            .for_each(|line| out.line(line));
    }
    let count = |grade| {
        let all = report.findings.iter();
        all.filter(|finding| finding.grade == grade).count()
    };
    let (fails, warnings) = (count(Grade::Fail), count(Grade::Warn));
    out.line(match (fails, warnings) {
        (0, 0) => "all is well".to_owned(),
        _ => format!("{fails} FAIL, {warnings} WARN"),
    });
}

/// Findings that the same command or setting mends. Those that found the same share a line.
fn lines(findings: &[Finding]) -> Vec<String> {
    let Some(finding) = findings.first() else {
        return Vec::new();
    };
    let grade = match finding.grade {
        Grade::Ok => "OK",
        Grade::Warn => "WARN",
        Grade::Fail => "FAIL",
    };
    let mut head = format!("{grade:<5}{}", finding.check);
    let mut lines = Vec::new();
    for alike in findings.chunk_by(found_the_same) {
        let [first, others @ ..] = alike else {
            continue;
        };
        let found = match first.about.as_str() {
            "" => first.found.clone(),
            about => format!("{about}: {}", first.found),
        };
        lines.extend(print::in_column(&std::mem::take(&mut head), &found, INDENT));
        if !others.is_empty() {
            let names: Vec<_> = others.iter().map(|it| it.about.as_str()).collect();
            lines.extend(print::in_column("     and so", &names.join(", "), INDENT));
        }
    }
    if finding.grade > Grade::Ok {
        lines.extend(print::in_column("     why", finding.why, INDENT));
        lines.extend(print::in_column("     mend", &finding.mend, INDENT));
    }
    lines
}

/// Whether two findings differ in nothing but the names of their objects.
fn found_the_same(one: &Finding, other: &Finding) -> bool {
    let nameless = |it: &Finding| it.found.replace(&format!("'{}'", it.about), "");
    nameless(one) == nameless(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_with_one_mend_are_all_told() {
        let finding = |about: &str, found: &str| Finding {
            check: "permissions",
            grade: Grade::Fail,
            about: about.to_owned(),
            found: found.to_owned(),
            why: "it fails when it is needed",
            mend: "grant it".to_owned(),
        };
        let told = lines(&[
            finding("dead", "no right to read: queue 'dead' refused"),
            finding("retry", "no right to read: queue 'retry' refused"),
            finding("shop", "no right to write: exchange 'shop' refused"),
        ]);
        let told: Vec<_> = told.iter().map(|line| line.trim()).collect();
        assert_eq!(
            told,
            [
                "FAIL permissions           dead: no right to read: queue 'dead' refused",
                "and so                retry",
                "shop: no right to write: exchange 'shop' refused",
                "why                   it fails when it is needed",
                "mend                  grant it",
            ]
        );
    }

    #[test]
    fn a_finding_fits_a_terminal_and_names_its_mend() {
        let finding = Finding {
            check: "a-check-with-a-long-name-of-its-own",
            grade: Grade::Warn,
            about: "consumers.orders.prefetch".to_owned(),
            found: "is 64 with `concurrency` 2 and `timeout` 1m: the last message may wait 32m"
                .to_owned(),
            why: "the broker takes a message back that waits so long for its ack",
            mend: "lower `prefetch` to 58 or less".to_owned(),
        };
        let other = Finding {
            about: "consumers.invoices.prefetch".to_owned(),
            ..finding.clone()
        };
        let lines = lines(&[finding, other]);
        let and = "     and so                consumers.invoices.prefetch";
        assert!(lines.iter().any(|line| line == and), "{lines:#?}");
        assert!(
            lines
                .iter()
                .all(|line| line.chars().count() <= print::WIDTH),
            "{lines:#?}"
        );
        assert!(
            lines[0].starts_with("WARN a-check-with-a-long-name-of-its-own"),
            "{lines:#?}"
        );
        let mend = lines
            .iter()
            .find(|line| line.trim_start().starts_with("mend"));
        assert!(
            mend.is_some_and(|line| line.contains("lower `prefetch`")),
            "{lines:#?}"
        );
    }
}
