//! Which letters a command means, as options.

use std::time::SystemTime;

use clap::{Args, builder::NonEmptyStringValueParser as NonEmpty};
use lapwing::letters::{Filter, Match};

/// Selects letters. A letter is selected if it fits each option that is given.
#[derive(Args)]
#[command(next_help_heading = "Which letters")]
pub(super) struct Select {
    /// Letters of this group of `dead groups`; its beginning is enough; can be repeated
    #[arg(long, short, value_name = "GROUP", value_parser = NonEmpty::new())]
    group: Vec<String>,
    /// Letters with this reason: max-attempts, rejected, broker:expired, …; can be repeated
    #[arg(long, short, value_name = "REASON", value_parser = NonEmpty::new())]
    reason: Vec<String>,
    /// Letters with this `type` property; can be repeated
    #[arg(long = "type", short = 't', value_name = "TYPE", value_parser = NonEmpty::new())]
    message_type: Vec<String>,
    /// Letters that were dead-lettered in this time or since this time: 10m, 2h,
    /// 2026-11-27T09:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<SystemTime>,
    /// Letters that were dead-lettered longer ago: 30d, or before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    older_than: Option<SystemTime>,
    /// Letters whose id, type, error (its first 200 bytes), group or source queue contains this text, in
    /// upper or lower case
    #[arg(long, value_name = "TEXT", value_parser = NonEmpty::new())]
    text: Option<String>,
    /// Letters with this header, or this value at a place of a JSON body (RFC 6901); can be repeated
    #[arg(long = "match", short, value_name = "HEADER=VALUE|/POINTER=VALUE")]
    matches: Vec<Match>,
}

/// A time, or a duration before now.
fn time(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    let ago = humantime::parse_duration(text)
        .map_err(|_| "expected a duration like 10m, or a time like 2026-11-27T09:00:00Z")?;
    let time = SystemTime::now().checked_sub(ago);
    time.ok_or_else(|| "the duration is too long".to_owned())
}

impl Select {
    /// The filter for these ids and options.
    pub(super) fn filter(&self, ids: &[String]) -> Filter {
        Filter {
            ids: ids.to_vec(),
            groups: self.group.clone(),
            reasons: self.reason.clone(),
            types: self.message_type.clone(),
            since: self.since,
            before: self.older_than,
            text: self.text.clone(),
            matches: self.matches.clone(),
            ..Filter::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(clap::Parser)]
    struct Probe {
        #[command(flatten)]
        _select: Select,
    }

    /// A script whose variable is empty must not select more than it means.
    #[test]
    fn an_empty_text_selects_nothing() {
        use clap::Parser;
        for option in ["--group", "--reason", "--type", "--text", "--match"] {
            let parsed = Probe::try_parse_from(["probe", option, ""]);
            assert!(parsed.is_err(), "{option}");
        }
        assert!(Probe::try_parse_from(["probe", "--group", "9f"]).is_ok());
    }

    #[test]
    fn a_time_is_a_date_or_a_duration_ago() {
        let day = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_234_000);
        assert_eq!(time("2025-11-27T09:00:00Z"), Ok(day));
        let ago = time("10m").unwrap().elapsed().unwrap();
        assert!(ago >= Duration::from_secs(600) && ago < Duration::from_secs(660));
        assert!(time("yesterday").is_err());
    }
}
