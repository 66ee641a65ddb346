//! What a look has seen: a letter in a line, and some letters whole.
//!
//! Lists, groups and searches are answered from here, so they cost the letters nothing. The size is
//! bounded, whatever the letters contain.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem::size_of,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use super::views::{Group, Groups};
use crate::{
    letters::{Facts, Filter, Letter, Origin, SEARCHED, Summary},
    text::{cut, ends, rfc3339},
};

/// The most letters that a look keeps.
pub(super) const MOST: usize = 100_000;
/// The longest of the other texts that a line keeps, in bytes.
const TEXT_ROOM: usize = 255;
/// The most bytes of letters that are kept whole; at most a quarter of all.
const WHOLE_ROOM: usize = 8 * 1024 * 1024;
/// The letters at the end of a queue that are kept whole, as far as there is room. The worker would have to
/// read the whole queue to show one of them again; those at its head are soon found.
const WHOLE: usize = 4_000;
/// The longest letter that is kept whole, as JSON, in bytes.
const LONGEST_WHOLE: usize = 64 * 1024;
/// The bytes of the end of a long error that a line keeps, beside the beginning that a search covers.
const ERROR_TAIL: usize = 60;
/// The bars of a sparkline.
const BARS: usize = 32;

/// What many letters have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Common {
    origin: Origin,
    reason: String,
    kind: String,
    group: String,
    source_queue: Option<String>,
    source_exchange: Option<String>,
    source_routing_key: Option<String>,
    message_type: Option<String>,
}

impl Common {
    fn of(summary: &Summary) -> Self {
        let short = |text: &String| cut(text, TEXT_ROOM).to_owned();
        Self {
            origin: summary.origin,
            reason: short(&summary.reason),
            kind: short(&summary.kind),
            group: short(&summary.group),
            source_queue: summary.source_queue.as_ref().map(short),
            source_exchange: summary.source_exchange.as_ref().map(short),
            source_routing_key: summary.source_routing_key.as_ref().map(short),
            message_type: summary.message_type.as_ref().map(short),
        }
    }

    fn size(&self) -> usize {
        let others = [
            &self.source_queue,
            &self.source_exchange,
            &self.source_routing_key,
            &self.message_type,
        ];
        let others: usize = others.into_iter().flatten().map(String::len).sum();
        size_of::<Self>() + self.reason.len() + self.kind.len() + self.group.len() + others
    }
}

/// A letter in a line.
#[derive(Clone, Debug)]
struct Line {
    /// Its number in the look: its place in the queue.
    number: usize,
    id: Box<str>,
    common: Arc<Common>,
    error: Arc<str>,
    attempts: u32,
    replays: u32,
    first_seen: Option<SystemTime>,
    failed_at: Option<SystemTime>,
    trace_id: Option<Box<str>>,
    bytes: usize,
    deliveries: u64,
    /// The whole letter, as JSON.
    whole: Option<Arc<str>>,
}

impl Line {
    fn facts(&self) -> Facts<'_> {
        Facts {
            id: &self.id,
            group: &self.common.group,
            reason: &self.common.reason,
            message_type: self.common.message_type.as_deref(),
            error: &self.error,
            source_queue: self.common.source_queue.as_deref(),
            failed_at: self.failed_at,
        }
    }

    /// Group and reason.
    fn cause(&self) -> (&str, &str) {
        (&self.common.group, &self.common.reason)
    }

    fn summary(&self) -> Summary {
        let common = self.common.as_ref().clone();
        Summary {
            id: self.id.to_string(),
            origin: common.origin,
            reason: common.reason,
            kind: common.kind,
            error: self.error.to_string(),
            group: common.group,
            attempts: self.attempts,
            replays: self.replays,
            first_seen: self.first_seen,
            failed_at: self.failed_at,
            source_queue: common.source_queue,
            source_exchange: common.source_exchange,
            source_routing_key: common.source_routing_key,
            message_type: common.message_type,
            bytes: self.bytes,
            deliveries: self.deliveries,
            trace_id: self.trace_id.as_deref().map(str::to_owned),
        }
    }
}

/// Letters as a look has seen them, in the order of their queue.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    lines: Vec<Line>,
    commons: HashSet<Arc<Common>>,
    errors: HashSet<Arc<str>>,
    /// An estimate of the bytes that all this takes.
    size: usize,
    /// The bytes of letters that are kept whole.
    whole: usize,
    /// The lines of the letters that are kept whole, oldest first.
    whole_lines: VecDeque<usize>,
    room: usize,
    /// The number of the first letter that is kept whole.
    whole_from: usize,
    /// The number of lines.
    count: Arc<AtomicUsize>,
    /// Letters that the look selected and did not keep.
    pub(super) not_kept: u64,
}

impl Snapshot {
    /// One that takes about this many bytes at most, for this many letters.
    pub(super) fn with_room(room: usize, letters: usize) -> Self {
        Self {
            room,
            whole_from: letters.min(MOST).saturating_sub(WHOLE),
            ..Self::default()
        }
    }

    /// The number of lines, to read while a search holds the snapshot.
    pub(super) fn count(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.count)
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Keeps a letter, if there is room. `whole` writes the whole letter as JSON.
    pub(super) fn add(&mut self, letter: &Letter, whole: impl FnOnce(&Letter) -> String) {
        if self.lines.len() >= MOST || self.size >= self.room {
            self.not_kept += 1;
            return;
        }
        let summary = &letter.summary;
        let common = self.common(summary);
        let error = self.error(&ends(&summary.error, SEARCHED, ERROR_TAIL));
        let id = cut(&summary.id, TEXT_ROOM);
        let trace = summary.trace_id.as_deref();
        self.size += size_of::<Line>() + id.len() + trace.map_or(0, str::len);
        let is_last = self.lines.len() >= self.whole_from;
        let whole = (is_last && letter.body().len() < LONGEST_WHOLE).then(|| whole(letter));
        let whole = whole.filter(|json| json.len() < LONGEST_WHOLE);
        if let Some(whole) = &whole {
            self.make_room_for(whole.len());
        }
        self.lines.push(Line {
            number: self.lines.len(),
            id: id.into(),
            common,
            error,
            attempts: summary.attempts,
            replays: summary.replays,
            first_seen: summary.first_seen,
            failed_at: summary.failed_at,
            trace_id: trace.map(Into::into),
            bytes: summary.bytes,
            deliveries: summary.deliveries,
            whole: whole.map(Into::into),
        });
        self.count.store(self.lines.len(), Ordering::Relaxed);
    }

    /// A letter of this length is kept whole, and the oldest ones are not any more.
    fn make_room_for(&mut self, length: usize) {
        while self.whole + length > WHOLE_ROOM.min(self.room / 4)
            && let Some(oldest) = self.whole_lines.pop_front()
        {
            let gone = self.lines[oldest].whole.take().map_or(0, |it| it.len());
            self.whole -= gone;
            self.size -= gone;
        }
        self.whole_lines.push_back(self.lines.len());
        self.whole += length;
        self.size += length;
    }

    fn common(&mut self, summary: &Summary) -> Arc<Common> {
        let common = Common::of(summary);
        if let Some(known) = self.commons.get(&common) {
            return Arc::clone(known);
        }
        self.size += common.size();
        let common = Arc::new(common);
        self.commons.insert(Arc::clone(&common));
        common
    }

    fn error(&mut self, error: &str) -> Arc<str> {
        if let Some(known) = self.errors.get(error) {
            return Arc::clone(known);
        }
        self.size += error.len() + 2 * size_of::<Arc<str>>();
        let error: Arc<str> = error.into();
        self.errors.insert(Arc::clone(&error));
        error
    }

    /// The look has ended: what was needed for adding only goes.
    pub(super) fn finish(&mut self) {
        self.commons = HashSet::new();
        self.errors = HashSet::new();
        self.whole_lines = VecDeque::new();
        self.lines.shrink_to_fit();
    }

    /// The whole letter with this id as JSON, if it was kept.
    pub(super) fn whole(&self, id: &str) -> Option<Arc<str>> {
        let line = self.lines.iter().find(|line| &*line.id == id)?;
        line.whole.clone()
    }

    /// These letters left their queue, each id once for each letter.
    pub(super) fn remove(&mut self, ids: &[String]) {
        let mut gone: HashMap<&str, usize> = HashMap::new();
        for id in ids {
            *gone.entry(cut(id, TEXT_ROOM)).or_default() += 1;
        }
        self.lines.retain(|line| match gone.get_mut(&*line.id) {
            Some(left @ 1..) => {
                *left -= 1;
                false
            }
            _ => true,
        });
        self.count.store(self.lines.len(), Ordering::Relaxed);
    }

    /// A letter has another body now, of this length. The whole letter that was kept is not the letter. Of
    /// several letters with this id none is known to be the one.
    pub(super) fn edited(&mut self, id: &str, bytes: usize) {
        let id = cut(id, TEXT_ROOM);
        let mut lines: Vec<_> = self.lines.iter_mut().filter(|it| &*it.id == id).collect();
        lines.iter_mut().for_each(|line| line.whole = None);
        if let [line] = &mut lines[..] {
            line.bytes = bytes;
        }
    }

    /// A page of the letters that fit: those behind the letter with this number, and the number of all
    /// that fit.
    pub(super) fn page(
        &self,
        filter: &Filter,
        newest: bool,
        behind: Option<usize>,
        limit: usize,
    ) -> (Vec<Summary>, usize, Option<usize>) {
        let fits = |line: &&Line| filter.selects(&line.facts());
        let is_behind = |line: &&Line| match (behind, newest) {
            (None, _) => true,
            (Some(last), false) => line.number > last,
            (Some(last), true) => line.number < last,
        };
        let (mut all, mut page) = (0, VecDeque::new());
        let mut more = false;
        let mut take = |line: &Line| {
            all += 1;
            if is_behind(&line) {
                match page.len() < limit {
                    true => page.push_back((line.number, line.summary())),
                    false => more = true,
                }
            }
        };
        match newest {
            false => self.lines.iter().filter(fits).for_each(&mut take),
            true => self.lines.iter().rev().filter(fits).for_each(&mut take),
        }
        let last = page.back().map(|(number, _)| *number).filter(|_| more);
        (page.into_iter().map(|(_, it)| it).collect(), all, last)
    }

    /// The letters that fit by cause, most frequent first, with the times of their dead-lettering in bars.
    pub(super) fn groups(&self, filter: &Filter, limit: usize) -> Groups {
        let chosen: Vec<_> = self
            .lines
            .iter()
            .filter(|it| filter.selects(&it.facts()))
            .collect();
        let times = || chosen.iter().filter_map(|line| line.failed_at);
        let (from, until) = (times().min(), times().max());
        let bar = |at: SystemTime| {
            let span = until?.duration_since(from?).ok()?.as_secs_f64();
            let part = at.duration_since(from?).ok()?.as_secs_f64() / span.max(f64::MIN_POSITIVE);
            Some(((part * BARS as f64) as usize).min(BARS - 1))
        };
        // Anybody who may publish to the queue can make each letter a cause of its own, so only the causes
        // that are returned are made whole.
        let mut counts: HashMap<_, u64> = HashMap::new();
        for line in &chosen {
            *counts.entry(line.cause()).or_default() += 1;
        }
        let (total, causes) = (chosen.len(), counts.len());
        let mut most: Vec<_> = counts.into_iter().collect();
        most.sort_by(|(a, many), (b, few)| few.cmp(many).then_with(|| a.cmp(b)));
        most.truncate(limit);
        let places = most.iter().enumerate();
        let places: HashMap<_, _> = places.map(|(place, (cause, _))| (*cause, place)).collect();
        let mut groups: Vec<Option<Group>> = most.iter().map(|_| None).collect();
        for line in &chosen {
            let Some(place) = places.get(&line.cause()) else {
                continue;
            };
            let group = groups[*place].get_or_insert_with(|| first_of(line));
            group.count += 1;
            if let Some(at) = line.failed_at {
                group.note(at);
                if let Some(bar) = bar(at) {
                    group.bars[bar] += 1;
                }
            }
        }
        let mut groups: Vec<_> = groups.into_iter().flatten().collect();
        for group in &mut groups {
            group.share = group.count as f64 / total.max(1) as f64;
        }
        Groups {
            letters: total as u64,
            causes,
            from: from.map(rfc3339),
            until: until.map(rfc3339),
            groups,
        }
    }
}

fn first_of(line: &Line) -> Group {
    Group {
        group: line.common.group.clone(),
        reason: line.common.reason.clone(),
        kind: line.common.kind.clone(),
        error: line.error.to_string(),
        count: 0,
        share: 0.0,
        first: None,
        last: None,
        sample: line.id.to_string(),
        source_queue: line.common.source_queue.clone(),
        bars: vec![0; BARS],
    }
}

#[cfg(test)]
mod tests;
