//! The JSON of the API for dead letters.

use std::{collections::BTreeMap, time::SystemTime};

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    letters::{Attempt, Canaries, Progress, Summary},
    text::as_rfc3339_or_null,
};

/// The dead letters of all consumers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterDesks)]
pub(super) struct Desks {
    /// The consumers, sorted by name.
    pub(super) consumers: Vec<Desk>,
}

/// The dead letters of a consumer: the last look, and the last job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterDesk)]
pub(super) struct Desk {
    /// The consumer.
    pub(super) consumer: String,
    /// Its dead-letter queue.
    pub(super) queue: String,
    /// What the last look has seen; null if nobody has looked, or the look is too long ago.
    pub(super) look: Option<Look>,
    /// The job that runs, or the last one, apart from those that show one letter; null before the first.
    pub(super) job: Option<Job>,
}

/// What a look has seen.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterLook)]
pub(super) struct Look {
    /// The name of the look. Cursors belong to one look.
    pub(super) look: String,
    /// When the look ended.
    #[schema(format = DateTime)]
    pub(super) looked_at: String,
    /// The letters that were ready when the look began.
    pub(super) total: u32,
    /// The letters that the look has read.
    pub(super) seen: u64,
    /// The letters that it selected and keeps. Letters that a later job has taken out of the queue are gone
    /// from here too.
    pub(super) letters: usize,
    /// The letters that it selected and did not keep, because there were too many.
    pub(super) not_kept: u64,
    /// Whether the look was stopped before the end of the queue.
    pub(super) stopped: bool,
    /// Whether the look has cost each letter a delivery (RabbitMQ before 4.3).
    pub(super) costs_deliveries: bool,
    /// The letters with fewer than five deliveries left.
    pub(super) short: u64,
    /// The headers and places in bodies that the look selected by, without the values, as in `tenant=…`:
    /// the values are texts of messages, and this needs no token.
    #[serde(rename = "match")]
    pub(super) matches: Vec<String>,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = DeadLetterJobKind)]
#[serde(rename_all = "kebab-case")]
pub(super) enum JobKind {
    /// Reads the queue.
    Look,
    /// Reads one letter.
    Show,
    /// Reads letters, and writes them out.
    Export,
    /// Reads letters, and says what a replay or a drop would do.
    DryRun,
    /// Publishes letters again.
    Replay,
    /// Replaces a letter by a copy with another body.
    Edit,
    /// Drops letters.
    Drop,
    /// Puts letters of an export into the queue.
    Import,
}

impl JobKind {
    /// The word for the kind, as in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Show => "show",
            Self::Export => "export",
            Self::DryRun => "dry-run",
            Self::Replay => "replay",
            Self::Edit => "edit",
            Self::Drop => "drop",
            Self::Import => "import",
        }
    }

    /// Whether the job takes letters out of the queue, or puts some into it.
    pub(super) fn changes(self) -> bool {
        matches!(self, Self::Replay | Self::Edit | Self::Drop | Self::Import)
    }
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = DeadLetterJobState)]
#[serde(rename_all = "kebab-case")]
pub(super) enum JobState {
    /// It runs.
    Running,
    /// It has ended. The result says what it did.
    Done,
    /// It was stopped. The result says what it did before.
    Stopped,
    /// It ended with an error. What it held is in the queue again.
    Failed,
}

/// A job: one program that reads or changes the dead letters of a consumer.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterJob)]
pub(super) struct Job {
    /// The job's id. A replay writes it into the header `lapwing-replay` of its copies.
    pub(super) id: String,
    /// The consumer.
    pub(super) consumer: String,
    /// What the job does.
    pub(super) kind: JobKind,
    /// Its state.
    pub(super) state: JobState,
    /// When it began.
    #[schema(format = DateTime)]
    pub(super) started_at: String,
    /// When it ended; null while it runs.
    #[schema(format = DateTime)]
    pub(super) ended_at: Option<String>,
    /// How far it is.
    pub(super) progress: Progress,
    /// What it did; null while it runs, and after an error.
    pub(super) result: Option<JobResult>,
    /// Why it failed; null if it did not.
    pub(super) error: Option<String>,
}

/// What a job did.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[schema(as = DeadLetterJobResult)]
pub(super) struct JobResult {
    /// The letters that were read. A replay with canaries reads the letters that stay twice.
    pub(super) seen: u64,
    /// The letters that were selected.
    pub(super) selected: u64,
    /// The letters that left the queue: replayed, dropped or replaced. For an import, those that came into it.
    pub(super) changed: u64,
    /// The letters that a look with `renew` has replaced by copies at the end of the queue.
    pub(super) renewed: u64,
    /// The letters that were selected and stayed, or in a dry run would stay: why, and how many.
    pub(super) kept: BTreeMap<String, u64>,
    /// For the dry run of a replay, the queues that letters would go to (at most 100), and how many; else null.
    pub(super) targets: Option<BTreeMap<String, u64>>,
    /// For the dry run of a replay, the letters that would go to other queues than these; else 0.
    pub(super) elsewhere: u64,
    /// How the canaries of a replay ended; null without canaries.
    pub(super) canaries: Option<Canaries>,
}

/// Letters by cause.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterGroups)]
pub(super) struct Groups {
    /// The letters in all groups.
    pub(super) letters: u64,
    /// The number of groups, also of those that are left out.
    pub(super) causes: usize,
    /// When the first of the letters was dead-lettered: the beginning of the bars.
    #[schema(format = DateTime)]
    pub(super) from: Option<String>,
    /// When the last of the letters was dead-lettered: the end of the bars.
    #[schema(format = DateTime)]
    pub(super) until: Option<String>,
    /// The groups, largest first.
    pub(super) groups: Vec<Group>,
}

/// Letters with the same cause.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterGroup)]
pub(super) struct Group {
    /// The fingerprint of the cause.
    pub(super) group: String,
    /// Why the letters were dead-lettered.
    pub(super) reason: String,
    /// The class of the error.
    pub(super) kind: String,
    /// The error of the sample, cut.
    pub(super) error: String,
    /// The number of letters.
    pub(super) count: u64,
    /// The part of all letters, 0 to 1.
    pub(super) share: f64,
    /// When the first one was dead-lettered.
    #[serde(serialize_with = "as_rfc3339_or_null")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) first: Option<SystemTime>,
    /// When the last one was dead-lettered.
    #[serde(serialize_with = "as_rfc3339_or_null")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) last: Option<SystemTime>,
    /// The id of one of the letters.
    pub(super) sample: String,
    /// The queue from which the sample was dead-lettered.
    pub(super) source_queue: Option<String>,
    /// How many letters were dead-lettered in each of 32 equal parts of the time from `from` to `until`.
    pub(super) bars: Vec<u64>,
}

impl Group {
    /// A letter of the group was dead-lettered at this time.
    pub(super) fn note(&mut self, at: SystemTime) {
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        self.last = self.last.max(Some(at));
    }
}

/// A page of letters.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterPage)]
pub(super) struct Page {
    /// The look that the page is of.
    pub(super) look: String,
    /// The letters that fit, on all pages.
    pub(super) total: usize,
    /// The letters of this page. Of a long error only the first 200 and the last 60 bytes are shown.
    pub(super) letters: Vec<Summary>,
    /// The `cursor` of the next page; null if this is the last one.
    pub(super) next: Option<String>,
}

/// One letter, whole.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WholeDeadLetter)]
pub(super) struct Letter {
    /// What a list shows of it, with the whole error.
    pub(super) summary: Summary,
    /// The last attempts, oldest first.
    pub(super) history: Vec<Attempt>,
    /// The AMQP properties that are set.
    pub(super) properties: Vec<Named>,
    /// The headers, as text.
    pub(super) headers: Vec<Named>,
    /// The body.
    pub(super) body: LetterBody,
}

/// A property or a header.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NamedText)]
pub(super) struct Named {
    /// Its name.
    pub(super) name: String,
    /// Its value.
    pub(super) value: String,
}

/// The body of a letter.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterBody)]
pub(super) struct LetterBody {
    /// A hash of the whole body. An edit names the body that it replaces by it.
    pub(super) hash: String,
    /// The length of the whole body.
    pub(super) bytes: usize,
    /// The body, if it is text; null if it is not.
    pub(super) text: Option<String>,
    /// The beginning of a body that is not text, in base64; null for text.
    pub(super) base64: Option<String>,
    /// Whether this is only the beginning of the body, which then cannot be edited here.
    pub(super) cut: bool,
}
