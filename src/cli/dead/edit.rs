//! `lapwing dead edit`

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, bail};
use clap::Args;
use lapwing::letters::{self, Filter, Letter, Look};
use serde_json::json;

use super::desk::{At, Desk};
use crate::cli::{print::Out, say, signals::Caught};

/// Change the body of a letter: opens $VISUAL or $EDITOR, shows the difference and asks.
#[derive(Args)]
#[command(after_help = AFTER)]
pub(super) struct Edit {
    /// The id of the letter, as `dead list` prints it
    id: String,
    #[command(flatten)]
    at: At,
    /// Take the new body from this file instead of an editor
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

const AFTER: &str = "\
The edited copy goes to the end of the dead-letter queue; `lapwing dead replay ID` replays it. The
letter stays until the broker has confirmed the copy. The copy's header lapwing-edited says when, by
whom, and a hash of the body before.";

impl Edit {
    pub(super) fn run(&self, caught: Caught) -> anyhow::Result<ExitCode> {
        self.at.run(caught, async |desk| self.edit(desk).await)
    }

    async fn edit(&self, desk: &Desk) -> anyhow::Result<ExitCode> {
        let (before, from) = find(desk, &self.id).await?;
        let body = match &self.body {
            Some(file) => {
                fs::read(file).with_context(|| format!("failed to read {}", file.display()))?
            }
            None => open_editor(&before)?,
        };
        if body == before {
            say("the body is unchanged; the letter stays as it is");
            return Ok(ExitCode::SUCCESS);
        }
        for line in difference(&before, &body) {
            say(line);
        }
        if !self.yes && !desk.confirm(&format!("Replace the body of {}?", self.id))? {
            return Ok(ExitCode::FAILURE);
        }
        let edit = letters::Edit {
            id: self.id.clone(),
            from: from.clone(),
            body,
            by: desk.by.clone(),
        };
        let out = Out::default();
        let edited = desk.letters.edit(&edit, &mut desk.report(&out)).await?;
        if edited.changed == 0 {
            say("stopped; the letter stays as it is");
            return Ok(ExitCode::FAILURE);
        }
        let queue = desk.letters.queue();
        match desk.is_json {
            true => {
                out.line(json!({ "queue": queue, "edited": self.id, "from": from, "by": desk.by }))
            }
            false => out.line(format_args!(
                "edited {}; it is the last letter of {queue} now",
                self.id
            )),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The body of the letter, and its hash.
async fn find(desk: &Desk, id: &str) -> anyhow::Result<(Vec<u8>, String)> {
    let look = Look {
        filter: Filter {
            ids: vec![id.to_owned()],
            ..Filter::default()
        },
        limit: Some(1),
        renew: false,
    };
    let mut found = None;
    let mut see = |letter: &Letter| found = Some((letter.body().to_vec(), letter.body_hash()));
    let out = Out::default();
    let looked = desk
        .letters
        .look(&look, &mut see, &mut desk.report(&out))
        .await?;
    let queue = desk.letters.queue();
    found.with_context(|| {
        format!(
            "no letter of {queue} has the id {id:?} ({} read)",
            looked.seen
        )
    })
}

/// Lets the user edit these bytes in a file that only the user can read.
fn open_editor(before: &[u8]) -> anyhow::Result<Vec<u8>> {
    let editor = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| std::env::var(name).ok());
    let Some(editor) = editor.filter(|editor| !editor.trim().is_empty()) else {
        bail!("neither VISUAL nor EDITOR is set: set one, or pass the new body with --body FILE");
    };
    let name = format!("lapwing-{}.json", uuid::Uuid::now_v7());
    let path = std::env::temp_dir().join(name);
    let edited = edit_file(&editor, &path, before);
    // A file that is left behind is no reason to fail.
    let _ = fs::remove_file(&path);
    edited
}

fn edit_file(editor: &str, path: &Path, before: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut options = fs::File::options();
    let created = options.write(true).create_new(true).mode(0o600).open(path);
    let named = || format!("failed to write {}", path.display());
    created
        .with_context(named)?
        .write_all(before)
        .with_context(named)?;
    // The editor may have arguments, as in `code --wait`.
    let mut words = editor.split_whitespace();
    let status = Command::new(words.next().unwrap_or("vi"))
        .args(words)
        .arg(path)
        .status();
    let status = status.with_context(|| format!("failed to start {editor}"))?;
    if !status.success() {
        bail!("{editor} failed ({status}); the letter stays as it is");
    }
    fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}

/// The lines that differ, without the equal ones before and after them. JSON is compared in its
/// pretty form.
fn difference(before: &[u8], after: &[u8]) -> Vec<String> {
    let (before, after) = (lines(before), lines(after));
    let same = |(a, b): &(&String, &String)| a == b;
    let head = before.iter().zip(&after).take_while(same).count();
    let (before, after) = (&before[head..], &after[head..]);
    let tail = before
        .iter()
        .rev()
        .zip(after.iter().rev())
        .take_while(same)
        .count();
    let removed = before[..before.len() - tail]
        .iter()
        .map(|line| format!("- {line}"));
    let added = after[..after.len() - tail]
        .iter()
        .map(|line| format!("+ {line}"));
    removed.chain(added).collect()
}

fn lines(body: &[u8]) -> Vec<String> {
    let pretty = serde_json::from_slice::<serde_json::Value>(body);
    let pretty = pretty.and_then(|json| serde_json::to_string_pretty(&json));
    let text = pretty.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned());
    text.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_the_lines_that_changed() {
        let told = difference(br#"{"a":1,"b":2,"c":3}"#, br#"{"a":1,"b":5,"c":3}"#);
        assert_eq!(told, ["-   \"b\": 2,", "+   \"b\": 5,"]);
        assert_eq!(difference(b"same", b"same"), [""; 0]);
        assert_eq!(difference(b"a\nb", b"a\nb\nc"), ["+ c"]);
    }
}
