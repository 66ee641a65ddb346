//! Reads a text from a document in which other things may be wrong.

use toml::de::DeTable;

/// The text of a key in a section. Ignores mistakes elsewhere in the document, syntax errors too.
pub(crate) fn text_in(document: &str, section: &str, key: &str) -> Option<String> {
    let (table, _) = DeTable::parse_recoverable(document);
    let section = table.get_ref().get(section)?.get_ref().as_table()?;
    let text = section.get(key)?.get_ref().as_str()?;
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_in_a_document_that_somebody_is_editing() {
        for document in [
            "[admin]\nlisten = 'here'",
            "admin.listen = 'here'",
            "admin = { listen = 'here' }",
            "[broker\nurl =\n[admin]\nlisten = 'here'\n[consumers.orders]\nqueue = 'ord",
            "[admin]\nlisten = 'here'\ntoken = \"half",
            "unknown = 1\n[admin]\nlisten = 'here'\nunknown = = 2",
        ] {
            let found = text_in(document, "admin", "listen");
            assert_eq!(found.as_deref(), Some("here"), "{document}");
        }
        for document in ["", "[admin]\nlisten = 9090", "[admin", "admin = 'listen'"] {
            assert_eq!(text_in(document, "admin", "listen"), None, "{document}");
        }
    }
}
