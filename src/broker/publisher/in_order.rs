//! Publishing one message behind the other, for a tool that moves messages and keeps their order.

use deadpool::managed::Object;

use super::{PRECONDITION, Publication, PublishError, Publisher, properties_of, result_of};

impl Publisher {
    /// Publishes messages on one channel, in this order, and waits for all confirms.
    ///
    /// An error concerns all of them, and the broker may have some: lapin can attach a return to the
    /// confirm of another message of the channel.
    pub(crate) async fn publish_in_order(
        &self,
        messages: &[Publication<'_>],
    ) -> Result<(), PublishError> {
        let channel = self.channel().await?;
        let connection = &channel.connection;
        let (blocked, named) = (connection.blocked(), connection.trust().user());
        let properties = messages.iter().map(|it| properties_of(it, connection));
        let properties = properties.collect::<Result<Vec<_>, _>>()?;
        let busy = channel.busy();
        let publishing = async {
            let mut confirms = Vec::with_capacity(messages.len());
            for (message, properties) in messages.iter().zip(properties) {
                confirms.push(self.write(&channel, message, properties, &blocked).await?);
            }
            let mut answers = Vec::with_capacity(messages.len());
            for confirm in confirms {
                answers.push(self.confirm(confirm, &blocked).await?);
            }
            answers.into_iter().try_for_each(result_of)
        };
        let outcome = publishing.await;
        let Err(error) = outcome else {
            busy.done();
            return Ok(());
        };
        let connection = std::sync::Arc::clone(connection);
        // A late confirm must not be taken for the confirm of a later publish.
        drop(Object::take(channel));
        // The broker knows the connection under another name than the copies have.
        if let PublishError::Refused { code, text } = &error
            && *code == PRECONDITION
            && connection.trust().learn(text, named.as_deref())
        {
            return Box::pin(self.publish_in_order(messages)).await;
        }
        Err(error)
    }
}
