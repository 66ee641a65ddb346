//! A statement with named parameters, as PostgreSQL takes it: with numbers for the names.

/// A statement for PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numbered {
    /// The text with `$1` for the first name.
    pub(super) text: String,
    /// The names in the order of their numbers.
    pub(super) names: Vec<String>,
}

/// Puts numbers in the place of the names: `:id` becomes `$1`. A name in a string, a quoted identifier
/// or a comment is no parameter.
///
/// # Errors
/// A text for people.
pub(super) fn numbered(
    statement: &str,
    is_name: impl Fn(&str) -> bool,
) -> Result<Numbered, String> {
    let mut made = Numbered {
        text: String::with_capacity(statement.len()),
        names: Vec::new(),
    };
    let mut rest = statement;
    // The last letter before `rest`.
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let skipped = skipped(rest, before)?;
        let taken = match (skipped, first) {
            (0, ':') => parameter(rest, &is_name, &mut made)?,
            (0, '$')
                if !is_part(before) && rest[1..].starts_with(|it: char| it.is_ascii_digit()) =>
            {
                return Err(
                    "has a parameter by number: write `:name`, with a key of `parameters`"
                        .to_owned(),
                );
            }
            (0, letter) => {
                made.text.push(letter);
                letter.len_utf8()
            }
            (length, _) => {
                made.text.push_str(&rest[..length]);
                length
            }
        };
        before = rest[..taken].chars().next_back().unwrap_or(' ');
        rest = &rest[taken..];
    }
    Ok(made)
}

/// Takes `:name`, `::` or `:` from the beginning of the text: the number of its bytes.
fn parameter(
    rest: &str,
    is_name: impl Fn(&str) -> bool,
    made: &mut Numbered,
) -> Result<usize, String> {
    let after = &rest[1..];
    if after.starts_with([':', '=']) {
        made.text.push_str(&rest[..2]);
        return Ok(2);
    }
    let length = after.find(|letter| !is_part(letter)).unwrap_or(after.len());
    let name = &after[..length];
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        made.text.push(':');
        return Ok(1);
    }
    if !is_name(name) {
        return Err(format!("has `:{name}`, which is no key of `parameters`"));
    }
    let known = made.names.iter().position(|known| known == name);
    let number = known.unwrap_or_else(|| {
        made.names.push(name.to_owned());
        made.names.len() - 1
    });
    made.text.push_str(&format!("${}", number + 1));
    Ok(1 + length)
}

/// The length of the string, quoted identifier or comment at the beginning of the text; 0 if there is
/// none.
fn skipped(rest: &str, before: char) -> Result<usize, String> {
    let end = |found: Option<usize>, what: &str| {
        found.ok_or_else(|| format!("has {what} without an end"))
    };
    if rest.starts_with('\'') {
        // `E'…'` has escapes.
        let has_escapes = matches!(before, 'e' | 'E');
        return end(quoted(rest, '\'', has_escapes), "a string");
    }
    if rest.starts_with('"') {
        return end(quoted(rest, '"', false), "a quoted identifier");
    }
    if rest.starts_with("--") {
        return Ok(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return end(comment(rest), "a comment");
    }
    if rest.starts_with('$') && !is_part(before) {
        let tag = rest[1..].find(|letter| !is_part(letter)).map(|at| at + 1);
        let Some(tag) = tag.filter(|at| rest[*at..].starts_with('$')) else {
            return Ok(0);
        };
        if rest[1..].starts_with(|first: char| first.is_ascii_digit()) {
            return Ok(0);
        }
        let mark = &rest[..=tag];
        let body = &rest[mark.len()..];
        let found = body.find(mark).map(|at| at + 2 * mark.len());
        return end(found, "a string in dollar quotes");
    }
    Ok(0)
}

/// The length of a text between these quotes. A doubled quote does not end it.
fn quoted(rest: &str, quote: char, has_escapes: bool) -> Option<usize> {
    let mut letters = rest.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if letter == '\\' && has_escapes {
            letters.next();
        } else if letter == quote && letters.next_if(|(_, next)| *next == quote).is_none() {
            return Some(at + quote.len_utf8());
        }
    }
    None
}

/// The length of a comment, which can hold others.
fn comment(rest: &str) -> Option<usize> {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += 1;
        }
    }
    None
}

/// Whether the letter can stand in a name.
pub(super) fn is_part(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(statement: &str) -> Result<Numbered, String> {
        numbered(statement, |name| ["id", "sum", "größe"].contains(&name))
    }

    #[test]
    fn names_become_numbers_and_a_name_keeps_its_number() {
        let statement = "INSERT INTO orders VALUES (:id, :sum::numeric, :id, :größe)";
        let made = made(statement).unwrap();
        assert_eq!(
            made.text,
            "INSERT INTO orders VALUES ($1, $2::numeric, $1, $3)"
        );
        assert_eq!(made.names, ["id", "sum", "größe"]);
    }

    #[test]
    fn what_is_no_parameter_stays() {
        for statement in [
            "SELECT ':id', E'it\\':id', 'it'':id', \":id\", \"a\"\":id\"",
            "SELECT 1 -- :id",
            "SELECT 1 -- :id\n + 2",
            "SELECT /* :id /* :id */ :id */ 1",
            "SELECT $$ :id $$, $a$ $$ :id $$ $a$, a$b$c",
            "SELECT a[1:2], a[1 : 2], '1'::int, f(x := 1), :1",
        ] {
            let made = made(statement).unwrap();
            assert_eq!((made.text.as_str(), made.names.len()), (statement, 0));
        }
        // Only `E` before a string gives it escapes.
        assert_eq!(made("SELECT 'a\\', :id").unwrap().text, "SELECT 'a\\', $1");
        assert_eq!(made("SELECT a[1:2], :id").unwrap().names, ["id"]);
    }

    #[test]
    fn a_statement_that_cannot_be_read_is_refused() {
        for (statement, error) in [
            ("SELECT :other", "has `:other`, which is no key"),
            ("SELECT $1", "has a parameter by number"),
            ("SELECT ':id", "has a string without an end"),
            ("SELECT \":id", "has a quoted identifier without an end"),
            ("SELECT /* /* */ :id", "has a comment without an end"),
            (
                "SELECT $a$ :id $$",
                "has a string in dollar quotes without an end",
            ),
        ] {
            let found = made(statement).unwrap_err();
            assert!(found.starts_with(error), "{statement}: {found}");
        }
    }
}
