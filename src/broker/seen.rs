//! The properties of a message whose handler sees another body than its publisher wrote.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use super::headers::{HeaderValue, Properties, short};

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

/// As [`rebuilt`](super::headers::rebuilt), for a body with this content type and this encoding.
pub(super) fn rebuilt_for(
    body: (Option<ShortString>, Option<ShortString>),
    properties: &BasicProperties,
    user_id: Option<ShortString>,
    expiration: Option<ShortString>,
    priority: Option<u8>,
    bare: bool,
) -> BasicProperties {
    let mut rebuilt = BasicProperties::default();
    macro_rules! set {
        ($($value:expr => $set:ident),* $(,)?) => {
            $(if let Some(value) = $value { rebuilt = rebuilt.$set(value); })*
        };
    }
    set!(
        body.0 => with_content_type,
        body.1 => with_content_encoding,
        *properties.delivery_mode() => with_delivery_mode,
        priority => with_priority,
        properties.correlation_id().clone() => with_correlation_id,
        properties.reply_to().clone().filter(|_| !bare) => with_reply_to,
        expiration => with_expiration,
        properties.message_id().clone() => with_message_id,
        *properties.timestamp() => with_timestamp,
        properties.kind().clone() => with_type,
        user_id => with_user_id,
        properties.app_id().clone() => with_app_id,
        properties.cluster_id().clone().filter(|_| !bare) => with_cluster_id,
    );
    rebuilt
}
