//! Properties that a message lacks.

use lapin::types::ShortString;

use super::headers::{Properties, short};

impl Properties {
    /// Fills in properties that the message lacks, and the content type also where it says nothing
    /// (`application/octet-stream`). A text that is too long for a property is left out.
    pub(crate) fn fill(
        &mut self,
        message_type: Option<&str>,
        message_id: Option<&str>,
        content_type: Option<&str>,
    ) {
        let fits = |text: Option<&str>| text.filter(|text| text.len() <= 255).map(short);
        let mut inner = std::mem::take(&mut self.0);
        if let (None, Some(kind)) = (inner.kind(), fits(message_type)) {
            inner = inner.with_type(kind);
        }
        if let (None, Some(id)) = (inner.message_id(), fits(message_id)) {
            inner = inner.with_message_id(id);
        }
        let says_nothing = |known: &ShortString| known.as_str() == "application/octet-stream";
        if let Some(content_type) = fits(content_type)
            && inner.content_type().as_ref().is_none_or(says_nothing)
        {
            inner = inner.with_content_type(content_type);
        }
        self.0 = inner;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_message_lacks_is_filled_in() {
        let filled = |mut properties: Properties| {
            properties.fill(Some("kind"), Some("id"), Some("application/json"));
            let told = [
                properties.message_type(),
                properties.message_id(),
                properties.content_type(),
            ];
            told.map(|text| text.unwrap_or_default().to_owned())
        };
        let all = ["kind", "id", "application/json"].map(str::to_owned);
        assert_eq!(filled(Properties::default()), all);
        let own = Properties::new("mine", Some("text/plain"), Some("own"), &[]);
        assert_eq!(filled(own), ["own", "mine", "text/plain"]);
        let unknown = Properties::new("mine", Some("application/octet-stream"), None, &[]);
        assert_eq!(filled(unknown), ["kind", "mine", "application/json"]);
    }
}
