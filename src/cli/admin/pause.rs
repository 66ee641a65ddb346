//! `lapwing pause` and `lapwing resume`

use std::process::ExitCode;

use anyhow::bail;
use clap::{ArgGroup, Args};
use serde_json::Value;

use super::{Worker, segment, text};
use crate::cli::{print::Out, say};

/// Pause consumers of a running worker: they take no messages until they are resumed or the process
/// ends.
#[derive(Args)]
#[command(group = ArgGroup::new("pause-which").required(true).args(["consumers", "all"]))]
pub(in crate::cli) struct Pause {
    #[command(flatten)]
    worker: Worker,
    /// The consumers
    #[arg(value_name = "CONSUMER")]
    consumers: Vec<String>,
    /// All consumers of the worker
    #[arg(long)]
    all: bool,
}

/// Resume paused consumers of a running worker.
#[derive(Args)]
#[command(group = ArgGroup::new("resume-which").required(true).args(["consumers", "all"]))]
pub(in crate::cli) struct Resume {
    #[command(flatten)]
    worker: Worker,
    /// The consumers
    #[arg(value_name = "CONSUMER")]
    consumers: Vec<String>,
    /// All consumers of the worker
    #[arg(long)]
    all: bool,
}

impl Pause {
    pub(in crate::cli) fn run(&self) -> anyhow::Result<ExitCode> {
        change(&self.worker, &self.consumers, "pause")
    }
}

impl Resume {
    pub(in crate::cli) fn run(&self) -> anyhow::Result<ExitCode> {
        change(&self.worker, &self.consumers, "resume")
    }
}

/// Asks for the change of each consumer; of all if none is named. One that fails does not stop the
/// others.
fn change(worker: &Worker, consumers: &[String], verb: &str) -> anyhow::Result<ExitCode> {
    let out = Out::default();
    let all = match consumers.is_empty() {
        true => names(&worker.get("consumers")?),
        false => consumers.to_vec(),
    };
    let (mut changed, mut failed) = (Vec::new(), 0);
    for name in &all {
        match worker.post(&format!("consumers/{}/{verb}", segment(name))) {
            Ok(consumer) => changed.push(consumer),
            Err(error) => {
                failed += 1;
                say(format_args!("{name}: {error:#}"));
            }
        }
    }
    if worker.json {
        out.line(Value::Array(changed));
    } else {
        for consumer in &changed {
            out.line(format_args!(
                "{}: {}",
                text(consumer, "name"),
                text(consumer, "state")
            ));
        }
    }
    if failed > 0 {
        bail!("{failed} of {} consumers did not {verb}", all.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn names(consumers: &Value) -> Vec<String> {
    let consumers = consumers["consumers"].as_array().into_iter().flatten();
    consumers
        .map(|consumer| text(consumer, "name").to_owned())
        .collect()
}
