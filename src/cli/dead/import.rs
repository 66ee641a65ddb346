//! `lapwing dead import`

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use lapwing::letters::from_line;
use serde_json::json;

use super::desk::{At, Desk};
use crate::cli::{
    print::{self, Out},
    signals::Caught,
};

/// Put the letters of an export into the queue.
#[derive(Args)]
#[command(after_help = AFTER)]
pub(super) struct Import {
    #[command(flatten)]
    at: At,
    /// The file that `dead export` wrote (`-`: standard input)
    file: PathBuf,
}

const AFTER: &str = "\
The letters are as they were exported, with three exceptions that the broker enforces: the user-id
and the expiration go to the headers lapwing-original-user-id and lapwing-original-expiration, CC
and BCC to lapwing-original-cc and -bcc. Delivery counts begin anew.

An import that is interrupted can be repeated; then the letters of the first run exist twice.";

impl Import {
    pub(super) fn run(&self, caught: Caught) -> anyhow::Result<ExitCode> {
        // Read everything first: a file with a broken line imports nothing.
        let lines = read(&self.file)?;
        self.at.run(caught, async |desk| import(desk, &lines).await)
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<String>> {
    let source: Box<dyn BufRead> = match file == Path::new("-") {
        true => Box::new(std::io::stdin().lock()),
        false => {
            let open = File::open(file);
            Box::new(BufReader::new(
                open.with_context(|| format!("failed to open {}", file.display()))?,
            ))
        }
    };
    let mut lines = Vec::new();
    for (number, line) in source.lines().enumerate() {
        let at = || format!("{}, line {}", file.display(), number + 1);
        let line = line.with_context(at)?;
        if line.trim().is_empty() {
            continue;
        }
        from_line(&line).with_context(at)?;
        lines.push(line);
    }
    Ok(lines)
}

async fn import(desk: &Desk, lines: &[String]) -> anyhow::Result<ExitCode> {
    let out = Out::default();
    let mut report = desk.report(&out);
    let ended = desk.letters.import(lines, &desk.by, &mut report).await?;
    drop(report);
    let (queue, imported) = (desk.letters.queue(), ended.imported);
    match desk.is_json {
        true => out.line(json!({ "queue": queue, "imported": imported, "by": desk.by })),
        false => out.line(format_args!(
            "imported {} of {} letters into {queue}",
            print::count(imported),
            print::count(lines.len() as u64)
        )),
    }
    match (ended.error, ended.stopped) {
        (Some(error), _) => Err(error.into()),
        (None, true) => Ok(ExitCode::FAILURE),
        (None, false) => Ok(ExitCode::SUCCESS),
    }
}
