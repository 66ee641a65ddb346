//! `lapwing dead export`

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use lapwing::letters::{Letter, Look, to_line};

use super::{
    COST,
    desk::{At, Desk},
    select::Select,
};
use crate::cli::{
    print::{self, Out},
    say,
    signals::Caught,
};

/// Write letters as lines of JSON, without loss: all properties, header types and bytes.
#[derive(Args)]
#[command(after_help = COST)]
pub(super) struct Export {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    select: Select,
    /// Write to this file, which must not exist [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The ids of the letters [default: all]
    id: Vec<String>,
}

impl Export {
    pub(super) fn run(&self, caught: Caught) -> anyhow::Result<ExitCode> {
        self.at.run(caught, async |desk| self.export(desk).await)
    }

    async fn export(&self, desk: &Desk) -> anyhow::Result<ExitCode> {
        let mut lines = Lines::open(self.file.as_deref())?;
        let look = Look {
            filter: self.select.filter(&self.id),
            limit: None,
            renew: false,
        };
        let out = Out::default();
        let mut see = |letter: &Letter| lines.write(&to_line(letter));
        let looked = desk
            .letters
            .look(&look, &mut see, &mut desk.report(&out))
            .await?;
        lines.close()?;
        desk.tell_look(&looked);
        say(format_args!(
            "exported {} of {}",
            print::letters(looked.selected),
            desk.letters.queue()
        ));
        Ok(match looked.stopped {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        })
    }
}

/// Where the lines go.
struct Lines {
    to: BufWriter<Box<dyn Write + Send>>,
    file: Option<File>,
    failed: Option<io::Error>,
}

impl Lines {
    fn open(file: Option<&Path>) -> anyhow::Result<Self> {
        let (to, file): (Box<dyn Write + Send>, _) = match file {
            None => (Box::new(io::stdout()), None),
            Some(path) => {
                let named = || format!("failed to create {}", path.display());
                let file = File::create_new(path).with_context(named)?;
                (Box::new(file.try_clone().with_context(named)?), Some(file))
            }
        };
        let to = BufWriter::new(to);
        let failed = None;
        Ok(Self { to, file, failed })
    }

    fn write(&mut self, line: &str) {
        if self.failed.is_none() {
            self.failed = writeln!(self.to, "{line}").err();
        }
    }

    /// The letters may be dropped next, so the file must be on the disk.
    fn close(mut self) -> anyhow::Result<()> {
        let failed = self.failed.take().map_or(Ok(()), Err);
        failed.context("failed to write the letters")?;
        self.to.flush().context("failed to write the letters")?;
        if let Some(file) = self.file {
            file.sync_all()
                .context("failed to write the letters to the disk")?;
        }
        Ok(())
    }
}
