//! `lapwing migrate`

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use lapwing::handler::InboxTable;

use super::{ConfigFile, say};

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0   the tables are there, or the settings need none
  1   a table could not be made: the output says why
  78  configuration error

Several programs may do this at once. Workers of the last version can run on meanwhile.";

#[derive(Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    file: ConfigFile,
}

impl Migrate {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let settings = self.file.load()?;
        let mut tables: Vec<InboxTable> = Vec::new();
        for table in settings.consumers.values().flat_map(|it| it.inbox_tables()) {
            if !tables.iter().any(|known| table.is_same(known)) {
                tables.push(table);
            }
        }
        if tables.is_empty() {
            say("no consumer has an inbox in PostgreSQL: there is nothing to make");
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let mut code = ExitCode::SUCCESS;
        for table in tables {
            match runtime.block_on(table.migrate()) {
                Ok(0) => say(format_args!("ok      {table}: up to date")),
                Ok(_) => say(format_args!("ok      {table}: made")),
                Err(error) => {
                    say(format_args!("FAILED  {table}: {error}"));
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }
}
