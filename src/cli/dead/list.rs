//! `lapwing dead list`

use std::{collections::VecDeque, process::ExitCode};

use clap::Args;
use lapwing::letters::{Letter, Look, Summary};

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

/// List letters, oldest first.
#[derive(Args)]
#[command(after_help = COST)]
pub(super) struct List {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    select: Select,
    /// The most letters to list; 0: all
    #[arg(long, short = 'n', default_value_t = 50)]
    limit: usize,
    /// List the newest letters of the queue, newest first; reads the whole queue
    #[arg(long)]
    newest: bool,
    /// Replace letters that are short of deliveries by a copy at the end of the queue
    #[arg(long)]
    renew: bool,
}

impl List {
    pub(super) fn run(&self, caught: Caught) -> anyhow::Result<ExitCode> {
        self.at.run(caught, async |desk| self.list(desk).await)
    }

    async fn list(&self, desk: &Desk) -> anyhow::Result<ExitCode> {
        let out = Out::default();
        let limit = (self.limit > 0).then_some(self.limit);
        let look = Look {
            filter: self.select.filter(&[]),
            limit: limit.filter(|_| !self.newest),
            renew: self.renew,
        };
        let mut newest = VecDeque::new();
        let mut see = |letter: &Letter| {
            if !self.newest {
                return tell(&out, &letter.summary, desk.is_json);
            }
            newest.push_front(letter.summary.clone());
            newest.truncate(limit.unwrap_or(usize::MAX));
        };
        let looked = desk
            .letters
            .look(&look, &mut see, &mut desk.report(&out))
            .await?;
        let listed = match self.newest {
            true => newest.len() as u64,
            false => looked.selected,
        };
        for letter in newest {
            tell(&out, &letter, desk.is_json);
        }
        let (queue, total) = (desk.letters.queue(), print::count(looked.total.into()));
        let is_cut =
            limit.is_some_and(|limit| listed == limit as u64) && listed < looked.total.into();
        if is_cut {
            say(format_args!(
                "listed {} of {total} letters of {queue} (--limit 0 lists all that fit)",
                print::count(listed)
            ));
        } else if listed == 0 {
            say(format_args!("no letter of {queue} fits ({total} there)"));
        }
        desk.tell_look(&looked);
        Ok(ExitCode::SUCCESS)
    }
}

/// The lines about a letter.
const ABOUT: usize = 3;

/// One letter: a few lines, or one of JSON.
fn tell(out: &Out, letter: &Summary, is_json: bool) {
    if is_json {
        return out.line(serde_json::to_string(letter).unwrap_or_default());
    }
    let time = print::time(letter.failed_at);
    let id = print::cut(&letter.id, 36);
    out.line(format_args!("{id:<36}  {time:<20}  {}", letter.reason));
    let mut about = match letter.attempts {
        0 => String::new(),
        1 => "1 attempt  ".to_owned(),
        many => format!("{many} attempts  "),
    };
    if letter.replays > 0 {
        about.push_str(&format!("replay {}  ", letter.replays));
    }
    if !letter.kind.is_empty() {
        about.push_str(&format!("{}: ", letter.kind));
    }
    about.push_str(&letter.error);
    for line in print::folded(&about, 2, ABOUT) {
        out.line(line);
    }
}
