//! The properties of a message whose handler sees another body than its publisher wrote.

use lapin::types::{AMQPValue, FieldTable};

use super::headers::{HeaderValue, Properties, rebuilt_for, short};

impl Properties {
    /// The same properties for another body: with this content type and this encoding.
    pub(crate) fn of_body(
        &self,
        content_type: Option<&str>,
        content_encoding: Option<&str>,
    ) -> Self {
        let its = &self.0;
        let (user, expiration) = (its.user_id().clone(), its.expiration().clone());
        let body = (content_type.map(short), content_encoding.map(short));
        let mut properties = rebuilt_for(body, its, user, expiration, *its.priority(), false);
        if let Some(headers) = its.headers() {
            properties = properties.with_headers(headers.clone());
        }
        Self(properties)
    }

    /// The same properties without some headers, and with these.
    pub(crate) fn with_texts<'a>(
        self,
        without: impl Fn(&str) -> bool,
        with: impl Iterator<Item = (String, &'a str)>,
    ) -> Self {
        let mut headers = FieldTable::default();
        for (name, value) in self.0.headers().iter().flat_map(FieldTable::inner) {
            if !without(name.as_str()) {
                headers.insert(name.clone(), value.clone());
            }
        }
        for (name, value) in with {
            headers.insert(short(&name), AMQPValue::LongString(value.into()));
        }
        Self(self.0.with_headers(headers))
    }
}

impl HeaderValue<'_> {
    /// The value, if it is a time: seconds since 1970.
    pub(crate) fn as_timestamp(self) -> Option<u64> {
        match self.0 {
            AMQPValue::Timestamp(seconds) => Some(*seconds),
            _ => None,
        }
    }
}
