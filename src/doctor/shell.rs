//! Commands that can be pasted into a shell.

/// The text as one word of a shell.
pub(super) fn word(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:@%+".contains(letter);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => quoted(text),
    }
}

/// The text in single quotes.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The regular expression for exactly these names, in quotes. `.*` at the end of a name stands for
/// anything.
pub(super) fn pattern<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<_> = names.into_iter().map(escaped).collect();
    match all.as_slice() {
        [] => "'^$'".to_owned(),
        all => quoted(&format!("^({})$", all.join("|"))),
    }
}

fn escaped(name: &str) -> String {
    let (name, rest) = match name.strip_suffix(".*") {
        Some(name) => (name, "\\..*"),
        None => (name, ""),
    };
    let mut text = String::new();
    for letter in name.chars() {
        if !letter.is_alphanumeric() && !"-_".contains(letter) {
            text.push('\\');
        }
        text.push(letter);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_reach_the_command_as_they_are() {
        assert_eq!(word("shop-1"), "shop-1");
        assert_eq!(word("/"), "/");
        assert_eq!(word("it's"), r"'it'\''s'");
        assert_eq!(word("a b"), "'a b'");
        assert_eq!(word(""), "''");
        assert_eq!(pattern([]), "'^$'");
        assert_eq!(pattern(["a.b", "c.*"]), r"'^(a\.b|c\..*)$'");
        assert_eq!(pattern(["it's"]), r"'^(it\'\''s)$'");
    }
}
